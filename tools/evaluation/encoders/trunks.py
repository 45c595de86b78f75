"""ImageNet trunks (SqueezeNet 1.1, AlexNet, VGG 16) and LPIPS linear heads from local files: found, told apart by
their keys, hashed and loaded strictly. Owns no distance."""

import functools
import hashlib
import importlib.util
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn

from config.errors import UserError, name_some
from dataset.storage import hash_file
from tools.evaluation.encoders.downloads import MissingWeights

_SUFFIXES = (".pth", ".pt", ".safetensors")


@dataclass(frozen=True)
class NetSpec:
    """One architecture: where LPIPS taps it, and how its published weights are recognised.

    `file_prefix` is the start of the sha256 that torchvision writes into its file name; `trunk_hash` and `head_hash`
    are `hash_tensors` of the trunk's tensors and of the head that the lpips package carries (v0.1).
    """

    build: Callable[[], nn.Module]
    taps: tuple[int, ...]
    channels: tuple[int, ...]
    file_name: str
    file_prefix: str
    trunk_hash: str | None
    head_hash: str


NETS: Mapping[str, NetSpec] = {
    "squeeze": NetSpec(
        build=lambda: torchvision.models.squeezenet1_1(weights=None).features,
        taps=(1, 4, 7, 9, 10, 11, 12),
        channels=(64, 128, 256, 384, 384, 512, 512),
        file_name="squeezenet1_1-b8a52dc0.pth",
        file_prefix="b8a52dc0",
        trunk_hash="64961c314e2d68d004a1250115ffe6356fc4b02016eb7f17faf2a9058c1842f1",
        head_hash="ab10969bbb93f23a3fbcb749c51aaeba4fd7fef578bcfe74bbbbce99e687e46d",
    ),
    "alex": NetSpec(
        build=lambda: torchvision.models.alexnet(weights=None).features,
        taps=(1, 4, 7, 9, 11),
        channels=(64, 192, 384, 256, 256),
        file_name="alexnet-owt-7be5be79.pth",
        file_prefix="7be5be79",
        trunk_hash=None,
        head_hash="f00b902361a5bd565e7378369168e9650bd8b5bdd66f46cd14c7266429c9f4f2",
    ),
    "vgg": NetSpec(
        build=lambda: torchvision.models.vgg16(weights=None).features,
        taps=(3, 8, 15, 22, 29),
        channels=(64, 128, 256, 512, 512),
        file_name="vgg16-397923af.pth",
        file_prefix="397923af",
        trunk_hash=None,
        head_hash="0503aba3e327a845cc4508e507ffcdfabf60e34cbd87f46e40a071b21e81e3db",
    ),
}


