"""A study of utility as JSON, a workbook, a picture, a table on the screen and a verdict in sentences. The numbers are
utility.py's."""

import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from openpyxl import Workbook
from openpyxl.worksheet.worksheet import Worksheet

from dataset.storage import atomic_path, write_bytes, write_json
from dataset.tables import append_cells
from tools.augmentation_study.utility import (
    AUROC,
    CONTROL,
    METRICS,
    POWER,
    ROUND_TRIP,
    SHUFFLED,
    SYNTHETIC,
    ArmDifference,
    UtilityReport,
)

SCHEMA = 2
NAME = "augmentation_study"
_SCORE_COLUMNS = ("arm", "metric", "value", "low", "high", "seed_values")
_DIFFERENCE_COLUMNS = ("arm", "against", "metric", "difference", "low", "high", "standard_error", "freedom",
                       "smallest_detectable_gain")
_WIDTHS = (38, 38, 20, 14, 14, 14, 16, 12, 24)


def write(report: UtilityReport, folder: Path) -> None:
    """Write augmentation_study.json, .xlsx and .png into `folder`."""
    write_json(folder / f"{NAME}.json", {
        "provenance": {"schema": SCHEMA, **report.provenance}, "headline": report.headline, "verdict": state_verdict(report),
        "scores": [dict(zip(_SCORE_COLUMNS, (row.arm, row.metric, row.value, *row.interval, list(row.seed_values)),
                            strict=True)) for row in report.scores],
        "differences": [dict(zip(_DIFFERENCE_COLUMNS, _difference_cells(row), strict=True)) for row in report.differences],
        "warnings": report.warnings, "images": list(report.images),
    })
    book = Workbook()
    sheet = book.active
    assert isinstance(sheet, Worksheet)
    sheet.title = "differences"
    _fill(sheet, [_DIFFERENCE_COLUMNS, *[_difference_cells(row) for row in report.differences]])
    _fill(book.create_sheet("scores"), [_SCORE_COLUMNS, *[
        (row.arm, row.metric, row.value, *row.interval, ", ".join(f"{value:.4f}" for value in row.seed_values))
        for row in report.scores]])
    _fill(book.create_sheet("verdict"), [("verdict",), *[(line,) for line in (*state_verdict(report), *report.warnings)]])
    _fill(book.create_sheet("provenance"), [("field", "value"), *[(k, str(v)) for k, v in report.provenance.items()]])
    with atomic_path(folder / f"{NAME}.xlsx") as temporary:
        book.save(temporary)
    write_bytes(folder / f"{NAME}.png", _draw(report))


def format_table(report: UtilityReport) -> str:
    """The numbers for the screen: each arm's scores, its difference to the control, then verdict and notes."""
    width = max(map(len, report.arms)) + 2
    lines = [f"{'arm':<{width}}" + "".join(f"{name:>24}" for name in METRICS) + f"{'AUROC - control':>30}"]
    for arm in report.arms:
        scores = [report.score(arm, name) for name in METRICS]
        cells = [f"{row.value:.3f} ({row.interval[0]:.3f} to {row.interval[1]:.3f})" for row in scores]
        against = "" if arm == CONTROL else _describe(report.difference(arm, CONTROL, AUROC))
        lines.append(f"{arm:<{width}}" + "".join(f"{cell:>24}" for cell in cells) + f"{against:>30}")
    return "\n".join([*lines, "", *state_verdict(report), *[f"note: {warning}" for warning in report.warnings]])


