"""A clinician's table as columns, and the meaning of each: the image, the label, the group, the split.

Only headers and cells decide: a column is a group only if its header says so. The user is not asked.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from config.errors import UserError, name_some
from dataset.grid import with_point
from dataset.image_folder import ImageFolder, escape_name
from dataset.splits import SPLIT_ALIASES, SPLITS
from dataset.tables import TableBody, check_cells, is_missing, read_body
from tools.init.pixel_size import PLAUSIBLE_UM

TABLE_SUFFIXES = (".csv", ".tsv", ".xlsx")
_MOST_CLASSES = 20
_RARE_SHARE = 0.005  # rarer label values count as typing errors if there are 50 rows or more
# Coarser first: embryos of one patient belong together.
_GROUPS = ("patient", "couple", "woman", "subject", "participant", "person", "donor", "animal", "case", "cycle", "embryo",
           "zygote", "oocyte")
_GROUP_HEADER = re.compile(rf"(?:id)?({'|'.join(_GROUPS)})s?(?:id|no|nr|num|number|code|name|key)?")
# Words for a missing label besides those of programs, and words that can also be a class.
_NO_LABEL = ("nd", "n.d.", "n.d", "n/d", "n.a.", "n.a", "-", "--", "---", "\u2013", "\u2014", "?", "??", "???", ".")
_DOUBTFUL_LABELS = ("none", "unknown", "unk", "unclear", "missing", "not known", "not determined", "not graded", "ungraded",
                    "not available", "not assessed", "tbd", "nil")
_LABEL_WORDS = ("label", "class", "outcome", "target", "blastocyst", "blastocist", "blastulation")
_PLANE_WORDS = ("focal", "focus", "plane", "z")
_GRADE_WORDS = ("gardner", "grade", "grading", "icm", "te", "trophectoderm", "expansion", "stage")
_MOST_GRADES = 8
_GRADE_LETTERS = "FEDCBA"  # from the worst
_JOINED_GRADE = re.compile(r"[1-6][A-D][+-]?[A-D][+-]?")  # Gardner: expansion, inner cell mass, trophectoderm
_PIXEL_SIZE_HEADER = re.compile(r"(?:um|µm|microns?|micromet(?:er|re)s?)per(?:px|pixel)|pixelsize(?:um|µm|microns?)?")


@dataclass(frozen=True)
class Sheet:
    """One table, or one per split put together; `split_of_row` is empty for a single table.

    `shown` has the columns as their number formats show them (0017 for 17), `places` the place of each row for messages,
    `notes` what was left out or read differently.
    """

    tables: Mapping[str, Path]
    columns: Mapping[str, Sequence[str]]
    split_of_row: Sequence[str]
    shown: Mapping[str, Sequence[str]] = field(default_factory=dict)
    bodies: Mapping[str, TableBody] = field(default_factory=dict)
    places: Sequence[str] = ()
    notes: Sequence[str] = ()

    def as_shown(self, name: str) -> Sequence[str]:
        """A column in the form used for names of files and patients."""
        return self.shown.get(name, self.columns[name])

    @property
    def num_rows(self) -> int:
        return len(next(iter(self.columns.values())))


def find_tables(paths: Sequence[Path]) -> dict[str, Path]:
    """The tables by split, or one table under "": from paths of tables, or a folder of them.

    Raises:
        UserError: no table, or several that are not named for one split each.
    """
    if len(paths) == 1 and paths[0].is_dir():
        found = sorted(path for path in paths[0].iterdir() if path.suffix.lower() in TABLE_SUFFIXES and path.is_file())
        if not found:
            raise UserError(f"{paths[0]}: expected a table ({' '.join(TABLE_SUFFIXES)}), found none in this folder; name it")
        paths = found
    if len(paths) == 1:
        return {"": paths[0]}
    named: dict[str, Path] = {}
    for path in paths:
        splits = {SPLIT_ALIASES[word] for word in re.split(r"[^a-z]+", path.stem.lower()) if word in SPLIT_ALIASES}
        if len(splits) != 1 or splits & named.keys():
            names = name_some([str(other) for other in paths])
            raise UserError(f"expected one table, or one named for each of train, val and test; found {names}; give one "
                            "table, or those of the splits")
        named[splits.pop()] = path
    if "train" not in named:
        raise UserError(f"expected a table for train, found {', '.join(map(str, paths))}; name one table after it")
    return {split: named[split] for split in SPLITS if split in named}


def read_sheet(tables: Mapping[str, Path]) -> Sheet:
    """All rows with text that are not hidden; hidden columns and columns that not all tables have are left out."""
    bodies = {split: read_body(path) for split, path in tables.items()}
    notes = [note for body in bodies.values() for note in body.grid.notes]
    names: dict[str, None] = {}
    for split, body in bodies.items():
        hidden = [name for place, name in enumerate(body.header) if place in body.grid.hidden_columns and name.strip()]
        if hidden:
            notes.append(f"{tables[split]}: hidden columns are left out: {name_some(list(map(repr, hidden)))}; unhide those "
                         "that should be read")
        found = dict.fromkeys(name for name in body.header if name.strip() and name not in hidden)
        lost = [repr(name) for name in {**names, **found} if (name in names) != (name in found)] if names else []
        if lost:
            notes.append(f"columns that not all tables have are left out: {name_some(lost)}")
        names = {name: None for name in names if name in found} if names else found
        if not names:
            shown = name_some(list(map(str, tables.values())))
            raise UserError(f"{shown}: expected tables with the same columns; rename them")
    places = {name: [(body, body.header.index(name)) for body in bodies.values()] for name in names}
    return Sheet(
        tables,
        {name: [cells[place] for body, place in its for cells in body.rows.values()] for name, its in places.items()},
        [split for split, body in bodies.items() for _ in body.rows if split],
        {name: [cell for body, place in its for cell in body.cells_as_shown(place)] for name, its in places.items()},
        bodies,
        [f"{tables[split].name} row {number}" if split else f"row {number}" for split, body in bodies.items()
         for number in body.rows],
        notes,
    )


def check_columns(sheet: Sheet, settings: Mapping[str, str | None]) -> None:
    """Refuse cells that training would refuse because the sheet shows other text, in the columns of these settings."""
    for split, body in sheet.bodies.items():
        check_cells(sheet.tables[split], body, {setting: body.header.index(name) for setting, name in settings.items()
                                                if name is not None})


def find_image_column(sheet: Sheet, folder: ImageFolder) -> str:
    """The column most of whose cells name a file of the folder.

    Raises:
        UserError: no column does.
    """
    hits = {name: sum(len(folder.match(cell)) == 1 for cell in sheet.as_shown(name)) for name in sheet.columns}
    best = max(hits, key=lambda name: hits[name])
    if hits[best] < 0.5 * sheet.num_rows:
        name, cells = max(sheet.columns.items(), key=lambda item: len(set(item[1])))
        files = name_some([escape_name(file) for file in sorted(folder.files)], 3)
        raise UserError(f"{folder.root}: expected a column whose cells name the {len(folder.files):,} images there, with or "
                        f"without extension; found none ({name!r} has {name_some([repr(cell) for cell in cells], 3)}, the "
                        f"folder {files}); write the names exactly as the files have them")
    return best


def find_group_column(sheet: Sheet) -> str | None:
    """The column whose header names patients, or else cycles, embryos or oocytes; never a guess from the cells."""
    found = {}
    for name in sheet.columns:
        match = _GROUP_HEADER.fullmatch(_squeeze(name))
        if match:
            found[name] = _GROUPS.index(match.group(1))
    return min(found, key=lambda name: found[name]) if found else None


def find_split_column(sheet: Sheet) -> str | None:
    """The column with train, val or test in nearly every row."""
    for name, cells in sheet.columns.items():
        values = [SPLIT_ALIASES.get(cell.strip().lower()) for cell in cells]
        if sum(value is not None for value in values) >= 0.95 * len(values) and "train" in values:
            return name
    return None


def find_plane_column(sheet: Sheet) -> str | None:
    """The column of focal planes: numbers under a header that says so."""
    for name, cells in sheet.columns.items():
        words = set(re.split(r"[^a-z]+", name.lower()))
        if words & set(_PLANE_WORDS) and all(_is_number(cell) for cell in cells) and 1 < len(set(cells)) < len(cells):
            return name
    return None


def find_ordinal_columns(sheet: Sheet, others: Sequence[str | None]) -> dict[str, list[str]]:
    """Levels in order, from the lowest plane or the worst grade, of the columns that can condition the network.

    These are the focal planes and grades by their headers, filled in every row: letters A to F, or whole numbers.
    """
    plane = find_plane_column(sheet)
    found = {}
    for name, cells in sheet.columns.items():
        values = {_as_level(cell) for cell in cells}
        if name in others or "" in values or len(values) < 2:
            continue
        if name == plane:
            found[name] = sorted(values, key=_to_float)
        elif _says_grade(name) and len(values) <= _MOST_GRADES:
            if all(len(value) == 1 and value in _GRADE_LETTERS for value in values):
                found[name] = sorted(values, key=_GRADE_LETTERS.index)
            elif all(value.isdigit() for value in values):
                found[name] = sorted(values, key=int)
    return found


def find_joined_grades(sheet: Sheet, others: Sequence[str | None]) -> list[str]:
    """Columns that hold three Gardner grades in one, such as 4AB."""
    return [name for name, cells in sheet.columns.items() if name not in others and _says_grade(name)
            and all(_JOINED_GRADE.fullmatch(cell.strip().upper()) for cell in cells)]


def find_pixel_size(sheet: Sheet) -> tuple[str, float | None] | None:
    """The column of micrometres per pixel and its value, None if rows differ."""
    for name, cells in sheet.columns.items():
        values = {_to_float(cell) for cell in cells if _is_number(cell)}
        if _PIXEL_SIZE_HEADER.fullmatch(_squeeze(name)) and values:
            plausible = all(PLAUSIBLE_UM[0] <= value <= PLAUSIBLE_UM[1] for value in values)
            return name, values.pop() if len(values) == 1 and plausible else None
    return None


def list_labels(cells: Sequence[str]) -> list[str]:
    """The values that occur, without missing ones such as NA and rare typing errors; numbers by size, then text."""
    missing = find_missing_labels(cells)
    counts = Counter(cell.strip() for cell in cells if cell.strip() not in missing)
    rare = max(1, _RARE_SHARE * len(cells)) if len(cells) >= 50 else 0
    values = {_as_level(value) for value, count in counts.items() if count > rare}
    return sorted(values, key=lambda value: (not _is_number(value), _to_float(value) if _is_number(value) else 0.0, value))


def find_missing_labels(cells: Sequence[str]) -> dict[str, list[int]]:
    """The cells of a label column that mean no label, "" for blank ones, and their rows from 0.

    A minus sign means no label unless there is a plus sign.
    """
    found: dict[str, list[int]] = {}
    signs = any(cell.strip() == "+" for cell in cells)
    for row, cell in enumerate(cells):
        text = cell.strip()
        if is_missing(cell) or (text.lower() in _NO_LABEL and not (text == "-" and signs)):
            found.setdefault(text, []).append(row)
    return found


def find_doubtful_labels(cells: Sequence[str]) -> dict[str, int]:
    """Cells that can be a class or mean that nobody knows it, and in how many rows."""
    return dict(Counter(cell.strip() for cell in cells if cell.strip().lower() in _DOUBTFUL_LABELS))


def is_label_range(values: Sequence[str]) -> bool:
    """Whether the values are the labels 0, 1, ... themselves."""
    return list(values) == [str(label) for label in range(len(values))]


def find_label_columns(sheet: Sheet, others: Sequence[str | None]) -> tuple[list[str], list[str]]:
    """(the likeliest label columns, all that can be labels) among those that are not `others`.

    A header that says so comes before labels 0, 1, ..., and these before a few different texts.
    """
    ranks: dict[str, int] = {}
    for name, cells in sheet.columns.items():
        values = list_labels(cells)
        if name in others or not 2 <= len(values) <= min(_MOST_CLASSES, len(cells) // 2):
            continue
        in_range = is_label_range(values)
        if not in_range and any(_is_number(value) for value in values):
            continue  # measurements, or labels that do not start at 0
        says_so = any(word in _squeeze(name) for word in _LABEL_WORDS)
        ranks[name] = 0 if says_so else 1 if in_range else 2
    return [name for name in ranks if ranks[name] == min(ranks.values())], list(ranks)


def find_other_numbering(sheet: Sheet, others: Sequence[str | None]) -> dict[str, list[str]]:
    """Columns that would be labels if their numbers started at 0, and these numbers."""
    found = {name: list_labels(cells) for name, cells in sheet.columns.items() if name not in others}
    return {name: values for name, values in found.items()
            if 2 <= len(values) <= min(_MOST_CLASSES, sheet.num_rows // 2) and all(map(_is_whole, values))
            and not is_label_range(values)}


def find_covariates(sheet: Sheet, others: Sequence[str | None]) -> tuple[str, ...]:
    """Columns that are not `others` and whose cells distinguish rows, but are not different in every row."""
    return tuple(name for name, cells in sheet.columns.items()
                 if name not in others and 1 < len(set(map(str.strip, cells))) < len(cells))


def _squeeze(header: str) -> str:
    return re.sub(r"[\W_]+", "", header.lower())


def _says_grade(header: str) -> bool:
    return bool(set(re.split(r"[^a-z]+", header.lower())) & set(_GRADE_WORDS))


def _as_level(cell: str) -> str:
    """The level that a cell names: 2.0 is 2, as dataset.annotations reads it."""
    return str(int(_to_float(cell))) if _is_whole(cell) else cell.strip()


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)", with_point(text), re.ASCII) is not None


def _is_whole(text: str) -> bool:
    return _is_number(text) and _to_float(text).is_integer()


def _to_float(text: str) -> float:
    return float(with_point(text))
