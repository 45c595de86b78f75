"""From an image file to pixels in [-1, 1] and back: fitting to a square, resizing, scaling, and writing PNG.

All image geometry is here.
"""

import io
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from config.errors import UserError
from dataset.decoding import decode_image
from dataset.storage import write_bytes

FITS = ("pad", "crop", "stretch")
# JPEG rounding makes the channels of a gray image differ by up to this fraction of the range.
_GRAY_TOLERANCE = 2 / 255


def is_gray(pixels: np.ndarray) -> bool:
    """Whether unsigned pixels (H, W) or (..., H, W, 1 or 3) show no colour: channels equal to 2/255 of the range."""
    if pixels.ndim == 2 or pixels.shape[-1] == 1:
        return True
    # Channel by channel: a reduction over an axis of three is five times slower.
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    spread = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    return bool(spread.max() <= round(_GRAY_TOLERANCE * np.iinfo(pixels.dtype).max))


def is_gray_batch(pixels: torch.Tensor) -> bool:
    """Whether all images (B, C, H, W) in [-1, 1] show no colour: channels equal to 2/255 of the range."""
    return bool((pixels.amax(dim=1) - pixels.amin(dim=1)).max() <= 2 * _GRAY_TOLERANCE)


def check_geometry(*, im_channels: int, size_px: int, fit: str) -> None:
    """Raise a UserError for settings that `prepare_image` does not support."""
    if im_channels not in (1, 3) or isinstance(im_channels, bool):
        raise UserError(f"im_channels: expected 1 (gray) or 3 (RGB), found {im_channels!r}; choose one of them")
    if not isinstance(size_px, int) or isinstance(size_px, bool) or not 1 <= size_px <= 8192:
        raise UserError(f"image size: expected a whole number of pixels from 1 to 8192, found {size_px!r}; try 512")
    if fit not in FITS:
        raise UserError(f"fit: expected one of {', '.join(FITS)}, found {fit!r}; pad keeps the whole image")


def prepare_image(pixels: np.ndarray, *, im_channels: int, size_px: int, fit: str) -> np.ndarray:
    """Fit pixels to a square of `size_px` and scale them: float32 (im_channels, size_px, size_px) in [-1, 1].

    `fit`: "pad" centres the image on a square filled with the median of its border (per channel: the background
    continues without the streaks of repeated edges); "crop" keeps the centre square; "stretch" changes the aspect ratio.
    Resizing works in float32: area means to shrink, cubic to enlarge, clipped to the range.

    Args:
        pixels: uint8 or uint16, (H, W) or (H, W, 3) RGB; the full range of the type becomes [-1, 1].
        im_channels: 1 (the image must be gray, see `is_gray`; the mean of its channels) or 3 (gray is repeated).

    Raises:
        UserError: a colour image for one channel, or settings that `check_geometry` refuses.
    """
    check_geometry(im_channels=im_channels, size_px=size_px, fit=fit)
    if pixels.dtype not in (np.uint8, np.uint16) or pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (3,)):
        raise TypeError(f"expected uint8 or uint16 pixels (H, W) or (H, W, 3), found {pixels.dtype} {pixels.shape}")
    if im_channels == 1 and pixels.ndim == 3:
        if not is_gray(pixels):
            raise UserError(
                "expected a gray image for im_channels: 1, found colours; set im_channels: 3, or convert it to gray"
            )
        total = pixels[..., 0].astype(np.float64) + pixels[..., 1] + pixels[..., 2]
        pixels = total / (3 * np.iinfo(pixels.dtype).max)
    else:
        pixels = pixels / np.iinfo(pixels.dtype).max
    image = pixels.astype(np.float32)  # (H, W) or (H, W, 3) in [0, 1]
    if fit == "pad":
        image = _pad_square(image)
    elif fit == "crop":
        image = _crop_square(image)
    image = np.clip(_resize(image, size_px), 0, 1) * 2 - 1
    if image.ndim == 2:
        return np.repeat(image[None], im_channels, axis=0)
    return np.ascontiguousarray(image.transpose(2, 0, 1))


