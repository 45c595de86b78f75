"""Which flips and turns a set of images obeys: the distribution of the images must be the same before and after.

Owns the statistics, the test and the rule that turns verdicts into an augmentation. Reads no file and knows no config.
"""

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
MIN_EFFECT = 0.25  # of a standard deviation; Cohen 1988 calls 0.2 small: what thousands of images find below is trivia
MIN_GROUPS = 8  # with fewer, the smallest p value of an exact test of signs, 2 / 2^groups, does not reach the level
RULE = (
    f"a symmetry is broken where p < {LEVEL} and the effect is above {MIN_EFFECT}; recommended is the largest set of "
    "unbroken symmetries that is closed (one after the other is again one of them), of equally large ones that with "
    "the smallest effects"
)
_SIZE_PX = 64  # images are averaged to this side: light and orientation are coarse, and noise is not
_CELLS = 4  # of the coarse maps, a side
_DRAWS = 1999
_BLOCK_BYTES = 1 << 28
_FLOOR = 1e-6  # of a spread: below it a statistic is constant up to rounding


@dataclass(frozen=True)
class SymmetryTest:
    """One symmetry: `effect` is the largest shift of a statistic's mean, in standard deviations of that statistic.

    `p_value` is that of an effect so large if the images obeyed it, `statistic` the one that shifts most.
    """

    name: str
    effect: float
    p_value: float
    statistic: str
    broken: bool


@dataclass(frozen=True)
class SymmetryMeasurement:
    """`recommended` names the augmentation, identity first; `tests` has the seven others of SYMMETRIES."""

    recommended: tuple[str, ...]
    tests: tuple[SymmetryTest, ...]
    num_images: int
    num_groups: int
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
        effect, p_value, strongest = _test(means, name, rng)
        tests.append(SymmetryTest(name, effect, p_value, names[strongest], p_value < level and effect > min_effect))
    if num_groups < MIN_GROUPS:
        note = (f"{num_groups} groups are too few to test symmetries, {MIN_GROUPS} are needed: only the identity is "
                "recommended; give the symmetries that the optics allow yourself")
        return SymmetryMeasurement(("identity",), tuple(tests), len(images), num_groups, note)
    return SymmetryMeasurement(_recommend(tests), tuple(tests), len(images), num_groups)


def format_measurement(measurement: SymmetryMeasurement) -> str:
    """The table and the line of the config that follows from it."""
    lines = [f"{measurement.num_images} images of {measurement.num_groups} groups",
             f"{'symmetry':<16}{'effect':>8}{'p':>8}  {'verdict':<8}  what shifts most"]
    for test in measurement.tests:
        verdict = "broken" if test.broken else "obeyed"
        if measurement.note is not None:
            verdict = "unknown"
        lines.append(f"{test.name:<16}{test.effect:>8.2f}{test.p_value:>8.4f}  {verdict:<8}  {test.statistic}")
    lines += [f"note: {measurement.note}"] if measurement.note is not None else [f"rule: {RULE}"]
    lines += ["dataset_params:", f"  symmetries: [{', '.join(measurement.recommended)}]"]
    return "\n".join(lines)


def _test(means: dict[str, np.ndarray], name: str, rng: np.random.Generator) -> tuple[float, float, int]:
    """Effect, p value and the number of the statistic that shifts most, for one symmetry g.

    The shift of a group turned by h is means[g h] - means[h]; observed is h = identity.
    """
    powers = ["identity"]
    while (following := compose(powers[-1], name)) != "identity":
        powers.append(following)
    shifts = np.stack([means[compose(power, name)] - means[power] for power in powers])  # (order, groups, statistics)
    observed = np.abs(shifts[0].mean(axis=0))
    num_groups, num_statistics = shifts.shape[1:]
    at_once = max(1, _BLOCK_BYTES // (8 * num_groups * len(powers)))
    exceeding, effect = 0, observed.max()
    for start in range(0, _DRAWS, at_once):
        chosen = rng.integers(len(powers), size=(min(at_once, _DRAWS - start), num_groups))
        total = np.zeros((len(chosen), num_statistics))
        for turn, shift in enumerate(shifts):
            total += (chosen == turn).astype(np.float64) @ shift
        exceeding += int((np.abs(total / num_groups).max(axis=1) >= effect * (1 - 1e-9)).sum())
    return float(effect), (1 + exceeding) / (1 + _DRAWS), int(observed.argmax())


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
        # Differences of neighbours, averaged to the middle of each four, so that every flip finds the same places.
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
