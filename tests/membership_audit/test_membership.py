"""The membership audit on losses with known answers."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from config.errors import UserError
from tools.membership_audit.attack import audit_membership


def names(prefix: str, count: int, per_group: int = 1) -> list[str]:
    return [f"{prefix}{i // per_group}" for i in range(count)]


def test_the_area_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    members, others = rng.integers(0, 20, size=60).astype(float), rng.integers(3, 25, size=45).astype(float)  # with ties
    found = audit_membership(members, names("m", 60), others, names("h", 45))
    expected = roc_auc_score(np.repeat([1, 0], (60, 45)), -np.concatenate([members, others]))
    assert found.auc == pytest.approx(expected)
    assert found.interval[0] < found.auc < found.interval[1]


def test_lower_losses_of_members_are_found_and_equal_ones_are_not() -> None:
    rng = np.random.default_rng(1)
    others = rng.normal(1, 0.1, size=200)
    found = audit_membership(rng.normal(0.6, 0.1, size=100), names("m", 100), others, names("h", 200))
    assert found.found and found.verdict.startswith("membership found") and found.true_positive_rates[1] > 0.9
    misses = [audit_membership(rng.normal(1, 0.1, size=100), names("m", 100), others, names("h", 200), repeats=200).found
              for _ in range(20)]
    assert sum(misses) <= 3
    higher = audit_membership(rng.normal(1.4, 0.1, size=100), names("m", 100), others, names("h", 200))
    assert higher.auc < 0.05 and not higher.found
    assert higher.verdict.startswith("no membership found by the denoising loss at n = 100 and 200: ")


def test_true_positives_are_counted_at_few_false_ones() -> None:
    others = np.arange(100.0)
    members = np.array([-1.0, 0.5, 1.5, 4.5, 5.5, 50.0])  # under 0: 1, under 1: 2 (one in a hundred), under 5: 4
    found = audit_membership(members, names("m", 6), others, names("h", 100))
    assert found.true_positive_rates == (2 / 6, 4 / 6)
    few = audit_membership(members, names("m", 6), others[:30], names("h", 30))  # 1% of 30 is none: under all of them
    assert few.true_positive_rates[0] == 1 / 6


def test_few_groups_prove_nothing() -> None:
    rng = np.random.default_rng(3)
    found = audit_membership(rng.normal(0, 0.1, size=4), names("m", 4), rng.normal(9, 1, size=50), names("h", 50))
    assert found.auc == 1 and found.interval is None and not found.found and found.to_dict()["interval"] is None
    assert found.verdict == "unproven: 4 and 50 groups are too few for an interval, at least 5 a side are needed: AUC 1.000"


def test_a_group_counts_once() -> None:
    rng = np.random.default_rng(2)
    members, others = rng.normal(size=30), rng.normal(0.5, 1, size=20)
    once = audit_membership(members, names("m", 30), others, names("h", 20))
    stacked = audit_membership(np.repeat(members, 7), names("m", 210, 7), np.repeat(others, 7), names("h", 140, 7))
    assert stacked.auc == once.auc
    assert stacked.interval == once.interval
    assert (stacked.num_members, stacked.num_held_out) == (30, 20)
    spread = np.concatenate([members[:, None] - 3, members[:, None] + 3], axis=1).ravel()
    assert audit_membership(spread, names("m", 60, 2), others, names("h", 20)).auc == once.auc


def test_what_cannot_be_audited_is_refused() -> None:
    losses = np.arange(5.0)
    with pytest.raises(UserError, match="at least 2 groups"):
        audit_membership(losses, names("m", 5), losses[:1], names("h", 1))
    with pytest.raises(UserError, match="not trained on, found 5 on both sides: m0, m1"):
        audit_membership(losses, names("m", 5), losses, names("m", 5))
    with pytest.raises(UserError, match=r"members: 1 of 5 denoising losses are NaN or infinite .the first is of image 3."):
        audit_membership(np.where(losses == 3, np.nan, losses), names("m", 5), losses, names("h", 5))
