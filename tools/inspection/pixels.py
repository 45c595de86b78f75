"""A data set's prepared pixels in memory, for measurements that need all images at once."""

import numpy as np

from dataset.latents import LabelledImages
from tools.runtime.progress import Progress


def read_pixels(images: LabelledImages, *, title: str, progress_bar: bool) -> np.ndarray:
    """All images in order, float32 (N, C, H, W) in [-1, 1]."""
    first = images[0][0]
    pixels = np.empty((len(images), *first.shape), dtype=np.float32)
    with Progress(title, len(images), enabled=progress_bar) as bar:
        for index in range(len(images)):
            pixels[index] = images[index][0].numpy()
            bar.update(index + 1)
    return pixels
