"""The table of a study: what the evaluations of each family's seeds say on the test set, mean and range, in Markdown."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from tools.evaluation.encoders.feature_kinds import FeatureKind, kind_of
from tools.evaluation.evidence import name_features
from tools.evaluation.memorisation import NEAR_COPIES_BY_PIXELS
from tools.evaluation.metric_keys import CLASS_AUC, Family, MetricKey
from tools.evaluation.rows import find_headline, list_encoders
from tools.evaluation.selection import describe_choice
from tools.runtime.stages import DIVERGED

_COMPARED = {
    "total": "total (synthetic, real)",
    "ceiling": "ceiling (VAE round trip, real)",
    "model_gap": "model gap (synthetic, VAE round trip)",
    "floor": "floor (training, held out, both round trips)",
    "real_real": "real (training, held out)",
}
_OF_ENCODER = (Family.FRECHET, Family.KERNEL, Family.PRECISION, Family.RECALL, Family.COVERAGE, Family.TWO_SAMPLE)
_OF_VAE = ("ceiling", "model_gap", "floor", "round_trip")
# What a line of the table reads: the metric or its family, the comparison, and for an end of its interval which.
_LINES: dict[str, tuple[Family | MetricKey, str] | tuple[Family | MetricKey, str, int]] = {
    **{f"{family.value} {label}": (family, comparison)
       for family in _OF_ENCODER
       for comparison, label in _COMPARED.items()},
    "class AUC on synthetic": (CLASS_AUC, "synthetic"),
    "class AUC on VAE round trips": (CLASS_AUC, "round_trip"),
    "class AUC on held-out real": (CLASS_AUC, "held_out"),
    "class AUC on held-out real, its 95% interval from": (CLASS_AUC, "held_out", 0),
    "class AUC on held-out real, its 95% interval to": (CLASS_AUC, "held_out", 1),
    "near-copies by pixels": (NEAR_COPIES_BY_PIXELS, "copies"),
    "near-copies by pixels, held-out control": (NEAR_COPIES_BY_PIXELS, "copies_control"),
    "near-copies by the encoder": (Family.NEAR_COPIES, "copies"),
    "near-copies by the encoder, held-out control": (Family.NEAR_COPIES, "copies_control"),
}


def read_metrics(evaluations: Sequence[Mapping[str, Any]], *, passed_vae: bool = True) -> dict[str, list[float]]:
    """Values of each line, one a seed, overall, by the first encoder that was not trained on these images; then by the
    others, in lines that end in their names. Lines that an evaluation lacks are left out, and of images that never passed
    the VAE those that are about it, and trainings that diverged."""
    read: dict[str, list[float]] = {}
    evaluations = [evaluation for evaluation in evaluations if DIVERGED not in evaluation]
    if not evaluations:
        return read
    lines = {line: asked for line, asked in _LINES.items() if passed_vae or asked[1] not in _OF_VAE}
    others = [name for name in list_encoders(evaluations[0]["rows"])[1:] if kind_of(name) is not FeatureKind.IN_DOMAIN]
    for encoder in (None, *others):
        for line, (asked, comparison, *end) in lines.items():
            if encoder is not None and asked not in _OF_ENCODER:
                continue
            rows = [find_headline(evaluation["rows"], asked, comparison, encoder=encoder) for evaluation in evaluations]
            values = [None if row is None else row["value"] if not end else row["interval"] and row["interval"][end[0]]
                      for row in rows]
            if None not in values:
                by = "" if encoder is None else f", by {name_features(encoder)}"
                read[line + by] = [float(value) for value in values]
    return read


def count_diverged(evaluations: Sequence[Mapping[str, Any]]) -> int:
    """Of how many seeds the training diverged."""
    return sum(DIVERGED in evaluation for evaluation in evaluations)


def describe_measurement(evaluations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of the lines that name no features: their encoder with its weights' hash. And how many images the numbers are of;
    nothing where all diverged."""
    for evaluation in evaluations:
        if DIVERGED not in evaluation:
            provenance = evaluation["provenance"]
            first = next(iter(list_encoders(evaluation["rows"])), None)
            return {"encoder": None if first is None else (first, provenance["encoders"][first]),
                    "num_images": provenance["num_images"]}
    return {}


def describe_selection(family: str, row: Mapping[str, Any]) -> str:
    """In plain words, which arm of a family of study.json was chosen and by which features."""
    if row["chosen"] is None:
        return f"{family}: {row['refusal']}"
    selection = row["selection"]
    if selection is None or selection["decided_by"] is None:
        return f"{family}: {row['chosen']}, which stood alone"
    return f"{family}: {row['chosen']}, {describe_choice(selection['decided_by'], selection['features'])}"


def format_table(read: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Markdown: a column a family, a line a number of `read_metrics`, the mean over the seeds, least and most."""
    lines = [f"| | {' | '.join(read)} |", "|---|" + "---|" * len(read)]
    found = dict.fromkeys(line for values in read.values() for line in values)
    for line in [*(line for line in _LINES if line in found), *(line for line in found if line not in _LINES)]:
        lines.append(f"| {line} | {' | '.join(_format(values.get(line)) for values in read.values())} |")
    return "\n".join(lines) + "\n"


def _format(values: Sequence[float] | None) -> str:
    if values is None:
        return "-"
    mean, least, most = statistics.fmean(values), min(values), max(values)
    digits = _digits(mean or most)
    text = f"{mean:.{digits}f}"
    return text if len(values) == 1 else f"{text} ({least:.{digits}f} to {most:.{digits}f})"


def _digits(value: float) -> int:
    """Decimal places that show about three digits."""
    if value == 0:
        return 0
    return 1 if abs(value) >= 1.5 else 3 if abs(value) >= 0.01 else 5
