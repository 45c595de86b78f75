"""A whole project at its smallest: phantoms of 32 px, an autoencoder, a config. Everything below one folder."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate.state import AcceleratorState, GradientState
from diffusers import AutoencoderKL, AutoencoderTiny

from config.load import load_config
from config.schema import Config
from tools.make_phantoms.__main__ import PhantomRequest, write_phantoms

NUM_STEPS = 12
CLASS_NAMES = ("arrested", "blastocyst")


@dataclass(frozen=True)
class Workspace:
    """Where the parts lie, and how commands are told of them."""

    root: Path

    @property
    def config_path(self) -> Path:
        return self.root / "config.yaml"

    @property
    def phantoms(self) -> Path:
        return self.root / "phantoms"

    def arguments(self, *overrides: str) -> list[str]:
        """Command line that names the config and sets keys."""
        return ["--config", str(self.config_path), *(word for text in overrides for word in ("--set", text))]

    def config(self, *overrides: str) -> Config:
        return load_config(self.config_path, overrides)

    def run(self, name: str) -> Path:
        """The folder of a run."""
        return self.root / "runs" / name

    def task(self, name: str) -> str:
        """The override that puts a run there."""
        return f"train_params.task_name={self.run(name)}"


def write_workspace(root: Path) -> Workspace:
    """Draw the phantoms, save an untrained autoencoder and write the config."""
    write_phantoms(root / "phantoms", PhantomRequest(num_images=200, image_size=32, difficulty="clear", seed=3))
    save_autoencoder(root / "vae", seed=0)
    config = {
        "dataset_params": {
            "params": {
                "csv_file": str(root / "phantoms/annotations.csv"), "root_dir": str(root / "phantoms/images"),
                "im_channels": 1, "image_size": 32, "label_column": "blastocyst", "class_names": list(CLASS_NAMES),
                "group_column": "PATIENT_ID", "split_column": "SPLIT",
            },
            "z_channels": 4, "latent_size": 8, "directory_latents": str(root / "latents"),
            "directory_inception_features": str(root / "features"),
        },
        "train_params": {
            "task_name": str(root / "runs/reference"), "seed": 5, "ldm_batch_size": 24, "num_samples": 2,
            "ldm_validate_epochs": 1, "ldm_lr": 0.003, "max_steps": NUM_STEPS, "warmup_steps": 2, "ema_decay": 0.99,
            "checkpoint_interval_steps": 4, "validation_draws": 1,
        },
        "autoencoder_params": {
            "pretrained": str(root / "vae"),
            "training": {"output": str(root / "trained_vae"), "channels": [8, 16, 16], "norm_groups": 8, "max_steps": 60,
                         "batch_size": 8, "lr": 0.005, "adversarial_start": 0.8},
        },
        "unet_params": {"channels": [16, 32], "attention": [False, True], "num_layers": 1, "num_heads": 2,
                        "time_embedding_dim": 32, "context_dim": 16, "norm_groups": 8},
        "sample_params": {"num_steps": 3, "num_images": 36, "batch_size": 12},
        "evaluation_params": {
            "encoders": ["classifier", "inception"], "inception_path": str(root / "no_inception.pth"),
            "classifier_path": str(root / "encoder"), "judge_path": str(root / "judge"), "max_pairs": 60, "repeats": 4,
            "bootstrap_repeats": 20,
        },
        "logging_params": {"wandb_mode": "disabled", "interval_steps": 2, "progress_bar": False},
    }
    (root / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return Workspace(root)


def save_autoencoder(folder: Path, *, seed: int, channels: int = 1, latent_channels: int = 4) -> None:
    """An AutoencoderKL with random weights that divides the side by four."""
    torch.manual_seed(seed)
    AutoencoderKL(
        in_channels=channels, out_channels=channels, down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3, block_out_channels=(8, 8, 8), layers_per_block=1,
        latent_channels=latent_channels, norm_num_groups=4, sample_size=32, mid_block_add_attention=False,
    ).save_pretrained(folder)


def save_tiny_autoencoder(folder: Path, *, seed: int, latent_channels: int = 4) -> None:
    """An AutoencoderTiny for colour with random weights, in half precision, that divides the side by four."""
    torch.manual_seed(seed)
    AutoencoderTiny(
        in_channels=3, out_channels=3, latent_channels=latent_channels, encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8), num_encoder_blocks=(1, 1, 1), num_decoder_blocks=(1, 1, 1),
    ).half().save_pretrained(folder)


def read_rows(run: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def forget_accelerator() -> None:
    """accelerate keeps one state for the process, and a command expects to be the first."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
