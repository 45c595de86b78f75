"""Direct checks: what differs between synthetic and real images in measures that have names, such as grain or tint.

Rows in a report, and faults read back from rows. One test covers all checks, overall and per class: of sets without a fault
at most 2.5% are accused by any check.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from tools.evaluation.aspects import Aspect
from tools.evaluation.check_kinds import (
    BRIGHTNESS,
    CONTRAST,
    EFFECTIVE,
    EMPTY,
    FRACTIONS,
    LOOKS,
    OFF_RANGE,
    ROUGHNESS,
    SHARPNESS,
    SHARPNESS_SPREAD,
    SPREADS,
    CheckKind,
    Scale,
    grain_name,
    kind_of_check,
    octave_words,
)
from tools.evaluation.direct_measurements import (
    NUM_OFF_RANGE_LIMITS,
    MeasuredImages,
    fit_likeness,
    measure_sets,
    tail_rate,
)
from tools.evaluation.direct_statistics import SMALLEST_SIDE, Item, make_items
from tools.evaluation.evaluation_report import EvaluationReport
from tools.evaluation.evaluation_sets import MAX_PAIRWISE_IMAGES, SEED, EvaluationSets
from tools.evaluation.group_statistics import GroupComparison, adjusted_p_values, compare
from tools.evaluation.image_measures import SHORTEST_OCTAVE
from tools.evaluation.image_set import ImageSet
from tools.evaluation.metric_keys import Family, MetricKey
from tools.evaluation.resampling import FEWEST_GROUPS, bootstrap_interval, cap_by_group
from tools.evaluation.rows import OVERALL, Row, name_classes

DIRECT, DIRECT_REAL = "direct", "direct_real"
LEVEL = 0.025  # of all checks together; the comparisons by features have as much, which makes 5% of a report
_BROKEN_SHARE = 0.2  # of that level, for empty and off-range images, which have a test of their own
_MAX_IMAGES = MAX_PAIRWISE_IMAGES // 2  # a side, as likeness is of all pairs of both
_BLINDING = float(np.log(2.0))  # a change of an octave's power by this factor misleads the model that reads the class


@dataclass(frozen=True)
class Fault:
    """What is wrong, in one sentence; `class_name` is `OVERALL` or the class that it is about."""

    aspect: Aspect
    check: str
    class_name: str
    text: str


def add_direct_checks(report: EvaluationReport, sets: EvaluationSets, *, repeats: int) -> None:
    """Rows of all checks: synthetic beside held-out real images at equal n, and training images beside them as the scale."""
    matched = sets.matched()
    known, synthetic, real = measure_sets(_capped(sets.train, MAX_PAIRWISE_IMAGES), _capped(matched.synthetic, _MAX_IMAGES),
                                          _capped(matched.real, _MAX_IMAGES))
    train = known.find(_capped(matched.train, _MAX_IMAGES))
    rows = make_rows(known, synthetic, real, train, class_names=sets.class_names, repeats=repeats)
    report.rows += rows
    if not any(row.key.family is Family.CHECK for row in rows
               if row.comparison == DIRECT_REAL and row.key.about not in FRACTIONS):
        report.warn(f"direct checks need {SMALLEST_SIDE} images of {FEWEST_GROUPS} groups on either side; there are fewer")


def make_rows(
    known: MeasuredImages, synthetic: MeasuredImages, real: MeasuredImages, train: MeasuredImages, *,
    class_names: Sequence[str], repeats: int,
) -> list[Row]:
    """The rows of measured images: `known` are all training images, `train` as many of them as there are of the others.

    What the checks need to know beforehand is taken from `known`. Given that, the groups of synthetic and held-out images
    are exchangeable where synthetic images are as real ones are, within a class where each group has one.
    """
    rows: list[Row] = []
    scale = fit_likeness(known, len(real))
    items, sides, strata = make_items(synthetic, real, class_names, scale)
    if items:
        statistics = [item.statistic for item in items]
        compared = compare(statistics, sides, repeats=repeats, seed=SEED)
        p_values = adjusted_p_values(statistics, sides, strata, permutations=repeats, seed=SEED)
        for item, one, p_value in zip(items, compared, p_values, strict=True):
            rows += [] if item.kind.name in FRACTIONS else [_row(item, one, DIRECT)]
            rows.append(_p_row(item, p_value / (1 - _BROKEN_SHARE)))
    items, sides, _ = make_items(train, real, class_names, scale)
    if items:
        compared = compare([item.statistic for item in items], sides, repeats=repeats, seed=SEED)
        rows += [_row(item, one, DIRECT_REAL) for item, one in zip(items, compared, strict=True)
                 if item.kind.name not in FRACTIONS]
    rows += _look_rows(synthetic, real, class_names, repeats)
    return rows + _broken_rows(synthetic, real, known, class_names, repeats)


def find_faults(rows: Sequence[Row]) -> list[Fault]:
    """The faults that rows of direct checks name, also rows read back from a file.

    A fault has an adjusted p value under `LEVEL`, a size worth a sentence, and a larger one than training images beside the
    same held-out images. What another fault implies is left out:

    - of a class, what all classes show, everything once it looks like another class, and everything where images repeat;
    - power of an octave that contrast explains, and contrast that an octave explains;
    - sharpness beside the shortest octave, and outlines beside any octave that changed alike;
    - spreads that repeats narrow, and images out of range where all are brighter or darker;
    - the look of classes where an octave's power is half or twice that of real images.
    """
    found = {(row.key, row.class_name, row.comparison): row for row in rows
             if row.comparison in (DIRECT, DIRECT_REAL) and row.value is not None}
    accused = [(kind, row) for row in found.values() if row.comparison == DIRECT and (kind := _kind(row)) is not None
               and _is_fault(kind, row, found)]
    return [Fault(kind.aspect, kind.name, row.class_name, _sentence(kind, row, found))
            for kind, row in accused if not _is_explained(kind, row, accused)]


_Found = dict[tuple[MetricKey, str, str], Row]


def _value(row: Row) -> float:
    assert row.value is not None
    return row.value


def _kind(row: Row) -> CheckKind | None:
    """The check that a row is about; None where it is not the value of one."""
    return kind_of_check(row.key.about) if row.key.family is Family.CHECK else None


def _is_fault(kind: CheckKind, row: Row, found: _Found) -> bool:
    p_row = found.get((MetricKey(Family.ADJUSTED_P, kind.name), row.class_name, DIRECT))
    if p_row is None or _value(p_row) >= LEVEL:
        return False
    of_real = found.get((row.key, row.class_name, DIRECT_REAL))
    if kind.scale is Scale.FRACTION:
        real = _value(of_real) if of_real is not None else 0.0
        return real - _value(row) >= kind.bound if kind.name == LOOKS else _value(row) > real
    return kind.is_large(_value(row)) and (of_real is None or _size(kind, of_real) < _size(kind, row))


def _size(kind: CheckKind, row: Row) -> float:
    return abs(np.log(_value(row))) if kind.scale is Scale.RATIO else abs(_value(row))


def _is_explained(kind: CheckKind, row: Row, accused: Sequence[tuple[CheckKind, Row]]) -> bool:
    """Whether a fault of the same class, or of all classes together, implies this one."""
    others = {(other.key.about, other.class_name): other for _, other in accused}

    def beside(*names: str) -> list[Row]:
        """The faults of these checks in the same class and overall."""
        return [others[name, place] for name in names for place in dict.fromkeys((row.class_name, OVERALL))
                if (name, place) in others]

    if kind.name in (EMPTY, OFF_RANGE):
        return _is_told_elsewhere(row, others) or (kind.name == OFF_RANGE and bool(beside(BRIGHTNESS)))
    if row.class_name != OVERALL:
        broader = others.get((row.key.about, OVERALL))
        if broader is not None and kind.is_low(_value(broader)) == kind.is_low(_value(row)):
            return True
        if kind.name != EFFECTIVE and any(_value(repeated) < 1 for repeated in beside(EFFECTIVE)):
            return True
        if kind.name != LOOKS and (LOOKS, row.class_name) in others:
            return True
    octaves = beside(*(of.name for of, _ in accused if octave_words(of.name) is not None))
    if kind.name == LOOKS:
        return any(abs(np.log(_value(octave))) > _BLINDING for octave in octaves if octave.class_name == OVERALL)
    if kind.name == CONTRAST:
        return any(_is_beyond_contrast(octave, row) for octave in octaves)
    if octave_words(kind.name) is not None:
        contrasts = [one for one in beside(CONTRAST) if not any(_is_beyond_contrast(octave, one) for octave in octaves)]
        overall = [octave for octave in octaves if octave.class_name == OVERALL and row.class_name != OVERALL]
        return (any(kind.is_low(_value(octave)) == kind.is_low(_value(row)) for octave in overall)
                or any(not kind.is_large(_value(row) / _value(contrast) ** 2) for contrast in contrasts))
    if kind.name == ROUGHNESS:
        return any(kind.is_low(_value(octave)) == kind.is_low(_value(row)) for octave in octaves)
    if kind.name in (SHARPNESS, SHARPNESS_SPREAD):
        return bool(beside(grain_name(SHORTEST_OCTAVE))) or (kind.name == SHARPNESS_SPREAD and bool(beside(SHARPNESS)))
    if kind.name in SPREADS:
        return any(_value(repeated) < _value(row) < 1 for repeated in beside(EFFECTIVE))
    return False


def _is_beyond_contrast(octave: Row, contrast: Row) -> bool:
    """Whether an octave's power changed the same way as contrast, and by a size worth a sentence more."""
    kind, explained = _kind(octave), _value(contrast) ** 2
    assert kind is not None
    beyond = _value(octave) / explained
    return kind.is_large(beyond) and kind.is_low(beyond) == kind.is_low(explained)


