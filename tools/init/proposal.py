"""From a sheet and a folder to the data section of a config, and to the list of decisions for the user.

Proposes only what columns, names and pixels show. setup.py chooses the set-up, config_draft.py writes the YAML.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from config.errors import UserError, name_some, nearest_name
from config.schema import INCEPTION_FILE
from dataset.decoding import ImageError
from dataset.grid import with_point
from dataset.image_folder import ImageFolder
from dataset.layout import list_layout
from dataset.splits import SPLIT_ALIASES
from tools.init import sheet as sheets
from tools.init.pixel_size import read_um_per_px
from tools.init.sheet import Sheet
from tools.inspection.image_statistics import ImageStatistics, measure_image
from tools.inspection.symmetries import SymmetryMeasurement

_MOST_IMAGES = 200  # opened, spread evenly over the rows
_MIN_GROUPS = 8  # a column with at least so many values may name patients
_BARE_HEADERS = ("label", "labels", "class", "outcome", "target", "y")


@dataclass(frozen=True)
class Columns:
    """The columns of names, labels, groups and splits, and their values by row; splits are "" if they will be random.

    `conditions` has the levels of columns that could be inputs of the network; the user decides.
    """

    csv_file: str | dict[str, str] | None
    image_column: str | None
    label_column: str | None
    group_column: str | None
    split_column: str | None
    class_names: tuple[str, ...]
    covariate_columns: tuple[str, ...]
    conditions: dict[str, list[str]]
    missing_labels: dict[str, list[int]]  # rows from 0 by the word, "" for blank
    files: tuple[Path, ...]
    labels: tuple[int, ...]
    groups: tuple[str, ...]
    splits: tuple[str, ...]


@dataclass(frozen=True)
class Images:
    """Properties of the opened images: usual size, channels to read, bits, and micrometres per stored pixel."""

    width: int
    height: int
    num_sizes: int
    gray: bool
    stored_as_rgb: bool
    bits: int
    peak: int
    um_per_px: float | None
    num_opened: int


@dataclass(frozen=True)
class Proposal:
    """The table's part of a config, with its reasons; `decisions` is what the user must look at, most important first."""

    root_dir: str
    columns: Columns
    images: Images
    val_from_train: float
    split_fractions: dict[str, float] | None
    has_val: bool
    decisions: tuple[str, ...]
    symmetries: tuple[str, ...] = ("identity",)
    symmetries_from: str = "not tested"


def propose(tables: Sequence[Path], root: Path, *, label_column: str | None) -> Proposal:
    """Read the tables (none for a folder of classes) and the folder.

    Raises:
        UserError: they cannot be read, or the column of names or labels is not clear.
    """
    folder = ImageFolder.scan(root)
    if not folder.files:
        raise UserError(f"{root}: expected images, found none; name the folder of the images")
    sheet = sheets.read_sheet(sheets.find_tables(tables)) if tables else None
    if sheet is None and label_column is not None:
        raise UserError("--label-column: there is no table; folders name the classes")
    columns = _read_layout(folder) if sheet is None else _read_columns(sheet, folder, label_column)
    decisions = [] if sheet is None else _decide_columns(sheet, columns)
    images = _look_at_images(columns)
    val_from_train, fractions, has_val, notes = _propose_splits(columns)
    if sheet is not None:
        images, note = _read_pixel_size(sheet, images)
        notes += note
    return Proposal(str(root), columns, images, val_from_train, fractions, has_val,
                    (*_decide_group(columns, sheet), *decisions, *_decide_files(columns, folder, sheet), *notes,
                     *_decide_images(images), *_decide_weights()))


def add_symmetries(proposal: Proposal, measured: SymmetryMeasurement | None) -> Proposal:
    """The proposal with the augmentation that the test of check_symmetries recommends: identity if it cannot decide."""
    if measured is None:
        note, found = "no training image can be read, so that nothing was tested", "not tested: no image can be read"
    else:
        note, counts = measured.note, f"{measured.num_images:,} training images of {measured.num_groups:,} groups"
        found = f"tested on {counts}" if measured.decided else f"not tested: {measured.num_groups} groups are too few"
    decided = () if note is None else (f"symmetries: {note}; python -m tools.check_symmetries shows the test",)
    return replace(proposal, symmetries=measured.recommended if measured else ("identity",), symmetries_from=found,
                   decisions=proposal.decisions + decided)


