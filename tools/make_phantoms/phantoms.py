"""Procedural images of mature oocytes under relief-contrast light, with known anatomy, class and Bayes rate.

This module draws a phantom's parameters, renders them at any size and computes how well the class can be known at best.
The command make_phantoms writes the files. All lengths are micrometres, x to the right and y upwards.
"""

import math
from dataclasses import dataclass, fields, replace

import cv2
import numpy as np
from scipy.special import ndtr

RECIPE_VERSION = 2  # part of the content key of a written set: raise it whenever an image or a draw changes
CLASS_NAMES = ("arrested", "blastocyst")
BLASTOCYST_SHARE = 0.3
FIELD_UM = 200.0  # width of the square field of view
DIFFICULTIES = ("clear", "faint", "shuffled")

# Patients come in blocks, so that a phantom's patient is known without computing all those before it.
PATIENTS_PER_BLOCK = 4
IMAGES_PER_BLOCK = 28
PATIENT_SIZES = (4, 10)

PATIENT_VARIANCE = 0.25  # the fraction of a morphology score's unit variance that a patient's oocytes have in common

# Distance of the class means (blastocyst minus arrested) of each score, in standard deviations within a class. With
# independent scores the optimal AUC is Phi(D / sqrt(2)), D the root of their summed squares: 0.9996 and 0.652.
_CLEAR_EFFECTS = {"pvs": -3.1, "zona": -0.9, "core": -3.2, "fragmentation": -1.2}
_FAINT_EFFECTS = {"pvs": -0.35, "zona": -0.12, "core": -0.38, "fragmentation": -0.15}
_EFFECTS = {"clear": _CLEAR_EFFECTS, "faint": _FAINT_EFFECTS, "shuffled": _CLEAR_EFFECTS}
_RANGES = {  # a score s becomes low + (high - low) * sigmoid(s): monotone, so that no information is lost or clipped
    "pvs": (2.5, 15.5),
    "zona": (12.0, 20.0),
    "core": (0.0, 1.0),
    "fragmentation": (0.0, 1.0),
}
_SCORES = tuple(_RANGES)

FOCAL_RANGE_UM = 20.0  # from the first focal plane of a stack to the last; an oocyte's own focus varies by 3 um
_STACK_FOCUS_SHARE = 0.5  # of a single image's focus error: people who take a stack search for its first plane
MICROSCOPES = ("scope_a", "scope_b")
_TINT_LEVELS, _TINT_VIGNETTE = 24.0, 0.22  # how much brighter scope_b is, and how much darker in the corners

# Second word of every generator's address (seed, purpose, index).
_BLOCK, _PATIENT, _IMAGE, _LABEL, _SHAPE, _TEXTURE, _SENSOR, _MICROSCOPE = range(8)

_OCTAVES = (6, 12, 25, 50, 100, 200, 400)  # lattice cells across the field: wavelengths of 33 down to 0.5 um


@dataclass(frozen=True)
class PhantomParameters:
    """Everything that determines one phantom; `seed` and `index` address its textures and its noise.

    `morphology_class` is the class that shaped the oocyte: the label itself, but drawn apart from it when shuffled.
    Angles are counter-clockwise from the x axis; `light_deg` points to the light. `focus_um` is signed (above, below).
    `mean_level` is the mean grey level before noise, set by the camera's exposure and thus independent of the anatomy.
    """

    seed: int
    index: int
    difficulty: str
    patient: int
    label: int
    morphology_class: int
    field_um: float
    centre_x_um: float
    centre_y_um: float
    outer_radius_um: float
    zona_um: float
    pvs_um: float
    ellipticity: float
    rotation_deg: float
    granularity: float
    core_granularity: float
    fragmentation: float
    polar_body_um: float
    num_vacuoles: int
    num_debris: int
    focus_um: float
    light_deg: float
    light_strength: float
    gradient: float
    vignette: float
    mean_level: float
    noise_level: float
    has_well: int
    well_x_um: float
    well_y_um: float
    well_radius_um: float


