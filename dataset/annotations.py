"""From a table of labels (CSV or XLSX) and a folder, or a folder alone, to records of images, each in one split.

Owns what a row says and how whole groups (patients, embryos) are dealt to train, val and test. Opens no image: what a
file holds is the business of dataset.images.
"""

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from config.errors import UserError, name_some
from dataset.grid import with_point
from dataset.image_folder import ImageFolder, compose, is_plain_name
from dataset.layout import list_layout
from dataset.splits import SPLIT_ALIASES, SPLITS, draw_splits
from dataset.tables import TableRow, is_missing, read_body, read_table, say_once

DEFAULT_FRACTIONS = {"train": 0.7, "val": 0.15, "test": 0.15}
_WRITTEN_NUMBER = re.compile(r"0*(\d+)(?:\.0*)?", re.ASCII)
_INTEGER = re.compile(r"[+-]?[0-9]{1,9}(\.0*)?")
_ABSOLUTE = re.compile(r"[/\\]|[A-Za-z]:[/\\]")


@dataclass(frozen=True)
class ImageRecord:
    """One labelled image: its name as the table has it, its file, its class, its group and its split.

    `conditions` has the index of its level of each further condition, `covariates` the text of each covariate column,
    both in the order in which they were asked for.
    """

    image_id: str
    path: Path
    label: int
    group: str
    split: str
    conditions: tuple[int, ...] = ()
    covariates: tuple[str, ...] = ()
    place: str = field(default="", compare=False, kw_only=True)  # where the user finds its row


@dataclass(frozen=True)
class Problem:
    """One kind of mistake in a table: what is wrong, every place where it is, and what to do.

    `places` has the rows of each offender, as `ImageRecord.place` and messages call them.
    """

    found: str
    offenders: tuple[str, ...]
    remedy: str
    kind: str = ""
    places: tuple[tuple[str, ...], ...] = ()

    def describe(self, limit: int = 5) -> str:
        """One line with up to `limit` offenders."""
        return f"{self.found} ({len(self.offenders)}): {name_some(list(self.offenders), limit)}; {self.remedy}"


class AnnotationError(UserError):
    """Rows that cannot be used, alone or together; the message names up to five offenders of each kind.

    `problems` has them all, `records` the images of the other rows, each in its split as far as that is known.
    """

    def __init__(
        self, message: str, problems: Sequence[Problem] = (), records: Sequence["ImageRecord"] = ()
    ) -> None:
        super().__init__(message)
        self.problems = tuple(problems)
        self.records = tuple(records)


