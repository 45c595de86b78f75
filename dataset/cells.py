"""The meaning of a cell in a table of labels: a label, a level, a group, or a missing label."""

import re
import unicodedata
from collections.abc import Mapping

from dataset.grid import with_point
from dataset.image_folder import compose

WHOLE_NUMBER = re.compile(r"[+-]?[0-9]{1,9}(\.0*)?")
_WRITTEN_NUMBER = re.compile(r"0*(\d+)(?:\.0*)?", re.ASCII)


def parse_label(text: str, labels: Mapping[str, int]) -> int | None:
    text = compose(text.strip())
    if text in labels:
        return labels[text]
    text = with_point(text)
    if WHOLE_NUMBER.fullmatch(text):
        value = int(text.split(".")[0])
        return value if 0 <= value < len(labels) else None
    return None


def parse_level(text: str, indices: Mapping[str, int]) -> int | None:
    """The index of the level that a cell names; 2.0 names the level 2, as spreadsheets and pandas write integers."""
    text = compose(text.strip())
    text = text if text in indices else with_point(text)
    if text not in indices and WHOLE_NUMBER.fullmatch(text):
        text = str(int(text.split(".")[0]))
    return indices.get(text)


def spell_word(text: str) -> str:
    """A word for a missing label, normalised: ND and nd are the same, 999 and 999.0 too."""
    text = compose(text.strip()).casefold()
    return str(int(text.split(".")[0])) if WHOLE_NUMBER.fullmatch(text) else text or "blank"


def spell_group(group: str) -> str:
    """A group's name, normalised: without case, spaces and the format of numbers, 17.0 for 17."""
    text = "".join(unicodedata.normalize("NFKC", group).casefold().split())
    number = _WRITTEN_NUMBER.fullmatch(text)
    return number.group(1) if number else text


def show_name(name: str) -> str:
    """A name for a message: in quotes if it has spaces or control characters that a reader would miss."""
    return name if name.isprintable() and name == name.strip() else repr(name)


def show_cell(text: str) -> str:
    return repr(text) if text.strip() else "blank"
