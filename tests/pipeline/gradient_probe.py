"""Trains as train_ddpm_cond.py does and saves the first gradient that the optimizer sees: PATH, then its arguments."""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

sys.path.insert(0, str(Path(__file__).parents[2]))

import train_ddpm_cond
from tools.runtime.command import run_command


def keep_first_gradient(path: Path) -> Any:
    """Save it to an .npy file, on the first process; returns the handle of the hook."""
    def keep(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if not path.exists() and os.environ.get("RANK", "0") == "0":
            gradients = [p.grad.flatten() for p in optimizer.param_groups[0]["params"] if p.grad is not None]
            np.save(path, torch.cat(gradients).double().numpy())

    return register_optimizer_step_pre_hook(keep)


if __name__ == "__main__":
    keep_first_gradient(Path(sys.argv[1]))
    run_command(lambda: train_ddpm_cond.main(sys.argv[2:]))
