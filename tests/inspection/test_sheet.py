"""Holds tools.inspection.sheet to its word: headers and cells speak, and where they are not clear nothing is chosen."""

from pathlib import Path

import pytest

from config.errors import UserError
from dataset.image_folder import ImageFolder
from tools.inspection import sheet as sheets
from tools.inspection.sheet import Sheet


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
