"""Holds Embryo_loader to the contract in its docstring."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from config.errors import UserError
from dataset.Embryo_loader import Embryo_loader
from dataset.images import write_png

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared sample data are not here")


@pytest.fixture
def folder(tmp_path) -> Path:
    """Twenty gray images of 12 x 16 whose value is their number, and labels in turn."""
    for number in range(20):
        write_png(tmp_path / f"i{number:02d}.png", np.full((12, 16), number, np.uint8))
    lines = "".join(f"i{number:02d},{number % 2}\n" for number in range(20))
    (tmp_path / "labels.csv").write_text("IMAGE_NAME,blastocist\n" + lines)
    return tmp_path


def test_items_follow_the_records(folder):
    data = Embryo_loader(folder / "labels.csv", folder, 1, image_size=8)
    assert len(data) == len(data.records) == 20
    assert (data.class_names, data.im_channels, data.image_size) == (("no_blastocyst", "blastocyst"), 1, 8)
    for index, record in enumerate(data.records):
        image, label = data[index]
        assert image.shape == (1, 8, 8) and image.dtype == torch.float32 and type(label) is int
        assert torch.allclose(image, torch.full((1, 8, 8), index / 127.5 - 1), atol=1e-6)
        assert label == record.label == index % 2
        assert torch.equal(image, data[index][0])


def test_splits_part_the_records(folder):
    whole = Embryo_loader(folder / "labels.csv", folder, 3, image_size=4)
    parts = [
        Embryo_loader(folder / "labels.csv", folder, 3, image_size=4, split=split) for split in ("train", "val", "test")
    ]
    names = [record.image_id for part in parts for record in part.records]
    assert sorted(names) == [record.image_id for record in whole.records]
    assert all(record.split == "val" for record in parts[1].records)


def test_conditions_and_covariates_are_in_the_records_of_every_split(folder):
    lines = "".join(f"i{n:02d},{n % 2},{n % 3},{n}\n" for n in range(20))
    (folder / "labels.csv").write_text("IMAGE_NAME,blastocist,PLANE,DATE\n" + lines)
    data = Embryo_loader(folder / "labels.csv", folder, 1, image_size=4, split="val",
                         conditions={"PLANE": ["0", "1", "2"]}, covariate_columns=["DATE"])
    assert (data.condition_levels, data.covariate_columns) == ({"PLANE": ("0", "1", "2")}, ("DATE",))
    for record in data.records:
        number = int(record.image_id[1:])
        assert (record.conditions, record.covariates) == ((number % 3,), (str(number),))
    plain = Embryo_loader(folder / "labels.csv", folder, 1, image_size=4)
    assert (plain.condition_levels, plain.covariate_columns) == ({}, ())


def test_a_torch_loader_makes_batches_of_it(folder):
    data = Embryo_loader(folder / "labels.csv", folder, 3, image_size=4)
    images, labels = next(iter(DataLoader(data, batch_size=6)))
    assert images.shape == (6, 3, 4, 4) and labels.dtype == torch.int64 and labels.tolist() == [0, 1, 0, 1, 0, 1]


@pytest.mark.parametrize(
    ("channels", "settings_", "part"),
    [
        (2, {}, "im_channels: expected 1"),
        (4, {}, "im_channels: expected 1"),
        (1, {"image_size": 0}, "image size: expected"),
        (1, {"fit": "squash"}, "fit: expected one of pad"),
        (1, {"split": "valid"}, "split: expected one of train, val, test, found 'valid'"),
        (1, {"label_column": "blastocyst"}, "did you mean label_column: 'blastocist'?"),
        (
            1,
            {"split": "test", "split_fractions": {"train": 0.8, "val": 0.2}},
            "expected images in split 'test', found some in train, val only",
        ),
    ],
)
def test_mistakes_show_on_construction(folder, channels, settings_, part):
    with pytest.raises(UserError) as caught:
        Embryo_loader(folder / "labels.csv", folder, channels, **settings_)
    assert part in str(caught.value)


def test_a_damaged_image_is_named_on_access(folder):
    data = Embryo_loader(folder / "labels.csv", folder, 1, image_size=4)
    path = folder / "i03.png"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"i03.png: .*cut PNG"):
        data[3]


@needs_shared
def test_real_embryos_load_as_gray():
    root = SHARED / "stork"
    data = Embryo_loader(
        root / "annotations.csv",
        root / "images",
        1,
        class_names=("poor", "good"),
        image_size=64,
        split="val",
        label_column="good_quality",
        group_column="EMBRYO_ID",
        split_column="SPLIT",
        val_from_train=0.2,
    )
    assert len(data) % 7 == 0 and {record.label for record in data.records} == {0, 1}
    image, _ = data[0]
    assert image.shape == (1, 64, 64) and -1 <= image.min() < image.max() <= 1
