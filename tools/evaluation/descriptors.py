"""Describe whole images and their background alone, without any weights."""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F

_SIZE_PX = 64
_BORDER_PX = 4
_RINGS, _OCTAVE_RINGS, _SECTORS = 12, 4, 8
_CELLS, _ORIENTATION_CELLS, _ORIENTATIONS = 8, 4, 8
_BLOCK = 64  # images at once
_CONTENT_SHARE = 0.97  # of the edge energy above the border's level that the disc of the content holds
_MARGIN = 0.03  # of the side, added to the disc
LEAST_BACKGROUND = 0.08  # of the pixels: with less left the content is taken to fill the frame
_EPS = 1e-6


def find_background(images: np.ndarray) -> np.ndarray | None:
    """What is around the content in every image of a set: a mask bool (64, 64), or None if the content fills the frame.

    The content is the disc around the centre of the frame that holds 97% of the mean edge energy above that of the
    frame's border, widened by 3% of the side; the background is all outside it. It is one mask for all images, so that
    the shape of a single oocyte cannot leak through the mask. The content fills the frame if the disc leaves less than
    8% of the pixels.

    Args:
        images: float (N, C, H, H) in [-1, 1].
    """
    energy = np.zeros((_SIZE_PX, _SIZE_PX))
    for block in _blocks(images):
        right, up = _gradients(block.mean(dim=1, keepdim=True))
        squared = F.pad(right.square() + up.square(), (0, 1, 0, 1), mode="replicate")
        energy += (squared / squared.sum(dim=(2, 3), keepdim=True).clamp_min(_EPS)).sum(dim=(0, 1)).numpy()
    radius = _radii(_SIZE_PX)
    frame = np.ones_like(energy, dtype=bool)
    frame[_BORDER_PX:-_BORDER_PX, _BORDER_PX:-_BORDER_PX] = False
    excess = np.maximum(energy - np.median(energy[frame]), 0.0)
    order = np.argsort(radius, axis=None)
    cumulative = np.cumsum(excess.ravel()[order])
    share = cumulative / cumulative[-1] if cumulative[-1] > 0 else np.ones_like(cumulative)
    edge = radius.ravel()[order][np.searchsorted(share, _CONTENT_SHARE)] + 2 * _MARGIN
    return outside_disc(edge)


def outside_disc(diameter: float) -> np.ndarray | None:
    """The mask bool (64, 64) outside a central disc, its diameter in sides of the frame; None below 8% of the pixels."""
    mask = _radii(_SIZE_PX) > diameter
    return mask if mask.mean() >= LEAST_BACKGROUND else None


