"""What many measurements say together: real against synthetic, class against class, one method against another.

Resamples by group (patient, embryo, noise), never by image. It measures no image: morphometry.py does.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from tools.evaluation.metric_keys import Family, MetricKey
from tools.evaluation.morphometry import ABSTENTIONS, LENGTHS, MEASURES, Abstention, Measurement
from tools.evaluation.rows import OVERALL, Row

SMALLEST_SIDE = 5  # measured images a side under which no effect size is given
_LIMIT_FACTOR = 1.96  # of the standard deviation: 95% of normal differences lie within


@dataclass(frozen=True)
class MeasuredSet:
    """N images, each measured or not: labels int64 (N,)."""

    name: str
    results: list[Measurement | Abstention]
    labels: np.ndarray
    ids: list[str]
    groups: list[str]

    def column(self, measure: str, um_per_px: float | None = None) -> np.ndarray:
        """One measure of all images, float64 (N,), NaN where there is none."""
        return np.array([result.values(um_per_px)[measure] if isinstance(result, Measurement) else np.nan
                         for result in self.results], dtype=np.float64)

    def measured(self) -> np.ndarray:
        """Which images are measured, bool (N,)."""
        return np.array([isinstance(result, Measurement) for result in self.results], dtype=bool)

    def reasons(self) -> dict[str, int]:
        """How many images were not measured, by reason, in the order of ABSTENTIONS."""
        counts = Counter(result.reason for result in self.results if isinstance(result, Abstention))
        return {reason: counts[reason] for reason in ABSTENTIONS if counts[reason]}


@dataclass(frozen=True)
class Sample:
    """Values float64 (N,) of one measure and the group of each."""

    values: np.ndarray
    groups: np.ndarray

    @classmethod
    def of(cls, images: MeasuredSet, measure: str, label: int | None, um_per_px: float | None = None) -> "Sample":
        """The measured images of one class, or of all."""
        values = images.column(measure, um_per_px)
        chosen = np.isfinite(values) & (True if label is None else images.labels == label)
        return cls(values[chosen], np.asarray(images.groups, dtype=object)[chosen].astype(str))

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True)
class Agreement:
    """Bland-Altman: `bias` is the mean of (automatic - manual), `limits` bias -+ 1.96 standard deviations."""

    n: int
    bias: float
    limits: tuple[float, float] | None  # None for fewer than two images


def hedges_g(first: np.ndarray, second: np.ndarray) -> float:
    """Mean of `first` minus mean of `second` in pooled standard deviations, corrected for small samples.

    Each holds two values or more. NaN where neither varies.

    Source: Hedges 1981, with the correction 1 - 3 / (4 (n + m) - 9).
    """
    counts, sums, squares = (np.array([[np.sum(values**power) for values in (first, second)]])
                             for power in (0, 1, 2))
    return float(_hedges(counts, sums, squares)[0])


def bootstrap_g(first: Sample, second: Sample, *, repeats: int, seed: int) -> np.ndarray:
    """Hedges' g of `repeats` draws of groups with replacement, float64 (repeats,).

    A group with images on both sides (a patient, the noise of a class flip) is drawn for both at once. Draws that leave
    a side with fewer than two images are NaN.
    """
    names, numbers = np.unique(np.concatenate([first.groups, second.groups]), return_inverse=True)
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=repeats)  # (repeats, groups)
    # Differences from one centre: the sums of squares then keep their digits.
    centre = float(np.concatenate([first.values, second.values]).mean())
    sides = ((first.values - centre, numbers[: len(first)]), (second.values - centre, numbers[len(first):]))
    totals = [np.stack([weights @ np.bincount(own, values**power, len(names)) for values, own in sides], axis=1)
              for power in (0, 1, 2)]
    return _hedges(*totals)


def effect_size(first: Sample, second: Sample, *, repeats: int, seed: int) -> tuple[float, tuple[float, float] | None]:
    """Hedges' g of first minus second and its 95% bootstrap interval over groups; none under three groups a side."""
    value = hedges_g(first.values, second.values)
    if min(len(np.unique(first.groups)), len(np.unique(second.groups))) < 3:
        return value, None
    return value, _central(bootstrap_g(first, second, repeats=repeats, seed=seed))


