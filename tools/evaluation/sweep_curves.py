"""A finished sweep as its file holds it, and its curves as one picture. How points are drawn and chosen is the sweep's."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from config.errors import UserError
from dataset.storage import read_json
from tools.evaluation.selection import ABOVE_REAL, describe_choice

CURVES = (ABOVE_REAL["model_gap"], "KD model gap", "KD total", "precision", "recall", "coverage", "class AUC",
          "near-copies")
_MOST_COLUMNS = 4
_PANEL_INCHES, _DPI = (3.6, 2.9), 120


@dataclass(frozen=True)
class SweptPoint:
    """One way of drawing and what was measured of it on validation images.

    `curves` holds numbers by the names in CURVES, `refusal` why the rule passes the point over, if it does. `decided_by` is
    the encoder whose features are the least favourable, and `interval` that of KD above real.
    """

    name: str
    checkpoint: str
    checkpoint_sha256: str
    sampler: str
    num_steps: int
    guidance_scale: float
    network_evaluations: float
    refusal: str | None
    interval: tuple[float, float] | None
    curves: Mapping[str, float]
    decided_by: str | None = None


@dataclass(frozen=True)
class SweepRecord:
    """All points of a sweep, the rule, the name of the point that it chose, and the encoders whose features were compared
    (none in a file of an older version, which chose by the first encoder alone)."""

    rule: str
    chosen: str
    points: tuple[SweptPoint, ...]
    features: tuple[str, ...] = ()

    @property
    def decided_by(self) -> str | None:
        """The encoder that decided about the chosen point."""
        return next((point.decided_by for point in self.points if point.name == self.chosen), None)

    def describe_choice(self) -> str:
        """Which features decided, as a clause; empty where the file does not say."""
        return "" if self.decided_by is None else describe_choice(self.decided_by, self.features)

    def to_dict(self) -> dict[str, Any]:
        """The record under the keys of sweep.json."""
        points = [asdict(point) for point in self.points]
        for point in points:
            point.update(point.pop("curves"))
        return {"rule": self.rule, "chosen": self.chosen,
                "selection": {"decided_by": self.decided_by, "features": list(self.features)}, "points": points}


def read_sweep(path: Path) -> SweepRecord:
    """Read a sweep.json.

    Raises:
        UserError: no such file, or one of another kind.
    """
    stored = read_json(path)
    try:
        return SweepRecord(rule=str(stored["rule"]), chosen=str(stored["chosen"]),
                           points=tuple(_read_point(point) for point in stored["points"]),
                           features=tuple(map(str, stored.get("selection", {}).get("features", ()))))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: expected the sweep.json of a sweep, found another file or one of an older version "
                        f"({error!r}); give that file, or run the sweep again, which writes it anew") from error


def draw_sweep(record: SweepRecord) -> bytes:
    """PNG: one panel a number against guidance (or steps, or checkpoint, where only these vary), one line a remaining
    setting; a square marks the chosen point."""
    axis_name, position_of = _axis(record.points)
    names = [name for name in CURVES if any(name in point.curves for point in record.points)]
    columns = max(1, min(_MOST_COLUMNS, len(names)))
    rows = max(1, -(-len(names) // columns))
    figure = Figure(figsize=(_PANEL_INCHES[0] * columns, _PANEL_INCHES[1] * rows), dpi=_DPI, layout="constrained",
                    facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False)
    for panel in panels.flat[len(names):]:
        panel.set_visible(False)
    for panel, name in zip(panels.flat, names, strict=False):
        for label, members in _lines(record.points, axis_name).items():
            shown = sorted((position_of(point), point.curves[name]) for point in members if name in point.curves)
            panel.plot([x for x, _ in shown], [y for _, y in shown], marker="o", markersize=4, label=label)
        for point in record.points:
            if point.name == record.chosen and name in point.curves:
                panel.plot(position_of(point), point.curves[name], "s", markersize=10, fillstyle="none", color="black")
        panel.set_title(name, fontsize=10)
        panel.set_xlabel(axis_name)
    handles, labels = panels.flat[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(3, len(labels)), fontsize=10)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _read_point(stored: Mapping[str, Any]) -> SweptPoint:
    interval = stored["interval"]
    return SweptPoint(
        name=str(stored["name"]), checkpoint=str(stored["checkpoint"]), checkpoint_sha256=str(stored["checkpoint_sha256"]),
        sampler=str(stored["sampler"]), num_steps=int(stored["num_steps"]), guidance_scale=float(stored["guidance_scale"]),
        network_evaluations=float(stored["network_evaluations"]),
        refusal=None if stored["refusal"] is None else str(stored["refusal"]),
        interval=None if interval is None else (float(interval[0]), float(interval[1])),
        curves={name: float(stored[name]) for name in CURVES if name in stored},
        decided_by=None if stored.get("decided_by") is None else str(stored["decided_by"]),
    )


def _axis(points: Sequence[SweptPoint]) -> tuple[str, Callable[[SweptPoint], float]]:
    checkpoints = list(dict.fromkeys(point.checkpoint for point in points))
    if len({point.guidance_scale for point in points}) > 1:
        return "guidance scale", lambda point: point.guidance_scale
    if len({point.num_steps for point in points}) > 1:
        return "sampler steps", lambda point: point.num_steps
    return "checkpoint, in the order given", lambda point: checkpoints.index(point.checkpoint)


def _lines(points: Sequence[SweptPoint], axis_name: str) -> dict[str, list[SweptPoint]]:
    lines: dict[str, list[SweptPoint]] = {}
    for point in points:
        parts = {"sampler steps": f"{point.num_steps} steps", "guidance scale": f"guidance {point.guidance_scale:g}",
                 "checkpoint, in the order given": point.checkpoint}
        label = ", ".join([point.sampler, *(text for name, text in parts.items() if name != axis_name)])
        lines.setdefault(label.replace("$", r"\$"), []).append(point)
    return lines
