"""Grids of images with their names beside them, and text on white."""

from collections.abc import Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dataset.images import tile_images

_SMALLEST_TILE_PX = 128  # smaller images are enlarged by a whole factor, so that their pixels stay visible as they are
MARGIN_PX, HEADER_PX = 14, 34
_TEXT_PX = 17  # height of letters
_LONGEST_NAME = 60  # letters; longer names are shortened


def label_grid(rows: Sequence[tuple[str, np.ndarray]], *, num_columns: int, title: str = "") -> np.ndarray:
    """uint8 (H, W, C): images (n, h, w, C) below a title, each set on separate lines after its name.

    Small images are enlarged by a whole factor. Empty sets are left out.
    """
    rows = [(name, enlarge(images)) for name, images in rows if len(images)]
    channels = rows[0][1].shape[3]
    left = max((_measure_text(name) for name, _ in rows), default=0)
    left += 2 * MARGIN_PX if left else 0
    num_columns = min(num_columns, max(len(images) for _, images in rows))
    blocks = []
    for name, images in rows:
        empty = np.full((-len(images) % num_columns, *images.shape[1:]), 255, np.uint8)
        grid = tile_images(np.concatenate([images, empty]), num_columns=num_columns)
        blocks.append(np.concatenate([write_text_on_white(name, (grid.shape[0], left, channels)), grid], axis=1))
        blocks.append(np.full((MARGIN_PX // 2, *blocks[-1].shape[1:]), 255, np.uint8))
    picture = np.concatenate(blocks[:-1], axis=0)
    if not title:
        return picture
    width = max(picture.shape[1], _measure_text(title) + 2 * MARGIN_PX)
    picture = np.pad(picture, ((0, 0), (0, width - picture.shape[1]), (0, 0)), constant_values=255)
    return np.concatenate([write_text_on_white(title, (HEADER_PX, width, channels)), picture], axis=0)


def enlarge(images: np.ndarray) -> np.ndarray:
    """Images (n, h, w, C) with each pixel repeated until the side has 128 px or more."""
    factor = -(-_SMALLEST_TILE_PX // images.shape[1])
    return images.repeat(factor, axis=1).repeat(factor, axis=2)


def write_text_on_white(text: str, shape: tuple[int, int, int]) -> np.ndarray:
    """A white field uint8 (H, W, C) with black text in the middle of its height; empty where the width is 0."""
    if not shape[1]:
        return np.full(shape, 255, np.uint8)
    field = Image.new("L", (shape[1], shape[0]), 255)
    ImageDraw.Draw(field).text((MARGIN_PX, shape[0] / 2), _shorten(text), fill=0, font=_open_font(), anchor="lm")
    return np.repeat(np.asarray(field)[..., None], shape[2], axis=2)


def _measure_text(text: str) -> int:
    return round(_open_font().getlength(_shorten(text))) if text else 0


def _shorten(text: str) -> str:
    printable = "".join(letter if letter.isprintable() else "?" for letter in text)
    return printable if len(printable) <= _LONGEST_NAME else f"{printable[:_LONGEST_NAME - 3]}..."


@cache
def _open_font() -> ImageFont.FreeTypeFont:
    """The font that comes with matplotlib: it has letters of most alphabets; OpenCV's font has only English ones."""
    from matplotlib import get_data_path  # half a second that only pictures need

    return ImageFont.truetype(f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf", _TEXT_PX)
