"""Sets that are compared are alike in number and in class prior."""

import numpy as np
import pytest

from tools.evaluation.image_set import ImageSet, count_labels, draw_matched, halve_groups, matched_counts

LABELS = np.array([0, 1, 0, 0, 1, 0, 2, 0])


def test_counts_keep_the_prior_and_fit_every_set() -> None:
    assert matched_counts(np.array([20, 10]), np.array([40, 40]), np.array([20, 10])).tolist() == [20, 10]
    assert matched_counts(np.array([20, 10]), np.array([40, 5]), np.array([99, 99])).tolist() == [10, 5]
    assert matched_counts(np.array([20, 10]), np.array([0, 5]), np.array([99, 99])).tolist() == [0, 0]
    assert matched_counts(np.array([20, 0]), np.array([7, 0])).tolist() == [7, 0]  # a class that the real set lacks
    assert matched_counts(np.array([295, 5]), np.array([50, 50])).tolist() == [50, 1]  # a rare class is not rounded away
    rng = np.random.default_rng(0)
    for _ in range(50):
        wanted, first, second = rng.integers(1, 60, size=(3, 3))
        counts = matched_counts(wanted, first, second)
        assert (counts <= np.minimum(np.minimum(wanted, first), second)).all()
        share = min(1.0, (first / wanted).min(), (second / wanted).min())
        assert (np.abs(counts - share * wanted) < 1).all()


def test_draws_hold_what_was_asked_for() -> None:
    assert draw_matched(LABELS, np.array([2, 1, 1]), rng=None).tolist() == [0, 1, 2, 6]
    drawn = draw_matched(LABELS, np.array([3, 2, 0]), rng=np.random.default_rng(1))
    assert count_labels(LABELS[drawn], 3).tolist() == [3, 2, 0]
    assert (np.diff(drawn) > 0).all()
    assert np.array_equal(drawn, draw_matched(LABELS, np.array([3, 2, 0]), rng=np.random.default_rng(1)))


def test_no_group_is_in_both_halves() -> None:
    groups = [f"p{i // 3}" for i in range(24)]
    first, second = halve_groups(groups, rng=np.random.default_rng(0))
    assert sorted([*first, *second]) == list(range(24))
    assert len(first) == len(second) == 12
    assert not {groups[i] for i in first} & {groups[i] for i in second}


def test_selecting_keeps_everything_in_step() -> None:
    names = [f"i{i}" for i in range(8)]
    images = ImageSet("real", np.arange(8, dtype=np.uint8).reshape(8, 1, 1, 1), LABELS, names, [n * 2 for n in names],
                      [n * 3 for n in names])
    part = images.select(np.array([6, 1]))
    assert len(part) == 2
    assert part.pixels.ravel().tolist() == [6, 1] and part.labels.tolist() == [2, 1]
    assert (part.ids, part.groups, part.sha256) == (["i6", "i1"], ["i6i6", "i1i1"], ["i6i6i6", "i1i1i1"])
    assert part.with_pixels("other", part.pixels + 1).pixels.ravel().tolist() == [7, 2]
    with pytest.raises(IndexError):
        images.select(np.array([8]))
