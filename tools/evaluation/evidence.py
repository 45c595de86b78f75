"""What rows say of synthetic beside real images: by every kind of features that may decide, at one level for all questions.

Rows in, comparisons out. No sentence is written here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from scipy.stats import norm

from tools.evaluation.encoders.feature_kinds import FeatureKind, kind_of
from tools.evaluation.metric_keys import SSIM, Family, MetricKey
from tools.evaluation.rows import OVERALL, Row

FALSE_ALARMS = 0.025  # share of innocent sets that all comparisons together may accuse; the direct checks have as much
_INTERVAL_ERRORS = 2 * 1.96  # standard errors that a 95% interval is wide
_NO_SEPARATION = 0.5  # AUC of equal sets; cross-validation puts real images under it by chance
# The intervals of neighbour scores resample the images that are counted and hold those fixed that they are counted against,
# which vary as much: twice the variance.
_BOTH_SIDES = math.sqrt(2.0)
_NAMES = {"inception": "Inception", "squeezenet1_1": "SqueezeNet", "dinov2": "DINOv2"}


@dataclass(frozen=True)
class Comparison:
    """A number of synthetic images and the same of real images, both with intervals.

    Attributes:
        least_real: what the number of real images counts as at least.
        widening: how many times wider intervals would be that resample both sets.
    """

    name: str
    made: Row
    real: Row
    more_is_worse: bool
    least_real: float = -math.inf
    widening: float = 1.0

    @property
    def excess(self) -> float:
        """By how many standard errors the synthetic images are worse; below 0 they are better.

        The number of real images is measured on the same held-out images, and what both share is not subtracted: too few
        are accused rather than too many.
        """
        gap = _value(self.made) - max(_value(self.real), self.least_real)
        error = self.widening * math.hypot(_error(self.made), _error(self.real))
        worse = gap if self.more_is_worse else -gap
        return worse / error if error else math.copysign(math.inf, worse) if worse else 0.0

    @property
    def share(self) -> float:
        """The number of synthetic images over that of real images."""
        return _value(self.made) / _value(self.real) if _value(self.real) else 1.0


@dataclass(frozen=True)
class EncoderRows:
    """What the features of one encoder say; a comparison is None where a side has no value or no interval."""

    kernel: MetricKey
    distance: Comparison | None
    separation: Comparison | None
    precision: Comparison | None
    coverage: Comparison | None
    recall: Comparison | None

    @property
    def kind(self) -> FeatureKind:
        return kind_of(self.encoder)

    @property
    def encoder(self) -> str:
        assert self.kernel.encoder is not None  # a kernel distance is by features
        return self.kernel.encoder

    @property
    def title(self) -> str:
        """The features in plain words: `Inception features`, `untrained_x features`."""
        return name_features(self.encoder)

    def score(self, family: Family) -> MetricKey:
        """A neighbour score or the two-sample test of these features."""
        return MetricKey(family, self.kernel.about)

    @property
    def comparisons(self) -> list[Comparison]:
        return [one for one in (self.distance, self.separation, self.precision, self.coverage, self.recall)
                if one is not None]


class Evidence:
    """Rows by metric, comparison and class; only those that have a value are found."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.all = rows
        self._found = {(row.key, row.comparison, row.class_name): row for row in rows if row.value is not None}

    def find(self, metric: MetricKey | None, comparison: str) -> Row | None:
        """The overall row of this metric and comparison."""
        return None if metric is None else self._found.get((metric, comparison, OVERALL))

    @cached_property
    def encoders(self) -> list[EncoderRows]:
        """Every encoder that has a kernel distance, in the order of the rows."""
        keys = [row.key for row in self.all if row.key.family is Family.KERNEL and row.comparison == "total"
                and row.class_name == OVERALL and row.value is not None]
        return [self._read(key) for key in dict.fromkeys(keys)]

    @property
    def deciding(self) -> list[EncoderRows]:
        """The encoders that may decide: features made from the training images see too little."""
        return [one for one in self.encoders if one.kind is not FeatureKind.IN_DOMAIN]

    @property
    def pairs(self) -> MetricKey | None:
        """The similarity that tells diversity: LPIPS where there is one, else SSIM."""
        keys = [row.key for row in self.all if row.comparison == "diversity" and row.class_name == OVERALL
                and row.value is not None]
        return next((key for key in keys if key != SSIM), keys[0] if keys else None)

    @cached_property
    def unlike(self) -> Comparison | None:
        """How like a synthetic and a real image are, beside two real ones."""
        return self._compare(self.pairs, "cross", "real_pairs", more_is_worse=self.pairs != SSIM)

    @cached_property
    def alike(self) -> Comparison | None:
        """How like two synthetic images are, beside two real ones."""
        return self._compare(self.pairs, "diversity", "real_pairs", more_is_worse=self.pairs == SSIM)

    @cached_property
    def limit(self) -> float:
        """Standard errors from which on a comparison accuses: Bonferroni over all that are made here, one-sided."""
        pairs = [one for one in (self.unlike, self.alike) if one is not None]
        count = sum(len(one.comparisons) for one in self.deciding) + len(pairs)
        return float(norm.isf(FALSE_ALARMS / max(1, count)))

    def is_worse(self, comparison: Comparison | None) -> bool:
        return comparison is not None and comparison.excess > self.limit

    def _read(self, kernel: MetricKey) -> EncoderRows:
        bare = EncoderRows(kernel, None, None, None, None, None)
        return EncoderRows(
            kernel, distance=self._compare(kernel, more_is_worse=True),
            separation=self._compare(bare.score(Family.TWO_SAMPLE), more_is_worse=True, least_real=_NO_SEPARATION),
            precision=self._compare(bare.score(Family.PRECISION), widening=_BOTH_SIDES),
            coverage=self._compare(bare.score(Family.COVERAGE), widening=_BOTH_SIDES),
            recall=self._compare(bare.score(Family.RECALL), widening=_BOTH_SIDES))

    def _compare(
        self, metric: MetricKey | None, of_made: str = "total", of_real: str = "real_real", *, more_is_worse: bool = False,
        least_real: float = -math.inf, widening: float = 1.0,
    ) -> Comparison | None:
        made, real = self.find(metric, of_made), self.find(metric, of_real)
        if metric is None or made is None or real is None or made.interval is None or real.interval is None:
            return None
        return Comparison(metric.short, made, real, more_is_worse, least_real, widening)


def name_features(encoder: str) -> str:
    """The features of an encoder in plain words."""
    return f"{_NAMES.get(encoder, encoder)} features"


def _value(row: Row) -> float:
    assert row.value is not None  # Evidence finds no other
    return row.value


def _error(row: Row) -> float:
    assert row.interval is not None  # a comparison has both
    return (row.interval[1] - row.interval[0]) / _INTERVAL_ERRORS