def _read_columns(sheet: Sheet, folder: ImageFolder, label_column: str | None) -> Columns:
    image_column = sheets.find_image_column(sheet, folder)
    group_column = sheets.find_group_column(sheet)
    split_column = None if sheet.split_of_row else sheets.find_split_column(sheet)
    pixel_size = sheets.find_pixel_size(sheet)
    taken = (image_column, group_column, split_column, sheets.find_plane_column(sheet), pixel_size and pixel_size[0])
    likely, possible = sheets.find_label_columns(sheet, taken)
    name = _choose_label(sheet, likely, possible, label_column, sheets.find_other_numbering(sheet, taken))
    sheets.check_columns(sheet, {"image_column": image_column, "label_column": name, "group_column": group_column,
                                 "split_column": split_column})
    values = sheets.list_labels(sheet.columns[name])
    if len(values) < 2:
        raise UserError(f"column {name!r}: expected two labels or more, found {', '.join(values) or 'none'}; choose another "
                        "with --label-column")
    in_range = sheets.is_label_range(values)
    if not in_range and all(value.lstrip("+-").isdigit() for value in values):
        raise UserError(f"column {name!r}: expected labels 0, 1, ... or names, found {', '.join(values)}; number them "
                        "from 0 or write the names of the classes")
    class_names = _name_classes(name, values) if in_range else tuple(values)
    labels = {value: label for label, value in enumerate(values)}
    rows = range(sheet.num_rows)
    matches = [folder.match(cell) for cell in sheet.as_shown(image_column)]
    kept = [row for row in rows if len(matches[row]) == 1 and _find_label(sheet.columns[name][row], labels) is not None]
    splits = sheet.split_of_row or ([SPLIT_ALIASES.get(cell.strip().lower(), "") for cell in sheet.columns[split_column]]
                                    if split_column else [""] * sheet.num_rows)
    groups = sheet.as_shown(group_column or image_column)
    tables = {split: str(path) for split, path in sheet.tables.items()}
    return Columns(
        csv_file=tables if sheet.split_of_row else tables[""], image_column=image_column, label_column=name,
        group_column=group_column, split_column=split_column, class_names=class_names,
        covariate_columns=sheets.find_covariates(sheet, (image_column, name, group_column, split_column)),
        conditions=sheets.find_ordinal_columns(sheet, (image_column, name, group_column, split_column)),
        missing_labels=sheets.find_missing_labels(sheet.columns[name]),
        files=tuple(folder.root / matches[row][0] for row in kept),
        labels=tuple(_find_label(sheet.columns[name][row], labels) or 0 for row in kept),
        groups=tuple(groups[row] for row in kept), splits=tuple(splits[row] for row in kept),
    )


def _choose_label(
    sheet: Sheet, likely: Sequence[str], possible: Sequence[str], label_column: str | None,
    passed_over: Mapping[str, Sequence[str]],
) -> str:
    if label_column is not None:
        if label_column not in sheet.columns:
            near = nearest_name(label_column, sheet.columns)
            meant = f"did you mean {near!r}?" if near else "give the column of the classes"
            columns = ", ".join(map(repr, sheet.columns))
            raise UserError(f"--label-column: expected one of {columns}, found {label_column!r}; {meant}")
        return label_column
    if len(likely) != 1:
        named = name_some([f"{name!r} ({', '.join(sheets.list_labels(sheet.columns[name])[:4])})" for name in likely], 8)
        found = f"several: {named}" if likely else f"none among {', '.join(map(repr, sheet.columns))}"
        more = [repr(name) for name in possible if name not in likely]
        also = f" (also possible: {name_some(more)})" if more else ""
        if not likely and passed_over:
            numbered = name_some([f"{name!r} ({', '.join(values[:4])})" for name, values in passed_over.items()], 8)
            also = f"; skipped because their numbers do not start at 0: {numbered}; number such labels from 0, or use names"
        raise UserError(f"expected one column of labels, found {found}{also}; choose one with --label-column NAME")
    return likely[0]


