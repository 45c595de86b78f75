"""The data set that `dataset_params.target` names by default: a table of labels and a folder as a torch Dataset.

Any other target has to meet the contract below. dataset.annotations reads tables, dataset.images reads images.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch.utils.data import Dataset

from config.errors import UserError
from dataset.annotations import ImageRecord, read_records
from dataset.images import check_geometry, load_image
from dataset.splits import SPLITS


class Embryo_loader(Dataset[tuple[torch.Tensor, int]]):
    """Labelled images, ready for an autoencoder.

    Another class can be `dataset_params.target` if it accepts the same arguments and has:

    - `records`: list of ImageRecord of the split, one per item and in the order of the items. Image ids are unique over all
      splits, files exist, and each group is in one split;
    - `class_names`: tuple of str, the name of label i at place i; `im_channels`: 1 or 3; `image_size`: pixels a side;
    - if `conditions` are given, an index into the levels of each in every record's `conditions` (the arguments
      `conditions`, `covariate_columns`, `missing_labels` and `unlabelled_values` are passed only if the config has some);
    - `__len__()`: the number of records;
    - `__getitem__(i)`: (image, label), image float32 (im_channels, image_size, image_size) in [-1, 1], label the int
      of `records[i]`. The same `i` gives the same values every time: flips and noise are added elsewhere.

    Args:
        csv_file: a table, a mapping from train, val and test to tables, or None if root_dir has a folder for each
            class (see dataset.annotations.read_records).
        root_dir: the folder of the images.
        im_channels: 1 or 3.
        fit: "pad", "crop" or "stretch", how an image becomes a square (see dataset.images.prepare_image).
        conditions: the levels of each further condition by the name of its column, in the order of their indices.
        covariate_columns: columns kept as text in the records; no network sees them.
        missing_labels: words of the label column that mean no label; their rows are left out.
        unlabelled_values: words that mean no label; their records have the label len(class_names).
        split: train, val or test; None gives all records.

    Raises:
        UserError: on construction, a faulty setting, table or folder; on access, a faulty image.
    """

    def __init__(
        self,
        csv_file: str | Path | Mapping[str, str] | None,
        root_dir: str | Path,
        im_channels: int,
        *,
        class_names: Sequence[str] = ("no_blastocyst", "blastocyst"),
        image_size: int = 512,
        fit: str = "pad",
        split: str | None = None,
        image_column: str = "IMAGE_NAME",
        label_column: str | None = "blastocist",
        group_column: str | None = None,
        split_column: str | None = None,
        split_fractions: Mapping[str, float] | None = None,
        val_from_train: float = 0.0,
        split_seed: int = 0,
        conditions: Mapping[str, Sequence[str]] | None = None,
        covariate_columns: Sequence[str] = (),
        missing_labels: Sequence[str] = (),
        unlabelled_values: Sequence[str] = (),
    ) -> None:
        check_geometry(im_channels=im_channels, size_px=image_size, fit=fit)
        if split is not None and split not in SPLITS:
            raise UserError(f"split: expected one of {', '.join(SPLITS)}, found {split!r}; None gives all images")
        records = read_records(
            csv_file,
            root_dir,
            class_names=class_names,
            image_column=image_column,
            label_column=label_column,
            group_column=group_column,
            split_column=split_column,
            split_fractions=split_fractions,
            val_from_train=val_from_train,
            split_seed=split_seed,
            conditions=conditions,
            covariate_columns=covariate_columns,
            missing_labels=missing_labels,
            unlabelled_values=unlabelled_values,
        )
        self.records: list[ImageRecord] = [record for record in records if split in (None, record.split)]
        if not self.records:
            found = ", ".join(name for name in SPLITS if any(record.split == name for record in records))
            raise UserError(
                f"{csv_file or root_dir}: expected images in split {split!r}, found some in {found} only; "
                "name rows for it, or set split_fractions or val_from_train"
            )
        self.class_names = tuple(class_names)
        self.condition_levels = {name: tuple(levels) for name, levels in (conditions or {}).items()}
        self.covariate_columns = tuple(covariate_columns)
        self.im_channels = im_channels
        self.image_size = image_size
        self.fit = fit

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        record = self.records[index]
        image = load_image(record.path, im_channels=self.im_channels, size_px=self.image_size, fit=self.fit)
        return torch.from_numpy(image), record.label
