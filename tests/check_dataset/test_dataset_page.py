"""Names from tables are text everywhere: no markup in the page, no formula in the workbook or the log."""

import csv
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import openpyxl
import pytest

from config.errors import UserError
from config.load import build_config
from config.schema import TableParams
from dataset.images import write_png
from dataset.tables import read_lines
from tools.check_dataset.clean_table import write_clean_table
from tools.check_dataset.inspection import inspect_dataset
from tools.check_dataset.page import format_screen, write_page, write_workbook

EVIL = "=HYPERLINK(1)<script>alert(1)</script>"


@pytest.fixture
def spoiled(tmp_path):
    """Twelve images; one copy in another split, one cut file, one name and one label that attack."""
    rng = np.random.default_rng(3)
    rows = []
    for number in range(12):
        name = EVIL.replace("/", "_") if number == 5 else f"i{number:02d}"
        write_png(tmp_path / "images" / f"{name}.png", rng.integers(0, 256, (32, 32), dtype=np.uint8))
        rows.append([name, str(number % 2), "test" if number > 8 else "train", f"-{number}"])
    (tmp_path / "images/i10.png").write_bytes((tmp_path / "images" / f"{rows[5][0]}.png").read_bytes())
    rows[10][1] = rows[5][1]
    (tmp_path / "images/i02.png").write_bytes((tmp_path / "images/i02.png").read_bytes()[:200])
    rows[3][1] = "+cmd|' /C calc'!A0"
    lines = [["IMAGE_NAME", "y", "s", "plane"], *rows]
    with (tmp_path / "t.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(lines)
    table = {"csv_file": str(tmp_path / "t.csv"), "root_dir": str(tmp_path / "images"), "label_column": "y",
             "split_column": "s", "class_names": ["no", "yes"], "image_size": 32}
    config = build_config({"dataset_params": {"params": table}, "train_params": {"task_name": str(tmp_path / "run")},
                           "autoencoder_params": {"pretrained": "-"}}, source="test")
    return config.dataset_params.params, inspect_dataset(config.dataset_params, progress_bar=False), lines


def test_the_page_stands_alone_escapes_names_and_says_whose_images_it_shows(tmp_path, spoiled):
    params, inspection, _ = spoiled
    write_page(inspection, params, tmp_path / "check.html")
    page = (tmp_path / "check.html").read_text(encoding="utf-8")
    assert "patients&#39; images" in page and "<script" not in page and "&lt;script&gt;" in page
    assert page.count("data:image/jpeg;base64,") == 2  # the leaking pair; the cut file has no picture
    assert "no image" in page and not re.search(r'(src|href)="(?!data:|#)', page)


def test_the_workbook_has_every_finding_and_no_formula(tmp_path, spoiled):
    params, inspection, _ = spoiled
    write_workbook(inspection, params, tmp_path / "check.xlsx")
    book = openpyxl.load_workbook(tmp_path / "check.xlsx")
    rows = list(book["findings"].iter_rows(min_row=2))
    assert len(rows) == len(inspection.findings)
    assert all(cell.data_type in ("s", "n") for sheet in book for row in sheet.iter_rows() for cell in row)
    assert {row[1].value for row in rows} >= {"label", "truncated", "leak"}


def test_the_screen_names_kinds_and_counts(spoiled):
    params, inspection, _ = spoiled
    screen = format_screen(inspection, params)
    assert "3 errors" in screen and "the images of 1 faulty row were not opened" in screen
    assert re.search(r"error\s+truncated\s+1  truncated images", screen)


@pytest.mark.parametrize("suffix", [".csv", ".xlsx", ".tsv"])
def test_the_clean_table_keeps_cells_as_they_are_and_the_log_cannot_run(tmp_path, spoiled, suffix):
    params, inspection, lines = spoiled
    said = write_clean_table(params, inspection.findings, tmp_path / f"clean{suffix}")
    gone = {2, 3, 5}  # cut, mistyped, seen in training
    kept = [line for number, line in enumerate(lines[1:]) if number not in gone]
    assert read_lines(tmp_path / f"clean{suffix}", ["IMAGE_NAME"]) == [lines[0], *kept]
    assert "9 of 12 rows" in said[0]
    log = read_lines(tmp_path / f"clean{suffix}.removed.csv")
    assert sorted(line[0] for line in log[1:]) == ["row 4", "row 5", "row 7"]
    assert not any(cell.startswith(("=", "+", "-", "@")) for line in log for cell in line)
    assert any(line[1].startswith("'=HYPERLINK") for line in log)


def test_the_check_says_what_was_left_out_and_the_clean_table_holds_what_was_read(tmp_path, spoiled):
    """Hidden rows, rows without a label, merged cells and zeros that a format adds: the clean table says the same again."""
    params, _, _ = spoiled
    book = openpyxl.Workbook()
    book.active.append(["IMAGE_NAME", "y", "s", "P", "n"])
    for number in range(8):
        source = tmp_path / f"images/i0{(0, 1, 3, 4)[number % 4]}.png"
        (tmp_path / f"images/{number:04d}.png").write_bytes(source.read_bytes())
        book.active.append([number, number % 2, "train", f"p{number // 2}", ""])
        book.active.cell(number + 2, 1).number_format = "0000"
    book.active.merge_cells("D2:D3")
    book.active.cell(5, 2).value = "ND"
    for number in range(6, 10):
        book.active.row_dimensions[number].hidden = True
    book.save(tmp_path / "t.xlsx")
    table = {**vars(params), "conditions": {}, "csv_file": str(tmp_path / "t.xlsx"), "group_column": "P",
             "missing_labels": ["ND"]}
    config = build_config({"dataset_params": {"params": table}, "train_params": {"task_name": "-"},
                           "autoencoder_params": {"pretrained": "-"}}, source="test")
    inspection = inspect_dataset(config.dataset_params, progress_bar=False)
    screen = format_screen(inspection, config.dataset_params.params)
    assert "has 8 rows, 4 are read" in screen and "of 4 rows 3 are used: rows without a label" in screen
    said = write_clean_table(config.dataset_params.params, inspection.findings, tmp_path / "clean.csv")
    assert said[0].endswith("4 of 4 rows; 4 hidden rows were left out")
    assert read_lines(tmp_path / "clean.csv")[1:] == [
        ["0000", "0", "train", "p0", ""], ["0001", "1", "train", "p0", ""], ["0002", "0", "train", "p1", ""],
        ["0003", "ND", "train", "p1", ""]]
    again = build_config({"dataset_params": {"params": {**table, "csv_file": str(tmp_path / "clean.csv")}},
                          "train_params": {"task_name": "-"}, "autoencoder_params": {"pretrained": "-"}}, source="test")
    assert inspect_dataset(again.dataset_params, progress_bar=False).records == inspection.records


def test_a_table_whose_names_are_all_wrong_is_reported(spoiled):
    """The table of another export: the report names each row and what the folder holds instead."""
    params, _, lines = spoiled
    with Path(params.csv_file).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([lines[0], *([f"9148_{number}", *line[1:]] for number, line in enumerate(lines[1:]))])
    config = build_config({"dataset_params": {"params": {**vars(params), "conditions": {}}},
                           "train_params": {"task_name": "-"}, "autoencoder_params": {"pretrained": "-"}}, source="test")
    screen = format_screen(inspect_dataset(config.dataset_params, progress_bar=False), params)
    assert "row 2 9148_0" in screen and "the images there are called" in screen and "i00.png" in screen


def test_a_file_whose_name_is_not_utf_8_is_named_on_the_screen_and_in_the_files(tmp_path, spoiled):
    params, _, lines = spoiled
    (tmp_path / "images" / os.fsdecode(b"m\xfcller.png")).write_bytes((tmp_path / "images/i00.png").read_bytes())
    with Path(params.csv_file).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(line for line in lines if not line[1].startswith("+"))
    inspection = inspect_dataset(build_config(
        {"dataset_params": {"params": {**vars(params), "conditions": {}}}, "train_params": {"task_name": "-"},
         "autoencoder_params": {"pretrained": "-"}}, source="test").dataset_params, progress_bar=False)
    assert r"m\xfcller.png" in format_screen(inspection, params)
    write_workbook(inspection, params, tmp_path / "check.xlsx")
    write_page(inspection, params, tmp_path / "check.html")
    assert r"m\xfcller.png" in (tmp_path / "check.html").read_text(encoding="utf-8")


def test_a_table_that_was_read_is_not_written_over(tmp_path, spoiled):
    params, inspection, lines = spoiled
    with pytest.raises(UserError, match="would overwrite the table that was read"):
        write_clean_table(params, inspection.findings, Path(params.csv_file))
    (tmp_path / "TABLE.CSV").hardlink_to(params.csv_file)  # another name of the same file, as where case does not count
    with pytest.raises(UserError, match="would overwrite the table that was read"):
        write_clean_table(params, inspection.findings, tmp_path / "TABLE.CSV")
    assert read_lines(Path(params.csv_file)) == lines
    with pytest.raises(UserError, match=r"expected a table named \.csv"):
        write_clean_table(params, inspection.findings, tmp_path / "clean.ods")


def test_a_table_for_each_split_gives_a_clean_one_for_each(tmp_path, spoiled):
    params, _, lines = spoiled
    tables = {}
    for split, part in (("train", lines[1:6]), ("test", lines[10:])):
        tables[split] = str(tmp_path / f"{split}.csv")
        with Path(tables[split]).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([lines[0], *part])
    split_params: TableParams = replace(params, csv_file=tables, split_column=None)
    config = build_config({"dataset_params": {"params": {**vars(split_params), "conditions": {}}},
                           "train_params": {"task_name": "-"}, "autoencoder_params": {"pretrained": "-"}}, source="test")
    inspection = inspect_dataset(config.dataset_params, progress_bar=False)
    write_clean_table(config.dataset_params.params, inspection.findings, tmp_path / "clean.csv")
    assert [line[0] for line in read_lines(tmp_path / "clean_train.csv")[1:]] == ["i00", "i01", "i04"]
    assert len(read_lines(tmp_path / "clean_test.csv")) == 4