def _name_classes(column: str, values: Sequence[str]) -> tuple[str, ...]:
    """Names for the labels 0, 1, ...: `no_X` and `X` for two of them, unless X only means that it is a label."""
    name = column.strip()
    if name.lower() in _BARE_HEADERS:
        name = "class"
    elif len(values) == 2:
        return f"no_{name}", name
    return tuple(f"{name}_{value}" for value in values)


def _find_label(cell: str, labels: Mapping[str, int]) -> int | None:
    cell = cell.strip()
    return labels.get(cell, labels.get(with_point(cell).removesuffix(".0")))


def _read_layout(folder: ImageFolder) -> Columns:
    """A folder whose subfolders are classes, or splits of classes."""
    names = [name.split("/") for name in folder.files if not name.rsplit("/", 1)[-1].startswith(".")]
    tops = {parts[0] for parts in names if len(parts) > 1}
    by_split = bool(tops) and all(top.lower() in SPLIT_ALIASES for top in tops) and any(len(parts) > 2 for parts in names)
    class_names = tuple(sorted({parts[1 if by_split else 0] for parts in names if len(parts) > (2 if by_split else 1)}))
    rows = list_layout(folder, class_names, {"label_column": "class"})
    if len(class_names) < 2:
        raise UserError(f"{folder.root}: expected folders of two classes or more, found {', '.join(class_names)}; sort the "
                        "images into folders named like their classes, or give a table")
    files = tuple(folder.root / row.cells["image_column"] for row in rows)
    return Columns(
        csv_file=None, image_column=None, label_column=None, group_column=None, split_column=None, class_names=class_names,
        covariate_columns=(), conditions={}, missing_labels={}, files=files,
        labels=tuple(class_names.index(row.cells["label_column"]) for row in rows),
        groups=tuple(map(str, files)), splits=tuple(row.table_split or "" for row in rows),
    )


def _look_at_images(columns: Columns) -> Images:
    """Open images spread over the set."""
    files = columns.files
    if not files:
        raise UserError("expected rows with an image and a label, found none; check the names and labels in the table")
    opened: list[tuple[Path, ImageStatistics]] = []
    for place in np.unique(np.linspace(0, len(files) - 1, min(_MOST_IMAGES, len(files))).round().astype(int)):
        try:
            opened.append((files[place], measure_image(files[place])[0]))
        except ImageError:
            continue  # named by check_dataset, with all others of its kind
    if not opened:
        raise UserError(f"{files[0]}: expected images that can be read, found none among {len(files):,}; try opening one")
    values = [statistics for _, statistics in opened]
    (width, height), _ = Counter((value.width, value.height) for value in values).most_common(1)[0]
    found = [read_um_per_px(path) for path, _ in opened]
    um_per_px = found[0] if found[0] and all(um and abs(um - found[0]) < 0.01 * found[0] for um in found) else None
    bits = max(value.bits for value in values)
    gray = all(value.gray for value in values)
    return Images(
        width=width, height=height, num_sizes=len({(value.width, value.height) for value in values}),
        gray=gray, stored_as_rgb=any(value.channels == 3 for value in values),
        bits=bits, peak=max(value.peak for value in values if value.bits == bits), um_per_px=um_per_px,
        num_opened=len(opened),
    )


def _read_pixel_size(sheet: Sheet, images: Images) -> tuple[Images, list[str]]:
    """The pixel size in a column, which has priority over that in the files."""
    found = sheets.find_pixel_size(sheet)
    if found is None:
        return images, []
    name, value = found
    if value is None:
        return images, [f"um_per_px: column {_plain(name)} holds several values, or impossible ones. um_per_px needs "
                        "images of one scale, which also train best"]
    return replace(images, um_per_px=value), []


