"""Planning a reader study: closed forms, and a simulation of studies of the planned size."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from tools.evaluation.reader_size import (
    MOST_CASES,
    StudyDesign,
    case_variance,
    fewest_cases,
    interval_width,
    mean_auc_variance,
    power,
)
from tools.reader_study.intervals import weighted_auc


def test_case_variance_is_hanley_and_mcneils() -> None:
    q1, q2 = 0.8 / 1.2, 1.28 / 1.8
    assert case_variance(0.8, 50, 30) == pytest.approx((0.16 + 49 * (q1 - 0.64) + 29 * (q2 - 0.64)) / 1500)
    assert case_variance(0.5, 40, 60) == pytest.approx(101 / (12 * 40 * 60))  # as of the Wilcoxon statistic without effect


def test_variance_and_degrees_of_freedom_at_their_ends() -> None:
    alike = StudyDesign(auc=0.7, reader_sd=0.0, correlation=0.0)
    error = case_variance(0.7, 40, 40)
    assert mean_auc_variance(alike, 4, 40) == pytest.approx((error / 4, 3))
    variance, freedom = mean_auc_variance(StudyDesign(auc=0.7, reader_sd=0.1, correlation=0.5), 4, 40)
    own = 0.01 + error / 2
    assert variance == pytest.approx(own / 4 + error / 2)
    assert freedom == pytest.approx(3 * (own + 2 * error) ** 2 / own**2)
    assert mean_auc_variance(alike, 1, 40) == (pytest.approx(error), math.inf)


def test_more_readers_and_more_cases_narrow_the_interval_and_raise_the_power() -> None:
    design = StudyDesign(auc=0.65)
    widths = [interval_width(design, readers, 40) for readers in (3, 5, 8, 12)]
    powers = [power(design, readers, 40) for readers in (3, 5, 8, 12)]
    assert widths == sorted(widths, reverse=True) and powers == sorted(powers)
    assert interval_width(design, 8, 80) < interval_width(design, 8, 40)
    assert power(StudyDesign(auc=0.5 + 1e-9), 6, 40) == pytest.approx(0.05, abs=1e-4)  # the size of the test
    one = power(design, 1, 50)
    error = math.sqrt(case_variance(0.65, 50, 50))
    assert one == pytest.approx(norm.sf(1.959964 - 0.15 / error) + norm.cdf(-1.959964 - 0.15 / error), abs=1e-6)


def test_the_fewest_cases_suffice_and_one_fewer_do_not() -> None:
    design = StudyDesign(auc=0.7)
    num = fewest_cases(design, 6, width=0.2)
    assert num is not None
    assert interval_width(design, 6, num) <= 0.2 < interval_width(design, 6, num - 1)
    both = fewest_cases(design, 6, width=0.2, wanted_power=0.999)
    assert both is not None and both > num and power(design, 6, both) >= 0.999 > power(design, 6, both - 1)
    assert fewest_cases(StudyDesign(auc=0.7, reader_sd=0.2), 3, width=0.1) is None
    assert MOST_CASES == 1000


def test_simulated_studies_vary_as_the_model_says() -> None:
    """Binormal readers with known spread and correlation: the standard deviation of the mean AUC over 400 studies."""
    rng = np.random.default_rng(3)
    num_readers, num_cases, shift, spread, shared = 5, 40, 0.9, 0.25, 0.5
    positive = np.repeat([False, True], num_cases)
    means = []
    for _ in range(400):
        case = np.sqrt(shared) * rng.normal(size=2 * num_cases)
        noise = np.sqrt(1 - shared) * rng.normal(size=(num_readers, 2 * num_cases))
        skill = shift + spread * rng.normal(size=(num_readers, 1))
        means.append(weighted_auc(case + noise + skill * positive, positive, ~positive, np.ones((1, 2 * num_cases))).mean())
    slope = norm.pdf(shift / math.sqrt(2)) / math.sqrt(2)  # of the AUC in the shift
    design = StudyDesign(auc=float(norm.cdf(shift / math.sqrt(2))), reader_sd=slope * spread, correlation=shared)
    variance, _ = mean_auc_variance(design, num_readers, num_cases)
    assert np.std(means) == pytest.approx(math.sqrt(variance), rel=0.12)
