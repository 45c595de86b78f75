"""Logging: metrics.jsonl, the source of truth, and wandb, which mirrors it and can never stop a run.

Rows of metrics.jsonl hold no clock and no host, so that equal runs write equal bytes. wandb receives the same rows,
timings and synthetic images; it is never given a real image.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from config.load import config_to_dict
from config.schema import Config
from dataset.storage import write_text


class Tracker:
    """The log of one run; only the main process has one that writes."""

    def __init__(self, path: Path, *, step: int) -> None:
        """Open the log, dropping rows after `step`: a killed run may have logged beyond its last checkpoint."""
        self._path = path
        self._wandb_run: Any | None = None
        kept = [line for line in _read_lines(path) if json.loads(line)["step"] <= step]
        write_text(path, "".join(f"{line}\n" for line in kept))
        self._file = path.open("a", encoding="utf-8")

    def start_wandb(self, config: Config, *, name: str) -> None:
        """Mirror the rows to wandb in the configured mode; a failure costs one warning and nothing else."""
        if config.logging_params.wandb_mode == "disabled":
            return
        try:
            import wandb

            # git and console capture are off: they would store paths and, through prints, names of patients' files.
            settings = wandb.Settings(silent=True, disable_git=True, console="off", x_disable_stats=True,
                                      x_disable_machine_info=True)
            self._wandb_run = wandb.init(
                project=config.logging_params.wandb_project, name=name, mode=config.logging_params.wandb_mode,
                dir=str(self._path.parent), config=config_to_dict(config), settings=settings,
            )
        except Exception as error:  # whatever a third party's service does, the run goes on
            _warn_once(error)

    def log(self, row: dict[str, Any], *, timings: dict[str, float] | None = None) -> None:
        """Append one row, which has a "step", and mirror it; `timings` go to wandb only."""
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        step = row["step"]
        self._mirror({**{key: value for key, value in row.items() if key != "step"}, **(timings or {})}, step)

    def log_synthetic_image(self, key: str, pixels: np.ndarray, *, step: int) -> None:
        """Give wandb a picture of synthetic images, uint8 (H, W) or (H, W, 3)."""
        if self._wandb_run is not None:
            try:
                import wandb

                self._mirror({key: wandb.Image(pixels)}, step)
            except Exception as error:  # as above
                _warn_once(error)

    def sync_to_disk(self) -> None:
        """Make the rows so far durable; called before a checkpoint that relies on them."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the log and end the wandb run."""
        self._file.close()
        if self._wandb_run is not None:
            try:
                self._wandb_run.finish(quiet=True)
            except Exception as error:  # as above
                _warn_once(error)

    def _mirror(self, values: dict[str, Any], step: int) -> None:
        if self._wandb_run is None:
            return
        try:
            self._wandb_run.log(values, step=step)
        except Exception as error:  # as above
            self._wandb_run = None
            _warn_once(error)


def _warn_once(error: Exception) -> None:
    reason = " ".join(str(error).split())[:200]
    print(f"warning: wandb is not logging ({type(error).__name__}: {reason}); training goes on and metrics.jsonl is "
          "complete; logging_params.wandb_mode: disabled silences this", file=sys.stderr)


def _read_lines(path: Path) -> list[str]:
    """Whole rows only: a killed run may have left the beginning of one."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return [line for line in text.split("\n")[:-1] if line]
