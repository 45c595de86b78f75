"""Many statistics of two sets of images at once: their values, intervals over groups, and one test for all of them.

Each image has numbers; groups (patients, embryos) are resampled and exchanged, never images. A resampling is a row of
weights, one weight a group; every statistic is a function of sums over weighted groups, so that all are made by products of
matrices, whatever the number of images.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dataset.order import generator

_BLOCK_WEIGHTS = 1 << 22  # weights of groups held at once


@dataclass(frozen=True)
class Mean:
    """The mean over images of one number.

    `counts` and `sums` are of each group, float64 (G,): its images and the sum of their numbers. Differences under
    `resolution` count as none.
    """

    counts: np.ndarray
    sums: np.ndarray
    resolution: float

    def columns(self) -> tuple[np.ndarray, np.ndarray]:
        """What is summed over groups by their weights (P, G), and by their squared weights (Q, G)."""
        return np.stack([self.counts, self.sums]), _products([self.sums, self.counts])

    def estimate(self, linear: np.ndarray, quadratic: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Means (B,) and errors from the sums of `columns`, (P, B) and (Q, B); a group's sum is one observation.

        Source: Cochran 1977, section 6.3, the ratio estimator.
        """
        total, summed = linear
        mean = summed / total
        error = _ratio_error(quadratic, total, [np.ones_like(mean), -mean])
        return mean, np.hypot(error, self.resolution)