def _propose_splits(columns: Columns) -> tuple[float, dict[str, float] | None, bool, list[str]]:
    """(val_from_train, split_fractions, whether there will be validation images, what to decide)."""
    def groups_of_rarest(split: str) -> int:
        return min(len({group for group, label, its in zip(columns.groups, columns.labels, columns.splits, strict=True)
                        if its == split and label == wanted}) for wanted in range(len(columns.class_names)))

    if any(columns.splits):
        if "val" in columns.splits:
            return 0.0, None, True, []
        if groups_of_rarest("train") >= 2:
            return 0.2, None, True, ["val_from_train: the table has no validation rows, so a fifth of the training "
                                     "groups is used for validation"]
        return 0.0, None, False, ["selection_metric: there are too few training groups for a validation split, so "
                                  "the last weights are kept"]
    rarest = groups_of_rarest("")
    if rarest >= 3:
        return 0.0, {"train": 0.7, "val": 0.15, "test": 0.15}, True, [
            "split_fractions: the table names no splits. They are chosen at random by group, the same each time"]
    if rarest == 2:
        return 0.0, {"train": 0.5, "test": 0.5}, False, ["split_fractions: one class has only two groups, so there is no "
                                                         "validation split"]
    return 0.0, {"train": 1.0}, False, ["split_fractions: one class has only one group, so nothing can be held out; no "
                                        "number from such a run means anything"]


def _decide_group(columns: Columns, sheet: Sheet | None) -> list[str]:
    if columns.group_column is None:
        possible = [] if sheet is None else [
            f"{_plain(name)} ({len(set(sheet.columns[name])):,} values in {sheet.num_rows:,} rows)"
            for name in columns.covariate_columns if _MIN_GROUPS <= len(set(sheet.columns[name])) <= sheet.num_rows / 2]
        instead = f"If one of {name_some(possible)} names patients, set group_column to it; else add" if possible else "Add"
        return ["group_column: NO COLUMN'S HEADER NAMES PATIENTS OR EMBRYOS. Images of one patient can be on both sides "
                f"of the split, and every number is then too good. {instead} a column such as PATIENT_ID and name it; null "
                "is right only if each image shows a different patient"]
    if "patient" in columns.group_column.lower():
        return []
    return [f"group_column: {_plain(columns.group_column)} was chosen by its header. If several of its groups can come "
            "from one patient, add a column of patients and name it"]


def _decide_files(columns: Columns, folder: ImageFolder, sheet: Sheet | None) -> list[str]:
    named = {path.relative_to(folder.root).as_posix() for path in columns.files}
    others = sorted(set(folder.files) - named)
    if sheet is None or not others or len(columns.files) < sheet.num_rows:
        return []
    return [f"files: {len(others):,} of {len(folder.files):,} images in the folder have no row (such as "
            f"{_plain(others[0])}); is a table missing?"]


def _decide_columns(sheet: Sheet, columns: Columns) -> list[str]:
    assert columns.label_column is not None
    others = [_plain(name) for name in sheets.find_label_columns(sheet, (columns.image_column, columns.group_column,
              columns.split_column, sheets.find_plane_column(sheet)))[1] if name != columns.label_column]
    also = f"; other columns that can be labels: {name_some(others)}" if others else ""
    classes = ", ".join(map(_plain, columns.class_names))
    decisions = [f"label_column: {_plain(columns.label_column)}, classes {classes}; give the classes the names that reports "
                 f"should show{also}", *_decide_missing_labels(sheet, columns),
                 *(f"table: {_plain(note)}" for note in sheet.notes)]
    plane = sheets.find_plane_column(sheet)
    if plane is not None and columns.group_column is not None:
        per_group = Counter(columns.groups)
        decisions.append(f"focal planes: {_plain(plane)} has {len(set(sheet.columns[plane]))} planes, and a group has up "
                         f"to {max(per_group.values())} images. They are alike by nature, so the set counts as "
                         f"{len(per_group):,} groups. Delete the rows of planes that are out of focus if the model should "
                         "not learn them")
    decisions += _decide_conditions(sheet, columns)
    rows = sheet.num_rows
    unlabelled = sum(map(len, columns.missing_labels.values()))
    if len(columns.files) < rows - unlabelled:
        decisions.append(f"rows: {rows - unlabelled - len(columns.files):,} of {rows:,} have no image or no usable label; "
                         "check_dataset names them")
    return decisions