def load_image(path: str | Path, *, im_channels: int, size_px: int, fit: str) -> np.ndarray:
    """`decode_image`, then `prepare_image`: float32 (im_channels, size_px, size_px); a UserError names the file."""
    check_geometry(im_channels=im_channels, size_px=size_px, fit=fit)
    pixels = decode_image(path)
    try:
        return prepare_image(pixels, im_channels=im_channels, size_px=size_px, fit=fit)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def to_uint8(images: torch.Tensor | np.ndarray) -> np.ndarray:
    """Scale floats of any shape from [-1, 1] to uint8: clipped and rounded half to even, never truncated.

    Raises:
        ValueError: a value is not finite.
        TypeError: the values are not floats.
    """
    if isinstance(images, torch.Tensor):
        images = images.detach().cpu().to(torch.float64 if images.is_floating_point() else images.dtype).numpy()
    if not np.issubdtype(images.dtype, np.floating):
        raise TypeError(f"expected floats in [-1, 1], found {images.dtype}")
    if not np.isfinite(images).all():
        raise ValueError("expected finite values in [-1, 1], found NaN or infinity")
    return np.clip(np.rint((images.astype(np.float64) + 1) * 127.5), 0, 255).astype(np.uint8)


def from_uint8(pixels: np.ndarray) -> np.ndarray:
    """Scale uint8 of any shape to float32 in [-1, 1]; `to_uint8` gives the same bytes back."""
    if pixels.dtype != np.uint8:
        raise TypeError(f"expected uint8, found {pixels.dtype}")
    return (pixels / 127.5 - 1).astype(np.float32)


def write_png(path: str | Path, pixels: np.ndarray, *, text: Mapping[str, str] | None = None) -> None:
    """Write uint8 (H, W), (H, W, 1) or (H, W, 3) RGB as PNG, atomically; equal arguments give equal bytes.

    Args:
        text: keywords (1 to 79 Latin-1 characters) and values, stored as text chunks in this order.
    """
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (1,), (3,)):
        raise TypeError(f"expected uint8 pixels (H, W), (H, W, 1) or (H, W, 3), found {pixels.dtype} {pixels.shape}")
    chunks = PngInfo()
    for key, value in (text or {}).items():
        chunks.add_text(key, value)
    buffer = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels))
    image.save(buffer, format="PNG", pnginfo=chunks, compress_level=6)
    write_bytes(Path(path), buffer.getvalue())


def tile_images(
    pixels: np.ndarray, *, num_columns: int, separator_px: int = 2, separator_value: int = 255
) -> np.ndarray:
    """Lay (N, H, W, C) uint8 images out row by row in one (H', W', C) uint8 picture; the last row is filled up.

    There are `separator_px` lines of `separator_value` between the images, none around them.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or len(pixels) == 0 or num_columns < 1:
        raise ValueError(f"expected uint8 (N, H, W, C), N and num_columns above 0, found {pixels.dtype} {pixels.shape}")
    num, height, width, channels = pixels.shape
    num_columns = min(num_columns, num)
    num_rows = -(-num // num_columns)
    step_y, step_x = height + separator_px, width + separator_px
    shape = (num_rows * step_y - separator_px, num_columns * step_x - separator_px, channels)
    canvas = np.full(shape, separator_value, np.uint8)
    for index, image in enumerate(pixels):
        top, left = index // num_columns * step_y, index % num_columns * step_x
        canvas[top : top + height, left : left + width] = image
    return canvas


# Geometry


def _pad_square(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    side = max(height, width)
    if height == width:
        return image
    border = np.concatenate([image[0], image[-1], image[1:-1, 0], image[1:-1, -1]])
    canvas = np.empty((side, side, *image.shape[2:]), np.float32)
    canvas[:] = np.median(border, axis=0)
    top, left = (side - height) // 2, (side - width) // 2
    canvas[top : top + height, left : left + width] = image
    return canvas


def _crop_square(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


def _resize(image: np.ndarray, size_px: int) -> np.ndarray:
    """Shrink by area means the axes that are too long, then enlarge by cubics those that are too short."""
    height, width = image.shape[:2]
    shrunk = min(height, size_px), min(width, size_px)
    if shrunk != (height, width):
        image = cv2.resize(image, shrunk[::-1], interpolation=cv2.INTER_AREA)
    if shrunk != (size_px, size_px):
        image = cv2.resize(image, (size_px, size_px), interpolation=cv2.INTER_CUBIC)
    return image
