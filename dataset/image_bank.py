"""Prepared images kept in memory up to a limit, for training networks on pixels."""

from collections.abc import Sequence

import torch

from dataset.latents import LabelledImages

_LIMIT_BYTES = 2 << 30  # a few thousand 256 px gray images; beyond it images are read from disk each time


class ImageBank:
    """Images of a data set by position, decoded once while they fit in memory."""

    def __init__(self, images: LabelledImages, *, limit_bytes: int = _LIMIT_BYTES) -> None:
        self._images = images
        self._room = limit_bytes
        self._kept: dict[int, torch.Tensor] = {}

    def batch(self, positions: Sequence[int]) -> torch.Tensor:
        """Images float32 (B, C, H, W) in [-1, 1] at these positions."""
        return torch.stack([self._read(int(position)) for position in positions])

    def _read(self, position: int) -> torch.Tensor:
        if position in self._kept:
            return self._kept[position]
        image = self._images[position][0]
        size = image.numel() * image.element_size()
        if size <= self._room:
            self._room -= size
            self._kept[position] = image
        return image
