"""Turn columns of text about how an image was taken into numbers: categories, numbers and dates, by their content."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from dataset.grid import with_point

MAX_CATEGORIES = 10  # a column of numbers with fewer values holds codes: clinic 1, 2, 3
_MAX_INDICATORS = 50
_BINS = 5  # a number may act in steps or in the middle of its range, so its quintile is used besides its rank
_BLANK = ("", "na", "n/a", "nan", "none", "null", "-", "?", "unknown")
_DATE_FORMATS = ("%Y-%m-%d", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M", "%Y/%m/%d", "%d.%m.%Y", "%d/%m/%Y",
                 "%m/%d/%Y", "%d-%m-%Y", "%Y%m%d")
_YEARS = (1950, 2100)


@dataclass(frozen=True)
class Covariate:
    """One encoded column: values float64 (N, K), and its kind.

    `kind` is category, number, date, constant or identifier; the last two carry no information and have no columns. `note`
    is None, or a note for the reader.
    """

    name: str
    kind: str
    values: np.ndarray
    note: str | None = None


def encode_covariate(name: str, cells: Sequence[str]) -> Covariate:
    """Determine the kind of a column and encode it; blank cells (also NA, ?, unknown) become a separate indicator.

    A column holds dates if every filled cell is a date in one format, numbers if every one is a number and
    more than 10 differ, else categories. Numbers and dates become their rank in [0, 1] and their quintile,
    categories an indicator each (the 50 most frequent).
    """
    filled = [cell.strip() for cell in cells]
    blank = np.array([cell.lower() in _BLANK for cell in filled])
    known = [cell for cell, missing in zip(filled, blank, strict=True) if not missing]
    distinct = len(set(known))
    if distinct + bool(blank.any()) < 2:
        return Covariate(name, "constant", np.zeros((len(filled), 0)), "has one value only")
    if (moments := _as_dates(known)) is not None and distinct > 1:
        return Covariate(name, "date", _encode_ordered(moments, blank))
    if (numbers := _as_numbers(known)) is not None and distinct > MAX_CATEGORIES:
        return Covariate(name, "number", _encode_ordered(numbers, blank))
    if distinct == len(known) and distinct > MAX_CATEGORIES:
        return Covariate(name, "identifier", np.zeros((len(filled), 0)), "differs for every image, so that it says nothing")
    note = None
    if distinct > _MAX_INDICATORS:
        note = f"has {distinct} values, of which only the {_MAX_INDICATORS} most frequent are distinguished"
    return Covariate(name, "category", _encode_categories(filled, blank), note)


def _as_numbers(cells: Sequence[str]) -> np.ndarray | None:
    try:
        values = [float(with_point(cell)) for cell in cells]
    except ValueError:
        return None
    return np.array(values) if all(math.isfinite(value) for value in values) else None


def _as_dates(cells: Sequence[str]) -> np.ndarray | None:
    """Seconds since the first date, if one format reads all cells as dates of a plausible year."""
    for form in _DATE_FORMATS:
        try:
            moments = [datetime.strptime(cell, form) for cell in cells]
        except ValueError:
            continue
        if all(_YEARS[0] <= moment.year < _YEARS[1] for moment in moments):
            first = min(moments)
            return np.array([(moment - first).total_seconds() for moment in moments])
    return None


def _encode_ordered(values: np.ndarray, blank: np.ndarray) -> np.ndarray:
    """Rank in [0, 1] (the middle where blank), quintile indicators, and one of blank cells if there are any."""
    numbers = np.unique(values, return_inverse=True)[1]
    counts = np.bincount(numbers)
    middle_rank = (np.cumsum(counts) - counts / 2)[numbers] / len(values)
    columns = np.zeros((len(blank), 1 + _BINS + 1))
    columns[:, 0] = 0.5
    columns[~blank, 0] = middle_rank
    columns[np.flatnonzero(~blank), 1 + np.minimum((middle_rank * _BINS).astype(int), _BINS - 1)] = 1
    columns[blank, -1] = 1
    return columns if blank.any() else columns[:, :-1]


def _encode_categories(cells: Sequence[str], blank: np.ndarray) -> np.ndarray:
    """An indicator for each of the most frequent categories, and one of blank cells if there are any."""
    counts = Counter(cell for cell, missing in zip(cells, blank, strict=True) if not missing)
    kept = sorted(counts, key=lambda category: (-counts[category], category))[:_MAX_INDICATORS]
    columns = [np.array([cell == category for cell in cells]) & ~blank for category in kept]
    columns += [blank] if blank.any() else []
    return np.stack(columns, axis=1).astype(np.float64)
