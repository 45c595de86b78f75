"""How well labels can be read from feature vectors: grouped cross-validation and intervals by group bootstrap.

Arrays in, numbers out. An AUC of 0.5 is chance.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold

from config.errors import UserError
from dataset.order import generator
from tools.evaluation.accuracy import count_wins
from tools.evaluation.checks import as_features, as_groups

FOLDS = 5
_ROUNDS = 3  # of different folds: a single split of a few hundred images depends on luck
_RESAMPLES = 1000
_PENALTY = 0.1  # of squared weights, for features of unit mean variance; fixed, because so few images cannot tune it
_FLOOR = 1e-9  # of a feature's spread: below, it is constant


@dataclass(frozen=True)
class Interval:
    """A value, its 95% interval and its standard error by group bootstrap."""

    value: float
    low: float
    high: float
    error: float

    def format(self) -> str:
        """ "0.712 (0.655 to 0.768)"."""
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


class GroupedLabels:
    """Labels and groups of N images, with folds and bootstrap weights that every feature set of them shares.

    Raises:
        UserError: fewer than two classes, or a class in only one group, which cannot be held out.
    """

    def __init__(self, labels: np.ndarray, groups: Sequence[str], *, seed: int) -> None:
        self.labels = np.asarray(labels, dtype=np.int64)
        self.classes = np.unique(self.labels)
        self.numbers, self.num_groups = as_groups(groups, len(self.labels))
        reach = [len(np.unique(self.numbers[self.labels == label])) for label in self.classes]
        if len(self.classes) < 2 or min(reach) < 2:
            raise UserError(
                f"expected two classes or more, each in two groups (patients, embryos) or more, found {len(self.classes)} "
                f"classes in {', '.join(map(str, reach))} groups; add images of the rarer class"
            )
        self.num_folds = min(FOLDS, *reach)
        rng = generator(seed, "readout folds")
        self._folds = [list(self._split(int(rng.integers(1 << 31)))) for _ in range(_ROUNDS)]
        counts = generator(seed, "readout bootstrap").multinomial(
            self.num_groups, np.full(self.num_groups, 1 / self.num_groups), size=_RESAMPLES
        )
        self.weights = np.concatenate([np.ones((1, len(self.labels))), counts[:, self.numbers]]).astype(np.float64)

    def cross_validate(self, features: np.ndarray, *, name: str = "features") -> np.ndarray:
        """Held-out log-probabilities float64 (rounds, N, classes) of a ridge logistic regression.

        No group is in the training and the held-out part of a fold. Classes weigh the same. Scores of different folds
        come from different fits and cannot be compared.
        """
        features = as_features(features, name=name)
        scores = np.zeros((len(self._folds), len(features), len(self.classes)))
        for place, folds in enumerate(self._folds):
            for train, held in folds:
                scores[place, held] = fit_and_score(features[train], self.labels[train], features[held], self.classes)
        return scores

    def resampled_auc(self, scores: np.ndarray) -> np.ndarray:
        """The AUC of scores and of each bootstrap draw of groups, float64 (1 + draws,); NaN where undefined.

        Scores (rounds, N, classes) of `cross_validate` are compared within a fold only: intercepts that differ between
        folds would break ties against the held-out labels. Scores (N, classes) of one fixed model are all comparable.
        With more than two classes: the mean over classes of each one against the rest.
        """
        if scores.ndim == 2:
            blocks = [(scores, np.arange(len(scores)))]
        else:
            blocks = [(scores[place], held) for place, folds in enumerate(self._folds) for _, held in folds]
        areas = []
        for column, label in list(enumerate(self.classes))[1 if len(self.classes) == 2 else 0:]:
            wins, pairs = np.zeros(len(self.weights)), np.zeros(len(self.weights))
            for values, held in blocks:
                margin = values[held, column] - (values[held, 0] if len(self.classes) == 2 else 0.0)
                won, compared = count_wins(self.labels[held] == label, margin, self.weights[:, held])
                wins, pairs = wins + won, pairs + compared
            areas.append(np.divide(wins, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0))
        return np.mean(areas, axis=0)

    def _split(self, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
        folder = StratifiedGroupKFold(self.num_folds, shuffle=True, random_state=seed)
        folds = folder.split(self.labels, self.labels, self.numbers)
        return [(train, held) for train, held in folds if len(train) and len(held)]


def summarise(resampled: np.ndarray) -> Interval:
    """The interval of a statistic given as its value followed by its bootstrap draws."""
    draws = resampled[1:][np.isfinite(resampled[1:])]
    low, high = np.percentile(draws, [2.5, 97.5])
    return Interval(float(resampled[0]), float(low), float(high), float(draws.std(ddof=1)))


def fit_and_score(features: np.ndarray, labels: np.ndarray, held: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Log-probabilities (M, classes) of held-out rows by a ridge logistic regression in which classes weigh the same.

    A class without a training row gets the least of all.
    """
    mean, spread = features.mean(axis=0), features.std(axis=0)
    varying = spread > _FLOOR
    scores = np.full((len(held), len(classes)), -np.log(len(classes)))
    present = np.unique(labels)
    if not varying.any() or len(present) < 2:
        return scores
    scale = spread[varying] * np.sqrt(varying.sum() * _PENALTY)
    model = LogisticRegression(C=1.0, class_weight="balanced", max_iter=2000)
    model.fit((features[:, varying] - mean[varying]) / scale, labels)
    margins = model.decision_function((held[:, varying] - mean[varying]) / scale)
    known = log_softmax(margins if margins.ndim == 2 else np.stack([np.zeros_like(margins), margins], axis=1), axis=1)
    scores[:] = known.min() - 1.0
    scores[:, np.searchsorted(classes, present)] = known
    return scores
