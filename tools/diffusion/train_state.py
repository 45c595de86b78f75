"""State of the UNet's training: what a resumed run needs, and the meters between two readings."""

from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import extract_model_from_parallel
from torch import nn

from models.ema import ExponentialMovingAverage
from models.trained_part import TrainedPart
from tools.runtime.resume import ResumeState


class Meters:
    """Sums of loss and gradient norm since the last reading, and the count of skipped steps, on the training's device.

    A training step writes them without waiting for the device; only reading waits.
    """

    _SUMS = ("loss", "grad_norm", "count")

    def __init__(self, device: torch.device) -> None:
        dtype = torch.float32 if device.type == "mps" else torch.float64  # mps has no double precision
        self._sums = torch.zeros(len(self._SUMS), dtype=dtype, device=device)
        self._skips = torch.zeros(3, dtype=torch.int64, device=device)  # in all, in a row, most in a row since a reading

    def add(self, *, loss: torch.Tensor, grad_norm: torch.Tensor, applied: torch.Tensor) -> None:
        """Add a step's float () loss and norm, which count where they are finite; bool () `applied` is false if skipped."""
        values = torch.stack([loss, grad_norm, torch.ones_like(loss)]).to(self._sums.dtype)
        self._sums += torch.where(torch.isfinite(values).all(), values, 0.0)
        skipped = (~applied).long()
        total, in_a_row, longest = self._skips.unbind()
        in_a_row = (in_a_row + skipped) * skipped
        self._skips = torch.stack([total + skipped, in_a_row, torch.maximum(longest, in_a_row)])

    def read(self, accelerator: Accelerator) -> dict[str, float | int | None]:
        """Means since the last reading, over all processes, None if no step was finite; and the skipped steps so far."""
        sums = self._sums.clone()
        if accelerator.num_processes > 1:
            sums = accelerator.reduce(sums.float(), reduction="sum")
        loss, grad_norm, count = sums.tolist()
        self._sums.zero_()
        self._skips[2] = self._skips[1]
        return {"loss": loss / count if count else None, "grad_norm": grad_norm / count if count else None,
                "skipped_steps": int(self._skips[0])}

    def longest_row(self) -> int:
        """The most steps in a row that were skipped since the last reading."""
        return int(self._skips[2])

    def to_values(self) -> dict[str, Any]:
        """All values, as plain values."""
        skipped, in_a_row, _ = self._skips.tolist()
        return {"meters": dict(zip(self._SUMS, self._sums.tolist(), strict=True)), "skipped_steps": skipped,
                "skipped_in_a_row": in_a_row}

    def restore(self, values: dict[str, Any]) -> None:
        """Put back what `to_values` gave."""
        sums, in_a_row = values["meters"], values["skipped_in_a_row"]
        self._sums.copy_(torch.tensor([sums.get(name, 0.0) for name in self._SUMS], dtype=torch.float64))
        self._skips.copy_(torch.tensor([values["skipped_steps"], in_a_row, in_a_row]))


class TrainState(ResumeState):
    """Everything that changes during the training of the UNet."""

    PLAIN = ("best_loss", "best_step")

    def __init__(self, model: nn.Module, ema: ExponentialMovingAverage, optimizer: torch.optim.Optimizer, meters: Meters,
                 scaler: Any | None = None) -> None:
        """`model` and `optimizer` as the accelerator wraps them; `scaler` is that of fp16."""
        super().__init__({"model": TrainedPart(extract_model_from_parallel(model, keep_torch_compile=False))}, ema,
                         {"optimizer": optimizer})
        self.model, self.optimizer, self.meters, self.scaler = model, optimizer, meters, scaler
        self.best_loss: float | None = None
        self.best_step: int | None = None

    def to_values(self) -> dict[str, Any]:
        """The best loss and its step, the meters and the scaler."""
        scaler = None if self.scaler is None else {k: v for k, v in self.scaler.state_dict().items() if v is not None}
        return {**super().to_values(), **self.meters.to_values(), "scaler": scaler}

    def restore_values(self, values: dict[str, Any]) -> None:
        """Put back what `to_values` gave."""
        super().restore_values(values)
        self.meters.restore(values)
        if self.scaler is not None and values["scaler"]:
            self.scaler.load_state_dict(values["scaler"])
