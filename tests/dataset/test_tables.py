"""Holds dataset.tables to its word: a table is read as a person sees it in the sheet, or refused with the cell."""

import csv
import datetime
import io
import zipfile
from pathlib import Path

import openpyxl
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from config.errors import UserError
from dataset import tables
from dataset.delimited import _MULTIBYTE
from dataset.grid import with_point
from dataset.tables import read_lines, read_table
from dataset.workbook import _show_number

COLUMNS = {"image_column": "IMAGE_NAME", "label_column": "y", "group_column": "P"}


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch):
    """Each test hears the notes that a process says once."""
    monkeypatch.setattr(tables, "_SAID", set())


def make_book(rows: int = 16) -> openpyxl.Workbook:
    book = openpyxl.Workbook()
    book.active.append(["IMAGE_NAME", "y", "P", "extra"])
    for n in range(rows):
        book.active.append([f"i{n:02d}", n % 2, f"p{n // 4}", "x"])
    return book


def save(book: openpyxl.Workbook, tmp_path: Path) -> Path:
    book.save(tmp_path / "t.xlsx")
    return tmp_path / "t.xlsx"


def edit(path: Path, old: bytes, new: bytes) -> Path:
    """Change the sheets of a workbook in a way that openpyxl does not write."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    assert any(old in data for data in parts.values())
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data.replace(old, new))
    return path


def read(path: Path, columns: dict[str, str] = COLUMNS) -> list[tuple[str, ...]]:
    """The cells of each row, in the order of `columns`."""
    return [tuple(row.cells.values()) for row in read_table(path, columns, None, "")]


# Workbooks


def test_rows_hidden_by_a_filter_or_by_hand_are_left_out_and_counted(tmp_path, capsys):
    """A clinic filters four embryos out: they must not come back into training, and the count says so."""
    book = make_book()
    book.active.auto_filter.ref = "A1:D17"
    book.active.auto_filter.add_filter_column(2, ["p0", "p2", "p3"])
    for number in range(6, 10):  # p1; a spreadsheet program hides the rows when it applies the filter
        book.active.row_dimensions[number].hidden = True
    path = save(book, tmp_path)
    rows = read_table(path, COLUMNS, None, "")
    assert [row.where for row in rows] == [f"row {n}" for n in (2, 3, 4, 5, *range(10, 18))]
    assert {row.cells["group_column"] for row in rows} == {"p0", "p2", "p3"}
    assert read(path) and capsys.readouterr().err == (f"note: {path}: the sheet has 16 rows, 12 are read: rows that "
                                                      "are hidden, by a filter or by hand, are left out (4); unhide them to "
                                                      "use them\n")


def test_a_row_of_no_height_is_hidden_and_a_filter_that_hides_nothing_is_not_said(tmp_path, capsys):
    book = make_book()
    book.active.auto_filter.ref = "A1:D17"
    assert len(read(save(book, tmp_path))) == 16 and not capsys.readouterr().err
    path = edit(save(book, tmp_path), b'<row r="3"', b'<row r="3" ht="0" customHeight="1"')
    assert len(read(path)) == 15


def test_a_sheet_of_hidden_rows_alone_and_a_hidden_header_are_refused(tmp_path):
    book = make_book(2)
    book.active.row_dimensions[2].hidden = book.active.row_dimensions[3].hidden = True
    with pytest.raises(UserError, match="only column names and 2 hidden rows; unhide them"):
        read(save(book, tmp_path))
    book = make_book(2)
    book.active.row_dimensions[1].hidden = True
    with pytest.raises(UserError, match="expected column names in the first row, found it hidden"):
        read(save(book, tmp_path))


def test_hidden_sheets_are_left_out_and_named(tmp_path, capsys):
    book = make_book(2)
    book.create_sheet("lists").append(["yes", "no"])
    with pytest.raises(UserError, match="found 2: 'Sheet', 'lists'; keep one, or hide the others"):
        read(save(book, tmp_path))
    for state in ("hidden", "veryHidden"):
        book["lists"].sheet_state = state
        assert len(read(save(book, tmp_path))) == 2
    assert "sheet 'Sheet' is read; hidden sheets are left out: 'lists'" in capsys.readouterr().err
    for cell in next(book["Sheet"].iter_rows(max_row=1)):
        cell.value = None
    book["Sheet"].delete_rows(1, 9)
    with pytest.raises(UserError, match="found content in hidden sheets only: 'lists'; unhide one"):
        read(save(book, tmp_path))


def test_a_hidden_column_is_read_where_it_is_named_and_that_is_said(tmp_path, capsys):
    book = make_book(2)
    book.active.column_dimensions["C"].hidden = True
    assert read(save(book, tmp_path))[0] == ("i00", "0", "p0")
    assert "hidden in the sheet are read, because settings name them: 'P' (group_column)" in capsys.readouterr().err


def test_a_cell_merged_over_rows_counts_in_each(tmp_path, capsys):
    """One patient's cell beside four images is how clinics write groups."""
    book = make_book(6)
    for area in ("C2:C5", "C6:C7"):
        book.active.merge_cells(area)
    assert [row[2] for row in read(save(book, tmp_path))] == ["p0"] * 4 + ["p1"] * 2
    assert "2 cells merged over several rows count as their value in each" in capsys.readouterr().err
    book.active.row_dimensions[2].hidden = True  # the sheet still shows the value beside the rows that are left
    assert [row[2] for row in read(save(book, tmp_path))] == ["p0"] * 3 + ["p1"] * 2


