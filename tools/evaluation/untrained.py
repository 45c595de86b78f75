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

_MIDDLE, _SPREAD = 0.5, 0.25  # of the input range [0, 1]: what the networks see lies in [-2, 2]


@dataclass(frozen=True)
class UntrainedDefinition:
    """All that decides the weights and features of a network.

    Attributes:
        widths: channels of each stage; every stage halves the side of the one before.
        convolutions: 3 x 3 convolutions in each stage, each with a ReLU.
        seed: of the weights, which are normal with variance 2 / fan-in (He et al. 2015, arXiv 1502.01852).
    """

    widths: tuple[int, ...]
    convolutions: int
    seed: int = 0

    @property
    def dimension(self) -> int:
        """Features of an image: mean and spread of every channel of every stage."""
        return 2 * sum(self.widths)

    def sha256(self) -> str:
        """Hash of the definition. The weights follow from it; their last bits may differ between machines."""
        return hash_json({"network": "untrained convolutions", "version": 1, **asdict(self)})


DEFINITIONS = {"untrained_conv": UntrainedDefinition(widths=(32, 64, 128, 256), convolutions=2)}
UNTRAINED = tuple(DEFINITIONS)  # the encoders that every evaluation computes


class UntrainedNetwork(nn.Module):
    """Images (B, 3, H, W), values 0..255, sides of 16 px or more -> (B, dimension): mean and spread of each channel's map
    after each stage."""

    def __init__(self, definition: UntrainedDefinition) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        widths = (3, *definition.widths)
        for index, (inner, outer) in enumerate(pairwise(widths)):
            inputs = (inner, *[outer] * (definition.convolutions - 1))
            self.stages.append(nn.ParameterList(
                nn.Parameter(_random_filters(definition.seed, (index, number), (outer, channels, 3, 3)), requires_grad=False)
                for number, channels in enumerate(inputs)))

    def forward(self, x: Tensor) -> Tensor:
        x, features = (x / 255.0 - _MIDDLE) / _SPREAD, []
        for index, filters in enumerate(self.stages):
            x = F.avg_pool2d(x, 2) if index else x
            for weight in filters:
                x = F.relu(F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), weight))
            features += [x.mean(dim=(2, 3)), x.std(dim=(2, 3), correction=0)]
        return torch.cat(features, dim=1)


def _random_filters(seed: int, address: Sequence[int], shape: tuple[int, int, int, int]) -> Tensor:
    values = generator(seed, "untrained filters", *address).standard_normal(shape)
    return torch.from_numpy((values * np.sqrt(2.0 / np.prod(shape[1:]))).astype(np.float32))
