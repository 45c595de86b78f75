"""Tables: CSV, TSV or XLSX to rows of text with the place where the user finds each, and rows of text to a table again.

Knows no labels or images.
"""

import csv
import io
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from config.errors import ALIKE, SURELY_ALIKE, UserError, name_some, nearest_name
from dataset.storage import atomic_path, write_text

if TYPE_CHECKING:
    from openpyxl.worksheet.worksheet import Worksheet

# By setting, where "one of them" would be an invitation to take any.
_NEXT_STEPS = {
    "conditions": "name columns of the table under conditions",
    "covariate_columns": "list columns of the table in covariate_columns",
    "group_column": "set group_column to the column that holds the patients or embryos, or to null if there is none: then "
                    "every image counts as a patient of its own, images of one patient can land on both sides of a split, "
                    "and every number is too good",
}
_MISSING_WORDS = ("na", "n/a", "#n/a", "nan", "null")  # as R, pandas and spreadsheets write a cell without a value
_DELIMITERS = {".csv": (",", ";", "\t"), ".tsv": ("\t",)}


@dataclass(frozen=True)
class TableRow:
    """The cells that matter of one row, by setting (image_column, ...), and where the user finds it."""

    where: str
    cells: dict[str, str]
    table_split: str | None
    number: int


def is_missing(cell: str) -> bool:
    """Whether a cell holds no value: blank, or a word that programs write for that."""
    return not cell.strip() or cell.strip().lower() in _MISSING_WORDS


def read_table(path: Path, columns: Mapping[str, str], split: str | None, prefix: str) -> list[TableRow]:
    lines = read_lines(path, list(columns.values()))
    header = lines[0] if lines else []
    while header and not header[-1].strip():
        header = header[:-1]
    if not header:
        names = ", ".join(columns.values())
        raise UserError(f"{path}: expected column names in the first row, found none; write {names} there")
    twice = [repr(name) for name, count in Counter(header).items() if count > 1 and name.strip()]
    if twice:
        raise UserError(f"{path}: expected each column name once, found twice: {name_some(twice)}; rename one")
    for setting, name in columns.items():
        if name not in header:
            kind = setting.partition(".")[0]
            near = nearest_name(name, filter(str.strip, header), alike=SURELY_ALIKE if kind == "group_column" else ALIKE)
            next_step = f"did you mean {setting}: {near!r}?" if near else _NEXT_STEPS.get(kind, f"set {kind} to one of them")
            found = ", ".join(repr(cell) for cell in header)
            raise UserError(f"{path}: expected a column {name!r} ({setting}), found the columns {found}; {next_step}")
    positions = {setting: header.index(name) for setting, name in columns.items()}
    rows, ragged = [], []
    for number, cells in enumerate(lines[1:], start=2):
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) < len(header) or any(cell.strip() for cell in cells[len(header) :]):
            ragged.append(f"row {number} has {len(cells)}")
            continue
        wanted = {setting: cells[position] for setting, position in positions.items()}
        rows.append(TableRow(f"{prefix}row {number}", wanted, split, number))
    if ragged:
        raise UserError(
            f"{path}: expected {len(header)} cells in every row as in the first, found {len(ragged)} rows that differ: "
            f"{name_some(ragged)}; put quotes around cells that hold the delimiter, or add the missing cells"
        )
    if not rows:
        raise UserError(f"{path}: expected a row for each image, found only column names; add the labels")
    return rows


def read_header(path: Path) -> list[str]:
    """The column names of a table: its first row; a UserError where it cannot be read."""
    lines = read_lines(path)
    return lines[0] if lines else []


def read_lines(path: Path, wanted: Collection[str] = ()) -> list[list[str]]:
    """The cells of a table as text, row by row; rows without text are kept, so that places are row numbers."""
    suffix = path.suffix.lower()
    if suffix not in (*_DELIMITERS, ".xlsx"):
        found = suffix or "no suffix"
        raise UserError(f"{path}: expected a table named .csv, .tsv or .xlsx, found {found}; save it as .csv")
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = "nothing there" if isinstance(error, FileNotFoundError) else str(error.strerror)
        raise UserError(f"{path}: expected a table of labels, found {reason}; correct csv_file") from error
    if not data:
        raise UserError(f"{path}: expected a table of labels, found an empty file; write it again")
    return _read_xlsx_lines(path, data) if suffix == ".xlsx" else _read_csv_lines(path, data, wanted)


def _read_csv_lines(path: Path, data: bytes, wanted: Collection[str]) -> list[list[str]]:
    """Parse delimited text; the delimiter is the one whose header has most `wanted` columns, then most columns."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: expected text in UTF-8, found byte 0x{data[error.start]:02x} at position {error.start}; "
            "save the table as 'CSV UTF-8' or as .xlsx"
        ) from error
    if "\0" in text:
        raise UserError(f"{path}: expected text, found zero bytes; save the table as 'CSV UTF-8' or as .xlsx")

    def parse(delimiter: str) -> "csv._reader":
        return csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)

    def rate(delimiter: str) -> tuple[int, int]:
        try:
            header = next(parse(delimiter), [])
        except csv.Error:
            return -1, 0
        return len(set(wanted) & set(header)), len(header)

    try:
        return list(parse(max(_DELIMITERS[path.suffix.lower()], key=rate)))
    except csv.Error as error:
        raise UserError(f"{path}: not readable as delimited text ({error}); look for an unclosed quote") from error


def _read_xlsx_lines(path: Path, data: bytes) -> list[list[str]]:
    """The one sheet that has content, the values that formulas had when the workbook was saved."""
    import openpyxl

    try:
        with warnings.catch_warnings():  # about styles and extensions, which hold no labels
            warnings.simplefilter("ignore")
            workbook = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
            sheets = {}
            for sheet in workbook.worksheets:
                sheet.reset_dimensions()  # some programs write a wrong extent
                sheets[sheet.title] = [[_cell_text(cell) for cell in row] for row in sheet.iter_rows(values_only=True)]
            workbook.close()
    except Exception as error:  # openpyxl lets zip, XML and key errors of a damaged file through as they come
        raise UserError(f"{path}: not readable as a workbook ({error!r}); save it again or as CSV UTF-8") from error
    filled = [title for title, lines in sheets.items() if any(cell.strip() for line in lines for cell in line)]
    if not filled:
        raise UserError(f"{path}: expected a sheet with labels, found no sheet with content; save the workbook again")
    if len(filled) > 1:
        names = name_some([repr(title) for title in filled])
        raise UserError(f"{path}: expected one sheet with content, found {len(filled)}: {names}; keep one")
    lines = sheets[filled[0]]
    width = max(map(len, lines))
    return [line + [""] * (width - len(line)) for line in lines]


def _cell_text(value: object) -> str:
    """A spreadsheet's cell as text; 12.0 is 12, because spreadsheets keep every number as a float."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


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
    elif suffix in _DELIMITERS:
        text = io.StringIO(newline="")
        csv.writer(text, delimiter=_DELIMITERS[suffix][0], lineterminator="\n").writerows(lines)
        write_text(path, text.getvalue())
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
    """Text for a CSV cell that is only to be looked at: one that a spreadsheet would take for a formula gets a ' before."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
