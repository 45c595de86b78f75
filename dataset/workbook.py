"""From an XLSX workbook to the cells of its one visible sheet: hidden rows, merged cells and formats as a person sees them.

dataset.tables decides which oddities matter, because it knows the columns.
"""

import io
import re
import warnings
from collections import defaultdict
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

from config.errors import UserError, name_some
from dataset.grid import DATE, DIGITS, ERROR, FORMULA, MERGED, PART_OF_DATE, ROUNDED, Grid

_TOKENS = re.compile(r'"[^"]*"|\\.|_.|\*.|\[[^\]]*\]|.')  # of a number format (ECMA-376 part 1, 18.8.31)
_SECTIONS = re.compile(r';(?=(?:[^"]*"[^"]*")*[^"]*$)')
_EXACT_DIGITS = 15  # of a number; spreadsheet programs keep no more


def read_workbook(path: Path, data: bytes) -> Grid:
    """The one visible sheet that has content, with the values that formulas had when the workbook was saved."""
    import openpyxl

    try:
        with warnings.catch_warnings():  # about styles and extensions, which hold no labels
            warnings.simplefilter("ignore")
            workbook = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
            sheets = {sheet.title: (_SheetCells(sheet), sheet.sheet_state == "visible") for sheet in workbook.worksheets}
            workbook.close()
    except Exception as error:  # on a damaged file openpyxl raises zip, XML and key errors
        raise UserError(f"{path}: not readable as a workbook ({error!r}); save it again or as CSV UTF-8") from error
    filled = {title: visible for title, (cells, visible) in sheets.items()
              if cells.faults or any(map(str.strip, cells.texts.values()))}
    visible = [title for title in filled if filled[title]]
    hidden = name_some([repr(title) for title in filled if not filled[title]])
    if not visible:
        found = f"content in hidden sheets only: {hidden}; unhide one" if filled else \
            "no sheet with content; save the workbook again"
        raise UserError(f"{path}: expected a sheet with labels, found {found}")
    if len(visible) > 1:
        names = name_some([repr(title) for title in visible])
        raise UserError(f"{path}: expected one sheet with content, found {len(visible)}: {names}; keep one, or "
                        "hide the others")
    notes = (f"{path}: sheet {visible[0]!r} is read; hidden sheets are left out: {hidden}",) if hidden else ()
    return sheets[visible[0]][0].to_grid(path, notes)