def state_verdict(report: UtilityReport) -> list[str]:
    """What the numbers say, in sentences; negative where they are."""
    main = report.difference(report.headline, CONTROL, AUROC)
    control = report.score(CONTROL, AUROC)
    gain = f"difference {_describe(main)}"
    seen = (f"The smallest true gain that this study, at its measured noise, would show with a power of {POWER:.0%} is "
            f"{main.detectable:.3f}.")
    lines = []
    if control.interval[0] <= 0.5:
        lines.append(f"No class signal found: the control's AUROC is {control.value:.3f} ({control.interval[0]:.3f} to "
                     f"{control.interval[1]:.3f}), so nothing below says that synthetic images carry the class.")
    if main.interval[0] > 0:
        lines.append(f"Adding synthetic images improved AUROC on held-out groups over the fair control: {gain}. {seen}")
        lines.append(_explain_gain(report))
    elif main.interval[1] < 0:
        lines.append(f"Adding synthetic images made AUROC on held-out groups worse than the fair control's: {gain}. {seen}")
    else:
        lines.append(f"Adding synthetic images did not improve AUROC on held-out groups beyond the noise: {gain} to the "
                     f"fair control. {seen} A smaller gain or loss is not ruled out.")
    lines.append(f"Trained on synthetic images alone the classifier reaches {report.score(SYNTHETIC, AUROC).value:.3f}, the "
                 f"control {control.value:.3f} (difference {_describe(report.difference(SYNTHETIC, CONTROL, AUROC))}).")
    return lines


def _explain_gain(report: UtilityReport) -> str:
    """Whether a gain exceeds what wrong labels or the VAE's blur give, which carry nothing new about the classes."""
    beaten, equalled = [], []
    for name, words in ((SHUFFLED, "synthetic images with shuffled labels"), (ROUND_TRIP, "VAE round trips of real images")):
        row = report.difference(report.headline, name, AUROC)
        (beaten if row.interval[0] > 0 else equalled).append(f"{words} ({_describe(row)})")
    if not equalled:
        return f"The gain exceeds that of {' and of '.join(beaten)}."
    return (f"It cannot be told from regularisation: the arm is not beyond {' and '.join(equalled)}, which add no knowledge "
            "of the classes.")


def _describe(row: ArmDifference) -> str:
    value, low, high = (round(number, 3) + 0.0 for number in (row.value, *row.interval))  # + 0.0: no -0.000
    return f"{value:+.3f} ({low:+.3f} to {high:+.3f})"


def _difference_cells(row: ArmDifference) -> tuple[object, ...]:
    freedom = None if math.isinf(row.freedom) else row.freedom
    return (row.arm, row.against, row.metric, row.value, *row.interval, row.standard_error, freedom, row.detectable)


def _draw(report: UtilityReport) -> bytes:
    """PNG: each arm's AUROC with its seeds on the left, paired differences to the control on the right."""
    arms = report.arms[::-1]
    figure = Figure(figsize=(11, 1.6 + 0.5 * len(arms)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for place, arm in enumerate(arms):
        score = report.score(arm, AUROC)
        _interval_line(left, place, score.value, score.interval)
        left.plot(score.seed_values, [place - 0.22] * len(score.seed_values), "|", color="0.45", markersize=7)
        if arm != CONTROL:
            row = report.difference(arm, CONTROL, AUROC)
            _interval_line(right, place, row.value, row.interval)
    left.axvline(0.5, color="0.75", linewidth=1, linestyle=":")
    left.set_xlabel("AUROC on held-out groups (95% interval; ticks: seeds)")
    right.axvline(0.0, color="0.3", linewidth=1)
    limit = report.difference(report.headline, CONTROL, AUROC).detectable
    right.axvspan(-limit, limit, color="0.93", zorder=0)
    right.set_xlabel(f"AUROC minus the control's (gray: below {limit:.3f},\nwhich this study shows with less than "
                     f"{POWER:.0%} power)")
    left.set_yticks(range(len(arms)), [f"{arm} (control)" if arm == CONTROL else arm for arm in arms])
    left.set_ylim(-0.6, len(arms) - 0.4)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.locator_params(axis="x", nbins=5)
        axes.margins(x=0.08)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=130, metadata={"Software": None})
    return data.getvalue()


def _interval_line(axes: Axes, place: int, value: float, interval: tuple[float, float]) -> None:
    axes.plot(interval, (place, place), color="tab:blue", linewidth=2, solid_capstyle="butt")
    axes.plot([value], [place], "o", color="tab:blue", markersize=6)


def _fill(sheet: Worksheet, rows: Iterable[Sequence[object]]) -> None:
    """Append rows, the first in bold; text is text, never a formula."""
    for number, row in enumerate(rows):
        append_cells(sheet, row, bold=number == 0)
    for letter, width in zip("ABCDEFGHI", _WIDTHS, strict=True):
        sheet.column_dimensions[letter].width = width
    sheet.freeze_panes = "A2"
