"""Whether synthetic images help a classifier, from its predictions alone: folds of whole groups, scores of each arm of the
study, paired differences with their intervals, and the smallest gain that a set can show. Trains nothing."""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm
from scipy.stats import t as student

from config.errors import UserError, name_some
from dataset.splits import draw_splits
from tools.evaluation.accuracy import (
    judged_classes,
    weighted_balanced_accuracy,
    weighted_class_area,
    weighted_class_precision,
)
from tools.evaluation.checks import as_groups
from tools.evaluation.reader_size import case_variance

AUROC, AUPRC, BALANCED = "AUROC", "AUPRC", "balanced accuracy"
LEVEL = 0.95
POWER = 0.8
_TAIL = (1 + LEVEL) / 2
_BLOCK_WEIGHTS = 1 << 22  # weights of images held at once

_ByFold = np.ndarray  # float64 (1 + B, F, S): a metric of all images and of each draw, by fold and seed; NaN: lacks a class
_Metric = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
METRICS: dict[str, _Metric] = {
    AUROC: weighted_class_area,
    AUPRC: weighted_class_precision,
    BALANCED: lambda labels, probabilities, weights: weighted_balanced_accuracy(
        labels, probabilities.argmax(axis=1), weights),
}


# The arms of a study. WITH_SYNTHETIC is followed by " xR", R synthetic images for each real one.
REAL, CONTROL, SYNTHETIC = "real", "real, oversampled and augmented", "synthetic only"
WITH_SYNTHETIC, SHUFFLED, ROUND_TRIP = "real + synthetic", "real + synthetic, labels shuffled", "real + VAE round trips"


@dataclass(frozen=True)
class UtilityScore:
    """A metric of one arm over all tested images: its mean over classifier seeds, and each seed's value."""

    arm: str
    metric: str
    value: float
    interval: tuple[float, float]
    seed_values: tuple[float, ...]


@dataclass(frozen=True)
class ArmDifference:
    """`arm` minus `against`, paired; `detectable` is the smallest true gain that would be seen with POWER at this error,
    of which so many degrees of freedom are known."""

    arm: str
    against: str
    metric: str
    value: float
    interval: tuple[float, float]
    standard_error: float
    freedom: float

    @property
    def detectable(self) -> float:
        return float(student.ppf(_TAIL, self.freedom) + student.ppf(POWER, self.freedom)) * self.standard_error


@dataclass(frozen=True)
class UtilityReport:
    """A study's numbers. `headline` is the arm that the question is about, fixed before any number was seen."""

    headline: str
    scores: list[UtilityScore]
    differences: list[ArmDifference]
    warnings: list[str]
    provenance: dict[str, Any]
    images: Sequence[str] = ()  # the first hex digits of the files' sha256

    def score(self, arm: str, metric: str) -> UtilityScore:
        return next(row for row in self.scores if (row.arm, row.metric) == (arm, metric))

    def difference(self, arm: str, against: str, metric: str) -> ArmDifference:
        return next(row for row in self.differences if (row.arm, row.against, row.metric) == (arm, against, metric))

    @property
    def arms(self) -> list[str]:
        return list(dict.fromkeys(row.arm for row in self.scores))


def deal_folds(
    groups: Sequence[str], labels: Sequence[int], *, class_names: Sequence[str], num_folds: int, seed: int
) -> np.ndarray:
    """The fold, 0 to K - 1, in which each image is tested: int64 (N,). Groups stay whole and each class is spread evenly,
    counted in groups.

    Raises:
        UserError: fewer than two folds, or a class with too few groups to be tested in each of them.
    """
    if num_folds < 2:
        raise UserError(f"--folds: expected 2 or more, found {num_folds}")
    group_labels: defaultdict[str, set[int]] = defaultdict(set)
    for group, label in zip(groups, labels, strict=True):
        group_labels[group].add(int(label))
    names = [str(fold) for fold in range(num_folds)]
    dealt = draw_splits(group_labels, fractions=dict.fromkeys(names, 1 / num_folds), seed=seed, purpose="utility folds")
    reached = {(label, dealt[group]) for group, present in group_labels.items() for label in present}
    thin = [f"class {name!r} has {sum(label in present for present in group_labels.values())}"
            for label, name in enumerate(class_names) if any((label, fold) not in reached for fold in names)]
    if thin:
        raise UserError(f"--folds {num_folds}: every class needs a group of its own in each fold; found too few groups: "
                        f"{name_some(thin)}; give fewer folds, or add groups of the class")
    return np.array([int(dealt[group]) for group in groups], dtype=np.int64)


