"""A pretrained UNet of diffusers, conditioned on classes by learned context tokens in place of a text encoder's.

The network keeps its own schedule and latent scale; what is trained is all of it, or LoRA adapters and the tokens.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from config.errors import UserError
from models.unet import ConditionShape
from models.weight_files import CONFIG_FILE, describe_missing, fetch_model, find_weight_files

_STEM, _CLASS, _KEY = "diffusion_pytorch_model", "UNet2DConditionModel", "unet_params.pretrained"
_SUBFOLDER = "unet"  # of a whole pipeline
_SCHEDULER = Path("scheduler", "scheduler_config.json")
_TOKEN_STD = 0.02  # where no text encoder gives the tokens; about that of CLIP's token embeddings
_SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}  # diffusers' names
_PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v", "sample": "x0"}


@dataclass(frozen=True)
class LoraShape:
    """Low-rank adapters of the linear layers whose names end in one of `targets`.

    Source: Hu et al. 2021, arXiv 2106.09685, as peft builds it; the update is scaled by alpha / rank.
    """

    rank: int
    alpha: float
    targets: tuple[str, ...]


@dataclass(frozen=True)
class PretrainedBase:
    """A folder that holds a UNet, and what is written beside it."""

    folder: Path
    config: dict[str, Any]

    @classmethod
    def open(cls, pretrained: str) -> "PretrainedBase":
        """The UNet in a local folder, or in the `unet` of a pipeline; a hub id comes from the cache or by download.

        Raises:
            UserError: neither a folder nor obtainable, no UNet of the supported kind, or no safetensors.
        """
        folder = Path(pretrained)
        hub_id = None if folder.is_dir() else pretrained
        if hub_id is not None:
            folder = _download(hub_id)
        if not (folder / CONFIG_FILE).is_file() and (folder / _SUBFOLDER / CONFIG_FILE).is_file():
            folder = folder / _SUBFOLDER
        path = folder / CONFIG_FILE
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{_KEY}: {path}: expected the config.json of a {_CLASS}; name its folder, or that of a "
                            f"pipeline with a {_SUBFOLDER} folder") from error
        found = config.get("_class_name") if isinstance(config, dict) else None
        if found != _CLASS:
            raise UserError(f"{_KEY}: {path}: expected a {_CLASS}, found {found!r}; choose a model of Stable Diffusion 1 "
                            "or 2")
        _refuse_further_inputs(path, config)
        if find_weight_files(folder, _STEM) is None:
            missing = describe_missing(folder, _STEM, loader=f"diffusers.{_CLASS}", hub_id=hub_id)
            raise UserError(f"{_KEY}: {missing}")
        return cls(folder, config)

    @property
    def sha256(self) -> str:
        """Hash of the config's shape and the weights."""
        kept = {key: value for key, value in self.config.items() if not key.startswith("_")}
        digest = hashlib.sha256(json.dumps(kept, sort_keys=True).encode())
        weights = find_weight_files(self.folder, _STEM)
        assert weights is not None  # checked when it was opened
        for path in weights.tensors:
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
        return digest.hexdigest()

    def read_process(self) -> dict[str, Any] | None:
        """The keys of diffusion_params that the model was trained with, from the scheduler beside it; None without one.

        Raises:
            UserError: a scheduler that cannot be read or has no counterpart here.
        """
        path = self.folder.parent / _SCHEDULER
        if self.folder.name != _SUBFOLDER or not path.is_file():
            return None
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            schedule = _SCHEDULES[found.get("beta_schedule", "linear")]
            return {"num_timesteps": found.get("num_train_timesteps", 1000), "schedule": schedule,
                    "beta_start": found.get("beta_start", 0.0001), "beta_end": found.get("beta_end", 0.02),
                    "prediction_type": _PREDICTIONS[found.get("prediction_type", "epsilon")]}
        except (ValueError, KeyError, AttributeError) as error:
            raise UserError(f"{_KEY}: {path}: not a scheduler of these kinds: {', '.join(_SCHEDULES)} predicting "
                            f"{', '.join(_PREDICTIONS)}; choose another model") from error

    def build(self, *, with_weights: bool = True) -> nn.Module:
        """The network in float32; without weights, for counting, as torch initialises it.

        Raises:
            UserError: weights that do not fit the config.
        """
        from diffusers import UNet2DConditionModel

        if not with_weights:
            return UNet2DConditionModel.from_config(self.config)
        weights = find_weight_files(self.folder, _STEM)
        assert weights is not None
        try:
            network, report = UNet2DConditionModel.from_pretrained(
                self.folder, variant=weights.variant, use_safetensors=True, local_files_only=True, low_cpu_mem_usage=False,
                torch_dtype=torch.float32, output_loading_info=True)
        except (SafetensorError, OSError, RuntimeError, ValueError, KeyError) as error:
            raise UserError(f"{_KEY}: {weights.head}: not the weights that its config.json asks for "
                            f"({' '.join(str(error).split())[:300]})") from error
        if report["missing_keys"]:
            raise UserError(f"{_KEY}: {weights.head}: lacks {sorted(report['missing_keys'])[0]} and "
                            f"{len(report['missing_keys']) - 1} more that its config.json asks for")
        for tensor in (*network.parameters(), *network.buffers()):
            tensor.data = tensor.data.clone()  # the library leaves them mapped onto the file, which may change
        return network


