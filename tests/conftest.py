"""What all tests share: a machine left usable, no network, and the folder of reference data where it exists."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Before the libraries are imported: they read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_SILENT"] = "true"
os.environ.setdefault("LOKY_MAX_CPU_COUNT", "2")  # where there is no lscpu to count with, joblib warns

import pytest
import torch

from config.load import build_config
from config.schema import Config

MakeConfig = Callable[..., Config]

# Our commands go on ignoring a signal that was ignored at their start: SIGINT in a script's background, SIGHUP under nohup.
# Tests that send one start from the defaults, wherever they are run.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Tests run in two processes (pyproject.toml), which would take each other's cores.
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else min(2, torch.get_num_threads()))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data beside the repository; tests that need it are skipped where it is absent."""
    folder = Path(__file__).parents[1].parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"reference data not found at {folder}")
    return folder


@pytest.fixture(scope="session")
def make_config() -> MakeConfig:
    """A function: values of sections, given as keyword arguments, over those of a tiny network. No file is behind it."""
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
    """accelerate keeps one state for the process, and a command expects to be the first."""
    yield
    if state := sys.modules.get("accelerate.state"):
        state.AcceleratorState._reset_state(reset_partial_state=True)
        state.GradientState._reset_state()
