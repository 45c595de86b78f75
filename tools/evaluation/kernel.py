"""The kernel distance (squared maximum mean discrepancy, cubic kernel) between two sets of features, its bootstrap
interval and its permutation test. May be called KID only where the encoder's weights are the official ones."""

from collections.abc import Sequence

import numpy as np

from tools.evaluation.checks import as_feature_pair, as_groups
from tools.evaluation.resampling import cap_by_group

_BLOCK_ROWS = 512  # rows of the kernel matrix held at once
_MAX_IMAGES = 5000  # a side, for statistics that are quadratic in the number of images
MAX_PERMUTED_IMAGES = _MAX_IMAGES // 2  # a side: a permutation test holds both sides at once


def kernel_distance(
    x: np.ndarray, y: np.ndarray, groups_x: Sequence[str] | None = None, groups_y: Sequence[str] | None = None
) -> float:
    """Unbiased squared MMD between features `x` (N, D) and `y` (M, D), k(a, b) = (a.b / D + 1)^3, in float64.

    The U-statistic runs over the pairs of images of different groups, within the sides and across; without groups each
    image is one of its own. Images of one patient are more alike than those of two, as are an image and its round trip:
    counted, such pairs would add to the distance where they lie within a side, and take from it where they lie across.
    It is unbiased, so values slightly below zero are valid.

    Raises:
        UserError: NaN or infinite features, different numbers of columns, or fewer than two images or groups on a side.

    Source: Binkowski et al. 2018, arXiv 1801.01401, section 4; Gretton et al. 2012, equation 3.
    """
    x, y = as_feature_pair(x, y)
    names_x = [f"first {row}" for row in range(len(x))] if groups_x is None else groups_x
    names_y = [f"second {row}" for row in range(len(y))] if groups_y is None else groups_y
    numbers_x, numbers_y = _number_together(names_x, names_y, (len(x), len(y)))
    return (_mean_kernel(x, x, numbers_x, numbers_x) + _mean_kernel(y, y, numbers_y, numbers_y)
            - 2.0 * _mean_kernel(x, y, numbers_x, numbers_y))


def kernel_interval(
    x: np.ndarray,
    y: np.ndarray,
    groups_x: Sequence[str],
    groups_y: Sequence[str],
    *,
    repeats: int = 1000,
    limit: int = _MAX_IMAGES,
    level: float = 0.95,
    seed: int,
) -> tuple[float, float]:
    """Central `level` interval of the kernel distance from a bootstrap over groups.

    Groups are drawn with replacement on either side. Pairs within a group are left out as in `kernel_distance`, and so
    are pairs between two copies of a group that is drawn twice, an image with itself among them: counting them inflates
    the distance. Sides of more than `limit` images are cut to whole groups first.

    Raises:
        UserError: as `kernel_distance`, or fewer than two groups on a side.
    """
    x, y = as_feature_pair(x, y)
    x, numbers_x, names_x = _capped(x, groups_x, limit, seed)
    y, numbers_y, names_y = _capped(y, groups_y, limit, seed)
    count_x, count_y = len(names_x), len(names_y)
    rng = np.random.default_rng(seed)
    weights_x = rng.multinomial(count_x, np.full(count_x, 1.0 / count_x), size=repeats).astype(np.float64)
    weights_y = rng.multinomial(count_y, np.full(count_y, 1.0 / count_y), size=repeats).astype(np.float64)
    apart = names_x[:, None] != names_y[None, :]
    cross = _group_sums(x, y, numbers_x, numbers_y, (count_x, count_y)) * apart
    pairs = np.outer(np.bincount(numbers_x), np.bincount(numbers_y)) * apart
    with np.errstate(invalid="ignore", divide="ignore"):  # a draw of one group, over and over, has no pair
        values = (
            _bootstrap_within(x, numbers_x, weights_x)
            + _bootstrap_within(y, numbers_y, weights_y)
            - 2.0 * _weigh(weights_x, cross, weights_y) / _weigh(weights_x, pairs, weights_y)
        )
    tail = 50.0 * (1.0 - level)
    low, high = np.percentile(values[np.isfinite(values)], [tail, 100.0 - tail])
    return float(low), float(high)


def kernel_permutation_test(
    x: np.ndarray,
    y: np.ndarray,
    groups_x: Sequence[str],
    groups_y: Sequence[str],
    *,
    permutations: int = 1000,
    limit: int = MAX_PERMUTED_IMAGES,
    seed: int,
) -> float:
    """p value of the kernel distance under the hypothesis that both sides are drawn from one distribution.

    Whole groups change sides; the number of groups a side is kept, and each weighs the same however many images it has,
    so that patients of many images can be compared with synthetic images, each a group of its own. A name that occurs on
    both sides counts as two groups. The p value is (1 + number of permutations at least as distant) / (1 + permutations).

    Raises:
        UserError: as `kernel_interval`.

    Source: Gretton et al. 2012, section 5; Phipson and Smyth 2010 for the added one.
    """
    x, y = as_feature_pair(x, y)
    x, numbers_x, names_x = _capped(x, groups_x, limit, seed)
    y, numbers_y, _ = _capped(y, groups_y, limit, seed)
    count_x = len(names_x)
    pooled, numbers = np.concatenate([x, y]), np.concatenate([numbers_x, numbers_y + count_x])
    return permutation_p_value(mean_kernels(pooled, numbers), count_x, permutations=permutations, seed=seed)


