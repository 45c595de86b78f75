"""Statistics of readers' ratings of two arms of images, with a bootstrap over readers and cases.

Each statistic is computed for each reader from weights of the cases, so that one set of bootstrap weights serves all of
them; weights of one give the value itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dataset.order import generator
from tools.evaluation.accuracy import weighted_area

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Resamples:
    """B draws: how often each case and each reader was drawn, float64 cases (B, N) and readers (B, J)."""

    cases: np.ndarray
    readers: np.ndarray


def draw_resamples(
    groups: Sequence[str], arms: Sequence[str], *, num_readers: int, repeats: int, seed: int
) -> Resamples:
    """Draw readers, and groups of cases within each arm, with replacement.

    A group is drawn whole. Groups that have images in the same arms form a stratum, so that no arm is ever empty.
    All readers see the same cases in a draw. The variance covers readers, cases and their interaction, the last
    conservatively. Source: Owen 2007, "The pigeonhole bootstrap", Annals of Applied Statistics 1:386.
    """
    rng = generator(seed, "readers and cases")
    names, numbers = np.unique(np.asarray(groups), return_inverse=True)
    covered: list[set[str]] = [set() for _ in names]
    for number, arm in zip(numbers, arms, strict=True):
        covered[number].add(arm)
    strata: dict[tuple[str, ...], list[int]] = {}
    for number, of_group in enumerate(covered):
        strata.setdefault(tuple(sorted(of_group)), []).append(number)
    drawn = np.empty((repeats, len(names)))
    for stratum in sorted(strata):
        members = strata[stratum]
        drawn[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), size=repeats)
    readers = rng.multinomial(num_readers, np.full(num_readers, 1 / num_readers), size=repeats)
    return Resamples(cases=drawn[:, numbers], readers=readers.astype(np.float64))


def weighted_auc(ratings: np.ndarray, positive: np.ndarray, negative: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Probability that a positive case is rated above a negative one, ties counted half, float64 (B, J).

    Args:
        ratings: (J, N), one row a reader.
        positive, negative: bool (N,), the two arms.
        weights: (B, N); each arm's sum is above 0.
    """
    chosen = positive | negative
    return np.stack([weighted_area(positive[chosen], own[chosen], weights[:, chosen]) for own in ratings], axis=1)


def weighted_share(marks: np.ndarray, chosen: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Fraction of the chosen cases (bool (N,)) that have a mark (bool (J, N)), float64 (B, J)."""
    kept = weights[:, chosen]
    return kept @ marks[:, chosen].T.astype(np.float64) / kept.sum(axis=1, keepdims=True)


def weighted_tables(
    labels: np.ndarray, grades: np.ndarray, chosen: np.ndarray, weights: np.ndarray, *, num_classes: int
) -> np.ndarray:
    """Weight of each pair of label (N,) and grade (J, N) among the chosen cases, float64 (B, J, K, K), rows are labels."""
    codes = labels[None, chosen] * num_classes + grades[:, chosen]
    tables = np.stack([weights[:, chosen] @ np.eye(num_classes**2)[own] for own in codes], axis=1)
    return tables.reshape(len(weights), len(grades), num_classes, num_classes)


def balanced_accuracy_of_tables(tables: np.ndarray) -> np.ndarray:
    """Mean fraction of right grades over the labels that occur, float64 (...) of tables (..., K, K)."""
    sums = tables.sum(axis=-1)
    right = np.diagonal(tables, axis1=-2, axis2=-1)
    shares = np.divide(right, sums, out=np.zeros_like(sums), where=sums > 0)
    return shares.sum(axis=-1) / (sums > 0).sum(axis=-1)


def mean_over_readers(draws: np.ndarray, readers: np.ndarray) -> np.ndarray:
    """Mean of per-reader draws (B, J) over the drawn readers (B, J), float64 (B,); NaN is ignored."""
    known = np.isfinite(draws)
    weight = (readers * known).sum(axis=1)
    total = (readers * np.where(known, draws, 0)).sum(axis=1)
    return np.divide(total, weight, out=np.full(len(draws), np.nan), where=weight > 0)


def percentile_interval(draws: np.ndarray) -> tuple[float, float] | None:
    """The central 95% of the finite draws (B,); None if they do not differ, because then they show no variation."""
    finite = draws[np.isfinite(draws)]
    if len(finite) < 2 or np.ptp(finite) < 1e-12:
        return None
    low, high = np.percentile(finite, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
    return float(low), float(high)
