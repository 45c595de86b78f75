"""The classifier two-sample test: can a linear model tell two sets of features apart? Owns the test, not its name."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from config.errors import UserError
from tools.evaluation.accuracy import count_wins
from tools.evaluation.checks import as_feature_pair, as_groups
from tools.evaluation.resampling import bootstrap_interval

_FOLDS = 5
_C = 0.01  # inverse strength of the ridge: with as many standardised features as images, weaker ones only fit noise
_MAX_ITERATIONS = 2000


@dataclass(frozen=True)
class TwoSampleResult:
    """`area` 0.5: not told apart; 1: told apart without error. Values a little under 0.5 are chance."""

    area: float
    interval: tuple[float, float] | None


def two_sample_test(
    x: np.ndarray, y: np.ndarray, groups_x: Sequence[str], groups_y: Sequence[str], *, repeats: int, seed: int
) -> TwoSampleResult:
    """Cross-validated ROC area of a logistic regression that tells features `x` (N, D) from `y` (M, D).

    Folds are made of whole groups, and a group with images on both sides (an image and its round trip) lies in one fold.
    Scores are compared within a fold only; the area is the share of all such pairs in which `x` scores higher. The
    interval is a bootstrap over groups with the scores held fixed; no `repeats` (0), no interval.

    Raises:
        UserError: as `as_feature_pair`, or fewer than two groups on a side.

    Source: Lopez-Paz and Oquab 2017, arXiv 1610.06545, with a linear classifier.
    """
    x, y = as_feature_pair(x, y)
    values, side = np.concatenate([x, y]), np.repeat([True, False], [len(x), len(y)])
    folds = _assign_folds(groups_x, groups_y, seed)
    scores = np.empty(len(values))
    held_out = [fold for fold in np.unique(folds) if len(np.unique(side[folds == fold])) == 2]
    for fold in held_out:
        train, test = folds != fold, folds == fold
        if len(np.unique(side[train])) < 2:
            raise UserError("two-sample test: every group of one side lies in one fold; use more groups")
        scaler = StandardScaler().fit(values[train])
        model = LogisticRegression(C=_C, max_iter=_MAX_ITERATIONS, class_weight="balanced")
        model.fit(scaler.transform(values[train]), side[train])
        scores[test] = model.decision_function(scaler.transform(values[test]))

    def pooled_area(weights: np.ndarray) -> np.ndarray:
        counts = [count_wins(side[folds == fold], scores[folds == fold], weights[:, folds == fold]) for fold in held_out]
        won, pairs = np.sum(counts, axis=0)  # not the mean of areas: a fold of one patient would count however often drawn
        return np.divide(won, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)

    area = float(pooled_area(np.ones((1, len(values))))[0])
    if not repeats:
        return TwoSampleResult(area, None)
    return TwoSampleResult(area, bootstrap_interval(pooled_area, [*groups_x, *groups_y], repeats=repeats, seed=seed))


def _assign_folds(groups_x: Sequence[str], groups_y: Sequence[str], seed: int) -> np.ndarray:
    """A fold for every image (N + M,): the groups that `x` has, and then the others, dealt out in a seeded order."""
    num_folds = min(_FOLDS, as_groups(groups_x, len(groups_x))[1], as_groups(groups_y, len(groups_y))[1])
    names, numbers = np.unique(np.asarray([*groups_x, *groups_y]), return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(names))
    in_x = np.isin(names, np.asarray(groups_x))
    order = order[np.argsort(~in_x[order], kind="stable")]
    of_group = np.empty(len(names), dtype=np.int64)
    of_group[order] = np.arange(len(names)) % num_folds
    return of_group[numbers]
