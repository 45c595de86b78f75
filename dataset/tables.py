"""Tables: read CSV, TSV or XLSX as rows of text, each with its place for messages, and write rows of text as a table."""

import os
import sys
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from config.errors import ALIKE, SURELY_ALIKE, UserError, escape_unprintable, name_some, nearest_name
from dataset.delimited import DELIMITERS, format_csv, read_delimited
from dataset.grid import DATE, DIGITS, ERROR, FORMULA, MERGED, PART_OF_DATE, ROUNDED, Grid
from dataset.image_folder import compose
from dataset.storage import atomic_path, write_text
from dataset.workbook import read_workbook

if TYPE_CHECKING:
    from openpyxl.worksheet.worksheet import Worksheet

# By setting, where the advice "one of them" would invite the user to take any column.
_NEXT_STEPS = {
    "conditions": "name columns of the table under conditions",
    "covariate_columns": "list columns of the table in covariate_columns",
    "group_column": "set group_column to the column that holds the patients or embryos, or to null if there is none: then "
                    "every image counts as a separate patient, images of one patient can be on both sides of a split, "
                    "and every number is too good",
}
_MISSING_WORDS = ("na", "n/a", "#n/a", "nan", "null")  # as R, pandas and spreadsheets write a cell without a value
_AS_TEXT = "format the column as text and type these cells again"
_FAULTS = {  # kind of cell: (what it is, what to do)
    DATE: ("dates", _AS_TEXT),
    PART_OF_DATE: ("dates or times, which spreadsheet programs make of names such as 3-1", _AS_TEXT),
    ERROR: ("errors", "correct the formula or clear the cell"),
    FORMULA: ("formulas that were never computed", "open the workbook in a spreadsheet program and save it"),
    MERGED: ("cells merged over several columns", "unmerge them and fill each cell"),
    ROUNDED: ("numbers shown rounded", "type the intended number"),
    DIGITS: ("numbers of more than 15 digits, which spreadsheet programs cut", _AS_TEXT),
}
# By setting: text columns keep dates, and dates can name groups as well as numbers do; measurements keep all their digits.
_TOLERATED = {
    "image_column": (), "label_column": (), "split_column": (), "conditions": (), "group_column": (DATE,),
    "covariate_columns": (DATE, PART_OF_DATE, ERROR, ROUNDED, DIGITS), "measure": (ROUNDED,), "IMAGE_NAME": (),
}
_AS_SHOWN = ("image_column", "group_column", "IMAGE_NAME")  # the last is from a table of measurements
_SAID: set[str] = set()


@dataclass(frozen=True)
class TableRow:
    """The relevant cells of one row, by setting (image_column, ...), and its place for messages."""

    where: str
    cells: dict[str, str]
    table_split: str | None
    number: int


def is_missing(cell: str) -> bool:
    """Whether a cell has no value: blank, or a word that programs write for a missing value."""
    return not cell.strip() or cell.strip().lower() in _MISSING_WORDS


@dataclass(frozen=True)
class TableBody:
    """The column names of a table and its rows with text that are not hidden, by row number from 2, each as wide as the
    names. `grid` has the oddities of the cells."""

    header: list[str]
    rows: dict[int, list[str]]
    grid: Grid

    def find_column(self, name: str) -> int | None:
        """The position of a column, in whichever Unicode form its name is written."""
        composed = list(map(compose, self.header))
        return composed.index(compose(name)) if compose(name) in composed else None

    def cells_as_shown(self, column: int) -> list[str]:
        """A column with the zeros and letters that number formats add: 0017 for 17."""
        return [self.grid.shown.get((number - 1, column), cells[column]) for number, cells in self.rows.items()]


def read_table(path: Path, columns: Mapping[str, str], split: str | None, prefix: str) -> list[TableRow]:
    """The rows of a table with the cells of `columns`, which maps settings to names of columns.

    Raises:
        UserError: the table or a column cannot be read, or a cell of these columns is not what the sheet shows.
    """
    body = read_body(path, list(columns.values()))
    positions = {}
    for setting, name in columns.items():
        place = body.find_column(name)
        if place is None:
            kind = setting.partition(".")[0]
            alike = SURELY_ALIKE if kind == "group_column" else ALIKE
            near = nearest_name(name, filter(str.strip, body.header), alike=alike)
            next_step = f"did you mean {setting}: {near!r}?" if near else _NEXT_STEPS.get(kind, f"set {kind} to one of them")
            found = ", ".join(repr(cell) for cell in body.header)
            raise UserError(f"{path}: expected a column {name!r} ({setting}), found the columns {found}; {next_step}")
        positions[setting] = place
    check_cells(path, body, positions)
    hidden = [f"{name!r} ({setting})" for setting, name in columns.items() if positions[setting] in body.grid.hidden_columns]
    say_once(body.grid.notes)
    if hidden:
        say_once([f"{path}: columns that are hidden in the sheet are read, because settings name them: {name_some(hidden)}"])
    cells = {setting: body.cells_as_shown(place) if setting in _AS_SHOWN else [row[place] for row in body.rows.values()]
             for setting, place in positions.items()}
    return [TableRow(f"{prefix}row {number}", {setting: cells[setting][row] for setting in cells}, split, number)
            for row, number in enumerate(body.rows)]


