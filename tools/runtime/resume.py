"""The state that every training resumes from, and where it is saved.

Random draws are addressed by (seed, step, purpose), so no generator's state is kept.
"""

import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch

from config.errors import UserError
from models.ema import ExponentialMovingAverage
from tools.runtime import checkpoints

STATE_FOLDER = "training_state"  # in the training's folder, unless it has another place
# Old names of two values in states of version 0.2; optimizer tensors were NAME.optimizer.0.exp_avg, now NAME.0.exp_avg.
_OLD_VALUES = {"data_identity": "identity", "ema_updates": "num_updates"}
_OLD_OPTIMIZER = re.compile(r"^(\w+)\.optimizer\.(\d+\.)")


class OtherTraining(UserError):
    """The saved state belongs to a training on other data or with other settings."""


class HasTensors(Protocol):
    """A network, or anything else that is saved as named tensors."""

    def state_dict(self) -> dict[str, torch.Tensor]: ...

    def load_state_dict(self, state_dict: dict[str, torch.Tensor]) -> Any: ...


@dataclass(frozen=True)
class Saving:
    """Where and how often a training saves its state.

    identity: hash of what the steps depend on; `depends_on` describes it.
    key: the config key that names the folder, for error messages.
    at_end: whether the last step's state is saved too; False if it is removed once the result is written.
    """

    folder: Path
    identity: str
    key: str
    depends_on: str = "settings or images"
    every_steps: int | None = None
    every_seconds: float = math.inf
    keep: int = 1
    at_end: bool = True


@dataclass
class ResumeState:
    """Everything that changes during a training. A subclass lists further plain values in PLAIN.

    step: optimizer steps done, including skipped ones.
    seconds: time spent on them in all parts; None if the clock does not matter, so that equal runs save equal bytes.
    """

    networks: Mapping[str, HasTensors]
    ema: ExponentialMovingAverage
    optimizers: Mapping[str, torch.optim.Optimizer]
    step: int = 0
    skipped_in_a_row: int = 0
    seconds: float | None = None

    PLAIN: ClassVar[tuple[str, ...]] = ()

    def to_values(self) -> dict[str, Any]:
        """The training's further values, for a file."""
        return {name: getattr(self, name) for name in self.PLAIN}

    def restore_values(self, values: dict[str, Any]) -> None:
        """Put back what `to_values` gave."""
        for name in self.PLAIN:
            setattr(self, name, values[name])

    def to_checkpoint(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Tensors and plain values of a file."""
        tensors = checkpoints.prefix_tensors(self.ema.state_dict(), "ema")
        for name, network in self.networks.items():
            tensors |= checkpoints.prefix_tensors(network.state_dict(), name)
        for name, optimizer in self.optimizers.items():
            tensors |= checkpoints.prefix_tensors(checkpoints.pack_optimizer(optimizer), name)
        values = {"step": self.step, "num_updates": self.ema.num_updates, "skipped_in_a_row": self.skipped_in_a_row,
                  **({} if self.seconds is None else {"seconds": self.seconds}), **self.to_values()}
        return tensors, values

    def restore(self, tensors: dict[str, torch.Tensor], values: dict[str, Any]) -> None:
        """Put back what `to_checkpoint` gave, or a state of version 0.2."""
        tensors = {_OLD_OPTIMIZER.sub(r"\1.\2", name): tensor for name, tensor in tensors.items()}
        for name, network in self.networks.items():
            network.load_state_dict(checkpoints.select_tensors(tensors, name))
        values = _with_new_names(values)
        self.ema.load_state_dict(checkpoints.select_tensors(tensors, "ema"), values["num_updates"])
        for name, optimizer in self.optimizers.items():
            checkpoints.unpack_optimizer(optimizer, checkpoints.select_tensors(tensors, name))
        self.step, self.skipped_in_a_row = values["step"], values.get("skipped_in_a_row", 0)
        if self.seconds is not None:
            self.seconds = values["seconds"]
        self.restore_values(values)

    def save(self, saving: Saving) -> None:
        """Write the state of this step and remove older ones."""
        tensors, values = self.to_checkpoint()
        path = checkpoints.resume_path(saving.folder, self.step)
        checkpoints.write_checkpoint(path, tensors, {**values, "identity": saving.identity})
        checkpoints.prune_resume_checkpoints(saving.folder, saving.keep)

    def resume(self, saving: Saving, *, tell: bool = True) -> None:
        """Put back the newest intact state, if any; `tell` prints the step and the damaged states that were skipped.

        Raises:
            OtherTraining: the state belongs to a training with another identity.
            UserError: there are states and none is intact.
        """
        found = checkpoints.read_newest_checkpoint(saving.folder)
        if found is None:
            return
        tensors, values, warnings = found
        if _with_new_names(values)["identity"] != saving.identity:
            raise OtherTraining(f"{saving.folder} belongs to a training with other {saving.depends_on}; restore them to "
                                f"resume, or set another {saving.key} to start again")
        if tell:
            for warning in warnings:
                print(f"warning: {warning}", file=sys.stderr)
            print(f"resuming at step {values['step']}")
        self.restore(tensors, values)


def _with_new_names(values: dict[str, Any]) -> dict[str, Any]:
    return {_OLD_VALUES.get(name, name): value for name, value in values.items()}
