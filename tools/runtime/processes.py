"""Processes that `accelerate launch` started together: how long they wait for one another, and how they share work."""

import atexit
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

from dataset.share import Share

# Processes wait for the slowest one's images and for the first one's validation. A process that dies is no matter of
# this: its connections break at once, and the launcher ends the others.
_PATIENCE = InitProcessGroupKwargs(timeout=timedelta(hours=12))
_JOINED_BYTES = 1 << 26  # sent at once, which bounds the memory that it takes on a GPU


def open_accelerator(*handlers: Any, mixed_precision: str = "no") -> Accelerator:
    """The accelerator of this process, which leaves the others in order when the process ends.

    Without that the threads behind the connections are torn down by the end of the interpreter, which aborts now and then.
    """
    accelerator = Accelerator(mixed_precision=mixed_precision, kwargs_handlers=[_PATIENCE, *handlers])
    if accelerator.num_processes > 1:
        atexit.register(_leave)
    return accelerator


def open_share() -> tuple[Share, torch.device]:
    """This process's part of the work of a command that trains nothing, and where it computes: its GPU or the CPU."""
    accelerator = open_accelerator()
    device = accelerator.device if accelerator.device.type == "cuda" else torch.device("cpu")
    return share_work(accelerator), device


def share_work(accelerator: Accelerator) -> Share:
    """This process's part of the work that the accelerator's processes share."""
    def total(values: torch.Tensor) -> torch.Tensor:
        return accelerator.reduce(values.to(accelerator.device), reduction="sum").cpu()

    def agree(value: bool) -> bool:
        return int(total(torch.tensor(float(value)))) == accelerator.num_processes

    def join(values: np.ndarray) -> np.ndarray:
        if accelerator.num_processes == 1:
            return values
        joined = np.array(values, order="C")
        # Sums of bytes, of which all but one are zero, keep every bit; sums of floats would lose the sign of a zero.
        for block in torch.from_numpy(joined.reshape(-1).view(np.uint8)).split(_JOINED_BYTES):
            block.copy_(total(block))
        return joined

    return Share(accelerator.process_index, accelerator.num_processes, agree, join)


def _leave() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
