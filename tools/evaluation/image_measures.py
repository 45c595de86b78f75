"""Direct measures of single images: brightness, contrast, tint, sharpness and the power of each octave of wavelength."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
import scipy.fft

_FEWEST_CYCLES = 2  # of the longest wavelength of an octave across the frame; fewer mix with the window's own shape
_SHORTEST_PX = 2.0
_OUTLINE_PX, _EDGE_BLUR_PX, _EDGE_WINDOW_PX = 64, 1.0, 3.0
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
ROUNDING_POWER = 1 / 12  # variance of rounding to whole gray levels: below it, power cannot be told from rounding
SHORTEST_OCTAVE = "2-4 px"
GREEN_RED, BLUE_YELLOW, COLOUR_CONTRAST = "green to red", "blue to yellow", "colour contrast"


@dataclass(frozen=True)
class ImageMeasures:
    """Numbers of N images, float64 (N,) each.

    `brightness` and `contrast` are the mean and the standard deviation of luma in gray levels, `saturated` the fraction of
    pixels whose luma is 0 or 255, `focus` the variance of the Laplacian over the variance, `roughness` the `edge_disorder`.
    `grain` is the power of each octave in squared gray levels by the octave's name. `colour` holds the mean of CIE a* (green
    to red) and b* (blue to yellow) and the root mean square of (a*, b*) about that mean, in CIELAB units; none for gray.
    """

    brightness: np.ndarray
    contrast: np.ndarray
    saturated: np.ndarray
    focus: np.ndarray
    roughness: np.ndarray
    grain: dict[str, np.ndarray]
    colour: dict[str, np.ndarray]

    def select(self, rows: np.ndarray) -> "ImageMeasures":
        """The numbers of the images at these positions."""
        return ImageMeasures(self.brightness[rows], self.contrast[rows], self.saturated[rows], self.focus[rows],
                             self.roughness[rows],
                             {name: values[rows] for name, values in self.grain.items()},
                             {name: values[rows] for name, values in self.colour.items()})

    @classmethod
    def join(cls, parts: "Sequence[ImageMeasures]") -> "ImageMeasures":
        """The numbers of all parts in their order."""
        def joined(name: str) -> np.ndarray:
            return np.concatenate([getattr(part, name) for part in parts])

        def joined_by_name(name: str) -> dict[str, np.ndarray]:
            return {key: np.concatenate([getattr(part, name)[key] for part in parts]) for key in getattr(parts[0], name)}

        return cls(joined("brightness"), joined("contrast"), joined("saturated"), joined("focus"), joined("roughness"),
                   joined_by_name("grain"), joined_by_name("colour"))


def measure_images(pixels: np.ndarray) -> ImageMeasures:
    """All measures of uint8 images (N, H, W, C), C of 1 or 3 (RGB)."""
    luma = to_luma(pixels)
    return ImageMeasures(
        brightness=luma.mean(axis=(1, 2), dtype=np.float64), contrast=luma.std(axis=(1, 2), dtype=np.float64),
        saturated=((luma <= 0) | (luma >= 255)).mean(axis=(1, 2)),
        focus=np.array([laplacian_ratio(image) for image in luma]),
        roughness=np.array([edge_disorder(image) for image in luma]), grain=octave_powers(luma),
        colour=_measure_colour(pixels) if pixels.shape[3] == 3 else {},
    )


def to_luma(pixels: np.ndarray) -> np.ndarray:
    """Luma of uint8 images (N, H, W, C) in gray levels: float32 (N, H, W). Source: ITU-R BT.601."""
    if pixels.shape[3] == 1:
        return pixels[..., 0].astype(np.float32)
    red, green, blue = (pixels[..., channel].astype(np.float32) * np.float32(weight) for channel, weight in enumerate(_LUMA))
    return red + green + blue


def octave_powers(luma: np.ndarray) -> dict[str, np.ndarray]:
    """Power of images (N, H, W) in each octave of wavelength, from 2 px up to half the frame, in squared units of `luma`.

    Each image is seen through a Hann window of mean square 1, its weighted mean removed, so that opposite borders do not
    meet in a step; the powers of all frequencies add up to the windowed variance. The shortest octave, 2-4 px, holds the
    corners of the spectrum too, down to 1.4 px, where checkerboards are.

    Returns:
        float64 (N,) by the octave's name, such as "2-4 px"; empty below 8 px.

    Source: the modified periodogram, Welch 1967, over rings of the radial frequency.
    """
    names, rings, window = _octaves(luma.shape[1], luma.shape[2])
    if not names:
        return {}
    mean = (luma * window).sum(axis=(1, 2), keepdims=True) / window.sum()
    spectra = scipy.fft.rfft2((luma - mean) * window)
    power = (spectra.real**2 + spectra.imag**2).reshape(len(luma), -1).astype(np.float64) @ rings
    return {name: power[:, column] for column, name in enumerate(names)}


def laplacian_ratio(shades: np.ndarray) -> float:
    """Variance of the Laplacian of a gray image (H, W) float32 over its own variance; 0 for a flat one."""
    variance = float(shades.var())
    return float(cv2.Laplacian(shades, cv2.CV_32F).var()) / variance if variance > 0 else 0.0


def edge_disorder(shades: np.ndarray) -> float:
    """How much the directions of neighbouring edges differ in a gray image (H, W) float32: 0 none, 1 without any order.

    One minus the coherence of the structure tensor over a Gaussian window of 3 px, weighted by the energy of edges, after a
    blur of 1 px that leaves out the grain of the camera. Larger images are averaged down to 64 px first, so that outlines
    are seen and not their texture. 0 for a flat image.

    Source: Bigun and Granlund 1987; Jahne 1993 for the coherence.
    """
    scale = _OUTLINE_PX / max(shades.shape)
    if scale < 1:
        size = max(1, round(shades.shape[1] * scale)), max(1, round(shades.shape[0] * scale))
        shades = cv2.resize(shades, size, interpolation=cv2.INTER_AREA)
    smooth = cv2.GaussianBlur(shades, (0, 0), _EDGE_BLUR_PX)
    across, down = cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)
    xx, yy, xy = (cv2.GaussianBlur(one, (0, 0), _EDGE_WINDOW_PX) for one in (across**2, down**2, across * down))
    energy = float((xx + yy).sum())
    return 1.0 - float(np.sqrt((xx - yy) ** 2 + 4 * xy**2).sum()) / energy if energy > 0 else 0.0


@cache
def _octaves(height: int, width: int) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The octaves' names, their weights float64 (bins, octaves) over the half plane of rfft2, and the window float32."""
    names, longest = [], min(height, width) / _FEWEST_CYCLES
    start = _SHORTEST_PX
    while 2 * start <= longest:
        names.append(f"{start:g}-{2 * start:g} px")
        start *= 2
    across = scipy.fft.rfftfreq(width)
    radial = np.hypot(scipy.fft.fftfreq(height)[:, None], across[None, :])
    with np.errstate(divide="ignore"):
        number = np.maximum(np.floor(-np.log2(radial)) - 1, 0)  # 0 for 2-4 px and the corners; infinite for the mean
    twice = np.where((across == 0) | (across == 0.5), 1.0, 2.0)[None, :] / (height * width) ** 2
    rings = np.stack([((number == octave) * twice).ravel() for octave in range(len(names))], axis=1) if names else \
        np.empty((radial.size, 0))
    window = np.outer(_hann(height), _hann(width))
    return names, rings, (window / np.sqrt((window**2).mean())).astype(np.float32)


def _hann(length: int) -> np.ndarray:
    return np.sin(np.pi * (np.arange(length) + 0.5) / length) ** 2


def _measure_colour(pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Mean a* and b* and their scatter within each image of uint8 RGB (N, H, W, 3). Source: CIE 1976, from sRGB, D65."""
    means, scatter = np.empty((len(pixels), 2)), np.empty(len(pixels))
    for row, image in enumerate(pixels):
        lab = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
        mean, deviation = cv2.meanStdDev(lab)
        means[row], scatter[row] = mean[1:, 0], np.hypot(*deviation[1:, 0])
    return {GREEN_RED: means[:, 0], BLUE_YELLOW: means[:, 1], COLOUR_CONTRAST: scatter}
