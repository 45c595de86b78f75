"""Subsample ranges and caps: by group, without replacement, seeded."""

import numpy as np
import pytest

from config.errors import UserError
from tools.evaluation.frechet import frechet_distance
from tools.evaluation.resampling import bootstrap_interval, cap_by_group, subsample_range


def _names(n, per_group=1):
    return [f"g{i // per_group}" for i in range(n)]


def test_keeps_whole_groups_without_replacement():
    values = np.arange(60.0)[:, None]
    names = np.array(_names(60, 3))
    seen = []

    def look(x, y):
        rows = x[:, 0].astype(int)
        assert len(set(rows)) == len(rows) == 48  # 16 of 20 groups, each image once
        kept = set(names[rows])
        assert sorted(rows) == sorted(i for i in range(60) if names[i] in kept)
        seen.append(tuple(rows))
        return float(x.mean() - y.mean())

    subsample_range(values, values, names, names, statistic=look, repeats=20, seed=0)
    assert len(set(seen)) > 15


def test_range_is_near_the_value_and_seeded():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 8)), rng.normal(size=(200, 8)) + 0.5
    arguments = (x, y, _names(200), _names(200))
    low, high = subsample_range(*arguments, statistic=frechet_distance, seed=1)
    assert low < high
    assert low < 1.1 * frechet_distance(x, y) and high > 0.9 * frechet_distance(x, y)
    assert (low, high) == subsample_range(*arguments, statistic=frechet_distance, seed=1)


def test_range_avoids_the_bias_of_sampling_with_replacement():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(80, 40)), rng.normal(size=(80, 40))
    value = frechet_distance(x, y)
    low, high = subsample_range(x, y, _names(80), _names(80), statistic=frechet_distance, seed=0)
    boot = np.mean([frechet_distance(x[rng.integers(0, 80, 80)], y[rng.integers(0, 80, 80)]) for _ in range(50)])
    assert abs((low + high) / 2 - value) < abs(boot - value)


def test_cap_takes_whole_groups_and_fills_the_limit():
    names = _names(100, 4)
    kept = cap_by_group(names, limit=30, seed=0)
    sizes = np.unique(np.array(names)[kept], return_counts=True)[1]
    assert len(kept) == 30 and np.all(np.diff(kept) > 0)
    assert sorted(sizes) == [2] + [4] * 7
    assert np.array_equal(cap_by_group(names, limit=100, seed=0), np.arange(100))


def test_the_bootstrap_interval_of_a_mean_is_its_normal_one_and_wider_by_group():
    rng = np.random.default_rng(2)
    values = np.repeat(rng.normal(size=50), 4)  # four copies a group

    def mean(weights):
        return weights @ values / weights.sum(axis=1)

    low, high = bootstrap_interval(mean, _names(200, 4), repeats=4000, seed=0)
    error = values.std() / np.sqrt(50)
    assert (low, high) == pytest.approx((values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.25 * error)
    by_image = bootstrap_interval(mean, _names(200), repeats=4000, seed=0)
    assert by_image[1] - by_image[0] == pytest.approx((high - low) / 2, rel=0.1)
    assert (low, high) == bootstrap_interval(mean, _names(200, 4), repeats=4000, seed=0)


def test_the_bootstrap_draws_sets_apart_and_keeps_their_numbers():
    seen = []

    def look(first, second):
        seen.append((first.sum(axis=1), second.sum(axis=1)))
        return first[:, 0] - second[:, 0]

    bootstrap_interval(look, _names(10), _names(30), repeats=20, seed=0)
    assert all((a == 10).all() and (b == 30).all() for a, b in seen)


def test_a_statistic_without_a_value_has_no_interval():
    assert bootstrap_interval(lambda w: np.full(len(w), np.nan), _names(4), repeats=5, seed=0) is None


def test_refuses():
    x = np.ones((4, 1))
    with pytest.raises(UserError, match=r"fraction in \(0, 1\]"):
        subsample_range(x, x, _names(4), _names(4), statistic=frechet_distance, fraction=1.5, seed=0)
    with pytest.raises(UserError, match="at least 2 groups"):
        subsample_range(x, x, ["one"] * 4, _names(4), statistic=frechet_distance, seed=0)
