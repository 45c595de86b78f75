"""A small residual classifier of 32 to 256 px images, trained on the user's own data: for class fidelity, utility and
in-domain features. Training it and writing its files is done elsewhere."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from config.errors import UserError

CONFIG_FILE = "classifier.json"
WEIGHTS_FILE = "classifier.safetensors"
_FORMAT = 2  # format 1 lacks norm, pooling, trunk_size and stem_width; their defaults are its values
_SMALLEST_SIZE_PX = 32


@dataclass(frozen=True)
class ClassifierConfig:
    """Shape of a `Classifier`.

    Attributes:
        widths: channels of the residual stages, each at half the side of the last.
        norm: "group" or "batch". "batch" learns faster from batches in which classes are equally frequent.
        pooling: "mean" of the last maps, or "attention", a mean with learned weights, for images of small objects.
        trunk_size: about the side in px of the maps that enter the first residual stage.
        stem_width: channels of the stem before its last convolution, each normalised; 0: half as many at each
            level back from the last, without normalisation.
    """

    im_channels: int
    num_classes: int
    image_size: int
    widths: tuple[int, ...] = (32, 64, 128)
    norm_groups: int = 8
    dropout: float = 0.1
    norm: Literal["group", "batch"] = "group"
    pooling: Literal["mean", "attention"] = "mean"
    trunk_size: int = 16
    stem_width: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        if self.im_channels not in (1, 3):
            raise UserError(f"classifier: expected im_channels of 1 or 3, found {self.im_channels}")
        if self.num_classes < 2:
            raise UserError(f"classifier: expected at least 2 classes, found {self.num_classes}")
        if self.image_size < _SMALLEST_SIZE_PX:
            raise UserError(f"classifier: expected image_size of at least 32 px, found {self.image_size}")
        if self.norm not in ("group", "batch") or self.pooling not in ("mean", "attention"):
            raise UserError("classifier: expected norm of group or batch and pooling of mean or attention, found "
                            f"{self.norm!r} and {self.pooling!r}")
        if not self.widths or any(width < 1 or width % self.norm_groups for width in self.widths):
            raise UserError(f"classifier: expected widths in multiples of {self.norm_groups}, found {self.widths}")
        if not 0.0 <= self.dropout < 1.0:
            raise UserError(f"classifier: expected dropout in [0, 1), found {self.dropout}")


class Classifier(nn.Module):
    """Convolutional classifier: images (B, C, H, W) float in [-1, 1] -> logits (B, num_classes).

    In eval mode an image's output does not depend on its batch. Sides are halved with kernels wider than the stride or
    after a mean, which avoids aliasing of fine texture.
    """

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = _build_stem(config)
        stages: list[nn.Module] = []
        width = config.widths[0]
        for index, next_width in enumerate(config.widths):
            stages.append(_ResidualBlock(width, next_width, config, halve=index > 0))
            width = next_width
        self.stages = nn.Sequential(*stages)
        self.norm = _normalise(config, width)
        self.attention = nn.Conv2d(width, 1, kernel_size=1) if config.pooling == "attention" else None
        if self.attention is not None:
            nn.init.zeros_(self.attention.weight)  # the mean, to begin with
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(width, config.num_classes)
        self.to(memory_format=torch.channels_last)  # half as fast again on a CPU

    @property
    def dimension(self) -> int:
        """Number of features that `features` returns."""
        return self.config.widths[-1]

    def features(self, x: Tensor) -> Tensor:
        """Penultimate features (B, D): the spatial mean of the last stage's activations, weighted by attention if any."""
        x = self.stages(self.stem(x.contiguous(memory_format=torch.channels_last)))  # (B, D, h, w)
        x = F.silu(self.norm(x))
        if self.attention is None:
            return x.mean(dim=(2, 3))
        return (x.flatten(2) * self.attention(x).flatten(2).softmax(dim=2)).sum(dim=2)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, num_classes)."""
        return self.head(self.dropout(self.features(x)))

    def to_files(self) -> dict[str, bytes]:
        """The files that `from_folder` reads, name -> bytes; the caller writes them atomically."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        config = {"format": _FORMAT, **asdict(self.config)}
        return {
            CONFIG_FILE: (json.dumps(config, indent=2) + "\n").encode("utf-8"),
            WEIGHTS_FILE: safetensors.torch.save(tensors),
        }

    @classmethod
    def from_folder(cls, folder: Path | str) -> "Classifier":
        """Load what `to_files` gave, strictly, onto the CPU in eval mode.

        Raises:
            UserError: a file is missing, unreadable, of another format, or the weights do not fit the config.
        """
        folder = Path(folder)
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            if not (folder / name).is_file():
                raise UserError(f"{folder / name}: expected a trained classifier, found nothing; train it first")
        model = cls(_read_config(folder / CONFIG_FILE))
        try:
            tensors = safetensors.torch.load((folder / WEIGHTS_FILE).read_bytes())
            model.load_state_dict(tensors, strict=True)
        except (safetensors.SafetensorError, RuntimeError) as error:
            raise UserError(
                f"{folder / WEIGHTS_FILE}: expected weights that fit {CONFIG_FILE} beside it, found others or a "
                "broken file; train the classifier again"
            ) from error
        return model.eval()


class _ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions, each after a normalisation and SiLU, with a skip; with `halve` after a 2 x 2 mean."""

    def __init__(self, width_in: int, width_out: int, config: ClassifierConfig, *, halve: bool) -> None:
        super().__init__()
        self.halve = halve
        self.norm1 = _normalise(config, width_in)
        self.conv1 = nn.Conv2d(width_in, width_out, kernel_size=3, padding=1, bias=False)
        self.norm2 = _normalise(config, width_out)
        self.conv2 = nn.Conv2d(width_out, width_out, kernel_size=3, padding=1, bias=False)
        self.skip = nn.Identity() if width_in == width_out else nn.Conv2d(width_in, width_out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.halve:
            x = F.avg_pool2d(x, 2)
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return self.skip(x) + h


def _build_stem(config: ClassifierConfig) -> nn.Sequential:
    """Convolutions of kernel 4, stride 2, down to maps of about `trunk_size`, as wide as the first stage."""
    halvings = max(1, round(math.log2(config.image_size / config.trunk_size)))
    layers: list[nn.Module] = []
    channels = config.im_channels
    for step in range(halvings):
        last = step == halvings - 1
        width = config.widths[0] if last else config.stem_width or max(
            config.norm_groups, config.widths[0] >> (halvings - 1 - step))
        layers.append(nn.Conv2d(channels, width, kernel_size=4, stride=2, padding=1))
        if not last:
            layers += [_normalise(config, width), nn.SiLU()] if config.stem_width else [nn.SiLU()]
        channels = width
    return nn.Sequential(*layers)


def _normalise(config: ClassifierConfig, width: int) -> nn.Module:
    return nn.BatchNorm2d(width) if config.norm == "batch" else nn.GroupNorm(config.norm_groups, width)


def _read_config(path: Path) -> ClassifierConfig:
    try:
        values: Any = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}); train the classifier again") from error
    if not isinstance(values, Mapping) or values.get("format") not in range(1, _FORMAT + 1):
        raise UserError(f"{path}: expected a classifier of format {_FORMAT} or earlier; train it again with this "
                        "version")
    fields = {key: value for key, value in values.items() if key != "format"}
    try:
        return ClassifierConfig(**fields)
    except TypeError as error:
        raise UserError(f"{path}: expected the keys of a classifier's config, found {sorted(fields)}") from error
