"""A small config without any file behind it, and accelerate's state put back before each test."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from accelerate.state import AcceleratorState, GradientState

from config.load import build_config
from config.schema import Config

MakeConfig = Callable[..., Config]


@pytest.fixture
def make_config() -> MakeConfig:
    """A function: values of sections, given as keyword arguments, over those of a tiny network."""
    def make(**sections: dict[str, Any]) -> Config:
        raw: dict[str, dict[str, Any]] = {
            "dataset_params": {"params": {"csv_file": "table.csv", "root_dir": "images", "im_channels": 1, "image_size": 32},
                               "z_channels": 4, "latent_size": 8},
            "train_params": {"task_name": "run", "ldm_batch_size": 8, "warmup_steps": 0, "ldm_lr": 0.003},
            "autoencoder_params": {"pretrained": "vae"},
            "unet_params": {"channels": [16, 32], "attention": [False, True], "num_layers": 1, "num_heads": 2,
                            "time_embedding_dim": 32, "context_dim": 16, "norm_groups": 8},
            "logging_params": {"wandb_mode": "disabled"},
        }
        for name, values in sections.items():
            raw.setdefault(name, {}).update(values)
        return build_config(raw, source="test")

    return make


@pytest.fixture(autouse=True)
def _fresh_accelerator() -> Iterator[None]:
    """accelerate keeps one state for the process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