def _is_told_elsewhere(row: Row, others: dict[tuple[str, str], Row]) -> bool:
    """Broken images are told of the class that has all of them, or else of all classes together."""
    of_classes = [other for (name, place), other in others.items() if name == row.key.about and place != OVERALL]
    overall = others.get((row.key.about, OVERALL))
    if overall is None:
        return False
    one_has_all = any(_count(other) == _count(overall) for other in of_classes)
    return one_has_all if row.class_name == OVERALL else not (one_has_all and _count(row) == _count(overall))


def _count(row: Row) -> int:
    """How many synthetic images a fraction is."""
    return round(_value(row) * (row.n_synthetic or 0))


def _sentence(kind: CheckKind, row: Row, found: _Found) -> str:
    if kind.scale is not Scale.FRACTION:
        text = kind.describe(_value(row))
    else:
        number, count = row.n_synthetic or 0, _count(row)
        if kind.name == LOOKS:
            text = _looks_sentence(row, found, number - count, number)
        else:
            what = "are empty" if kind.name == EMPTY else "are far darker, brighter or more saturated than real ones"
            text = f"{count} of {number} images {what}"
    if row.class_name != OVERALL:
        text = f"Class {row.class_name}: {text[0].lower()}{text[1:]}"
    return f"{text}."


