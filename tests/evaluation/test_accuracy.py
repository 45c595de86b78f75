"""Accuracies and areas equal scikit-learn's, weighted ones those of repeated images; absent classes are defined."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, roc_auc_score

from tools.evaluation.accuracy import (
    balanced_accuracy,
    confusion_shares,
    weighted_area,
    weighted_balanced_accuracy,
    weighted_class_area,
)


def test_it_equals_the_reference_on_unequal_classes() -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice(3, size=200, p=[0.7, 0.2, 0.1])
    predicted = np.where(rng.random(200) < 0.6, labels, rng.integers(3, size=200))
    assert abs(balanced_accuracy(labels, predicted) - balanced_accuracy_score(labels, predicted)) < 1e-12


def test_an_absent_class_does_not_count() -> None:
    assert balanced_accuracy(np.zeros(4, np.int64), np.array([0, 0, 0, 1])) == 0.75


def test_the_weighted_area_equals_the_area_of_the_repeated_images() -> None:
    rng = np.random.default_rng(0)
    positive = rng.random(60) < 0.4
    scores = np.round(rng.normal(size=60) + positive, 1)  # with ties
    weights = rng.integers(0, 4, size=(5, 60)).astype(np.float64)
    for drawn, area in zip(weights.astype(int), weighted_area(positive, scores, weights), strict=True):
        assert area == pytest.approx(roc_auc_score(positive.repeat(drawn), scores.repeat(drawn)), rel=1e-12)
    assert np.isnan(weighted_area(positive, scores, positive[None].astype(float)))[0]


@pytest.mark.parametrize("num_classes", [2, 4])
def test_class_areas_and_accuracies_equal_the_library(num_classes: int) -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, num_classes, 80)
    probabilities = rng.dirichlet(np.ones(num_classes), 80) + 0.2 * np.eye(num_classes)[labels]
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    once = np.ones((1, 80))
    if num_classes == 2:
        expected = roc_auc_score(labels, probabilities[:, 1])
    else:
        expected = roc_auc_score(labels, probabilities, multi_class="ovr", average="macro")
    assert weighted_class_area(labels, probabilities, once) == pytest.approx([expected], rel=1e-12)
    predicted = probabilities.argmax(axis=1)
    assert weighted_balanced_accuracy(labels, predicted, once) == pytest.approx([balanced_accuracy_score(labels, predicted)])
    assert confusion_shares(labels, predicted, num_classes) == pytest.approx(
        confusion_matrix(labels, predicted, normalize="true"))


def test_a_class_without_an_image_has_no_share() -> None:
    shares = confusion_shares(np.array([0, 0]), np.array([0, 1]), 2)
    assert shares[0].tolist() == [0.5, 0.5] and np.isnan(shares[1]).all()
