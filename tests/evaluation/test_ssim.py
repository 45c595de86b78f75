"""SSIM against scikit-image to rounding, and the readings that make it misleading."""

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from config.errors import UserError
from tools.evaluation import ssim as module
from tools.evaluation.pairs import cross_pairs, inner_pairs
from tools.evaluation.ssim import pairwise_ssim, ssim


def _images(count, *shape, seed=0):
    rng = np.random.default_rng(seed)
    smooth = rng.normal(size=(count, *shape)).cumsum(axis=1).cumsum(axis=2)
    return np.clip(128 + smooth * 4 + rng.normal(size=smooth.shape) * 8, 0, 255).round().astype(np.uint8)


def _oracle(x, y):
    return structural_similarity(
        x,
        y,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
        channel_axis=2 if x.ndim == 3 else None,
    )


@pytest.mark.parametrize("shape", [(64, 64), (11, 11), (40, 23), (32, 32, 3)])
def test_equals_scikit_image(shape):
    images = _images(4, *shape)
    for i in range(4):
        for j in range(4):
            assert ssim(images[i], images[j]) == pytest.approx(_oracle(images[i], images[j]), abs=1e-12)


@pytest.mark.parametrize("hold", [True, False])
def test_pairs_equal_single_calls_for_any_stack(monkeypatch, hold):
    a, b = _images(5, 24, 24, 1), _images(7, 24, 24, 1, seed=1)
    pairs = np.argwhere(np.ones((5, 7)))
    monkeypatch.setattr(module, "_STACK_BYTES", 8 * 24 * 24 * 3)
    if not hold:
        monkeypatch.setattr(module, "_MOMENT_BYTES", 0)
    values = pairwise_ssim(a, b, pairs)
    assert values == pytest.approx([_oracle(a[i, ..., 0], b[j, ..., 0]) for i, j in pairs], abs=1e-12)


def test_an_image_with_itself_is_one_and_noise_lowers_it():
    image = _images(1, 48, 48)[0]
    rng = np.random.default_rng(1)
    noisy = [np.clip(image + s * rng.normal(size=image.shape), 0, 255).astype(np.uint8) for s in (4, 16, 64)]
    values = [ssim(image, other) for other in [image, *noisy]]
    assert values[0] == pytest.approx(1.0, abs=1e-12)
    assert values == sorted(values, reverse=True)


def test_the_mean_image_scores_above_real_pairs():
    """Why a higher mean SSIM of unpaired images is not better."""
    real = _images(20, 48, 48)
    mean = np.broadcast_to(real.mean(axis=0).round().astype(np.uint8), real.shape)
    pairs = inner_pairs(np.zeros(20), seed=0)
    assert pairwise_ssim(real, mean, pairs).mean() > pairwise_ssim(real, real, pairs).mean()


def test_data_range_is_explicit():
    x, y = _images(2, 32, 32)
    low_contrast = ssim(x // 8, y // 8)
    assert low_contrast == pytest.approx(_oracle(x // 8, y // 8), abs=1e-12)
    assert low_contrast != pytest.approx(ssim(x // 8, y // 8, data_range=31.0), abs=1e-3)


def test_refuses():
    image = np.zeros((12, 12), np.uint8)
    with pytest.raises(UserError, match="at least 11 x 11 px"):
        ssim(image[:10], image[:10])
    with pytest.raises(UserError, match="images of one shape"):
        ssim(image, image[:11])
    with pytest.raises(UserError, match="expected pairs below"):
        pairwise_ssim(image[None], image[None], np.array([[0, 1]]))


def test_cross_pairs_stay_within_a_class_and_are_capped_by_seed():
    a, b = np.array([0, 0, 1]), np.array([1, 0, 0, 1])
    pairs = cross_pairs(a, b, seed=0)
    assert sorted(map(tuple, pairs.tolist())) == [(0, 1), (0, 2), (1, 1), (1, 2), (2, 0), (2, 3)]
    some = cross_pairs(np.zeros(50), np.zeros(50), limit=100, seed=1)
    assert len(np.unique(some, axis=0)) == 100
    assert np.array_equal(some, cross_pairs(np.zeros(50), np.zeros(50), limit=100, seed=1))
    assert not np.array_equal(some, cross_pairs(np.zeros(50), np.zeros(50), limit=100, seed=2))


def test_inner_pairs_are_of_two_images_and_two_groups():
    labels, groups = np.array([0, 0, 0, 1]), ["a", "a", "b", "b"]
    assert inner_pairs(labels, groups, seed=0).tolist() == [[0, 2], [1, 2]]
    assert inner_pairs(labels, seed=0).tolist() == [[0, 1], [0, 2], [1, 2]]
    with pytest.raises(UserError, match="found none"):
        inner_pairs(labels[:2], groups[:2], seed=0)
    with pytest.raises(UserError, match="a label on both sides"):
        cross_pairs(np.array([0]), np.array([1]), seed=0)