def _looks_sentence(row: Row, found: _Found, wrong: int, number: int) -> str:
    others = [other for other in found.values() if other.key.family is Family.LOOKS_LIKE
              and (other.class_name, other.comparison) == (row.class_name, DIRECT)]
    most = max(others, key=_value).key.about if others else ""
    real = found.get((MetricKey(Family.CHECK, LOOKS), row.class_name, DIRECT_REAL))
    beside = "" if real is None or not real.n_real else (
        f"; of real ones {round((1 - _value(real)) * real.n_real)} of {real.n_real}")
    return f"{wrong} of {number} images look like another class{f', most like {most}' if most else ''}{beside}"


def _capped(images: ImageSet, limit: int) -> ImageSet:
    rows = cap_by_group(images.groups, limit=limit, seed=SEED)
    return images if len(rows) == len(images) else images.select(rows)


def _row(item: Item, compared: GroupComparison, comparison: str) -> Row:
    value, interval, is_log = compared.difference, compared.interval, item.kind.scale is Scale.RATIO
    if is_log:
        value, interval = float(np.exp(value)), interval and (float(np.exp(interval[0])), float(np.exp(interval[1])))
    of_first, of_second = (float(np.exp(one)) if is_log else one for one in (compared.first, compared.second))
    note = f"{item.kind.measure}: {of_first:.4g} beside {of_second:.4g}; interval: 95% bootstrap over groups"
    return Row(MetricKey(Family.CHECK, item.kind.name), item.class_name, comparison, value, interval, n_real=item.num_second,
               n_synthetic=item.num_first, note=note)


def _p_row(item: Item, p_value: float) -> Row:
    return Row(MetricKey(Family.ADJUSTED_P, item.kind.name), item.class_name, DIRECT, min(1.0, p_value),
               n_real=item.num_second, n_synthetic=item.num_first,
               note="exchanges of whole groups, adjusted for all direct checks together")