def score_arms(
    labels: np.ndarray, groups: Sequence[str], folds: np.ndarray, predictions: Mapping[str, np.ndarray], *,
    pairs: Sequence[tuple[str, str]], repeats: int, seed: int,
) -> tuple[list[UtilityScore], list[ArmDifference]]:
    """Scores of each arm, and the difference of each pair (arm, against) of arms, by every metric.

    A metric is taken within each fold, whose images one network has scored, and averaged by the folds' images: scores of
    two networks are never ranked against each other. Groups are drawn with replacement, the same ones for all arms, so
    that differences are paired. What the seeds differ by beyond the chance of the drawn groups is the noise of training;
    it widens the interval, by Student's t where it is known from few seeds. Draws that miss a class in every fold are left
    out.

    Args:
        labels: int64 (N,).
        folds: int64 (N,), the fold that tests each image.
        predictions: of each arm, class probabilities (S, N, C) by seed and image, out of fold.

    Raises:
        UserError: predictions of different shapes or not finite, fewer than two seeds, a class without an image, fewer than
            two groups.

    Source: Efron and Tibshirani 1993, chapter 13 (bootstrap); Airola et al. 2011, Computational Statistics and Data Analysis
    55:1828 (pooling over folds); Satterthwaite 1946, Biometrics Bulletin 2:110 (degrees of freedom).
    """
    labels, folds = np.asarray(labels), np.asarray(folds)
    _check_predictions(labels, predictions)
    numbers, count = as_groups(groups, len(labels))
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(count, np.full(count, 1.0 / count), size=repeats)
    rows = max(1, _BLOCK_WEIGHTS // len(labels))
    parts: defaultdict[tuple[str, str], list[_ByFold]] = defaultdict(list)
    part_shares = []
    for start in (None, *range(0, repeats, rows)):  # first all images as they are, then draw by draw
        weights = np.ones((1, len(labels))) if start is None else drawn[start:start + rows, numbers].astype(np.float64)
        part_shares.append(np.stack([weights[:, folds == fold].sum(axis=1) for fold in np.unique(folds)], axis=1))
        for arm, probabilities in predictions.items():
            for name, metric in METRICS.items():
                parts[arm, name].append(_score_folds(metric, labels, folds, probabilities, weights))
    scored, shares = {key: np.concatenate(blocks) for key, blocks in parts.items()}, np.concatenate(part_shares)
    scores, differences = [], []
    for (arm, name), values in scored.items():
        estimate = _estimate(values, shares)
        scores.append(UtilityScore(arm, name, estimate.value, estimate.interval, estimate.seed_values))
    for arm, against in pairs:
        for name in METRICS:
            estimate = _estimate(scored[arm, name] - scored[against, name], shares)
            differences.append(ArmDifference(arm, against, name, estimate.value, estimate.interval, estimate.standard_error,
                                             estimate.freedom))
    return scores, differences


@dataclass(frozen=True)
class _Estimate:
    value: float
    interval: tuple[float, float]
    seed_values: tuple[float, ...]
    standard_error: float
    freedom: float


def _score_folds(
    metric: _Metric, labels: np.ndarray, folds: np.ndarray, probabilities: np.ndarray, weights: np.ndarray
) -> _ByFold:
    return np.stack([np.stack([metric(labels[inside], of_seed[inside], weights[:, inside]) for of_seed in probabilities],
                              axis=1)
                     for inside in (folds == fold for fold in np.unique(folds))], axis=1)


def _average_folds(values: _ByFold, shares: np.ndarray) -> np.ndarray:
    """Means over the folds that have a value, weighed by `shares` (1 + B, F): (1 + B, S), NaN where no fold has one."""
    weights = np.where(np.isfinite(values), shares[:, :, None], 0.0)
    with np.errstate(invalid="ignore"):
        return (np.nan_to_num(values) * weights).sum(axis=1) / weights.sum(axis=1)


def _estimate(values: _ByFold, shares: np.ndarray) -> _Estimate:
    """Mean over seeds and folds, its error, and its interval: that of drawn groups, widened by the noise of training.

    The variance of a fold's seeds holds the noise of training and the seeds' chance on the tested images. The latter is
    in the draws already, as the excess of one seed's variance over that of the mean of all, and is taken off.
    """
    by_seed = _average_folds(values, shares)
    means, num_seeds = by_seed.mean(axis=1), by_seed.shape[1]
    value, drawn = float(means[0]), means[1:]
    by_groups = float(np.nanvar(drawn, ddof=1))
    weight = (shares[0] / shares[0].sum()) ** 2
    between_seeds = weight * values[0].var(axis=1, ddof=1)
    of_one, of_mean = np.nanvar(values[1:], axis=0, ddof=1).mean(axis=1), np.nanvar(values[1:].mean(axis=2), axis=0, ddof=1)
    by_chance = weight * (of_one - of_mean) * num_seeds / (num_seeds - 1)
    by_training = max(0.0, float((between_seeds - by_chance).sum())) / num_seeds
    variance, freedom = by_groups + by_training, math.inf
    if by_training > 0:  # of the variance only between_seeds / num_seeds is known from few trainings
        freedom = (variance * num_seeds) ** 2 * (num_seeds - 1) / float((between_seeds**2).sum())
    quantile = float(student.ppf(_TAIL, freedom))
    stretch, trained = max(1.0, quantile / float(norm.ppf(_TAIL))), quantile * math.sqrt(by_training)
    low, high = (float(edge) for edge in np.nanpercentile(drawn, [100 * (1 - _TAIL), 100 * _TAIL]))
    interval = (value - math.hypot((value - low) * stretch, trained), value + math.hypot((high - value) * stretch, trained))
    return _Estimate(value, interval, tuple(by_seed[0].tolist()), math.sqrt(variance), freedom)


def smallest_detectable_gain(auc: float, class_sizes: Sequence[int], *, correlation: float) -> float | None:
    """The gain in AUC over `auc` that a paired, two-sided test at 5% sees with a power of 80%; None where none does.

    gain = (z_0.975 + z_0.8) sqrt(V(auc) + V(auc + gain) - 2 r sqrt(V(auc) V(auc + gain))), with V the variance of an AUC
    over independent cases and r the correlation of the two arms' AUCs. The noise of training comes on top. For more than
    two classes V is that of the mean of each against the rest, taken to be fully correlated.

    Args:
        class_sizes: independent cases of each class.

    Raises:
        UserError: an AUC outside [0.5, 1) or a correlation outside [0, 1).

    Source: Hanley and McNeil 1982, Radiology 143:29 (V); 1983, Radiology 148:839 (pairs).
    """
    if not 0.5 <= auc < 1:
        raise UserError(f"--expected-auc: expected 0.5 or more and below 1, found {auc:g}")
    if not 0 <= correlation < 1:
        raise UserError(f"correlation of the arms: expected 0 or more and below 1, found {correlation:g}")
    total, errors = sum(class_sizes), float(norm.ppf(_TAIL) + norm.ppf(POWER))

    def deviation(area: float) -> float:
        return float(np.mean([math.sqrt(max(case_variance(area, class_sizes[label], total - class_sizes[label]), 0.0))
                              for label in judged_classes(len(class_sizes))]))

    def lacking(gain: float) -> float:
        first, second = deviation(auc), deviation(auc + gain)
        return gain - errors * math.sqrt(first**2 + second**2 - 2 * correlation * first * second)

    return float(brentq(lacking, 0.0, 1.0 - auc)) if lacking(1.0 - auc) > 0 else None


def _check_predictions(labels: np.ndarray, predictions: Mapping[str, np.ndarray]) -> None:
    shapes = {arm: values.shape for arm, values in predictions.items()}
    first = next(iter(shapes.values()), ())
    if len(first) != 3 or first[1] != len(labels) or first[0] < 1 or set(shapes.values()) != {first}:
        raise UserError(f"predictions: expected (seeds, {len(labels)} images, classes) of every arm, found "
                        f"{name_some([f'{arm} {shape}' for arm, shape in shapes.items()])}")
    if first[0] < 2:
        raise UserError("predictions: expected two classifier seeds or more, as one does not show the noise of training, "
                        "found 1")
    broken = [arm for arm, values in predictions.items() if not np.isfinite(values).all()]
    if broken:
        raise UserError(f"predictions: found values that are not finite in {name_some(broken)}; train these arms again")
    absent = sorted(set(range(first[2])) - set(labels.tolist()))
    if absent:
        raise UserError(f"labels: expected an image of every class, found none of class {name_some(list(map(str, absent)))}")
