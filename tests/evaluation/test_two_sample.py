"""The two-sample test: 0.5 for one distribution, 1 for two, and no patient on both sides of a fold."""

import numpy as np
import pytest

from config.errors import UserError
from tools.evaluation.two_sample import two_sample_test


def names(count: int, prefix: str, per_group: int = 1) -> list[str]:
    return [f"{prefix}{i // per_group}" for i in range(count)]


def area(x: np.ndarray, y: np.ndarray, *, per_group: int = 1, seed: int = 0) -> float:
    return two_sample_test(x, y, names(len(x), "x", per_group), names(len(y), "y", per_group), repeats=0, seed=seed).area


def test_one_distribution_is_not_told_apart() -> None:
    rng = np.random.default_rng(0)
    areas = [area(rng.normal(size=(80, 30)), rng.normal(size=(80, 30)), seed=seed) for seed in range(12)]
    assert 0.44 < np.mean(areas) < 0.54


def test_the_area_of_two_shifted_gaussians_approaches_its_closed_form() -> None:
    """Two Gaussians whose means lie a apart are told apart with an area of Phi(a / sqrt 2) at best: 0.921 for a = 2."""
    rng = np.random.default_rng(1)
    shift = np.zeros(5)
    shift[0] = 2.0
    found = two_sample_test(rng.normal(size=(600, 5)), rng.normal(size=(600, 5)) + shift, names(600, "x"), names(600, "y"),
                            repeats=200, seed=0)
    assert found.interval is not None and found.interval[0] < 0.921 < found.interval[1]
    assert found.area == pytest.approx(0.921, abs=0.02)


def test_it_grows_with_the_shift() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(100, 10)), rng.normal(size=(100, 10))
    areas = [area(x, y + shift) for shift in (0.0, 0.3, 1.0)]
    assert areas == sorted(areas) and areas[-1] > 0.95


def test_whole_groups_are_held_out() -> None:
    """Each of a few patients has a look of their own. Learning it tells the sides apart only if it is met again."""
    rng = np.random.default_rng(3)
    looks_x, looks_y = rng.normal(size=(10, 40)), rng.normal(size=(10, 40))
    x, y = (np.repeat(looks, 20, axis=0) + 0.1 * rng.normal(size=(200, 40)) for looks in (looks_x, looks_y))
    assert area(x, y) > 0.95
    assert area(x, y, per_group=20) < 0.8


def test_few_patients_widen_the_interval() -> None:
    """Eight patients of ten like frames: what the area varies by from one set of patients to the next is what they are."""
    areas, widths = [], []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        frames = np.repeat(rng.normal(size=(8, 12)), 10, axis=0) + 0.3 * rng.normal(size=(80, 12))
        single = rng.normal(size=(80, 12))
        single[:, 0] += 0.8
        found = two_sample_test(single, frames, names(80, "s"), names(80, "p", 10), repeats=200, seed=seed)
        assert found.interval is not None
        areas.append(found.area)
        widths.append(found.interval[1] - found.interval[0])
    assert np.mean(widths) > 0.55 * 3.92 * np.std(areas)  # 0.63; of the mean of areas 0.35


def test_an_image_and_its_round_trip_lie_in_one_fold() -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(60, 20))
    same = two_sample_test(x, x.copy(), names(60, "p"), names(60, "p"), repeats=0, seed=0)
    assert same.area == 0.5  # each test fold holds every image on both sides with equal scores


def test_it_is_seeded_and_refuses_single_groups() -> None:
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(30, 6)), rng.normal(size=(30, 6))
    arguments = (x, y, names(30, "x"), names(30, "y"))
    assert two_sample_test(*arguments, repeats=20, seed=1) == two_sample_test(*arguments, repeats=20, seed=1)
    with pytest.raises(UserError, match="at least 2 groups"):
        two_sample_test(x, y, ["one"] * 30, names(30, "y"), repeats=0, seed=0)
    with pytest.raises(UserError, match="NaN"):
        two_sample_test(np.full((30, 6), np.nan), y, names(30, "x"), names(30, "y"), repeats=0, seed=0)
