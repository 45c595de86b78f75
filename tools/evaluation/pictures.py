"""Pictures that put real and synthetic images side by side. They show patients' images: for internal use."""

import cv2
import numpy as np

from dataset.images import tile_images
from tools.evaluation.image_set import ImageSet

_COLUMNS, _ROWS = 6, 3  # of images a class on each side
_SMALLEST_TILE_PX = 128  # smaller images are enlarged by a whole factor, so that their pixels stay visible as they are
_MARGIN_PX, _HEADER_PX = 14, 34
_FONT, _FONT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.6


def compare_side_by_side(real: ImageSet, synthetic: ImageSet, *, class_names: tuple[str, ...]) -> np.ndarray:
    """uint8 (H, W, C): for each class the first real images on the left, the first synthetic ones on the right."""
    factor = -(-_SMALLEST_TILE_PX // real.pixels.shape[1])
    blocks = []
    for label, name in enumerate(class_names):
        sides = [_side(images, label, factor, f"{images_name}: {name}")
                 for images, images_name in ((real, "real, held out"), (synthetic, "synthetic"))]
        gap = np.full((sides[0].shape[0], _MARGIN_PX, sides[0].shape[2]), 255, np.uint8)
        blocks.append(np.concatenate([sides[0], gap, sides[1]], axis=1))
    picture = np.concatenate(blocks, axis=0)
    return np.pad(picture, ((0, _MARGIN_PX), (_MARGIN_PX, _MARGIN_PX), (0, 0)), constant_values=255)


def _side(images: ImageSet, label: int, factor: int, title: str) -> np.ndarray:
    """The first images of a class under a title; places that a small class leaves empty stay white."""
    chosen = images.select(np.flatnonzero(images.labels == label)[: _COLUMNS * _ROWS]).in_memory()
    enlarged = chosen.repeat(factor, axis=1).repeat(factor, axis=2)
    size, channels = enlarged.shape[1], enlarged.shape[3]
    empty = np.full((_COLUMNS * _ROWS - len(chosen), size, size, channels), 255, np.uint8)
    grid = tile_images(np.concatenate([enlarged, empty]), num_columns=_COLUMNS)
    header = np.full((_HEADER_PX, grid.shape[1], channels), 255, np.uint8)
    header = np.ascontiguousarray(header)
    cv2.putText(header, title, (2, _HEADER_PX - 11), _FONT, _FONT_SCALE, (0,) * channels, 1, cv2.LINE_AA)
    return np.concatenate([header, grid], axis=0)
