"""From rows of a table of labels to records of images; rows that cannot be used come with the reason."""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence

from config.errors import UserError, name_some
from dataset.cells import parse_label, parse_level, show_cell, show_name, spell_group, spell_word
from dataset.image_folder import ImageFolder, compose, is_plain_name
from dataset.records import ImageRecord, Problem
from dataset.splits import SPLIT_ALIASES
from dataset.tables import TableRow, is_missing

_ABSOLUTE = re.compile(r"[/\\]|[A-Za-z]:[/\\]")


def leave_out_unlabelled(
    rows: list[TableRow], source: str, missing_labels: Sequence[str]
) -> tuple[list[TableRow], list[str]]:
    """The rows with a label, and a note of how many rows are left out."""
    if not missing_labels:
        return rows, []
    words = set(map(spell_word, missing_labels))
    missing = Counter(text for row in rows if spell_word(text := row.cells["label_column"].strip()) in words)
    if not missing:
        return rows, []
    if missing.total() == len(rows):
        raise UserError(f"{source}: expected rows with a label, found only those that missing_labels names; correct it, or "
                        "label_column")
    named = name_some([f"{show_cell(text)} {count:,}" for text, count in missing.most_common()])
    kept = [row for row in rows if row.cells["label_column"].strip() not in missing]
    return kept, [f"{source}: of {len(rows):,} rows {len(kept):,} are used: rows without a label are left out, as "
                  f"missing_labels says ({named})"]


def resolve_rows(
    rows: list[TableRow], folder: ImageFolder, *, class_names: Sequence[str],
    conditions: Mapping[str, Sequence[str]], covariate_columns: Sequence[str], unlabelled_values: Sequence[str] = (),
) -> tuple[list[ImageRecord], list[Problem]]:
    """Records of the usable rows, and the problems of the others. A split that is still to be assigned is empty.

    Rows whose label is one of `unlabelled_values` get the label after the last class.
    """
    bad = _Faults()
    labels = {compose(name): label for label, name in enumerate(class_names)}
    no_label = set(map(spell_word, unlabelled_values))
    level_indices = {name: {compose(level): index for index, level in enumerate(levels)}
                     for name, levels in conditions.items()}
    seen: dict[str, tuple[str, int | None]] = {}
    spellings: dict[str, str] = {}
    records = []
    for row in rows:
        bad.place = row.where
        name = row.cells["image_column"]
        file_name = _find_file(name, row.where, folder, bad)
        label = _read_label(row, labels, no_label)
        if label is None:
            bad.add("label", f"{row.where} {show_cell(row.cells['label_column'])}")
        levels = []
        for condition, indices in level_indices.items():
            level = parse_level(row.cells[f"conditions.{condition}"], indices)
            if level is None:
                cell = row.cells[f"conditions.{condition}"]
                bad.add(f"conditions.{condition}", f"{row.where} {show_cell(cell)}")
            else:
                levels.append(level)
        group, split = _read_group(row, name, spellings, bad), _read_split(row, bad)
        if file_name is None:
            continue
        identity = folder.files[file_name]
        if identity in seen:
            first, first_label = seen[identity]
            kind, agree = ("twice", "the same label") if first_label == label else ("conflict", "labels that differ")
            bad.add(kind, f"{show_name(name)} ({first} and {row.where}, {agree})", first)
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


def _read_label(row: TableRow, labels: Mapping[str, int], no_label: Collection[str]) -> int | None:
    """The row's label; None where its cell is neither a label nor a word for none."""
    if "label_column" not in row.cells:
        return 0  # of the only class
    text = row.cells["label_column"]
    return len(labels) if spell_word(text) in no_label else parse_label(text, labels)


def _read_group(row: TableRow, image: str, spellings: dict[str, str], bad: "_Faults") -> str:
    """The row's group, or the image itself without such a column; `spellings` has the groups so far."""
    if "group_column" not in row.cells:
        return image
    group = row.cells["group_column"]
    if is_missing(group):
        bad.add("group", f"{row.where} {group!r}" if group.strip() else row.where)
    elif (known := spellings.setdefault(spell_group(group), group)) != group:
        bad.add("spelling", f"{row.where} {group!r} and {known!r}")
    return group


def _read_split(row: TableRow, bad: "_Faults") -> str:
    """The row's split, empty if it is still to be assigned."""
    if "split_column" not in row.cells:
        return row.table_split or ""
    text = row.cells["split_column"].strip()
    split = SPLIT_ALIASES.get(text.lower(), "")
    if not split:
        bad.add("split", f"{row.where} {text!r}" if text else f"{row.where} blank")
    return split


class _Faults:
    """Problems of rows, by kind; `place` is the row that is being read."""

    def __init__(self) -> None:
        self.place = ""
        self.offenders: defaultdict[str, list[str]] = defaultdict(list)
        self.rows: defaultdict[str, list[tuple[str, ...]]] = defaultdict(list)
        self.places: set[str] = set()  # rows that cannot be used

    def add(self, kind: str, offender: str, earlier: str | None = None) -> None:
        """Note a fault of this row, or of this and an `earlier` one: then neither can be trusted."""
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
        bad.add("outside", f"{where} {show_name(name)}{folder.hint(name)}")
        return None
    if not is_plain_name(name) and folder.match(name):
        bad.add("control", f"{where} {show_name(name)}")
        return None
    matches = folder.match(name)
    if len(matches) == 1 and matches[0] not in folder.leaving:
        return matches[0]
    if len(matches) > 1:
        bad.add("ambiguous", f"{where} {show_name(name)} ({' and '.join(matches)})")
    elif matches or folder.passes_linked_folder(name):
        bad.add("link", f"{where} {show_name(name)}")
    else:
        hint = folder.hint(name)
        bad.add("misnamed" if hint else "missing", f"{where} {show_name(name)}{hint}")
    return None


def _problem_kinds(
    folder: ImageFolder, class_names: Sequence[str], conditions: Mapping[str, Sequence[str]]
) -> dict[str, tuple[str, str]]:
    """The kinds of mistakes in rows and their remedies, in the order in which they are reported."""
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
        "conflict": ("rows name an image again with another label", "find out which label is right, and keep its row"),
        "label": ("labels that cannot be used", f"write {wanted}; for images without a label set unlabelled: train to learn "
                  "from them as they are, or list their words in missing_labels to leave them out"),
        **{f"conditions.{name}": (f"cells of {name} that name no level", f"write one of {', '.join(levels)}")
           for name, levels in conditions.items()},
        "group": ("rows without a group", "name the patient or embryo of each image"),
        "spelling": (
            "groups that differ only by case, spaces or how a number is written",
            "write each group in one way, or a patient could be in two splits",
        ),
        "split": ("splits that cannot be used", "write train, val or test"),
    }
