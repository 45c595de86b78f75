"""How every fixed network is run when it measures: frozen arithmetic and 8-bit RGB input. Owns no network."""

import contextlib
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from config.errors import UserError


@contextlib.contextmanager
def exact_inference(device: torch.device) -> Iterator[None]:
    """No gradients, no autocast, and float32 products in full precision (no TF32), restored on leaving."""
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        with torch.inference_mode(), torch.autocast(device.type, enabled=False):
            yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


def compute_logits(classifier: nn.Module, batches: Iterable[Tensor], *, device: torch.device | str = "cpu") -> Tensor:
    """Logits float32 (N, classes) of batches of images (B, C, H, W) in [-1, 1]; `device` holds the classifier."""
    with exact_inference(torch.device(device)):
        return torch.cat([classifier(batch.to(device)) for batch in batches])


def check_images(images: np.ndarray) -> np.ndarray:
    """Return uint8 images (N, H, W, C) with C of 1 or 3; (N, H, W) gains its channel.

    Raises:
        UserError: another type (round to 8 bits first: truncating shifts a quarter of the pixels), shape or no image.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8:
        raise UserError(f"expected 8-bit images (uint8), found {images.dtype}; round them to 0..255, do not truncate")
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] not in (1, 3):
        raise UserError(f"expected images (N, H, W, 1 or 3), found shape {images.shape}")
    if not len(images):
        raise UserError("expected at least one image, found none")
    return images


def to_rgb(images: np.ndarray) -> np.ndarray:
    """`check_images`, gray repeated to three channels."""
    images = check_images(images)
    return np.repeat(images, 3, axis=3) if images.shape[3] == 1 else images


def to_tensor(images: np.ndarray, device: torch.device | str) -> Tensor:
    """uint8 images (B, H, W, C) -> float32 (B, C, H, W) with the values kept, on `device`."""
    if not (images.flags.writeable and images.flags.c_contiguous):
        images = images.copy()
    return torch.from_numpy(images).to(device).permute(0, 3, 1, 2).to(torch.float32)
