"""Nested subsets of the labelled training images, made of whole groups, and the tables that train on them."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from config.errors import UserError
from config.schema import DatasetParams
from dataset.delimited import format_csv
from dataset.records import ImageRecord
from dataset.storage import write_text

_COLUMNS = ("IMAGE_NAME", "label", "group", "split")


def order_groups(records: Sequence[ImageRecord], *, seed: int) -> list[str]:
    """The groups of labelled training images in an order of which every start has about the class prior of the whole.

    Groups of a class (that of most of their images) come in the order of a hash of (seed, name); next is always the class
    of which the smallest fraction is taken.
    """
    labels: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for record in records:
        labels[record.group][record.label] += 1
    waiting: defaultdict[int, list[str]] = defaultdict(list)
    for group in sorted(labels, key=lambda name: (_address(seed, name), name)):
        waiting[labels[group].most_common(1)[0][0]].append(group)
    total, taken = Counter(record.label for record in records), Counter[int]()
    order: list[str] = []
    while any(waiting.values()):
        label = min((label for label, groups in waiting.items() if groups), key=lambda c: (taken[c] / total[c], c))
        group = waiting[label].pop(0)
        order.append(group)
        taken += labels[group]
    return order


def choose_subsets(records: Sequence[ImageRecord], sizes: Sequence[int], *, num_classes: int, seed: int) -> list[set[str]]:
    """For each size the groups whose images are at least as many, each subset within the next; `records` have labels.

    Raises:
        UserError: sizes that do not grow, more images than there are, or a subset without an image of every class.
    """
    if not sizes or list(sizes) != sorted(set(sizes)) or sizes[0] < 1:
        raise UserError(f"--images: expected different numbers in growing order, found {' '.join(map(str, sizes))}")
    if sizes[-1] > len(records):
        raise UserError(f"--images: expected at most {len(records):,}, the labelled training images, found {sizes[-1]:,}")
    of_group, order = Counter(record.group for record in records), order_groups(records, seed=seed)
    subsets, chosen, count = [], list[str](), 0
    for size in sizes:
        while count < size:
            chosen.append(order[len(chosen)])
            count += of_group[chosen[-1]]
        subset = set(chosen)
        present = {record.label for record in records if record.group in subset}
        if len(present) < num_classes:
            raise UserError(f"--images: expected enough for an image of every class, found {size}, which has "
                            f"{len(present)} of {num_classes} classes; start with more")
        subsets.append(subset)
    return subsets


def write_subset(
    data: DatasetParams, records: Sequence[ImageRecord], subset: set[str], folder: Path, *, rest_unlabelled: bool
) -> DatasetParams:
    """Write the table of a subset; returns the section that reads it. `records` are those of all splits, labelled or not.

    Held-out rows stay as they are. Of the other training rows, all are there without a label, or none.
    """
    table, num_classes = data.params, len(data.params.class_names)
    lines: list[list[object]] = [[*_COLUMNS, *table.conditions]]
    for number, record in enumerate(records):
        kept = record.label < num_classes and (record.split != "train" or record.group in subset)
        if not kept and not (rest_unlabelled and record.split == "train"):
            continue
        # Without a group column each image is a group; file names that differ by case would be refused as groups.
        group = str(number) if table.group_column is None else record.group
        levels = [condition.levels[level]
                  for condition, level in zip(table.conditions.values(), record.conditions, strict=True)]
        name = record.path.relative_to(table.root_dir).as_posix()
        lines.append([name, record.label if kept else "", group, record.split, *levels])
    write_text(folder / "annotations.csv", format_csv(lines))
    image, label, group, split = _COLUMNS
    own = replace(table, csv_file=str(folder / "annotations.csv"), image_column=image, label_column=label,
                  group_column=group, split_column=split, split_fractions=None, val_from_train=0.0,
                  covariate_columns=(), missing_labels=(), unlabelled_values=("blank",),
                  unlabelled="train" if rest_unlabelled else "refuse")
    return replace(data, params=own, directory_latents=str(folder / "latents"),
                   directory_inception_features=str(folder / "features"))


def _address(seed: int, group: str) -> bytes:
    return hashlib.sha256(f"{seed}\0learning curve\0{group}".encode("utf-8", "surrogatepass")).digest()
