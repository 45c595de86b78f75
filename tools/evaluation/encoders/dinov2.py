"""DINOv2 vision transformers through transformers, from a local folder or a hub id, and their input preset."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from config.errors import UserError
from dataset.storage import hash_file, hash_json
from models.weight_files import CONFIG_FILE, WeightFiles, fetch_model, find_weight_files
from tools.evaluation.inference import to_rgb

_STEM = "model"
WEIGHTS_FILE = f"{_STEM}.safetensors"
_CLASSES = {"dinov2": "Dinov2Model", "dinov2_with_registers": "Dinov2WithRegistersModel"}  # by model_type
KEY = "evaluation_params.dinov2_path"
SIZE_PX = 224
# ImageNet statistics, which DINOv2 was trained with, for inputs in [0, 1].
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_LONGEST_REASON = 300  # characters of another library's message


class ClassToken(nn.Module):
    """Images (B, 3, 224, 224) -> the class token after the last layer norm (B, D), the feature that Stein et al. use.

    Source: Oquab et al. 2023, arXiv 2304.07193; Stein et al. 2023, arXiv 2306.04675.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    @property
    def dimension(self) -> int:
        return int(self.network.config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(pixel_values=x).last_hidden_state[:, 0]


def load_dinov2(source: Path | str | None) -> tuple[ClassToken, str]:
    """Load a DINOv2 model from a folder that save_pretrained wrote, or a hub id: (network, hash of config and weights).

    A hub id is looked up in the hub's cache, and fetched where the hub may be reached. Weights are safetensors only.

    Raises:
        UserError: nothing there, another architecture, or weights that do not fit the config.
    """
    if source is None:
        raise UserError(f"encoder dinov2: expected a folder with {CONFIG_FILE} and {WEIGHTS_FILE}, or a hub id such as "
                        f"facebook/dinov2-small, found none in the config; name it in {KEY}")
    if Path(source).is_file():
        raise UserError(f"{KEY}: {source}: expected a folder in transformers' layout, found a file, such as torch.hub's "
                        "dinov2_vitb14_pretrain.pth; fetch the same network as a folder and name that: hf download "
                        f"facebook/dinov2-base {CONFIG_FILE} {WEIGHTS_FILE} --local-dir FOLDER (also dinov2-small, "
                        "dinov2-large, dinov2-giant, dinov2-with-registers-base)")
    folder = Path(source) if Path(source).is_dir() else _download(str(source))
    weights = find_weights(folder, place=f"{KEY}: {folder}")
    import transformers  # its start-up costs seconds that other encoders need not pay

    config, _ = transformers.PretrainedConfig.get_config_dict(folder, local_files_only=True)
    if config.get("model_type") not in _CLASSES:
        raise UserError(f"{KEY}: {folder / CONFIG_FILE}: expected model_type {' or '.join(_CLASSES)}, found "
                        f"{config.get('model_type')!r}")
    try:
        network, loading = getattr(transformers, _CLASSES[config["model_type"]]).from_pretrained(
            folder, variant=weights.variant, local_files_only=True, use_safetensors=True, dtype=torch.float32,
            output_loading_info=True)
    except Exception as error:  # the library raises nearly anything on a file that is not what it expects
        reason = " ".join(str(error).split())[:_LONGEST_REASON]
        raise UserError(f"{KEY}: {folder}: not the weights that its {CONFIG_FILE} asks for ({reason})") from error
    amiss = [*loading["missing_keys"], *loading["unexpected_keys"], *loading["mismatched_keys"]]
    if amiss:
        raise UserError(f"{KEY}: {weights.head}: expected the weights of a DINOv2 backbone, found {len(amiss)} "
                        f"tensors missing, unknown or of another shape (such as {amiss[0]})")
    hashes = [hash_file(file) for file in weights.tensors]
    digest = hash_json({"config": config, "weights": hashes[0] if len(hashes) == 1 else hashes})
    return ClassToken(network.eval().requires_grad_(False)), digest


def find_weights(folder: Path, *, place: str) -> WeightFiles:
    """The safetensors of a DINOv2 folder: one file, shards, or a variant; `place` begins a message.

    Raises:
        UserError: no config, no weights, or shards that are not all there.
    """
    weights = find_weight_files(folder, _STEM)
    if weights is None or not (folder / CONFIG_FILE).is_file():
        lacking = WEIGHTS_FILE if (folder / CONFIG_FILE).is_file() else CONFIG_FILE
        raise UserError(f"{place} has no {lacking}; expected a DINOv2 folder that save_pretrained wrote with safetensors")
    return weights


def preprocess(images: np.ndarray, *, device: torch.device | str = "cpu") -> Tensor:
    """uint8 (B, H, W, 1 or 3) -> float32 (B, 3, 224, 224): PIL's antialiased bicubic to 224 x 224 px, ImageNet statistics.

    Resized images are rounded to 8 bits, as transformers' processor does. The whole image is kept: that processor cuts a
    sixteenth off every border, where an embryo may lie.
    """
    resized = [np.asarray(Image.fromarray(image).resize((SIZE_PX, SIZE_PX), Image.Resampling.BICUBIC))
               for image in to_rgb(images)]
    x = torch.from_numpy(np.stack(resized)).to(device).permute(0, 3, 1, 2).to(torch.float32) / 255.0
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (_MEAN, _STD))
    return (x - mean) / std


def _download(hub_id: str) -> Path:
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return fetch_model(hub_id, _STEM)
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise UserError(f"{KEY}: {hub_id!r} is neither a local folder nor obtainable from the hub ({type(error).__name__}); "
                        "give the path of a DINOv2 folder, or choose another encoder") from error