@dataclass(frozen=True)
class BayesRate:
    """The limit for any classifier: balanced accuracy and AUC of the true likelihood ratio."""

    balanced_accuracy: float
    auc: float


def draw_parameters(*, seed: int, index: int, difficulty: str) -> PhantomParameters:
    """Draw phantom `index` (from 0) of the endless set of `seed`; it never depends on how many are drawn.

    Raises:
        ValueError: the difficulty is unknown, or the seed or the index is negative.
    """
    _check_difficulty(difficulty)
    patient = find_patient(seed=seed, index=index)
    label_rng = _address(seed, _LABEL, index)
    label = int(label_rng.random() < BLASTOCYST_SHARE)
    shaping = int(label_rng.random() < BLASTOCYST_SHARE) if difficulty == "shuffled" else label

    ours = _address(seed, _PATIENT, patient)
    mine = _address(seed, _IMAGE, index)
    morphology = {}
    for name in _SCORES:
        shared, own = ours.standard_normal(), mine.standard_normal()
        score = math.sqrt(PATIENT_VARIANCE) * shared + math.sqrt(1 - PATIENT_VARIANCE) * own
        morphology[name] = _from_score(name, score + (shaping - 0.5) * _EFFECTS[difficulty][name])

    outer_radius = 75.0 + 1.5 * _bounded_normal(ours) + 1.5 * _bounded_normal(mine)
    has_well = int(ours.random() < 0.5)
    well_radius = ours.uniform(112.0, 122.0)
    room = 96.0 - outer_radius  # the whole zona stays in the field
    well_direction, well_shift = mine.uniform(0, 2 * math.pi), mine.uniform(18.0, 32.0)
    return PhantomParameters(
        seed=seed,
        index=index,
        difficulty=difficulty,
        patient=patient,
        label=label,
        morphology_class=shaping,
        field_um=FIELD_UM,
        centre_x_um=float(np.clip(7.0 * mine.standard_normal(), -room, room)),
        centre_y_um=float(np.clip(7.0 * mine.standard_normal(), -room, room)),
        outer_radius_um=outer_radius,
        zona_um=morphology["zona"],
        pvs_um=morphology["pvs"],
        ellipticity=mine.uniform(0.0, 0.035),
        rotation_deg=mine.uniform(0.0, 360.0),
        granularity=0.6 + 0.12 * _bounded_normal(ours) + 0.1 * _bounded_normal(mine),
        core_granularity=morphology["core"],
        fragmentation=morphology["fragmentation"],
        polar_body_um=mine.uniform(7.0, 9.5),
        num_vacuoles=min(int(mine.poisson(0.4)), 3),
        num_debris=min(int(mine.poisson(3.0)), 8),
        focus_um=1.5 * _bounded_normal(ours) + 2.5 * _bounded_normal(mine),
        light_deg=90.0 + 8.0 * _bounded_normal(ours) + 2.0 * _bounded_normal(mine),
        light_strength=ours.uniform(0.75, 1.15),
        gradient=ours.uniform(0.05, 0.16),
        vignette=ours.uniform(0.04, 0.16),
        mean_level=112.0 + 9.0 * _bounded_normal(ours) + 4.0 * _bounded_normal(mine),
        noise_level=ours.uniform(0.7, 1.3),
        has_well=has_well,
        well_x_um=well_shift * math.cos(well_direction),
        well_y_um=well_shift * math.sin(well_direction),
        well_radius_um=well_radius,
    )


def at_focal_plane(parameters: PhantomParameters, *, plane: int, num_planes: int) -> PhantomParameters:
    """The same oocyte seen at plane 0 (near its focus) to num_planes - 1 (FOCAL_RANGE_UM away) of a stack.

    The stack goes one way: the two sides of the focus differ only in the sign of faint rims, which a small VAE loses.
    """
    height = FOCAL_RANGE_UM * plane / (num_planes - 1)
    return replace(parameters, focus_um=_STACK_FOCUS_SHARE * parameters.focus_um + height)


