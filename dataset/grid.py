"""The cells of a table as text, and the cells whose text differs from what the sheet shows."""

import re
from collections.abc import Collection
from dataclasses import dataclass, field

_DECIMAL_COMMA = re.compile(r"([+-]?[0-9]*),([0-9]+)")

# Kinds of `Grid.faults`.
DATE, PART_OF_DATE, ERROR, FORMULA, MERGED, ROUNDED, DIGITS = (
    "date", "part_of_date", "error", "formula", "merged", "rounded", "digits")


@dataclass
class Grid:
    """Cells by row and column, both from 0.

    `lines` has every row, so that positions are row numbers; hidden rows and rows without text are empty. `shown` has the
    text that a number's format displays. `faults` has (kind, description) of cells whose text is not what the sheet shows.
    `notes` tells the user which rows were left out or read differently.
    """

    lines: list[list[str]]
    shown: dict[tuple[int, int], str] = field(default_factory=dict)
    faults: dict[tuple[int, int], tuple[str, str]] = field(default_factory=dict)
    hidden_columns: Collection[int] = ()
    num_hidden_rows: int = 0
    notes: tuple[str, ...] = ()


def with_point(text: str) -> str:
    """A number with its decimal comma replaced by a point; other text is unchanged, and so is 1,234, which is ambiguous."""
    text = text.strip()
    match = _DECIMAL_COMMA.fullmatch(text)
    if match is None or (len(match[2]) == 3 and match[1].lstrip("+-0")):
        return text
    return f"{match[1]}.{match[2]}"
