"""Structural similarity of 8-bit images, one pair or many. Higher is more alike; a higher mean over unpaired images
is not better, which is for the report to say."""

import cv2
import numpy as np

from config.errors import UserError

DATA_RANGE = 255.0
_SIGMA_PX = 1.5
_RADIUS_PX = 5  # round(truncate 3.5 * sigma 1.5)
_MIN_SIZE_PX = 2 * _RADIUS_PX + 1
_K1, _K2 = 0.01, 0.03
_STACK_BYTES = 1 << 20  # of float64 products filtered in one call
_MOMENT_BYTES = 1 << 30  # of local moments held for all images; beyond that they are made anew for each stack


def ssim(x: np.ndarray, y: np.ndarray, *, data_range: float = DATA_RANGE) -> float:
    """Mean structural similarity of two images (H, W) or (H, W, C) of one shape, in float64.

    Gaussian window of sigma 1.5 px cut at 5 px, population covariance, a border of 5 px left out, the mean over
    channels. `data_range` is the span of the values' type (255 for 8 bits), not of the image.

    Raises:
        UserError: shapes differ, or a side is under 11 px.

    Source: Wang et al. 2004, IEEE TIP 13(4), equation 13, K1 = 0.01, K2 = 0.03.
    """
    x, y = _with_channels(np.asarray(x)[None], "first"), _with_channels(np.asarray(y)[None], "second")
    return float(_pairwise(x, y, np.zeros((1, 2), dtype=np.int64), data_range)[0])


def pairwise_ssim(a: np.ndarray, b: np.ndarray, pairs: np.ndarray, *, data_range: float = DATA_RANGE) -> np.ndarray:
    """`ssim` of a[i] and b[j] for each row (i, j) of `pairs` (P, 2): float64 (P,).

    `a` and `b` are (N, H, W) or (N, H, W, C). The local means and squares are made once an image.

    Raises:
        UserError: as `ssim`, or an index outside the images.
    """
    a, b = _with_channels(np.asarray(a), "first"), _with_channels(np.asarray(b), "second")
    pairs = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
    if len(pairs) and (pairs.min() < 0 or pairs[:, 0].max() >= len(a) or pairs[:, 1].max() >= len(b)):
        raise UserError(f"expected pairs below ({len(a)}, {len(b)}), found indices up to {pairs.max(axis=0).tolist()}")
    return _pairwise(a, b, pairs, data_range)


def _with_channels(images: np.ndarray, name: str) -> np.ndarray:
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or min(images.shape[1:3]) < _MIN_SIZE_PX:
        raise UserError(
            f"SSIM: expected images of at least {_MIN_SIZE_PX} x {_MIN_SIZE_PX} px, found the {name} of shape "
            f"{images.shape[1:]}; its window is {_MIN_SIZE_PX} px wide"
        )
    return images


def _pairwise(a: np.ndarray, b: np.ndarray, pairs: np.ndarray, data_range: float) -> np.ndarray:
    if a.shape[1:] != b.shape[1:]:
        raise UserError(f"SSIM: expected images of one shape, found {a.shape[1:]} and {b.shape[1:]}; resize one side")
    height, width, channels = a.shape[1:]
    result = np.zeros(len(pairs))
    stack = max(1, _STACK_BYTES // (8 * height * width))
    hold = 16 * height * width * (len(a) + len(b)) <= _MOMENT_BYTES
    for channel in range(channels):
        images_a, images_b = a[..., channel], b[..., channel]
        if hold:
            moments_a = _moments(images_a)
            moments_b = moments_a if a is b else _moments(images_b)
        for start in range(0, len(pairs), stack):
            block = pairs[start : start + stack]
            i, j = block[:, 0], block[:, 1]
            x, y = images_a[i].astype(np.float64), images_b[j].astype(np.float64)
            if hold:
                local_x, local_y = moments_a[:, i], moments_b[:, j]
            else:
                local_x, local_y = _moments(x), _moments(y)
            result[start : start + stack] += _similarity(local_x, local_y, _smooth(x * y), data_range) / channels
    return result


def _similarity(moments_x: np.ndarray, moments_y: np.ndarray, mean_xy: np.ndarray, data_range: float) -> np.ndarray:
    """Mean over the map of equation 13 for each image: moments (2, B, h, w), mean_xy (B, h, w) -> (B,)."""
    (mean_x, square_x), (mean_y, square_y) = moments_x, moments_y
    c1, c2 = (_K1 * data_range) ** 2, (_K2 * data_range) ** 2
    product = mean_x * mean_y
    squares = mean_x**2 + mean_y**2
    covariance = mean_xy - product
    variances = square_x + square_y - squares
    values = (2.0 * product + c1) * (2.0 * covariance + c2) / ((squares + c1) * (variances + c2))
    return values.mean(axis=(1, 2))


def _moments(images: np.ndarray) -> np.ndarray:
    """Local mean and mean square of images (N, H, W): float64 (2, N, H - 10, W - 10)."""
    height, width = images.shape[1:]
    moments = np.empty((2, len(images), height - 2 * _RADIUS_PX, width - 2 * _RADIUS_PX))
    stack = max(1, _STACK_BYTES // (8 * height * width))
    for start in range(0, len(images), stack):
        values = images[start : start + stack].astype(np.float64)
        moments[0, start : start + stack] = _smooth(values)
        moments[1, start : start + stack] = _smooth(values * values)
    return moments


def _smooth(images: np.ndarray) -> np.ndarray:
    """Gaussian mean where the window fits: (N, H, W) float64 -> (N, H - 10, W - 10).

    The images are filtered as one tall picture; what runs over from a neighbour lies in the rows cut off.
    """
    count, height, width = images.shape
    offsets = np.arange(-_RADIUS_PX, _RADIUS_PX + 1)
    window = np.exp(-0.5 * (offsets / _SIGMA_PX) ** 2)
    window /= window.sum()
    tall = np.ascontiguousarray(images).reshape(count * height, width)
    smooth = cv2.sepFilter2D(tall, cv2.CV_64F, window, window).reshape(count, height, width)
    return smooth[:, _RADIUS_PX:-_RADIUS_PX, _RADIUS_PX:-_RADIUS_PX]
