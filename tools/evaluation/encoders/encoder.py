"""Encoders: 8-bit images -> feature vectors, behind one interface that also says what a distance between such vectors
may be called. Owns presets and names; the networks lie in inception.py, dinov2.py, trunks.py and
models/."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from config.errors import UserError
from dataset.storage import hash_file
from models.autoencoder import LatentCodec, hash_autoencoder, load_codec, read_autoencoder_config
from models.classifier import WEIGHTS_FILE, Classifier
from tools.evaluation.encoders import dinov2, inception
from tools.evaluation.encoders.trunks import build_trunk, find_trunk
from tools.evaluation.encoders.untrained import DEFINITIONS, UNTRAINED, UntrainedDefinition, build_untrained
from tools.evaluation.inference import check_images, exact_inference, to_rgb, to_tensor
from tools.evaluation.metric_keys import OFFICIAL

ENCODERS = ("inception", "squeezenet1_1", "classifier", "dinov2", "vae", *UNTRAINED)
# ImageNet statistics of torchvision's published weights, for inputs in [0, 1].
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
# Least side in px for each preset. The trunk was trained at 224 px: on 64 px images of cells, blur of one pixel stands
# 21 times above the real-against-real distance when they are enlarged to 224 px, 3 times when they are not.
_SQUEEZENET_PRESETS = {"imagenet-min224": 224, "imagenet-min64": 64}
# Cells a side of the grid that latents are averaged to. All 16,384 values of a 4 x 64 x 64 latent are far more than a few
# hundred images can fill, and mostly noise fixed to a place; one mean a channel would lose where things lie.
_VAE_GRID = 8


class Encoder(Protocol):
    """What features, metrics and the report know of an encoder."""

    name: str
    preset: str
    weights_sha256: str
    literature_comparable: bool
    dimension: int

    @property
    def space(self) -> str:
        """What the keys of metrics are about: OFFICIAL where the weights are, else "name@sha8,preset"."""
        ...

    def encode(
        self, images: np.ndarray, *, batch_size: int = 32, progress: Callable[[int], None] | None = None
    ) -> np.ndarray:
        """uint8 (N, H, W, C), C of 1 or 3 -> float32 (N, dimension); `progress` gets the count of images done."""
        ...


class _NetworkEncoder:
    """The common part: batching, exact arithmetic and names around a network and its preprocessing."""

    def __init__(
        self,
        *,
        name: str,
        preset: str,
        weights_sha256: str,
        literature_comparable: bool,
        dimension: int,
        network: nn.Module,
        prepare: Callable[[np.ndarray, torch.device], Tensor],
        device: torch.device | str,
    ) -> None:
        self.name = name
        self.preset = preset
        self.weights_sha256 = weights_sha256
        self.literature_comparable = literature_comparable
        self.dimension = dimension
        self.device = torch.device(device)
        self._network = network.to(self.device).eval()
        self._prepare = prepare

    @property
    def space(self) -> str:
        return OFFICIAL if self.literature_comparable else f"{self.name}@{self.weights_sha256[:8]},{self.preset}"

    def encode(
        self, images: np.ndarray, *, batch_size: int = 32, progress: Callable[[int], None] | None = None
    ) -> np.ndarray:
        images = check_images(images)
        features = np.empty((len(images), self.dimension), dtype=np.float32)
        with exact_inference(self.device):
            for start in range(0, len(images), batch_size):
                batch = self._prepare(images[start : start + batch_size], self.device)
                features[start : start + batch_size] = self._network(batch).to(torch.float32).cpu().numpy()
                if progress is not None:
                    progress(min(start + batch_size, len(images)))
        return features


def load_encoder(
    name: str,
    *,
    weights_path: Path | str | None,
    preset: str | None = None,
    device: torch.device | str = "cpu",
) -> Encoder:
    """Load encoder `name` from local weights.

    inception: the FID network, presets "tf1" (default) and "clean"; 2048 features.
    squeezenet1_1: ImageNet trunk, mean of the last Fire block, presets "imagenet-min224" (default: sides under 224 px
    enlarged bilinearly to 224, larger ones as they are) and "imagenet-min64" (faster, far less sensitive); 512
    features.
    classifier: a folder written from models.classifier, preset "symmetric".
    dinov2: a folder of transformers' Dinov2Model or a hub id, preset "square224"; the class token.
    vae: the folder of a diffusers autoencoder, preset "grid8": its posterior mean, averaged to 8 x 8 cells. It sees the
    layout, not the finest texture, and it is no judge of images that the same autoencoder decoded.
    untrained_*: seeded random networks of untrained.py, preset "native": images keep their size. They need no weights.
    Only dinov2 is fetched here, and only where a hub id is given.

    Raises:
        UserError: unknown encoder or preset, or weights missing, unreadable or of another network.
    """
    loaders = {"inception": _load_inception, "squeezenet1_1": _load_squeezenet, "classifier": _load_classifier,
               "dinov2": _load_dinov2, "vae": _load_vae,
               **{name: partial(_load_untrained, name) for name in UNTRAINED}}
    if name not in loaders:
        raise UserError(f"expected an encoder among {', '.join(ENCODERS)}, found {name!r}")
    path = None if weights_path is None else Path(weights_path)  # a hub id passes through unchanged
    return loaders[name](path, preset, device)


def _load_inception(path: Path | None, preset: str | None, device: torch.device | str) -> Encoder:
    preset = _choose(preset, inception.PRESETS, "inception")
    network, sha256, official = inception.load_inception(path)
    return _NetworkEncoder(
        name="inception",
        preset=preset,
        weights_sha256=sha256,
        literature_comparable=official,
        dimension=inception.DIMENSION,
        network=network,
        prepare=lambda images, where: inception.preprocess(to_rgb(images), preset, device=where),
        device=device,
    )


def _load_squeezenet(path: Path | None, preset: str | None, device: torch.device | str) -> Encoder:
    preset = _choose(preset, tuple(_SQUEEZENET_PRESETS), "squeezenet1_1")
    trunk = find_trunk(path, "squeeze", key="evaluation_params.squeezenet_path")
    return _NetworkEncoder(
        name="squeezenet1_1",
        preset=preset,
        weights_sha256=trunk.sha256,
        literature_comparable=False,
        dimension=512,
        network=nn.Sequential(build_trunk("squeeze", trunk.tensors), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        prepare=lambda images, where: _prepare_imagenet(images, where, _SQUEEZENET_PRESETS[preset]),
        device=device,
    )


def _load_classifier(path: Path | None, preset: str | None, device: torch.device | str) -> Encoder:
    preset = _choose(preset, ("symmetric",), "classifier")
    if path is None:
        raise UserError(
            "encoder classifier: expected a folder with a trained classifier, found none in the config; name it in "
            "evaluation_params.classifier_path"
        )
    classifier = Classifier.from_folder(path)

    def prepare(images: np.ndarray, where: torch.device) -> Tensor:
        size, channels = classifier.config.image_size, classifier.config.im_channels
        if images.shape[3] == 1:
            images = images.repeat(channels, axis=3)  # gray, kept as one channel
        if images.shape[1:] != (size, size, channels):
            raise UserError(
                f"encoder classifier: expected images {size} x {size} x {channels} as in its training, found "
                f"{' x '.join(map(str, images.shape[1:]))}"
            )
        return to_tensor(images, where) / 127.5 - 1.0

    return _NetworkEncoder(
        name="classifier",
        preset=preset,
        weights_sha256=hash_file(path / WEIGHTS_FILE),
        literature_comparable=False,
        dimension=classifier.dimension,
        network=_PenultimateFeatures(classifier),
        prepare=prepare,
        device=device,
    )


def _load_dinov2(path: Path | None, preset: str | None, device: torch.device | str) -> Encoder:
    preset = _choose(preset, ("square224",), "dinov2")
    network, sha256 = dinov2.load_dinov2(path)
    return _NetworkEncoder(
        name="dinov2",
        preset=preset,
        weights_sha256=sha256,
        literature_comparable=False,
        dimension=network.dimension,
        network=network,
        prepare=lambda images, where: dinov2.preprocess(images, device=where),
        device=device,
    )


def _load_vae(path: Path | None, preset: str | None, device: torch.device | str) -> Encoder:
    preset = _choose(preset, ("grid8",), "vae")
    if path is None:
        raise UserError("encoder vae: expected the folder of a diffusers autoencoder, found none in the config; name it in "
                        "autoencoder_params.pretrained")
    channels = int(read_autoencoder_config(path).get("in_channels", 3))
    codec = load_codec(path, im_channels=channels)

    def prepare(images: np.ndarray, where: torch.device) -> Tensor:
        if images.shape[3] == 1:
            images = images.repeat(channels, axis=3)
        if images.shape[3] != channels:
            raise UserError(f"encoder vae: expected gray images or images of {channels} channels, found {images.shape[3]}")
        return to_tensor(images, where) / 127.5 - 1.0

    network = _GridOfLatents(codec)
    probe = torch.zeros(1, channels, 64, 64)
    with exact_inference(torch.device("cpu")):
        dimension = network(probe).shape[1]
    return _NetworkEncoder(
        name="vae",
        preset=preset,
        weights_sha256=hash_autoencoder(path),
        literature_comparable=False,
        dimension=dimension,
        network=network,
        prepare=prepare,
        device=device,
    )


def _load_untrained(name: str, _path: Path | None, preset: str | None, device: torch.device | str) -> Encoder:
    definition = DEFINITIONS[name]
    _choose(preset, (definition.preset,), name)
    return make_untrained(name, definition, device=device)


def make_untrained(name: str, definition: UntrainedDefinition, *, device: torch.device | str = "cpu") -> Encoder:
    """The encoder of any definition, under a name that starts with `untrained`."""
    return _NetworkEncoder(
        name=name,
        preset=definition.preset,
        weights_sha256=definition.sha256(),
        literature_comparable=False,
        dimension=definition.dimension,
        network=build_untrained(definition),
        prepare=lambda images, where: to_tensor(to_rgb(images), where),
        device=device,
    )


class _GridOfLatents(nn.Module):
    """Images (B, c, H, W) in [-1, 1] -> the posterior mean, averaged to a grid and flattened: (B, C * 64)."""

    def __init__(self, codec: LatentCodec) -> None:
        super().__init__()
        self.codec = codec
        self.vae = codec.vae  # a module, so that it moves with this one

    def forward(self, x: Tensor) -> Tensor:
        mean, _ = self.codec.encode(x)
        return F.adaptive_avg_pool2d(mean, _VAE_GRID).flatten(1)


class _PenultimateFeatures(nn.Module):
    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier.features(x)


def _prepare_imagenet(images: np.ndarray, device: torch.device, min_size_px: int) -> Tensor:
    x = to_tensor(to_rgb(images), device) / 255.0
    size = [max(side, min_size_px) for side in x.shape[2:]]
    if size != list(x.shape[2:]):
        x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
    mean = torch.tensor(_IMAGENET_MEAN, device=device).view(1, 3, 1, 1)
    std = torch.tensor(_IMAGENET_STD, device=device).view(1, 3, 1, 1)
    return (x - mean) / std


def _choose(preset: str | None, allowed: tuple[str, ...], encoder: str) -> str:
    if preset is None:
        return allowed[0]
    if preset not in allowed:
        raise UserError(f"encoder {encoder}: expected a preset among {', '.join(allowed)}, found {preset!r}")
    return preset
