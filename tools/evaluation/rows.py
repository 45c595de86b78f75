"""The rows of an evaluation, as code and evaluation.json hold them, and the rows that choices go by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tools.evaluation.aspects import Tone
from tools.evaluation.encoders.feature_kinds import FeatureKind, kind_of
from tools.evaluation.metric_keys import Family, MetricKey, parse_metric

OVERALL = "all"

# What is compared with what. `real` is the held-out split; round trips go through the VAE's encoder and decoder.
COMPARISONS = {
    "total": "synthetic against real",
    "model_gap": "synthetic against the VAE round trip of real",
    "ceiling": "VAE round trip of real against real",
    "real_real": "training images against held-out real images",
    "floor": "VAE round trips: training images against held-out real images",
    "halves": "one half of the training groups against the other",
    "between_classes": "real images of the first class against the second",
    "balanced": "synthetic against real, every class equally frequent",
    "blurred": "real blurred by one pixel against real",
    "noised": "real with noise of 1/255 against real",
    "cross": "pairs of a real and a synthetic image of one class",
    "real_pairs": "pairs of real images of one class",
    "diversity": "pairs of synthetic images of one class",
    "reconstruction": "pairs of a real image and its VAE round trip",
    "nearest": "a synthetic image and the most alike training image of its class: a check for copies, not quality",
    "real_nearest": "a held-out real image and the most alike training image of its class",
    "held_out": "on held-out real images",
    "synthetic": "on synthetic images",
    "train": "on real training images",
    "real_classes": "all real images of the last class against the first",
    "synthetic_classes": "synthetic images of the last class against the first",
    "class_flips": "synthetic images of the last class against those of the first that start from the same noise",
    "round_trip": "on VAE round trips of held-out real images",
    "copies": "share of synthetic images that lie nearer to one training image than held-out images do",
    "direct": "synthetic over held-out real images, synthetic minus real, or a fraction of the synthetic images",
    "direct_real": "training over held-out real images, training minus held-out, or a fraction of the held-out images",
    "copies_control": "the same share of held-out real images and round trips that did not set the threshold",
    "authentic": "share of synthetic images farther from the nearest training image than that is from its own neighbour",
    "authentic_real": "the same share of as many held-out real images",
}

# How the notes about copies began in files that had no outcome beside them.
_OLD_OUTCOMES = {"copying found": Tone.FAILS, "too few held-out groups to tell": Tone.UNKNOWN}


def name_classes(class_names: Sequence[str]) -> list[tuple[str, int | None]]:
    """What rows are of: all images (None), then those of each class; of one class, all images alone."""
    return [(OVERALL, None), *([(name, label) for label, name in enumerate(class_names)] if len(class_names) > 1 else [])]


@dataclass(frozen=True)
class Row:
    """One number: `value` None means not computed, `note` then says why and what to do. `outcome` is what a test found."""

    key: MetricKey
    class_name: str
    comparison: str
    value: float | None
    interval: tuple[float, float] | None = None
    n_real: int | None = None
    n_synthetic: int | None = None
    literature_comparable: bool = False
    note: str = ""
    outcome: Tone | None = None

    @property
    def metric(self) -> str:
        """The name of the metric, to show it."""
        return self.key.name

    def to_dict(self) -> dict[str, Any]:
        """The row under the keys of evaluation.json."""
        cells = {"metric": self.metric, "class": self.class_name, "comparison": self.comparison, "value": self.value,
                 "interval": None if self.interval is None else list(self.interval), "n_real": self.n_real,
                 "n_synthetic": self.n_synthetic, "literature_comparable": self.literature_comparable, "note": self.note}
        return cells if self.outcome is None else {**cells, "outcome": self.outcome.value}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "Row":
        """The row that `to_dict` gave; a KeyError, TypeError or ValueError where it did not."""
        value, interval, counts = stored["value"], stored["interval"], (stored["n_real"], stored["n_synthetic"])
        n_real, n_synthetic = (None if count is None else int(count) for count in counts)
        return cls(parse_metric(str(stored["metric"])), str(stored["class"]), str(stored["comparison"]),
                   None if value is None else float(value),
                   interval=None if interval is None else (float(interval[0]), float(interval[1])), n_real=n_real,
                   n_synthetic=n_synthetic, literature_comparable=bool(stored["literature_comparable"]),
                   note=str(stored["note"]), outcome=read_outcome(stored))


def format_value(row: Row) -> str:
    """A value with its interval, three digits."""
    if row.value is None:
        return "not computed"
    return _three(row.value) + (f" ({_three(row.interval[0])} to {_three(row.interval[1])})" if row.interval else "")


def _three(number: float) -> str:
    return f"{number:#.3g}".rstrip(".") if number else "0"


def read_outcome(stored: Mapping[str, Any]) -> Tone | None:
    """The outcome of a row of evaluation.json; older files say that of the test for copies in its note alone."""
    if "outcome" in stored:
        return Tone(stored["outcome"])
    if stored["comparison"] != "copies" or stored["value"] is None:
        return None
    note = str(stored["note"])
    return next((tone for start, tone in _OLD_OUTCOMES.items() if note.startswith(start)), Tone.HOLDS)


def list_encoders(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The encoders that have a kernel distance among the rows of an evaluation.json, in their order, those that were trained
    on the user's own images last."""
    names = [key.encoder for row in rows if row["value"] is not None
             and (key := parse_metric(row["metric"])).family is Family.KERNEL]
    return sorted(dict.fromkeys(name for name in names if name), key=lambda name: kind_of(name) is FeatureKind.IN_DOMAIN)


def find_headline(
    rows: Sequence[Mapping[str, Any]], asked: Family | MetricKey, comparison: str, *, encoder: str | None = None
) -> Mapping[str, Any] | None:
    """The overall row of a metric among the rows of an evaluation.json; of a family by this encoder or the first of
    `list_encoders`.

    None where that encoder has no value for this comparison: another one's is on another scale.
    """
    wanted = encoder or next(iter(list_encoders(rows)), None)

    def is_meant(key: MetricKey) -> bool:
        return key == asked or (key.family is asked and key.encoder == wanted)

    return next((row for row in rows if row["value"] is not None and row["class"] == OVERALL
                 and row["comparison"] == comparison and is_meant(parse_metric(row["metric"]))), None)
