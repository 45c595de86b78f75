"""Metrics that rest on nearest neighbours in feature space: precision, recall, density and coverage, and the exact
neighbour search that the memorisation audit needs. All distances are float64; matrices are made block by block."""

from dataclasses import dataclass

import numpy as np

from config.errors import UserError
from tools.evaluation.checks import as_feature_pair

_BLOCK_ROWS = 512


@dataclass(frozen=True)
class NeighbourScores:
    """Precision, recall and coverage lie in [0, 1]; density may pass 1."""

    precision: float
    recall: float
    density: float
    coverage: float


@dataclass(frozen=True)
class NeighbourCounts:
    """What each image contributes: balls_around (M,) counts the real balls a synthetic image lies in; recalled (N,) and
    covered (N,) say of each real image whether it lies in a synthetic ball and whether its own ball holds one."""

    k: int
    balls_around: np.ndarray
    recalled: np.ndarray
    covered: np.ndarray

    @property
    def scores(self) -> NeighbourScores:
        return NeighbourScores(
            precision=float((self.balls_around > 0).mean()),
            recall=int(self.recalled.sum()) / len(self.recalled),
            density=float(self.balls_around.mean() / self.k),
            coverage=int(self.covered.sum()) / len(self.covered),
        )


def neighbour_scores(real: np.ndarray, synthetic: np.ndarray, *, k: int = 5) -> NeighbourScores:
    """The means of `count_neighbours`."""
    return count_neighbours(real, synthetic, k=k).scores


def count_neighbours(real: np.ndarray, synthetic: np.ndarray, *, k: int = 5) -> NeighbourCounts:
    """What precision, recall, density and coverage of `synthetic` (M, D) against `real` (N, D) are the means of.

    A ball around each image has the distance to its k-th neighbour of the same set as radius, its border excluded.
    precision: share of synthetic images in any real ball; recall: share of real images in any synthetic ball;
    density: mean number of real balls around a synthetic image, over k; coverage: share of real balls that hold a
    synthetic image.

    Raises:
        UserError: NaN or infinite features, different numbers of columns, or no more than k images on a side.

    Source: Kynkäänniemi et al. 2019, arXiv 1904.06991, section 2; Naeem et al. 2020, arXiv 2002.09797, equations
    1 to 4.
    """
    if k < 1:
        raise UserError(f"expected k of at least 1 neighbour, found {k}")
    real, synthetic = as_feature_pair(real, synthetic, minimum=k + 1)
    centre = real.mean(axis=0)  # distances do not change, cancellation shrinks
    real, synthetic = real - centre, synthetic - centre
    real_radii = _squared_radii(real, k)
    synthetic_radii = _squared_radii(synthetic, k)

    balls_around = np.zeros(len(synthetic), dtype=np.int64)
    recalled = np.zeros(len(real), dtype=bool)
    covered = np.zeros(len(real), dtype=bool)
    for rows in _row_blocks(len(real)):
        squared = squared_distances(real[rows], synthetic)
        inside = squared < real_radii[rows, None]
        balls_around += inside.sum(axis=0)
        covered[rows] = inside.any(axis=1)
        recalled[rows] = (squared < synthetic_radii[None, :]).any(axis=1)
    return NeighbourCounts(k=k, balls_around=balls_around, recalled=recalled, covered=covered)


def nearest_neighbours(
    queries: np.ndarray, references: np.ndarray, *, k: int, skip_self: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest references of each query: Euclidean distances (N, k) ascending, and their indices (N, k).

    The distances returned are taken from differences, so that a copy is at exactly zero. With `skip_self` the two
    sets are the same and an image is not its own neighbour.

    Raises:
        UserError: NaN or infinite features, different numbers of columns, or fewer than k references.
    """
    queries, references = as_feature_pair(queries, references, minimum=1)
    available = len(references) - int(skip_self)
    if not 1 <= k <= available:
        raise UserError(f"expected between 1 and {available} neighbours (the references there are), found {k}")
    distances = np.empty((len(queries), k))
    indices = np.empty((len(queries), k), dtype=np.int64)
    centre = references.mean(axis=0)
    for rows in _row_blocks(len(queries)):
        squared = squared_distances(queries[rows] - centre, references - centre)
        if skip_self:
            local = np.arange(len(squared))
            squared[local, local + rows.start] = np.inf
        nearest = np.argpartition(squared, k - 1, axis=1)[:, :k]
        exact = np.stack(
            [np.sqrt(((references[nearest[:, j]] - queries[rows]) ** 2).sum(axis=1)) for j in range(k)], axis=1
        )
        order = np.lexsort((nearest, exact), axis=1)
        distances[rows] = np.take_along_axis(exact, order, axis=1)
        indices[rows] = np.take_along_axis(nearest, order, axis=1)
    return distances, indices


def squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances (N, M) of float64 rows `a` (N, D) and `b` (M, D), never below zero."""
    squared = np.einsum("nd,nd->n", a, a)[:, None] + np.einsum("md,md->m", b, b)[None, :] - 2.0 * (a @ b.T)
    return np.maximum(squared, 0.0)


def _squared_radii(values: np.ndarray, k: int) -> np.ndarray:
    radii = np.empty(len(values))
    for rows in _row_blocks(len(values)):
        squared = squared_distances(values[rows], values)
        local = np.arange(len(squared))
        squared[local, local + rows.start] = np.inf
        radii[rows] = np.partition(squared, k - 1, axis=1)[:, k - 1]
    return radii


def _row_blocks(count: int) -> list[slice]:
    return [slice(start, min(start + _BLOCK_ROWS, count)) for start in range(0, count, _BLOCK_ROWS)]
