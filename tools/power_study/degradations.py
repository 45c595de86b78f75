"""Faults of graded strength to plant in real images, to measure which features find them. Pixels in, pixels out."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from dataset.order import generator

_SEED = 0  # of the noise; part of the study, not of a run


@dataclass(frozen=True)
class Degradation:
    """One fault. `strengths` go from the weakest to the strongest; `apply` takes uint8 images (N, H, W, C) and one."""

    name: str
    unit: str
    strengths: tuple[float, ...]
    apply: Callable[[np.ndarray, float], np.ndarray]


def blur(images: np.ndarray, sigma_px: float) -> np.ndarray:
    """A Gaussian blur."""
    return np.stack([cv2.GaussianBlur(image, (0, 0), sigma_px).reshape(image.shape) for image in images])


def add_noise(images: np.ndarray, levels: float) -> np.ndarray:
    """Gaussian noise of a standard deviation in gray levels, independent in each pixel and equal in all channels."""
    noise = generator(_SEED, "power noise").standard_normal(images.shape[:3])[..., None]
    return _to_8_bit(images + levels * noise)


def tint(images: np.ndarray, fraction: float) -> np.ndarray:
    """Red brighter and blue darker by a fraction, as RGB."""
    colour = np.repeat(images, 3, axis=3) if images.shape[3] == 1 else images
    return _to_8_bit(colour * np.array([1 + fraction, 1, 1 - fraction]))


def lower_contrast(images: np.ndarray, fraction: float) -> np.ndarray:
    """Differences from each image's mean smaller by a fraction."""
    mean = images.mean(axis=(1, 2), keepdims=True)
    return _to_8_bit(mean + (1 - fraction) * (images - mean))


def mix(images: np.ndarray, others: np.ndarray, fraction: float) -> np.ndarray:
    """A fraction of the other images, such as round trips through a VAE, mixed into images of the same shape."""
    return _to_8_bit((1 - fraction) * images + fraction * others.astype(np.float64))


def _to_8_bit(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


PIXEL_FAULTS = (
    Degradation("blur", "sigma, px", (0.35, 0.45, 0.6, 0.8, 1.0), blur),
    Degradation("noise", "standard deviation, gray levels", (0.5, 1.0, 2.0, 4.0, 8.0), add_noise),
    Degradation("tint", "red up and blue down by", (0.01, 0.02, 0.04, 0.08), tint),
    Degradation("contrast", "lower by", (0.05, 0.1, 0.2, 0.4), lower_contrast),
)
ROUND_TRIP_FRACTIONS = (0.125, 0.25, 0.5, 1.0)
