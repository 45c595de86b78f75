"""Pictures of what was measured: boundaries drawn over an image, or the reason why there are none."""

from collections.abc import Sequence

import cv2
import numpy as np

from dataset.images import tile_images
from tools.evaluation.morphometry import BOUNDARIES, Abstention, Measurement

_COLOURS = {"outer": (255, 200, 0), "inner": (0, 220, 255), "ooplasm": (120, 255, 80)}
_OUTLIER = (255, 40, 40)
_TILE_PX = 320  # images are brought to this side
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_COLUMNS = 4


def draw_overlay(image: np.ndarray, result: Measurement | Abstention, *, size_px: int = _TILE_PX) -> np.ndarray:
    """uint8 RGB (size_px, size_px, 3): the ellipses in their colours, points off them in red, the reason as text.

    Args:
        image: uint8 (H, W) or (H, W, C), square.
    """
    gray = image if image.ndim == 2 else np.rint(image.mean(axis=2)).astype(np.uint8)
    factor = size_px / max(gray.shape)
    canvas = cv2.cvtColor(cv2.resize(gray, (size_px, size_px), interpolation=cv2.INTER_CUBIC), cv2.COLOR_GRAY2RGB)
    if isinstance(result, Abstention):
        lines = [result.reason.replace("_", " "), *_wrap(result.detail, 46)]
        canvas[: 10 + 16 * len(lines)] //= 4
        for row, line in enumerate(lines):
            cv2.putText(canvas, line, (6, 18 + 16 * row), _FONT, 0.4, (255, 230, 120), 1, cv2.LINE_AA)
        return canvas
    for name in BOUNDARIES:
        _draw_line(canvas, result.ellipses[name].outline(240), factor, _COLOURS[name])
        for x, y in (result.outlines[name][~result.inliers[name]] + 0.5) * factor:
            cv2.circle(canvas, (round(x), round(y)), 1, _OUTLIER, -1, cv2.LINE_AA)
    return canvas


def tile_overlays(images: Sequence[np.ndarray], results: Sequence[Measurement | Abstention]) -> np.ndarray:
    """Overlays side by side in one picture, uint8 RGB."""
    tiles = [draw_overlay(image, result) for image, result in zip(images, results, strict=True)]
    return tile_images(np.stack(tiles), num_columns=_COLUMNS)


def _draw_line(canvas: np.ndarray, points: np.ndarray, factor: float, colour: tuple[int, int, int]) -> None:
    sixteenths = np.rint(((points + 0.5) * factor - 0.5) * 16).astype(np.int32)
    cv2.polylines(canvas, [sixteenths], True, colour, 1, cv2.LINE_AA, shift=4)


def _wrap(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
