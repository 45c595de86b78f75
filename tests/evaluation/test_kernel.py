"""The kernel distance against its definition and torch-fidelity; its interval and test against their promises."""

from itertools import combinations, combinations_with_replacement

import numpy as np
import pytest
import torch
from torch_fidelity.metric_kid import kid_features_to_metric

from config.errors import UserError
from tools.evaluation.kernel import kernel_distance, kernel_interval, kernel_permutation_test


def _draw(rng, n, d=16, shift=0.0):
    return rng.normal(size=(n, d)) + shift


def _names(n, per_group=1):
    return [f"g{i // per_group}" for i in range(n)]


def _by_loops(x, y, k=None):
    k = k or (lambda a, b: (a @ b / x.shape[1] + 1) ** 3)
    n, m = len(x), len(y)
    within_x = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within_y = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return within_x + within_y - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


def test_equals_the_definition():
    rng = np.random.default_rng(0)
    x, y = _draw(rng, 13), _draw(rng, 9, shift=0.3)
    assert kernel_distance(x, y) == pytest.approx(_by_loops(x, y), rel=1e-12)


def test_equals_torch_fidelity_on_one_full_subset():
    rng = np.random.default_rng(1)
    x, y = _draw(rng, 700), _draw(rng, 700, shift=0.2)  # more rows than a block
    result = kid_features_to_metric(
        torch.from_numpy(x), torch.from_numpy(y), kid_subsets=1, kid_subset_size=700, verbose=False
    )
    assert kernel_distance(x, y) == pytest.approx(result["kernel_inception_distance_mean"], rel=1e-6)


def test_is_unbiased_and_may_be_negative():
    rng = np.random.default_rng(2)
    values = [kernel_distance(_draw(rng, 20), _draw(rng, 20)) for _ in range(300)]
    assert min(values) < 0 < max(values)
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(300)


def test_pairs_within_a_group_are_left_out():
    """By loops, with groups of uneven size and one that has images on both sides, as an image and its round trip have."""
    rng = np.random.default_rng(11)
    x, y = _draw(rng, 7), _draw(rng, 6, shift=0.3)
    groups_x, groups_y = list("aaabbcd"), list("ceefff")

    def mean(one, other, names, others):
        values = [(a @ b / 16 + 1) ** 3 for a, name in zip(one, names, strict=True)
                  for b, also in zip(other, others, strict=True) if name != also]
        return np.mean(values)

    expected = mean(x, x, groups_x, groups_x) + mean(y, y, groups_y, groups_y) - 2 * mean(x, y, groups_x, groups_y)
    assert kernel_distance(x, y, groups_x, groups_y) == pytest.approx(expected, rel=1e-12)


def test_patients_of_many_like_images_are_no_distance():
    """Ten frames a patient against images of as many patients as there are images, all of one law."""
    rng = np.random.default_rng(12)
    values, plain, inside = [], [], []
    for seed in range(40):
        frames = np.repeat(_draw(rng, 30), 10, axis=0) + 0.1 * _draw(rng, 300)
        single = _draw(rng, 100) + 0.1 * _draw(rng, 100)
        groups = _names(300, 10), [f"s{i}" for i in range(100)]
        values.append(kernel_distance(frames, single, *groups))
        plain.append(kernel_distance(frames, single))
        low, high = kernel_interval(frames, single, *groups, repeats=200, seed=seed)
        inside.append(low < 0 < high)
    error = np.std(values) / np.sqrt(40)
    assert abs(np.mean(values)) < 3 * error
    assert np.mean(plain) > 10 * error  # what counting the pairs within a patient adds
    assert np.mean(inside) > 0.8


def test_an_image_and_its_round_trip_are_no_pair():
    """A codec that changes nothing costs nothing, in the mean over sets."""
    rng = np.random.default_rng(13)
    exact = []
    for _ in range(60):
        x = _draw(rng, 40)
        exact.append(kernel_distance(x, x, _names(40), _names(40)))
        assert kernel_distance(x, x) < -0.01  # each image is its own neighbour across, which is not allowed within
    assert np.allclose(exact, 0.0, atol=1e-12)


def test_grows_with_distance():
    rng = np.random.default_rng(3)
    x, y = _draw(rng, 200), _draw(rng, 200)
    distances = [kernel_distance(x, y + shift) for shift in (0.0, 0.3, 0.9)]
    assert distances == sorted(distances)


def test_interval_is_centred_where_a_naive_bootstrap_is_inflated():
    """Counting an image against its own copy adds k(x, x) to the within-set mean; masked, the mean stays put."""
    rng = np.random.default_rng(4)
    x, y = _draw(rng, 60, d=256), _draw(rng, 60, d=256)
    value = kernel_distance(x, y)
    low, high = kernel_interval(x, y, _names(60), _names(60), seed=0)
    naive = [kernel_distance(x[rng.integers(0, 60, 60)], y[rng.integers(0, 60, 60)]) for _ in range(200)]
    assert low < value < high
    assert abs((low + high) / 2 - value) < 0.3 * (high - low)
    assert np.percentile(naive, 2.5) > high


