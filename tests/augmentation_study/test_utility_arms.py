"""The arms of a study: what each classifier is shown, and that they differ in what they are meant to differ in alone."""

import numpy as np
import pytest

from config.errors import UserError
from tools.augmentation_study.arms import UtilityArm, build_arms, describe_arms, list_arms, name_with_synthetic
from tools.augmentation_study.utility import CONTROL, REAL, ROUND_TRIP, SHUFFLED, SYNTHETIC

REAL_LABELS = np.array([0] * 30 + [1] * 10)
SYNTHETIC_LABELS = np.array([0] * 60 + [1] * 20)  # as drawn for a ratio of 2, class by class
RATIOS = (1.0, 2.0)
FIRST_SYNTHETIC, FIRST_ROUND_TRIP = 40, 120


@pytest.fixture
def arms() -> dict[str, UtilityArm]:
    built = build_arms(REAL_LABELS, SYNTHETIC_LABELS, RATIOS, num_classes=2, shuffle=np.random.default_rng(0))
    assert [arm.name for arm in built] == list_arms(RATIOS)
    assert list(describe_arms(RATIOS)) == list_arms(RATIOS)
    return {arm.name: arm for arm in built}


def test_all_arms_but_the_plain_one_are_trained_alike(arms: dict[str, UtilityArm]) -> None:
    assert (arms[REAL].balance, arms[REAL].augment) == (0.0, False)
    assert all((arm.balance, arm.augment) == (1.0, True) for name, arm in arms.items() if name != REAL)
    assert (arms[REAL].members == arms[CONTROL].members).all() and (arms[REAL].labels == REAL_LABELS).all()


def test_real_images_keep_their_labels_in_every_arm_that_has_them(arms: dict[str, UtilityArm]) -> None:
    for name, arm in arms.items():
        own = arm.members < FIRST_SYNTHETIC
        assert own.sum() == (0 if name == SYNTHETIC else 40)
        assert (arm.labels[own] == REAL_LABELS[arm.members[own]]).all()


def test_synthetic_images_come_at_the_real_prior_and_smaller_ratios_are_part_of_larger_ones(
    arms: dict[str, UtilityArm],
) -> None:
    once, twice = (arms[name_with_synthetic(ratio)] for ratio in RATIOS)
    for arm, count in ((once, 40), (twice, 80)):
        added = arm.members[40:] - FIRST_SYNTHETIC
        assert len(added) == count and (SYNTHETIC_LABELS[added] == arm.labels[40:]).all()
        assert arm.labels[40:].mean() == 0.25
    assert set(once.members) < set(twice.members)
    assert (arms[SYNTHETIC].members == once.members[40:]).all()


def test_shuffling_permutes_the_labels_of_the_same_synthetic_images(arms: dict[str, UtilityArm]) -> None:
    true, shuffled = arms[name_with_synthetic(1.0)], arms[SHUFFLED]
    assert (true.members == shuffled.members).all()
    assert sorted(true.labels[40:]) == sorted(shuffled.labels[40:]) and (true.labels[40:] != shuffled.labels[40:]).any()
    again, other = (build_arms(REAL_LABELS, SYNTHETIC_LABELS, RATIOS, num_classes=2, shuffle=np.random.default_rng(seed))[-2]
                    for seed in (0, 1))
    assert again.name == SHUFFLED and (again.labels == shuffled.labels).all() and (other.labels != shuffled.labels).any()


def test_round_trips_are_as_many_as_synthetic_images_and_carry_their_own_labels(arms: dict[str, UtilityArm]) -> None:
    arm = arms[ROUND_TRIP]
    added = arm.members[40:] - FIRST_ROUND_TRIP
    assert len(added) == 40 and (arm.labels[40:] == REAL_LABELS[added]).all()
    twice = build_arms(REAL_LABELS, SYNTHETIC_LABELS, (2.0,), num_classes=2, shuffle=np.random.default_rng(0))[-1]
    assert (np.bincount(twice.members[40:] - FIRST_ROUND_TRIP) == 2).all()


def test_round_trips_come_at_the_real_prior_where_the_ratio_leaves_some_out() -> None:
    for ratio, wanted in ((0.5, [15, 5]), (1.5, [45, 15])):
        arm = build_arms(REAL_LABELS, SYNTHETIC_LABELS, (ratio,), num_classes=2, shuffle=np.random.default_rng(0))[-1]
        assert np.bincount(arm.labels[40:]).tolist() == wanted
        assert (arm.labels[40:] == REAL_LABELS[arm.members[40:] - len(REAL_LABELS) - len(SYNTHETIC_LABELS)]).all()


def test_too_few_synthetic_images_are_refused() -> None:
    with pytest.raises(UserError, match=r"synthetic images x3: class 0 would have 90 of 60 that there are"):
        build_arms(REAL_LABELS, SYNTHETIC_LABELS, (3.0,), num_classes=2, shuffle=np.random.default_rng(0))
    with pytest.raises(UserError, match=r"synthetic images x0.02: class 1 would have 0 of 20"):
        build_arms(REAL_LABELS, SYNTHETIC_LABELS, (0.02,), num_classes=2, shuffle=np.random.default_rng(0))
