"""How well predicted classes agree with true ones, with every class weighing the same. Images may carry weights, a row
of them for each draw of a bootstrap."""

import numpy as np


def balanced_accuracy(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Mean share of correct predictions of each class that occurs in `labels`, both int64 (N,). Source: Brodersen 2010."""
    return float(np.mean([(predicted[labels == label] == label).mean() for label in np.unique(labels)]))


def weighted_balanced_accuracy(labels: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """`balanced_accuracy` for each row of `weights` (B, N): (B,), NaN where a class has no weight."""
    shares = []
    for label in np.unique(labels):
        of_class = weights[:, labels == label]
        correct = (predicted[labels == label] == label).astype(np.float64)
        with np.errstate(invalid="ignore"):
            shares.append(of_class @ correct / of_class.sum(axis=1))
    return np.mean(shares, axis=0)


def weighted_area(positive: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area under the ROC curve for each row of `weights` (B, N): (B,), NaN where either side has no weight."""
    won, pairs = count_wins(positive, scores, weights)
    return np.divide(won, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)


def count_wins(positive: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs in which a positive scores above a negative, ties counting half, and all pairs, float64 (B,) each.

    For each row of `weights` (B, N); `positive` is bool (N,), `scores` (N,). Their ratio is the area under the ROC curve.

    Source: Hanley and McNeil 1982, the Mann-Whitney form.
    """
    _, ties = np.unique(scores, return_inverse=True)
    order = np.argsort(ties, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(ties[order]) > 0])
    above = np.add.reduceat(weights[:, order] * positive[order], starts, axis=1)
    below = np.add.reduceat(weights[:, order] * ~positive[order], starts, axis=1)
    won = (above * (np.cumsum(below, axis=1) - 0.5 * below)).sum(axis=1)
    return won, above.sum(axis=1) * below.sum(axis=1)


def weighted_class_area(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area of class 1 against class 0, or for more classes the mean of each against the rest, per row of `weights`."""
    return np.mean([weighted_area(labels == label, probabilities[:, label], weights)
                    for label in judged_classes(probabilities.shape[1])], axis=0)


def weighted_average_precision(positive: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Average precision, the area under the precision-recall curve in steps, for each row of `weights` (B, N): (B,), NaN
    where no positive has weight.

    `positive` is bool (N,), `scores` (N,); images of equal score pass a threshold together.

    Source: Davis and Goadrich 2006; the sum of (R_k - R_k-1) P_k over the thresholds, as in scikit-learn.
    """
    _, ties = np.unique(-scores, return_inverse=True)
    order = np.argsort(ties, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(ties[order]) > 0])
    found = np.add.reduceat(weights[:, order] * positive[order], starts, axis=1)
    passed = np.cumsum(np.add.reduceat(weights[:, order], starts, axis=1), axis=1)
    precision = np.cumsum(found, axis=1) / np.where(passed > 0, passed, 1.0)
    with np.errstate(invalid="ignore"):
        return (found * precision).sum(axis=1) / found.sum(axis=1)


def weighted_class_precision(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Average precision of class 1, or for more classes the mean of each against the rest, per row of `weights`."""
    return np.mean([weighted_average_precision(labels == label, probabilities[:, label], weights)
                    for label in judged_classes(probabilities.shape[1])], axis=0)


def judged_classes(num_classes: int) -> tuple[int, ...]:
    """The classes whose areas are averaged: 1 of two, else each against the rest."""
    return (1,) if num_classes == 2 else tuple(range(num_classes))


def confusion_shares(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Share of the images of each true class (rows) that is taken for each class (columns); NaN rows have no image."""
    counts = np.zeros((num_classes, num_classes))
    np.add.at(counts, (labels, predicted), 1.0)
    with np.errstate(invalid="ignore"):
        return counts / counts.sum(axis=1, keepdims=True)