def read_body(path: Path, wanted: Collection[str] = ()) -> TableBody:
    """Column names and rows. Each name occurs once, and every row has as many cells as there are names.

    Raises:
        UserError: the file cannot be read or is not such a table.
    """
    grid = read_grid(path, wanted)
    header = grid.lines[0] if grid.lines else []
    while header and not header[-1].strip():
        header = header[:-1]
    if not header:
        names = ", ".join(wanted) or "them"
        raise UserError(f"{path}: expected column names in the first row, found none; write {names} there")
    twice = [repr(name) for name, count in Counter(header).items() if count > 1 and name.strip()]
    if twice:
        raise UserError(f"{path}: expected each column name once, found twice: {name_some(twice)}; rename one")
    rows, ragged = {}, []
    faulty = {row + 1 for row, _ in grid.faults}  # a formula that was never computed has no text
    for number, cells in enumerate(grid.lines[1:], start=2):
        if not any(cell.strip() for cell in cells) and number not in faulty:
            continue
        if len(cells) < len(header) or any(cell.strip() for cell in cells[len(header) :]):
            ragged.append(f"row {number} has {len(cells)}")
        rows[number] = cells
    if ragged:
        raise UserError(
            f"{path}: expected {len(header)} cells in every row as in the first, found {len(ragged)} rows that differ: "
            f"{name_some(ragged)}; put quotes around cells that hold the delimiter, or add the missing cells"
        )
    if not rows:
        found = f"only column names and {grid.num_hidden_rows:,} hidden rows; unhide them" if grid.num_hidden_rows else \
            "only column names; add the labels"
        raise UserError(f"{path}: expected a row for each image, found {found}")
    return TableBody(header, rows, grid)


def check_cells(path: Path, body: TableBody, positions: Mapping[str, int]) -> None:
    """Refuse cells whose text is not what the sheet shows, in the columns of these settings.

    Raises:
        UserError: names the cells and how to change them.
    """
    found: defaultdict[str, list[str]] = defaultdict(list)
    for setting, column in positions.items():
        tolerated = _TOLERATED[setting.partition(".")[0]]
        for number in body.rows:
            kind, text = body.grid.faults.get((number - 1, column), ("", ""))
            if kind and kind not in tolerated:
                found[kind].append(f"{_letters(column)}{number} {text}".strip())
    if found:
        told = "; also ".join(f"{_FAULTS[kind][0]} ({len(cells):,}): {name_some(cells)}; {_FAULTS[kind][1]}"
                              for kind, cells in found.items())
        raise UserError(f"{path}: expected cells that are what the sheet shows, found {told}")


def say_once(notes: Iterable[str]) -> None:
    """Print notes on rows that were left out or read differently, once per process and group of processes."""
    for note in notes:
        if note not in _SAID and os.environ.get("RANK", "0") == "0":
            print(f"note: {escape_unprintable(note)}", file=sys.stderr, flush=True)
        _SAID.add(note)


def read_header(path: Path) -> list[str]:
    """The column names of a table: its first row; a UserError if it cannot be read."""
    lines = read_lines(path)
    return lines[0] if lines else []


def read_lines(path: Path, wanted: Collection[str] = ()) -> list[list[str]]:
    """The cells of a table as text, row by row; hidden rows are empty, so that positions are row numbers."""
    return read_grid(path, wanted).lines


def read_grid(path: Path, wanted: Collection[str] = ()) -> Grid:
    """The cells of a table of any format."""
    suffix = path.suffix.lower()
    if suffix not in (*DELIMITERS, ".xlsx"):
        found = suffix or "no suffix"
        raise UserError(f"{path}: expected a table named .csv, .tsv or .xlsx, found {found}; save it as .csv")
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = "nothing there" if isinstance(error, FileNotFoundError) else str(error.strerror)
        raise UserError(f"{path}: expected a table of labels, found {reason}; correct csv_file") from error
    if not data:
        raise UserError(f"{path}: expected a table of labels, found an empty file; write it again")
    return read_workbook(path, data) if suffix == ".xlsx" else read_delimited(path, data, wanted)


def _letters(column: int) -> str:
    """The name that spreadsheets give a column, counted from 0."""
    from openpyxl.utils import get_column_letter

    return get_column_letter(column + 1)


def write_table(path: Path, lines: Iterable[Sequence[str]]) -> None:
    """Write cells of text as .csv, .tsv or .xlsx, atomically; `read_lines` reads the same cells back.

    In a workbook every cell is text, never a formula. A CSV file keeps the cells as they are.

    Raises:
        UserError: another suffix.
    """
    suffix = path.suffix.lower()
    if suffix == ".xlsx":
        import openpyxl

        book = openpyxl.Workbook()
        for line in lines:
            append_cells(book.active, line)
        with atomic_path(path) as temporary:
            book.save(temporary)
    elif suffix in DELIMITERS:
        write_text(path, format_csv(lines, DELIMITERS[suffix][0]))
    else:
        raise UserError(f"{path}: expected a table named .csv, .tsv or .xlsx, found {suffix or 'no suffix'}; name it .csv")


def append_cells(sheet: "Worksheet", values: Iterable[object], *, bold: bool = False) -> None:
    """Append a row to a worksheet in which text is text, never a formula."""
    from openpyxl.cell import WriteOnlyCell
    from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE
    from openpyxl.styles import Font

    cells = []
    for value in values:
        text = isinstance(value, str)
        cell = WriteOnlyCell(sheet, ILLEGAL_CHARACTERS_RE.sub("?", value) or None if text else value)
        if text and cell.value is not None:
            cell.data_type = "s"
        if bold:
            cell.font = Font(bold=True)
        cells.append(cell)
    sheet.append(cells)


def defuse_cell(text: str) -> str:
    """Text for a CSV cell that people only look at: if a spreadsheet would take it for a formula, it starts with '."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
