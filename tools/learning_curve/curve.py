"""What evaluations say against the number of labelled images: numbers, a table, a figure and a sentence."""

import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tools.evaluation.metric_keys import Family
from tools.evaluation.rows import find_headline
from tools.evaluation.selection import ABOVE_REAL
from tools.evaluation.sweeping import read_curves

GAP = ABOVE_REAL["model_gap"]
METRICS = (GAP, "coverage, model gap", "class AUC", "near-copies")
_PANEL_INCHES, _DPI = (3.6, 3.0), 120


@dataclass(frozen=True)
class SubsetResult:
    """One arm at one number of labelled training images: for each metric a value a seed, without those not computed."""

    arm: str
    num_images: int
    values: Mapping[str, Sequence[float]]

    def mean(self, metric: str) -> float | None:
        found = self.values.get(metric, ())
        return statistics.fmean(found) if found else None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def read_point(arm: str, num_images: int, evaluations: Sequence[Mapping[str, Any]]) -> SubsetResult:
    """The metrics of a point from its evaluation.json files, one a seed."""
    values: dict[str, list[float]] = {metric: [] for metric in METRICS}
    for evaluation in evaluations:
        curves, coverage = read_curves(evaluation).curves, find_headline(evaluation["rows"], Family.COVERAGE, "model_gap")
        found = {GAP: curves.get(GAP), "coverage, model gap": None if coverage is None else coverage["value"],
                 "class AUC": curves.get("class AUC"), "near-copies": curves.get("near-copies")}
        for metric, value in found.items():
            if value is not None:
                values[metric].append(float(value))
    return SubsetResult(arm, num_images, values)


def format_table(points: Sequence[SubsetResult]) -> str:
    """Mean and range over the seeds, a line for each arm and number of images, in Markdown."""
    lines = [f"| arm | labelled images | {' | '.join(METRICS)} |", "|" + "---|" * (len(METRICS) + 2)]
    for point in points:
        cells = []
        for metric in METRICS:
            found = point.values[metric]
            spread = f" ({min(found):.3g} to {max(found):.3g})" if len(found) > 1 else ""
            cells.append(f"{statistics.fmean(found):.3g}{spread}" if found else "not computed")
        lines.append(f"| {point.arm} | {point.num_images} | {' | '.join(cells)} |")
    return "\n".join(lines)


def describe(points: Sequence[SubsetResult], *, reference: str) -> list[str]:
    """One sentence an arm: which number of images of the reference arm its smallest one is worth, by the model gap."""
    base = [(point.num_images, gap) for point in points if point.arm == reference and (gap := point.mean(GAP)) is not None]
    sentences = []
    for arm in dict.fromkeys(point.arm for point in points):
        own = [(point.num_images, gap) for point in points if point.arm == arm and (gap := point.mean(GAP)) is not None]
        if arm == reference or not own or not base:
            continue
        images, gap = own[0]
        equal = next((number for number, value in base if value <= gap), None)
        worth = f"as good as {reference} with {equal}" if equal is not None else (
            f"better than {reference} with {base[-1][0]}, the most that were tried")
        sentences.append(f"{arm} with {images} labelled images: {GAP} {gap:.3g}, {worth} (means over the seeds).")
    if len(base) > 1:
        (fewest, first), (most, last) = base[0], base[-1]
        sentences.append(f"{reference}: {GAP} {first:.3g} with {fewest} images, {last:.3g} with {most}.")
    return sentences


def plot_curves(points: Sequence[SubsetResult]) -> bytes:
    """A PNG with a panel for each metric: the mean over the seeds, and every seed as a dot."""
    figure = Figure(figsize=(_PANEL_INCHES[0] * len(METRICS), _PANEL_INCHES[1]), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(METRICS))
    for axis, metric in zip(axes, METRICS, strict=True):
        for number, arm in enumerate(dict.fromkeys(point.arm for point in points)):
            own = [point for point in points if point.arm == arm and point.values[metric]]
            colour = f"C{number}"
            axis.plot([point.num_images for point in own], [point.mean(metric) for point in own], color=colour, marker="o",
                      label=arm)
            for point in own:
                axis.plot([point.num_images] * len(point.values[metric]), point.values[metric], linestyle="", marker=".",
                          color=colour, alpha=0.5)
        axis.set_title(metric, fontsize=9)
        axis.set_xlabel("labelled training images", fontsize=8)
        axis.tick_params(labelsize=8)
    axes[0].legend(fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()
