"""Statistics of groups against plain formulas, and one test for many at its level."""

import numpy as np
import pytest
from scipy.stats import binomtest

from tools.evaluation.group_statistics import (
    LogEffective,
    LogSpread,
    Mean,
    adjusted_p_values,
    compare,
    sum_by_group,
)

NUM_GROUPS = 40


def make_mean(values: np.ndarray, numbers: np.ndarray) -> Mean:
    groups = numbers.max() + 1
    return Mean(np.bincount(numbers).astype(float), sum_by_group(values, numbers, groups), 1e-9)


def make_spread(values: np.ndarray, numbers: np.ndarray) -> LogSpread:
    groups = numbers.max() + 1
    values = np.atleast_2d(values)
    return LogSpread(np.bincount(numbers).astype(float), sum_by_group(values, numbers, groups),
                     sum_by_group(values**2, numbers, groups), 1e-9)


def make_effective(likeness: np.ndarray, numbers: np.ndarray, num_images: int) -> LogEffective:
    groups = numbers.max() + 1
    by_group = sum_by_group(sum_by_group(likeness, numbers, groups).T, numbers, groups)
    return LogEffective(np.arange(groups), np.bincount(numbers).astype(float), by_group, num_images)


def test_means_and_spreads_are_those_of_the_images() -> None:
    rng = np.random.default_rng(0)
    values, numbers = rng.normal(5, 2, size=60), np.arange(60)
    sides = numbers < 35
    mean, spread = compare([make_mean(values, numbers), make_spread(values, numbers)], sides, repeats=0, seed=0)
    assert (mean.first, mean.second) == pytest.approx((values[:35].mean(), values[35:].mean()))
    assert np.exp([spread.first, spread.second]) == pytest.approx([values[:35].std(ddof=1), values[35:].std(ddof=1)])
    assert mean.interval is None


def test_an_interval_over_groups_of_one_is_that_of_the_mean() -> None:
    values, numbers = np.random.default_rng(0).normal(size=400), np.arange(400)
    (mean,) = compare([make_mean(values, numbers)], numbers < 200, repeats=2000, seed=0)
    assert mean.interval is not None
    error = np.hypot(values[:200].std() / 200**0.5, values[200:].std() / 200**0.5)
    assert np.diff(mean.interval)[0] == pytest.approx(2 * 1.96 * error, rel=0.08)
    assert mean.interval[0] < mean.difference < mean.interval[1]


def test_the_spread_does_not_depend_on_how_many_images_a_group_has() -> None:
    rng = np.random.default_rng(0)
    numbers = np.repeat(np.arange(2000), 5)
    values = (rng.normal(0, 3, size=2000))[numbers] + rng.normal(0, 4, size=10000)
    (spread,) = compare([make_spread(values, numbers)], np.arange(2000) < 1000, repeats=0, seed=0)
    assert np.exp([spread.first, spread.second]) == pytest.approx([5, 5], rel=0.05)


@pytest.mark.parametrize("copies", [1, 3])
def test_distinct_images_that_are_each_there_k_times_count_once(copies: int) -> None:
    """The first set has 12 / k images that are nothing like each other, k times each; the second 12 alike by 0.5."""
    likeness = np.zeros((24, 24))
    likeness[:12, :12] = np.kron(np.eye(12 // copies), np.ones((copies, copies)))
    likeness[12:, 12:] = 0.5 + 0.5 * np.eye(12)
    (found,) = compare([make_effective(likeness**2, np.arange(24), 12)], np.arange(24) < 12, repeats=50, seed=0)
    of_order_two = [1 / (np.linalg.eigvalsh(block / 12) ** 2).sum() for block in (likeness[:12, :12], likeness[12:, 12:])]
    assert np.exp([found.first, found.second]) == pytest.approx(of_order_two)
    assert np.exp(found.first) == pytest.approx(12 / copies)


def test_images_of_one_group_do_not_count_as_repeats() -> None:
    numbers = np.repeat(np.arange(12), 2)
    likeness = np.kron(np.eye(12), np.ones((2, 2)))
    (found,) = compare([make_effective(likeness, numbers, 12)], np.arange(12) < 6, repeats=0, seed=0)
    assert np.exp(found.first) == pytest.approx(12)


def draw_p_values(rng: np.random.Generator, *, shift: float = 0.0, scale: float = 1.0) -> np.ndarray:
    """Adjusted p of eight checks of one draw: skewed numbers of patients of two images against single ones."""
    numbers = np.r_[np.arange(NUM_GROUPS), np.repeat(np.arange(NUM_GROUPS, NUM_GROUPS + 20), 2)]
    of_group = rng.exponential(size=(4, NUM_GROUPS + 20))
    values = of_group[:, numbers] + rng.exponential(size=(4, len(numbers)))
    first = numbers < NUM_GROUPS
    values[0, first] = values[0, first] * scale + shift
    statistics = [make(row, numbers) for make in (make_mean, make_spread) for row in values]
    sides = np.arange(NUM_GROUPS + 20) < NUM_GROUPS
    return adjusted_p_values(statistics, sides, np.zeros(len(sides), int), permutations=199, seed=int(rng.integers(1 << 31)))


def test_of_equal_sets_at_most_five_percent_have_any_small_p_value() -> None:
    rng = np.random.default_rng(0)
    accused = sum(draw_p_values(rng).min() <= 0.05 for _ in range(200))
    assert binomtest(accused, 200, 0.05, alternative="greater").pvalue > 0.01


def test_a_shifted_number_is_accused_and_not_its_innocent_neighbours() -> None:
    rng = np.random.default_rng(1)
    p_values = np.array([draw_p_values(rng, shift=3.0) for _ in range(40)])
    assert (p_values[:, 0] <= 0.05).mean() > 0.9
    assert (p_values[:, 1:].min(axis=1) <= 0.05).mean() <= 0.15


def test_groups_change_sides_within_their_stratum_only() -> None:
    """Two classes that differ, each the same on both sides: no chance remains, and nothing is accused."""
    numbers = np.arange(40)
    values, strata = np.repeat([0.0, 10.0, 0.0, 10.0], 10), np.repeat([0, 1, 0, 1], 10)
    (p_value,) = adjusted_p_values([make_mean(values, numbers)], numbers < 20, strata, permutations=99, seed=0)
    assert p_value == 1