def choose_microscope(parameters: PhantomParameters, *, share: float) -> int:
    """The one of MICROSCOPES that took a phantom: class and microscope agree in (1 + share) / 2 of all phantoms.

    `share` 0 makes the microscope independent of the class, 1 gives each class a separate microscope.
    """
    agrees = _address(parameters.seed, _MICROSCOPE, parameters.index).random() < (1 + share) / 2
    return parameters.label if agrees else 1 - parameters.label


def under_microscope(parameters: PhantomParameters, microscope: int) -> PhantomParameters:
    """The same oocyte under one of MICROSCOPES: scope_b exposes longer and lights its corners less."""
    return replace(parameters, mean_level=parameters.mean_level + microscope * _TINT_LEVELS,
                   vignette=parameters.vignette + microscope * _TINT_VIGNETTE)


def under_isotropic_light(parameters: PhantomParameters) -> PhantomParameters:
    """The same oocyte without relief contrast: all its turns and flips are equally likely."""
    return replace(parameters, light_strength=0.0)


def find_patient(*, seed: int, index: int) -> int:
    """The patient of image `index`: consecutive images in groups of 4 to 10, four groups in a block of 28 images."""
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index must be 0 or more, found seed {seed} and index {index}")
    block, place = divmod(index, IMAGES_PER_BLOCK)
    rng = _address(seed, _BLOCK, block)
    low, high = PATIENT_SIZES
    while True:
        sizes = rng.integers(low, high + 1, size=PATIENTS_PER_BLOCK - 1)
        if low <= IMAGES_PER_BLOCK - sizes.sum() <= high:
            break
    return block * PATIENTS_PER_BLOCK + int(np.searchsorted(np.cumsum(sizes), place, side="right"))


def bayes_rate(difficulty: str) -> BayesRate:
    """Closed form for a phantom of an unseen patient: the scores are independent Gaussians of variance 1 in each class.

    The log-likelihood ratio of all scores is then Gaussian with means -D^2/2 and D^2/2 and variance D^2, which gives
    the balanced accuracy Phi(D / 2) and the AUC Phi(D / sqrt(2)). Every other parameter is drawn without the class.
    """
    _check_difficulty(difficulty)
    if difficulty == "shuffled":
        return BayesRate(balanced_accuracy=0.5, auc=0.5)
    distance = math.sqrt(sum(effect**2 for effect in _EFFECTS[difficulty].values()))
    return BayesRate(balanced_accuracy=float(ndtr(distance / 2)), auc=float(ndtr(distance / math.sqrt(2))))


def log_likelihood_ratio(parameters: PhantomParameters) -> float:
    """log p(morphology | blastocyst) - log p(morphology | arrested) from the true parameters; 0 when shuffled."""
    if parameters.difficulty == "shuffled":
        return 0.0
    values = {
        "pvs": parameters.pvs_um,
        "zona": parameters.zona_um,
        "core": parameters.core_granularity,
        "fragmentation": parameters.fragmentation,
    }
    return sum(effect * _to_score(name, values[name]) for name, effect in _EFFECTS[parameters.difficulty].items())


def parameter_names() -> list[str]:
    """The names of all true parameters, in the order of a table's columns."""
    return [field.name for field in fields(PhantomParameters)]


def render_phantom(
    parameters: PhantomParameters, *, size_px: int, noise: bool = True, exposure: int = 0
) -> np.ndarray:
    """Render one phantom as (size_px, size_px) uint8 grey levels; every size shows the same anatomy.

    The image is computed from an optical path (which bends light: relief, halos) and an absorbance (which removes
    light), both on a finer grid, then blurred by focus, averaged to pixels and exposed. `noise=False` leaves out the
    camera's shot and read noise, which belong to the pixels: they differ between sizes and between exposures of one
    oocyte (`exposure`).
    """
    if size_px < 16:
        raise ValueError(f"size_px must be 16 or more, found {size_px}")
    levels = _render_levels(parameters, size_px)
    if noise:
        rng = _address(parameters.seed, _SENSOR, parameters.index, size_px, *([exposure] if exposure else []))
        # Shot noise grows with the root of the light, read noise is constant: together 1.7 levels at level 112.
        deviation = parameters.noise_level * np.sqrt(0.023 * np.maximum(levels, 0.0) + 0.3)
        levels = levels + deviation * rng.standard_normal(levels.shape)
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)


