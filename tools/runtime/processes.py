"""Processes that `accelerate launch` started together: how they find and watch each other, and how they divide work."""

import atexit
import os
import sys
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, GradientAccumulationPlugin, InitProcessGroupKwargs
from torch import nn

from config.errors import UserError
from config.schema import LaunchParams, TrainParams
from dataset.ranks import Ranks
from tools.runtime.environment import settle
from tools.runtime.machine import announce_device, cuda_is_usable
from tools.runtime.rendezvous import MeetingPoint, init_method
from tools.runtime.watch import Watch

# Processes may wait long for the slowest one's images and for the first one's validation. The watch distinguishes work from
# hanging (launch_params.collective_minutes). torch's limit cannot, so it is set very high.
_PATIENCE = timedelta(hours=12)
_JOINED_BYTES = 1 << 26  # sent at once; bounds the GPU memory
_KINDS = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)


def open_accelerator(limits: LaunchParams, *handlers: Any, train: TrainParams | None = None) -> Accelerator:
    """The accelerator of this process, which disconnects cleanly when the process ends.

    Otherwise the interpreter would end the connection threads on exit, which sometimes aborts.
    The config alone decides on precision, micro-steps and compilation; the user is told about other settings in the
    environment.

    Raises:
        UserError: an environment setting, a device or a kind of launch that cannot be used, or processes that do not
            arrive.
    """
    is_first = os.environ.get("RANK", "0") == "0"
    for line in settle(os.environ, train):
        if is_first:
            print(line, file=sys.stderr)
    on_cpu = not cuda_is_usable()
    many = int(os.environ.get("WORLD_SIZE") or 1) > 1
    mixed_precision = "no" if train is None else train.mixed_precision
    meeting = init_method(limits.rendezvous_minutes, then=lambda here: _watch(here, minutes=limits.collective_minutes))
    together = InitProcessGroupKwargs(init_method=meeting, timeout=_PATIENCE)
    accelerator = Accelerator(
        mixed_precision=mixed_precision, cpu=many and on_cpu, dynamo_backend="no", kwargs_handlers=[together, *handlers],
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1))  # the step divides by its micro-steps
    if accelerator.distributed_type not in _KINDS:
        raise UserError(f"this launch is of the kind {accelerator.distributed_type.value}; expected one process, or several "
                        "on CPUs or on NVIDIA's or AMD's GPUs that share each batch (accelerate launch --multi_gpu)")
    if many and accelerator.num_processes == 1:
        raise UserError(f"WORLD_SIZE={os.environ['WORLD_SIZE']} says that several processes were started, but LOCAL_RANK, "
                        "which says which GPU is this one's, is not set; start with accelerate launch or torchrun, or unset "
                        "WORLD_SIZE")
    announce_device(accelerator.device, precision=None if train is None else _PRECISIONS[mixed_precision],
                    num_processes=accelerator.num_processes)
    return accelerator


_PRECISIONS = {"no": "float32", "fp16": "float16 mixed", "bf16": "bfloat16 mixed"}


def unwrap(accelerator: Accelerator, model: nn.Module) -> nn.Module:
    """The network without wrappers for several processes or compilation: its parameter names are those in files."""
    return accelerator.unwrap_model(model, keep_torch_compile=False)


def open_ranks(limits: LaunchParams) -> tuple[Ranks, torch.device]:
    """This process's part of the work of a command that trains nothing, and its device: its GPU or the CPU."""
    accelerator = open_accelerator(limits)
    device = accelerator.device if accelerator.device.type == "cuda" else torch.device("cpu")
    return ranks_of(accelerator), device


def ranks_of(accelerator: Accelerator) -> Ranks:
    """This process's part of the work that the accelerator's processes share."""
    def total(values: torch.Tensor) -> torch.Tensor:
        return accelerator.reduce(values.to(accelerator.device), reduction="sum").cpu()

    def agree(value: bool) -> bool:
        return int(total(torch.tensor(float(value)))) == accelerator.num_processes

    def join(values: np.ndarray) -> np.ndarray:
        if accelerator.num_processes == 1:
            return values
        joined = np.array(values, order="C")
        # All but one of the summed bytes are zero, so every bit is kept; sums of floats would lose the sign of a zero.
        for block in torch.from_numpy(joined.reshape(-1).view(np.uint8)).split(_JOINED_BYTES):
            block.copy_(total(block))
        return joined

    return Ranks(accelerator.process_index, accelerator.num_processes, agree, join)


def _watch(here: MeetingPoint, *, minutes: float) -> None:
    watch = Watch(here, minutes=minutes)
    watch.start()
    atexit.register(_leave, watch)


def _leave(watch: Watch) -> None:
    watch.end()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