class _SheetCells:
    """The content of a worksheet, by (row, column) from 1; only cells that are not empty."""

    def __init__(self, sheet: Any) -> None:
        from openpyxl.worksheet._reader import FORMULA_TAG, WorkSheetParser  # keeps what the read-only sheet drops

        class Parser(WorkSheetParser):
            def parse_cell(self, element: Any) -> dict[str, Any]:
                cell = super().parse_cell(element)
                uncomputed = cell["value"] is None and cell["data_type"] != "str"
                return {**cell, "uncomputed": uncomputed and element.find(FORMULA_TAG) is not None}

        self.texts: dict[tuple[int, int], str] = {}
        self.shown: dict[tuple[int, int], str] = {}
        self.faults: dict[tuple[int, int], tuple[str, str]] = {}
        book = sheet.parent
        with sheet._get_source() as source:
            parser = Parser(source, sheet._shared_strings, data_only=True, epoch=book.epoch, date_formats=book._date_formats,
                            timedelta_formats=book._timedelta_formats)
            for _, cells in parser.parse():
                for cell in cells:
                    self._add(sheet, cell)
        self.merged = [] if parser.merged_cells is None else [cell.ref for cell in parser.merged_cells.mergeCell]
        self.hidden_rows = {int(number) for number, row in parser.row_dimensions.items() if _is_hidden(row, "ht")}
        self.hidden_columns = {column for dimension in parser.column_dimensions.values() if _is_hidden(dimension, "width")
                               for column in range(int(dimension["min"]), min(int(dimension["max"]), 1 << 14) + 1)}

    def _add(self, sheet: Any, cell: dict[str, Any]) -> None:
        place, value = (cell["row"], cell["column"]), cell["value"]
        if cell.pop("uncomputed"):
            self.texts[place] = ""
            self.faults[place] = FORMULA, ""
            return
        if value is None or value == "":
            return
        self.texts[place] = text = _cell_text(value)
        if cell["data_type"] == "e":
            if text != "#N/A":  # this one is a missing value
                self.faults[place] = ERROR, text
        elif isinstance(value, int | float) and not isinstance(value, bool):
            if abs(value) >= 10 ** _EXACT_DIGITS:
                self.faults[place] = DIGITS, text
            elif cell["style_id"]:
                shown, rounded = _show_number(value, _number_format(sheet, cell))
                self.shown |= {} if shown in (None, text) else {place: shown}
                self.faults |= {} if rounded is None else {place: (ROUNDED, f"shows {rounded}, holds {text}")}
        elif not isinstance(value, str | bool):
            form = re.sub(r'"[^"]*"', "", _number_format(sheet, cell)).lower()
            whole = isinstance(value, date) and "y" in form and "d" in form
            day = value.date() if isinstance(value, datetime) and value.time() == time() else value
            self.faults[place] = DATE if whole else PART_OF_DATE, f"holds {day}"

    def to_grid(self, path: Path, notes: tuple[str, ...]) -> Grid:
        """The cells, with merged areas filled in and hidden rows emptied."""
        filled = self._spread_merged()
        last = max(row for row, _ in self.texts)
        rows: defaultdict[int, dict[int, str]] = defaultdict(dict)
        for (row, column), text in self.texts.items():
            rows[row][column] = text
        if 1 in self.hidden_rows and any(map(str.strip, rows[1].values())):
            raise UserError(f"{path}: expected column names in the first row, found it hidden; unhide it")
        width = max(rows[1], default=0)
        lines: list[list[str]] = [[] for _ in range(last)]
        num_rows = num_hidden = 0
        for row, cells in rows.items():
            has_text = row > 1 and any(map(str.strip, cells.values()))
            num_rows += has_text
            if row in self.hidden_rows:
                num_hidden += has_text
                continue
            lines[row - 1] = [cells.get(column, "") for column in range(1, max(width, max(cells, default=0)) + 1)]
        if num_hidden:
            notes += (f"{path}: the sheet has {num_rows:,} rows, {num_rows - num_hidden:,} are read: rows that are hidden, "
                      f"by a filter or by hand, are left out ({num_hidden:,}); unhide them to use them",)
        if filled:
            notes += (f"{path}: {filled:,} cells merged over several rows count as their value in each of these rows",)
        faults = {place: fault for place, fault in self.faults.items() if place[0] not in self.hidden_rows}
        return Grid(lines, _from_zero(self.shown), _from_zero(faults), {column - 1 for column in self.hidden_columns},
                    num_hidden, notes)

    def _spread_merged(self) -> int:
        """Give each row of a merged column its value; cells merged over several columns are faults. The number of areas."""
        from openpyxl.utils import range_boundaries

        with_text = {row for (row, _), text in self.texts.items() if text.strip()}
        last, filled = max(with_text, default=0), 0
        for area in self.merged:
            left, top, right, bottom = range_boundaries(area)
            rows = [row for row in range(top, min(bottom, last) + 1) if row in with_text]
            first = (top, left)
            if not any(map(self.texts.get, ((top, left), *((row, left) for row in rows)))):
                continue
            if left != right or top == 1:
                self.faults |= {(row, column): (MERGED, f"in {area}")
                                for row in rows if row > 1 for column in range(left, right + 1)}
                continue
            filled += len(rows) > 1 and first in self.texts
            for place in ((row, left) for row in rows if row != top):
                for cells in (self.texts, self.shown, self.faults):
                    cells.pop(place, None)
                    if first in cells:
                        cells[place] = cells[first]
        return filled


def _is_hidden(dimension: dict[str, str], extent: str) -> bool:
    return dimension.get("hidden", "0") in ("1", "true") or float(dimension.get(extent, 1)) == 0


def _from_zero(cells: dict[tuple[int, int], Any]) -> dict[tuple[int, int], Any]:
    return {(row - 1, column - 1): value for (row, column), value in cells.items()}


def _number_format(sheet: Any, cell: dict[str, Any]) -> str:
    from openpyxl.cell.read_only import ReadOnlyCell

    return ReadOnlyCell(sheet, **cell).number_format or "General"


def _cell_text(value: object) -> str:
    """A spreadsheet's cell as text; 12.0 is 12, because spreadsheets keep every number as a float."""
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _show_number(value: float, number_format: str) -> tuple[str | None, str | None]:
    """(a whole number as its format shows it, a number as its format rounds it); None where that is the number itself.

    Other formats (percent, powers of ten, fractions, conditions) are ignored: the stored number is read.
    """
    sections = _SECTIONS.split(number_format)
    section = sections[1] if value < 0 and len(sections) > 1 else sections[0]
    tokens = [token for token in _TOKENS.findall(section) if token[0] not in "_*["]
    signs = "".join(token for token in tokens if len(token) == 1)
    if not set(signs) & set("0#?") or re.search(r"general|[%e/@]", signs.lower()) \
            or re.search(r"\[[<>=]", section) or re.search(r"[0#?],+([^0#?,]|$)", signs):
        return None, None
    decimals = len(re.sub(r"[^0#?]", "", signs.partition(".")[2]))
    if abs(round(value, decimals) - value) > 1e-9 * abs(value):
        return None, f"{value:.{decimals}f}"
    if not float(value).is_integer() or "." in signs:
        return None, None
    left, text = list(str(abs(int(value))).lstrip("0")), ""
    num_places = sum(token in "0#?" for token in tokens)
    for token in reversed(tokens):
        if token in ("0", "#", "?"):
            num_places -= 1
            digit = left.pop() if left else "0" if token == "0" else ""
            text = ("".join(left) if num_places == 0 else "") + digit + text
        elif token != ",":  # between thousands
            text = token.strip('"').removeprefix("\\") + text
    return ("-" if value < 0 and len(sections) == 1 else "") + text, None
