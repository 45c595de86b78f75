"""A clinician's table with one fault of each kind: each is named once, and the clean table trains."""

import csv
import shutil
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import openpyxl
import pytest
from workspace import Workspace, read_rows

import train_ddpm_cond
from config.errors import UserError
from dataset.images import write_png
from tools.check_dataset import __main__ as check_dataset
from tools.diffusion.project import Project


class Sheet:
    """The workspace's table and images, copied so that they can be spoiled."""

    def __init__(self, workspace: Workspace, root: Path) -> None:
        self.workspace, self.root, self.images = workspace, root, root / "images"
        shutil.copytree(workspace.phantoms / "images", self.images)
        with (workspace.phantoms / "annotations.csv").open(encoding="utf-8", newline="") as file:
            self.header, *self.rows = list(csv.reader(file))
        self._taken: set[int] = set()
        self.name, self.label, self.group, self.split = (
            self.header.index(column) for column in ("IMAGE_NAME", "blastocyst", "PATIENT_ID", "SPLIT"))

    def path(self, row: list[str]) -> Path:
        return self.images / f"{row[self.name].removesuffix('.png')}.png"

    def pixels(self, row: list[str]) -> np.ndarray:
        return cv2.imread(str(self.path(row)), cv2.IMREAD_UNCHANGED)

    def take(self, split: str, *, other_than: tuple[list[str], ...] = (), label: str | None = None) -> list[str]:
        """A row of this split that was not taken before, of a patient that none of the others has."""
        patients = {row[self.group] for row in other_than}
        return self.take_one(row for row in self.rows if row[self.split] == split and self.is_free(row)
                             and row[self.group] not in patients and label in (None, row[self.label]))

    def take_one(self, rows: Iterator[list[str]]) -> list[str]:
        row = next(rows)
        self._taken.add(id(row))
        return row

    def is_free(self, row: list[str]) -> bool:
        return id(row) not in self._taken

    def write(self) -> Path:
        table = self.root / "table.csv"
        with table.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([self.header, *self.rows])
        return table

    def arguments(self, table: Path, *overrides: str) -> list[str]:
        return self.workspace.arguments(
            f"dataset_params.params.csv_file={table}", f"dataset_params.params.root_dir={self.images}",
            f"dataset_params.directory_latents={self.root / 'latents'}", f"train_params.task_name={self.root / 'run'}",
            *overrides)


@pytest.fixture
def sheet(workspace: Workspace, tmp_path: Path) -> Sheet:
    return Sheet(workspace, tmp_path)


