"""Holds dataset.layout to its word: folders name classes and splits, and no image is passed over."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from config.errors import UserError
from dataset.annotations import AnnotationError, ImageRecord, read_records
from dataset.Embryo_loader import Embryo_loader
from dataset.images import write_png

CLASSES = ("arrested", "blastocyst")


def make(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def read(root: Path, **settings) -> list[ImageRecord]:
    return read_records(None, root, **{"class_names": CLASSES, **settings})


def classes(root: Path, count: int = 10, prefix: str = "") -> Path:
    return make(root, *(f"{prefix}{name}/{n:02d}.png" for name in CLASSES for n in range(count)))


def test_folders_are_classes_and_the_split_is_drawn(tmp_path):
    records = read(classes(tmp_path), split_fractions={"train": 0.6, "val": 0.2, "test": 0.2})
    assert records[0] == ImageRecord("arrested/00.png", tmp_path / "arrested/00.png", 0, "arrested/00.png", records[0].split)
    counts = Counter((record.split, record.label) for record in records)
    assert counts == {(split, label): n for split, n in (("train", 6), ("val", 2), ("test", 2)) for label in (0, 1)}
    assert len({record.image_id for record in records}) == 20  # 00.png is there twice


def test_the_draw_is_that_of_a_table_with_the_same_names(tmp_path):
    root = classes(tmp_path / "images")
    table = tmp_path / "labels.csv"
    rows = [f"{name}/{n:02d}.png,{name}\n" for name in CLASSES for n in range(10)]
    table.write_text("IMAGE_NAME,blastocist\n" + "".join(rows))
    assert read(root) == read_records(table, root, class_names=CLASSES)


@pytest.mark.parametrize("val", ["val", "Valid", "validation"])
def test_folders_of_splits_hold_folders_of_classes(tmp_path, val):
    for split in ("train", val, "test"):
        classes(tmp_path, 3, f"{split}/")
    records = read(tmp_path)
    assert Counter(record.split for record in records) == {"train": 6, "val": 6, "test": 6}
    assert all(record.path.parent.name == CLASSES[record.label] for record in records)


def test_splits_without_val_can_take_it_from_train(tmp_path):
    for split in ("train", "test"):
        classes(tmp_path, 5, f"{split}/")
    assert Counter(record.split for record in read(tmp_path, val_from_train=0.2)) == {"train": 8, "val": 2, "test": 10}


def test_a_class_may_be_called_like_a_split(tmp_path):
    make(tmp_path, *(f"{name}/{n}.png" for name in ("test", "control") for n in range(6)))
    assert {record.label for record in read(tmp_path, class_names=("test", "control"))} == {0, 1}


def test_the_loader_reads_it(tmp_path):
    for number in range(12):
        write_png(tmp_path / CLASSES[number % 2] / f"{number}.png", np.full((8, 8), number, np.uint8))
    data = Embryo_loader(None, tmp_path, 1, class_names=CLASSES, image_size=8, split="train")
    image, label = data[0]
    assert (image.shape, label) == ((1, 8, 8), data.records[0].label)


def test_hidden_files_and_files_beside_the_classes_do_no_harm(tmp_path):
    root = make(classes(tmp_path), "arrested/.DS_Store", "arrested/._00.png", "blastocyst/Thumbs.db", "README.txt")
    assert len(read(root)) == 20


@pytest.mark.parametrize(
    ("names", "settings_", "parts"),
    [
        (["a.png", "b.png"], {}, ["csv_file is null", "found 2 images outside any folder", "or give csv_file: TABLE"]),
        (["arrested/a.png", "blastocyst/b.png", "c.png"], {}, ["found 1 elsewhere: c.png; move them"]),
        (["arrested/deep/a.png", "blastocyst/b.png"], {}, ["found 1 elsewhere: arrested/deep/a.png"]),
        (["train/arrested/a.png", "train/b.png"], {}, ["expected every image in", "<split>/<class>/*", "train/b.png"]),
        (["train/arrested/a.png", "extra/arrested/b.png"], {}, ["found splits (train) beside 'extra'"]),
        (["train/arrested/a.png", "val/arrested/b.png", "valid/arrested/c.png"], {}, ["found train, val, valid; keep one"]),
        (["arested/a.png", "blastocyst/b.png"], {}, ["found 'arested'", "set class_names to [arested, blastocyst]"]),
        (["arrested/a.gif", "blastocyst/b.png"], {}, ["found 1 other files: arrested/a.gif; convert or move them"]),
        (["arrested/a.png"], {"group_column": "PATIENT_ID"}, ["found group_column 'PATIENT_ID'", "set them to null"]),
        (["train/arrested/a.png"], {"split_fractions": {"train": 1.0}}, ["folders of splits in", "remove one of them"]),
        (["arrested/a.png"], {}, ["found none of 'blastocyst'"]),
    ],
)
def test_other_layouts_are_refused_with_the_reason(tmp_path, names, settings_, parts):
    with pytest.raises(UserError) as caught:
        read(make(tmp_path, *names), **settings_)
    for part in parts:
        assert part in str(caught.value), str(caught.value)


@pytest.mark.parametrize(("name", "shown"), [
    (b"arrested/m\xfcller_1.png", r"arrested/m\xfcller_1\.png"),
    (b"arr\xeat\xe9/1.png", r"arr\xeat\xe9/1\.png"),
    (b"arrested/line\nbreak.png", r"arrested/line\nbreak\.png"),
])
def test_names_that_no_table_could_hold_are_refused_before_anything_is_read(tmp_path, name, shown):
    classes(tmp_path)
    path = tmp_path / os.fsdecode(name)
    path.parent.mkdir(exist_ok=True)
    path.touch()
    with pytest.raises(UserError) as caught:
        read(tmp_path)
    assert f"found 1 others: {shown}; give the file a name in UTF-8".replace("\\.", ".") in str(caught.value)
    str(caught.value).encode("utf-8")


def test_folders_of_classes_match_in_either_unicode_form(tmp_path):
    make(tmp_path, *(f"{name}/{n}.png" for name in ("e\u0301chec", "succ\u00e8s") for n in range(6)))
    records = read(tmp_path, class_names=("\u00e9chec", "succe\u0300s"))
    assert Counter(record.label for record in records) == {0: 6, 1: 6}


def test_links_to_folders_are_named(tmp_path):
    root = classes(tmp_path / "images")
    make(tmp_path / "elsewhere", "x.png")
    (root / "more").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="found links to folders, which are not followed: more"):
        read(root)


def test_a_file_linked_into_both_classes_is_a_conflict(tmp_path):
    root = classes(tmp_path)
    (root / "blastocyst/again.png").symlink_to(root / "arrested/00.png")
    with pytest.raises(AnnotationError, match=r"again with another label \(1\): blastocyst/again.png"):
        read(root)