def mean_kernels(values: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Mean kernel between the images of each pair of groups, float64 (G, G), of features (N, D) and groups' numbers (N,)."""
    return mean_kernels_across(values, values, numbers, numbers)


def mean_kernels_across(x: np.ndarray, y: np.ndarray, numbers_x: np.ndarray, numbers_y: np.ndarray) -> np.ndarray:
    """The same between groups of `x` and groups of `y`: (G, H)."""
    sizes_x, sizes_y = np.bincount(numbers_x), np.bincount(numbers_y)
    sums = _group_sums(x, y, numbers_x, numbers_y, (len(sizes_x), len(sizes_y)))
    return sums / np.outer(sizes_x, sizes_y).astype(np.float64)


def permutation_p_value(means: np.ndarray, count_x: int, *, permutations: int, seed: int) -> float:
    """The test of `kernel_permutation_test` on mean kernels (G, G) between groups, of which the first `count_x` are one
    side."""
    means, count = means.copy(), len(means)
    np.fill_diagonal(means, 0.0)
    rng = np.random.default_rng(seed)
    sides = np.zeros((permutations + 1, count))
    sides[0, :count_x] = 1.0
    for row in range(1, permutations + 1):
        sides[row, rng.permutation(count)[:count_x]] = 1.0
    n, m = count_x, count - count_x
    towards = sides @ means
    within, touching, total = (towards * sides).sum(axis=1), towards.sum(axis=1), means.sum()
    across = touching - within
    values = within / (n * (n - 1)) + (total - touching - across) / (m * (m - 1)) - 2.0 * across / (n * m)
    tolerance = 1e-12 * np.abs(means).mean()  # equal splits differ by rounding
    return float((1 + np.sum(values[1:] >= values[0] - tolerance)) / (1 + permutations))


def _capped(
    values: np.ndarray, groups: Sequence[str], limit: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """At most `limit` rows of whole groups, the number of each row's group, and the groups' names (G,)."""
    as_groups(groups, len(values))
    keep = cap_by_group(groups, limit=limit, seed=seed)
    names = np.asarray(groups)[keep]
    return values[keep], as_groups(names, len(keep))[0], np.unique(names)


def _number_together(
    groups_x: Sequence[str], groups_y: Sequence[str], counts: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the groups of either side, int64 (N,) and (M,): one name, one number."""
    for groups, count in zip((groups_x, groups_y), counts, strict=True):
        as_groups(groups, count)
    together = as_groups([*groups_x, *groups_y], sum(counts))[0]
    return together[: counts[0]], together[counts[0]:]


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1.0) ** 3


def _mean_kernel(x: np.ndarray, y: np.ndarray, numbers_x: np.ndarray, numbers_y: np.ndarray) -> float:
    """Mean over the pairs whose groups differ."""
    total, count = 0.0, 0
    for start in range(0, len(x), _BLOCK_ROWS):
        rows = slice(start, start + _BLOCK_ROWS)
        apart = numbers_x[rows, None] != numbers_y[None, :]
        total += float((_kernel(x[rows], y) * apart).sum())
        count += int(apart.sum())
    return total / count


def _weigh(weights_x: np.ndarray, pairs: np.ndarray, weights_y: np.ndarray) -> np.ndarray:
    """Sum over pairs of groups (G_x, G_y), each as often as both are drawn: (R,)."""
    return np.einsum("rg,rg->r", weights_x @ pairs, weights_y)


def _group_sums(
    x: np.ndarray, y: np.ndarray, numbers_x: np.ndarray, numbers_y: np.ndarray, counts: tuple[int, int]
) -> np.ndarray:
    """Sum the kernel matrix over pairs of groups: (G_x, G_y)."""
    order = np.argsort(numbers_y, kind="stable")
    starts = np.searchsorted(numbers_y[order], np.arange(counts[1]))
    sums = np.zeros(counts)
    for start in range(0, len(x), _BLOCK_ROWS):
        rows = slice(start, start + _BLOCK_ROWS)
        by_column = np.add.reduceat(_kernel(x[rows], y[order]), starts, axis=1)
        np.add.at(sums, numbers_x[rows], by_column)
    return sums


def _bootstrap_within(x: np.ndarray, numbers: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean kernel over images of different groups for each row of group weights (R, G), copies of a group kept apart."""
    count = weights.shape[1]
    sums = _group_sums(x, x, numbers, numbers, (count, count))
    np.fill_diagonal(sums, 0.0)
    sizes = np.bincount(numbers, minlength=count).astype(np.float64)
    pairs_between = (weights @ sizes) ** 2 - weights**2 @ sizes**2
    return _weigh(weights, sums, weights) / pairs_between
