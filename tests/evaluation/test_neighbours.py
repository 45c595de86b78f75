"""Precision, recall, density and coverage against their definitions by loops; exact neighbours of near copies."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from config.errors import UserError
from tools.evaluation.neighbours import nearest_neighbours, neighbour_scores


def _by_definition(real, synthetic, k):
    """Equations 1 to 4 of Naeem et al. 2020, one image at a time."""

    def radii(values):
        return [sorted(np.linalg.norm(values - value, axis=1))[k] for value in values]  # index 0 is the image itself

    real_radii, synthetic_radii = radii(real), radii(synthetic)
    d = cdist(real, synthetic)
    n, m = d.shape
    precision = np.mean([any(d[i, j] < real_radii[i] for i in range(n)) for j in range(m)])
    recall = np.mean([any(d[i, j] < synthetic_radii[j] for j in range(m)) for i in range(n)])
    density = sum(d[i, j] < real_radii[i] for i in range(n) for j in range(m)) / (k * m)
    coverage = np.mean([any(d[i, j] < real_radii[i] for j in range(m)) for i in range(n)])
    return precision, recall, density, coverage


@pytest.mark.parametrize(("n", "m", "d", "k"), [(60, 45, 4, 5), (40, 70, 20, 3), (30, 30, 2, 1)])
def test_equals_the_definitions(n, m, d, k):
    rng = np.random.default_rng(0)
    real, synthetic = rng.normal(size=(n, d)), 0.8 * rng.normal(size=(m, d)) + 0.4
    scores = neighbour_scores(real, synthetic, k=k)
    expected = _by_definition(real, synthetic, k)
    assert (scores.precision, scores.recall, scores.density, scores.coverage) == pytest.approx(expected, abs=1e-12)


def test_blocks_do_not_change_the_numbers():
    rng = np.random.default_rng(1)
    real, synthetic = rng.normal(size=(700, 3)), rng.normal(size=(650, 3)) + 0.5  # past one block of rows
    scores = neighbour_scores(real, synthetic)
    radii = np.sort(cdist(real, real), axis=1)[:, 5]
    inside = cdist(real, synthetic) < radii[:, None]
    assert scores.precision == pytest.approx(inside.any(axis=0).mean())
    assert scores.density == pytest.approx(inside.sum(axis=0).mean() / 5)
    assert scores.coverage == pytest.approx(inside.any(axis=1).mean())


def test_mode_collapse_costs_recall_and_noise_costs_precision():
    rng = np.random.default_rng(2)
    real, same = rng.normal(size=(300, 6)), rng.normal(size=(300, 6))
    collapsed, noisy = 0.1 * rng.normal(size=(300, 6)), 4.0 * rng.normal(size=(300, 6))
    good = neighbour_scores(real, same)
    assert neighbour_scores(real, collapsed).recall < 0.2 * good.recall
    assert neighbour_scores(real, collapsed).precision >= good.precision
    assert neighbour_scores(real, noisy).precision < 0.5 * good.precision


def test_neighbours_of_near_copies_are_exact():
    """A float32 expansion |a|^2 + |b|^2 - 2ab loses such distances altogether."""
    rng = np.random.default_rng(3)
    references = rng.normal(size=(50, 64)) + 1e3
    queries = references[:10] + 1e-6 * rng.normal(size=(10, 64))
    queries[0] = references[0]
    distances, indices = nearest_neighbours(queries, references, k=3)
    assert np.array_equal(indices[:, 0], np.arange(10))
    assert distances[0, 0] == 0.0
    assert np.allclose(distances[:, 0], np.linalg.norm(queries - references[:10], axis=1), rtol=1e-12)
    assert np.all(np.diff(distances, axis=1) >= 0)
    assert np.allclose(distances, np.sort(cdist(queries, references), axis=1)[:, :3], rtol=1e-9)


def test_skip_self_leaves_the_image_out_but_not_its_copy():
    values = np.array([[0.0], [0.0], [1.0], [5.0]])
    distances, indices = nearest_neighbours(values, values, k=1, skip_self=True)
    assert indices[:, 0].tolist()[:2] == [1, 0]
    assert distances[:, 0].tolist() == [0.0, 0.0, 1.0, 4.0]


def test_refuses():
    x = np.random.default_rng(4).normal(size=(5, 2))
    with pytest.raises(UserError, match="at least 6 images, found 5"):
        neighbour_scores(x, x)
    with pytest.raises(UserError, match="between 1 and 4 neighbours"):
        nearest_neighbours(x, x, k=5, skip_self=True)
