"""Augmentation of pixels by brightness, contrast, shift and cutout: differentiable, driven by given uniforms.

Source: Zhao 2020 (differentiable augmentation), section 3. Flips and turns are in dataset/symmetries.py.
"""

import torch
import torch.nn.functional as F

NUM_UNIFORMS = 6  # an image: brightness, contrast, shift down and right, cutout down and right


def augment(
    images: torch.Tensor, uniforms: torch.Tensor, *, brightness: float = 0.5, contrast: float = 0.5, shift: float = 0.125,
    cutout: float = 0.5, fill: float | None = 0.0,
) -> torch.Tensor:
    """Images (B, C, H, H) in [-1, 1], each changed by its row of uniforms (B, 6) in [0, 1).

    brightness: largest value added or subtracted; contrast: largest relative change around the image's mean; shift: largest
    shift as a fraction of the side; cutout: side of the square set to 0, as a fraction of the image's, 0 for none. The area
    that a shift uncovers gets `fill`, or with None the repeated border pixels.
    """
    batch, _, side, _ = images.shape
    unit = (2 * uniforms.to(images) - 1)[:, :, None, None, None]  # (B, 6, 1, 1, 1) in [-1, 1)
    x = images + brightness * unit[:, 0]
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    x = mean + (x - mean) * (1 + contrast * unit[:, 1])
    reach = round(shift * side)
    if reach:
        x = _shift(x, torch.floor(uniforms[:, 2:4] * (2 * reach + 1)).long() - reach, reach, fill)
    size = round(cutout * side)
    if size:
        corners = torch.floor(uniforms[:, 4:6] * side).long().to(x.device) - size // 2  # (B, 2), partly outside at times
        at = torch.arange(side, device=x.device)
        inside = (at >= corners[..., None]) & (at < corners[..., None] + size)  # (B, 2, H)
        x = x * ~(inside[:, 0, :, None] & inside[:, 1, None, :]).view(batch, 1, side, side)
    return x


def _shift(images: torch.Tensor, offsets: torch.Tensor, reach: int, fill: float | None) -> torch.Tensor:
    """Images moved down and right by int64 (B, 2) offsets within [-reach, reach]."""
    side = images.shape[-1]
    padding = (reach,) * 4
    padded = F.pad(images, padding, mode="replicate") if fill is None else F.pad(images, padding, value=fill)
    starts = (reach - offsets).tolist()
    return torch.stack([image[:, top:top + side, left:left + side]
                        for image, (top, left) in zip(padded, starts, strict=True)])