def _render_levels(p: PhantomParameters, size_px: int) -> np.ndarray:
    """The noise-free image in grey levels, (size_px, size_px) float64."""
    factor = 2 if size_px <= 256 else 1
    grid = size_px * factor
    while grid < 128:  # below this the zona's edges are no longer sampled
        grid += size_px
    pixel_um = p.field_um / grid
    ticks = ((np.arange(grid) + 0.5) * pixel_um - p.field_um / 2).astype(np.float32)
    x, y = np.meshgrid(ticks, -ticks)
    shape_rng = _address(p.seed, _SHAPE, p.index)
    texture = _Texture(_address(p.seed, _TEXTURE, p.index), grid)

    path, absorbance = _draw_oocyte(p, x, y, shape_rng, texture)
    _add_debris(p, x, y, shape_rng, path, absorbance)
    light = _draw_background(p, x, y, texture)

    # Relief: light falls off with the slope of the optical path towards the light. The bright or dark rim of each edge
    # (Becke line) is its curvature, and changes sign through the focus.
    sharp = cv2.GaussianBlur(path, (0, 0), 0.9 / pixel_um)
    along_y, along_x = np.gradient(sharp, pixel_um)
    angle = math.radians(p.light_deg)
    slope = along_x * math.cos(angle) - along_y * math.sin(angle)
    relief = -0.58 * p.light_strength * np.tanh(1.1 * slope)
    wide = cv2.GaussianBlur(sharp, (0, 0), 2.2 / pixel_um)
    rim = np.tanh(0.55 * (sharp - wide)) * (0.30 - 0.04 * p.focus_um)
    picture = light * np.exp(-absorbance) * (1.0 + relief + rim)

    blur_um = math.hypot(0.7, 0.32 * p.focus_um)
    picture = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), blur_um / pixel_um)
    # Part of the light comes from other planes: a wide, weak veil.
    picture = 0.88 * picture + 0.12 * cv2.GaussianBlur(picture, (0, 0), 6.0 / pixel_um)
    picture = cv2.resize(picture, (size_px, size_px), interpolation=cv2.INTER_AREA).astype(np.float64)
    picture = np.maximum(picture, 0.01)
    return picture * (p.mean_level / picture.mean())


