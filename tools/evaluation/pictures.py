"""Grids of images with their names written in the picture, and real and synthetic images side by side.

The latter show patients' images: for internal use. Owns layout and lettering, not the choice of what is shown.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dataset.images import tile_images
from tools.evaluation.image_set import ImageSet

_COLUMNS, _ROWS = 6, 3  # of images a class on each side
_SMALLEST_TILE_PX = 128  # smaller images are enlarged by a whole factor, so that their pixels stay visible as they are
_MARGIN_PX, _HEADER_PX = 14, 34
_TEXT_PX = 17  # height of letters
_LONGEST_NAME = 60  # letters of a name that are written


def label_grid(rows: Sequence[tuple[str, np.ndarray]], *, num_columns: int, title: str = "") -> np.ndarray:
    """uint8 (H, W, C): images (n, h, w, C) below a title, each set in lines of its own behind its name.

    Small images are enlarged by a whole factor. Sets without an image are left out.
    """
    rows = [(name, enlarge(images)) for name, images in rows if len(images)]
    channels = rows[0][1].shape[3]
    left = max((_measure_text(name) for name, _ in rows), default=0)
    left += 2 * _MARGIN_PX if left else 0
    num_columns = min(num_columns, max(len(images) for _, images in rows))
    blocks = []
    for name, images in rows:
        empty = np.full((-len(images) % num_columns, *images.shape[1:]), 255, np.uint8)
        grid = tile_images(np.concatenate([images, empty]), num_columns=num_columns)
        blocks.append(np.concatenate([write_text_on_white(name, (grid.shape[0], left, channels)), grid], axis=1))
        blocks.append(np.full((_MARGIN_PX // 2, *blocks[-1].shape[1:]), 255, np.uint8))
    picture = np.concatenate(blocks[:-1], axis=0)
    if not title:
        return picture
    width = max(picture.shape[1], _measure_text(title) + 2 * _MARGIN_PX)
    picture = np.pad(picture, ((0, 0), (0, width - picture.shape[1]), (0, 0)), constant_values=255)
    return np.concatenate([write_text_on_white(title, (_HEADER_PX, width, channels)), picture], axis=0)


def enlarge(images: np.ndarray) -> np.ndarray:
    """Images (n, h, w, C) with each pixel repeated until the side has 128 px or more."""
    factor = -(-_SMALLEST_TILE_PX // images.shape[1])
    return images.repeat(factor, axis=1).repeat(factor, axis=2)


def write_text_on_white(text: str, shape: tuple[int, int, int]) -> np.ndarray:
    """A white field uint8 (H, W, C) with black text in the middle of its height; empty where the width is 0."""
    if not shape[1]:
        return np.full(shape, 255, np.uint8)
    field = Image.new("L", (shape[1], shape[0]), 255)
    ImageDraw.Draw(field).text((_MARGIN_PX, shape[0] / 2), _shorten(text), fill=0, font=_open_font(), anchor="lm")
    return np.repeat(np.asarray(field)[..., None], shape[2], axis=2)


def compare_side_by_side(real: ImageSet, synthetic: ImageSet, *, class_names: tuple[str, ...]) -> np.ndarray:
    """uint8 (H, W, C): for each class the first real images on the left, the first synthetic ones on the right."""
    blocks = []
    for label, name in enumerate(class_names):
        sides = [_side(images, label, f"{images_name}: {name}")
                 for images, images_name in ((real, "real, held out"), (synthetic, "synthetic"))]
        gap = np.full((sides[0].shape[0], _MARGIN_PX, sides[0].shape[2]), 255, np.uint8)
        blocks.append(np.concatenate([sides[0], gap, sides[1]], axis=1))
    picture = np.concatenate(blocks, axis=0)
    return np.pad(picture, ((0, _MARGIN_PX), (_MARGIN_PX, _MARGIN_PX), (0, 0)), constant_values=255)


def _side(images: ImageSet, label: int, title: str) -> np.ndarray:
    """The first images of a class under a title; places that a small class leaves empty stay white."""
    chosen = images.select(np.flatnonzero(images.labels == label)[: _COLUMNS * _ROWS]).in_memory()
    enlarged = enlarge(chosen)
    size, channels = enlarged.shape[1], enlarged.shape[3]
    empty = np.full((_COLUMNS * _ROWS - len(chosen), size, size, channels), 255, np.uint8)
    grid = tile_images(np.concatenate([enlarged, empty]), num_columns=_COLUMNS)
    return np.concatenate([write_text_on_white(title, (_HEADER_PX, grid.shape[1], channels)), grid], axis=0)


def _measure_text(text: str) -> int:
    return round(_open_font().getlength(_shorten(text))) if text else 0


def _shorten(text: str) -> str:
    printable = "".join(letter if letter.isprintable() else "?" for letter in text)
    return printable if len(printable) <= _LONGEST_NAME else f"{printable[:_LONGEST_NAME - 3]}..."


@cache
def _open_font() -> ImageFont.FreeTypeFont:
    """The font that comes with matplotlib: it has letters of most alphabets, OpenCV's only those of English."""
    from matplotlib import get_data_path  # half a second that only pictures need

    return ImageFont.truetype(f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf", _TEXT_PX)
