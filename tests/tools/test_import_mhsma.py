"""The import of MHSMA: arrays in, images and tables out; what is not as described writes nothing."""

import csv
from pathlib import Path

import numpy as np
import pytest

from config.errors import UserError
from config.load import load_config
from dataset.decoding import decode_image
from tools import import_mhsma
from tools.diffusion.data import open_images

ROOT = Path(__file__).parents[2]
COUNTS = {"train": 6, "valid": 2, "test": 4}


@pytest.fixture
def download(tmp_path: Path) -> Path:
    """Arrays of the official names: noise, labels that differ from one another."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "mhsma"
    folder.mkdir()
    for split, count in COUNTS.items():
        np.save(folder / f"x_64_{split}.npy", rng.integers(0, 256, (count, 64, 64), dtype=np.uint8))
        for place, label in enumerate(import_mhsma.LABELS):
            np.save(folder / f"y_{label}_{split}.npy", (np.arange(count, dtype=np.uint8) >> place % 2) % 2)
    return folder


def test_images_and_labels_keep_their_order(download: Path, tmp_path: Path) -> None:
    output = tmp_path / "data"
    import_mhsma.main([str(download), "--output", str(output)])
    for split, count in COUNTS.items():
        pixels = np.load(download / f"x_64_{split}.npy")
        with (output / f"{split}.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == count
        for index, row in enumerate(rows):
            assert (decode_image(output / "images" / f"{row['IMAGE_NAME']}.png") == pixels[index]).all()
            assert [row[f"{label}_abnormal"] for label in import_mhsma.LABELS] == [
                str(np.load(download / f"y_{label}_{split}.npy")[index]) for label in import_mhsma.LABELS]


def test_the_shipped_config_reads_it(download: Path, tmp_path: Path) -> None:
    import_mhsma.main([str(download), "--output", str(tmp_path / "data")])
    tables = "{" + ", ".join(f"{key}: {tmp_path}/data/{split}.csv" for key, split in
                             (("train", "train"), ("val", "valid"), ("test", "test"))) + "}"
    config = load_config(str(ROOT / "config/mhsma64.yaml"), [f"dataset_params.params.csv_file={tables}",
                                                             f"dataset_params.params.root_dir={tmp_path}/data/images"])
    assert [len(open_images(config, split).records) for split in ("train", "val", "test")] == [6, 2, 4]


@pytest.mark.parametrize(("name", "array", "message"), [
    ("x_64_valid.npy", None, "could not be read"),
    ("x_64_valid.npy", np.zeros((2, 128, 128), dtype=np.uint8), r"expected uint8 \(N, 64, 64\), found uint8 \(2, 128"),
    ("y_tail_test.npy", np.zeros(3, dtype=np.uint8), r"expected 4 values of 0 or 1, found uint8 \(3,\)"),
    ("y_tail_test.npy", np.full(4, 2, dtype=np.uint8), "expected 4 values of 0 or 1"),
])
def test_what_is_not_as_described_writes_nothing(
    download: Path, tmp_path: Path, name: str, array: np.ndarray | None, message: str
) -> None:
    (download / name).unlink()
    if array is not None:
        np.save(download / name, array)
    with pytest.raises(UserError, match=message):
        import_mhsma.main([str(download), "--output", str(tmp_path / "data")])
    assert not (tmp_path / "data").exists()


def test_the_real_images_come_out_as_the_tests_have_them(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data/mhsma64"
    for split in import_mhsma.SPLITS:
        with (folder / f"{split}.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        images = [decode_image(folder / "images" / f"{row['IMAGE_NAME']}.png") for row in rows]
        np.save(tmp_path / f"x_64_{split}.npy", np.stack(images))
        for label in import_mhsma.LABELS:
            values = [int(row[f"{label}_abnormal"]) for row in rows]
            np.save(tmp_path / f"y_{label}_{split}.npy", np.array(values, dtype=np.uint8))
    import_mhsma.main([str(tmp_path), "--output", str(tmp_path / "data")])
    for split in import_mhsma.SPLITS:
        made, given = (root / f"{split}.csv" for root in (tmp_path / "data", folder))
        assert made.read_text(encoding="utf-8") == given.read_text(encoding="utf-8")
    names = {path.name for path in (folder / "images").iterdir()}
    assert {path.name for path in (tmp_path / "data/images").iterdir()} == names
