"""Power of a set of features: at which strength of a fault the kernel distance's permutation test finds it."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dataset.order import generator
from tools.evaluation.kernel import mean_kernels, mean_kernels_across, permutation_p_value

_SEED = 0  # of splits and permutations; part of the study, not of a run
MODES_DROPPED = (0.1, 0.2, 0.3, 0.5)  # of the images, at one end of the layouts' first principal axis
CLASS_DROPPED = (0.25, 0.5, 1.0)  # of the images of the rarest class
DISTINCT = (0.5, 0.25, 0.125)  # of the images; the others are duplicates of these

Draw = Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray] | None]


@dataclass(frozen=True)
class PowerSettings:
    """A fault is found if at least a fraction `power` of `splits` pairs of a real and a faulty set has p < `level`. The
    level is checked on `halvings` pairs of real sets."""

    splits: int = 10
    halvings: int = 200
    permutations: int = 100
    level: float = 0.05
    power: float = 0.8


@dataclass(frozen=True)
class ImagePool:
    """Real images by features float (N, D), labels (N,), groups, and a number (N,) that orders their layouts."""

    features: np.ndarray
    labels: np.ndarray
    groups: Sequence[str]
    layout: np.ndarray


@dataclass(frozen=True)
class PlantedFault:
    """One fault in graded strength, weakest first: (strength, features float (M, D), groups). Images with a planted fault
    keep the groups of the real ones that they were made of."""

    unit: str
    sets: list[tuple[float, np.ndarray, Sequence[str]]] = field(default_factory=list)


@dataclass(frozen=True)
class Power:
    """`shares`: by fault and n, the fraction of splits with p < level at each strength, None if there are too few images.
    `false_alarms`: by n, that fraction among pairs of real sets. `strengths`: (unit, strengths) by fault."""

    shares: dict[str, dict[int, list[float | None]]]
    false_alarms: dict[int, float]
    strengths: dict[str, tuple[str, list[float]]]


def measure_power(
    pool: ImagePool, faults: Mapping[str, PlantedFault], numbers: Sequence[int], settings: PowerSettings
) -> Power:
    """Power against `faults` and against modes, classes and distinct images dropped from the pool, at each n of `numbers`.

    n counts images; groups are drawn whole, as many as have n images on average.
    """
    table = _KernelTable(pool)
    strengths = {"mode drop": ("of the images", list(MODES_DROPPED)), "class drop": ("of the rarest class",
                 list(CLASS_DROPPED)), "duplicates": ("distinct images", list(DISTINCT))}
    draws: dict[str, list[tuple[_KernelTable, Draw]]] = {
        "mode drop": [(table, table.draw_modes(share)) for share in MODES_DROPPED],
        "class drop": [(table, table.draw_classes(share)) for share in CLASS_DROPPED],
        "duplicates": [(table, table.draw_duplicates(share)) for share in DISTINCT],
    }
    for name, fault in faults.items():
        strengths[name] = fault.unit, [strength for strength, _, _ in fault.sets]
        tables = [table.with_faulty(features, groups) for _, features, groups in fault.sets]
        draws[name] = [(one, one.draw_planted) for one in tables]
    return Power(
        {name: {n: [_share_found(*one, n, settings.splits, settings) for one in draws[name]] for n in numbers}
         for name in strengths},
        {n: _share_found(table, table.draw_halves, n, settings.halvings, settings) or 0.0 for n in numbers}, strengths)


def smallest_found(shares: Sequence[float | None], power: float) -> int | None:
    """Index of the smallest strength that is found together with all greater ones that could be tested; None: none."""
    smallest = None
    for index in reversed(range(len(shares))):
        share = shares[index]
        if share is None:
            continue
        if share < power:
            break
        smallest = index
    return smallest


def format_table(entry: Mapping[str, Any]) -> str:
    """One data set's numbers, as the study stores them, as Markdown: the smallest strength found at each n."""
    encoders, numbers = entry["encoders"], entry["numbers"]
    titles = [f"fault (strengths), n = {', '.join(map(str, numbers))}", *(f"`{name}`" for name in encoders)]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for fault, of in entry["faults"].items():
        strengths = [f"{strength:g}" for strength in of["strengths"]]
        cells = [" / ".join(_name_smallest(encoder["shares_found"].get(fault, {}).get(str(n), []), strengths,
                                           entry["settings"]["power"]) for n in numbers) for encoder in encoders.values()]
        lines.append(f"| {fault}: {of['unit']} ({', '.join(strengths)}) | " + " | ".join(cells) + " |")
    alarms = [" / ".join(f"{encoder['false_alarms'][str(n)]:.3f}" for n in numbers) for encoder in encoders.values()]
    lines.append("| fraction of real halves with p < 0.05 | " + " | ".join(alarms) + " |")
    seconds = [f"{encoder['seconds_per_1000']:.0f}" for encoder in encoders.values()]
    return "\n".join([*lines, "| seconds for 1,000 images | " + " | ".join(seconds) + " |"])


