"""Where a command computes: which device, whether torch has kernels for it, and the line that says so."""

import os
import warnings
from collections.abc import Sequence

import torch

from config.errors import UserError
from tools.runtime.command import announce
from tools.runtime.faults import OLD_DRIVER_STEP


def choose_device(*, precision: str | None = None) -> torch.device:
    """The GPU if torch can use one, otherwise the CPU; the command's first line says which.

    precision: the precision of a training; None if nothing is trained.

    Raises:
        UserError: this torch has no kernels for the GPU, or its driver is too old.
    """
    device = torch.device("cuda" if cuda_is_usable() else "cpu")
    announce_device(device, precision=precision)
    return device


def cuda_is_usable() -> bool:
    """Whether there is a CUDA GPU that is wanted and that torch can use.

    Raises:
        UserError: there is one that torch cannot use.
    """
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1")
    if hidden or os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes", "on", "y", "t"):
        return False
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = torch.cuda.is_available()
    for warning in said:
        text = " ".join(str(warning.message).split())
        if "too old" in text:
            raise UserError(f"the GPU's driver is too old for this torch ({text[:200]}); {OLD_DRIVER_STEP}")
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    if found:
        _require_kernels()
    return found


def _require_kernels() -> None:
    if torch.version.cuda is None:  # AMD GPUs have other version numbers
        return
    index = int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about what is refused here
        capability, name = torch.cuda.get_device_capability(index), torch.cuda.get_device_name(index)
    built_for = torch.cuda.get_arch_list()
    if built_for and not has_kernels(capability, built_for):
        raise UserError(f"{name} has compute capability {capability[0]}.{capability[1]}, and torch {torch.__version__} is "
                        f"built for {', '.join(built_for)}; install a build of torch for this GPU, or compute on the CPU "
                        "with CUDA_VISIBLE_DEVICES= (empty)")


def has_kernels(capability: tuple[int, int], built_for: Sequence[str]) -> bool:
    """Whether code for one of these architectures runs on a GPU of this compute capability.

    Machine code (sm_80) runs on the same major version from its minor version on; sm_90a only on that one; intermediate
    code (compute_80) is translated for all later ones. Source: CUDA C++ Programming Guide, binary and PTX compatibility.
    """
    for architecture in built_for:
        kind, _, number = architecture.partition("_")
        digits = number.rstrip("abcdefghijklmnopqrstuvwxyz")
        version = (int(digits[:-1]), int(digits[-1]))
        if kind == "compute" and version <= capability:
            return True
        if version[0] == capability[0] and (version[1] <= capability[1] if digits == number else version == capability):
            return True
    return False


def announce_device(device: torch.device, *, precision: str | None = None, num_processes: int = 1) -> None:
    """Print once where this command computes."""
    if device.type == "cuda":
        place = f"GPU {torch.cuda.get_device_name(device)}"
    elif device.type == "cpu":
        threads = torch.get_num_threads()
        place = f"CPU with {threads} thread{'s' * (threads > 1)}"
    else:
        place = f"device {device.type}"
    training = "" if precision is None else f", precision {precision}"
    announce(f"{place}{training}, {num_processes} process{'es' * (num_processes > 1)}")