def bland_altman(automatic: np.ndarray, manual: np.ndarray) -> Agreement:
    """Agreement of two methods on the same images, float64 (N,), N of 1 or more.

    Source: Bland and Altman 1986, Lancet 327, 307-310.
    """
    difference = np.asarray(automatic, np.float64) - np.asarray(manual, np.float64)
    bias = float(difference.mean())
    if len(difference) < 2:
        return Agreement(len(difference), bias, None)
    reach = _LIMIT_FACTOR * float(difference.std(ddof=1))
    return Agreement(len(difference), bias, (bias - reach, bias + reach))


def morphometry_rows(
    *, synthetic: MeasuredSet, real: MeasuredSet, train: MeasuredSet | None = None, flips: MeasuredSet | None = None,
    class_names: Sequence[str], um_per_px: float | None = None, repeats: int = 1000, seed: int = 0,
) -> list[Row]:
    """Every comparison as rows: how many were measured, then for each measure means, spread, effect sizes and distances.

    `g[...]` is Hedges' g: synthetic minus real within a class (`total`), training minus held-out images (`real_real`),
    the last class minus the first among real and synthetic images and class flips. `W1` is the Wasserstein distance in
    the measure's unit, `KS` the Kolmogorov-Smirnov statistic. Lengths are in micrometres where `um_per_px` is given.
    """
    sets = [("held_out", real), ("synthetic", synthetic)]
    sets += [("train", train)] if train is not None else []
    sets += [("class_flips", flips)] if flips is not None else []
    classes = [(name, label) for label, name in enumerate(class_names)]
    rows = []
    for comparison, images in sets:
        for class_name, label in [(OVERALL, None), *classes]:
            own = np.ones(len(images.ids), bool) if label is None else images.labels == label
            note = ", ".join(f"{count} {reason}" for reason, count in images.reasons().items()) if label is None else ""
            rows.append(_row("share measured", class_name, comparison, images.measured()[own].mean() if own.any() else None,
                             note=note, counts=_sides(comparison, int(own.sum()))))
    for measure in MEASURES:
        unit = "" if measure not in LENGTHS else ", um" if um_per_px else ", px"

        def take(images: MeasuredSet, label: int, measure: str = measure) -> Sample:
            return Sample.of(images, measure, label, um_per_px)

        for comparison, images in sets:
            for class_name, label in classes:
                rows += _summary_rows(f"{measure}{unit}", class_name, comparison, take(images, label))
        for class_name, label in classes:
            pairs = [("total", synthetic)] + ([("real_real", train)] if train is not None else [])
            for comparison, images in pairs:
                rows += _pair_rows(measure, unit, class_name, comparison, take(images, label), take(real, label),
                                   repeats, seed)
        rows += _class_rows(measure, take, sets, len(class_names) - 1, repeats, seed)
    return rows


def _class_rows(
    measure: str, take: Callable[[MeasuredSet, int], Sample], sets: Sequence[tuple[str, MeasuredSet]], last: int,
    repeats: int, seed: int,
) -> list[Row]:
    """The last class minus the first in every set, and how far flips and synthetic images are from real ones in it.

    Training and held-out images are taken together: a class difference asks for all images that there are.
    """
    known = dict(sets)
    real = [take(known[name], label) for label in (0, last) for name in ("held_out", "train") if name in known]
    half = len(real) // 2
    sides = {"real_classes": (_join(real[half:]), _join(real[:half]))}
    for name, images in (("synthetic_classes", known["synthetic"]), ("class_flips", known.get("class_flips"))):
        if images is not None:
            sides[name] = (take(images, last), take(images, 0))
    rows = []
    for comparison, (first, second) in sides.items():
        both = len(first) + len(second)
        counts = (both, 0) if comparison == "real_classes" else (0, both)
        rows.append(_effect_row(f"g[{measure}]", OVERALL, comparison, first, second, repeats, seed, counts=counts))
    for comparison, (first, second) in list(sides.items())[1:]:
        name = f"g[{measure}] minus real"
        if min(map(len, (*sides["real_classes"], first, second))) < SMALLEST_SIDE:
            rows.append(_row(name, OVERALL, comparison, None, note="not computed: too few measured images"))
            continue
        value = hedges_g(first.values, second.values) - hedges_g(*(side.values for side in sides["real_classes"]))
        draws = bootstrap_g(first, second, repeats=repeats, seed=seed) - bootstrap_g(
            *sides["real_classes"], repeats=repeats, seed=seed + 1)
        rows.append(_row(name, OVERALL, comparison, value, interval=_central(draws),
                         note="0: the classes differ as in real images; interval: 95% bootstrap over groups",
                         counts=(sum(map(len, sides["real_classes"])), len(first) + len(second))))
    return rows


