"""A scored reader study as JSON, CSV, a workbook and a table on the screen. scores.py computes the numbers."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from openpyxl import Workbook
from openpyxl.worksheet.worksheet import Worksheet

from dataset.delimited import format_csv
from dataset.storage import atomic_path, write_json, write_text
from dataset.tables import append_cells
from tools.reader_study.answers import REAL, ROUND_TRIP, SYNTHETIC, Readings, StudyKey
from tools.reader_study.scores import ALL_READERS, ANY_DEFECT, COMPARISONS, DEFECT, ReaderReport, ReaderRow

NAME = "reader_study"
_COLUMNS = ("metric", "comparison", "reader", "value", "low", "high", "n", "note")
_WIDTHS = (48, 18, 14, 12, 12, 12, 8, 50)
_COMPARISON_NOTES = {
    **{name: note for name, (_, _, note) in COMPARISONS.items()},
    REAL: "over real images", SYNTHETIC: "over synthetic images", ROUND_TRIP: "over VAE round trips of other real images",
    "between readers": "agreement of readers with each other on the first showing of every image",
    "within a reader": "agreement of a reader with himself on the images that came twice",
    "reading": "over all showings",
}


def write(report: ReaderReport, key: StudyKey, readings: Readings, folder: Path) -> None:
    """Write reader_study.json, reader_study.xlsx and answers.csv into `folder`; no image id leaves the key."""
    write_json(folder / f"{NAME}.json", {
        "provenance": report.provenance, "rows": [_as_plain(row) for row in report.rows], "warnings": report.warnings,
    })
    answers = list(_list_answers(key, readings))
    write_text(folder / "answers.csv", format_csv(answers))
    book = Workbook()
    sheet = book.active
    assert isinstance(sheet, Worksheet)
    sheet.title = "results"
    _fill(sheet, [_COLUMNS, *[(row.metric, row.comparison, row.reader, row.value, *(row.interval or (None, None)), row.n,
                               row.note) for row in report.rows]])
    for letter, width in zip("ABCDEFGH", _WIDTHS, strict=True):
        sheet.column_dimensions[letter].width = width
    _fill(book.create_sheet("comparisons"), [("comparison", "meaning"), *_COMPARISON_NOTES.items()])
    _fill(book.create_sheet("answers"), answers)
    _fill(book.create_sheet("warnings"), [("warning",), *[(warning,) for warning in report.warnings]])
    _fill(book.create_sheet("provenance"), [("field", "value"), *[(k, str(v)) for k, v in report.provenance.items()]])
    with atomic_path(folder / f"{NAME}.xlsx") as temporary:
        book.save(temporary)


def format_table(report: ReaderReport) -> str:
    """The numbers for the screen: a column per reader, then defects by arm, then warnings."""
    readers = [*report.provenance["readers"], ALL_READERS]
    names = list(dict.fromkeys((row.metric, row.comparison) for row in report.rows))
    defects = [name for name in names if name[0] == ANY_DEFECT or name[0].startswith(DEFECT)]
    width = max(len(metric) for metric, _ in names) + 2
    lines = [f"{'':<{width}}{'':<17}" + "".join(f"{reader[:10]:>11}" for reader in readers[:-1])
             + f"{ALL_READERS:>13}   95%"]
    for metric, comparison in names:
        if (metric, comparison) not in defects:
            *own, mean = [report.find(metric, comparison, reader) for reader in readers]
            cells = "".join(f"{_format_value(row):>11}" for row in own)
            interval = f"   {mean.interval[0]:.3f} to {mean.interval[1]:.3f}" if mean and mean.interval else ""
            lines.append(f"{metric:<{width}}{comparison:<17}{cells}{_format_value(mean):>13}{interval}".rstrip())
    if defects:
        arms = list(dict.fromkeys(arm for _, arm in defects))
        lines += ["", f"{'fraction of images with it, all readers':<{width}}" + "".join(f"{arm:>12}" for arm in arms)]
        for metric in dict.fromkeys(metric for metric, _ in defects):
            lines.append(f"{metric:<{width}}" + "".join(f"{_format_value(report.find(metric, arm)):>12}" for arm in arms))
    lines += ["", *[f"note: {warning}" for warning in report.warnings]] if report.warnings else []
    return "\n".join(lines)


def _format_value(row: ReaderRow | None) -> str:
    if row is None:
        return ""
    return "-" if row.value is None else f"{row.value:.3f}"


def _as_plain(row: ReaderRow) -> dict[str, object]:
    values = asdict(row)
    values["interval"] = None if row.interval is None else list(row.interval)
    return values


def _list_answers(key: StudyKey, readings: Readings) -> Iterable[tuple[object, ...]]:
    """A header, then every answer with the truth about the image."""
    yield ("reader", "item", "arm", "label", "showing", "confidence", "grade", "seconds", *key.defects)
    for number, reader in enumerate(readings.readers):
        for place, item in enumerate(key.items):
            confidence = int(readings.confidence[number, place]) if key.asks_realism else None
            grade = key.class_names[readings.grades[number, place]] if key.asks_outcome else None
            yield (reader, item.item, item.arm, key.class_names[item.label], item.showing, confidence, grade,
                   float(readings.seconds[number, place]), *map(int, readings.defects[number, place]))


def _fill(sheet: Worksheet, rows: Sequence[Sequence[object]]) -> None:
    """Append rows under a bold header; text stays text, never a formula."""
    for number, row in enumerate(rows):
        append_cells(sheet, row, bold=number == 0)
    sheet.freeze_panes = "A2"