def read_records(
    csv_file: str | Path | Mapping[str, str] | None,
    root_dir: str | Path,
    *,
    class_names: Sequence[str],
    image_column: str = "IMAGE_NAME",
    label_column: str = "blastocist",
    group_column: str | None = None,
    split_column: str | None = None,
    split_fractions: Mapping[str, float] | None = None,
    val_from_train: float = 0.0,
    split_seed: int = 0,
    conditions: Mapping[str, Sequence[str]] | None = None,
    covariate_columns: Sequence[str] = (),
    missing_labels: Sequence[str] = (),
) -> list[ImageRecord]:
    """Read labels and find their images; records in the order of the rows (train, val, test where there are tables).

    Where `csv_file` is None the folders name the classes: root_dir/<class>/* or root_dir/<split>/<class>/*, and an
    image's name is its path from root_dir.

    The split of a row is, in this order: the table or folder it stands in where there is one for each split, its cell in
    `split_column`, or a seeded draw over groups by `split_fractions` (0.7, 0.15, 0.15 when nothing is given). Where
    that leaves val without a row, `val_from_train` moves this share of the training groups there; 0 leaves it empty.
    Draws depend on the seed and the names of the groups, not on the order of the rows. Without a `group_column` each
    image is a group of its own.

    A label is an integer from 0 to the number of classes minus 1, or a class name. `conditions` maps columns to their
    levels, and each cell of such a column names a level. Cells of `covariate_columns` are kept as text without the spaces
    around them and may be blank. Rows without any text are passed over, and so are, with a note of how many, rows that are
    hidden in the sheet and rows whose label is one of `missing_labels` ("blank" is a blank cell).

    Raises:
        AnnotationError: rows that cannot be used, all kinds at once, or that cannot be split.
        UserError: any other mistake in the table, the folder or the settings.
    """
    class_names = _check_class_names(class_names)
    _check_missing_labels(missing_labels, class_names, csv_file)
    _check_split_settings(csv_file, split_column, split_fractions, val_from_train)
    columns = {"image_column": image_column, "label_column": label_column}
    columns |= {"group_column": group_column} if group_column is not None else {}
    columns |= {"split_column": split_column} if split_column is not None else {}
    conditions = _check_conditions(conditions or {}, covariate_columns, label_column)
    columns |= {f"conditions.{name}": name for name in conditions}
    columns |= {f"covariate_columns.{name}": name for name in covariate_columns}
    folder = ImageFolder.scan(root_dir)
    rows, source = _read_rows(csv_file, columns, folder, class_names)
    rows, note = _leave_out_unlabelled(rows, source, missing_labels)
    say_once(note)
    if rows[0].table_split is not None and csv_file is None and split_fractions is not None:
        raise UserError(f"splits: expected one way of splitting, found folders of splits in {folder.root} and "
                        "split_fractions; remove one of them")
    records, problems = _resolve_rows(rows, folder, class_names=class_names, conditions=conditions,
                                      covariate_columns=covariate_columns)
    fractions = _check_fractions(DEFAULT_FRACTIONS if split_fractions is None else split_fractions)
    drawn = rows[0].table_split is None and split_column is None
    try:
        if drawn:
            records = _deal(records, source, fractions, class_names=class_names, seed=split_seed, purpose="split")
        problems += _find_leaks(records)
        if val_from_train and not any(record.split == "val" for record in records):
            _check_training_classes(records, source, class_names)
            train = [record for record in records if record.split == "train"]
            fractions = {"train": 1 - val_from_train, "val": val_from_train}
            moved = _deal(train, source, fractions, class_names=class_names, seed=split_seed, purpose="val_from_train")
            dealt = iter(moved)
            records = [next(dealt) if record.split == "train" else record for record in records]
        _check_training_classes(records, source, class_names)
    except UserError as error:
        if not problems:  # otherwise it can be a consequence of rows that are missing
            problem = Problem(str(error), (source,), "", "splits", ((),))
            raise AnnotationError(str(error), [problem], records) from error
    if problems:
        message = f"{source}: " + "; also ".join(problem.describe() for problem in problems)
        raise AnnotationError(message, problems, records)
    return records


def list_reading_notes(
    csv_file: str | Path | Mapping[str, str] | None, label_column: str, missing_labels: Sequence[str]
) -> list[str]:
    """What a person must know who counts the rows of a table: which ones are left out, and what was read in another way."""
    if csv_file is None:
        return []
    notes, rows = [], []
    tables = csv_file.values() if isinstance(csv_file, Mapping) else [csv_file]
    for path in [Path(table) for table in tables if table is not None]:
        notes += read_body(path, [label_column]).grid.notes
        rows += read_table(path, {"label_column": label_column}, None, "")
    source = ", ".join(str(table) for table in tables)
    return [*notes, *_leave_out_unlabelled(rows, source, missing_labels)[1]]


def describe_splits(
    records: Sequence[ImageRecord], class_names: Sequence[str]
) -> dict[str, dict[str, dict[str, int]]]:
    """Count images and groups: split -> class name -> {"images": n, "groups": g}; only splits that have images."""
    images: Counter[tuple[str, int]] = Counter((record.split, record.label) for record in records)
    groups: defaultdict[tuple[str, int], set[str]] = defaultdict(set)
    for record in records:
        groups[record.split, record.label].add(record.group)
    present = {record.split for record in records}
    return {
        split: {
            name: {"images": images[split, label], "groups": len(groups[split, label])}
            for label, name in enumerate(class_names)
        }
        for split in SPLITS
        if split in present
    }