def _summary_rows(name: str, class_name: str, comparison: str, sample: Sample) -> list[Row]:
    if len(sample) < 2:
        return [_row(f"mean {name}", class_name, comparison, None, note=f"not computed: {len(sample)} measured images")]
    counts = _sides(comparison, len(sample))
    return [_row(f"mean {name}", class_name, comparison, sample.values.mean(), counts=counts),
            _row(f"deviation {name}", class_name, comparison, sample.values.std(ddof=1), counts=counts)]


def _pair_rows(
    measure: str, unit: str, class_name: str, comparison: str, first: Sample, second: Sample, repeats: int, seed: int
) -> list[Row]:
    rows = [_effect_row(f"g[{measure}]", class_name, comparison, first, second, repeats, seed)]
    if min(len(first), len(second)) >= SMALLEST_SIDE:
        counts = (len(second), len(first))
        test = stats.ks_2samp(first.values, second.values)
        rows.append(_row(f"W1[{measure}{unit}]", class_name, comparison,
                         stats.wasserstein_distance(first.values, second.values), counts=counts))
        rows.append(_row(f"KS[{measure}]", class_name, comparison, test.statistic, counts=counts,
                         note=f"p {test.pvalue:.3g} if the images were independent"))
    return rows


def _effect_row(
    name: str, class_name: str, comparison: str, first: Sample, second: Sample, repeats: int, seed: int, *,
    counts: tuple[int, int] | None = None,
) -> Row:
    """g of first minus second; `counts` (real, synthetic) where they are not the numbers of second and first."""
    if min(len(first), len(second)) < SMALLEST_SIDE:
        return _row(name, class_name, comparison, None,
                    note=f"not computed: {len(first)} and {len(second)} measured images, {SMALLEST_SIDE} a side are needed")
    value, interval = effect_size(first, second, repeats=repeats, seed=seed)
    if not np.isfinite(value):
        return _row(name, class_name, comparison, None, note="not computed: the values do not vary")
    return _row(name, class_name, comparison, value, interval=interval, counts=counts or (len(second), len(first)),
                note="interval: 95% bootstrap over groups" if interval else "no interval: under three groups a side")


def _row(
    metric: str, class_name: str, comparison: str, value: float | None, *, note: str = "",
    interval: tuple[float, float] | None = None, counts: tuple[int | None, int | None] = (None, None),
) -> Row:
    return Row(MetricKey(Family.MORPHOMETRY, metric), class_name, comparison, None if value is None else float(value),
               interval=interval, n_real=counts[0], n_synthetic=counts[1], note=note)


def _sides(comparison: str, count: int) -> tuple[int, int]:
    return (count, 0) if comparison in ("held_out", "train") else (0, count)


def _join(samples: Sequence[Sample]) -> Sample:
    return Sample(np.concatenate([s.values for s in samples]), np.concatenate([s.groups for s in samples]))


def _hedges(counts: np.ndarray, sums: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """g of sides given by number, sum and sum of squares, each (repeats, 2)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        means = sums / counts
        inner = np.maximum(squares - counts * means**2, 0.0).sum(axis=1)  # within both sides
        freedom = counts.sum(axis=1) - 2
        spread = np.sqrt(inner / freedom)
        value = (means[:, 0] - means[:, 1]) / spread * (1 - 3 / (4 * counts.sum(axis=1) - 9))
    return np.where((counts.min(axis=1) >= 2) & (spread > 0), value, np.nan)


def _central(draws: np.ndarray) -> tuple[float, float] | None:
    finite = draws[np.isfinite(draws)]
    if len(finite) < len(draws) / 2:
        return None
    low, high = np.percentile(finite, [2.5, 97.5])
    return float(low), float(high)