def plant_faults(sheet: Sheet) -> dict[str, set[str]]:
    """One fault of each kind; the rows that must leave for it, by kind."""
    places = {id(row): f"row {number}" for number, row in enumerate(sheet.rows, start=2)}
    rows: dict[str, list[list[str]]] = {}
    missing, misnamed, mistyped, unsplit = (sheet.take("train") for _ in range(4))
    sheet.path(missing).unlink()
    misnamed[sheet.name] = misnamed[sheet.name].upper()
    mistyped[sheet.label] = "yess"
    unsplit[sheet.split] = "tarin"
    rows |= {"missing": [missing], "misnamed": [misnamed], "label": [mistyped], "split": [unsplit]}

    lookalike = sheet.take_one(
        row for place, row in enumerate(sheet.rows) if row[sheet.split] == "train" and sheet.is_free(row)
        and any(other[sheet.group] == row[sheet.group] for other in sheet.rows[:place]))
    lookalike[sheet.group] = f"{lookalike[sheet.group]} "
    rows["spelling"] = [lookalike]

    cut, text = sheet.take("train"), sheet.take("train")
    sheet.path(cut).write_bytes(sheet.path(cut).read_bytes()[:300])
    sheet.path(text).write_text("<html>not found</html>")
    rows |= {"truncated": [cut], "unreadable": [text]}

    first, copy = sheet.take("train"), sheet.take("train")
    copy[sheet.label] = first[sheet.label]
    shutil.copy(sheet.path(first), sheet.path(copy))
    rows["duplicate"] = [copy]
    first, copy = sheet.take("train", label="0"), sheet.take("train", label="1")
    shutil.copy(sheet.path(first), sheet.path(copy))
    rows["conflict"] = [first, copy]
    kept = sheet.take("test")
    seen = sheet.take("train", label=kept[sheet.label])
    write_png(sheet.path(seen), sheet.pixels(kept), text={"note": "other bytes, same pixels"})
    rows["leak"] = [seen]
    first = sheet.take("train")
    near = sheet.take("train", other_than=(first,), label=first[sheet.label])
    write_png(sheet.path(near), np.clip(sheet.pixels(first) * 0.9 + 9, 0, 255).astype(np.uint8))
    rows["near_duplicate"] = []

    stranger = sheet.take("test")
    group = next(row[sheet.group] for row in sheet.rows if row[sheet.split] == "train" and sheet.is_free(row)
                 and sum(other[sheet.group] == row[sheet.group] for other in sheet.rows) > 2)
    stranger[sheet.group] = group
    rows["group_leak"] = [stranger]

    colour = sheet.take("train")
    write_png(sheet.path(colour), np.stack([sheet.pixels(colour), sheet.pixels(colour) // 2, sheet.pixels(colour)], axis=2))
    faint, blurred = sheet.take("train"), sheet.take("train")
    pixels = sheet.pixels(faint).astype(np.float32)
    write_png(sheet.path(faint), (pixels.mean() + (pixels - pixels.mean()) * 0.05).round().astype(np.uint8))
    write_png(sheet.path(blurred), cv2.GaussianBlur(sheet.pixels(blurred), None, 4))
    small = sheet.take("train")
    write_png(sheet.path(small), cv2.resize(sheet.pixels(small), (20, 20), interpolation=cv2.INTER_AREA))
    deep = sheet.take("train")
    cv2.imwrite(str(sheet.path(deep)), sheet.pixels(deep).astype(np.uint16) * 257)
    rows |= {"colour": [colour], "contrast": [], "focus": [], "size": [], "depth": []}
    return {kind: {places[id(row)] for row in leaving} for kind, leaving in rows.items()}


def test_every_planted_fault_is_named_once_and_the_clean_table_trains(
    sheet: Sheet, capsys: pytest.CaptureFixture[str]
) -> None:
    planted = plant_faults(sheet)
    assert len(planted) >= 12
    table = sheet.write()
    clean = sheet.root / "clean.csv"
    with pytest.raises(UserError, match=r"expected a data set without errors, found 11 in .*check.xlsx"):
        check_dataset.main([*sheet.arguments(table), "--write-clean", str(clean)])
    book = openpyxl.load_workbook(sheet.root / "run/dataset_check/check.xlsx")
    found = [row for row in book["findings"].iter_rows(min_row=2, values_only=True) if row[0] != "note"]
    assert sorted(row[1] for row in found) == sorted(planted), found
    shown = capsys.readouterr().out
    assert all(kind in shown for kind in planted)

    with (sheet.root / "clean.csv.removed.csv").open(encoding="utf-8", newline="") as file:
        log = list(csv.reader(file))
    assert log[0] == ["row", "image", "kind", "why"]
    left = {kind: {row[0] for row in log[1:] if row[2] == kind} for kind in planted}
    assert left == planted
    with clean.open(encoding="utf-8", newline="") as file:
        header, *kept = list(csv.reader(file))
    gone = {place for places in planted.values() for place in places}
    assert header == sheet.header
    assert kept == [row for number, row in enumerate(sheet.rows, start=2) if f"row {number}" not in gone]

    check_dataset.main([*sheet.arguments(clean), "--output", str(sheet.root / "again")])
    assert "0 errors, 5 warnings" in capsys.readouterr().out
    arguments = sheet.arguments(clean, "train_params.max_steps=2")
    train_ddpm_cond.main(arguments)
    assert read_rows(sheet.root / "run")[-1]["step"] == 2


def test_a_sound_set_has_nothing_to_tell(sheet: Sheet, capsys: pytest.CaptureFixture[str]) -> None:
    check_dataset.main(sheet.arguments(sheet.write()))
    assert "0 errors, 0 warnings, 0 notes" in capsys.readouterr().out


def test_folders_of_classes_are_cached_and_trained_like_a_table(sheet: Sheet, capsys: pytest.CaptureFixture[str]) -> None:
    layout = sheet.root / "layout"
    for row in sheet.rows:
        target = layout / row[sheet.split] / ("blastocyst" if row[sheet.label] == "1" else "arrested") / sheet.path(row).name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(sheet.path(row), target)
    overrides = ["dataset_params.params.csv_file=null", f"dataset_params.params.root_dir={layout}",
                 "dataset_params.params.group_column=null", "dataset_params.params.split_column=null",
                 f"dataset_params.directory_latents={sheet.root / 'latents'}", "train_params.max_steps=2",
                 f"train_params.task_name={sheet.root / 'folders'}"]
    arguments = sheet.workspace.arguments(*overrides)
    check_dataset.main(arguments)
    assert "no group_column" in capsys.readouterr().out
    train_ddpm_cond.main(arguments)
    assert read_rows(sheet.root / "folders")[-1]["step"] == 2
    by_folder = Project.open(sheet.workspace.config(*overrides)).records
    by_table = Project.open(sheet.workspace.config()).records
    assert sorted((r.path.name, r.label, r.split) for r in by_folder) == \
        sorted((r.path.name, r.label, r.split) for r in by_table)
    with pytest.raises(UserError, match="csv_file is null, so there is no table to clean"):
        check_dataset.main([*arguments, "--write-clean", str(sheet.root / "clean.csv")])
