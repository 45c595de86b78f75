"""The kernel distance (squared maximum mean discrepancy, cubic kernel) between two sets of features, its bootstrap
interval and its permutation test. May be called KID only where the encoder's weights are the official ones."""

from collections.abc import Sequence

import numpy as np

from tools.evaluation.checks import as_feature_pair, as_groups
from tools.evaluation.resampling import cap_by_group

_BLOCK_ROWS = 512  # rows of the kernel matrix held at once
_MAX_IMAGES = 5000  # a side, for statistics that are quadratic in the number of images
MAX_PERMUTED_IMAGES = _MAX_IMAGES // 2  # a side: a permutation test holds both sides at once


def kernel_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Unbiased squared MMD between features `x` (N, D) and `y` (M, D), k(a, b) = (a.b / D + 1)^3, in float64.

    The U-statistic runs over all pairs of distinct images within a side and all pairs across. It is unbiased, so
    values slightly below zero are valid.

    Raises:
        UserError: NaN or infinite features, fewer than two images, or different numbers of columns.

    Source: Binkowski et al. 2018, arXiv 1801.01401, section 4; Gretton et al. 2012, equation 3.
    """
    x, y = as_feature_pair(x, y)
    n, m = len(x), len(y)
    within_x = (_kernel_sum(x, x) - _kernel_diagonal(x).sum()) / (n * (n - 1))
    within_y = (_kernel_sum(y, y) - _kernel_diagonal(y).sum()) / (m * (m - 1))
    return float(within_x + within_y - 2.0 * _kernel_sum(x, y) / (n * m))


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

    Groups are drawn with replacement on either side. A group drawn twice stands for two groups of images, so pairs
    between its copies, an image with itself among them, are left out of the U-statistic: counting them inflates
    the distance. Sides of more than `limit` images are cut to whole groups first.

    Raises:
        UserError: as `kernel_distance`, or fewer than two groups on a side.
    """
    x, y = as_feature_pair(x, y)
    x, numbers_x, count_x = _capped(x, groups_x, limit, seed)
    y, numbers_y, count_y = _capped(y, groups_y, limit, seed)
    rng = np.random.default_rng(seed)
    weights_x = rng.multinomial(count_x, np.full(count_x, 1.0 / count_x), size=repeats).astype(np.float64)
    weights_y = rng.multinomial(count_y, np.full(count_y, 1.0 / count_y), size=repeats).astype(np.float64)
    cross = _group_sums(x, y, numbers_x, numbers_y, (count_x, count_y))
    sizes_x, sizes_y = np.bincount(numbers_x, minlength=count_x), np.bincount(numbers_y, minlength=count_y)
    pairs = (weights_x @ sizes_x) * (weights_y @ sizes_y)
    with np.errstate(invalid="ignore"):  # a draw that holds one image only, over and over, has no pair within
        values = (
            _bootstrap_within(x, numbers_x, weights_x)
            + _bootstrap_within(y, numbers_y, weights_y)
            - 2.0 * np.einsum("rg,gh,rh->r", weights_x, cross, weights_y, optimize=True) / pairs
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

    Whole groups change sides; the number of groups a side is kept. A name that occurs on both sides counts as two
    groups. The p value is (1 + number of permutations at least as distant) / (1 + permutations).

    Raises:
        UserError: as `kernel_interval`.

    Source: Gretton et al. 2012, section 5; Phipson and Smyth 2010 for the added one.
    """
    x, y = as_feature_pair(x, y)
    x, numbers_x, count_x = _capped(x, groups_x, limit, seed)
    y, numbers_y, count_y = _capped(y, groups_y, limit, seed)
    pooled = np.concatenate([x, y])
    numbers = np.concatenate([numbers_x, numbers_y + count_x])
    count = count_x + count_y
    sums = _group_sums(pooled, pooled, numbers, numbers, (count, count))
    sums[np.diag_indices(count)] -= np.bincount(numbers, weights=_kernel_diagonal(pooled), minlength=count)
    sizes = np.bincount(numbers, minlength=count).astype(np.float64)

    rng = np.random.default_rng(seed)
    sides = np.zeros((permutations + 1, count))
    sides[0, :count_x] = 1.0
    for row in range(1, permutations + 1):
        sides[row, rng.permutation(count)[:count_x]] = 1.0
    others = 1.0 - sides
    n, m = sides @ sizes, others @ sizes
    image = sides @ sums
    with np.errstate(invalid="ignore", divide="ignore"):
        values = (
            (image * sides).sum(axis=1) / (n * (n - 1))
            + ((others @ sums) * others).sum(axis=1) / (m * (m - 1))
            - 2.0 * (image * others).sum(axis=1) / (n * m)
        )
    tolerance = 1e-12 * np.abs(values[0])
    return float((1 + np.sum(values[1:] >= values[0] - tolerance)) / (1 + permutations))


def _capped(values: np.ndarray, groups: Sequence[str], limit: int, seed: int) -> tuple[np.ndarray, np.ndarray, int]:
    """At most `limit` rows of whole groups, the number of each row's group, and how many groups there are."""
    as_groups(groups, len(values))
    keep = cap_by_group(groups, limit=limit, seed=seed)
    numbers, count = as_groups(np.asarray(groups)[keep], len(keep))
    return values[keep], numbers, count


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1.0) ** 3


def _kernel_diagonal(x: np.ndarray) -> np.ndarray:
    return (np.einsum("nd,nd->n", x, x) / x.shape[1] + 1.0) ** 3


def _kernel_sum(x: np.ndarray, y: np.ndarray) -> float:
    return float(sum(_kernel(x[start : start + _BLOCK_ROWS], y).sum() for start in range(0, len(x), _BLOCK_ROWS)))


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
    """Mean kernel over distinct images for each row of group weights (R, G), copies of a group kept apart."""
    count = weights.shape[1]
    sums = _group_sums(x, x, numbers, numbers, (count, count))
    own = np.diag(sums) - np.bincount(numbers, weights=_kernel_diagonal(x), minlength=count)
    np.fill_diagonal(sums, 0.0)
    sizes = np.bincount(numbers, minlength=count).astype(np.float64)
    total = weights @ sizes
    pairs_between = total**2 - weights**2 @ sizes**2
    value = np.einsum("rg,rg->r", weights @ sums, weights) + weights @ own
    return value / (pairs_between + weights @ (sizes * (sizes - 1.0)))
