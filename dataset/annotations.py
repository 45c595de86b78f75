"""From a table of labels (CSV or XLSX) and a folder, or a folder alone, to records of images, each in one split.

Whole groups (patients, embryos) are assigned to train, val and test. dataset.images opens the images; dataset.table_rows
reads the rows.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from config.errors import UserError, name_some
from dataset.image_folder import ImageFolder
from dataset.layout import list_layout
from dataset.records import NO_LABEL, AnnotationError, ImageRecord, Problem
from dataset.splits import SPLITS, draw_splits
from dataset.table_rows import leave_out_unlabelled, resolve_rows
from dataset.table_settings import (
    check_class_names,
    check_conditions,
    check_fractions,
    check_split_settings,
    check_words,
    name_splits,
)
from dataset.tables import TableRow, read_body, read_table, say_once

DEFAULT_FRACTIONS = {"train": 0.7, "val": 0.15, "test": 0.15}


def read_records(
    csv_file: str | Path | Mapping[str, str] | None,
    root_dir: str | Path,
    *,
    class_names: Sequence[str],
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
) -> list[ImageRecord]:
    """Read labels and find their images; records in the order of the rows (train, val, test if each has a table).

    If `csv_file` is None, the folders name the classes: root_dir/<class>/* or root_dir/<split>/<class>/* (root_dir/* or
    root_dir/<split>/* without a `label_column`), and an image's name is its path from root_dir.

    The split of a row is, in this order: its table or folder if there is one for each split, its cell in
    `split_column`, or a seeded split of the groups by `split_fractions` (0.7, 0.15, 0.15 by default). If
    val is then empty, `val_from_train` moves this fraction of the training groups there; 0 leaves it empty.
    The split depends on the seed and the names of the groups, not on the order of the rows. Without a `group_column` each
    image is a separate group.

    A label is an integer from 0 to the number of classes minus 1, or a class name; without a `label_column` every image is
    of class 0. Images whose label is one of `unlabelled_values` ("blank" is a blank cell) get the number of classes as their
    label and do not count for any split: where splits are drawn they follow their group, or are in train where no image of
    the group has a label. `conditions` maps columns to their levels, and each cell of such a column names a level. Cells of
    `covariate_columns` are kept as text without the spaces around them and may be blank. Rows without any text are skipped.
    So are rows that are hidden in the sheet and rows whose label is one of `missing_labels`; a note says how many.

    Raises:
        AnnotationError: rows that cannot be used, all kinds at once, or that cannot be split.
        UserError: any other mistake in the table, the folder or the settings.
    """
    class_names = check_class_names(class_names)
    check_words(missing_labels, "missing_labels", class_names, csv_file)
    check_words(unlabelled_values, "unlabelled_values", class_names, csv_file)
    check_split_settings(csv_file, split_column, split_fractions, val_from_train)
    conditions = check_conditions(conditions or {}, covariate_columns, label_column)
    columns = {"image_column": image_column, "label_column": label_column, "group_column": group_column,
               "split_column": split_column, **{f"conditions.{name}": name for name in conditions},
               **{f"covariate_columns.{name}": name for name in covariate_columns}}
    folder = ImageFolder.scan(root_dir)
    columns = {setting: column for setting, column in columns.items() if column is not None}
    rows, source = _read_rows(csv_file, columns, folder, class_names)
    rows, note = leave_out_unlabelled(rows, source, missing_labels)
    say_once(note)
    _refuse_two_ways(rows, folder, csv_file, split_fractions)
    records, problems = resolve_rows(rows, folder, class_names=class_names, conditions=conditions,
                                      covariate_columns=covariate_columns, unlabelled_values=unlabelled_values)
    is_dealt = rows[0].table_split is None and split_column is None
    fractions = check_fractions(DEFAULT_FRACTIONS if split_fractions is None else split_fractions)
    return _split(records, problems, source, fractions if is_dealt else None, val_from_train, class_names=class_names,
                  seed=split_seed)


def list_reading_notes(
    csv_file: str | Path | Mapping[str, str] | None, label_column: str | None, missing_labels: Sequence[str]
) -> list[str]:
    """Notes for the user: which rows were left out, and which cells were read differently from what they hold."""
    if csv_file is None:
        return []
    notes, rows = [], []
    tables = csv_file.values() if isinstance(csv_file, Mapping) else [csv_file]
    for path in [Path(table) for table in tables if table is not None]:
        notes += read_body(path, [] if label_column is None else [label_column]).grid.notes
        rows += read_table(path, {} if label_column is None else {"label_column": label_column}, None, "")
    source = ", ".join(str(table) for table in tables)
    return [*notes, *leave_out_unlabelled(rows, source, missing_labels)[1]]


def describe_splits(
    records: Sequence[ImageRecord], class_names: Sequence[str]
) -> dict[str, dict[str, dict[str, int]]]:
    """Count images and groups: split -> class name -> {"images": n, "groups": g}; only splits that have images.

    Images without a label come last, under NO_LABEL, where a split has some.
    """
    images: Counter[tuple[str, int]] = Counter((record.split, record.label) for record in records)
    groups: defaultdict[tuple[str, int], set[str]] = defaultdict(set)
    for record in records:
        groups[record.split, record.label].add(record.group)
    present = {record.split for record in records}
    return {
        split: {
            name: {"images": images[split, label], "groups": len(groups[split, label])}
            for label, name in enumerate([*class_names, NO_LABEL]) if label < len(class_names) or images[split, label]
        }
        for split in SPLITS
        if split in present
    }


def _refuse_two_ways(
    rows: Sequence[TableRow], folder: ImageFolder, csv_file: object, split_fractions: Mapping[str, float] | None
) -> None:
    if rows[0].table_split is not None and csv_file is None and split_fractions is not None:
        raise UserError(f"splits: expected one way of splitting, found folders of splits in {folder.root} and "
                        "split_fractions; remove one of them")


def _split(
    records: list[ImageRecord], problems: Sequence[Problem], source: str, fractions: Mapping[str, float] | None,
    val_from_train: float, *, class_names: Sequence[str], seed: int,
) -> list[ImageRecord]:
    """Records in their splits. `fractions` are dealt by group; None if the rows name splits. `problems` are those so far.

    Raises:
        AnnotationError: there are problems, groups in more than one split, or images that cannot be split.
    """
    labelled, found = [record for record in records if record.label < len(class_names)], list(problems)
    try:
        if fractions is not None:
            labelled = _deal(labelled, source, fractions, class_names=class_names, seed=seed, purpose="split")
        found += _find_leaks(records if fractions is None else labelled)
        if val_from_train and not any(record.split == "val" for record in labelled):
            labelled = _deal_val(labelled, source, val_from_train, class_names=class_names, seed=seed)
        _check_training_classes(labelled, source, class_names)
        records = _join_unlabelled(records, labelled, len(class_names))
    except UserError as error:
        if not found:  # otherwise missing rows may be the cause
            problem = Problem(str(error), (source,), "", "splits", ((),))
            raise AnnotationError(str(error), [problem], records) from error
    if found:
        message = f"{source}: " + "; also ".join(problem.describe() for problem in found)
        raise AnnotationError(message, found, records)
    return records


def _deal(
    records: list[ImageRecord],
    source: str,
    fractions: Mapping[str, float],
    *,
    class_names: Sequence[str],
    seed: int,
    purpose: str,
) -> list[ImageRecord]:
    """Assign splits by `draw_splits`; every class must be in every split."""
    group_labels: defaultdict[str, set[int]] = defaultdict(set)
    for record in records:
        group_labels[record.group].add(record.label)
    _check_any_image(records, source, class_names)
    dealt = draw_splits(group_labels, fractions=fractions, seed=seed, purpose=purpose)
    reached = {(label, dealt[group]) for group, labels in group_labels.items() for label in labels}
    thin = []
    for label, name in enumerate(class_names):
        if any((label, split) not in reached for split in fractions):
            num_groups = sum(label in labels for labels in group_labels.values())
            thin.append(f"class {name!r} has {num_groups}")
    if thin:
        raise UserError(
            f"{source}: to split images into {', '.join(fractions)} every class needs a separate group in each of these "
            f"{len(fractions)} splits; found too few groups: {name_some(thin)}; add groups of the class, use fewer "
            "splits (split_fractions, val_from_train) or name the splits in a split column"
        )
    return [replace(record, split=dealt[record.group]) for record in records]


def _deal_val(
    records: list[ImageRecord], source: str, fraction: float, *, class_names: Sequence[str], seed: int
) -> list[ImageRecord]:
    """Move `fraction` of the training groups to val."""
    _check_training_classes(records, source, class_names)
    train = [record for record in records if record.split == "train"]
    dealt = iter(_deal(train, source, {"train": 1 - fraction, "val": fraction}, class_names=class_names, seed=seed,
                       purpose="val_from_train"))
    return [next(dealt) if record.split == "train" else record for record in records]


def _join_unlabelled(
    records: Sequence[ImageRecord], labelled: Sequence[ImageRecord], num_classes: int
) -> list[ImageRecord]:
    """`records` in their order, those with a label as in `labelled`, the others in the split of their group.

    A group without any label stays in the split that its rows name, else in train.
    """
    splits, split_ones = {record.group: record.split for record in labelled}, iter(labelled)
    return [next(split_ones) if record.label < num_classes
            else replace(record, split=splits.get(record.group, record.split or "train")) for record in records]


def _read_rows(
    csv_file: str | Path | Mapping[str, str] | None, columns: Mapping[str, str], folder: ImageFolder,
    class_names: Sequence[str],
) -> tuple[list[TableRow], str]:
    """All rows with text of all tables, and the name of the table or tables for messages."""
    if csv_file is None:
        return list_layout(folder, class_names, columns), str(folder.root)
    if not isinstance(csv_file, Mapping):
        return read_table(Path(csv_file), columns, None, ""), str(csv_file)
    tables = {split: path for split, path in name_splits(csv_file, "csv_file").items() if path is not None}
    if "train" not in tables:
        raise UserError(f"csv_file: expected a table for train, found {', '.join(tables) or 'none'}; add train: TABLE")
    rows = []
    for (split, path), name in zip(tables.items(), name_tables(tables.values()), strict=True):
        rows += read_table(Path(path), columns, split, f"{name} ")
    return rows, ", ".join(str(path) for path in tables.values())


def name_tables(paths: Iterable[str | Path]) -> list[str]:
    """The name of each table in messages about rows: its file name if that is unique."""
    paths = [Path(path) for path in paths]
    names = [path.name for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def _find_leaks(records: Sequence[ImageRecord]) -> list[Problem]:
    """Groups that are in two splits: a test on patients seen in training is no test."""
    members: defaultdict[str, list[ImageRecord]] = defaultdict(list)
    for record in records:
        members[record.group].append(record)
    found = {group: {record.split for record in its} for group, its in members.items()}
    leaks = {
        f"{group!r} ({' and '.join(split for split in SPLITS if split in splits)})": tuple(r.place for r in members[group])
        for group, splits in found.items() if len(splits) > 1
    }
    if not leaks:
        return []
    remedy = "keep each group in one split"
    return [Problem("groups in more than one split", tuple(leaks), remedy, "group_leak", tuple(leaks.values()))]


def _check_any_image(records: Sequence[ImageRecord], source: str, class_names: Sequence[str]) -> None:
    present = {record.label for record in records}
    absent = [repr(name) for label, name in enumerate(class_names) if label not in present]
    if absent:
        raise UserError(
            f"{source}: expected images of every class, found none of {name_some(absent)}; "
            "add some or take the class out of class_names"
        )


def _check_training_classes(records: Sequence[ImageRecord], source: str, class_names: Sequence[str]) -> None:
    _check_any_image(records, source, class_names)
    present = {record.label for record in records if record.split == "train"}
    absent = [repr(name) for label, name in enumerate(class_names) if label not in present]
    if absent:
        raise UserError(
            f"{source}: expected training images of every class, found none of {name_some(absent)} in train; "
            "move some there or take the class out of class_names"
        )
