"""Logging: metrics.jsonl is the record; wandb mirrors it and can never stop a run.

Rows of metrics.jsonl hold no time and no host, so that equal runs write equal bytes. wandb receives the same rows,
timings and synthetic images, but never a real image.
"""

import errno
import json
import os
import re
import secrets
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from config.errors import UserError
from config.load import config_to_dict
from config.schema import Config, LoggingParams, names_a_place
from dataset.storage import disk_errors, free_bytes, sync_file, write_text
from tools.runtime.run_directory import RunDirectory

_ID_NAME = "run_id.txt"
_LEAST_FREE_BYTES = 1 << 20  # wandb holds back rows and writes them in blocks


class WandbMirror:
    """A wandb run in the configured mode. If wandb fails, there is one warning and then silence."""

    def __init__(self, params: LoggingParams, values: dict[str, Any], *, folder: Path, name: str) -> None:
        """`values` is the whole config as plain values, of which wandb sees no path."""
        self._run: Any | None = None
        self._folder = folder
        if params.wandb_mode == "disabled":
            return
        try:
            import wandb

            self._check_disk()
            # git and console capture are off: they would store paths and, from printed lines, names of patients' files.
            settings = wandb.Settings(silent=True, disable_git=True, console="off", x_disable_stats=True,
                                      x_disable_machine_info=True)
            self._run = wandb.init(
                id=_find_run_id(folder / "wandb" / _ID_NAME), resume="allow",  # a resumed run continues the same one
                project=params.wandb_project, name=name, mode=params.wandb_mode,
                dir=str(folder), config=_without_paths(values), settings=settings,
            )
        except Exception as error:  # a third party's service may fail in any way; the run continues
            self._give_up(error)

    def log(self, values: dict[str, Any], *, step: int) -> None:
        """Pass on numbers at a step."""
        if self._run is not None:
            try:
                self._check_disk()
                self._run.log(values, step=step)
            except Exception as error:  # as above
                self._give_up(error)

    def log_synthetic_image(self, key: str, pixels: np.ndarray, *, step: int) -> None:
        """Pass on a picture of synthetic images, uint8 (H, W) or (H, W, 3)."""
        if self._run is not None:
            try:
                import wandb

                self._run.log({key: wandb.Image(pixels)}, step=step)
            except Exception as error:  # as above
                self._give_up(error)

    def finish(self) -> None:
        """End the run."""
        if self._run is not None:
            try:
                self._run.finish()
                self._check_disk()
            except Exception as error:  # as above
                self._give_up(error)

    def _check_disk(self) -> None:
        """Raise if wandb's disk is full: it writes in a separate process, which would lose rows silently."""
        place = self._folder / "wandb"
        free = free_bytes(place if place.exists() else self._folder)
        if free is not None and free < _LEAST_FREE_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(place))

    def _give_up(self, error: Exception) -> None:
        self._run = None
        reason = " ".join(str(error).split())[:200]
        print(f"warning: wandb is not logging ({type(error).__name__}: {reason}); the run continues and its own files are "
              "complete; logging_params.wandb_mode: disabled silences this", file=sys.stderr)


def _find_run_id(path: Path) -> str:
    """The id under which wandb knows the run of this folder, drawn and kept the first time."""
    with suppress(FileNotFoundError):
        if re.fullmatch(r"[0-9a-f]{8}", known := path.read_text(encoding="utf-8").strip()):
            return known
    drawn = secrets.token_hex(4)
    write_text(path, f"{drawn}\n")
    return drawn


def _without_paths(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The config, or its section `prefix`, without the keys that hold paths on this machine."""
    return {key: _without_paths(value, f"{prefix}{key}.") if isinstance(value, dict) else value
            for key, value in values.items() if not names_a_place(f"{prefix}{key}")}


class Tracker:
    """The log of one training run: metrics.jsonl and its mirror, if any."""

    def __init__(self, path: Path, mirror: WandbMirror | None = None, *, step: int) -> None:
        """Open the log, cut to `step`."""
        self._mirror = mirror
        cut_log(path, step)
        self._path = path
        with disk_errors(path):
            self._file = path.open("ab", buffering=0)  # nothing is left to write when it is closed

    def log(self, row: dict[str, Any], *, timings: dict[str, float] | None = None) -> None:
        """Append one row, which has a "step", and mirror it; `timings` go to wandb only.

        Raises:
            UserError: the disk is full or not writable, or the run directory is gone.
        """
        data = (json.dumps(row) + "\n").encode()
        with disk_errors(self._path, wanted_bytes=len(data)):
            if not self._path.exists():
                raise FileNotFoundError(errno.ENOENT, "removed during the run")
            while data:  # a disk that fills up writes a part, then fails
                data = data[self._file.write(data):]
        if self._mirror is not None:
            values = {key: value for key, value in row.items() if key != "step"}
            self._mirror.log({**values, **(timings or {})}, step=row["step"])

    def log_synthetic_image(self, key: str, pixels: np.ndarray, *, step: int) -> None:
        """Mirror a picture of synthetic images, uint8 (H, W) or (H, W, 3)."""
        if self._mirror is not None:
            self._mirror.log_synthetic_image(key, pixels, step=step)

    def sync_to_disk(self) -> None:
        """Make the rows so far durable; called before a checkpoint that relies on them."""
        with disk_errors(self._path):
            sync_file(self._file)

    def close(self) -> None:
        """Close the log and end the mirror."""
        self._file.close()
        if self._mirror is not None:
            self._mirror.finish()


class NullTracker(Tracker):
    """A log that keeps nothing, for processes and trainings without one."""

    def __init__(self) -> None:
        """Nothing is opened."""

    def log(self, *_: Any, **__: Any) -> None:
        """Keep nothing."""

    log_synthetic_image = sync_to_disk = close = log


def open_tracker(config: Config, run: RunDirectory, *, step: int) -> Tracker:
    """The log of a run, cut to `step`, with its mirror; keeps nothing if this process does not write."""
    if not run.writes:
        return NullTracker()
    return Tracker(run.metrics, WandbMirror(config.logging_params, config_to_dict(config), folder=run.root,
                                            name=run.root.name), step=step)


def cut_log(path: Path, step: int) -> None:
    """Drop rows after `step` and an incomplete row: a killed run may have logged beyond its last checkpoint.

    Raises:
        UserError: a line that is not a row.
    """
    kept = [line for line in _read_whole_lines(path) if _step_of(line, path) <= step]
    write_text(path, "".join(f"{line}\n" for line in kept))


def _step_of(line: str, path: Path) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a row of this log: {line[:60]!r}; remove the line, or the file, to resume") from error


def _read_whole_lines(path: Path) -> list[str]:
    """Only complete rows: a killed run may have left the beginning of one."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return [line for line in text.split("\n")[:-1] if line]