def _draw_oocyte(
    p: PhantomParameters, x: np.ndarray, y: np.ndarray, rng: np.random.Generator, texture: "_Texture"
) -> tuple[np.ndarray, np.ndarray]:
    """Optical path and absorbance of zona, ooplasm, vacuoles and polar body, (grid, grid) float32 each."""
    turn = math.radians(p.rotation_deg)
    u = ((x - p.centre_x_um) * math.cos(turn) + (y - p.centre_y_um) * math.sin(turn)) / (1 + p.ellipticity)
    v = ((y - p.centre_y_um) * math.cos(turn) - (x - p.centre_x_um) * math.sin(turn)) * (1 + p.ellipticity)
    radius = np.sqrt(u * u + v * v)
    angle = np.arctan2(v, u)

    inner_um = p.outer_radius_um - p.zona_um
    # Irregular outlines that do not affect the centre: a radius that changes with the angle would crease it.
    depth = np.minimum(radius / inner_um, 1.0) ** 3
    outer = p.outer_radius_um * (1 + _wobble(angle, rng, 0.006))
    inner = inner_um * (1 + depth * _wobble(angle, rng, 0.005))
    # The polar body sits at angle 0 and dents the ooplasm where the gap is narrower than it is thick.
    dent = max(0.0, 1.5 * p.polar_body_um + 0.5 - p.pvs_um)
    ooplasm = (inner_um - p.pvs_um) * (1 + depth * _wobble(angle, rng, 0.007))
    ooplasm = ooplasm - dent * depth * depth * np.exp(-0.5 * (angle / 0.23) ** 2)

    zona_mask = _step(outer - radius, 2.4) * _step(radius - inner, 1.0)
    cell_mask = _step(ooplasm - radius, 0.9)
    grain, radial = texture.noise(4, 7), texture.polar(radius, angle)
    path = 0.34 * (_dome(radius, outer, soft_um=1.6) - _dome(radius, inner))
    path += zona_mask * (0.45 * grain + 0.25 * radial)
    absorbance = zona_mask * (0.07 + 0.03 * grain + 0.015 * radial)
    absorbance += 0.22 * _ridge(radius - inner, 0.9) + 0.07 * _ridge(radius - outer, 2.4)

    fine, coarse = texture.noise(3, 7), texture.noise(2, 4)
    offset = 0.12 * inner_um * rng.standard_normal(2)
    core = np.exp(-0.5 * (((u - offset[0]) ** 2 + (v - offset[1]) ** 2) / (0.36 * inner_um) ** 2) ** 1.5)
    path += 0.70 * _dome(radius, ooplasm)
    # The outermost micrometres of the ooplasm hold few organelles and look smooth.
    organelles = p.granularity * _step(ooplasm - radius - 3.5, 3.0)
    path += organelles * (1.0 * fine + 0.9 * texture.noise(1, 3))
    path += cell_mask * core * p.core_granularity * 3.0 * coarse
    # A dark core and a lighter cortex in balance: the whole ooplasm absorbs the same whatever its granularity.
    clumps = core * (1.0 + 0.55 * coarse)
    clumps -= float((clumps * cell_mask).sum() / cell_mask.sum())
    absorbance += cell_mask * (0.20 + 0.07 * organelles * fine + 0.60 * p.core_granularity * clumps)
    absorbance += 0.34 * _ridge(radius - ooplasm, 0.9)

    for _ in range(p.num_vacuoles):
        place, direction = 0.72 * (inner_um - p.pvs_um) * math.sqrt(rng.random()), rng.uniform(0, 2 * math.pi)
        size = rng.uniform(3.0, 6.5)
        hole_u, hole_v = place * math.cos(direction), place * math.sin(direction)
        near = _window(p, hole_u, hole_v, size + 5.0, len(u))
        hole = np.hypot(u[near] - hole_u, v[near] - hole_v)
        path[near] -= 1.1 * _dome(hole, size)
        absorbance[near] += 0.18 * _ridge(hole - size, 0.9) - 0.10 * _step(size - hole, 1.0)
    _add_polar_body(p, u, v, inner_um, rng, path, absorbance, fine)
    return path, absorbance


def _add_polar_body(
    p: PhantomParameters,
    u: np.ndarray,
    v: np.ndarray,
    inner_um: float,
    rng: np.random.Generator,
    path: np.ndarray,
    absorbance: np.ndarray,
    fine: np.ndarray,
) -> None:
    """Add the first polar body at angle 0; with more fragmentation its volume moves to five pieces beside it."""
    spread = p.fragmentation
    sizes = [p.polar_body_um * (1 - 0.4 * spread)]
    angles = [0.0]
    for number, piece in enumerate(rng.uniform(0.4, 0.75, size=5)):
        sizes.append(p.polar_body_um * piece * spread)
        side = -1 if number % 2 else 1
        angles.append(side * (0.15 + 0.06 * number) * (0.6 + 0.6 * spread))
    for size, angle in zip(sizes, angles, strict=True):
        place = inner_um - 0.75 * size - 0.4
        near = _window(p, place * math.cos(angle), place * math.sin(angle), 1.25 * size + 5.0, len(u))
        du, dv = u[near] - place * math.cos(angle), v[near] - place * math.sin(angle)
        out = (du * math.cos(angle) + dv * math.sin(angle)) / 0.75  # flattened between zona and ooplasm
        along = (dv * math.cos(angle) - du * math.sin(angle)) / 1.15
        distance = np.sqrt(out * out + along * along)
        body = _step(size - distance, 0.8)
        path[near] += 1.2 * _dome(distance, size) + body * 0.6 * fine[near]
        absorbance[near] += 0.12 * body + 0.34 * _ridge(distance - size, 0.8)


