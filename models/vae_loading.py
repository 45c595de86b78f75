"""Read an autoencoder's weights with diffusers' loader, which supports the names and layouts of all its versions.

This module adds what that loader lacks: it refuses missing weights, reads 1x1 convolutions, and keeps the loader quiet.
"""

import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from config.errors import UserError
from models.weight_files import CONFIG_FILE, WeightFiles

STEM = "diffusion_pytorch_model"
_LEGACY_ATTENTION = ("query", "key", "value", "proj_attn")  # diffusers' names of attention layers until 2023
_LFS_START = b"version https://git-lfs"
_LONGEST_REASON = 300  # characters of another library's message


def load_vae(folder: Path, config: Mapping[str, Any], weights: WeightFiles) -> tuple[nn.Module, list[str]]:
    """The model that `from_pretrained` loads, in float32, and the names of the weights that the folder lacks, sorted.

    Raises:
        UserError: a config that the library cannot build, or files that are damaged or of other shapes.
    """
    with _quiet_diffusers():
        wanted = _read_wanted_shapes(folder, config)
        stored = _read_stored_shapes(weights)
        squeezed = {name for name, shape in stored.items() if _is_pointwise(name, shape, wanted)}
        if not squeezed:
            return _load(folder, config, weights.head, variant=weights.variant)
        with tempfile.TemporaryDirectory() as temporary:
            _write_linear(folder, Path(temporary), weights, squeezed)
            return _load(Path(temporary), config, weights.head)


def _load(
    source: Path, config: Mapping[str, Any], weights_path: Path, *, variant: str | None = None
) -> tuple[nn.Module, list[str]]:
    """The library's model in float32 and the names of the weights without values, sorted."""
    import diffusers

    try:
        vae, report = getattr(diffusers, config["_class_name"]).from_pretrained(
            source, variant=variant, use_safetensors=True, local_files_only=True, low_cpu_mem_usage=False,
            torch_dtype=torch.float32, output_loading_info=True,
        )
    except (SafetensorError, OSError, RuntimeError, ValueError, KeyError) as error:
        raise _misfit(weights_path, error) from error
    for tensor in (*vae.parameters(), *vae.buffers()):
        tensor.data = tensor.data.clone()  # the library maps them from the file, which may change
    return vae, sorted(report["missing_keys"])


def _read_wanted_shapes(folder: Path, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes of all weights that the config requires, without allocating them."""
    import diffusers  # its start-up costs a second that a --dry-run need not pay

    name = config["_class_name"]
    try:
        with torch.device("meta"):
            vae = getattr(diffusers, name).from_config(dict(config))
    except (ValueError, TypeError, NotImplementedError) as error:
        raise UserError(f"{folder / CONFIG_FILE}: diffusers cannot build this {name} ({_shorten(error)})") from error
    return {key: tuple(tensor.shape) for key, tensor in vae.state_dict().items()}


def _read_stored_shapes(weights: WeightFiles) -> dict[str, tuple[int, ...]]:
    """Shapes of all stored tensors, from the headers."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in weights.tensors:
        try:
            with safe_open(path, framework="pt") as file:
                shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            with path.open("rb") as pointer:
                if pointer.read(len(_LFS_START)) == _LFS_START:
                    raise UserError(f"{path}: expected weights, found a Git LFS pointer; run "
                                    "`git lfs install` and `git lfs pull` in that folder") from error
            raise _misfit(path, error) from error
    return shapes


def _is_pointwise(name: str, shape: tuple[int, ...], wanted: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether the tensor is a 1x1 convolution (C, C, 1, 1) where the library has a linear layer (C, C)."""
    if len(shape) != 4 or shape[2:] != (1, 1):
        return False
    return wanted.get(name) == shape[:2] or name.split(".")[-2:-1] in [[part] for part in _LEGACY_ATTENTION]


def _write_linear(folder: Path, output: Path, weights: WeightFiles, squeezed: set[str]) -> None:
    """Write the autoencoder to `output` with these tensors as linear layers, the form that `from_pretrained` reads.

    The first Stable Diffusion code had attention of 1x1 convolutions, and some converters kept them.
    """
    tensors: dict[str, torch.Tensor] = {}
    for path in weights.tensors:
        tensors |= safetensors.torch.load_file(path)
    for name in squeezed:
        tensors[name] = tensors[name][:, :, 0, 0].contiguous()
    safetensors.torch.save_file(tensors, output / f"{STEM}.safetensors", {"format": "pt"})
    (output / CONFIG_FILE).write_bytes((folder / CONFIG_FILE).read_bytes())


@contextmanager
def _quiet_diffusers() -> Iterator[None]:
    """Keep the library's log, progress bar and deprecations off the screen: errors are raised, the rest is normal."""
    from diffusers.utils import logging as library

    level, bars = library.get_verbosity(), library.is_progress_bar_enabled()
    library.set_verbosity(logging.CRITICAL)
    library.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        library.set_verbosity(level)
        if bars:
            library.enable_progress_bar()


def _misfit(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: not the weights that its config.json requires ({_shorten(error)})")


def _shorten(error: Exception) -> str:
    return " ".join(str(error).split())[:_LONGEST_REASON]
