"""Holds tools.init.sheet to its word: headers and cells speak, and where they are not clear nothing is chosen."""

from pathlib import Path

import openpyxl
import pytest

from config.errors import UserError
from dataset.image_folder import ImageFolder
from tools.init import sheet as sheets
from tools.init.sheet import Sheet


def make(**columns: str) -> Sheet:
    return Sheet({"": Path("t.csv")}, {name: cells.split() for name, cells in columns.items()}, [])


@pytest.mark.parametrize("header", ["PATIENT_ID", "patient", "PatientID", "Patient No.", "embryo id", "EMBRYO_ID", "case",
                                    "oocyte_number", "id_patient"])
def test_a_header_that_says_so_is_a_group(header):
    assert sheets.find_group_column(make(**{"IMAGE": "a b", header: "1 2"})) == header


@pytest.mark.parametrize("header", ["patient_age", "embryo_grade", "ID", "group", "folder", "name", "cyclists"])
def test_no_other_header_is(header):
    assert sheets.find_group_column(make(**{"IMAGE": "a b", header: "1 2"})) is None


def test_the_coarsest_group_is_chosen():
    columns = {"IMAGE": "a b", "EMBRYO_ID": "1 2", "cycle": "1 1", "PATIENT_ID": "1 1"}
    assert sheets.find_group_column(make(**columns)) == "PATIENT_ID"
    columns.pop("PATIENT_ID")
    assert sheets.find_group_column(make(**columns)) == "cycle"


def labels(**columns: str) -> tuple[list[str], list[str]]:
    return sheets.find_label_columns(make(**columns), ("IMAGE",))


def test_labels_are_named_by_header_then_by_range_then_by_text():
    columns = {"IMAGE": "a b c d e f", "good": "0 1 0 1 1 0", "grade": "3AA 3AA 4BB 4BB 3AA 4BB", "age": "31 31 35 35 36 36",
               "plane": "-15 0 15 -15 0 15"}
    assert labels(**columns) == (["good"], ["good", "grade"])
    assert labels(**columns, Outcome="no yes no yes no yes") == (["Outcome"], ["good", "grade", "Outcome"])
    assert labels(**columns, bad="1 0 1 0 1 0") == (["good", "bad"], ["good", "grade", "bad"])
    columns.pop("good")
    assert labels(**columns) == (["grade"], ["grade"])


@pytest.mark.parametrize("cells", ["0 0 0 0", "a b c d", "1.5 2.5 1.5 2.5"])
def test_constants_names_and_measurements_are_no_labels(cells):
    assert labels(IMAGE="a b c d", x=cells) == ([], [])


def test_missing_values_are_no_label():
    """R writes NA, pandas nan, spreadsheets #N/A."""
    assert sheets.list_labels(["0", "1", "NA", "1", "nan", "#N/A", "null", " "]) == ["0", "1"]
    assert sheets.list_labels(["none", "blast", "N/A"]) == ["blast", "none"]


@pytest.mark.parametrize("word", ["ND", "n.d.", "NA", "N/A", "-", "?", "\u2013", "", "NaN"])
def test_words_for_a_missing_label_are_no_class(word):
    cells = ["A", "B", word, "A", f" {word} ", "B"]
    assert sheets.list_labels(cells) == ["A", "B"]
    assert sheets.find_missing_labels(cells) == {word: [2, 4]}


def test_a_minus_beside_a_plus_is_a_class_and_unknown_is_doubtful():
    assert sheets.list_labels(["+", "-", "+", "ND"]) == ["+", "-"]
    assert sheets.find_doubtful_labels(["A", "Unknown", "none", "none", "ND"]) == {"Unknown": 1, "none": 2}


def test_decimal_commas_are_numbers():
    sheet = make(IMAGE="a b c d", plane="-15,0 0 15,0 0", um_per_px="0,345 0,345 0,345 0,345")
    assert sheets.find_pixel_size(sheet) == ("um_per_px", 0.345)
    assert sheets.find_ordinal_columns(sheet, ("IMAGE",)) == {"plane": ["-15", "0", "15"]}


