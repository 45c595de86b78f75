"""A folder that is its own table: root/<class>/* or root/<split>/<class>/* to rows of labels; without classes root/* or
root/<split>/*.

Only a file's folders decide its class and split. Opens no image.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from config.errors import UserError, name_some
from dataset.image_folder import IMAGE_SUFFIXES, ImageFolder, compose, escape_name, refuse_odd_names
from dataset.splits import SPLIT_ALIASES
from dataset.tables import TableRow

_FILES_OF_DESKTOPS = ("thumbs.db", "desktop.ini")


def list_layout(folder: ImageFolder, class_names: Sequence[str], columns: Mapping[str, str]) -> list[TableRow]:
    """A row for each image, in the order of the names; desktop files and hidden files are skipped.

    Raises:
        UserError: misplaced images, folders of no known class, files of other formats, or settings that name
            columns, because a folder has none.
    """
    named = [f"{setting} {name!r}" for setting, name in columns.items() if setting not in ("image_column", "label_column")]
    if named:
        raise UserError(f"csv_file is null, so folders name the classes and there are no columns; found {name_some(named)}; "
                        "write a table with these columns, or set them to null")
    root, by_class = folder.root, "label_column" in columns
    inner = "<class>/*" if by_class else "*"
    layout = f"{root}/{inner} or {root}/<split>/{inner}"
    names = sorted(name for name in folder.files if not _is_hidden(name))
    refuse_odd_names(root, names)
    tops = sorted({name.split("/")[0] for name in names if "/" in name})
    if not tops and (by_class or not names):
        raise UserError(f"{root}: csv_file is null, so expected images in {layout}, found {len(names)} images outside any "
                        "folder; sort them into folders of the classes, or give csv_file: TABLE")
    splits = [top for top in tops if top.lower() in SPLIT_ALIASES and not (by_class and top in class_names)]
    if splits and len(splits) < len(tops):
        others = [repr(top) for top in tops if top not in splits]
        raise UserError(f"{root}: expected folders of splits or of classes, found splits ({', '.join(splits)}) beside "
                        f"{name_some(others)}; move the images into one of the two layouts, {layout}")
    if len({SPLIT_ALIASES[top.lower()] for top in splits}) < len(splits):
        raise UserError(f"{root}: expected one folder per split, found {', '.join(splits)}; keep one of "
                        "those that mean the same")
    depth = bool(splits) + by_class + 1
    _check_places(folder, names, depth=depth, layout=f"{root}/{'<split>/' if splits else ''}{inner}")
    classes = _match_classes(root, names, class_names, depth) if by_class else {}
    rows = []
    for number, name in enumerate(names, start=1):
        parts = name.split("/")
        split = SPLIT_ALIASES[parts[0].lower()] if splits else None
        cells = {"image_column": name}
        if by_class:
            cells["label_column"] = classes[compose(parts[depth - 2])]
        rows.append(TableRow(name, cells, split, number))
    return rows


def _match_classes(root: Path, names: Sequence[str], class_names: Sequence[str], depth: int) -> dict[str, str]:
    """Class names by the composed name of their folder; a UserError where a folder has none."""
    found = sorted({name.split("/")[depth - 2] for name in names})
    classes = {compose(name): name for name in class_names}  # config and disk may differ in Unicode form
    unknown = [repr(name) for name in found if compose(name) not in classes]
    if unknown:
        raise UserError(f"{root}: expected folders named like class_names ({', '.join(class_names)}), found "
                        f"{name_some(unknown)}; rename them, or set class_names to [{', '.join(found)}]")
    return classes


def _check_places(folder: ImageFolder, names: Sequence[str], *, depth: int, layout: str) -> None:
    """Refuse images outside the layout, and other files inside it."""
    if folder.linked_folders:
        raise UserError(f"{folder.root}: found links to folders, which are not followed: "
                        f"{name_some(sorted(folder.linked_folders))}; put the folders themselves there")
    misplaced = [name for name in names if name.count("/") != depth - 1]
    if misplaced:
        raise UserError(f"{folder.root}: csv_file is null, so expected every image in {layout}, found {len(misplaced)} "
                        f"elsewhere: {name_some(misplaced)}; move them")
    others = sorted({name for name in folder.others.values() if name.count("/") >= depth - 1 and not _is_hidden(name)})
    if others:
        shown = name_some(list(map(escape_name, others)))
        raise UserError(f"{folder.root}: expected images named {' '.join(IMAGE_SUFFIXES)} in the folders of the classes, "
                        f"found {len(others)} other files: {shown}; convert or move them")


def _is_hidden(name: str) -> bool:
    last = name.rsplit("/", 1)[-1]
    return last.startswith(".") or last.lower() in _FILES_OF_DESKTOPS
