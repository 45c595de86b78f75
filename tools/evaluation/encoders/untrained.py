"""Networks that were never trained: seeded random convolutions, defined by code and seed alone, as features of images.

They need no file and saw no data, so no training made them blind to what it did not ask for. Which fault they find at
which strength is measured by `python -m tools.power_study`.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dataset.order import generator
from dataset.storage import hash_json
from tools.evaluation.encoders.trunks import NETS

_MIDDLE, _SPREAD = 0.5, 0.25  # of the input range [0, 1]: what the networks see lies in [-2, 2]
_SQUEEZENET_DIMENSION = 512
# Of texture features, chosen by measured power on public images (docs/features.md):
_SMALLEST = 1e-3  # added to a map's mean and spread before the logarithm, so that flat images have one
_LEVEL_WEIGHT = 0.3  # of overall contrast and of colour beside each stage: both vary much between real images
_BRIGHTNESS, _TINT = 0.3, 3.0  # weight of mean brightness and of differences between colours


@dataclass(frozen=True)
class UntrainedDefinition:
    """All that decides the weights and features of a network.

    Attributes:
        widths: channels of each stage; every stage halves the side of the one before. None: SqueezeNet 1.1's layers, and
            as features the mean of the last one's channels alone.
        convolutions: 3 x 3 convolutions in each stage, each with a ReLU.
        texture: filters sum to zero, so that they see differences between pixels and not brightness. Features are
            logarithms relative to their mean over all channels, which is a feature too: the shape of the spectrum, apart
            from contrast. Stages weigh alike. Else features are the mean and spread of each channel as they are.
        least_side_px: smaller images are enlarged to it, bilinearly.
        seed: of the weights, which are normal with variance 2 / fan-in (He et al. 2015, arXiv 1502.01852).
    """

    widths: tuple[int, ...] | None
    convolutions: int = 1
    texture: bool = False
    least_side_px: int = 0
    seed: int = 0

    @property
    def dimension(self) -> int:
        """Features of an image."""
        if self.widths is None:
            return _SQUEEZENET_DIMENSION
        return 2 * sum(self.widths) + (4 if self.texture else 0)

    @property
    def preset(self) -> str:
        """What happens to an image's size."""
        return f"min{self.least_side_px}" if self.least_side_px else "native"

    def sha256(self) -> str:
        """Hash of the definition. The weights follow from it; their last bits may differ between machines."""
        return hash_json({"network": "untrained convolutions", "version": 2, **asdict(self)})


DEFINITIONS = {
    "untrained_conv": UntrainedDefinition(widths=(16, 32, 64, 128)),
    "untrained_texture": UntrainedDefinition(widths=(16, 32, 64, 128), texture=True),
}
UNTRAINED = tuple(DEFINITIONS)  # the encoders that every evaluation computes


def build_untrained(definition: UntrainedDefinition) -> nn.Module:
    """The network: images (B, 3, H, W), values 0..255, sides of 16 px or more -> features (B, dimension)."""
    network = _SqueezeNet(definition) if definition.widths is None else _Convolutions(definition)
    return network.eval().requires_grad_(False)


class _Convolutions(nn.Module):
    """Mean and spread of each channel's map after each stage, or what texture features make of them."""

    def __init__(self, definition: UntrainedDefinition) -> None:
        super().__init__()
        self.definition = definition
        self.stages = nn.ModuleList()
        for index, (inner, outer) in enumerate(pairwise((3, *(definition.widths or ())))):
            inputs = (inner, *[outer] * (definition.convolutions - 1))
            self.stages.append(nn.ParameterList(
                _random_filters(definition, (index, number), (outer, channels, 3, 3))
                for number, channels in enumerate(inputs)))

    def forward(self, x: Tensor) -> Tensor:
        x = _scale(x, self.definition.least_side_px)
        colours, pooled = x.mean(dim=(2, 3)), []
        for index, filters in enumerate(self.stages):
            x = F.avg_pool2d(x, 2) if index else x
            for weight in filters:
                x = F.relu(F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), weight))
            pooled.append(torch.cat([x.mean(dim=(2, 3)), x.std(dim=(2, 3), correction=0)], dim=1))
        return _texture_features(colours, pooled) if self.definition.texture else torch.cat(pooled, dim=1)


def _texture_features(colours: Tensor, pooled: Sequence[Tensor]) -> Tensor:
    """Means of the colours (B, 3) and the means and spreads of each stage's maps (B, 2 * width) -> (B, dimension)."""
    stages = [(values + _SMALLEST).log() for values in pooled]
    level = torch.cat(stages, dim=1).mean(dim=1, keepdim=True)
    alike = sum(stage.shape[1] for stage in stages) / len(stages)  # features of a stage if all had as many
    red, green, blue = colours.split(1, dim=1)
    overall = [level, _BRIGHTNESS * colours.mean(dim=1, keepdim=True), _TINT * (red - green), _TINT * (blue - green)]
    return torch.cat([*((stage - level) * (alike / stage.shape[1]) ** 0.5 for stage in stages),
                      *(_LEVEL_WEIGHT * alike**0.5 * one for one in overall)], dim=1)


class _SqueezeNet(nn.Module):
    """The mean of each channel of SqueezeNet 1.1's last layer, with random filters and no biases."""

    def __init__(self, definition: UntrainedDefinition) -> None:
        super().__init__()
        self.least_side_px = definition.least_side_px
        with torch.device("meta"):
            trunk = NETS["squeeze"].build()
        weights = {name: _random_filters(definition, (place,), tuple(tensor.shape)) if tensor.ndim == 4
                   else torch.zeros(tensor.shape) for place, (name, tensor) in enumerate(trunk.state_dict().items())}
        trunk.load_state_dict(weights, assign=True)
        self.trunk = trunk

    def forward(self, x: Tensor) -> Tensor:
        return self.trunk(_scale(x, self.least_side_px)).mean(dim=(2, 3))


def _scale(x: Tensor, least_side_px: int) -> Tensor:
    """Values 0..255 -> -2..2, enlarged where a side is smaller."""
    x = (x / 255.0 - _MIDDLE) / _SPREAD
    size = [max(side, least_side_px) for side in x.shape[2:]]
    return x if size == list(x.shape[2:]) else F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def _random_filters(definition: UntrainedDefinition, address: Sequence[int], shape: Sequence[int]) -> nn.Parameter:
    values = generator(definition.seed, "untrained filters", *address).standard_normal(tuple(shape))
    if definition.texture:
        values -= values.mean(axis=(2, 3), keepdims=True)
        values *= np.sqrt(9 / 8)  # what the removed mean had of the variance
    return nn.Parameter(torch.from_numpy((values * np.sqrt(2.0 / np.prod(shape[1:]))).astype(np.float32)),
                        requires_grad=False)
