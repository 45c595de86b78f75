"""Differences of two rows: closed forms, direction, what they may be called, and the level on real and planted data."""

from math import sqrt

import numpy as np
import pytest

from tools.compare.differences import SUBSAMPLED_SHARE, Better, Outcome, can_subtract, subtract
from tools.evaluation import distances
from tools.evaluation.kernel import kernel_distance, kernel_interval
from tools.evaluation.metric_keys import parse_metric
from tools.evaluation.rows import OVERALL, Row


def row(value: float | None, low: float = 0.0, high: float = 0.0, metric: str = "KD[x]") -> Row:
    return Row(parse_metric(metric), OVERALL, "total", value, (low, high))


def test_half_widths_of_distances_add_in_quadrature_each_side_apart() -> None:
    difference = subtract(row(10, 7, 11), row(4, 2, 8), num_comparisons=1)
    assert difference.value == 6
    assert difference.interval == pytest.approx((6 - sqrt(3**2 + 4**2), 6 + sqrt(1**2 + 2**2)))
    assert difference.joint_interval == pytest.approx(difference.interval)
    swapped = subtract(row(4, 2, 8), row(10, 7, 11), num_comparisons=1)
    assert swapped.interval == pytest.approx((-difference.interval[1], -difference.interval[0]))


def test_the_joint_interval_is_widened_by_bonferroni() -> None:
    difference = subtract(row(10, 9, 11), row(4, 3, 5), num_comparisons=10)
    # normal quantiles at 1 - 0.05 / 2 and 1 - 0.05 / 20
    assert difference.joint_interval[1] - 6 == pytest.approx((difference.interval[1] - 6) * 2.807034 / 1.959964, rel=1e-6)


@pytest.mark.parametrize("metric", ["coverage[x]", "two-sample AUC[x]"])
def test_half_widths_that_leave_noise_out_add_plainly(metric: str) -> None:
    difference = subtract(row(0.9, 0.8, 0.95, metric), row(0.5, 0.4, 0.7, metric), num_comparisons=1)
    assert difference.interval == pytest.approx((0.4 - 0.1 - 0.2, 0.4 + 0.05 + 0.1))


@pytest.mark.parametrize("metric", ["FID", "FD[x@1,a]"])
def test_the_range_of_subsamples_is_scaled_by_the_jackknife_around_the_value(metric: str) -> None:
    """Half the range of 80% subsamples times sqrt(0.8 / 0.2); the range itself lies beside the value."""
    difference = subtract(row(10, 11, 13, metric), row(4, 5, 5, metric), num_comparisons=1)
    assert difference.interval == pytest.approx((6 - 2, 6 + 2))
    assert SUBSAMPLED_SHARE == distances._SUBSAMPLED_SHARE


def test_the_jackknife_gives_the_spread_of_a_mean() -> None:
    """Over 80% subsamples the mean of 200 numbers varies half as much as the mean itself does."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=200)
    means = [rng.permutation(values)[:160].mean() for _ in range(4000)]
    low, high = np.percentile(means, [2.5, 97.5])
    scaled = subtract(row(values.mean(), low, high, "FD[x]"), row(0, 0, 0, "FD[x]"), num_comparisons=1).interval
    assert (scaled[1] - scaled[0]) / 2 == pytest.approx(1.96 * values.std(ddof=1) / sqrt(200), rel=0.1)


def test_better_and_worse_need_the_joint_interval_and_follow_the_direction() -> None:
    far = subtract(row(10, 9, 11), row(4, 3, 5), num_comparisons=10)
    near = subtract(row(6, 5, 7), row(4, 3, 5), num_comparisons=10)  # 2 - 1.41 leaves out 0, 2 - 1.41 x 1.43 does not
    assert far.outcome(Better.LOWER) is Outcome.WORSE and far.outcome(Better.HIGHER) is Outcome.BETTER
    assert near.outcome(Better.LOWER) is near.outcome(Better.HIGHER) is Outcome.UNCLEAR
    back = subtract(row(4, 3, 5), row(10, 9, 11), num_comparisons=10)
    assert back.outcome(Better.LOWER) is Outcome.BETTER and back.outcome(Better.HIGHER) is Outcome.WORSE
    assert subtract(row(5, 4, 6), row(4, 3, 5), num_comparisons=1).outcome(Better.LOWER) is Outcome.NONE


def test_rows_without_a_value_or_an_interval_are_not_subtracted() -> None:
    assert can_subtract(row(1), row(2))
    for lacking in (None, row(None), Row(parse_metric("KD[x]"), OVERALL, "total", 1.0)):
        assert not can_subtract(row(1), lacking) and not can_subtract(lacking, row(1))


def measured(made: np.ndarray, real: np.ndarray) -> Row:
    groups = [f"made {i}" for i in range(len(made))], [f"real {i}" for i in range(len(real))]
    return Row(parse_metric("KD[x]"), OVERALL, "total", kernel_distance(made, real, *groups),
               kernel_interval(made, real, *groups, repeats=200, seed=0))


def test_a_planted_difference_is_found_and_equal_systems_are_not_told_apart() -> None:
    rng, misses = np.random.default_rng(1), 0
    for _ in range(20):
        real, one, other = (rng.normal(size=(60, 4)) for _ in range(3))
        misses += subtract(measured(one, real), measured(other, real), num_comparisons=1).outcome(
            Better.LOWER) is not Outcome.NONE
        worse = subtract(measured(one + 1.0, real), measured(other, real), num_comparisons=20)
        assert worse.interval[0] > 0 and worse.outcome(Better.LOWER) is Outcome.WORSE
    assert misses <= 3  # of 20; more than 3 at a level of 5% have a chance of 1.6%
