"""Where an oocyte lies in an image: the three concentric rings that relief light explains best. Owns no measurement.

Under oblique light the slope of the optical path along the light is seen as brightness. So a round boundary is bright on
one side and dark on the other, and outside of the zona, inside of the zona and outside of the cell alternate in sign.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from scipy import fft

SEARCH_PX = 96  # side at which rings are searched; below it images are searched as they are
_RADII = (0.08, 0.52)  # of the image's longer side
_RING_WIDTH_PX = 1.2  # deviation of a ring's profile: how far a boundary may be from a circle
_ZONA = (0.07, 0.40)  # permitted thickness in outer radii
_GAP = (0.02, 0.55)  # permitted perivitelline space in inner radii
_RIVAL_DISTANCE = 0.6  # in outer radii: nearer centres are the same oocyte


@dataclass(frozen=True)
class Rings:
    """Three circles around one centre, in pixels (x right, y down), and the direction to the light.

    `light_rad` is clockwise from the x axis; towards it the cell's side of a boundary is bright. `score` is the mean
    of the signed relief along the rings, between -1 and 1.
    """

    x: float
    y: float
    outer: float
    inner: float
    ooplasm: float
    light_rad: float
    score: float


def find_rings(gray: np.ndarray) -> tuple[list[Rings], Rings]:
    """The best rings in a float image (H, W) for each of the two senses of the light, and a rival.

    The rival is the best set around a place that is not within the first one's oocyte.
    """
    scale = min(1.0, SEARCH_PX / max(gray.shape))
    small = gray if scale == 1.0 else cv2.resize(gray, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    field_x, field_y = _normalised_gradient(small)
    radii = np.arange(_RADII[0] * max(small.shape), _RADII[1] * max(small.shape))
    relief = _ring_relief(field_x, field_y, radii)  # (2, radii, H, W)
    strength = np.hypot(*relief)
    peak = np.unravel_index(int(np.argmax(strength)), strength.shape)
    axis = math.atan2(relief[1][peak], relief[0][peak])
    rows, columns = np.mgrid[: small.shape[0], : small.shape[1]]
    found = []
    for light in (axis, axis + math.pi):
        signed = relief[0] * math.cos(light) + relief[1] * math.sin(light)
        # Evidence counts by the length of a boundary: the mean along a ring times its radius.
        score, choice = _best_triples(signed * radii[:, None, None], radii)
        best = _rings_at(int(np.argmax(score)), score, choice, light, radii, scale)
        apart = np.hypot((columns + 0.5) / scale - 0.5 - best.x, (rows + 0.5) / scale - 0.5 - best.y)
        elsewhere = np.where(apart > _RIVAL_DISTANCE * best.outer, score, -np.inf)
        found.append((float(score.max()), best, _rings_at(int(np.argmax(elsewhere)), score, choice, light, radii, scale)))
    found.sort(key=lambda entry: -entry[0])
    return [best for _, best, _ in found], found[0][2]


def _normalised_gradient(small: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The gradient with its length pressed below 1, so that a glaring edge counts no more than a clear one."""
    smooth = cv2.GaussianBlur(small.astype(np.float32), (0, 0), 0.8)
    along_x = cv2.Scharr(smooth, cv2.CV_32F, 1, 0, scale=1 / 32)
    along_y = cv2.Scharr(smooth, cv2.CV_32F, 0, 1, scale=1 / 32)
    length = np.hypot(along_x, along_y)
    whole = length + float(length.mean()) + 1e-9
    return along_x / whole, along_y / whole


def _ring_relief(field_x: np.ndarray, field_y: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Mean over each ring of (gradient . outward normal) x normal, float32 (2, radii, H, W): outside the frame is 0."""
    height, width = field_x.shape
    reach = math.ceil(float(radii[-1]) + 4 * _RING_WIDTH_PX)
    shape = (fft.next_fast_len(height + reach, real=True), fft.next_fast_len(width + reach, real=True))
    spectrum_x, spectrum_y = fft.rfft2(field_x, shape), fft.rfft2(field_y, shape)
    result = np.empty((2, len(radii), height, width), np.float32)
    for index, (k_xx, k_xy, k_yy) in enumerate(_ring_spectra(shape, tuple(radii))):
        result[0, index] = fft.irfft2(spectrum_x * k_xx + spectrum_y * k_xy, shape)[:height, :width]
        result[1, index] = fft.irfft2(spectrum_x * k_xy + spectrum_y * k_yy, shape)[:height, :width]
    return result


@lru_cache(maxsize=2)
def _ring_spectra(shape: tuple[int, int], radii: tuple[float, ...]) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Spectra of the products of a ring's normal components; even kernels, so correlation is convolution."""
    y = fft.fftfreq(shape[0], 1 / shape[0])[:, None]
    x = fft.fftfreq(shape[1], 1 / shape[1])[None, :]
    distance = np.hypot(x, y)
    safe = np.maximum(distance, 1e-6)
    spectra = []
    for radius in radii:
        ring = np.exp(-0.5 * ((distance - radius) / _RING_WIDTH_PX) ** 2)
        ring /= ring.sum()
        products = (ring * x * x / safe**2, ring * x * y / safe**2, ring * y * y / safe**2)
        spectra.append(tuple(fft.rfft2(product.astype(np.float32)) for product in products))
    return spectra


def _best_triples(signed: np.ndarray, radii: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each place the best sum of (-ooplasm + inner - outer), float32 (H, W), and their positions (3, H, W)."""
    count, plane = len(radii), signed.shape[1:]
    pair = np.full(signed.shape, -np.inf, np.float32)  # best inner ring at this radius with an ooplasm within
    pair_cell = np.zeros(signed.shape, np.int16)
    for inner in range(count):
        cells = np.flatnonzero((radii <= radii[inner] * (1 - _GAP[0])) & (radii >= radii[inner] * (1 - _GAP[1])))
        cells = cells[cells < inner]
        if len(cells) > 0:
            window = signed[cells[0] : cells[-1] + 1]
            pair[inner], pair_cell[inner] = signed[inner] - window.min(axis=0), cells[0] + window.argmin(axis=0)
    best = np.full(plane, -np.inf, np.float32)
    choice = np.zeros((3, *plane), np.int16)
    for outer in range(count):
        inners = np.flatnonzero((radii <= radii[outer] * (1 - _ZONA[0])) & (radii >= radii[outer] * (1 - _ZONA[1])))
        if len(inners) == 0:
            continue
        window = pair[inners[0] : inners[-1] + 1]
        inner = inners[0] + window.argmax(axis=0)
        score = window.max(axis=0) - signed[outer]
        better = score > best
        best[better] = score[better]
        choice[:, better] = np.stack([np.full(plane, outer), inner, np.take_along_axis(pair_cell, inner[None], 0)[0]])[
            :, better]
    return best, choice


def _rings_at(
    index: int, score: np.ndarray, choice: np.ndarray, light: float, radii: np.ndarray, scale: float
) -> Rings:
    row, column = divmod(index, score.shape[1])
    outer, inner, ooplasm = (float(radii[choice[place, row, column]]) for place in range(3))
    return Rings((column + 0.5) / scale - 0.5, (row + 0.5) / scale - 0.5, outer / scale, inner / scale, ooplasm / scale,
                 math.remainder(light, 2 * math.pi), float(score[row, column]) / (outer + inner + ooplasm))
