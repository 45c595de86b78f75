"""Real and synthetic images of each class side by side, as one picture. It shows patients' images: for internal use."""

import numpy as np

from dataset.images import tile_images
from tools.evaluation.image_set import ImageSet
from tools.runtime.image_grid import HEADER_PX, MARGIN_PX, enlarge, write_text_on_white

_COLUMNS, _ROWS = 6, 3  # of images a class on each side


def compare_side_by_side(real: ImageSet, synthetic: ImageSet, *, class_names: tuple[str, ...]) -> np.ndarray:
    """uint8 (H, W, C): for each class the first real images on the left, the first synthetic ones on the right."""
    blocks = []
    for label, name in enumerate(class_names):
        sides = [_side(images, label, f"{images_name}: {name}")
                 for images, images_name in ((real, "real, held out"), (synthetic, "synthetic"))]
        gap = np.full((sides[0].shape[0], MARGIN_PX, sides[0].shape[2]), 255, np.uint8)
        blocks.append(np.concatenate([sides[0], gap, sides[1]], axis=1))
    picture = np.concatenate(blocks, axis=0)
    return np.pad(picture, ((0, MARGIN_PX), (MARGIN_PX, MARGIN_PX), (0, 0)), constant_values=255)


def _side(images: ImageSet, label: int, title: str) -> np.ndarray:
    """The first images of a class under a title; places that a small class leaves empty stay white."""
    chosen = images.select(np.flatnonzero(images.labels == label)[: _COLUMNS * _ROWS]).in_memory()
    enlarged = enlarge(chosen)
    size, channels = enlarged.shape[1], enlarged.shape[3]
    empty = np.full((_COLUMNS * _ROWS - len(chosen), size, size, channels), 255, np.uint8)
    grid = tile_images(np.concatenate([enlarged, empty]), num_columns=_COLUMNS)
    return np.concatenate([write_text_on_white(title, (HEADER_PX, grid.shape[1], channels)), grid], axis=0)
