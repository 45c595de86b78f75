"""Checkpoint files: tensors and plain values in safetensors format, with a checksum over both. No pickle anywhere."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as format_safetensors

from config.errors import UserError
from dataset.storage import write_bytes

FORMAT = 1
_NOTE = "derived from patients' images: store, share and delete it by the same rules as those images"
_REMEDY = "restore it from a copy, or train again in another folder"
_RESUME_NAME = re.compile(r"resume-(\d{8})\.safetensors")


def write_checkpoint(path: Path, tensors: dict[str, torch.Tensor], values: dict[str, Any]) -> None:
    """Write tensors, plain values and a note of where they derive from, atomically; equal content gives equal bytes."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    values = json.loads(json.dumps({"format": FORMAT, "note": _NOTE, **values}))  # as they will be read back: keys are text
    body = {"values": values, "sha256": _digest(tensors, values)}
    # One metadata entry only: safetensors does not keep the order of several.
    write_bytes(path, format_safetensors(tensors, {"blastdiffusion": json.dumps(body, sort_keys=True)}))


def read_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read what `write_checkpoint` wrote.

    Raises:
        UserError: missing, cut short, altered since it was written, or of another format.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: checkpoint cannot be read ({error.strerror}); train first, or give another one") from error
    try:
        tensors = parse_safetensors(data)
        header = json.loads(data[8:8 + int.from_bytes(data[:8], "little")])
        body = json.loads(header["__metadata__"]["blastdiffusion"])
        values = body["values"]
        intact = body["sha256"] == _digest(tensors, values)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a complete checkpoint of this software; {_REMEDY}") from error
    if not intact:
        raise UserError(f"{path}: does not match its checksum, so it is damaged; {_REMEDY}")
    if values.get("format") != FORMAT:
        raise UserError(f"{path}: checkpoint format {values.get('format')}, expected {FORMAT}; train again")
    return tensors, values


def resume_path(folder: Path, step: int) -> Path:
    """The path of the resume state after `step` optimizer steps."""
    return folder / f"resume-{step:08d}.safetensors"


def list_resume_checkpoints(folder: Path) -> list[Path]:
    """Resume checkpoints, newest first."""
    found = [path for path in folder.glob("resume-*.safetensors") if _RESUME_NAME.fullmatch(path.name)]
    return sorted(found, reverse=True)


def prune_resume_checkpoints(folder: Path, keep: int) -> None:
    """Remove all but the newest `keep` resume checkpoints."""
    for path in list_resume_checkpoints(folder)[keep:]:
        path.unlink(missing_ok=True)


def read_newest_checkpoint(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any], list[str]] | None:
    """The newest intact resume checkpoint, and one warning for each damaged one that was skipped.

    Returns None if there is no resume checkpoint.

    Raises:
        UserError: there are some and none is intact.
    """
    reasons: list[str] = []
    for path in list_resume_checkpoints(folder):
        try:
            tensors, values = read_checkpoint(path)
        except UserError as error:
            reasons.append(str(error).removesuffix(f"; {_REMEDY}"))
            continue
        return tensors, values, [f"{reason}; resuming from the one before" for reason in reasons]
    if reasons:
        raise UserError(f"{folder}: no intact resume checkpoint is left ({reasons[0]}); remove the folder to start again")
    return None


def pack_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The per-parameter state of an optimizer as named tensors."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": torch.as_tensor(value)
            for index, entries in state.items() for name, value in entries.items()}


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Put back what `pack_optimizer` made; hyperparameters stay those of `optimizer`.

    Files hold tensors in row-major order. State with one value per value of a parameter is put back in the parameter's
    memory order: fused kernels walk both by address, and would otherwise pair the wrong values.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        parameter = parameters[int(index)]
        if tensor.shape == parameter.shape:
            tensor = torch.empty_like(parameter, dtype=tensor.dtype, device="cpu").copy_(tensor)
        state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def select_tensors(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors under `prefix.`, without it."""
    return {name[len(prefix) + 1:]: tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}.")}


def prefix_tensors(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The inverse of `select_tensors`."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def _digest(tensors: dict[str, torch.Tensor], values: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