def test_cells_merged_over_columns_are_refused_where_they_matter(tmp_path):
    book = make_book(3)
    book.active.merge_cells("B3:C3")
    with pytest.raises(UserError, match=r"cells merged over several columns \(2\): B3 in B3:C3, C3 in B3:C3; unmerge them"):
        read(save(book, tmp_path))
    assert len(read(save(book, tmp_path), {"image_column": "IMAGE_NAME"})) == 3


@pytest.mark.parametrize(("cell", "value", "number_format", "message"), [
    ("A3", datetime.datetime(2024, 3, 1), "d-mmm", r"dates or times, .* such as 3-1 \(1\): A3 holds 2024-03-01; format"),
    ("A3", datetime.datetime(2024, 3, 1), "yyyy-mm-dd", r"found dates \(1\): A3 holds 2024-03-01; format the column as t"),
    ("B4", datetime.time(1, 2), "h:mm", r"dates or times"),
    ("C3", datetime.datetime(2024, 3, 1), "d-mmm", r"dates or times"),
    ("B2", 0.4, "0", r"numbers shown rounded \(1\): B2 shows 0, holds 0.4; type the intended number"),
    ("C2", 1.26, "0.0", r"C2 shows 1.3, holds 1.26"),
    ("C2", 1234567890123456, "General", r"more than 15 digits, .* \(1\): C2 1234567890123456"),
    ("C2", "#REF!", "General", r"found errors \(1\): C2 #REF!; correct the formula"),
    ("B5", "=1+1", "General", r"formulas that were never computed \(1\): B5; open the workbook"),
])
def test_a_cell_that_is_not_what_the_sheet_shows_is_refused_by_its_name(tmp_path, cell, value, number_format, message):
    book = make_book()
    book.active[cell] = value
    book.active[cell].number_format = number_format
    if value == "#REF!":
        book.active[cell].data_type = "e"
    with pytest.raises(UserError, match=message):
        read(save(book, tmp_path))
    others = {setting: name for setting, name in COLUMNS.items() if name != {"A": "IMAGE_NAME", "B": "y", "C": "P"}[cell[0]]}
    assert len(read(save(book, tmp_path), others)) == 16


def test_a_row_of_formulas_alone_is_not_taken_for_a_blank_one(tmp_path):
    book = make_book(2)
    book.active.append(['="i"&"02"', "=0+1", '="p"&"1"'])
    with pytest.raises(UserError, match=r"formulas that were never computed \(3\): A4, B4, C4"):
        read(save(book, tmp_path))


def test_dates_name_groups_and_covariates_keep_every_text(tmp_path):
    book = make_book(2)
    for row in (2, 3):
        book.active.cell(row, 3).value = datetime.datetime(2024, 3, row)
        book.active.cell(row, 4).value = datetime.time(row)
    path = save(book, tmp_path)
    columns = {"group_column": "P", "covariate_columns.extra": "extra"}
    assert read(path, columns) == [("2024-03-02 00:00:00", "02:00:00"), ("2024-03-03 00:00:00", "03:00:00")]


