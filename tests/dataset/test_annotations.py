"""Holds dataset.annotations to its word: exact names, whole groups, fair draws, and one clear line for each mistake."""

import os
import pickle
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path

import openpyxl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config.errors import UserError
from dataset import tables as tables_module
from dataset.annotations import (
    AnnotationError,
    ImageRecord,
    describe_splits,
    read_records,
)
from dataset.records import NO_LABEL
from dataset.splits import draw_splits

CLASSES = ("no", "yes")
SHARED = Path(__file__).parents[2].parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared sample data are not here")


def make_folder(root: Path, names) -> Path:
    """Empty files: annotations never opens them."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def write_table(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


@pytest.fixture
def images(tmp_path) -> Path:
    root = tmp_path / "images"
    root.mkdir()
    return make_folder(root, [f"i{n:02d}.png" for n in range(40)])


@pytest.fixture
def read(tmp_path, images):
    """Read a table given as text or a path, label column `y`."""

    def run(table, **settings):
        if isinstance(table, str):
            table = write_table(tmp_path / "labels.csv", table)
        return read_records(table, images, **{"class_names": CLASSES, "label_column": "y", **settings})

    return run


def rows(count: int, start: int = 0) -> str:
    """Rows of images i00, i01, ... with labels in turn."""
    return "".join(f"i{n:02d},{n % 2}\n" for n in range(start, start + count))


BODY = "IMAGE_NAME,y\n" + rows(12)


# Labels and tables that are right


@pytest.mark.parametrize("text", ["1", "1.0", "1.", "+1", " 1 ", "yes", " yes "])
def test_label_spellings_mean_the_same_class(read, text):
    records = read(f"IMAGE_NAME,y,s\ni00,{text},train\ni01,no,train\n", split_column="s")
    assert [record.label for record in records] == [1, 0]


def test_record_holds_name_path_group_and_split(read, images):
    text = "IMAGE_NAME,y,g,s\ni01.png,1,P7,train\ni00,0,P8,Test\ni02,0,P9,train\n"
    records = read(text, group_column="g", split_column="s")
    assert records[0] == ImageRecord("i01.png", images / "i01.png", 1, "P7", "train")
    assert records[1] == ImageRecord("i00", images / "i00.png", 0, "P8", "test")


STACK = {"PLANE": ("-15", "0", "15"), "GRADE": ("C", "B", "A")}
STACK_TABLE = ("IMAGE_NAME,y,GRADE,PLANE,CLINIC,s\n" "i00,1, A ,-15,north,train\n" "i01,0,C,15.0,,train\n"
               "i02,0,B,0, south ,val\n")


def test_record_holds_levels_in_the_order_of_the_settings_and_covariates_as_text(read):
    records = read(STACK_TABLE, split_column="s", conditions=STACK, covariate_columns=("CLINIC", "y"))
    assert [record.conditions for record in records] == [(0, 2), (2, 0), (1, 1)]
    assert [record.covariates for record in records] == [("north", "1"), ("", "0"), ("south", "0")]
    plain = read(STACK_TABLE, split_column="s")
    assert all((record.conditions, record.covariates) == ((), ()) for record in plain)


def test_drawn_splits_keep_conditions_and_covariates_and_do_not_depend_on_them(read):
    table = "IMAGE_NAME,y,PLANE,CLINIC\n" + "".join(f"i{n:02d},{n % 2},{n % 3},c{n}\n" for n in range(30))
    records = read(table, conditions={"PLANE": ("0", "1", "2")}, covariate_columns=("CLINIC",), val_from_train=0.2,
                   split_fractions={"train": 0.7, "test": 0.3})
    assert {record.split for record in records} == {"train", "val", "test"}
    for n, record in enumerate(records):
        assert (record.conditions, record.covariates) == ((n % 3,), (f"c{n}",))
    plain = read(table, val_from_train=0.2, split_fractions={"train": 0.7, "test": 0.3})
    assert [record.split for record in plain] == [record.split for record in records]


def test_cells_that_name_no_level_are_told_all_at_once(read):
    bad = STACK_TABLE + "i03,7,D,,north,train\n" + "i04,0,,7,north,train\n"
    with pytest.raises(AnnotationError) as caught:
        read(bad, split_column="s", conditions=STACK)
    message = str(caught.value)
    assert "labels that cannot be used (1): row 5 '7'" in message
    assert "cells of PLANE that name no level (2): row 5 blank, row 6 '7'; write one of -15, 0, 15" in message
    assert "cells of GRADE that name no level (2): row 5 'D', row 6 blank; write one of C, B, A" in message
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize(("settings_", "part"), [
    ({"conditions": {"y": ("0", "1")}}, "conditions: 'y' is the label column"),
    ({"conditions": {"PLANE": ("0",)}}, "conditions: 'PLANE': expected two levels or more"),
    ({"conditions": {"PLANE": "01"}}, "found '01'"),
    ({"conditions": {"PLANE": ("0", "0")}}, "all different"),
    ({"conditions": {"PLANE": ("0", "1 ")}}, "without spaces around them"),
    ({"conditions": {"GRADES": ("A", "B")}}, "expected a column 'GRADES' (conditions.GRADES)"),
    ({"covariate_columns": ("CLINICS",)}, "did you mean covariate_columns.CLINICS: 'CLINIC'?"),
    ({"covariate_columns": ("CLINIC", "CLINIC")}, "covariate_columns: expected each column once"),
])
def test_conditions_and_covariates_that_cannot_be_read_are_refused(read, settings_, part):
    with pytest.raises(UserError) as caught:
        read(STACK_TABLE, split_column="s", **settings_)
    assert part in str(caught.value)


def test_group_is_the_image_without_a_group_column(read):
    assert all(record.group == record.image_id for record in read(BODY))


@pytest.mark.parametrize(
    ("text", "encoding", "suffix"),
    [
        (BODY, "utf-8", ".csv"),
        (BODY, "utf-8-sig", ".csv"),
        (BODY.replace(",", ";"), "utf-8", ".csv"),
        (BODY.replace(",", "\t"), "utf-8", ".csv"),
        (BODY.replace(",", "\t"), "utf-8", ".tsv"),
        (BODY.replace("\n", "\r\n"), "utf-8", ".csv"),
        (BODY.replace("\n", "\n\n"), "utf-8", ".csv"),
        (BODY.replace("\n", ",,\n"), "utf-8", ".csv"),
        (BODY.replace("i00", '"i00"'), "utf-8", ".csv"),
    ],
)
def test_dialects_of_csv_read_alike(tmp_path, read, text, encoding, suffix):
    table = write_table(tmp_path / f"other{suffix}", text, encoding)
    assert read(table) == read(BODY)


def test_delimiter_is_the_one_that_shows_the_wanted_columns(read):
    text = "IMAGE_NAME;y;a,b,c,d\n" + "".join(f"i{n:02d};{n % 2};1,2,3,4\n" for n in range(12))
    assert len(read(text)) == 12


def test_xlsx_reads_like_csv(tmp_path, read):
    book = openpyxl.Workbook()
    book.create_sheet("empty")
    book.active.append(["IMAGE_NAME", "y"])
    for n in range(12):
        book.active.append([f"i{n:02d}", float(n % 2)])
    book.save(tmp_path / "labels.xlsx")
    assert read(tmp_path / "labels.xlsx") == read(BODY)


def test_xlsx_numbers_are_text_without_a_point(tmp_path, read, images):
    make_folder(images, ["12.png", "13.png"])
    book = openpyxl.Workbook()
    book.active.append(["IMAGE_NAME", "y", "g", "s"])
    book.active.append([12.0, 1, 7.0, "train"])
    book.active.append([13, 0, 7.5, "train"])
    book.save(tmp_path / "labels.xlsx")
    records = read(tmp_path / "labels.xlsx", group_column="g", split_column="s")
    assert [(record.image_id, record.group) for record in records] == [("12", "7"), ("13", "7.5")]


def test_zeros_before_a_number_stay(read, images):
    make_folder(images, ["000123.png", "123.png"])
    records = read("IMAGE_NAME,y,s\n000123,1,train\n123,0,train\n", split_column="s")
    assert [record.path.name for record in records] == ["000123.png", "123.png"]


# Names


def test_subfolders_need_their_path(read, images):
    make_folder(images, ["a/deep.png", "a/b/i00.tif"])
    records = read("IMAGE_NAME,y,s\na/deep,1,train\na/b/i00.tif,0,train\ni00,0,train\n", split_column="s")
    found = [record.path.relative_to(images).as_posix() for record in records]
    assert found == ["a/deep.png", "a/b/i00.tif", "i00.png"]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".PNG", ".Jpg"])
def test_every_supported_suffix_can_be_left_out(read, images, suffix):
    make_folder(images, [f"x.1{suffix}"])
    assert read("IMAGE_NAME,y,s\nx.1,1,train\ni00,0,train\n", split_column="s")[0].path.name == f"x.1{suffix}"


def test_link_within_the_folder_is_a_file_like_others(read, images):
    (images / "link.png").symlink_to(images / "i00.png")
    assert read("IMAGE_NAME,y,s\nlink,1,train\ni01,0,train\n", split_column="s")[0].path == images / "link.png"


def test_unused_and_odd_files_do_no_harm(read, images):
    make_folder(images, ["notes.txt", ".hidden", "a/i00.png"])
    (images / "circle.png").symlink_to(images / "circle.png")
    (images / "nowhere.png").symlink_to(images / "gone.png")
    (images / "up").symlink_to(images)
    assert len(read(BODY)) == 12


SPLIT_HEADER = "IMAGE_NAME,y,s\n"
GOOD_ROWS = "i30,0,train\ni31,1,train\n"


@pytest.mark.parametrize(
    ("bad_rows", "parts"),
    [
        (",1,train\n", ["rows without an image name (1): row 4"]),
        ("../i00,1,train\n", ["lead out of", "row 4 ../i00", "without '..'"]),
        ("a/../i00,1,train\n", ["lead out of"]),
        ("/i00.png,1,train\n", ["lead out of", "relative to root_dir"]),
        ("C:\\i00.png,1,train\n", ["lead out of"]),
        ("both,1,train\n", ["fit several files", "row 4 both (both.jpg and both.png)", "with its suffix"]),
        ("gone,1,train\n", ["images not found in", "(1): row 4 gone; correct the names"]),
        ("IMG01,1,train\n", ["found Img01.PNG: names must match exactly"]),
        ("Img01.png,1,train\n", ["found Img01.PNG: names must match exactly"]),
        ("i00 ,1,train\n", ["row 4 'i00 ' (found i00.png: names must match exactly)"]),
        ("C:\\data\\i00.png,1,train\n", ["lead out of", "row 4 C:\\data\\i00.png (found i00.png", "called 000123.png"]),
        ("file:///C:/data/i00.png,1,train\n", ["row 4 file:///C:/data/i00.png (found i00.png: names must match exactly)"]),
        ("elsewhere/a/deep.png,1,train\n", ["found a/deep.png"]),
        ("i00.png\u00a0,1,train\n", [r"row 4 'i00.png\xa0' (found i00.png"]),
        ("9148.0,1,train\n", ["row 4 9148.0 (found 9148.png: names must match exactly)"]),
        ("1E+05,1,train\n", ["row 4 1E+05 (found 1e05.png: names must match exactly)"]),
        ("m\u00fcller,1,train\n", ["row 4 m\u00fcller (found m\\xfcller.png: give the file a name in UTF-8"]),
        ('"line\nbreak",1,train\n', ["images whose names hold control characters (1)", r"row 4 'line\nbreak'"]),
        ("a\\deep,1,train\n", ["found a/deep.png"]),
        ("./i00,1,train\n", ["found i00.png"]),
        ("123,1,train\n", ["found 000123.png"]),
        ("anim,1,train\n", ["found anim.gif: not one of .png"]),
        ("deep,1,train\n", ["not found", "row 4 deep"]),
        ("outer,1,train\n", ["behind a link", "row 4 outer"]),
        ("linked/x,1,train\n", ["behind a link", "row 4 linked/x"]),
        ("i00,1,train\ni00.png,1,train\n", ["name an image again", "i00.png (row 4 and row 5, the same label)"]),
        ("i00,1,train\ni00,0,train\n", ["i00 (row 4 and row 5, labels that differ)"]),
        ("i00,1,train\nsame,1,train\n", ["same (row 4 and row 5"]),
        ("i00,,train\n", ["labels that cannot be used", "row 4 blank", "an integer from 0 to 1 or one of no, yes"]),
        ("i00,nan,train\n", ["row 4 'nan'"]),
        ("i00,2,train\n", ["row 4 '2'"]),
        ("i00,-1,train\n", ["row 4 '-1'"]),
        ("i00,0.5,train\n", ["row 4 '0.5'"]),
        ("i00,Yes,train\n", ["row 4 'Yes'"]),
        ("i00,99999999999999999999,train\n", ["row 4 '9999"]),
        ("i00,1,\n", ["splits that cannot be used", "row 4 blank", "write train, val or test"]),
        ("i00,1,dev\n", ["row 4 'dev'"]),
        ("".join(f"i0{n},{n + 2},train\n" for n in range(6)), ["labels that cannot be used (6): row 4", "and 1 more"]),
        ("\n,,\ni00,7,train\n", ["row 6 '7'"]),
        ('"a\nb",1,train\n', [r"row 4 'a\nb'"]),
    ],
)
def test_bad_rows_are_named(tmp_path, read, images, bad_rows, parts):
    make_folder(images, ["both.png", "both.jpg", "Img01.PNG", "a/deep.png", "000123.png", "anim.gif", "9148.png",
                         "1e05.png", b"m\xfcller.png".decode("utf-8", "surrogateescape"), "line\nbreak.png"])
    make_folder(tmp_path / "elsewhere", ["outer.png", "x.png"])
    (images / "outer.png").symlink_to(tmp_path / "elsewhere" / "outer.png")
    (images / "linked").symlink_to(tmp_path / "elsewhere")
    (images / "same.png").symlink_to(images / "i00.png")
    with pytest.raises(AnnotationError) as caught:
        read(SPLIT_HEADER + GOOD_ROWS + bad_rows, split_column="s")
    message = str(caught.value)
    assert "\n" not in message and "labels.csv" in message
    for part in parts:
        assert part in message, message


def test_a_name_that_no_file_has_stands_beside_names_that_there_are(tmp_path, read):
    """A table of another export: every name is wrong, and what is right is seen from the message alone."""
    with pytest.raises(AnnotationError) as caught:
        read(SPLIT_HEADER + GOOD_ROWS + "/3/9148_7.png,1,train\n9148_7.png,0,train\n", split_column="s")
    outside, missing = str(caught.value).split("; also ")
    for part, name in ((outside, "row 4 /3/9148_7.png"), (missing, "row 5 9148_7.png")):
        assert name in part
        assert part.endswith("; the images there are called i00.png, i01.png, i02.png and 37 more")
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="none holds no images"):
        read_records(tmp_path / "labels.csv", tmp_path / "none", class_names=CLASSES, label_column="y", split_column="s")


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_labels_and_levels_match_in_either_unicode_form(read, images, form):
    """A table written on one system and files copied to another: the same letters by other code points."""
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    on_disk, in_table = (unicodedata.normalize(f, "m\u00fcller") for f in (form, other))
    make_folder(images, [f"{on_disk}/{on_disk}.png"])
    label, level = (unicodedata.normalize(other, text) for text in ("\u00e9chec", "\u00e0"))
    settings = {"class_names": (unicodedata.normalize(form, "\u00e9chec"), "yes"), "split_column": "s",
                "conditions": {"c": (unicodedata.normalize(form, "\u00e0"), "b")}}
    for name in (f"{in_table}/{in_table}", f"{in_table}/{in_table}.png"):
        records = read(f"IMAGE_NAME,y,c,s\n{name},{label},{level},train\ni01,yes,b,train\n", **settings)
        assert records[0].path == images / on_disk / f"{on_disk}.png" and records[0].image_id == name
        assert (records[0].label, records[0].conditions) == (0, (0,))


def test_a_name_that_fits_two_unicode_forms_is_not_guessed(read, images):
    make_folder(images, ["a\u0301\u0323.png", "\u00e1\u0323.png"])  # neither composed, both the same when composed
    with pytest.raises(AnnotationError, match="fit several files"):
        read(SPLIT_HEADER + GOOD_ROWS + "\u1ea1\u0301,1,train\n", split_column="s")
    assert read(SPLIT_HEADER + GOOD_ROWS + "\u00e1\u0323,1,train\n", split_column="s")[2].path.stem == "\u00e1\u0323"


def test_all_kinds_of_bad_rows_come_at_once_with_all_offenders(read):
    bad = "".join(f"gone{n},9,dev\n" for n in range(9))
    with pytest.raises(AnnotationError) as caught:
        read(SPLIT_HEADER + GOOD_ROWS + bad, split_column="s")
    assert [len(problem.offenders) for problem in caught.value.problems] == [9, 9, 9]
    assert str(caught.value).count("and 4 more") == 3
    assert pickle.loads(pickle.dumps(caught.value)).problems == caught.value.problems


def test_an_error_has_the_rows_of_each_offender_and_the_other_images(read):
    bad = "i01,1,test,P1\ni02,9,train,P2\ni03,1,train,P3\ni03,0,train,P3\ni04,1,train,P4\ni04,1,train,P4\n"
    with pytest.raises(AnnotationError) as caught:
        read("IMAGE_NAME,y,s,g\ni00,0,train,P1\n" + bad, split_column="s", group_column="g")
    places = {problem.kind: problem.places for problem in caught.value.problems}
    assert places == {
        "label": (("row 4",),), "conflict": (("row 5", "row 6"),), "twice": (("row 7", "row 8"),),
        "group_leak": (("row 2", "row 3"),),
    }
    assert [record.place for record in caught.value.records] == ["row 2", "row 3", "row 7"]
    assert [record.split for record in caught.value.records] == ["train", "test", "train"]


def test_tables_of_one_name_are_told_apart(tmp_path, read):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        write_table(tmp_path / split / "labels.csv", "IMAGE_NAME,y\n" + rows(4, 4 * (split == "test")))
    records = read({split: str(tmp_path / split / "labels.csv") for split in ("train", "test")})
    assert len({record.place for record in records}) == 8
    assert records[4].place == f"{tmp_path / 'test' / 'labels.csv'} row 2"


def test_blank_and_lookalike_groups_are_named(read):
    text = "IMAGE_NAME,y,g\n" + "".join(f"i{n:02d},{n % 2},P{n}\n" for n in range(6))
    with pytest.raises(AnnotationError, match=r"rows without a group \(1\): row 8"):
        read(text + "i07,1, \n", group_column="g")
    with pytest.raises(AnnotationError, match=r"case, spaces or how a number is written \(1\): row 8 'p1 ' and 'P1'"):
        read(text + "i07,1,p1 \n", group_column="g")
    with pytest.raises(AnnotationError, match=r"rows without a group \(3\): row 8 'NA', row 9 'nan', row 10 '#N/A'"):
        read(text + "i07,1,NA\ni08,1,nan\ni09,0,#N/A\n", group_column="g")


def test_one_patient_s_number_written_in_two_ways_is_named(tmp_path, read):
    """pandas writes 17.0 for the 17 of a column that once had a gap: the patient would be in two splits."""
    for split, suffix, first in (("train", "", 0), ("test", ".0", 4)):
        (tmp_path / f"{split}.csv").write_text(
            "IMAGE_NAME,y,g\n" + "".join(f"i{first + n:02d},{n % 2},{17 + n}{suffix}\n" for n in range(4)), encoding="utf-8")
    tables = {split: str(tmp_path / f"{split}.csv") for split in ("train", "test")}
    with pytest.raises(AnnotationError, match=r"how a number is written \(4\): test\.csv row 2 '17\.0' and '17'"):
        read(tables, group_column="g")
    (tmp_path / "test.csv").write_text("IMAGE_NAME,y,g\ni04,0,117\ni05,1,1.7\ni06,1,17a\ni07,0,P.0\n", encoding="utf-8")
    assert len(read(tables, group_column="g")) == 8


# Rows without a label

UNLABELLED = "IMAGE_NAME,y\n" + rows(12) + "i20,ND\ni21,na\ni22,\ni23,nd\ni24,999.0\n"


def test_rows_whose_label_is_stated_to_be_missing_are_left_out_and_counted(tmp_path, read, capsys, monkeypatch):
    monkeypatch.setattr(tables_module, "_SAID", set())
    records = read(UNLABELLED, missing_labels=("ND", "NA", "blank", "999"))
    assert records == read(BODY) and len(records) == 12
    assert capsys.readouterr().err == (f"note: {tmp_path / 'labels.csv'}: of 17 rows 12 are used: rows without a label are "
                                       "left out, as missing_labels says ('ND' 1, 'na' 1, blank 1, 'nd' 1, '999.0' 1)\n")


def test_no_label_is_missing_before_a_setting_says_so(read):
    with pytest.raises(AnnotationError, match=r"labels that cannot be used \(5\): row 14 'ND', row 15 'na', row 16 blank"):
        read(UNLABELLED)
    with pytest.raises(AnnotationError, match=r"labels that cannot be used \(2\): row 15 'na', row 18 '999.0'"):
        read(UNLABELLED, missing_labels=("ND", "blank"))


@pytest.mark.parametrize("words", [("YES",), ("1",), ("0.0",), ("nd", "no")])
def test_a_label_cannot_be_stated_to_be_missing(read, words):
    with pytest.raises(UserError, match="missing_labels: expected words that are no label, found"):
        read(UNLABELLED, missing_labels=words)


def test_missing_labels_need_a_table_with_some_labels(read, images):
    with pytest.raises(UserError, match="found only those that missing_labels names"):
        read("IMAGE_NAME,y\ni00,ND\n", missing_labels=("ND",))
    with pytest.raises(UserError, match="missing_labels: expected none because csv_file is null"):
        read_records(None, images, class_names=CLASSES, missing_labels=("ND",))


def test_rows_without_a_label_are_kept_apart_where_a_setting_says_so(read):
    records = read(UNLABELLED, unlabelled_values=("nd", "NA", "blank", "999"))
    assert records[:12] == read(BODY)  # whose splits do not depend on the others
    assert {(record.label, record.split) for record in records[12:]} == {(len(CLASSES), "train")} and len(records) == 17
    assert describe_splits(records, CLASSES)["train"][NO_LABEL] == {"images": 5, "groups": 5}
    assert NO_LABEL not in describe_splits(records, CLASSES)["test"]
    with pytest.raises(AnnotationError, match=r"row 18 '999.0'; write .*; for images without a label set unlabelled: train"):
        read(UNLABELLED, unlabelled_values=("nd", "NA", "blank"))
    with pytest.raises(UserError, match="unlabelled_values: expected words that are no label, found 'yes'"):
        read(UNLABELLED, unlabelled_values=("yes",))


def test_an_image_without_a_label_follows_its_group_into_a_split(read):
    text = "IMAGE_NAME,y,p\n" + "".join(f"i{n:02d},{n % 2},g{n}\n" for n in range(12))
    text += "".join(f"i{n + 12:02d},,g{n}\n" for n in range(12)) + "i30,,other\n"
    records = read(text, group_column="p", unlabelled_values=("blank",))
    splits = {record.group: record.split for record in records[:12]}
    assert set(splits.values()) == {"train", "val", "test"}
    assert all(record.split == splits[record.group] for record in records[12:24]) and records[24].split == "train"
    moved = read(text, group_column="p", unlabelled_values=("blank",), split_fractions={"train": 1.0}, val_from_train=0.3)
    assert all(one.split == other.split for one, other in zip(moved[:12], moved[12:24], strict=True))
    assert {record.split for record in moved} == {"train", "val"}


def test_an_unlabelled_training_image_of_a_held_out_patient_is_a_leak(read):
    text = "IMAGE_NAME,y,p,s\ni00,0,a,train\ni01,1,b,train\ni02,0,c,test\ni03,1,d,test\ni04,,c,train\n"
    with pytest.raises(AnnotationError, match=r"groups in more than one split \(1\): 'c' \(train and test\)"):
        read(text, group_column="p", split_column="s", unlabelled_values=("blank",))
    text = text.replace("i04,,c,train", "i04,,c,test")
    kept = read(text, group_column="p", split_column="s", unlabelled_values=("blank",))
    assert (kept[4].label, kept[4].split) == (2, "test")


def test_classes_need_labelled_images_whatever_is_unlabelled(read):
    with pytest.raises(UserError, match="expected images of every class, found none of 'yes'"):
        read("IMAGE_NAME,y,s\ni00,0,train\ni01,,train\n", split_column="s", unlabelled_values=("blank",))


def test_without_a_label_column_every_image_is_of_the_only_class(read, images):
    records = read("IMAGE_NAME\n" + "".join(f"i{n:02d}\n" for n in range(12)), class_names=("all",), label_column=None)
    assert {record.label for record in records} == {0} and {record.split for record in records} == {"train", "val", "test"}
    flat = read_records(None, images, class_names=("all",), label_column=None)
    assert len(flat) == 40 and {record.label for record in flat} == {0}
    for number, split in enumerate(("train", "test")):
        (images / split).mkdir()
        (images / f"i{number:02d}.png").rename(images / split / "a.png")
    with pytest.raises(UserError, match=r"expected every image in .*/<split>/\*, found 38 elsewhere"):
        read_records(None, images, class_names=("all",), label_column=None)
    for path in images.glob("*.png"):
        path.unlink()
    assert {record.split for record in read_records(None, images, class_names=("all",), label_column=None)} == {
        "train", "test"}


def test_decimal_commas_in_labels_and_levels(read):
    """A German spreadsheet writes 1,0 for a label and 0,5 for a level; 1,000 can be a thousand and is refused."""
    table = "IMAGE_NAME;y;z;s\ni00;1,0;0,5;train\ni01;0;2,0;train\n"
    records = read(table, conditions={"z": ("0.5", "2")}, split_column="s")
    assert [(record.label, record.conditions) for record in records] == [(1, (0,)), (0, (1,))]
    with pytest.raises(AnnotationError, match=r"labels that cannot be used .*'1,000'"):
        read(table.replace("1,0;", "1,000;"), split_column="s")


# Tables that are wrong


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["empty file"]),
        ("\n\n", ["column names in the first row, found none"]),
        ("IMAGE_NAME,y\n", ["only column names"]),
        ("IMAGE_NAME,y\n\n,\n", ["only column names"]),
        ("IMAGE_NAM,y\ni00,1\n", ["expected a column 'IMAGE_NAME'", "'IMAGE_NAM', 'y'", "image_column: 'IMAGE_NAM'?"]),
        ("IMAGE_NAME,blastocyst\ni00,1\n", ["expected a column 'y' (label_column)", "set label_column to one of them"]),
        ("IMAGE_NAME,y,y\ni00,1,1\n", ["found twice: 'y'"]),
        ("IMAGE_NAME,y\ni00\ni01,1,2\ni02,1\n", ["found 2 rows that differ", "row 2 has 1, row 3 has 3"]),
        ('IMAGE_NAME,y\n"i00,1\n', ["not readable as delimited text", "unclosed quote"]),
        ("IMAGE_NAME,y\ni\0,1\n", ["zero bytes"]),
    ],
)
def test_bad_csv_is_refused(read, text, parts):
    with pytest.raises(UserError) as caught:
        read(text)
    for part in ["labels.csv", *parts]:
        assert part in str(caught.value), str(caught.value)


def test_no_column_but_that_of_patients_is_asked_for_as_groups(tmp_path):
    def message(header: str) -> str:
        table = write_table(tmp_path / "labels.csv", f"{header}\ni00,1,2\n")
        with pytest.raises(UserError) as caught:
            read_records(table, tmp_path, class_names=["no", "yes"], label_column="y", group_column="PATIENT_ID")
        return str(caught.value)

    for header in ("IMAGE_NAME,y,IMAGE_ID", "IMAGE_NAME,y,CLINIC"):
        told = message(header)
        assert "one of them" not in told and "did you mean" not in told
        assert "set group_column to the column that holds the patients or embryos, or to null if there is none" in told
        assert "every image counts as a separate patient" in told and "every number is too good" in told
    assert "did you mean group_column: 'patient id'?" in message("IMAGE_NAME,y,patient id")


def test_other_kinds_of_file_are_refused(tmp_path, read):
    with pytest.raises(UserError, match=r"expected a table named .csv, .tsv or .xlsx, found .xls;"):
        read(write_table(tmp_path / "old.xls", BODY))
    with pytest.raises(UserError, match="found no suffix"):
        read(write_table(tmp_path / "labels", BODY))
    with pytest.raises(UserError, match="found nothing there; correct csv_file"):
        read(tmp_path / "gone.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(UserError, match="Is a directory"):
        read(tmp_path / "folder.csv")
    with pytest.raises(UserError, match="not readable as a workbook"):
        read(write_table(tmp_path / "fake.xlsx", BODY))


def test_workbooks_need_one_sheet_with_values(tmp_path, read):
    path = tmp_path / "labels.xlsx"
    book = openpyxl.Workbook()
    book.save(path)
    with pytest.raises(UserError, match="found no sheet with content"):
        read(path)
    book.active.append(["IMAGE_NAME", "y"])
    book.create_sheet("More").append(["x"])
    book.save(path)
    with pytest.raises(UserError, match="found 2: 'Sheet', 'More'; keep one"):
        read(path)
    del book["More"]
    book.active.append(["i00", "=1+0"])  # openpyxl writes no value for a formula
    book.active.append([])
    book.active.append(["i01", True])
    book.save(path)
    with pytest.raises(UserError, match=r"formulas that were never computed \(1\): B2; open the workbook .* and save it"):
        read(path)
    book.active["B2"] = 1
    book.save(path)
    with pytest.raises(UserError, match=r"labels that cannot be used \(1\): row 4 'TRUE'"):
        read(path)


def test_bad_folder_is_refused(tmp_path):
    table = write_table(tmp_path / "labels.csv", BODY)
    with pytest.raises(UserError, match="found nothing there; correct root_dir"):
        read_records(table, tmp_path / "gone", class_names=CLASSES, label_column="y")
    with pytest.raises(UserError, match="found a file; correct root_dir"):
        read_records(table, table, class_names=CLASSES, label_column="y")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_folder_without_access_is_refused(read, images):
    (images / "closed").mkdir(mode=0)
    with pytest.raises(UserError, match="could not be listed"):
        read(BODY)


# Settings that are wrong


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"class_names": "yes"}, "expected a list of names"),
        ({"class_names": []}, "expected a list of names"),
        ({"class_names": ["a", ""]}, "expected a list of names"),
        ({"class_names": ["a", 1]}, "expected a list of names"),
        ({"class_names": ["a", "a"]}, "found twice: a"),
        ({"class_names": ["a", " b"]}, "found spaces around ' b'"),
        ({"class_names": ["1", "0"]}, r"found '1' \(label 0\), '0' \(label 1\)"),
        ({"val_from_train": 1.0}, "expected a fraction from 0 to below 1, found 1.0"),
        ({"val_from_train": -0.1}, "found -0.1"),
        ({"val_from_train": float("nan")}, "found nan"),
        ({"val_from_train": "0.1"}, "found '0.1'"),
        ({"split_fractions": {"train": 0.5}}, "expected a sum of 1, found 0.5"),
        ({"split_fractions": {"train": 2, "val": -1}}, "found train: 2, val: -1"),
        ({"split_fractions": {"train": True}}, "found train: True"),
        ({"split_fractions": {"val": 0.5, "test": 0.5}}, "expected a fraction above 0 for train"),
        ({"split_fractions": {"train": 0.5, "dev": 0.5}}, "splits train, val and test, found 'dev'"),
        ({"split_fractions": {"train": 0.5, "val": 0.2, "valid": 0.3}}, "expected each split once"),
        ({"split_fractions": {"train": 1.0}, "split_column": "s"}, "split_column 's' and split_fractions; remove"),
    ],
)
def test_bad_settings_are_refused(read, settings_, message):
    with pytest.raises(UserError, match=message):
        read(BODY, **settings_)


def test_class_names_that_are_their_own_numbers_are_fine(read):
    assert {record.label for record in read(BODY, class_names=["0", "1"])} == {0, 1}


# Tables per split and a split column


@pytest.fixture
def tables(tmp_path) -> dict[str, str]:
    counts = {"train": (0, 8), "val": (8, 4), "test": (12, 6)}
    return {
        split: str(write_table(tmp_path / f"{split}.csv", "IMAGE_NAME,y\n" + rows(count, start)))
        for split, (start, count) in counts.items()
    }


@pytest.mark.parametrize("key", ["val", "valid", "validation"])
def test_a_table_per_split(read, tables, key):
    records = read({"test": tables["test"], key: tables["val"], "train": tables["train"]})
    assert Counter(record.split for record in records) == {"train": 8, "val": 4, "test": 6}
    assert [record.image_id for record in records] == [f"i{n:02d}" for n in range(18)]


def test_val_and_test_tables_may_be_missing(read, tables):
    assert {record.split for record in read({"train": tables["train"]})} == {"train"}
    assert {record.split for record in read({"train": tables["train"], "val": None, "test": tables["test"]})} == {
        "train",
        "test",
    }


def test_bad_mappings_are_refused(read, tables):
    with pytest.raises(UserError, match="expected a table for train, found val"):
        read({"val": tables["val"]})
    with pytest.raises(UserError, match="expected a table for train, found none"):
        read({})
    with pytest.raises(UserError, match="csv_file: expected the splits train, val and test, found 'dev'"):
        read({"train": tables["train"], "dev": tables["val"]})
    with pytest.raises(UserError, match="csv_file: expected each split once"):
        read({"train": tables["train"], "val": tables["val"], "valid": tables["val"]})
    with pytest.raises(UserError, match="a table per split in csv_file and split_fractions"):
        read(tables, split_fractions={"train": 1.0})
    with pytest.raises(UserError, match="a table per split in csv_file and split_column"):
        read(tables, split_column="s")
    Path(tables["test"]).write_text(BODY)
    with pytest.raises(AnnotationError, match=r"i00 \(train.csv row 2 and test.csv row 2, the same label\)"):
        read(tables)


def test_groups_in_two_splits_are_named(tmp_path, read):
    train = write_table(tmp_path / "a.csv", "IMAGE_NAME,y,g\ni00,0,P1\ni01,1,P2\n")
    test = write_table(tmp_path / "b.csv", "IMAGE_NAME,y,g\ni02,0,P1\ni03,1,P3\n")
    with pytest.raises(AnnotationError, match=r"groups in more than one split \(1\): 'P1' \(train and test\)"):
        read({"train": str(train), "test": str(test)}, group_column="g")
    text = "IMAGE_NAME,y,g,s\ni00,0,P1,train\ni01,1,P2,train\ni02,1,P1,validation\n"
    with pytest.raises(AnnotationError, match=r"'P1' \(train and val\)"):
        read(text, group_column="g", split_column="s")


def test_every_class_needs_images_and_training_images(read):
    with pytest.raises(UserError, match="expected images of every class, found none of 'maybe'"):
        read(BODY, class_names=("no", "yes", "maybe"))
    named = BODY.replace("\n", ",train\n").replace("y,train", "y,s")
    with pytest.raises(UserError, match="expected images of every class, found none of 'maybe'"):
        read(named, class_names=("no", "yes", "maybe"), split_column="s")
    text = "IMAGE_NAME,y,s\ni00,0,train\ni01,0,train\ni02,1,test\n"
    for share in (0.0, 0.5):
        with pytest.raises(UserError, match="found none of 'yes' in train; move some there"):
            read(text, split_column="s", val_from_train=share)


# Draws


def test_default_fractions_split_each_class(read):
    records = read("IMAGE_NAME,y\n" + rows(40))
    counts = describe_splits(records, CLASSES)
    for name in CLASSES:
        assert {split: counts[split][name]["images"] for split in counts} == {"train": 14, "val": 3, "test": 3}


def test_a_fraction_of_zero_leaves_the_split_out(read):
    records = read("IMAGE_NAME,y\n" + rows(40), split_fractions={"train": 0.5, "validation": 0.0, "test": 0.5})
    assert Counter(record.split for record in records) == {"train": 20, "test": 20}


def test_draw_ignores_the_order_of_rows_and_depends_on_the_seed(read):
    lines = rows(40).splitlines(keepends=True)

    def draw(lines, seed):
        return {r.image_id: r.split for r in read("IMAGE_NAME,y\n" + "".join(lines), split_seed=seed)}

    assert draw(lines, 3) == draw(lines[::-1], 3)
    assert draw(lines, 3) != draw(lines, 4)


def test_draw_is_pinned(read):
    """A change here moves patients between the splits of projects that exist: it needs a line in the changelog."""
    splits = [record.split for record in read(BODY)]
    assert [n for n, split in enumerate(splits) if split == "val"] == [0, 9]
    assert [n for n, split in enumerate(splits) if split == "test"] == [3, 10]


def test_new_images_move_few_old_ones(read):
    before = {r.image_id: r.split for r in read("IMAGE_NAME,y\n" + rows(36))}
    after = {r.image_id: r.split for r in read("IMAGE_NAME,y\n" + rows(40))}
    assert sum(before[name] != after[name] for name in before) <= 6


def test_too_few_groups_are_named(read):
    text = "IMAGE_NAME,y,g\n" + "".join(f"i{n:02d},0,N{n}\n" for n in range(10))
    text += "".join(f"i{n:02d},1,Y{n % 2}\n" for n in range(10, 20))
    with pytest.raises(UserError, match=r"found too few groups: class 'yes' has 2; add groups of the class"):
        read(text, group_column="g")
    records = read(text, group_column="g", split_fractions={"train": 0.8, "test": 0.2})
    assert describe_splits(records, CLASSES)["test"]["yes"] == {"images": 5, "groups": 1}
    with pytest.raises(UserError, match=r"to split images into train, val every class .* class 'yes' has 1"):
        header, *lines = text.splitlines()
        named = [f"{line},{'test' if line.endswith('Y1') else 'train'}" for line in lines]
        read("\n".join([f"{header},s", *named]), group_column="g", split_column="s", val_from_train=0.2)


def test_val_from_train_moves_whole_groups_and_nothing_else(read):
    text = "IMAGE_NAME,y,g,s\n" + "".join(
        f"i{n:02d},{n // 2 % 2},P{n // 2},{'test' if n >= 32 else 'train'}\n" for n in range(40)
    )
    plain = read(text, group_column="g", split_column="s")
    assert {record.split for record in plain} == {"train", "test"}
    moved = read(text, group_column="g", split_column="s", val_from_train=0.25)
    assert [record.image_id for record in moved] == [record.image_id for record in plain]
    assert [record for record in moved if record.split == "test"] == [r for r in plain if r.split == "test"]
    counts = describe_splits(moved, CLASSES)
    assert counts["val"] == {"no": {"images": 4, "groups": 2}, "yes": {"images": 4, "groups": 2}}


def test_val_from_train_leaves_a_val_split_that_is_there(read, tables):
    assert read(tables, val_from_train=0.5) == read(tables)


def test_one_class_is_enough(read):
    records = read("IMAGE_NAME,y\n" + "".join(f"i{n:02d},0\n" for n in range(10)), class_names=["only"])
    assert Counter(record.split for record in records) == {"train": 7, "val": 1, "test": 2}  # a tie goes to test


@st.composite
def labelled_groups(draw):
    """Groups of one or both of two classes, at least three groups of each class."""
    singles = {f"a{n}": {0} for n in range(draw(st.integers(0, 25)))}
    others = {f"b{n}": {1} for n in range(draw(st.integers(0, 25)))}
    mixed = {f"m{n}": {0, 1} for n in range(draw(st.integers(0, 8)))}
    groups = singles | others | mixed
    for label in (0, 1):
        for n in range(3):
            groups.setdefault(f"more{label}{n}", {label})
    return groups


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])
@given(groups=labelled_groups(), seed=st.integers(0, 10**6), train=st.floats(0.34, 0.9), part=st.floats(0.1, 0.9))
def test_draws_deal_every_group_once_and_reach_every_split_with_every_class(groups, seed, train, part):
    fractions = {"train": train, "val": (1 - train) * part, "test": (1 - train) * (1 - part)}
    dealt = draw_splits(groups, fractions=fractions, seed=seed, purpose="split")
    assert dealt.keys() == groups.keys()
    reached = {(label, dealt[group]) for group, labels in groups.items() for label in labels}
    assert reached == {(label, split) for label in (0, 1) for split in fractions}
    backwards = dict(reversed(groups.items()))
    assert draw_splits(backwards, fractions=fractions, seed=seed, purpose="split") == dealt
    pure = [group for group, labels in groups.items() if labels == {0}]
    if all(len(labels) == 1 for labels in groups.values()):
        for split, fraction in fractions.items():
            num = sum(dealt[group] == split for group in pure)
            assert abs(num - fraction * len(pure)) <= 2  # rounding by less than 1, and up to one given to a bare split


def test_draws_are_even_over_seeds():
    """Each group comes to test about as often as its share says."""
    groups = {f"g{n}": {0} for n in range(10)}
    hits = Counter()
    for seed in range(400):
        dealt = draw_splits(groups, fractions={"train": 0.8, "test": 0.2}, seed=seed, purpose="split")
        hits.update(group for group, split in dealt.items() if split == "test")
    assert sum(hits.values()) == 800
    assert all(50 <= hits[group] <= 110 for group in groups)  # mean 80, standard deviation 8


def test_purposes_draw_apart():
    groups = {f"g{n}": {0} for n in range(30)}
    draws = [draw_splits(groups, fractions={"train": 0.5, "val": 0.5}, seed=0, purpose=p) for p in ("split", "other")]
    assert draws[0] != draws[1]


# Size and real tables


def test_twenty_thousand_names_are_looked_up_without_touching_the_disk_again(tmp_path, monkeypatch):
    root = tmp_path / "many"
    root.mkdir()
    names = [f"{n:05d}" for n in range(20_000)]
    for name in names:
        os.close(os.open(root / f"{name}.png", os.O_CREAT | os.O_WRONLY))
    table = write_table(tmp_path / "labels.csv", "IMAGE_NAME,y\n" + "".join(f"{n},{int(n) % 2}\n" for n in names))
    calls = Counter()
    real_stat = os.stat

    def counting_stat(*args, **kwargs):
        calls["stat"] += 1
        return real_stat(*args, **kwargs)

    monkeypatch.setattr(os, "stat", counting_stat)
    records = read_records(table, root, class_names=CLASSES, label_column="y")
    assert len(records) == 20_000 and calls["stat"] < 50
    assert [record.image_id for record in records] == names


@needs_shared
def test_sperm_tables_have_the_published_counts():
    root = SHARED / "mhsma64"
    tables = {split: str(root / f"{split}.csv") for split in ("train", "valid", "test")}
    records = read_records(
        tables, root / "images", class_names=("normal", "abnormal"), label_column="head_abnormal", val_from_train=0.1
    )
    counts = describe_splits(records, ("normal", "abnormal"))
    images = {split: [counts[split][name]["images"] for name in ("normal", "abnormal")] for split in counts}
    assert images == {"train": [727, 273], "val": [176, 64], "test": [219, 81]}


@needs_shared
@pytest.mark.parametrize("by_column", [True, False])
def test_focal_planes_of_an_embryo_stay_together(by_column):
    root = SHARED / "stork"
    ways = {"split_column": "SPLIT", "val_from_train": 0.2} if by_column else {"split_fractions": None}
    records = read_records(
        root / "annotations.csv",
        root / "images",
        class_names=("poor", "good"),
        label_column="good_quality",
        group_column="EMBRYO_ID",
        **ways,
    )
    assert len(records) == 98
    splits = defaultdict(set)
    for record in records:
        splits[record.group].add(record.split)
    assert len(splits) == 14 and all(len(found) == 1 for found in splits.values())
    counts = describe_splits(records, ("poor", "good"))
    assert list(counts) == ["train", "val", "test"]
    assert all(counts[split][name]["groups"] >= 1 for split in counts for name in ("poor", "good"))
    assert all(counts[s][n]["images"] == 7 * counts[s][n]["groups"] for s in counts for n in ("poor", "good"))
