"""Readers' statistics: against scikit-learn, under drawn weights, and the coverage of the bootstrap."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from tools.reader_study.intervals import (
    balanced_accuracy_of_tables,
    draw_resamples,
    mean_over_readers,
    percentile_interval,
    weighted_auc,
    weighted_share,
    weighted_tables,
)


def rate(rng: np.random.Generator, num: int, readers: int, *, shift: float, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Ratings 1..6 (J, 2 num) of a binormal model in which readers differ, and whether a case is positive."""
    positive = np.repeat([False, True], num)
    case = rng.normal(size=2 * num) * 0.8
    skill = shift + spread * rng.normal(size=(readers, 1))
    latent = case + rng.normal(size=(readers, 2 * num)) * 0.6 + skill * positive
    return np.digitize(latent, [-0.8, -0.2, 0.4, 1.0, 1.6]) + 1, positive


def test_auc_is_scikit_learns_with_ties_and_weights() -> None:
    rng = np.random.default_rng(0)
    ratings, positive = rate(rng, 25, 3, shift=0.9, spread=0.2)
    weights = np.stack([np.ones(50), rng.integers(0, 4, 50).astype(float)])
    found = weighted_auc(ratings, positive, ~positive, weights)
    for draw, row in enumerate(weights):
        for reader, own in enumerate(ratings):
            assert found[draw, reader] == pytest.approx(roc_auc_score(positive, own, sample_weight=row), abs=1e-12)
    flipped = weighted_auc(7 - ratings, positive, ~positive, weights)
    assert flipped == pytest.approx(1 - found)


def test_shares_and_grades_are_scikit_learns() -> None:
    rng = np.random.default_rng(1)
    labels, grades = rng.integers(0, 3, 60), rng.integers(0, 3, (2, 60))
    chosen = np.arange(60) < 40
    tables = weighted_tables(labels, grades, chosen, np.ones((1, 60)), num_classes=3)
    assert tables.sum() == 80
    for reader in range(2):
        oracle = balanced_accuracy_score(labels[chosen], grades[reader, chosen])
        assert balanced_accuracy_of_tables(tables)[0, reader] == pytest.approx(oracle)
    weights = np.r_[np.full(40, 2.0), np.full(20, 7.0)][None]
    assert weighted_share(grades == 1, chosen, weights)[0] == pytest.approx((grades[:, :40] == 1).mean(axis=1))


def test_groups_are_drawn_whole_and_arms_keep_their_number_of_groups() -> None:
    groups = [f"g{i // 2}" for i in range(20)] + [f"s{i}" for i in range(12)]
    arms = ["real"] * 20 + ["synthetic"] * 12
    drawn = draw_resamples(groups, arms, num_readers=4, repeats=200, seed=0)
    assert np.array_equal(drawn.cases[:, 0:20:2], drawn.cases[:, 1:20:2])
    assert (drawn.cases[:, 0:20:2].sum(axis=1) == 10).all() and (drawn.cases[:, 20:].sum(axis=1) == 12).all()
    assert (drawn.readers.sum(axis=1) == 4).all() and drawn.readers.std() > 0.5
    again = draw_resamples(groups, arms, num_readers=4, repeats=200, seed=0)
    assert np.array_equal(drawn.cases, again.cases) and np.array_equal(drawn.readers, again.readers)
    shared = draw_resamples(["a", "b", "a", "c"], ["real", "real", "round_trip", "synthetic"], num_readers=1, repeats=50,
                            seed=0)
    assert np.array_equal(shared.cases[:, 0], shared.cases[:, 2]) and (shared.cases[:, 0] == 1).all()


def test_mean_over_readers_weighs_and_leaves_out_what_is_not_known() -> None:
    draws = np.array([[0.2, 0.8], [0.5, np.nan], [np.nan, 0.1]])
    readers = np.array([[3.0, 1.0], [1.0, 1.0], [2.0, 0.0]])
    assert mean_over_readers(draws, readers) == pytest.approx([0.35, 0.5, np.nan], nan_ok=True)


def test_an_interval_needs_draws_that_differ() -> None:
    assert percentile_interval(np.linspace(0, 1, 1001)) == pytest.approx((0.025, 0.975))
    assert percentile_interval(np.ones(100)) is None
    assert percentile_interval(np.array([np.nan, 0.5])) is None


def test_the_interval_of_the_mean_auc_covers_the_truth() -> None:
    """Six readers, 40 cases an arm: of 120 studies' 95% intervals, between 90% and 100% hold the true mean AUC."""
    rng = np.random.default_rng(7)
    truth = np.mean([weighted_auc(*_arms(rate(rng, 400, 60, shift=0.9, spread=0.3)), np.ones((1, 800))).mean()
                     for _ in range(6)])
    assert truth == pytest.approx(norm.cdf(0.9 / np.sqrt(2 + 0.09)), abs=0.03)  # six steps and a finite sample cost little
    arms = ["real"] * 40 + ["synthetic"] * 40
    groups = [f"{i}" for i in range(80)]
    hits = 0
    for study in range(120):
        ratings, positive = rate(rng, 40, 6, shift=0.9, spread=0.3)
        drawn = draw_resamples(groups, arms, num_readers=6, repeats=300, seed=study)
        draws = weighted_auc(ratings, positive, ~positive, drawn.cases)
        interval = percentile_interval(mean_over_readers(draws, drawn.readers))
        assert interval is not None
        hits += interval[0] <= truth <= interval[1]
    assert 0.90 <= hits / 120 <= 1.0


def _arms(rated: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    ratings, positive = rated
    return ratings, positive, ~positive
