"""Agreement: against scikit-learn, and against the worked examples of the papers."""

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from tools.reader_study.agreement import MISSING, cohen_kappa, fleiss_kappa, kappa_of_counts, krippendorff_alpha


@pytest.mark.parametrize("weighting", ["none", "linear", "quadratic"])
@pytest.mark.parametrize("seed", range(4))
def test_cohen_kappa_is_scikit_learns(weighting: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    first = rng.integers(0, 6, 40)
    second = np.clip(first + rng.integers(-2, 3, 40), 0, 5)
    oracle = cohen_kappa_score(first, second, weights=None if weighting == "none" else weighting, labels=range(6))
    assert cohen_kappa(first, second, num_categories=6, weighting=weighting) == pytest.approx(oracle, abs=1e-12)


def test_kappa_by_hand_and_of_many_tables_at_once() -> None:
    table = np.array([[20, 5], [10, 15]])  # 0.7 observed, 0.5 by chance
    assert kappa_of_counts(table) == pytest.approx(0.4)
    both = kappa_of_counts(np.stack([table, np.diag([3, 3])]) * 0.1)
    assert both == pytest.approx([0.4, 1.0])
    assert np.isnan(kappa_of_counts(np.array([[7, 0], [0, 0]])))
    with pytest.raises(ValueError, match="expected one of none, linear, quadratic"):
        kappa_of_counts(table, weighting="cubic")


def test_fleiss_kappa_of_two_readers_by_hand() -> None:
    ratings = np.array([[0, 0, 1, 1], [0, 1, 1, 1]])  # agreement 3/4; shares 3/8 and 5/8, by chance 34/64
    assert fleiss_kappa(ratings, num_categories=2) == pytest.approx((0.75 - 34 / 64) / (1 - 34 / 64))
    assert np.isnan(fleiss_kappa(np.zeros((3, 5), int), num_categories=2))
    assert fleiss_kappa(np.array([[0, 1, 2]] * 3), num_categories=3) == 1


def test_fleiss_kappa_of_fourteen_readers() -> None:
    """Ten items, five categories: the agreement of a known worked example, 0.378 observed, 0.213 by chance."""
    counts = [(0, 0, 0, 0, 14), (0, 2, 6, 4, 2), (0, 0, 3, 5, 6), (0, 3, 9, 2, 0), (2, 2, 8, 1, 1), (7, 7, 0, 0, 0),
              (3, 2, 6, 3, 0), (2, 5, 3, 2, 2), (6, 5, 2, 1, 0), (0, 2, 2, 3, 7)]
    ratings = np.array([np.repeat(range(5), row) for row in counts]).T
    assert fleiss_kappa(ratings, num_categories=5) == pytest.approx(0.210, abs=5e-4)


@pytest.mark.parametrize(("level", "alpha"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_krippendorff_alpha_of_the_papers_example(level: str, alpha: float) -> None:
    """Four observers, twelve units, missing values: Krippendorff 2011, section C."""
    text = ["1 2 3 3 2 1 4 1 2 * * *", "1 2 3 3 2 2 4 1 2 5 * 3", "* 3 3 3 2 3 4 2 2 5 1 *", "1 2 3 3 2 4 4 1 2 5 1 *"]
    ratings = np.array([[MISSING if cell == "*" else int(cell) - 1 for cell in line.split()] for line in text])
    assert krippendorff_alpha(ratings, num_categories=5, level=level) == pytest.approx(alpha, abs=5e-4)


def test_alpha_is_one_for_equals_falls_with_distance_and_is_undefined_for_one_category() -> None:
    base = np.tile([0, 1, 2, 3, 4, 5], 5)
    assert krippendorff_alpha(np.stack([base, base]), num_categories=6, level="ordinal") == 1
    near, far = np.minimum(base + 1, 5), 5 - base
    alphas = [krippendorff_alpha(np.stack([base, other]), num_categories=6, level="ordinal") for other in (near, far)]
    assert 1 > alphas[0] > 0 > alphas[1]
    assert np.isnan(krippendorff_alpha(np.zeros((2, 4), int), num_categories=6, level="ordinal"))
    with pytest.raises(ValueError, match="expected one of nominal, ordinal, interval"):
        krippendorff_alpha(np.stack([base, base]), num_categories=6, level="ratio")
