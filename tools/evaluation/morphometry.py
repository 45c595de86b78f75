"""Diameters, zona, perivitelline space and texture of one oocyte by classical image analysis: measured, or abstained with
the reason.

For pictures under oblique light (Hoffman, relief or differential contrast), where a boundary is bright towards the light
and dark away from it, or the reverse. It learns nothing from images and knows no file, config or class; what is done
with many measurements is morphometry_comparison.py's.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from tools.evaluation.oocyte_search import Rings, find_rings

# Why an image is not measured; the first that applies is given.
ABSTENTIONS = {
    "no_oocyte": "no three nested rings that oblique light explains",
    "several_candidates": "rings around another place are nearly as clear",
    "too_small": "the oocyte is too few pixels wide for its zona",
    "touches_frame": "the outer boundary reaches the edge of the image",
    "low_contrast": "a boundary does not stand out from what surrounds it",
    "inconsistent_boundary": "a boundary does not follow one ellipse, its light, or the other boundaries",
    "well_wall": "another edge, such as the wall of the well, runs along the outer boundary",
}
BOUNDARIES = ("outer", "inner", "ooplasm")  # outside and inside of the zona, outside of the cell
LENGTHS = ("outer_diameter", "inner_diameter", "zona_thickness", "perivitelline_space")
MEASURES = (*LENGTHS, "circularity", "granularity", "mean_intensity")

_SMALLEST_SIDE_PX = 24  # of an image in which rings are searched at all
# The limit is on the diameter, not on the zona: a limit on what is measured would keep the thick zonae only.
SMALLEST_DIAMETER_PX = 80.0  # a zona of 12 um on an oocyte of 150 um then spans 6.4 px
_NUM_ANGLES = 240
_RADII = (0.2, 1.45)  # of the polar picture, in outer radii of the search
_NUM_RADII = 260
_EDGE_SCALE = 0.010  # deviation of the edge filters in outer radii: 0.75 um on an oocyte of 150 um
_SMALLEST_EDGE_SCALE_PX = 1.0
_REACH = {"outer": 0.13, "inner": 0.13, "ooplasm": 0.16}  # how far a boundary may lie from its ring of the search
_NARROWEST = {"zona": 0.06, "gap": 0.015}  # in outer radii
_SMOOTHNESS = 0.35  # cost of a radial step between neighbouring angles, in roots of the median edge energy
_INLIER = 0.03  # largest distance of a point from the ellipse, in outer radii
_POLARITY = {"outer": -1, "inner": 1, "ooplasm": -1}  # sign of the outward change of brightness towards the light

# Limits of what is measured, set on phantoms of another seed than those that are reported on and on blastocysts, which
# have no three such boundaries. On phantoms in focus nearly all values lie well inside.
_SMALLEST_SCORE = 0.22
_LARGEST_RIVAL = 0.7  # of the score
_SMALLEST_CLEAR = {"outer": 0.80, "inner": 0.80, "ooplasm": 0.85}  # share of angles at which it is the clearest edge
_SMALLEST_AGREEMENT = 0.85  # of a boundary's brightness with the direction of the light
_SMALLEST_INLIERS = {"outer": 0.95, "inner": 0.85, "ooplasm": 0.85}  # the polar body covers a part of the inner two
_BEYOND = 1.08  # where the outside begins, in outer radii
_BEYOND_PERCENTILE = 30  # over the angles
_LARGEST_BEYOND = 0.22  # phantoms: up to 0.18 outside the true boundary, from 0.31 outside a false one
_LARGEST_OFFSET = 0.10  # distance of a boundary's centre from the outer one's, in outer radii
_LARGEST_ASPECT = 1.2
_SURROUNDINGS = {"outer": (-16, -13, -10, -8, 8, 10, 13, 16), "inner": (8, 10, 13, 16), "ooplasm": (-16, -13, -10, -8)}
_TEXTURE_SCALES = (0.012, 0.06)  # of the band in which granularity is read, in outer radii
_TEXTURE_PART = 0.85  # of the ooplasm's axes


@dataclass(frozen=True)
class Ellipse:
    """Centre in pixels of the image (x right, y down, 0 in the middle of the first pixel), semi-axes, turn in degrees."""

    x: float
    y: float
    semi_major: float
    semi_minor: float
    rotation_deg: float

    @property
    def diameter(self) -> float:
        """Of the circle of equal area."""
        return 2.0 * math.sqrt(self.semi_major * self.semi_minor)

    def outline(self, count: int) -> np.ndarray:
        """`count` points of the ellipse, float64 (count, 2)."""
        phases, turn = np.arange(count) * (2 * math.pi / count), math.radians(self.rotation_deg)
        u, v = self.semi_major * np.cos(phases), self.semi_minor * np.sin(phases)
        return np.stack([self.x + u * math.cos(turn) - v * math.sin(turn),
                         self.y + u * math.sin(turn) + v * math.cos(turn)], axis=1)

    def radius(self, angles: np.ndarray, *, x: float, y: float) -> np.ndarray:
        """Distance from (x, y), a point inside, to the ellipse along each angle in radians (clockwise, y down)."""
        turn = math.radians(self.rotation_deg)
        cos, sin = np.cos(angles - turn), np.sin(angles - turn)
        u = ((x - self.x) * math.cos(turn) + (y - self.y) * math.sin(turn)) / self.semi_major
        v = ((y - self.y) * math.cos(turn) - (x - self.x) * math.sin(turn)) / self.semi_minor
        along_u, along_v = cos / self.semi_major, sin / self.semi_minor
        a, b, c = along_u**2 + along_v**2, u * along_u + v * along_v, u * u + v * v - 1.0
        return (-b + np.sqrt(np.maximum(b * b - a * c, 0.0))) / a


@dataclass(frozen=True)
class Measurement:
    """One oocyte. Lengths in pixels of the image that was measured; `in_micrometres` converts them.

    Diameters are those of the circle of equal area; `zona_thickness` and `perivitelline_space` are half the difference
    of the diameters outside and inside, so the mean over all directions. `circularity` is 4 pi area / perimeter^2 of the
    ooplasm's outline. `granularity` is the standard deviation of the ooplasm's brightness in a band of scales over
    its mean; `mean_intensity` that mean as a part of the range (0 to 1).
    """

    outer_diameter: float
    inner_diameter: float
    zona_thickness: float
    perivitelline_space: float
    circularity: float
    granularity: float
    mean_intensity: float
    ellipses: dict[str, Ellipse]  # by BOUNDARIES
    outlines: dict[str, np.ndarray]  # by BOUNDARIES: float64 (P, 2), x and y of the boundary points
    inliers: dict[str, np.ndarray]  # by BOUNDARIES: bool (P,), which points the ellipse rests on

    def values(self, um_per_px: float | None = None) -> dict[str, float]:
        """The measures by name; lengths in micrometres where `um_per_px` is given, else in pixels."""
        scale = dict.fromkeys(LENGTHS, um_per_px or 1.0)
        return {name: getattr(self, name) * scale.get(name, 1.0) for name in MEASURES}


@dataclass(frozen=True)
class Abstention:
    """An image that is not measured: `reason` is a key of ABSTENTIONS, `detail` the finding that decided."""

    reason: str
    detail: str


def measure_oocyte(image: np.ndarray) -> Measurement | Abstention:
    """Measure the oocyte in one image, or say why not.

    Args:
        image: uint8 (0 to 255) or float (0 to 1), (H, W) or (H, W, C); channels are averaged.

    Raises:
        TypeError: another shape or type.
        ValueError: a value is not finite.
    """
    gray = _as_gray(image)
    if min(gray.shape) < _SMALLEST_SIDE_PX:
        return Abstention("too_small", f"the image is {gray.shape[1]} x {gray.shape[0]} px")
    candidates, rival = find_rings(gray)
    if candidates[0].score < _SMALLEST_SCORE:
        return Abstention("no_oocyte", f"ring score {candidates[0].score:.2f}, at least {_SMALLEST_SCORE} is asked for")
    if rival.score > _LARGEST_RIVAL * candidates[0].score:
        return Abstention("several_candidates", f"ring scores {candidates[0].score:.2f} and {rival.score:.2f}")
    # Under the wrong sense of the light the zona's inside can pass for its outside: the outermost that holds is right.
    ordered = sorted((rings for rings in candidates if rings.score >= _SMALLEST_SCORE), key=lambda rings: -rings.outer)
    abstentions = {}
    for rings in ordered:
        result = _measure(gray, rings)
        if isinstance(result, Measurement):
            return result
        abstentions[rings] = result
    return abstentions[candidates[0]]


def _measure(gray: np.ndarray, rings: Rings) -> Measurement | Abstention:
    """The measurement that starts from these rings."""
    if 2 * rings.outer < 0.9 * SMALLEST_DIAMETER_PX:  # too far off for the traced boundary to change it
        return Abstention("too_small", f"outer diameter of about {2 * rings.outer:.0f} px, at least "
                                       f"{SMALLEST_DIAMETER_PX:g} are asked for")
    polar = _Polar(gray, rings)
    paths = _trace(polar)
    ellipses, outlines, inliers = {}, {}, {}
    for name in BOUNDARIES:
        outlines[name] = polar.points(paths[name])
        ellipses[name], inliers[name] = _fit_ellipse(outlines[name], tolerance=_INLIER * rings.outer)
    outer, inner, ooplasm = (ellipses[name].diameter for name in BOUNDARIES)
    reason = _find_fault(polar, paths, ellipses, inliers, gray.shape)
    if reason is not None:
        return reason
    granularity, mean = _texture(gray, ellipses["ooplasm"], outer / 2)
    return Measurement(
        outer_diameter=outer, inner_diameter=inner, zona_thickness=(outer - inner) / 2,
        perivitelline_space=(inner - ooplasm) / 2, circularity=_circularity(polar, paths["ooplasm"]),
        granularity=granularity, mean_intensity=mean, ellipses=ellipses, outlines=outlines, inliers=inliers,
    )


def _find_fault(
    polar: "_Polar", paths: dict[str, np.ndarray], ellipses: dict[str, Ellipse], inliers: dict[str, np.ndarray],
    shape: tuple[int, ...],
) -> Abstention | None:
    """The first reason not to trust these boundaries, if there is one."""
    outer = ellipses["outer"]
    if outer.diameter < SMALLEST_DIAMETER_PX:
        return Abstention("too_small", f"outer diameter of {outer.diameter:.0f} px, at least {SMALLEST_DIAMETER_PX:g} "
                                       "are asked for")
    x, y = outer.outline(_NUM_ANGLES).T
    if min(x.min(), y.min(), shape[1] - 1 - x.max(), shape[0] - 1 - y.max()) < 0:
        return Abstention("touches_frame", "the ellipse of the outer boundary leaves the image")
    for name in BOUNDARIES:
        clear, agreement = polar.judge(name, paths[name])
        if clear < _SMALLEST_CLEAR[name]:
            return Abstention("low_contrast", f"{name}: the clearest edge at {clear:.0%} of the angles")
        if agreement < _SMALLEST_AGREEMENT:
            return Abstention("inconsistent_boundary", f"{name}: {agreement:.2f} agreement with the light")
    beyond = polar.beyond(paths["outer"])
    if beyond > _LARGEST_BEYOND:
        return Abstention("inconsistent_boundary", f"outer: a further boundary of {beyond:.2f} its strength lies around it")
    for name in BOUNDARIES:
        ellipse, share = ellipses[name], inliers[name].mean()
        if share < _SMALLEST_INLIERS[name]:
            return Abstention("well_wall" if name == "outer" else "inconsistent_boundary",
                              f"{name}: {share:.0%} of the points on one ellipse")
        offset = math.hypot(ellipse.x - outer.x, ellipse.y - outer.y) / (outer.diameter / 2)
        if offset > _LARGEST_OFFSET or ellipse.semi_major > _LARGEST_ASPECT * ellipse.semi_minor:
            return Abstention("inconsistent_boundary", f"{name}: {offset:.2f} outer radii off centre, aspect "
                                                       f"{ellipse.semi_major / ellipse.semi_minor:.2f}")
    return None


def _as_gray(image: np.ndarray) -> np.ndarray:
    """float32 (H, W), 0 to 1."""
    if image.ndim not in (2, 3) or not (image.dtype == np.uint8 or np.issubdtype(image.dtype, np.floating)):
        raise TypeError(f"expected uint8 or float pixels (H, W) or (H, W, C), found {image.dtype} {image.shape}")
    gray = image.astype(np.float64) / (255.0 if image.dtype == np.uint8 else 1.0)
    if not np.isfinite(gray).all():
        raise ValueError("expected finite pixels, found NaN or infinity")
    return (gray.mean(axis=2) if gray.ndim == 3 else gray).astype(np.float32)


class _Polar:
    """The picture around the rings' centre, angle by radius, and its edges: a step or a line, of either phase.

    The energy of a pair of filters in quadrature (first and second derivative of a Gaussian) peaks where the boundary
    is, whether light makes it a step (towards and away from the light) or a dark line (across).
    Source: Morrone and Owens 1987, feature detection from local energy.
    """

    def __init__(self, gray: np.ndarray, rings: Rings) -> None:
        self.rings = rings
        self.angles = np.arange(_NUM_ANGLES) * (2 * math.pi / _NUM_ANGLES)
        self.radii = np.linspace(_RADII[0], _RADII[1], _NUM_RADII) * rings.outer
        self.step = float(self.radii[1] - self.radii[0])
        x = rings.x + self.radii[None, :] * np.cos(self.angles)[:, None]
        y = rings.y + self.radii[None, :] * np.sin(self.angles)[:, None]
        height, width = gray.shape
        self.inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
        sampled = cv2.remap(gray, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR,
                            borderMode=cv2.BORDER_REPLICATE)
        turns = np.concatenate([sampled[-8:], sampled, sampled[:8]])  # the angle has no ends
        sigma = max(_EDGE_SCALE * rings.outer, _SMALLEST_EDGE_SCALE_PX) / self.step
        smooth = cv2.GaussianBlur(turns, (0, 0), sigmaX=sigma, sigmaY=1.5)[8:-8]
        slope = np.gradient(smooth, axis=1)
        self.odd = sigma * slope
        self.even = math.sqrt(2 / 3) * sigma**2 * np.gradient(slope, axis=1)

    def energy(self, polarity: int) -> np.ndarray:
        """Edge energy (angles, radii) of a boundary whose change of brightness towards the light has this sign."""
        towards = np.cos(self.angles - self.rings.light_rad)[:, None]
        across = 1.0 - np.minimum(2 * np.abs(towards), 1.0)  # 1 where the light comes along the boundary
        agreeing = np.sign(towards) * polarity * self.odd > 0
        energy = np.sqrt(self.odd**2 * np.where(agreeing, 1.0, across) + self.even**2 * across)
        return np.where(self.inside, energy, 0.0)

    def judge(self, name: str, path: np.ndarray) -> tuple[float, float]:
        """The share of angles at which no edge of its kind near a boundary is stronger, and how it agrees with the light.

        The agreement is weighted by strength, between -1 and 1.
        """
        energy, rows = self.energy(_POLARITY[name]), np.arange(_NUM_ANGLES)
        places = np.clip(np.rint((path - self.radii[0]) / self.step).astype(int), 0, _NUM_RADII - 1)
        around = [energy[rows, np.clip(places + shift, 0, _NUM_RADII - 1)] for shift in _SURROUNDINGS[name]]
        clear = float((energy[rows, places] > np.max(around, axis=0)).mean())
        signed = _POLARITY[name] * self.odd[rows, places] * np.cos(self.angles - self.rings.light_rad)
        return clear, float(signed.sum() / (np.abs(signed).sum() + 1e-12))

    def beyond(self, path: np.ndarray) -> float:
        """The clearest edge outside the outer boundary that alternates with it, in units of that boundary's own edge.

        A low percentile over the angles: the wall of a well passes on one side, a boundary that was taken for the outer
        one has the true one all around it.
        """
        energy, rows = self.energy(-_POLARITY["outer"]), np.arange(_NUM_ANGLES)
        places = np.clip(np.rint((path - self.radii[0]) / self.step).astype(int), 0, _NUM_RADII - 1)
        outside = np.where(self.radii[None, :] > _BEYOND * path[:, None], energy, 0.0)
        own = self.energy(_POLARITY["outer"])[rows, places]
        return float(np.percentile(outside.max(axis=1), _BEYOND_PERCENTILE) / (np.median(own) + 1e-12))

    def points(self, path: np.ndarray) -> np.ndarray:
        """Image coordinates (angles, 2) of a path of radii in pixels."""
        return np.stack([self.rings.x + path * np.cos(self.angles), self.rings.y + path * np.sin(self.angles)], axis=1)


def _trace(polar: _Polar) -> dict[str, np.ndarray]:
    """The path of each boundary as radii in pixels (angles,): outside first, then the cell, then what lies between."""
    rings, paths = polar.rings, {}
    low, high = np.full(_NUM_ANGLES, 0.0), np.full(_NUM_ANGLES, np.inf)
    for name in ("outer", "ooplasm", "inner"):
        expected = getattr(rings, name)
        reach = _REACH[name] * rings.outer
        above = np.maximum(low, expected - reach)
        below = np.minimum(high, expected + reach)
        paths[name] = _closed_path(polar, polar.energy(_POLARITY[name]), above, below)
        if name == "outer":
            high = paths[name] - _NARROWEST["zona"] * rings.outer
        else:
            low = paths[name] + _NARROWEST["gap"] * rings.outer
    return paths


def _closed_path(polar: _Polar, energy: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The closed path of most energy between two limits (angles,), to a fraction of a step: dynamic programming."""
    allowed = (polar.radii[None, :] >= low[:, None]) & (polar.radii[None, :] <= high[:, None])
    columns = np.flatnonzero(allowed.any(axis=0))
    if len(columns) < 3:
        return np.clip((low + high) / 2, polar.radii[1], polar.radii[-2])
    first, window = columns[0], slice(columns[0], columns[-1] + 1)
    scale = float(np.median(energy[allowed])) + float(energy.max()) * 1e-3 + 1e-12
    gain = np.where(allowed, np.sqrt(energy / scale), -1e3)[:, window]
    # Twice around: the second turn starts where the first has settled.
    doubled = np.concatenate([gain, gain])
    total = doubled[0].copy()
    back = np.zeros(doubled.shape, np.int8)
    options = np.full((3, gain.shape[1]), -np.inf)
    for row in range(1, len(doubled)):
        options[0, 1:], options[1], options[2, :-1] = total[:-1] - _SMOOTHNESS, total, total[1:] - _SMOOTHNESS
        chosen = options.argmax(axis=0)
        back[row] = chosen - 1
        total = doubled[row] + options.max(axis=0)
    path = np.empty(len(doubled), int)
    path[-1] = int(total.argmax())
    for row in range(len(doubled) - 1, 0, -1):
        path[row - 1] = path[row] + back[row, path[row]]
    half = len(gain) // 2
    path = first + np.roll(path[half : half + len(gain)], half)  # the middle of the two turns
    rows, inner = np.arange(len(gain)), np.clip(path, 1, len(polar.radii) - 2)
    before, here, after = energy[rows, inner - 1], energy[rows, inner], energy[rows, inner + 1]
    bend = before - 2 * here + after
    shift = np.where(bend < 0, 0.5 * (before - after) / np.where(bend < 0, bend, 1.0), 0.0)
    return polar.radii[inner] + np.clip(shift, -0.5, 0.5) * polar.step