def _add_debris(
    p: PhantomParameters,
    x: np.ndarray,
    y: np.ndarray,
    rng: np.random.Generator,
    path: np.ndarray,
    absorbance: np.ndarray,
) -> None:
    """Add specks that float outside the zona or cling to it."""
    for _ in range(p.num_debris):
        direction = rng.uniform(0, 2 * math.pi)
        place = p.outer_radius_um + rng.exponential(9.0) - 1.0
        size, height = rng.uniform(0.9, 2.4), rng.uniform(0.3, 1.0)
        speck_x = p.centre_x_um + place * math.cos(direction)
        speck_y = p.centre_y_um + place * math.sin(direction)
        near = _slices(p, speck_x, speck_y, size + 5.0, len(x))
        distance = np.hypot(x[near] - speck_x, y[near] - speck_y)
        path[near] += 1.4 * height * _dome(distance, size)
        absorbance[near] += 0.25 * height * _step(size - distance, 0.8)


def _draw_background(p: PhantomParameters, x: np.ndarray, y: np.ndarray, texture: "_Texture") -> np.ndarray:
    """Light that reaches the oocyte: gradient towards the lamp, vignette, uneven dish and the wall of the well."""
    angle = math.radians(p.light_deg)
    half = p.field_um / 2
    towards = (x * math.cos(angle) + y * math.sin(angle)) / half
    light = 1.0 + p.gradient * p.light_strength * towards
    light = light - p.vignette * (x * x + y * y) / (2 * half * half)
    light = light + 0.015 * texture.noise(0, 2) + 0.010 * texture.noise(4, 7)
    if p.has_well:
        dx, dy = x - p.well_x_um, y - p.well_y_um
        distance = np.sqrt(dx * dx + dy * dy)
        facing = (dx * math.cos(angle) + dy * math.sin(angle)) / np.maximum(distance, 1.0) * p.light_strength
        beyond = distance - p.well_radius_um
        outside = _step(beyond - 6.0, 3.0)
        ripples = 0.10 * np.sin(beyond / 1.7 + 2.0 * texture.noise(0, 2)) * np.exp(-np.maximum(beyond, 0) / 30.0)
        light = light * (1.0 + outside * (-0.30 + 0.52 * facing + ripples))
        rim = np.exp(-0.5 * ((beyond - 3.0) / 3.2) ** 2)
        light = light * (1.0 + rim * (0.14 + 0.80 * facing))
    return np.maximum(light, 0.05)


class _Texture:
    """Band-limited random fields of one phantom: lattices of fixed numbers of cells, equal for every grid size.

    Lattices finer than the grid are drawn only if needed; they come last, so the coarse ones never change.
    """

    def __init__(self, rng: np.random.Generator, grid: int) -> None:
        self._fields = []
        self._streaks = rng.standard_normal((5, 240)).astype(np.float32)
        for cells in _OCTAVES:
            if cells > max(grid, _OCTAVES[0]):
                break
            lattice = rng.standard_normal((cells, cells), dtype=np.float32)
            lattice = 1.9 * cv2.GaussianBlur(lattice, (3, 3), 0.6)  # hides the lattice's own axes
            self._fields.append(cv2.resize(lattice, (grid, grid), interpolation=cv2.INTER_CUBIC))

    def noise(self, first: int, stop: int) -> np.ndarray:
        """Sum of the octaves first..stop-1 that the grid can show, each of half the weight of the one before."""
        total = np.zeros_like(self._fields[0])
        for octave in range(first, min(stop, len(self._fields))):
            total += 0.6 ** (octave - first) * self._fields[octave]
        return total

    def polar(self, radius: np.ndarray, angle: np.ndarray) -> np.ndarray:
        """Faint streaks along the radius: a field that varies quickly with the angle and slowly outwards."""
        columns = ((angle / (2 * math.pi)) % 1.0 * self._streaks.shape[1]).astype(np.float32)
        rows = (radius / 30.0).astype(np.float32)
        return cv2.remap(self._streaks, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)


