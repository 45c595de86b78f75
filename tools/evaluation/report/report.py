"""An evaluation as JSON, as a workbook and as a table on the screen. The numbers are protocol.py's."""

from pathlib import Path

from openpyxl import Workbook
from openpyxl.worksheet.worksheet import Worksheet

from dataset.storage import atomic_path, write_json
from dataset.tables import append_cells
from tools.evaluation.direct_checks import DIRECT, DIRECT_REAL
from tools.evaluation.evaluation_report import EvaluationReport
from tools.evaluation.metric_keys import Family, MetricKey
from tools.evaluation.rows import COMPARISONS, OVERALL, Row, format_value
from tools.evaluation.summary import SummaryLine, format_summary, summarise_report

_COLUMNS = ("metric", "class", "comparison", "value", "low", "high", "n_real", "n_synthetic", "literature_comparable",
            "note")
_COLUMN_WIDTHS = (34, 16, 16, 14, 14, 14, 9, 12, 20, 60)


def write(report: EvaluationReport, folder: Path) -> None:
    """Write evaluation.json and evaluation.xlsx into `folder`, atomically."""
    summary = summarise_report(report)
    write_json(folder / "evaluation.json", {
        "summary": [line.to_dict() for line in summary], "provenance": report.provenance,
        "rows": [row.to_dict() for row in report.rows], "warnings": report.warnings,
    })
    book = Workbook()
    first = book.active
    assert isinstance(first, Worksheet)
    _fill_summary(first, summary)
    sheet = book.create_sheet("metrics")
    append_cells(sheet, _COLUMNS, bold=True)
    for row in report.rows:
        low, high = row.interval or (None, None)
        append_cells(sheet, (row.metric, row.class_name, row.comparison, row.value, low, high, row.n_real, row.n_synthetic,
                             row.literature_comparable, row.note))
    for letter, width in zip("ABCDEFGHIJ", _COLUMN_WIDTHS, strict=True):
        sheet.column_dimensions[letter].width = width
    sheet.freeze_panes = "A2"
    explained = book.create_sheet("comparisons")
    append_cells(explained, ("comparison", "meaning"), bold=True)
    for name, meaning in COMPARISONS.items():
        append_cells(explained, (name, meaning))
    notes = book.create_sheet("warnings")
    for warning in report.warnings:
        append_cells(notes, (warning,))
    origin = book.create_sheet("provenance")
    for key, value in report.provenance.items():
        append_cells(origin, (key, str(value)))
    with atomic_path(folder / "evaluation.xlsx") as temporary:
        book.save(temporary)


def _fill_summary(sheet: Worksheet, summary: list[SummaryLine]) -> None:
    sheet.title = "summary"
    append_cells(sheet, ("aspect", "outcome", "summary"), bold=True)
    for line in summary:
        append_cells(sheet, (line.aspect.value, line.tone.value, line.text))
    for letter, width in zip("ABC", (12, 12, 140), strict=True):
        sheet.column_dimensions[letter].width = width


def format_table(report: EvaluationReport) -> str:
    """The summary and the main numbers for the screen: distances by gap, pair similarities, fidelity to class and
    conditions."""
    lines = [format_summary(summarise_report(report))]
    distances = _metrics_with(report, "total")
    if distances:
        lines += ["", *_format_block("distance", distances, report, ("total", "ceiling", "model_gap", "real_real", "floor"))]
    pairs = _metrics_with(report, "cross")
    if pairs:
        lines += ["", *_format_block("pairs of one class", pairs, report,
                                     ("cross", "real_pairs", "diversity", "reconstruction", "nearest", "real_nearest"))]
    fidelity = [key for key in _metrics_with(report, "held_out")
                if key.family is not Family.CONFUSION or key.condition is None]
    if fidelity:
        lines += ["", *_format_block("fidelity", fidelity, report, ("held_out", "round_trip", "synthetic"))]
        lines += [f"{row.metric}: {format_value(row)}" for row in report.rows
                  if row.key.is_ratio and row.value is not None]
    direct = [row for row in report.rows if row.comparison == DIRECT and row.class_name == OVERALL
              and row.key.family is Family.ADJUSTED_P]
    if direct:
        lines += ["", *_format_checks([row.key.about for row in direct], report)]
    copies = [row for row in report.rows if row.comparison == "copies" and row.value is not None]
    lines += ["", *[f"{row.metric}: {row.note}" for row in copies]] if copies else []
    missing = [row for row in report.rows if row.value is None and row.class_name == OVERALL and row.comparison == "total"]
    missing += [row for row in report.rows if row.value is None and row.comparison in ("cross", "copies")]
    lines += ["", *[f"{row.metric}: {row.note}" for row in missing]] if missing else []
    lines += ["", *[f"note: {warning}" for warning in report.warnings]] if report.warnings else []
    return "\n".join(lines)


def scalars(report: EvaluationReport) -> dict[str, float]:
    """Every number under metric/class/comparison, for a tracker."""
    return {f"{row.metric}/{row.class_name}/{row.comparison}": row.value for row in report.rows if row.value is not None}


def _metrics_with(report: EvaluationReport, comparison: str) -> list[MetricKey]:
    return list(dict.fromkeys(row.key for row in report.rows if row.comparison == comparison and row.value is not None))


def _format_block(
    title: str, metrics: list[MetricKey], report: EvaluationReport, comparisons: tuple[str, ...]
) -> list[str]:
    width = max(len(title), *(len(metric.name) for metric in metrics)) + 2
    classes = list(dict.fromkeys(row.class_name for row in report.rows))
    class_width = max(len("class"), *(len(name) for name in classes)) + 2
    lines = [f"{title:<{width}}{'class':<{class_width}}" + "".join(f"{name:>16}" for name in comparisons)]
    for metric in metrics:
        for class_name in classes:
            found = [report.find(metric.name, comparison, class_name) for comparison in comparisons]
            if any(row is not None for row in found):
                lines.append(f"{metric.name:<{width}}{class_name:<{class_width}}"
                             + "".join(_format_cell(row) for row in found))
    return lines


def _format_checks(names: list[str], report: EvaluationReport) -> list[str]:
    """The direct checks of all classes together, a line each."""
    width = max(len("direct checks"), *(len(name) for name in names)) + 2
    lines = [f"{'direct checks':<{width}}{DIRECT:>16}{DIRECT_REAL:>16}{'adjusted p':>16}"]
    for name in names:
        rows = (report.find(name, DIRECT), report.find(name, DIRECT_REAL),
                report.find(MetricKey(Family.ADJUSTED_P, name).name, DIRECT))
        lines.append(f"{name:<{width}}" + "".join(_format_cell(row) for row in rows))
    return lines


def _format_cell(row: Row | None) -> str:
    if row is None:
        return f"{'':>16}"
    return f"{'-':>16}" if row.value is None else f"{row.value:>16.4g}"
