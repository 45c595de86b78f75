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
_ERRORS_FROM_ZERO = float(norm.ppf((1 + LEVEL) / 2) + norm.ppf(POWER))  # 2.80: a gain of so many errors is seen with POWER
_BLOCK_WEIGHTS = 1 << 22  # weights of images held at once

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
class ArmScore:
    """A metric of one arm over the pooled predictions: its mean over classifier seeds, and each seed's value."""

    arm: str
    metric: str
    value: float
    interval: tuple[float, float]
    seed_values: tuple[float, ...]


@dataclass(frozen=True)
class ArmDifference:
    """`arm` minus `against`, paired; `detectable` is the smallest true gain that would be seen with POWER at this error."""

    arm: str
    against: str
    metric: str
    value: float
    interval: tuple[float, float]
    standard_error: float

    @property
    def detectable(self) -> float:
        return _ERRORS_FROM_ZERO * self.standard_error


@dataclass(frozen=True)
class UtilityReport:
    """A study's numbers. `headline` is the arm that the question is about, fixed before any number was seen."""

    headline: str
    scores: list[ArmScore]
    differences: list[ArmDifference]
    warnings: list[str]
    provenance: dict[str, Any]

    def score(self, arm: str, metric: str) -> ArmScore:
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
    labels: np.ndarray, groups: Sequence[str], predictions: Mapping[str, np.ndarray], *,
    pairs: Sequence[tuple[str, str]], repeats: int, seed: int,
) -> tuple[list[ArmScore], list[ArmDifference]]:
    """Scores of each arm, and the difference of each pair (arm, against) of arms, by every metric.

    Groups and classifier seeds are drawn with replacement, the same ones for all arms, so that differences are paired
    and the noise of training is part of their error; crossing the two makes intervals somewhat too wide rather than too
    narrow. Draws that miss a class are left out.

    Args:
        labels: int64 (N,).
        predictions: of each arm, class probabilities (S, N, C) by seed and image, pooled out of fold.

    Raises:
        UserError: predictions of different shapes or not finite, a class without an image, fewer than two groups.

    Source: Efron and Tibshirani 1993, chapter 13; Owen 2007, Annals of Applied Statistics 1:386 (crossed factors).
    """
    labels = np.asarray(labels)
    num_seeds = _check_predictions(labels, predictions)
    numbers, count = as_groups(groups, len(labels))
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(count, np.full(count, 1.0 / count), size=repeats)
    drawn_seeds = rng.multinomial(num_seeds, np.full(num_seeds, 1.0 / num_seeds), size=repeats) / num_seeds
    rows = max(1, _BLOCK_WEIGHTS // len(labels))
    by_seed: dict[tuple[str, str], np.ndarray] = {}
    resampled: dict[tuple[str, str], np.ndarray] = {}
    for start in range(0, repeats, rows):
        weights = drawn[start:start + rows, numbers].astype(np.float64)
        for arm, probabilities in predictions.items():
            for name, metric in METRICS.items():
                values = np.stack([metric(labels, of_seed, weights) for of_seed in probabilities], axis=1)  # (B, S)
                part = (values * drawn_seeds[start:start + rows]).sum(axis=1)
                resampled[arm, name] = np.concatenate([resampled.get((arm, name), np.empty(0)), part])
    whole = np.ones((1, len(labels)))
    for arm, probabilities in predictions.items():
        for name, metric in METRICS.items():
            by_seed[arm, name] = np.array([metric(labels, of_seed, whole)[0] for of_seed in probabilities])
    scores = [ArmScore(arm, name, float(values.mean()), _interval(resampled[arm, name]), tuple(values.tolist()))
              for (arm, name), values in by_seed.items()]
    differences = []
    for arm, against in pairs:
        for name in METRICS:
            spread = resampled[arm, name] - resampled[against, name]
            value = float(by_seed[arm, name].mean() - by_seed[against, name].mean())
            differences.append(ArmDifference(arm, against, name, value, _interval(spread), float(np.nanstd(spread, ddof=1))))
    return scores, differences


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
    total = sum(class_sizes)

    def deviation(area: float) -> float:
        return float(np.mean([math.sqrt(max(case_variance(area, class_sizes[label], total - class_sizes[label]), 0.0))
                              for label in judged_classes(len(class_sizes))]))

    def lacking(gain: float) -> float:
        first, second = deviation(auc), deviation(auc + gain)
        return gain - _ERRORS_FROM_ZERO * math.sqrt(first**2 + second**2 - 2 * correlation * first * second)

    return float(brentq(lacking, 0.0, 1.0 - auc)) if lacking(1.0 - auc) > 0 else None


def _check_predictions(labels: np.ndarray, predictions: Mapping[str, np.ndarray]) -> int:
    """Number of classifier seeds of the arms, once all is as it should be."""
    shapes = {arm: values.shape for arm, values in predictions.items()}
    first = next(iter(shapes.values()), ())
    if len(first) != 3 or first[1] != len(labels) or first[0] < 1 or set(shapes.values()) != {first}:
        raise UserError(f"predictions: expected (seeds, {len(labels)} images, classes) of every arm, found "
                        f"{name_some([f'{arm} {shape}' for arm, shape in shapes.items()])}")
    broken = [arm for arm, values in predictions.items() if not np.isfinite(values).all()]
    if broken:
        raise UserError(f"predictions: found values that are not finite in {name_some(broken)}; train these arms again")
    absent = sorted(set(range(first[2])) - set(labels.tolist()))
    if absent:
        raise UserError(f"labels: expected an image of every class, found none of class {name_some(list(map(str, absent)))}")
    return first[0]


def _interval(values: np.ndarray) -> tuple[float, float]:
    tail = 50.0 * (1.0 - LEVEL)
    low, high = np.nanpercentile(values, [tail, 100.0 - tail])
    return float(low), float(high)
