"""An image file in a few numbers: size, depth, gray or colour, contrast, focus, and the hash of its pixels.

Opens each file once. Outliers are relative to the set itself; problems.py decides what follows from them.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from dataset.decoding import decode_image
from dataset.images import is_gray
from tools.evaluation.image_measures import laplacian_ratio
from tools.inspection.perceptual_hash import make_thumbnail

_FOCUS_SIDE_PX = 256  # focus is measured at this size at most: at full camera size it would measure pixel noise
_NUM_DEVIATIONS = 6.0  # robust standard deviations from the median that make an outlier
_LEAST_RATIO = 2.0  # and at least this many times more or less than the median


@dataclass(frozen=True, slots=True)
class ImageStatistics:
    """One file's numbers. `contrast` is the standard deviation of its gray values as a fraction of the range of its type,
    `focus` the variance of its Laplacian over the variance of its gray values, `peak` its largest stored value."""

    width: int
    height: int
    channels: int
    gray: bool
    bits: int
    peak: int
    contrast: float
    focus: float
    content: bytes  # hash of the pixels: equal for equal pictures, whatever the format


def measure_image(path: Path) -> tuple[ImageStatistics, np.ndarray]:
    """The numbers of a file and its thumbnail, uint8 (32, 32).

    Raises:
        ImageError: the file gives no image.
    """
    pixels = decode_image(path)
    gray = is_gray(pixels)
    one = pixels[..., 0] if pixels.ndim == 3 and gray else pixels
    digest = hashlib.blake2b(f"{one.shape} {one.dtype}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(one))
    limit = np.iinfo(pixels.dtype).max
    shades = (one if one.ndim == 2 else cv2.cvtColor(one, cv2.COLOR_RGB2GRAY)).astype(np.float32) / np.float32(limit)
    variance = float(shades.var())
    statistics = ImageStatistics(
        width=pixels.shape[1], height=pixels.shape[0], channels=1 if pixels.ndim == 2 else 3, gray=gray,
        bits=8 * pixels.dtype.itemsize, peak=int(pixels.max()), contrast=variance**0.5,
        focus=_measure_focus(shades), content=digest.digest(),
    )
    return statistics, make_thumbnail(shades)


def find_outliers(values: np.ndarray, *, low_only: bool) -> np.ndarray:
    """Positions of values (N,), positive, that are far from the others on a logarithmic scale; none below 20 values.

    Far is six robust standard deviations (1.4826 times the median absolute deviation) and a factor of two.
    """
    if len(values) < 20:
        return np.empty(0, np.int64)
    logs = np.log(np.maximum(values, 1e-12))
    distance = logs - np.median(logs)
    limit = max(_NUM_DEVIATIONS * 1.4826 * float(np.median(np.abs(distance))), float(np.log(_LEAST_RATIO)))
    return np.flatnonzero(distance < -limit if low_only else np.abs(distance) > limit)


def _measure_focus(shades: np.ndarray) -> float:
    height, width = shades.shape
    scale = _FOCUS_SIDE_PX / max(height, width)
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        shades = cv2.resize(shades, size, interpolation=cv2.INTER_AREA)
    return laplacian_ratio(shades)
