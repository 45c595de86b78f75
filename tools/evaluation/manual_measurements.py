"""Measurements made by hand, read from a table, and their agreement with the automatic ones."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np

from config.errors import UserError, name_some
from dataset.grid import with_point
from dataset.tables import read_header, read_table
from tools.evaluation.morphometry import LENGTHS, MEASURES, Abstention, Measurement
from tools.evaluation.morphometry_comparison import Agreement, bland_altman

IMAGE_COLUMN = "IMAGE_NAME"
_UNITS = ("px", "um")


@dataclass(frozen=True)
class ManualTable:
    """Values by image id and measure; `units` says px or um for lengths, an empty text for the others."""

    values: dict[str, dict[str, float]]
    units: dict[str, str]


def read_manual(path: Path, known: Sequence[str], *, um_per_px: float | None) -> ManualTable:
    """Read IMAGE_NAME and a column per measure: `outer_diameter_um`, `zona_thickness_px`, `circularity`.

    Names are given with or without extension, as are the `known` ones; an empty cell was not measured.

    Raises:
        UserError: no column of a measure, a length without its unit, micrometres without `um_per_px`, an image that is
            not known or comes twice, a cell that is no number.
    """
    columns, units = _find_columns(path, um_per_px)
    by_name: dict[str, list[str]] = {}
    for image_id in known:
        for name in {image_id, _without_suffix(image_id)}:
            by_name.setdefault(name, []).append(image_id)
    wanted = {f"measure.{measure}": name for measure, name in columns.items()}
    rows = read_table(path, {IMAGE_COLUMN: IMAGE_COLUMN, **wanted}, None, "")
    names = [row.cells[IMAGE_COLUMN].strip() for row in rows]
    found = [by_name.get(name) or by_name.get(_without_suffix(name), []) for name in names]
    unknown = [name for name, ids in zip(names, found, strict=True) if not ids]
    if unknown:
        raise UserError(f"{path}: expected names of the config's real images in {IMAGE_COLUMN}, found {len(unknown)} "
                        f"others: {name_some(unknown)}; correct them or remove their rows")
    several = [name for name, ids in zip(names, found, strict=True) if len(ids) > 1]
    if several:
        raise UserError(f"{path}: {name_some(several)}: expected one image of this name, found several; give the extension")
    values: dict[str, dict[str, float]] = {}
    for row, name, (image_id,) in zip(rows, names, found, strict=True):
        if image_id in values:
            raise UserError(f"{path}: {row.where}: {name} comes twice; keep one row an image, such as the mean of readings")
        cells = {measure: row.cells[f"measure.{measure}"] for measure in columns}
        values[image_id] = {measure: _to_number(cell, path, row.where, columns[measure])
                            for measure, cell in cells.items() if cell.strip()}
    return ManualTable(values, units)


def compare_with_manual(
    manual: ManualTable, results: Mapping[str, Measurement | Abstention], *, um_per_px: float | None
) -> dict[str, Agreement]:
    """Bland-Altman agreement of each measure over the images that both have.

    Raises:
        UserError: no image has a value of both.
    """
    agreements = {}
    for measure, unit in manual.units.items():
        pairs = [(result.values(um_per_px if unit == "um" else None)[measure], values[measure])
                 for image_id, values in manual.values.items()
                 if isinstance(result := results.get(image_id), Measurement) and measure in values]
        if pairs:
            automatic, by_hand = np.array(pairs, dtype=np.float64).T
            agreements[measure] = bland_altman(automatic, by_hand)
    if not agreements:
        raise UserError(f"no overlap: of {len(manual.values)} images measured by hand none was measured automatically; "
                        "look at the reasons and at the overlay pictures")
    return agreements


def _find_columns(path: Path, um_per_px: float | None) -> tuple[dict[str, str], dict[str, str]]:
    """Measure to column name, and measure to unit."""
    columns: dict[str, str] = {}
    units: dict[str, str] = {}
    for name in read_header(path):
        base, _, unit = name.strip().rpartition("_")
        if name.strip() in LENGTHS:
            raise UserError(f"{path}: column {name}: expected the unit in its name, {name}_px or {name}_um, found none")
        measure, unit = (base, unit) if base in LENGTHS and unit in _UNITS else (name.strip(), "")
        if measure not in MEASURES:
            continue
        if measure in columns:
            raise UserError(f"{path}: expected one column of {measure}, found {columns[measure]} and {name}; keep one")
        if unit == "um" and um_per_px is None:
            raise UserError(f"{path}: column {name} is in micrometres and dataset_params.params.um_per_px is not set; set "
                            "it, or give pixels of the prepared image")
        columns[measure], units[measure] = name, unit
    if not columns:
        expected = ", ".join(f"{name}_px" if name in LENGTHS else name for name in MEASURES)
        raise UserError(f"{path}: expected a column of a measure ({expected}; _um for micrometres), found none")
    return columns, units


def _to_number(text: str, path: Path, where: str, column: str) -> float:
    try:
        value = float(with_point(text))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{path}: {where}: {column}: expected a number with a decimal point, found {text!r}; correct it or "
                        "leave the cell empty")
    return value


def _without_suffix(name: str) -> str:
    """The name with its folders, without its extension."""
    return name.removesuffix(PurePath(name).suffix)
