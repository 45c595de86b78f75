"""The cells of a table as text, and where that text is not what a person sees who looks at the sheet."""

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

    `lines` has every row, so that places are row numbers; hidden rows and rows without text are empty. `shown` has what a
    number's format shows in place of the number. `faults` has (kind, description) of cells whose text is not what the
    sheet shows. `notes` is what a person must be told who counts the rows.
    """

    lines: list[list[str]]
    shown: dict[tuple[int, int], str] = field(default_factory=dict)
    faults: dict[tuple[int, int], tuple[str, str]] = field(default_factory=dict)
    hidden_columns: Collection[int] = ()
    num_hidden_rows: int = 0
    notes: tuple[str, ...] = ()


def with_point(text: str) -> str:
    """A number with a decimal comma written with a point; any other text, and 1,234, which can be a thousand, unchanged."""
    text = text.strip()
    match = _DECIMAL_COMMA.fullmatch(text)
    if match is None or (len(match[2]) == 3 and match[1].lstrip("+-0")):
        return text
    return f"{match[1]}.{match[2]}"