@pytest.mark.parametrize(("text", "message"), [
    ("IMAGE,y,y\na,0,1\n", "found twice: 'y'"),
    ("IMAGE,y\na,0,1\n", "row 2 has 3"),
    ("IMAGE,y\na\n", "row 2 has 1"),
    ("IMAGE,y\n", "only column names"),
])
def test_what_training_refuses_is_refused_here(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        sheets.read_sheet({"": tmp_path / "t.csv"})


def test_a_semicolon_table_is_read_though_a_header_has_more_commas(tmp_path):
    """No column is wanted yet: the delimiter is the one that makes every row as wide as the header."""
    (tmp_path / "t.csv").write_text("IMAGE;y;a,b,c,d\na;0;1\nb;1;2\n", encoding="utf-8")
    assert list(sheets.read_sheet({"": tmp_path / "t.csv"}).columns) == ["IMAGE", "y", "a,b,c,d"]


def test_hidden_rows_and_columns_are_left_out_with_a_note(tmp_path):
    book = openpyxl.Workbook()
    for line in (["IMAGE", "y", "old"], [7, 0, 1], [8, 1, 1], [9, 1, 0]):
        book.active.append(line)
        book.active.cell(book.active.max_row, 1).number_format = "000"
    book.active.row_dimensions[3].hidden = book.active.column_dimensions["C"].hidden = True
    book.save(tmp_path / "t.xlsx")
    sheet = sheets.read_sheet({"": tmp_path / "t.xlsx"})
    assert sheet.columns == {"IMAGE": ["7", "9"], "y": ["0", "1"]} and sheet.as_shown("IMAGE") == ["007", "009"]
    assert list(sheet.places) == ["row 2", "row 4"]
    rows, columns = sheet.notes
    assert "the sheet has 3 rows, 2 are read" in rows and "hidden columns are left out: 'old'; unhide" in columns


def test_columns_that_not_all_tables_have_are_named(tmp_path):
    (tmp_path / "train.csv").write_text("IMAGE,y,P\na,0,p\n", encoding="utf-8")
    (tmp_path / "test.csv").write_text("IMAGE,y,Q\nb,1,q\n", encoding="utf-8")
    sheet = sheets.read_sheet({"train": tmp_path / "train.csv", "test": tmp_path / "test.csv"})
    assert list(sheet.columns) == ["IMAGE", "y"] and sheet.split_of_row == ["train", "test"]
    assert sheet.notes == ["columns that not all tables have are left out: 'P', 'Q'"]


def test_a_typing_error_does_not_hide_the_labels():
    cells = ["0", "1"] * 100 + ["yess"]
    assert sheets.list_labels(cells) == ["0", "1"]
    assert sheets.list_labels(["0", "1.0", "1", "2"]) == ["0", "1", "2"]
    assert sheets.list_labels(["10", "9", "b", "a", " "]) == ["9", "10", "a", "b"]


def test_splits_planes_and_pixel_sizes_are_found():
    sheet = make(IMAGE="a b c d", SET="Train valid test TRAIN", FOCAL_PLANE_UM="-15 0 15 0", um_per_px="0.5 0.5 0.5 0.5")
    assert sheets.find_split_column(sheet) == "SET"
    assert sheets.find_plane_column(sheet) == "FOCAL_PLANE_UM"
    assert sheets.find_pixel_size(sheet) == ("um_per_px", 0.5)
    assert sheets.find_pixel_size(make(PixelSize_um="0.5 0.6")) == ("PixelSize_um", None)
    assert sheets.find_pixel_size(make(um_per_px="300 300")) == ("um_per_px", None)
    assert sheets.find_split_column(make(SET="a b")) is None and sheets.find_plane_column(make(zone="1 1 2")) is None


def test_the_image_column_is_the_one_that_names_files(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.png").touch()
    folder = ImageFolder.scan(tmp_path)
    assert sheets.find_image_column(make(ID="1 2 3", File="a b.png gone"), folder) == "File"
    with pytest.raises(UserError, match=r"found none \('File' has 'x', 'y', 'z', the folder a.png, b.png, c.png\)"):
        sheets.find_image_column(make(Set="1 1 1", File="x y z"), folder)


def put(root: Path, *names: str) -> list[Path]:
    for name in names:
        (root / name).write_text("IMAGE,y\na,0\n")
    return [root / name for name in names]


def test_tables_are_found_by_their_split(tmp_path):
    train, valid, test = put(tmp_path, "train.csv", "labels_valid.csv", "Test.tsv")
    assert sheets.find_tables([tmp_path]) == {"train": train, "val": valid, "test": test}
    assert sheets.find_tables([test, train]) == {"train": train, "test": test}
    assert sheets.find_tables([valid]) == {"": valid}


@pytest.mark.parametrize(("names", "message"), [
    ((), "expected a table .* found none in this folder"),
    (("a.csv", "b.csv"), "or one named for each of train, val and test; found"),
    (("train.csv", "train_2.csv"), "or one named for each of train, val and test"),
    (("test.csv", "val.csv"), "expected a table for train"),
])
def test_unclear_tables_are_refused(tmp_path, names, message):
    put(tmp_path, *names)
    with pytest.raises(UserError, match=message):
        sheets.find_tables([tmp_path])