class PretrainedUNet(nn.Module):
    """A UNet2DConditionModel whose context is `tokens_per_class` learned tokens of the class, and as many of each condition.

    The null label and the nulls of conditions have tokens of their own. With `lora` only the adapters and the tokens are
    trained, else all weights.
    """

    def __init__(
        self, unet: nn.Module, *, num_classes: int, conditions: Sequence[ConditionShape], tokens_per_class: int,
        lora: LoraShape | None = None, gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.null_label, self._num_tokens = num_classes, tokens_per_class
        width = unet.config.cross_attention_dim
        self.class_tokens = nn.Embedding(num_classes + 1, tokens_per_class * width)
        self.condition_tokens = nn.ModuleList(
            nn.Embedding(shape.num_levels + shape.has_null, tokens_per_class * width) for shape in conditions)
        for table in (self.class_tokens, *self.condition_tokens):
            nn.init.normal_(table.weight, std=_TOKEN_STD)
        if lora is not None:
            from peft import LoraConfig, inject_adapter_in_model

            unet.requires_grad_(False)
            adapter = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=list(lora.targets))
            try:
                unet = inject_adapter_in_model(adapter, unet)
            except ValueError as error:
                raise UserError(f"unet_params.lora_targets: expected endings of names of linear layers, such as to_q, to_k, "
                                f"to_v and to_out.0, found {list(lora.targets)} ({error})") from error
        if gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        self.unet = unet

    @property
    def token_width(self) -> int:
        return self.class_tokens.embedding_dim // self._num_tokens

    @torch.no_grad()
    def set_tokens(self, vectors: torch.Tensor) -> None:
        """Start every token of class c, and of the null label after the last class, from row c of (num_classes + 1, D)."""
        self.class_tokens.weight.copy_(vectors.repeat(1, self._num_tokens))

    def forward(
        self, x: torch.Tensor, timesteps: torch.Tensor, labels: torch.Tensor, conditions: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Predict the training target for noisy latents, with the arguments of `models.unet.UNet.forward`."""
        levels = () if conditions is None else conditions.unbind(dim=1)
        rows = [self.class_tokens(labels)]
        rows += [table(level) for table, level in zip(self.condition_tokens, levels, strict=True)]
        context = torch.cat([row.unflatten(1, (self._num_tokens, -1)) for row in rows], dim=1)  # (B, tokens, D)
        return self.unet(x, timesteps, encoder_hidden_states=context).sample


def read_text_vectors(pipeline: str, prompts: Sequence[str]) -> torch.Tensor:
    """The mean over a prompt's tokens of CLIP's last hidden states, float32 (N, D).

    `pipeline` is a folder with `text_encoder` and `tokenizer`, as diffusers saves a Stable Diffusion model.

    Raises:
        UserError: no such folders, or files that transformers cannot read.
    """
    from transformers import CLIPTextModel, CLIPTokenizer

    try:
        tokenizer = CLIPTokenizer.from_pretrained(Path(pipeline, "tokenizer"), local_files_only=True)
        encoder = CLIPTextModel.from_pretrained(Path(pipeline, "text_encoder"), local_files_only=True, use_safetensors=True)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"unet_params.text_encoder: expected a folder with text_encoder and tokenizer of CLIP, found "
                        f"{pipeline} ({' '.join(str(error).split())[:200]})") from error
    tokens = tokenizer(list(prompts), padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        states = encoder(**tokens).last_hidden_state  # (N, L, D)
    mask = tokens["attention_mask"][..., None].to(states)
    return (states * mask).sum(dim=1) / mask.sum(dim=1)


def _refuse_further_inputs(path: Path, config: dict[str, Any]) -> None:
    """Refuse networks that ask for more than a noisy image, a time and context tokens, such as those of SDXL."""
    further = [key for key in ("addition_embed_type", "class_embed_type", "encoder_hid_dim", "encoder_hid_dim_type")
               if config.get(key) is not None]
    if further:
        raise UserError(f"{_KEY}: {path}: expected a network of Stable Diffusion 1 or 2, found one with further inputs "
                        f"({', '.join(further)}), such as SDXL's; choose another")
    if not isinstance(config.get("cross_attention_dim"), int):
        raise UserError(f"{_KEY}: {path}: expected one width of the context (cross_attention_dim), found "
                        f"{config.get('cross_attention_dim')!r}; choose another")


def _download(hub_id: str) -> Path:
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        folder = fetch_model(hub_id, _STEM, subfolder=_SUBFOLDER)
        if not (folder / _SUBFOLDER / CONFIG_FILE).is_file():
            folder = fetch_model(hub_id, _STEM)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise UserError(f"{_KEY}: {hub_id!r} is no local folder and cannot be fetched from the hub "
                        f"({' '.join(str(error).split())[:200]}); give the path of a folder") from error
    return folder