def _look_rows(synthetic: MeasuredImages, real: MeasuredImages, class_names: Sequence[str], repeats: int) -> list[Row]:
    """For every class, the fractions of its images that a linear model reads as each class."""
    rows: list[Row] = []
    if real.predicted.min() < 0:
        return rows
    for label, class_name in enumerate(class_names):
        for comparison, measured in ((DIRECT, synthetic), (DIRECT_REAL, real)):
            chosen = np.flatnonzero(measured.intact & (measured.images.labels == label))
            if not len(chosen):
                continue
            for other, other_name in enumerate(class_names):
                key = MetricKey(Family.CHECK, LOOKS) if other == label else MetricKey(Family.LOOKS_LIKE, other_name)
                rows.append(_fraction_row(key, class_name, comparison, measured, chosen, measured.predicted == other,
                                          repeats))
    return rows


def _broken_rows(
    synthetic: MeasuredImages, real: MeasuredImages, known: MeasuredImages, class_names: Sequence[str], repeats: int
) -> list[Row]:
    """Fractions of empty and of off-range images, and p values that more are broken than of training and held-out images.

    Groups with such an image are counted. Where no real one has any, the number is binomial by the chance of the limits'
    tails, heavy ones for brightness: on MHSMA 1 image in 300 is beyond the limits. Else Fisher's exact test compares the
    numbers. Both are adjusted for the checks and the classes by Bonferroni.
    """
    num_tests = len((EMPTY, OFF_RANGE)) * (1 + len(class_names))
    found: list[Row] = []
    num_known = len(set(known.images.groups))
    for name, rate in ((EMPTY, tail_rate(num_known, heavy=False)),
                       (OFF_RANGE, min(1.0, NUM_OFF_RANGE_LIMITS * tail_rate(num_known, heavy=True)))):
        for class_name, label in name_classes(class_names):
            sides = [(one, np.flatnonzero((one.images.labels == label) | (label is None)),
                      one.empty if name == EMPTY else one.off_range) for one in (synthetic, real, known)]
            if not len(sides[0][1]):
                continue
            found += [_fraction_row(MetricKey(Family.CHECK, name), class_name, comparison, one, rows, flags, repeats)
                      for comparison, (one, rows, flags) in zip((DIRECT, DIRECT_REAL), sides, strict=False) if len(rows)]
            (made, num_made), *others = (_count_groups(one, rows, flags) for one, rows, flags in sides)
            broken, num_others = np.sum(others, axis=0)
            p_value = float(stats.fisher_exact([[made, num_made - made], [broken, num_others - broken]], "greater").pvalue
                            if broken else stats.binom.sf(made - 1, num_made, rate))
            found.append(Row(MetricKey(Family.ADJUSTED_P, name), class_name, DIRECT,
                             min(1.0, p_value * num_tests / _BROKEN_SHARE), n_real=len(sides[1][1]),
                             n_synthetic=len(sides[0][1]), note="more than real ones, by chance"))
    return found


def _count_groups(measured: MeasuredImages, rows: np.ndarray, flags: np.ndarray) -> tuple[int, int]:
    """How many groups have a flagged image among `rows`, and how many there are."""
    groups = np.asarray(measured.images.groups)
    return len(np.unique(groups[rows[flags[rows]]])), len(np.unique(groups[rows]))


def _fraction_row(
    key: MetricKey, class_name: str, comparison: str, measured: MeasuredImages, rows: np.ndarray, flags: np.ndarray,
    repeats: int,
) -> Row:
    """The fraction of the images at `rows` for which `flags` (N,) holds."""
    held = flags[rows].astype(np.float64)
    groups = [measured.images.groups[row] for row in rows]
    interval = None
    if 0 < held.sum() < len(held) and len(set(groups)) >= FEWEST_GROUPS:
        interval = bootstrap_interval(lambda weights: weights @ held / weights.sum(axis=1), groups, repeats=repeats,
                                      seed=SEED)
    of_synthetic = comparison == DIRECT
    return Row(key, class_name, comparison, float(held.mean()), interval, n_real=0 if of_synthetic else len(held),
               n_synthetic=len(held) if of_synthetic else 0,
               note=f"{int(held.sum())} of {len(held)} {'synthetic' if of_synthetic else 'held-out real'} images")
