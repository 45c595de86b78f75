"""The images that a training is stopped on: never of a group that it learned from, never those that it will judge."""

import numpy as np
import pytest

from config.errors import UserError
from tools.train_encoder.stopping_images import hold_out_groups


@pytest.mark.parametrize("seed", range(4))
def test_whole_groups_are_held_out_with_their_share_of_each_label(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(40), rng.integers(1, 8, 40))
    labels = (np.arange(40) % 3)[groups]
    held = hold_out_groups(labels, [f"p{group}" for group in groups], seed=seed)
    kept = np.setdiff1d(np.arange(len(labels)), held)
    assert not set(groups[held]) & set(groups[kept])
    assert set(labels[held]) == set(labels[kept]) == {0, 1, 2}
    assert 1 / 12 < len(held) / len(labels) < 1 / 3


def test_a_label_of_one_group_is_learned_and_not_held_out() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1, 2, 2])
    groups = ["a", "b", "c", "a", "b", "c", "d", "d"]
    held = hold_out_groups(labels, groups, seed=0)
    assert len(held) and set(labels[held]) == {0, 1} and {groups[row] for row in held}.isdisjoint({"d"})
    assert set(np.delete(labels, held)) == {0, 1, 2}


def test_labels_of_one_group_each_are_refused() -> None:
    with pytest.raises(UserError, match="expected a val split with every class, or training images of a class in two"):
        hold_out_groups(np.array([0, 0, 1, 1]), ["a", "a", "b", "b"], seed=0)


def test_the_choice_depends_on_the_seed_alone() -> None:
    labels, groups = np.arange(60) % 2, [str(i // 2) for i in range(60)]
    assert np.array_equal(hold_out_groups(labels, groups, seed=1), hold_out_groups(labels, groups, seed=1))
    assert not np.array_equal(hold_out_groups(labels, groups, seed=1), hold_out_groups(labels, groups, seed=2))
