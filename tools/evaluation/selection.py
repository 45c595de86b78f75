"""What a choice between sets of synthetic images goes by: the least favourable of the features that may decide.

Rows of an evaluation.json in, numbers out. Arms, checkpoints and sampler settings are the caller's.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from config.errors import UserError
from tools.evaluation.encoders.feature_kinds import FeatureKind, kind_of
from tools.evaluation.evidence import name_features
from tools.evaluation.metric_keys import Family
from tools.evaluation.rows import find_headline, list_encoders

# What synthetic images at this comparison are held against: as near as real images are to each other.
_REAL_WITH_REAL = {"model_gap": "floor", "total": "real_real"}
# How the number is called in tables and files, by comparison.
ABOVE_REAL = {"model_gap": "KD above real, model gap", "total": "KD above real, total"}
MEANING = (
    "KD above real: the kernel distance of synthetic images minus that of real images with each other, in widths of the 95% "
    "interval of the latter. It is taken by each kind of published and untrained features, and the largest counts. Features "
    "of networks that were trained on these images have no say in it. Where real images have no such interval (fewer than 5 "
    "patients or embryos), the first of these features decide alone, by the difference itself."
)


@dataclass(frozen=True)
class Excess:
    """KD above real by one kind of features, and the same of the ends of its interval."""

    value: float
    interval: tuple[float, float] | None = None


def measure_excess(rows: Sequence[Mapping[str, Any]], comparison: str) -> dict[str, Excess]:
    """KD above real by encoder, of the rows of an evaluation.json; empty where no features that may decide have a value.

    A ratio to the distance of real images would not do: that is unbiased, so it is about 0 and may be below. Neither would
    each set's own interval, which widens as the images get worse.
    """
    found, first = {}, {}
    for encoder in list_encoders(rows):
        row = find_headline(rows, Family.KERNEL, comparison, encoder=encoder)
        if row is None or kind_of(encoder) is FeatureKind.IN_DOMAIN:
            continue
        reference = find_headline(rows, Family.KERNEL, _REAL_WITH_REAL[comparison], encoder=encoder)
        scale = find_headline(rows, Family.KERNEL, "real_real", encoder=encoder)
        low, high = (0.0, 0.0) if scale is None or scale["interval"] is None else scale["interval"]
        level = 0.0 if reference is None else float(reference["value"])
        if high > low:
            found[encoder] = _scale(row, level, high - low)
        first = first or {encoder: _scale(row, level, 1.0)}
    return found or first


def least_favourable(excess: Mapping[str, Sequence[float]]) -> str:
    """The encoder by which the mean over the seeds is largest, the first of equals."""
    return max(excess, key=lambda encoder: statistics.fmean(excess[encoder]))


def require_same_features(measured: Mapping[str, Sequence[str]]) -> None:
    """See to it that all arms or points, given by name, were measured by the same encoders.

    Raises:
        UserError: they differ, so that one would be spared what another is judged by.
    """
    first, encoders = next(iter(measured.items()), ("", ()))
    for name, found in measured.items():
        if set(found) != set(encoders):
            raise UserError(f"expected the same features for all that is compared, found {', '.join(encoders)} for {first} "
                            f"and {', '.join(found)} for {name}; give all the same evaluation_params.encoders and weights, "
                            "and run the command again")


def describe_choice(decided_by: str, features: Sequence[str]) -> str:
    """Which features decided, in plain words: `by SqueezeNet features, the least favourable of 2 kinds (...)`."""
    others = [name_features(encoder) for encoder in features if encoder != decided_by]
    beside = f", the least favourable of {len(features)} kinds (beside {' and '.join(others)})" if others else ""
    return f"by {name_features(decided_by)}{beside}"


def _scale(row: Mapping[str, Any], level: float, width: float) -> Excess:
    interval = row["interval"]
    return Excess((row["value"] - level) / width,
                  None if interval is None else ((interval[0] - level) / width, (interval[1] - level) / width))