def _deal(
    records: list[ImageRecord],
    source: str,
    fractions: Mapping[str, float],
    *,
    class_names: Sequence[str],
    seed: int,
    purpose: str,
) -> list[ImageRecord]:
    """Give `records` splits by `draw_splits`; every class has to reach every split."""
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
            f"{source}: to deal images to {', '.join(fractions)} every class needs a group of its own in each of these "
            f"{len(fractions)} splits; found too few groups: {name_some(thin)}; add groups of the class, deal to fewer "
            "splits (split_fractions, val_from_train) or name the splits in a split column"
        )
    return [replace(record, split=dealt[record.group]) for record in records]


# Settings


def _check_class_names(class_names: Sequence[str]) -> list[str]:
    names = list(class_names)
    if isinstance(class_names, str) or not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise UserError(f"class_names: expected a list of names, label 0 first; found {class_names!r}; name each")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UserError(f"class_names: expected each name once; found twice: {name_some(twice)}; rename one of them")
    padded = [repr(name) for name in names if name != name.strip()]
    if padded:
        raise UserError(f"class_names: found spaces around {name_some(padded)}; remove them")
    confusing = [
        f"{name!r} (label {label})"
        for label, name in enumerate(names)
        if _INTEGER.fullmatch(name) and int(name.split(".")[0]) != label
    ]
    if confusing:
        raise UserError(
            f"class_names: a name that is a number must be the number of its label; found {name_some(confusing)}; "
            "give the classes names in words"
        )
    return names


def _check_missing_labels(
    missing_labels: Sequence[str], class_names: Sequence[str], csv_file: str | Path | Mapping[str, str] | None
) -> None:
    if missing_labels and csv_file is None:
        raise UserError("missing_labels: expected none where csv_file is null and folders name the classes; set it to [], "
                        "and move the images without a label out of root_dir")
    labels = {_spell_word(name): label for label, name in enumerate(class_names)}
    wrong = [repr(word) for word in missing_labels if _parse_label(_spell_word(word), labels) is not None]
    if wrong:
        raise UserError(f"missing_labels: expected words that are no label, found {name_some(wrong)}; take them out, or out "
                        "of class_names")


def _check_conditions(
    conditions: Mapping[str, Sequence[str]], covariate_columns: Sequence[str], label_column: str
) -> dict[str, list[str]]:
    """Levels by column, checked."""
    if label_column in conditions:
        raise UserError(f"conditions: {label_column!r} is the label column; name further columns only")
    for name, levels in conditions.items():
        listed = [] if isinstance(levels, str) else list(levels)
        named = all(isinstance(level, str) and level.strip() and level == level.strip() for level in listed)
        if len(listed) < 2 or not named or len(set(listed)) < len(listed):
            raise UserError(f"conditions: {name!r}: expected two levels or more, all different and without spaces around "
                            f"them; found {levels!r}; list each level once")
    twice = [repr(name) for name, count in Counter(covariate_columns).items() if count > 1]
    if twice:
        raise UserError(f"covariate_columns: expected each column once; found twice: {name_some(twice)}; remove one")
    return {name: list(levels) for name, levels in conditions.items()}


def _check_split_settings(
    csv_file: str | Path | Mapping[str, str] | None,
    split_column: str | None,
    split_fractions: Mapping[str, float] | None,
    val_from_train: float,
) -> None:
    ways = ["a table per split in csv_file"] if isinstance(csv_file, Mapping) else []
    ways += [f"split_column {split_column!r}"] if split_column is not None else []
    ways += ["split_fractions"] if split_fractions is not None else []
    if len(ways) > 1:
        raise UserError(f"splits: expected one way of splitting, found {' and '.join(ways)}; remove all but one")
    if split_fractions is not None:
        _check_fractions(split_fractions)
    if not _is_number(val_from_train) or not 0 <= val_from_train < 1:
        raise UserError(
            f"val_from_train: expected a share from 0 to below 1, found {val_from_train!r}; 0 means no val split"
        )