def _address(seed: int, purpose: int, *index: int) -> np.random.Generator:
    return np.random.default_rng([seed, purpose, *index])


def _bounded_normal(rng: np.random.Generator) -> float:
    """A standard normal deviate, limited to 2.5 so that no image is extreme."""
    return float(np.clip(rng.standard_normal(), -2.5, 2.5))


def _window(p: PhantomParameters, u: float, v: float, reach_um: float, grid: int) -> tuple[slice, slice]:
    """The part of the grid within `reach_um` of a point of the oocyte's frame (turned, slightly elliptic)."""
    turn = math.radians(p.rotation_deg)
    along, across = u * (1 + p.ellipticity), v / (1 + p.ellipticity)
    x = p.centre_x_um + along * math.cos(turn) - across * math.sin(turn)
    y = p.centre_y_um + along * math.sin(turn) + across * math.cos(turn)
    return _slices(p, x, y, reach_um, grid)


def _slices(p: PhantomParameters, x: float, y: float, reach_um: float, grid: int) -> tuple[slice, slice]:
    """Rows and columns within `reach_um` of a point of the image; empty if the point is outside."""
    per_um = grid / p.field_um

    def span(centre_um: float) -> slice:
        start = math.floor((centre_um - reach_um + p.field_um / 2) * per_um)
        stop = math.ceil((centre_um + reach_um + p.field_um / 2) * per_um)
        return slice(max(start, 0), max(stop, 0))

    return span(-y), span(x)


def _from_score(name: str, score: float) -> float:
    low, high = _RANGES[name]
    return low + (high - low) / (1.0 + math.exp(-score))


def _to_score(name: str, value: float) -> float:
    low, high = _RANGES[name]
    return math.log(value - low) - math.log(high - value)


def _check_difficulty(difficulty: str) -> None:
    if difficulty not in DIFFICULTIES:
        raise ValueError(f"difficulty must be one of {', '.join(DIFFICULTIES)}, found {difficulty!r}")


def _wobble(angle: np.ndarray, rng: np.random.Generator, amplitude: float) -> np.ndarray:
    """A smooth relative irregularity of an outline: three harmonics of the given amplitude."""
    total = np.zeros_like(angle)
    for order in (2, 3, 5):
        phase, weight = rng.uniform(0, 2 * math.pi), amplitude * rng.standard_normal() * 2 / order
        total += np.float32(weight) * np.cos(order * angle + np.float32(phase))
    return total


def _step(distance: np.ndarray, width_um: float) -> np.ndarray:
    """0 outside, 1 inside, with a transition of `width_um` to either side of distance 0."""
    return 0.5 + 0.5 * np.tanh(distance / np.float32(width_um))


def _ridge(distance: np.ndarray, width_um: float) -> np.ndarray:
    """A line of Gaussian profile along distance 0."""
    return np.exp(-0.5 * (distance / np.float32(width_um)) ** 2)


def _dome(distance: np.ndarray, radius: np.ndarray | float, soft_um: float = 0.0) -> np.ndarray:
    """Half the thickness of a ball, in um; `soft_um` lets its edge fade out instead of ending at once."""
    inside = radius * radius - distance * distance
    if soft_um > 0.0:
        inside = 0.5 * (inside + np.sqrt(inside * inside + (2.0 * soft_um * radius) ** 2))
        return np.sqrt(inside)
    return np.sqrt(np.maximum(inside, 0.0))