@dataclass(frozen=True)
class Weights:
    """Tensors of a trunk (keys of torchvision's `features`) or of a head, and what proves where they are from."""

    tensors: dict[str, Tensor]
    sha256: str
    official: bool
    path: Path


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a state dict onto the CPU from .safetensors, .pth or .pt; only tensors are unpickled.

    Raises:
        UserError: no file, not readable, or holds anything but tensors by name.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: expected a file of weights, found nothing there")
    try:
        if path.suffix == ".safetensors":
            state = safetensors.torch.load_file(path)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch warns of TorchScript archives before it refuses them
                state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling raises nearly anything on a file that is not one
        raise UserError(
            f"{path}: expected weights in PyTorch's format, could not read them ({type(error).__name__}); "
            "fetch the file again"
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path}: expected a state dict (name -> tensor), found {type(state).__name__}")
    return dict(state)


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and bytes, in order of the names: the same for any container file."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode("ascii"))
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def identify(tensors: Mapping[str, Tensor]) -> tuple[str, str] | None:
    """("trunk" | "head", net) by keys and shapes, or None where the tensors are neither."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    trunk_shapes = {name: tuple(tensor.shape) for name, tensor in _trunk_part(tensors).items()}
    for net, spec in NETS.items():
        if shapes == _head_shapes(spec):
            return "head", net
        if trunk_shapes == _trunk_shapes(net):
            return "trunk", net
    return None


def find_net(path: Path | None) -> str:
    """The network whose weights are in `path`, a file or a folder: squeeze where it holds that one, or none, or is None.

    Raises:
        UserError: weights of two other networks in one folder, or an unreadable file.
    """
    if path is None or not path.exists():
        return "squeeze"
    found = {identity[1] for file in _list_candidates(path) if (identity := identify(read_tensors(file)))}
    if "squeeze" in found or not found:
        return "squeeze"
    if len(found) > 1:
        raise UserError(f"{path}: expected LPIPS weights of one network, found {' and '.join(sorted(found))}; name a folder "
                        "with the trunk and the head of one of them")
    return found.pop()


def find_trunk(path: Path | None, net: str, *, key: str) -> Weights:
    """The trunk of `net` in `path` (file or folder), else in torch's hub cache. `key` names the config entry.

    Raises:
        MissingWeights: none found; names the file, its hash, its address and the config key.
        UserError: several in one folder, or an unreadable file.
    """
    spec = _spec(net)
    found = _search(path, "trunk", net)
    if found is None:
        cache = Path(torch.hub.get_dir()) / "checkpoints"
        cached = sorted(cache.glob(f"{spec.file_name.split('-')[0]}-*.pth")) if cache.is_dir() else []
        found = next(iter(_matching(cached, "trunk", net)), None)
    if found is None:
        head = "only its linear head" if path is not None and _search(path, "head", net) else "none"
        raise MissingWeights(
            f"expected the ImageNet trunk of {net} ({spec.file_name}, sha256 {spec.file_prefix}...), found {head} in "
            f"{path if path is not None else 'the config'} and none in torch's hub cache; fetch "
            f"https://download.pytorch.org/models/{spec.file_name} and name it in {key}"
            + (", or a folder with both" if head != "none" else ""),
            source=net,
        )
    file, tensors = found
    tensors = _trunk_part(tensors)
    content = hash_tensors(tensors)
    sha256 = hash_file(file)
    return Weights(tensors, sha256, content == spec.trunk_hash or sha256.startswith(spec.file_prefix), file)


def find_head(path: Path | None, net: str, *, key: str) -> Weights:
    """The LPIPS linear head of `net` in `path` (file or folder), else the one inside the lpips package.

    Raises:
        UserError: none found, or several in one folder.
    """
    spec = _spec(net)
    found = _search(path, "head", net)
    if found is None:
        package = importlib.util.find_spec("lpips")
        folders = [] if package is None else list(package.submodule_search_locations or [])
        candidates = [Path(folder) / "weights" / "v0.1" / f"{net}.pth" for folder in folders]
        found = next(iter(_matching([file for file in candidates if file.is_file()], "head", net)), None)
    if found is None:
        raise UserError(
            f"expected the LPIPS v0.1 linear head of {net}, found none in {path} nor in the lpips package; "
            f"pip install lpips, or name a folder that holds trunk and head in {key}"
        )
    file, tensors = found
    return Weights(tensors, hash_file(file), hash_tensors(tensors) == spec.head_hash, file)


def build_trunk(net: str, tensors: Mapping[str, Tensor]) -> nn.Sequential:
    """The convolutional part of `net` with `tensors` loaded strictly, in eval mode and frozen."""
    with torch.device("meta"):
        trunk = _spec(net).build()
    state = {name: tensor.to(torch.float32) for name, tensor in tensors.items()}
    trunk.load_state_dict(state, strict=True, assign=True)
    return trunk.eval().requires_grad_(False)


def _spec(net: str) -> NetSpec:
    if net not in NETS:
        raise UserError(f"expected a network among {', '.join(NETS)}, found {net!r}")
    return NETS[net]


def _search(path: Path | None, kind: str, net: str) -> tuple[Path, dict[str, Tensor]] | None:
    """Look in the place that the user named. A file of the other kind is no error: the pair may be completed."""
    if path is None:
        return None
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: expected a file or a folder of LPIPS weights, found nothing there")
    if not path.is_dir():
        tensors = read_tensors(path)
        identity = identify(tensors)
        if identity is None:
            raise UserError(
                f"{path}: expected an ImageNet trunk or an LPIPS v0.1 linear head of {', '.join(NETS)}, found other "
                f"keys ({name_some(sorted(tensors), 3)}); name one of these files, or their folder"
            )
        return (path, tensors) if identity == (kind, net) else None
    found = list(_matching(_list_candidates(path), kind, net))
    if len(found) > 1:
        names = name_some([file.name for file, _ in found])
        raise UserError(f"{path}: expected one {kind} of {net}, found {len(found)} ({names}); name the file itself")
    return found[0] if found else None


def _list_candidates(path: Path) -> list[Path]:
    return sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES) if path.is_dir() else [path]


def _matching(files: Iterable[Path], kind: str, net: str) -> Iterable[tuple[Path, dict[str, Tensor]]]:
    for file in files:
        tensors = read_tensors(file)
        if identify(tensors) == (kind, net):
            yield file, tensors


def _trunk_part(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bare trunk keys from a full torchvision state dict ("features.0.weight") or from bare keys."""
    if any(name.startswith("features.") for name in tensors):
        prefix = "features."
        return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    return dict(tensors)


def _head_shapes(spec: NetSpec) -> dict[str, tuple[int, ...]]:
    return {f"lin{layer}.model.1.weight": (1, channels, 1, 1) for layer, channels in enumerate(spec.channels)}


@functools.cache
def _trunk_shapes(net: str) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in NETS[net].build().state_dict().items()}
