"""A plain baseline for judges: the class read by logistic regression from features of networks that never saw the label."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from tools.evaluation.accuracy import balanced_accuracy
from tools.evaluation.checks import as_feature_pair, as_groups
from tools.evaluation.resampling import cap_by_group

_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)  # C, the inverse of the ridge, for standardised features
_PLAIN_STRENGTH = 1e-2  # where too few groups leave nothing to choose by
_FOLDS = 5
_MOST_IMAGES = 2000  # that a baseline learns from; its cost is quadratic in features and images
_MAX_ITERATIONS = 500


@dataclass(frozen=True)
class BaselineFeatures:
    """What one encoder sees: the training images (N, D) and the held-out ones (M, D), by the encoder's name."""

    name: str
    train: np.ndarray
    held_out: np.ndarray


@dataclass(frozen=True)
class Baseline:
    """What a plain baseline reads from M held-out images.

    `cross_validated` is the balanced accuracy on training images by which `features` and C were chosen; None where too few
    groups left nothing to choose by.
    """

    features: str
    num_images: int
    cross_validated: float | None
    predicted: np.ndarray  # int64 (M,)

    def describe(self) -> str:
        """What it is, for the note of a row."""
        chosen = ("not chosen: a class has too few groups" if self.cross_validated is None else
                  f"chosen by cross-validation on them: {self.cross_validated:.3f}")
        return f"logistic regression on features of {self.features}, {self.num_images} real training images, {chosen}"


def fit_baseline(
    candidates: Sequence[BaselineFeatures], labels: np.ndarray, groups: Sequence[str], *, seed: int
) -> Baseline | None:
    """The baseline of the features and ridge that read the training images best, groups held out; ties go to the first.

    None without candidates, or where the training images (labels int64 (N,), one group each) have a single label. Classes
    weigh the same. Of more than 2,000 training images it takes 2,000, by whole groups.

    Raises:
        UserError: features that are not finite, or of different widths.
    """
    rows = cap_by_group(groups, limit=_MOST_IMAGES, seed=seed)
    labels, (numbers, _) = labels[rows], as_groups([groups[row] for row in rows], len(rows), minimum=1)
    if not candidates or len(np.unique(labels)) < 2:
        return None
    folds = _split(labels, numbers, seed)
    best: tuple[float | None, BaselineFeatures, float] = (None, candidates[0], _PLAIN_STRENGTH)
    for candidate in candidates if folds else ():
        for strength in _STRENGTHS:
            score = _cross_validate(candidate.train[rows], labels, folds, strength)
            if best[0] is None or score > best[0]:
                best = (score, candidate, strength)
    score, chosen, strength = best
    train, held_out = as_feature_pair(chosen.train[rows], chosen.held_out, minimum=1)
    predicted = _fit(train, labels, strength).predict(held_out)
    return Baseline(chosen.name, len(rows), score, predicted.astype(np.int64))


def _split(labels: np.ndarray, numbers: np.ndarray, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Folds of whole groups; none where a label lies in one group, which cannot be both learned from and judged."""
    reach = min(len(np.unique(numbers[labels == label])) for label in np.unique(labels))
    if reach < 2:
        return []
    folder = StratifiedGroupKFold(min(_FOLDS, reach), shuffle=True, random_state=seed)
    folds = [(train, held) for train, held in folder.split(labels, labels, numbers) if len(train) and len(held)]
    return [(train, held) for train, held in folds if len(np.unique(labels[train])) > 1]


def _cross_validate(
    features: np.ndarray, labels: np.ndarray, folds: Sequence[tuple[np.ndarray, np.ndarray]], strength: float
) -> float:
    held = np.concatenate([rows for _, rows in folds])
    predicted = np.concatenate([_fit(features[train], labels[train], strength).predict(features[rows])
                                for train, rows in folds])
    return balanced_accuracy(labels[held], predicted)


def _fit(features: np.ndarray, labels: np.ndarray, strength: float) -> Pipeline:
    readout = LogisticRegression(C=strength, class_weight="balanced", max_iter=_MAX_ITERATIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # an early end is one more ridge
        return make_pipeline(StandardScaler(), readout).fit(features.astype(np.float64), labels)
