"""The difference of two numbers of two evaluations, with its interval, from the two rows alone.

The rows' intervals are treated as independent: the half-widths of two distances are added in quadrature. Both evaluations
share the held-out real images, whose luck moves both numbers. Where it moves them the same way, as for two systems that err
in the same direction, the interval is wider than necessary. Where two systems err in opposite directions it can be too
narrow, by a factor of at most 1.41. The intervals of neighbour scores and of the two-sample test leave out a part of the
noise (balls and trained models are held fixed), so that their half-widths are added plainly, 1.41 times as much.
"""

from dataclasses import dataclass
from enum import Enum
from math import hypot
from statistics import NormalDist

from tools.evaluation.metric_keys import Family
from tools.evaluation.rows import Row

LEVEL = 0.95
# Of the groups, in each subsample that gives a Fréchet distance its range; as distances.py draws them.
SUBSAMPLED_SHARE = 0.8


class Better(Enum):
    """Which values are better."""

    LOWER = "lower"
    HIGHER = "higher"


class Outcome(Enum):
    """What a difference may be called. UNCLEAR: its own interval leaves out 0, the one for all comparisons does not."""

    BETTER = "better"
    WORSE = "worse"
    UNCLEAR = "unclear"
    NONE = "no difference shown"


@dataclass(frozen=True)
class Difference:
    """One value minus another. `interval` holds with 95% for this difference alone, `joint_interval` for all together."""

    value: float
    interval: tuple[float, float]
    joint_interval: tuple[float, float]

    def outcome(self, better: Better) -> Outcome:
        """BETTER or WORSE only where the interval for all comparisons together leaves out 0."""
        if not _holds_zero(self.joint_interval):
            return Outcome.BETTER if (self.value < 0) == (better is Better.LOWER) else Outcome.WORSE
        return Outcome.NONE if _holds_zero(self.interval) else Outcome.UNCLEAR


def subtract(one: Row, other: Row, *, num_comparisons: int) -> Difference:
    """`one` minus `other`; both rows have a value and an interval.

    Half-widths towards each side are combined apart, since a bootstrap interval need not be symmetric. The joint interval
    is widened as a normal one is by Bonferroni's correction for `num_comparisons`.

    Source: Zou and Donner 2008, Statistics in Medicine 27, 1693, equations 4 and 5 (square-and-add limits).
    """
    assert one.value is not None and other.value is not None
    value = one.value - other.value
    (down, up), (other_down, other_up) = _half_widths(one), _half_widths(other)
    add = hypot if one.key.family in (Family.FRECHET, Family.KERNEL) else _add
    low, high = add(down, other_up), add(up, other_down)
    wider = _quantile(num_comparisons) / _quantile(1)
    return Difference(value, (value - low, value + high), (value - wider * low, value + wider * high))


def can_subtract(one: Row | None, other: Row | None) -> bool:
    """Whether both rows have a value and an interval."""
    return all(row is not None and row.value is not None and row.interval is not None for row in (one, other))


def _half_widths(row: Row) -> tuple[float, float]:
    """How far the interval reaches below and above the value.

    The range of a Fréchet distance is that of subsamples at a smaller n, around another centre. It is scaled to a 95%
    interval as the delete-d jackknife scales the variance of subsamples of a share f: by f / (1 - f).

    Source: Shao and Wu 1989, Annals of Statistics 17, 1176.
    """
    assert row.value is not None and row.interval is not None
    low, high = row.interval
    if row.key.family is Family.FRECHET:
        half = (high - low) / 2 * (SUBSAMPLED_SHARE / (1 - SUBSAMPLED_SHARE)) ** 0.5
        return half, half
    return max(row.value - low, 0.0), max(high - row.value, 0.0)


def _add(one: float, other: float) -> float:
    return one + other


def _quantile(num_comparisons: int) -> float:
    """Two-sided normal quantile at LEVEL after Bonferroni's correction."""
    return NormalDist().inv_cdf(1 - (1 - LEVEL) / (2 * num_comparisons))


def _holds_zero(interval: tuple[float, float]) -> bool:
    return interval[0] <= 0.0 <= interval[1]