def describe_background(images: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Statistics float64 (N, K) of the pixels of `mask` alone: levels, spread, sectors, edges and grain by channel."""
    inside = torch.from_numpy(mask)
    middle = inside[:-1, :-1] & inside[1:, :-1] & inside[:-1, 1:] & inside[1:, 1:]
    sector = torch.from_numpy(_sector_numbers(_SIZE_PX))[inside]
    parts = []
    for block in _blocks(images):
        values = block[..., inside]  # (B, C, pixels)
        levels = torch.quantile(values, torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], dtype=values.dtype), dim=2)
        columns = [values.mean(dim=2), values.std(dim=2), *levels]
        columns += [values[..., sector == number].mean(dim=2) for number in range(_SECTORS) if (sector == number).any()]
        right, up = _gradients(block)
        columns.append(((right.square() + up.square())[..., middle].mean(dim=2) + _EPS).log())
        grain = (block[..., 1:, 1:] - block[..., 1:, :-1] - block[..., :-1, 1:] + block[..., :-1, :-1])[..., middle]
        columns.append((grain.square().mean(dim=2) + _EPS).log())
        parts.append(torch.cat(columns, dim=1))
    return torch.cat(parts).numpy()


def describe_image(images: np.ndarray) -> np.ndarray:
    """Statistics float64 (N, K) of whole images: levels, rings, edges and, down to single pixels, detail by octave.

    Levels, rings and edges are seen at 64 px; the detail of each octave of the full size is measured in four rings.
    """
    rings = _ring_weights(_SIZE_PX, _RINGS)
    parts = []
    for start in range(0, len(images), _BLOCK):
        full = torch.from_numpy(np.ascontiguousarray(images[start:start + _BLOCK])).double()
        block = _at_standard_size(full)
        gray = block.mean(dim=1, keepdim=True)
        right, up = _gradients(gray)
        energy = F.pad(right.square() + up.square(), (0, 1, 0, 1), mode="replicate")
        means, squares = gray.flatten(1) @ rings, gray.square().flatten(1) @ rings
        parts.append(torch.cat([
            F.adaptive_avg_pool2d(block, _CELLS).flatten(1), block.mean(dim=(2, 3)), block.std(dim=(2, 3)),
            means, (squares - means.square()).clamp_min(0).sqrt(), (energy.flatten(1) @ rings + _EPS).log(),
            *_orientations(right, up), *_octaves(full.mean(dim=1, keepdim=True)),
        ], dim=1))
    return torch.cat(parts).numpy()


def _orientations(right: torch.Tensor, up: torch.Tensor) -> list[torch.Tensor]:
    """Edge strength in 4 x 4 cells by direction of the slope, linearly shared between the two nearest of eight."""
    angle = torch.atan2(up, right) * (_ORIENTATIONS / (2 * torch.pi))
    strength = (right.square() + up.square()).sqrt()
    columns = []
    for number in range(_ORIENTATIONS):
        apart = (angle - number + _ORIENTATIONS / 2).remainder(_ORIENTATIONS) - _ORIENTATIONS / 2
        columns.append(F.adaptive_avg_pool2d((1 - apart.abs()).clamp_min(0) * strength, _ORIENTATION_CELLS).flatten(1))
    return columns


def _octaves(gray: torch.Tensor) -> list[torch.Tensor]:
    """Log energy, in four rings, of what each halving of the side takes away, down to 8 px."""
    columns = []
    while gray.shape[-1] >= 16 and gray.shape[-1] % 2 == 0:
        smaller = F.avg_pool2d(gray, 2)
        detail = gray - smaller.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        columns.append((detail.square().flatten(1) @ _ring_weights(gray.shape[-1], _OCTAVE_RINGS) + _EPS).log())
        gray = smaller
    return columns


def _blocks(images: np.ndarray) -> Iterator[torch.Tensor]:
    """The images at 64 px in float64, a block at a time."""
    for start in range(0, len(images), _BLOCK):
        yield _at_standard_size(torch.from_numpy(np.ascontiguousarray(images[start:start + _BLOCK])).double())


def _at_standard_size(block: torch.Tensor) -> torch.Tensor:
    """Averaged down to 64 px, or enlarged to it by repeating pixels."""
    return F.adaptive_avg_pool2d(block, _SIZE_PX) if block.shape[-1] != _SIZE_PX else block


def _gradients(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Slopes to the right and upwards in the middle of each four pixels, (B, C, H - 1, W - 1)."""
    right = x[..., :, 1:] - x[..., :, :-1]
    up = x[..., :-1, :] - x[..., 1:, :]
    return (right[..., 1:, :] + right[..., :-1, :]) / 2, (up[..., :, 1:] + up[..., :, :-1]) / 2


def _radii(size: int) -> np.ndarray:
    """Distance of each pixel from the centre of the frame, in half sides."""
    ticks = (np.arange(size) + 0.5) / size * 2 - 1
    return np.hypot(ticks[:, None], ticks[None, :])


def _ring_weights(size: int, count: int) -> torch.Tensor:
    """Columns (size x size, count) that average over rings of equal width out to the nearest border."""
    rings = torch.from_numpy((_radii(size) * count).astype(np.int64)).flatten().clamp_max(count)
    weights = F.one_hot(rings, count + 1)[:, :count].double()
    return weights / weights.sum(dim=0)


def _sector_numbers(size: int) -> np.ndarray:
    ticks = (np.arange(size) + 0.5) / size * 2 - 1
    angle = np.arctan2(-ticks[:, None], ticks[None, :]) % (2 * np.pi)
    return (angle / (2 * np.pi) * _SECTORS).astype(np.int64)