def test_booleans_text_and_numbers_stored_as_text_are_read_as_they_look(tmp_path):
    book = openpyxl.Workbook()
    for line in (["IMAGE_NAME", "y", "P"], [True, "TRUE", "0017"], [False, "1", " 17"], [3.0, 1.5, 17]):
        book.active.append(line)
    for row in range(5, 40):  # rows that only have a format
        book.active.cell(row, 2).number_format = "0.00"
    assert read(save(book, tmp_path)) == [("TRUE", "TRUE", "0017"), ("FALSE", "1", " 17"), ("3", "1.5", "17")]


def test_numbers_of_names_and_patients_have_the_zeros_that_the_sheet_shows(tmp_path):
    book = make_book(2)
    for row in (2, 3):
        book.active.cell(row, 1).value, book.active.cell(row, 1).number_format = row, "0000"
        book.active.cell(row, 2).number_format = '0 "points"'
        book.active.cell(row, 3).value, book.active.cell(row, 3).number_format = 17, '"P"000'
    assert read(save(book, tmp_path)) == [("0002", "0", "P017"), ("0003", "1", "P017")]


@pytest.mark.parametrize(("value", "number_format", "shown"), [
    (17, "0000", ("0017", None)), (17, "General", (None, None)), (17, "@", (None, None)), (17, "0", ("17", None)),
    (9148, "#,##0", ("9148", None)), (9148, "#,##0,", (None, None)), (123456789, "000-00-0000", ("123-45-6789", None)),
    (12345, "00-00", ("123-45", None)), (-7, "000", ("-007", None)), (-7, "000;(000)", ("(007)", None)),
    (7, r"\P00", ("P07", None)), (7, '"a;b"0;"c"0', ("a;b7", None)), (7, "[Red]00", ("07", None)), (0, "#", ("", None)),
    (0.4, "0", (None, "0")), (0.26, "0.0", (None, "0.3")), (0.25, "0.00", (None, None)), (0.5, "0%", (None, None)),
    (0.5, "# ?/?", (None, None)), (1500, "0.0E+00", (None, None)), (3, "[>5]00;0", (None, None)),
    (3.0, "0.00", (None, None)),
])
def test_formats_of_numbers(value, number_format, shown):
    assert _show_number(value, number_format) == shown


def test_a_far_cell_and_a_long_merged_column_cost_nothing(tmp_path):
    book = make_book(2)
    book.active["XFD1048576"] = " "
    merged = b'</sheetData><mergeCells count="1"><mergeCell ref="C3:C1048576"/></mergeCells>'
    assert len(read(edit(save(book, tmp_path), b"</sheetData>", merged))) == 2


# Delimited text

TEXT = "IMAGE_NAME;y;P\nm\u00fcller_1;0;p0\nm\u00fcller_2;1;p1\n"


@pytest.mark.parametrize(("head", "delimiter"), [
    ("sep=;\n", ";"), ("sep=;\r\n", ";"), ('"sep=;"\n', ";"), ("SEP=,\n", ","), ("sep=\t\n", "\t"), ("sep=|\n", "|"),
])
def test_a_line_that_names_the_delimiter_is_no_row(tmp_path, head, delimiter):
    path = tmp_path / "t.csv"
    path.write_text(head + TEXT.replace(";", delimiter), encoding="utf-8")
    rows = read_table(path, COLUMNS, None, "")
    assert [tuple(row.cells.values()) for row in rows] == [("m\u00fcller_1", "0", "p0"), ("m\u00fcller_2", "1", "p1")]
    assert rows[0].where == "row 2"  # as spreadsheet programs count, which do not show the line


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_encodings_read_alike_and_only_a_guess_is_said(tmp_path, capsys, encoding):
    path = tmp_path / "t.csv"
    path.write_bytes(TEXT.encode(encoding))
    assert [row[0] for row in read(path)] == ["m\u00fcller_1", "m\u00fcller_2"]
    note = (f"note: {path}: is not in UTF-8 and was read as Windows-1252 (Western Europe): 'm\u00fcller_1', "
            "'m\u00fcller_2'; if letters are wrong, save the table as 'CSV UTF-8' or as .xlsx\n")
    assert capsys.readouterr().err == (note if encoding == "cp1252" else "")


