"""Comparing measurements: closed forms, oracles, resampling by group, and the rows."""

import numpy as np
import pytest
from scipy import stats

from tools.evaluation.morphometry import MEASURES, Abstention, Measurement
from tools.evaluation.morphometry_comparison import (
    MeasuredSet,
    Sample,
    bland_altman,
    bootstrap_g,
    effect_size,
    hedges_g,
    morphometry_rows,
)
from tools.evaluation.rows import COMPARISONS, OVERALL, Row


def sample(values: np.ndarray, groups: list[str] | None = None) -> Sample:
    return Sample(np.asarray(values, float), np.array(groups or [f"g{i}" for i in range(len(values))]))


def measured_set(name: str, labels: list[int], shift: float, *, seed: int, groups: list[str] | None = None) -> MeasuredSet:
    """Values of class 1 lie `shift` deviations above those of class 0 in every measure; the last image is not measured."""
    rng = np.random.default_rng(seed)
    results: list[Measurement | Abstention] = []
    for label in labels:
        values = 100 + rng.standard_normal(len(MEASURES)) + shift * label
        results.append(Measurement(**dict(zip(MEASURES, map(float, values), strict=True)), ellipses={}, outlines={},
                                   inliers={}))
    results[-1] = Abstention("low_contrast", "for the test")
    ids = [f"{name}{i}" for i in range(len(labels))]
    return MeasuredSet(name, results, np.array(labels), ids, groups or ids)


def test_hedges_g_by_hand() -> None:
    first, second = np.array([3.0, 5.0, 7.0]), np.array([1.0, 2.0, 3.0, 2.0])
    pooled = np.sqrt((2 * first.var(ddof=1) + 3 * second.var(ddof=1)) / 5)
    assert hedges_g(first, second) == pytest.approx((5 - 2) / pooled * (1 - 3 / (4 * 7 - 9)))
    assert hedges_g(second, first) == pytest.approx(-hedges_g(first, second))
    assert hedges_g(10 * first + 4, 10 * second + 4) == pytest.approx(hedges_g(first, second))
    t, _ = stats.ttest_ind(first, second)
    assert hedges_g(first, second) == pytest.approx(t * np.sqrt(1 / 3 + 1 / 4) * (1 - 3 / 19))
    assert np.isnan(hedges_g(np.ones(3), np.ones(4)))


def test_the_bootstrap_draws_groups_and_draws_shared_groups_for_both_sides() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.standard_normal(40) + 1, rng.standard_normal(40)
    value, interval = effect_size(sample(first), sample(second), repeats=2000, seed=0)
    assert interval is not None and interval[0] < value < interval[1]
    # The large-sample deviation of g (Hedges and Olkin 1985).
    deviation = np.sqrt(2 / 40 + value**2 / 160)
    assert (interval[1] - interval[0]) / 3.92 == pytest.approx(deviation, rel=0.2)
    # Copies of an image within its group add nothing: the interval stays as wide.
    copied = [sample(np.repeat(values, 4), [f"{side}{i // 4}" for i in range(160)])
              for side, values in (("a", first), ("b", second))]
    spread = bootstrap_g(*copied, repeats=2000, seed=0).std()
    assert spread == pytest.approx(deviation, rel=0.2)
    # A pair that shares its noise moves together: the difference is known far better than from independent images.
    base = 5 * rng.standard_normal(40)
    names = [f"noise{i}" for i in range(40)]
    paired = bootstrap_g(sample(base + 1 + 0.1 * first, names), sample(base, names), repeats=500, seed=0)
    apart = bootstrap_g(sample(base + 1 + 0.1 * first), sample(base, names), repeats=500, seed=0)
    assert paired.std() < 0.3 * apart.std()
    assert effect_size(sample(first, ["one"] * 40), sample(second), repeats=10, seed=0)[1] is None


def test_bland_altman_in_closed_form() -> None:
    found = bland_altman(np.array([11.0, 12.0, 16.0]), np.array([10.0, 10.0, 13.0]))
    assert (found.n, found.bias) == (3, 2.0)
    assert found.limits == pytest.approx((2 - 1.96, 2 + 1.96))
    assert bland_altman(np.array([3.0]), np.array([1.0])).limits is None


def find(rows: list[Row], metric: str, comparison: str, class_name: str = OVERALL) -> Row:
    wanted = (f"morphometry: {metric}", comparison, class_name)
    (row,) = [row for row in rows if (row.metric, row.comparison, row.class_name) == wanted]
    return row


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    labels = [0, 1] * 40
    return morphometry_rows(
        synthetic=measured_set("s", labels, 2.0, seed=1), real=measured_set("r", labels, 2.0, seed=2),
        train=measured_set("t", labels, 2.0, seed=3),
        flips=measured_set("f", labels, 0.0, seed=4, groups=[f"n{i // 2}" for i in range(80)]),
        class_names=("no", "yes"), um_per_px=0.5, repeats=200,
    )


def test_rows_say_what_was_measured_and_are_unique(rows: list[Row]) -> None:
    keys = [(row.metric, row.class_name, row.comparison) for row in rows]
    assert len(set(keys)) == len(keys)
    assert all(row.comparison in COMPARISONS for row in rows)
    assert find(rows, "share measured", "synthetic").value == pytest.approx(79 / 80)
    assert find(rows, "share measured", "synthetic").note == "1 low_contrast"
    assert find(rows, "share measured", "held_out", "yes").value == pytest.approx(39 / 40)
    assert find(rows, "mean zona_thickness, um", "held_out", "no").value == pytest.approx(50, abs=0.3)
    assert find(rows, "mean circularity", "held_out", "yes").value == pytest.approx(102, abs=0.6)
    for comparison, counts in (("real_classes", (158, 0)), ("synthetic_classes", (0, 79)), ("class_flips", (0, 79))):
        row = find(rows, "g[circularity]", comparison)
        assert (row.n_real, row.n_synthetic) == counts
    assert find(rows, "g[circularity]", "total", "yes").n_real == 39
    assert find(rows, "g[circularity]", "total", "no").n_synthetic == 40


def test_equal_sets_show_no_difference_and_unequal_classes_do(rows: list[Row]) -> None:
    for measure in MEASURES:
        total = find(rows, f"g[{measure}]", "total", "no")
        assert total.value is not None and abs(total.value) < 0.75
        for comparison in ("real_classes", "synthetic_classes"):
            row = find(rows, f"g[{measure}]", comparison)
            assert row.interval is not None and row.interval[0] > 1.2
    assert find(rows, "KS[circularity]", "total", "yes").value < 0.4  # type: ignore[operator]


def test_flips_that_ignore_the_label_differ_from_real_classes(rows: list[Row]) -> None:
    for measure in MEASURES:
        ignored = find(rows, f"g[{measure}] minus real", "class_flips")
        kept = find(rows, f"g[{measure}] minus real", "synthetic_classes")
        assert ignored.interval is not None and ignored.interval[1] < -1
        assert kept.interval is not None and kept.interval[0] < 0.3 and kept.interval[1] > -0.3


def test_too_few_measured_images_are_said_and_not_hidden() -> None:
    few = measured_set("s", [0, 1, 0, 1], 0.0, seed=0)
    rows = morphometry_rows(synthetic=few, real=few, class_names=("no", "yes"), repeats=10)
    row = find(rows, "g[circularity]", "total", "yes")
    assert row.value is None and row.note.startswith("not computed: 1 and 1 measured images")
    assert find(rows, "mean circularity", "synthetic", "yes").note == "not computed: 1 measured images"
