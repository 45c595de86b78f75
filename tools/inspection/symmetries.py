"""Test which flips and turns a set of images obeys: its distribution must not change under them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
import torch.nn.functional as F

from config.schema import SYMMETRIES
from dataset.order import generator
from dataset.symmetries import apply_symmetry
from tools.evaluation.checks import as_groups

LEVEL = 0.01
MIN_EFFECT = 0.25  # of a standard deviation; Cohen 1988 calls 0.2 small: smaller effects do not matter, however certain
MIN_GROUPS = 8  # with fewer, the smallest p value of an exact test of signs, 2 / 2^groups, does not reach the level
LARGE_EFFECT = 0.8  # Cohen 1988; a test that finds only larger ones says little if it finds nothing
RULE = (
    f"a symmetry is broken if p < {LEVEL} and the effect is above {MIN_EFFECT}. The config gets the largest complete set of "
    "the others: any two of a complete set, one after the other, give one of the set. Of equally large sets it gets the one "
    "with the smallest effects"
)
_SIZE_PX = 64  # images are averaged to this side: light and orientation are coarse, and noise is not
_CELLS = 4  # of the coarse maps, a side
_DRAWS = 1999
_BLOCK_BYTES = 1 << 28
_FLOOR = 1e-6  # of a spread: below it a statistic is constant up to rounding


@dataclass(frozen=True)
class SymmetryTest:
    """One symmetry: `effect` is the largest shift of a statistic's mean, in standard deviations of that statistic.

    `p_value` is the probability of such an effect if the images obeyed the symmetry, `statistic` the one that shifts
    most. An effect below `found_from` would not have been called broken.
    """

    name: str
    effect: float
    p_value: float
    statistic: str
    broken: bool
    found_from: float


@dataclass(frozen=True)
class SymmetryMeasurement:
    """`recommended` names the augmentation, identity first; `tests` has the seven others of SYMMETRIES.

    `decided` is False if there are too few groups for any test; `note` says that, or how small an effect a test could find.
    """

    recommended: tuple[str, ...]
    tests: tuple[SymmetryTest, ...]
    num_images: int
    num_groups: int
    decided: bool = True
    note: str | None = None


def measure_symmetries(
    images: np.ndarray, *, groups: Sequence[str], level: float = LEVEL, min_effect: float = MIN_EFFECT, seed: int = 0
) -> SymmetryMeasurement:
    """Test each flip and turn on images float (N, C, H, H) in [-1, 1], `groups` naming the patient or embryo of each.

    Every image is described by the mean brightness and the edge energy of 4 x 4 cells, by the brightness slope across
    the whole, and by the skewness and anisotropy of its gradients at two scales, after its own mean and contrast are
    taken out. If the images obey g, a group's images are as likely as the same turned by g, g g, ...; drawing these
    turns at random for each whole group gives the exact distribution of the largest mean shift over all statistics
    (for a flip: a test of signs). Under `MIN_GROUPS` groups nothing can be tested and only the identity is recommended.

    Raises:
        UserError: no group for each image.
        ValueError: images that are not square or not of four dimensions.

    Source: randomisation tests of invariance: Lehmann and Romano 2005, section 15.2.
    """
    if images.ndim != 4 or images.shape[-1] != images.shape[-2]:
        raise ValueError(f"expected square images (N, C, H, H), found shape {images.shape}")
    numbers, num_groups = as_groups(groups, len(images), minimum=1)
    described = {name: _describe(images, name) for name in SYMMETRIES}
    names = _statistic_names()
    spread = np.concatenate(list(described.values())).std(axis=0)
    members = np.bincount(numbers)
    means = {}
    for name, values in described.items():
        scaled = np.where(spread > _FLOOR, values / np.maximum(spread, _FLOOR), 0.0)
        means[name] = np.stack(
            [np.bincount(numbers, weights=column) for column in scaled.T], axis=1
        ) / members[:, None]  # (groups, statistics)

    tests = []
    for place, name in enumerate(SYMMETRIES[1:]):
        rng = generator(seed, "symmetries", place)
        effect, p_value, strongest, critical = _test(means, name, rng, level)
        broken = p_value < level and effect > min_effect
        tests.append(SymmetryTest(name, effect, p_value, names[strongest], broken, max(critical, min_effect)))
    if num_groups < MIN_GROUPS:
        note = (f"{num_groups} groups are too few to test symmetries, {MIN_GROUPS} are needed. Add those that your optics "
                "allow by hand")
        return SymmetryMeasurement(("identity",), tuple(tests), len(images), num_groups, decided=False, note=note)
    unseen = max((test.found_from for test in tests if not test.broken), default=0.0)
    note = None
    if unseen > LARGE_EFFECT:
        note = (f"with {num_groups} groups a break smaller than {unseen:.1f} standard deviations can go unnoticed. Keep "
                "only the symmetries that your optics allow")
    return SymmetryMeasurement(_recommend(tests), tuple(tests), len(images), num_groups, note=note)


def format_measurement(measurement: SymmetryMeasurement) -> str:
    """The table and the resulting line of the config."""
    lines = [f"{measurement.num_images} images of {measurement.num_groups} groups",
             f"{'symmetry':<16}{'effect':>8}{'p':>8}{'found from':>12}  {'verdict':<15}  what shifts most"]
    for test in measurement.tests:
        verdict = "broken" if test.broken else "no break found"
        numbers = f"{test.p_value:>8.4f}{test.found_from:>12.2f}  {verdict:<15}  {test.statistic}"
        lines.append(f"{test.name:<16}{test.effect:>8.2f}{numbers if measurement.decided else '  not tested'}")
    lines += [f"note: {measurement.note}"] if measurement.note is not None else []
    lines += [f"rule: {RULE}"] if measurement.decided else []
    lines += ["dataset_params:", f"  symmetries: [{', '.join(measurement.recommended)}]"]
    return "\n".join(lines)


def _test(
    means: dict[str, np.ndarray], name: str, rng: np.random.Generator, level: float
) -> tuple[float, float, int, float]:
    """Effect, p value, number of the statistic that shifts most, and smallest effect with p < level, for one symmetry g.

    The shift of a group turned by h is means[g h] - means[h]; observed is h = identity.
    """
    powers = ["identity"]
    while (following := compose(powers[-1], name)) != "identity":
        powers.append(following)
    shifts = np.stack([means[compose(power, name)] - means[power] for power in powers])  # (order, groups, statistics)
    observed = np.abs(shifts[0].mean(axis=0))
    num_groups, num_statistics = shifts.shape[1:]
    at_once = max(1, _BLOCK_BYTES // (8 * num_groups * len(powers)))
    chance, effect = [], observed.max()
    for start in range(0, _DRAWS, at_once):
        chosen = rng.integers(len(powers), size=(min(at_once, _DRAWS - start), num_groups))
        total = np.zeros((len(chosen), num_statistics))
        for turn, shift in enumerate(shifts):
            total += (chosen == turn).astype(np.float64) @ shift
        chance.append(np.abs(total / num_groups).max(axis=1))
    drawn = np.sort(np.concatenate(chance))[::-1]
    exceeding = int((drawn >= effect * (1 - 1e-9)).sum())
    critical = drawn[max(0, math.ceil(level * (1 + _DRAWS)) - 2)]  # at most this many draws may reach a p below the level
    return float(effect), (1 + exceeding) / (1 + _DRAWS), int(observed.argmax()), float(critical)


def _recommend(tests: Sequence[SymmetryTest]) -> tuple[str, ...]:
    """The largest closed set of unbroken symmetries, identity first; of equally large ones that of smallest effects."""
    effects = {test.name: test.effect for test in tests if not test.broken}
    candidates = [
        ("identity", *chosen)
        for size in (0, 1, 3, 7)  # a subgroup's order divides eight
        for chosen in combinations(effects, size)
        if _is_closed(("identity", *chosen))
    ]
    best = max(candidates, key=lambda names: (len(names), -sum(effects.get(name, 0.0) for name in names)))
    return tuple(name for name in SYMMETRIES if name in best)


def compose(first: str, second: str) -> str:
    """The symmetry that acts like `first`, then `second`."""
    marked = torch.arange(4).view(2, 2)
    result = apply_symmetry(apply_symmetry(marked, first), second)
    return next(name for name in SYMMETRIES if torch.equal(apply_symmetry(marked, name), result))


def _is_closed(names: Sequence[str]) -> bool:
    return all(compose(first, second) in names for first in names for second in names)


def _describe(images: np.ndarray, name: str) -> np.ndarray:
    """Statistics float64 (N, K) of the images turned by `name`, in the order of `_statistic_names`."""
    blocks = []
    for start in range(0, len(images), 256):
        block = torch.from_numpy(np.ascontiguousarray(images[start:start + 256])).double().mean(dim=1, keepdim=True)
        block = apply_symmetry(block, name)
        if block.shape[-1] > _SIZE_PX:
            block = F.adaptive_avg_pool2d(block, _SIZE_PX)
        blocks.append(_describe_block(block))
    return torch.cat(blocks).numpy()


def _describe_block(x: torch.Tensor) -> torch.Tensor:
    """Statistics (B, K) of gray images (B, 1, H, H)."""
    x = x - x.mean(dim=(2, 3), keepdim=True)
    x = x / x.square().mean(dim=(2, 3), keepdim=True).sqrt().clamp_min(_FLOOR)
    ticks = torch.linspace(-1, 1, x.shape[-1], dtype=x.dtype)
    slopes = [(x * ticks.view(1, 1, 1, -1)).mean(dim=(1, 2, 3)), -(x * ticks.view(1, 1, -1, 1)).mean(dim=(1, 2, 3))]
    parts = [F.adaptive_avg_pool2d(x, _CELLS).flatten(1), torch.stack(slopes, dim=1)]
    for scale in (1, 4):
        coarse = F.adaptive_avg_pool2d(x, x.shape[-1] // scale)
        # Differences of neighbours, averaged to the middle of each four, so that every flip hits the same positions.
        right = coarse[..., :, 1:] - coarse[..., :, :-1]  # (B, 1, h, h - 1)
        up = coarse[..., :-1, :] - coarse[..., 1:, :]  # (B, 1, h - 1, h)
        right, up = (right[..., 1:, :] + right[..., :-1, :]) / 2, (up[..., :, 1:] + up[..., :, :-1]) / 2
        energy = (right.square() + up.square()).mean(dim=(1, 2, 3)).clamp_min(_FLOOR**2)
        parts.append(torch.stack([
            right.pow(3).mean(dim=(1, 2, 3)) / energy.pow(1.5),
            up.pow(3).mean(dim=(1, 2, 3)) / energy.pow(1.5),
            (right.square() - up.square()).mean(dim=(1, 2, 3)) / energy,
            (right * up).mean(dim=(1, 2, 3)) / energy,
        ], dim=1))
        if scale == 1:
            maps = F.adaptive_avg_pool2d(right.square() + up.square(), _CELLS).flatten(1)
            parts.append((maps + _FLOOR).log())
    return torch.cat(parts, dim=1)


def _statistic_names() -> list[str]:
    cells = [f"row {row + 1}, column {column + 1} of {_CELLS}" for row in range(_CELLS) for column in range(_CELLS)]
    gradients = ["skewness left to right", "skewness bottom to top", "anisotropy along the axes",
                 "anisotropy along the diagonals"]
    return [
        *(f"brightness of {cell}" for cell in cells),
        "brightness slope left to right", "brightness slope bottom to top",
        *(f"fine gradients' {what}" for what in gradients),
        *(f"edge energy of {cell}" for cell in cells),
        *(f"coarse gradients' {what}" for what in gradients),
    ]