def _name_smallest(shares: Sequence[float | None], strengths: Sequence[str], power: float) -> str:
    """The smallest strength found; "none", or "·" if nothing could be tested."""
    if all(share is None for share in shares):
        return "·"
    smallest = smallest_found(shares, power)
    return "none" if smallest is None else strengths[smallest]


class _KernelTable:
    """Mean kernels between the groups of the pool and of faulty images, computed once for all draws from them. Rows are the
    groups of the pool in the order of their first images, then the faulty ones."""

    def __init__(self, pool: ImagePool) -> None:
        self._pool = pool.features.astype(np.float64)
        self._names, self._numbers = _number(pool.groups)
        first = np.unique(self._numbers, return_index=True)[1]
        self._labels, self._layout = pool.labels[first], pool.layout[first]
        self._images_in_group = self._images_in_faulty = len(self._numbers) / len(self._names)
        self._faulty_names: list[str] = []
        self.means = mean_kernels(self._pool, self._numbers)

    def with_faulty(self, features: np.ndarray, groups: Sequence[str]) -> "_KernelTable":
        """The same pool beside faulty images."""
        other = copy.copy(self)
        other._faulty_names, numbers = _number(groups)
        other._images_in_faulty = len(numbers) / len(other._faulty_names)
        faulty = features.astype(np.float64)
        across = mean_kernels_across(self._pool, faulty, self._numbers, numbers)
        other.means = np.block([[self.means, across], [across.T, mean_kernels(faulty, numbers)]])
        return other

    def p_value(self, real: np.ndarray, faulty: np.ndarray, *, permutations: int) -> float:
        """p of the rows `real` against the rows `faulty`; a row that is drawn twice counts as two groups."""
        rows = np.concatenate([real, faulty])
        return permutation_p_value(self.means[np.ix_(rows, rows)], len(real), permutations=permutations, seed=_SEED)

    def draw_planted(self, rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Faulty groups, and real ones that are none of these."""
        wanted = round(n / self._images_in_faulty)
        if wanted > len(self._faulty_names):
            return None
        faulty = rng.permutation(len(self._faulty_names))[:wanted]
        taken = {self._faulty_names[row] for row in faulty}
        free = np.array([row for row, name in enumerate(self._names) if name not in taken])
        real = rng.permutation(free)[:self._count(n)]
        return None if len(real) < self._count(n) else (real, faulty + len(self._names))

    def draw_halves(self, rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Two disjoint sets of real groups."""
        return self._draw_from(rng, n, lambda rest: rest)

    def draw_modes(self, share: float) -> Draw:
        """The second set lacks layouts beyond a quantile."""
        limit = np.quantile(self._layout, 1 - share)
        return lambda rng, n: self._draw_from(rng, n, lambda rest: rest[self._layout[rest] <= limit])

    def draw_classes(self, share: float) -> Draw:
        """The second set lacks a fraction of the rarest class."""
        rarest = np.bincount(self._labels).argmin()

        def keep(rest: np.ndarray) -> np.ndarray:  # in random order, so that the first ones are any
            of_class = rest[self._labels[rest] == rarest]
            return np.setdiff1d(rest, of_class[:round(share * len(of_class))])

        return lambda rng, n: self._draw_from(rng, n, keep)

    def draw_duplicates(self, share: float) -> Draw:
        """The second set has few distinct groups, each repeated."""
        return lambda rng, n: self._draw_from(rng, n, lambda rest: np.tile(
            rest[:max(round(share * self._count(n)), 1)], self._count(n)), in_order=True)

    def _count(self, n: int) -> int:
        return round(n / self._images_in_group)

    def _draw_from(
        self, rng: np.random.Generator, n: int, keep: Callable[[np.ndarray], np.ndarray], *, in_order: bool = False
    ) -> tuple[np.ndarray, np.ndarray] | None:
        count, order = self._count(n), rng.permutation(len(self._names))
        kept = keep(order[count:])
        kept = kept if in_order else rng.permutation(kept)
        return None if len(order) < 2 * count or len(kept) < count else (order[:count], kept[:count])


def _share_found(table: _KernelTable, draw: Draw, n: int, splits: int, settings: PowerSettings) -> float | None:
    found = []
    for split in range(splits):
        drawn = draw(generator(_SEED, "power split", n, split), n)
        if drawn is None:
            return None
        found.append(table.p_value(*drawn, permutations=settings.permutations) < settings.level)
    return float(np.mean(found))


def _number(groups: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Names in the order of their first images, and the number of each image's."""
    names = list(dict.fromkeys(groups))
    place = {name: index for index, name in enumerate(names)}
    return names, np.array([place[group] for group in groups], dtype=np.int64)
