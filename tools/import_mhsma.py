"""Turn a download of the MHSMA data set (human sperm, 64 px) into the images and tables that config/mhsma64.yaml reads.

    python -m tools.import_mhsma mhsma-dataset/mhsma --output data/mhsma64

The data are those of Javadi & Mirroshandel 2019 (github.com/soroushj/mhsma-dataset, CC BY-NC-SA 4.0).
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from config.errors import UserError
from config.paths import as_path
from dataset.images import write_png
from dataset.storage import write_text
from tools.runtime.command import run_command

SPLITS = ("train", "valid", "test")
LABELS = ("head", "acrosome", "vacuole", "tail")  # 1 is abnormal
SIDE_PX = 64


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.import_mhsma", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=as_path, metavar="FOLDER", help="with x_64_train.npy, y_head_train.npy and so on")
    parser.add_argument("--output", type=as_path, default=Path("data/mhsma64"), metavar="DIR",
                        help="folder for images/ and one table per split (default data/mhsma64)")
    arguments = parser.parse_args(argv)
    splits = {split: _read_split(arguments.folder, split) for split in SPLITS}  # all, before the first file is written
    for split, (images, labels) in splits.items():
        names = [f"{split}_{index:04d}" for index in range(len(images))]
        for name, image in zip(names, images, strict=True):
            write_png(arguments.output / "images" / f"{name}.png", image)
        rows = [f"{name},{','.join(map(str, values))}" for name, values in zip(names, labels.tolist(), strict=True)]
        header = ",".join(["IMAGE_NAME", *(f"{label}_abnormal" for label in LABELS)])
        write_text(arguments.output / f"{split}.csv", "\n".join([header, *rows]) + "\n")
        print(f"{arguments.output / split}.csv: {len(images)} images, {int(labels[:, 0].sum())} with an abnormal head")


def _read_split(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (N, 64, 64) and labels (N, 4), 0 or 1, in the order of LABELS.

    Raises:
        UserError: a file is missing, or is not as the data set's authors describe it.
    """
    images = _read_array(folder / f"x_{SIDE_PX}_{split}.npy")
    if images.dtype != np.uint8 or images.ndim != 3 or images.shape[1:] != (SIDE_PX, SIDE_PX):
        raise UserError(f"{folder}/x_{SIDE_PX}_{split}.npy: expected uint8 (N, {SIDE_PX}, {SIDE_PX}), found {images.dtype} "
                        f"{images.shape}")
    columns = []
    for label in LABELS:
        path = folder / f"y_{label}_{split}.npy"
        values = _read_array(path)
        if values.shape != (len(images),) or not np.isin(values, (0, 1)).all():
            raise UserError(f"{path}: expected {len(images)} values of 0 or 1, found {values.dtype} {values.shape}")
        columns.append(values.astype(np.int64))
    return images, np.stack(columns, axis=1)


def _read_array(path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: could not be read ({error}); FOLDER is the folder mhsma of a download of "
                        "github.com/soroushj/mhsma-dataset") from None


if __name__ == "__main__":
    run_command(main, on_device=False)