def _decide_missing_labels(sheet: Sheet, columns: Columns) -> list[str]:
    """What to do about rows without a label: none is left out before the user says so."""
    decisions = []
    if columns.missing_labels:
        named = [f"{_plain(word) if word else 'blank'} ({len(rows):,}: "
                 f"{name_some([sheet.places[row] for row in rows], 3) if sheet.places else len(rows)})"
                 for word, rows in columns.missing_labels.items()]
        number = sum(map(len, columns.missing_labels.values()))
        decisions.append(f"missing_labels: {number:,} of {sheet.num_rows:,} rows have no label: {name_some(named)}. "
                         "Training refuses them until you write their labels, remove the # before missing_labels, which "
                         "leaves these rows out, or set unlabelled: train and unlabelled_values, which learns from their "
                         "images without a label")
    assert columns.label_column is not None
    doubtful = [f"{_plain(word)} ({number:,} rows)"
                for word, number in sheets.find_doubtful_labels(sheet.columns[columns.label_column]).items()
                if word in columns.class_names]
    if doubtful:
        decisions.append(f"class_names: {name_some(doubtful)} became a class. If it means that nobody knows the class, move "
                         "it from class_names to missing_labels")
    return decisions


def _decide_conditions(sheet: Sheet, columns: Columns) -> list[str]:
    decisions = []
    if columns.conditions:
        named = [f"{_plain(name)} ({len(levels)} levels, {_plain(levels[0])} to {_plain(levels[-1])})"
                 for name, levels in columns.conditions.items()]
        decisions.append(f"conditions: {name_some(named)} can be inputs of the network besides the class, so that you can "
                         "sample images of a chosen level. The lines are commented out under dataset_params.params: check "
                         "the order of the levels before you use them. Without them the network cannot distinguish the "
                         "levels")
    joined = sheets.find_joined_grades(sheet, (columns.image_column, columns.label_column, columns.group_column))
    if joined:
        example = sheet.columns[joined[0]][0].strip()
        names = name_some(list(map(_plain, joined)))
        decisions.append(f"conditions: {names} holds three Gardner grades in one ({example}); "
                         "to use them as inputs of the network, give expansion, inner cell mass and trophectoderm a column "
                         "each")
    return decisions


def _decide_weights() -> list[str]:
    return ["evaluation: features of networks that were never trained are always computed and need no file. The classifier "
            "that train_encoder trains on your images sees only the class. FID, KID and LPIPS need "
            "published weights (96 MB). With allow_download: auto the first evaluation downloads them once into "
            "torch's cache. Without a network it continues after a few seconds, and these rows say that they were not "
            f"computed. To give the files yourself, set evaluation_params.inception_path ({INCEPTION_FILE}) and "
            "dataset_params.lpips_path; allow_download: false downloads nothing"]


def _decide_images(images: Images) -> list[str]:
    decisions = []
    if images.num_sizes > 1 or images.width != images.height:
        shape = f"{images.num_sizes} sizes" if images.num_sizes > 1 else f"{images.width} x {images.height} px"
        decisions.append(f"fit: images are not all square of one size ({shape}); pad keeps all of an image, crop its middle")
    if images.bits == 16 and images.peak < 1 << 15:
        decisions.append(f"16 bits: values reach {images.peak:,} of 65,535. The whole range becomes [-1, 1], so scale the "
                         "values up in the files, or the images stay dark")
    if images.um_per_px is None:
        decisions.append("um_per_px: neither the files nor a column give the micrometres per pixel; set it if you want to "
                         "measure lengths")
    return decisions


def _plain(text: str) -> str:
    """A name from a table for a line of text: quoted if it would break the line."""
    return text if text.isprintable() else repr(text)
