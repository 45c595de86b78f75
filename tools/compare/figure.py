"""The one figure of a comparison: a row a system and one of real images, a panel a measure, a colour and mark a feature."""

import io
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from dataset.storage import hash_json
from tools.compare.comparison import REAL, Line, SystemComparison
from tools.evaluation.report.plots import INK
from tools.evaluation.rows import Row

MARK = "Comparison"
_PANELS = {  # the title of the lines that a panel shows: its own title
    "Fréchet distance": "Fréchet distance,\ntimes that of real images",
    "Precision": "Precision", "Recall": "Recall", "Coverage": "Coverage", "Two-sample AUC": "Two-sample AUC",
    "Near-copies": "Near-copies",
}
_COLOURS, _MARKS = ("#1b5e8c", "#b3541e", "#4d7c3a", "#7a4b94", "#8a6d1d", "#1f2933"), "os^Dvp"
_MOST_COLUMNS, _PANEL_WIDTH, _ROW_HEIGHT, _DPI = 3, 3.1, 0.42, 150
_LONGEST_NAME = 26
_MARGIN = 0.03
_SPREAD = 0.5  # of a row's height, over which its features are spread


def draw_comparison(comparison: SystemComparison) -> bytes:
    """PNG bytes; equal comparisons give equal bytes. The file names the hash of the comparison under MARK."""
    panels = {title: lines for prefix, title in _PANELS.items() if (lines := _lines_of(comparison, prefix))}
    names = [*(system.name for system in comparison.systems), REAL]
    features = list(dict.fromkeys(_feature_of(line) for lines in panels.values() for line in lines))
    columns = min(_MOST_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    size = (1.6 + _PANEL_WIDTH * columns, rows * (1.2 + _ROW_HEIGHT * len(names)) + 0.3)
    figure = Figure(figsize=size, dpi=_DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for panel in axes.flat[len(panels):]:
        panel.set_visible(False)
    for panel, (title, lines) in zip(axes.flat, panels.items(), strict=False):
        panel.set_title(title, fontsize=10, color=INK)
        _draw_panel(panel, lines, names, features, relative=title == _PANELS["Fréchet distance"])
    for panel in axes[:, 0]:
        panel.set_yticks(range(len(names)), [_shorten(name) for name in names], fontsize=9)
        panel.set_ylim(len(names) - 0.5, -0.5)
    handles = {label: handle for panel in axes.flat
               for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(3, len(handles)), fontsize=9,
                  frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None, MARK: hash_json(comparison.to_dict())})
    return buffer.getvalue()


def describe_figure(comparison: SystemComparison) -> str:
    """The text for those who do not see the figure."""
    shown = [title.replace("\n", " ") for prefix, title in _PANELS.items() if _lines_of(comparison, prefix)]
    systems = ", ".join(system.name for system in comparison.systems)
    return (f"Dot plots of {'; '.join(shown)}: a row for each of {systems} and one for real images, a mark for each kind of "
            "features, lines for intervals. The table on this page holds the same numbers.")


def _lines_of(comparison: SystemComparison, prefix: str) -> list[Line]:
    """The lines of a panel that have a value; of distances only those that can be shown relative to real images."""
    lines = [line for line in comparison.lines if line.title == prefix or line.title.startswith(f"{prefix}, by ")]
    if prefix == "Fréchet distance":
        return [line for line in lines if line.real is not None and line.real.value]
    return [line for line in lines if any(row is not None and row.value is not None for row in line.cells.values())]


def _feature_of(line: Line) -> str:
    return line.title.partition(", by ")[2] or line.section.partition(",")[0]


def _draw_panel(
    panel: Axes, lines: Sequence[Line], names: Sequence[str], features: Sequence[str], *, relative: bool
) -> None:
    for line in lines:
        feature = _feature_of(line)
        number = features.index(feature)
        colour, mark = _COLOURS[number % len(_COLOURS)], _MARKS[number % len(_MARKS)]
        offset = _SPREAD * ((number + 0.5) / len(features) - 0.5)
        scale = (line.real.value or 1.0) if relative and line.real is not None else 1.0
        label: str | None = _shorten(feature)
        for place, name in enumerate(names):
            row = line.real if name == REAL else line.cells[name]
            if row is not None and row.value is not None:
                low, high = _reach(row)
                panel.plot([low / scale, high / scale], [place + offset] * 2, color=colour, linewidth=1.6)
                panel.plot(row.value / scale, place + offset, mark, color=colour, markersize=5, label=label,
                           markerfacecolor="white" if name == REAL else colour)
                label = None
    if relative:
        panel.set_xscale("log")
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.xaxis.set_minor_formatter(NullFormatter())
    else:
        low, high = panel.get_xlim()
        panel.set_xlim(min(low, -_MARGIN), max(high, 1 + _MARGIN))  # a share or an area, seen whole
    panel.grid(axis="x", color="0.9")
    panel.set_axisbelow(True)
    panel.axhline(len(names) - 1.5, color="0.7", linewidth=0.8)
    panel.spines[["top", "right"]].set_visible(False)
    panel.tick_params(labelsize=8, colors=INK)


def _reach(row: Row) -> tuple[float, float]:
    """The interval, stretched to its value: the range of a Fréchet distance at a smaller n can lie beside it."""
    assert row.value is not None
    low, high = row.interval or (row.value, row.value)
    return min(low, row.value), max(high, row.value)


def _shorten(name: str) -> str:
    short = name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME - 1]}…"
    return short.replace("$", r"\$")