@dataclass(frozen=True)
class LogSpread:
    """The logarithm of the standard deviation between images of a number, or of the root of the summed variances of several.

    `sums` and `squares` are (D, G), of D numbers. Only pairs of images of different groups count, as the images of one group
    are alike: the value does not depend on how many images a group has. Variances under `resolution` squared count as none.
    """

    counts: np.ndarray
    sums: np.ndarray
    squares: np.ndarray
    resolution: float

    def columns(self) -> tuple[np.ndarray, np.ndarray]:
        """As `Mean.columns`."""
        squared = self.squares.sum(axis=0)
        within = self.counts * squared - (self.sums**2).sum(axis=0)
        return (np.stack([self.counts, squared, *self.sums]),
                np.stack([within, self.counts**2, *_products([squared, *self.sums, self.counts])]))

    def estimate(self, linear: np.ndarray, quadratic: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `Mean.estimate`."""
        total, squared, *sums = linear
        within, same, *products = quadratic
        means = [each / total for each in sums]
        centre = sum(mean**2 for mean in means)
        pairs = total**2 - same
        variance = np.maximum((total * squared - total**2 * centre - within) / pairs, 0.0) + self.resolution**2
        error = _ratio_error(products, total, [np.ones_like(total), *(-2 * mean for mean in means), centre - variance])
        return 0.5 * np.log(variance), 0.5 * error / variance


@dataclass(frozen=True)
class LogEffective:
    """The logarithm of the effective number of images, N / (1 + (N - 1) m), m the mean squared likeness of two images.

    It is N where no two images are alike (likeness 0), and N / k where each is there k times. `squares` (G, G) sums the
    squared likeness over pairs of images of two groups; pairs within a group are left out. `members` int64 (G,) are the
    places of these groups among all.

    Source: the Vendi score (Friedman and Dieng 2023) of order 2 (Pasarkar and Dieng 2023), the inverse of the summed squared
    eigenvalues of the likeness matrix over N, with the mean over pairs unbiased.
    """

    members: np.ndarray
    counts: np.ndarray
    squares: np.ndarray
    num_images: int

    def estimate(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values and errors (B,) for weights of all groups (B, number of groups).

        The error is the jackknife's, one group left out at a time, and never under that of one repeated pair more or less.
        """
        weights = weights[:, self.members]
        apart = self.squares - np.diag(np.diag(self.squares))
        images = weights * self.counts
        alike, pairs = (weights @ apart) * weights, (images.sum(axis=1, keepdims=True) - images) * images
        total, all_pairs = alike.sum(axis=1), pairs.sum(axis=1)
        mean = total / all_pairs
        left_out = (total[:, None] - 2 * alike) / (all_pairs[:, None] - 2 * pairs)
        groups = (weights > 0).sum(axis=1)
        deviations = np.where(weights > 0, left_out - mean[:, None], 0.0)
        error = np.sqrt((deviations**2).sum(axis=1) * (groups - 1) / groups) + 2 / all_pairs
        expected = 1 + (self.num_images - 1) * mean
        return np.log(self.num_images / expected), (self.num_images - 1) * error / expected


Statistic = Mean | LogSpread | LogEffective


@dataclass(frozen=True)
class GroupComparison:
    """One statistic of both sets, and the 95% interval of the first minus the second."""

    first: float
    second: float
    interval: tuple[float, float] | None

    @property
    def difference(self) -> float:
        return self.first - self.second


def compare(
    statistics: Sequence[Statistic], sides: np.ndarray, *, repeats: int, seed: int
) -> list[GroupComparison]:
    """The differences first minus second of every statistic with their 95% intervals.

    Args:
        sides: bool (G,), which groups make the first set; the others make the second.
        repeats: bootstrap draws of whole groups, each set apart; 0 gives no interval.
    """
    of_sides = _estimate(statistics, np.stack([sides, ~sides]).astype(np.float64))[0]
    if not repeats:
        return [GroupComparison(float(first), float(second), None) for first, second in of_sides.T]
    rng = generator(seed, "direct bootstrap")
    weights = np.zeros((repeats, len(sides)))
    for side in (sides, ~sides):
        weights[:, side] = rng.multinomial(side.sum(), np.full(side.sum(), 1 / side.sum()), size=repeats)
    drawn = np.concatenate([
        _estimate(statistics, weights[rows] * sides)[0] - _estimate(statistics, weights[rows] * ~sides)[0]
        for rows in _blocks(repeats, len(sides))])
    return [GroupComparison(float(first), float(second), _central(column))
            for (first, second), column in zip(of_sides.T, drawn.T, strict=True)]


def adjusted_p_values(
    statistics: Sequence[Statistic], sides: np.ndarray, strata: np.ndarray, *, permutations: int, seed: int
) -> np.ndarray:
    """p values (K,) of all statistics, adjusted so that under the null hypothesis any is 0.05 or less in 5% of cases.

    Null hypothesis: the groups of both sets come from one population. Then the groups of a stratum are exchangeable
    between the sets, and the test is exact. Each difference is divided by its standard error, and its p value compares it
    with the largest of the others, step by step. The division keeps the level, for many groups, also where the sets differ
    in other ways: synthetic images that are groups of one beside patients of many, or a fault in another statistic.

    Args:
        sides: as in `compare`.
        strata: int (G,); groups change sides within their stratum only.

    Source: Westfall and Young 1993, algorithm 4.1 (step-down maxima); Chung and Romano 2013 for studentised differences;
    Phipson and Smyth 2010 for the added one.
    """
    rng = generator(seed, "direct permutations")
    exchanged = np.repeat(sides[None].astype(np.float64), permutations + 1, axis=0)
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        exchanged[1:, members] = rng.permuted(exchanged[1:, members], axis=1)
    scores = np.concatenate([_scores(statistics, exchanged[rows]) for rows in _blocks(permutations + 1, len(sides))])
    sizes = np.abs(scores)
    order = np.argsort(sizes[0], kind="stable")
    largest = np.maximum.accumulate(sizes[:, order], axis=1)
    p_values = (1 + (largest[1:] >= largest[0] * (1 - 1e-12)).sum(axis=0)) / (1 + permutations)
    adjusted = np.empty(len(order))
    adjusted[order] = np.maximum.accumulate(p_values[::-1])[::-1]
    return adjusted


def sum_by_group(values: np.ndarray, numbers: np.ndarray, num_groups: int) -> np.ndarray:
    """Sums (..., G) of numbers of images (..., N) over their groups int64 (N,)."""
    flat = np.atleast_2d(values)
    sums = np.stack([np.bincount(numbers, weights=row, minlength=num_groups) for row in flat])
    return sums.reshape(*np.shape(values)[:-1], num_groups)


def _central(values: np.ndarray) -> tuple[float, float] | None:
    """The central 95% of those that are finite."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return None
    low, high = np.percentile(finite, [2.5, 97.5])
    return float(low), float(high)


def _scores(statistics: Sequence[Statistic], first: np.ndarray) -> np.ndarray:
    """Differences over their standard errors, (B, K); 0 where there is none."""
    (one, error), (other, other_error) = _estimate(statistics, first), _estimate(statistics, 1.0 - first)
    together = np.hypot(error, other_error)
    return np.nan_to_num((one - other) / np.where(together > 0, together, np.nan), nan=0.0)


def _estimate(statistics: Sequence[Statistic], weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values and standard errors (B, K) for weights of the groups (B, G)."""
    columns = {place: statistic.columns() for place, statistic in enumerate(statistics)
               if not isinstance(statistic, LogEffective)}
    nothing = np.empty((0, weights.shape[1]))
    linear = np.concatenate([nothing, *[each for each, _ in columns.values()]]) @ weights.T
    quadratic = np.concatenate([nothing, *[each for _, each in columns.values()]]) @ (weights**2).T
    values, errors = np.empty((2, len(weights), len(statistics)))
    with np.errstate(invalid="ignore", divide="ignore"):
        for place, statistic in enumerate(statistics):
            if isinstance(statistic, LogEffective):
                values[:, place], errors[:, place] = statistic.estimate(weights)
            else:
                num_linear, num_quadratic = (len(each) for each in columns[place])
                values[:, place], errors[:, place] = statistic.estimate(linear[:num_linear], quadratic[:num_quadratic])
                linear, quadratic = linear[num_linear:], quadratic[num_quadratic:]
    return values, errors


def _products(columns: Sequence[np.ndarray]) -> np.ndarray:
    """Products of every two columns, then where the last of them, the number of images, is not zero."""
    return np.stack([*[one * other for i, one in enumerate(columns) for other in columns[: i + 1]], columns[-1] > 0])


def _ratio_error(products: Sequence[np.ndarray], total: np.ndarray, factors: Sequence[np.ndarray]) -> np.ndarray:
    """Standard error (B,) of a ratio over `total` whose residual of a group is the sum of its columns times `factors`.

    `products` are the sums of `_products` of these columns.
    """
    *products, groups = products
    pairs = [(1 if i == j else 2) * factors[i] * factors[j] for i in range(len(factors)) for j in range(i + 1)]
    squared = sum(factor * each for factor, each in zip(pairs, products, strict=True))
    return np.sqrt(np.maximum(squared, 0.0) * groups / (groups - 1)) / total


def _blocks(count: int, width: int) -> list[slice]:
    rows = max(1, _BLOCK_WEIGHTS // width)
    return [slice(start, start + rows) for start in range(0, count, rows)]
