"""Reference rows: how far apart two sets are whose difference is known. They give the scale for every other distance."""

import cv2
import numpy as np

from dataset.order import generator
from tools.evaluation.evaluation_sets import SEED
from tools.evaluation.features import Features
from tools.evaluation.image_set import count_labels, draw_matched, halve_groups, matched_counts

_NOISE_LEVELS = 1.0  # gray levels
_BLUR_PX = 1.0


def blur(pixels: np.ndarray) -> np.ndarray:
    """uint8 (N, H, W, C) after a Gaussian blur of one pixel, rounded."""
    return np.stack([cv2.GaussianBlur(image, (0, 0), _BLUR_PX).reshape(image.shape) for image in pixels])


def add_noise(pixels: np.ndarray) -> np.ndarray:
    """uint8 (N, H, W, C) with Gaussian noise of one gray level, rounded and clipped."""
    rng = generator(SEED, "noised")
    noised = np.empty_like(pixels)
    for image, place in zip(pixels, noised, strict=True):  # image by image: noise for all would be held in float64
        place[...] = np.clip(np.rint(image + _NOISE_LEVELS * rng.standard_normal(image.shape)), 0, 255)
    return noised


def split_halves(train: Features, real_labels: np.ndarray, num_classes: int) -> tuple[Features, Features]:
    """Two halves of the training groups, each with the numbers per class of the held-out images as far as they go."""
    halves = [train.select(half) for half in halve_groups(train.groups, rng=generator(SEED, "halves"))]
    have = [count_labels(labels, num_classes) for labels in (real_labels, *(half.labels for half in halves))]
    counts = matched_counts(have[0], have[1], have[2])
    first, second = (half.select(draw_matched(half.labels, counts, rng=generator(SEED, "half"))) for half in halves)
    return first, second


def balance(features: Features, counts: np.ndarray) -> Features:
    """The first counts[c] images of each class c."""
    return features.select(draw_matched(features.labels, counts, rng=None))
