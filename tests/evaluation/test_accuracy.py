"""Balanced accuracy equals scikit-learn's, and is defined where a class is absent."""

import numpy as np
from sklearn.metrics import balanced_accuracy_score

from tools.evaluation.accuracy import balanced_accuracy


def test_it_equals_the_reference_on_unequal_classes() -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice(3, size=200, p=[0.7, 0.2, 0.1])
    predicted = np.where(rng.random(200) < 0.6, labels, rng.integers(3, size=200))
    assert abs(balanced_accuracy(labels, predicted) - balanced_accuracy_score(labels, predicted)) < 1e-12


def test_an_absent_class_does_not_count() -> None:
    assert balanced_accuracy(np.zeros(4, np.int64), np.array([0, 0, 0, 1])) == 0.75