def test_interval_equals_the_masked_statistic_by_loops():
    """With three groups a side, a draw has few outcomes: all of them by hand bound the interval."""
    rng = np.random.default_rng(5)
    x, y = _draw(rng, 9), _draw(rng, 9, shift=0.5)
    groups = ["a", "a", "a", "b", "b", "b", "e", "e", "e"]

    def masked(values, picks):
        items = [(copy, row) for copy, group in enumerate(picks) for row in range(9) if groups[row] == group]
        total = count = 0
        for copy_i, i in items:
            for copy_j, j in items:
                same_copy = copy_i == copy_j
                if not same_copy and groups[i] != groups[j]:
                    total += (values[i] @ values[j] / 16 + 1) ** 3
                    count += 1
        return total / count if count else np.nan, items

    outcomes = []
    draws = list(combinations_with_replacement("abe", 3))
    for picks_x in draws:
        for picks_y in draws:
            within_x, items_x = masked(x, picks_x)
            within_y, items_y = masked(y, picks_y)
            cross = np.mean([(x[i] @ y[j] / 16 + 1) ** 3 for _, i in items_x for _, j in items_y])
            outcomes.append(within_x + within_y - 2 * cross)
    low, high = kernel_interval(x, y, groups, [f"other {name}" for name in groups], repeats=2000, level=0.9999, seed=0)
    assert low == pytest.approx(np.nanmin(outcomes), rel=1e-6)
    assert high == pytest.approx(np.nanmax(outcomes), rel=1e-6)


def test_interval_is_wider_where_groups_hold_near_copies():
    rng = np.random.default_rng(6)
    x, y = (np.repeat(_draw(rng, 30), 5, axis=0) + 0.01 * _draw(rng, 150) for _ in range(2))
    by_image = kernel_interval(x, y, _names(150), _names(150), seed=0)
    by_group = kernel_interval(x, y, _names(150, 5), _names(150, 5), seed=0)
    assert by_group[1] - by_group[0] > 1.5 * (by_image[1] - by_image[0])


def test_interval_is_seeded_and_capped():
    rng = np.random.default_rng(7)
    x, y, names = _draw(rng, 90), _draw(rng, 90), _names(90)
    assert kernel_interval(x, y, names, names, seed=3) == kernel_interval(x, y, names, names, seed=3)
    assert kernel_interval(x, y, names, names, seed=3) != kernel_interval(x, y, names, names, seed=4)
    wide = kernel_interval(x, y, names, names, limit=20, seed=3)
    narrow = kernel_interval(x, y, names, names, seed=3)
    assert wide[1] - wide[0] > narrow[1] - narrow[0]


def test_permutation_p_value_is_uniform_under_equality_and_small_under_a_shift():
    rng = np.random.default_rng(8)
    names = _names(40, 2)
    equal = [
        kernel_permutation_test(_draw(rng, 40), _draw(rng, 40), names, names, permutations=99, seed=i)
        for i in range(60)
    ]
    assert 0.35 < np.mean(equal) < 0.65
    assert np.mean(np.array(equal) <= 0.05) < 0.15
    shifted = kernel_permutation_test(_draw(rng, 40), _draw(rng, 40, shift=0.7), names, names, seed=0)
    assert shifted == pytest.approx(1 / 1001)


def test_permutation_compares_patients_of_many_images_with_single_ones():
    """Uniform under equality, and it sees a shift: sides weigh by groups, else three patients' frames decide."""
    rng = np.random.default_rng(14)

    def p_value(shift, seed):
        frames = np.repeat(_draw(rng, 30), 10, axis=0) + 0.3 * _draw(rng, 300)
        single = _draw(rng, 150) + 0.3 * _draw(rng, 150)
        single[:, 0] += shift
        return kernel_permutation_test(single, frames, _names(150), _names(300, 10), permutations=99, seed=seed)

    equal = [p_value(0.0, seed) for seed in range(60)]
    assert 0.35 < np.mean(equal) < 0.65 and np.mean(np.array(equal) <= 0.05) < 0.15
    assert np.mean(np.array([p_value(1.3, seed) for seed in range(20)]) <= 0.05) > 0.8


def test_permutation_moves_whole_groups():
    """Two focal stacks a side differ by chance: images as units would call that a difference."""
    rng = np.random.default_rng(9)
    x, y = (np.repeat(_draw(rng, 3), 20, axis=0) + 0.05 * _draw(rng, 60) for _ in range(2))
    by_group = kernel_permutation_test(x, y, _names(60, 20), _names(60, 20), seed=0)
    by_image = kernel_permutation_test(x, y, _names(60), _names(60), seed=0)
    assert by_image < 0.01 < by_group


def test_refuses():
    x = np.ones((4, 3))
    with pytest.raises(UserError, match="at least 2 images"):
        kernel_distance(x[:1], x)
    with pytest.raises(UserError, match="at least 2 groups"):
        kernel_interval(x, x, ["a"] * 4, _names(4), seed=0)
    with pytest.raises(UserError, match="one group for each of 4 images"):
        kernel_interval(x, x, ["a", "b"], _names(4), seed=0)


def test_permutation_p_value_equals_the_full_enumeration():
    """Unequal sides and uneven norms, so that an image's kernel with itself would show if it were counted."""
    rng = np.random.default_rng(10)
    x, y = _draw(rng, 4, d=3), _draw(rng, 8, d=3) * np.linspace(0.3, 3.0, 8)[:, None]
    pooled = np.concatenate([x, y])
    value = kernel_distance(x, y)
    splits = [np.isin(np.arange(12), chosen) for chosen in combinations(range(12), 4)]
    exact = np.mean([kernel_distance(pooled[split], pooled[~split]) >= value - 1e-9 for split in splits])
    sampled = kernel_permutation_test(x, y, _names(4), _names(8), permutations=4000, seed=0)
    assert sampled == pytest.approx(exact, abs=0.03)