def _check_fractions(split_fractions: Mapping[str, float]) -> dict[str, float]:
    """Fractions by canonical name in the order of SPLITS, without those that are 0."""
    named = _name_splits(split_fractions, "split_fractions")
    bad = [f"{split}: {value!r}" for split, value in named.items() if not _is_number(value) or not 0 <= value <= 1]
    if bad:
        raise UserError(f"split_fractions: expected shares from 0 to 1, found {name_some(bad)}; for example train: 0.8")
    if not math.isclose(sum(named.values()), 1, abs_tol=1e-6):
        raise UserError(f"split_fractions: expected shares in sum 1, found {sum(named.values()):g}; change one of them")
    if not named.get("train"):
        raise UserError("split_fractions: expected a share above 0 for train, found none; give train the largest")
    return {split: share / sum(named.values()) for split, share in named.items() if share}


def _name_splits(given: Mapping[str, Any], setting: str) -> dict[str, Any]:
    """`given` with "valid" and "validation" called val, in the order of SPLITS."""
    unknown = [repr(key) for key in given if key not in SPLIT_ALIASES]
    if unknown:
        raise UserError(f"{setting}: expected the splits train, val and test, found {name_some(unknown)}; rename it")
    if len({SPLIT_ALIASES[key] for key in given}) < len(given):
        raise UserError(f"{setting}: expected each split once, found {', '.join(given)}; keep one name for val")
    named = {SPLIT_ALIASES[key]: value for key, value in given.items()}
    return {split: named[split] for split in SPLITS if split in named}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


# Tables


def _read_rows(
    csv_file: str | Path | Mapping[str, str] | None, columns: Mapping[str, str], folder: ImageFolder,
    class_names: Sequence[str],
) -> tuple[list[TableRow], str]:
    """All rows with text of all tables, and the name of the table or tables for messages."""
    if csv_file is None:
        return list_layout(folder, class_names, columns), str(folder.root)
    if not isinstance(csv_file, Mapping):
        return read_table(Path(csv_file), columns, None, ""), str(csv_file)
    tables = {split: path for split, path in _name_splits(csv_file, "csv_file").items() if path is not None}
    if "train" not in tables:
        raise UserError(f"csv_file: expected a table for train, found {', '.join(tables) or 'none'}; add train: TABLE")
    rows = []
    for (split, path), name in zip(tables.items(), name_tables(tables.values()), strict=True):
        rows += read_table(Path(path), columns, split, f"{name} ")
    return rows, ", ".join(str(path) for path in tables.values())