def _fit_ellipse(points: np.ndarray, *, tolerance: float) -> tuple[Ellipse, np.ndarray]:
    """Least squares with the points that lie within `tolerance` of the ellipse, found from the median outwards."""
    kept = np.ones(len(points), bool)
    for _ in range(8):
        (x, y), (first, second), turn = cv2.fitEllipseDirect(points[kept].astype(np.float32))
        ellipse = (Ellipse(x, y, first / 2, second / 2, turn) if first >= second
                   else Ellipse(x, y, second / 2, first / 2, turn + 90.0))
        angles = np.arctan2(points[:, 1] - y, points[:, 0] - x)
        residual = np.abs(np.hypot(points[:, 0] - x, points[:, 1] - y) - ellipse.radius(angles, x=x, y=y))
        limit = max(tolerance, min(2.5 * float(np.median(residual)), 3 * tolerance))
        again = residual <= limit
        if again.sum() < len(points) // 3 or (again == kept).all():
            break
        kept = again
    return ellipse, residual <= tolerance


def _circularity(polar: _Polar, path: np.ndarray) -> float:
    """4 pi area / perimeter^2 of the outline's first eight harmonics: the steps of the path have no say."""
    spectrum = np.fft.rfft(path)
    spectrum[9:] = 0
    points = polar.points(np.fft.irfft(spectrum, len(path)))
    following = np.roll(points, -1, axis=0)
    area = 0.5 * abs(float((points[:, 0] * following[:, 1] - following[:, 0] * points[:, 1]).sum()))
    perimeter = float(np.hypot(*(following - points).T).sum())
    return 4 * math.pi * area / perimeter**2


def _texture(gray: np.ndarray, ooplasm: Ellipse, outer_radius: float) -> tuple[float, float]:
    """Granularity and mean brightness of the inner part of the ooplasm."""
    mask = np.zeros(gray.shape, np.uint8)
    size = (2 * _TEXTURE_PART * ooplasm.semi_major, 2 * _TEXTURE_PART * ooplasm.semi_minor)
    cv2.ellipse(mask, ((ooplasm.x, ooplasm.y), size, ooplasm.rotation_deg), 1, -1)
    fine, coarse = (cv2.GaussianBlur(gray, (0, 0), scale * outer_radius) for scale in _TEXTURE_SCALES)
    inside = mask.astype(bool)
    mean = float(gray[inside].mean())
    return float((fine - coarse)[inside].std()) / max(mean, 1e-6), mean
