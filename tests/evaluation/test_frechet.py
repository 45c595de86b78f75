"""The Fréchet distance against closed forms, scipy's matrix square root and torch-fidelity."""

import numpy as np
import pytest
import scipy.linalg
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from config.errors import UserError
from tools.evaluation.frechet import frechet_distance


def _sets(n=300, m=260, d=24, seed=0):
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(d, d))
    return rng.normal(size=(n, d)) @ mix, rng.normal(size=(m, d)) @ mix * 1.3 + 0.5


def _sqrtm_distance(x, y):
    cov_x, cov_y = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    shift = x.mean(axis=0) - y.mean(axis=0)
    return shift @ shift + np.trace(cov_x + cov_y - 2 * scipy.linalg.sqrtm(cov_x @ cov_y).real)


def test_equals_the_matrix_square_root():
    x, y = _sets()
    assert frechet_distance(x, y) == pytest.approx(_sqrtm_distance(x, y), rel=1e-9)


@pytest.mark.parametrize(("n", "m"), [(300, 260), (300, 30), (30, 40)])
def test_equals_torch_fidelity(n, m):
    x, y = _sets(n, m)
    statistics = [fid_features_to_statistics(torch.from_numpy(values)) for values in (x, y)]
    expected = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-6)


def test_fewer_images_than_features_equals_the_same_sets_in_their_own_span():
    rng = np.random.default_rng(1)
    small_x, small_y = rng.normal(size=(20, 40)), rng.normal(size=(25, 40)) + 0.3
    basis = np.linalg.qr(rng.normal(size=(500, 40)))[0]
    assert frechet_distance(small_x @ basis.T, small_y @ basis.T) == pytest.approx(frechet_distance(small_x, small_y))


def test_closed_form_of_a_shift_and_a_scale():
    x = _sets()[0]
    assert frechet_distance(x, x + 2.0) == pytest.approx(4.0 * x.shape[1])
    centred = x - x.mean(axis=0)
    variance = np.trace(np.cov(x, rowvar=False))
    assert frechet_distance(centred, 3.0 * centred) == pytest.approx((3.0 - 1.0) ** 2 * variance)


def test_zero_for_equal_sets_symmetric_and_rotation_free():
    x, y = _sets()
    rotation = np.linalg.qr(np.random.default_rng(2).normal(size=(x.shape[1],) * 2))[0]
    assert frechet_distance(x, x[::-1]) == pytest.approx(0.0, abs=1e-9 * (x**2).sum() / len(x))
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(y, x))
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(x @ rotation, y @ rotation))


def test_grows_with_noise():
    x = _sets()[0]
    rng = np.random.default_rng(3)
    noise = rng.normal(size=x.shape)
    distances = [frechet_distance(x, x + level * noise) for level in (0.5, 2.0, 8.0)]
    assert distances == sorted(distances)


def test_float32_features_are_measured_in_float64():
    rng = np.random.default_rng(4)
    x = (rng.normal(size=(80, 8)) + 1e4).astype(np.float32)
    y = (rng.normal(size=(80, 8)) + 1e4).astype(np.float32)
    offset = np.float64(1e4)
    expected = frechet_distance(x.astype(np.float64) - offset, y.astype(np.float64) - offset)
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (np.ones((1, 4)), np.ones((9, 4)), "at least 2 images, found 1"),
        (np.ones((9, 4)), np.ones((9, 5)), "4 and 5 columns"),
        (np.full((9, 4), np.nan), np.ones((9, 4)), "9 of 9 rows hold NaN"),
        (np.ones((9, 4)), np.ones(9), "found shape"),
    ],
)
def test_refuses(x, y, words):
    with pytest.raises(UserError, match=words):
        frechet_distance(x, y)