def name_tables(paths: Iterable[str | Path]) -> list[str]:
    """How rows of several tables call their table: by its file name where that is enough."""
    paths = [Path(path) for path in paths]
    names = [path.name for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


# Rows


def _leave_out_unlabelled(
    rows: list[TableRow], source: str, missing_labels: Sequence[str]
) -> tuple[list[TableRow], list[str]]:
    """The rows whose label is none of the words for a missing one, and a note of how many are left out."""
    words = set(map(_spell_word, missing_labels))
    missing = Counter(text for row in rows if _spell_word(text := row.cells["label_column"].strip()) in words)
    if not missing:
        return rows, []
    if missing.total() == len(rows):
        raise UserError(f"{source}: expected rows with a label, found only those that missing_labels names; correct it, or "
                        "label_column")
    named = name_some([f"{_show_cell(text)} {count:,}" for text, count in missing.most_common()])
    kept = [row for row in rows if row.cells["label_column"].strip() not in missing]
    return kept, [f"{source}: of {len(rows):,} rows {len(kept):,} are used: rows without a label are left out, as "
                  f"missing_labels says ({named})"]


def _resolve_rows(
    rows: list[TableRow], folder: ImageFolder, *, class_names: Sequence[str],
    conditions: Mapping[str, Sequence[str]], covariate_columns: Sequence[str],
) -> tuple[list[ImageRecord], list[Problem]]:
    """Records of the rows that can be used, the split empty where it is still to be drawn, and what is wrong with others."""
    bad = _Faults()
    labels = {compose(name): label for label, name in enumerate(class_names)}
    level_indices = {name: {compose(level): index for index, level in enumerate(levels)}
                     for name, levels in conditions.items()}
    seen: dict[str, tuple[str, int | None]] = {}
    spellings: dict[str, str] = {}
    records = []
    for row in rows:
        bad.place = row.where
        name = row.cells["image_column"]
        file_name = _find_file(name, row.where, folder, bad)
        label = _parse_label(row.cells["label_column"], labels)
        if label is None:
            bad.add("label", f"{row.where} {_show_cell(row.cells['label_column'])}")
        levels = []
        for condition, indices in level_indices.items():
            level = _parse_level(row.cells[f"conditions.{condition}"], indices)
            if level is None:
                cell = row.cells[f"conditions.{condition}"]
                bad.add(f"conditions.{condition}", f"{row.where} {_show_cell(cell)}")
            else:
                levels.append(level)
        group = row.cells.get("group_column", name)
        if "group_column" in row.cells:
            if is_missing(group):
                bad.add("group", f"{row.where} {group!r}" if group.strip() else row.where)
            else:
                known = spellings.setdefault(_spell_group(group), group)
                if known != group:
                    bad.add("spelling", f"{row.where} {group!r} and {known!r}")
        split = row.table_split or ""
        if "split_column" in row.cells:
            text = row.cells["split_column"].strip()
            split = SPLIT_ALIASES.get(text.lower(), "")
            if not split:
                bad.add("split", f"{row.where} {text!r}" if text else f"{row.where} blank")
        if file_name is None:
            continue
        identity = folder.files[file_name]
        if identity in seen:
            first, first_label = seen[identity]
            kind, agree = ("twice", "the same label") if first_label == label else ("conflict", "labels that differ")
            bad.add(kind, f"{_show(name)} ({first} and {row.where}, {agree})", first)
        else:
            seen[identity] = (row.where, label)
        if row.where not in bad.places:
            covariates = tuple(row.cells[f"covariate_columns.{column}"].strip() for column in covariate_columns)
            path = folder.root / file_name
            records.append(ImageRecord(name, path, label, group, split, tuple(levels), covariates, place=row.where))
    kinds = _problem_kinds(folder, class_names, conditions)
    problems = [
        Problem(found, tuple(bad.offenders[kind]), remedy, kind, tuple(bad.rows[kind]))
        for kind, (found, remedy) in kinds.items() if kind in bad.offenders
    ]
    return [record for record in records if record.place not in bad.places], problems


class _Faults:
    """What is wrong with rows, by kind; `place` is the row that is being read."""

    def __init__(self) -> None:
        self.place = ""
        self.offenders: defaultdict[str, list[str]] = defaultdict(list)
        self.rows: defaultdict[str, list[tuple[str, ...]]] = defaultdict(list)
        self.places: set[str] = set()  # rows that cannot be used

    def add(self, kind: str, offender: str, earlier: str | None = None) -> None:
        """Note a fault of this row, or of this and an `earlier` one, of which then neither can be trusted."""
        self.offenders[kind].append(offender)
        self.rows[kind].append((self.place,) if earlier is None else (earlier, self.place))
        self.places.add(self.place)
        if earlier is not None and kind == "conflict":
            self.places.add(earlier)


def _find_file(name: str, where: str, folder: ImageFolder, bad: _Faults) -> str | None:
    """The file that a row's name means, or None and the reason in `bad`."""
    if not name.strip():
        bad.add("unnamed", where)
        return None
    if _ABSOLUTE.match(name) or ".." in re.split(r"[/\\]", name):
        bad.add("outside", f"{where} {_show(name)}{folder.hint(name)}")
        return None
    if not is_plain_name(name) and folder.match(name):
        bad.add("control", f"{where} {_show(name)}")
        return None
    matches = folder.match(name)
    if len(matches) == 1 and matches[0] not in folder.leaving:
        return matches[0]
    if len(matches) > 1:
        bad.add("ambiguous", f"{where} {_show(name)} ({' and '.join(matches)})")
    elif matches or folder.passes_linked_folder(name):
        bad.add("link", f"{where} {_show(name)}")
    else:
        hint = folder.hint(name)
        bad.add("misnamed" if hint else "missing", f"{where} {_show(name)}{hint}")
    return None


def _parse_label(text: str, labels: Mapping[str, int]) -> int | None:
    text = compose(text.strip())
    if text in labels:
        return labels[text]
    text = with_point(text)
    if _INTEGER.fullmatch(text):
        value = int(text.split(".")[0])
        return value if 0 <= value < len(labels) else None
    return None


def _parse_level(text: str, indices: Mapping[str, int]) -> int | None:
    """The index of the level that a cell names; 2.0 names the level 2, as spreadsheets and pandas write integers."""
    text = compose(text.strip())
    text = text if text in indices else with_point(text)
    if text not in indices and _INTEGER.fullmatch(text):
        text = str(int(text.split(".")[0]))
    return indices.get(text)


def _spell_word(text: str) -> str:
    """What a word for a missing label has in common however it is written: ND and nd, 999 and 999.0."""
    text = compose(text.strip()).casefold()
    return str(int(text.split(".")[0])) if _INTEGER.fullmatch(text) else text or "blank"


def _spell_group(group: str) -> str:
    """What groups that are written differently have in common: case, spaces, and how a number is written, 17.0 for 17."""
    text = "".join(unicodedata.normalize("NFKC", group).casefold().split())
    number = _WRITTEN_NUMBER.fullmatch(text)
    return number.group(1) if number else text


def _show(name: str) -> str:
    """A name for a message: in quotes where spaces or control characters would be missed."""
    return name if name.isprintable() and name == name.strip() else repr(name)


def _show_cell(text: str) -> str:
    return repr(text) if text.strip() else "blank"


def _problem_kinds(
    folder: ImageFolder, class_names: Sequence[str], conditions: Mapping[str, Sequence[str]]
) -> dict[str, tuple[str, str]]:
    """The kinds of mistakes that rows can hold and their remedies, in the order in which they are told."""
    root = folder.root
    wanted = f"an integer from 0 to {len(class_names) - 1} or one of {', '.join(class_names)}"
    return {
        "unnamed": ("rows without an image name", "name the image or delete the row"),
        "outside": (
            f"image names that lead out of {root}",
            f"use names relative to root_dir, without '..'; {folder.describe()}",
        ),
        "control": ("images whose names hold control characters", "rename the files and write the new names"),
        "link": (
            "images behind a link to a folder or out of root_dir",
            "put the files themselves there, or point root_dir at their real folder",
        ),
        "ambiguous": ("image names that fit several files", "write the name with its suffix, or remove one file"),
        "missing": (
            f"images not found in {root}",
            f"correct the names, add the files or delete the rows; {folder.describe()}",
        ),
        "misnamed": (f"images not found in {root} under exactly this name", "correct the names"),
        "twice": ("rows name an image again", "keep one row for each image"),
        "conflict": ("rows name an image again with another label", "find out which label is right and keep its row"),
        "label": ("labels that cannot be used", f"write {wanted}, or list words that mean no label in missing_labels"),
        **{f"conditions.{name}": (f"cells of {name} that name no level", f"write one of {', '.join(levels)}")
           for name, levels in conditions.items()},
        "group": ("rows without a group", "name the patient or embryo of each image"),
        "spelling": (
            "groups differ from another only by case, spaces or how a number is written",
            "write each group in one way, or a patient could come into two splits",
        ),
        "split": ("splits that cannot be used", "write train, val or test"),
    }


def _find_leaks(records: Sequence[ImageRecord]) -> list[Problem]:
    """No group in two splits: a model tested on a patient that it has seen is not tested."""
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
