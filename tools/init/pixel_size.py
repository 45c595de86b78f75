"""Micrometres per pixel from a file: TIFF tags, ImageJ and OME descriptions, resolutions of PNG and JPEG.

A value that no microscope has (72, 96 or 300 dots per inch, which programs write by default) counts as unknown.
"""

import re
from pathlib import Path

from PIL import Image

PLAUSIBLE_UM = (0.01, 10.0)
_UM_PER_UNIT = {2: 25_400.0, 3: 10_000.0}  # TIFF ResolutionUnit: inch, centimetre
_IMAGEJ_UM = {"micron": 1.0, "um": 1.0, "µm": 1.0, "\\u00b5m": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4}
_OME_UM = {"µm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3}
_OME_SIZE = re.compile(r'PhysicalSize([XY])(Unit)?="([^"]*)"')


def read_um_per_px(path: Path) -> float | None:
    """The file's value if it is plausible and equal in both directions; None otherwise, also for damaged files."""
    try:
        with Image.open(path) as image:
            found = _from_tiff(image) if image.format == "TIFF" else None
            if found is None and "dpi" in image.info:
                found = tuple(25_400.0 / float(dpi) for dpi in image.info["dpi"])
    except Exception:  # no value; check_dataset reports damaged files
        return None
    if found is None or abs(found[0] - found[1]) > 0.01 * found[0] or not PLAUSIBLE_UM[0] <= found[0] <= PLAUSIBLE_UM[1]:
        return None
    return found[0]


def _from_tiff(image: Image.Image) -> tuple[float, float] | None:
    tags = image.tag_v2
    # Pillow reads as Latin-1 what OME writes as UTF-8.
    description = str(tags.get(270, "")).encode("latin-1", "replace").decode("utf-8", "replace")
    ome = {(axis, unit): value for axis, unit, value in _OME_SIZE.findall(description)}
    if ("X", "") in ome and ("Y", "") in ome:
        sizes = [float(ome[axis, ""]) * _OME_UM.get(ome.get((axis, "Unit"), "µm"), 0.0) for axis in "XY"]
        return sizes[0], sizes[1]
    if not tags.get(282) or not tags.get(283):
        return None
    per_unit = float(tags[282]), float(tags[283])
    imagej = re.search(r"^unit=(.+)$", description, re.MULTILINE)
    scale = _IMAGEJ_UM.get(imagej.group(1).strip().lower()) if imagej else _UM_PER_UNIT.get(tags.get(296, 2))
    return None if scale is None else (scale / per_unit[0], scale / per_unit[1])