@pytest.mark.parametrize("data", [
    TEXT.encode() + b"m\xfcller;0;p2\n",  # two encodings
    TEXT.encode("utf-8-sig") + b"\xfc",
    TEXT.encode().rpartition(b"\xbc")[0],  # cut within a letter
    TEXT.encode("cp1252") + b"\x81;0;p2\n",  # a byte that cp1252 has no letter for
    TEXT.encode("utf-16")[:-1],
])
def test_damaged_text_is_not_guessed(tmp_path, data):
    (tmp_path / "t.csv").write_bytes(data)
    with pytest.raises(UserError, match=r"expected text in UTF-8, found byte 0x.. at position \d+; save the table"):
        read(tmp_path / "t.csv")


@pytest.mark.parametrize(("text", "number"), [
    ("0,5", "0.5"), ("-15,0", "-15.0"), (",5", ".5"), ("0,345", "0.345"), ("12,34", "12.34"), ("1,2345", "1.2345"),
    ("1,234", "1,234"), ("1.234,5", "1.234,5"), ("a,5", "a,5"), ("5", "5"), ("1,", "1,"),
])
def test_decimal_commas_become_points_unless_they_can_be_thousands(text, number):
    assert with_point(text) == number


def test_a_header_is_found_in_either_unicode_form(tmp_path):
    (tmp_path / "t.csv").write_text("gro\u0308\u00dfe\n1\n", encoding="utf-8")
    assert read(tmp_path / "t.csv", {"label_column": "gr\u00f6\u00dfe"}) == [("1",)]


# Any table


def cells(alphabet: st.SearchStrategy[str]) -> st.SearchStrategy[list[list[str]]]:
    """Rows of three cells below three names; no cell is blank."""
    text = st.text(alphabet, min_size=1, max_size=8).filter(lambda cell: cell.strip() and cell.isprintable())
    return st.lists(st.lists(text, min_size=3, max_size=3), min_size=1, max_size=6)


HEADER = list(COLUMNS.values())
QUIET = settings(deadline=None, max_examples=30, suppress_health_check=list(HealthCheck))


@QUIET
@given(rows=cells(st.characters(codec="cp1252", exclude_categories=["C"])), delimiter=st.sampled_from(",;\t"),
       encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252"]), line=st.sampled_from(["\n", "\r\n", "\r"]),
       head=st.booleans(), quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
def test_delimited_text_reads_back_in_every_dialect(tmp_path, rows, delimiter, encoding, line, head, quoting):
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, lineterminator=line, quoting=quoting).writerows([HEADER, *rows])
    path = tmp_path / "t.csv"
    data = ((f"sep={delimiter}{line}" if head else "") + text.getvalue()).encode(encoding)
    path.write_bytes(data)
    assume(encoding != "cp1252" or not _MULTIBYTE.search(data))  # letters whose bytes happen to be UTF-8
    assert read(path) == [tuple(row) for row in rows]


@QUIET
@given(rows=cells(st.characters(exclude_categories=["C"])), hidden=st.sets(st.integers(0, 5)))
def test_a_workbook_reads_back_but_for_its_hidden_rows(tmp_path, rows, hidden):
    book = openpyxl.Workbook()
    for line in [HEADER, *rows]:
        tables.append_cells(book.active, line)
    for row in hidden:
        book.active.row_dimensions[row + 2].hidden = True
    path = save(book, tmp_path)
    left = [(f"row {n + 2}", *row) for n, row in enumerate(rows) if n not in hidden]
    if not left:
        with pytest.raises(UserError, match="hidden rows; unhide them"):
            read(path)
    else:
        assert [(row.where, *row.cells.values()) for row in read_table(path, COLUMNS, None, "")] == left


@QUIET
@given(rows=cells(st.characters(exclude_categories=["C"])), suffix=st.sampled_from([".csv", ".tsv", ".xlsx"]))
def test_what_write_table_writes_reads_back(tmp_path, rows, suffix):
    path = tmp_path / f"t{suffix}"
    tables.write_table(path, [HEADER, *rows])
    assert read_lines(path, HEADER) == [HEADER, *rows]
