"""Micrometres per pixel are read where a file says them, and are unknown where a program wrote what it always writes."""

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from tools.init.pixel_size import read_um_per_px

GRAY = Image.fromarray(np.zeros((8, 8), np.uint8))


def tags(description: str = "", **values) -> ImageFileDirectory_v2:
    found = ImageFileDirectory_v2()
    if description:
        found[270] = description.encode()
    for tag, value in values.items():
        found[int(tag[1:])] = value
    return found


@pytest.mark.parametrize(("info", "expected"), [
    (tags(t282=20_000.0, t283=20_000.0, t296=3), 0.5),
    (tags(t282=50_800.0, t283=50_800.0, t296=2), 0.5),
    (tags("ImageJ=1.53\nunit=micron\n", t282=4.0, t283=4.0, t296=1), 0.25),
    (tags("ImageJ=1.53\nunit=\\u00B5m\n", t282=4.0, t283=4.0, t296=1), 0.25),
    (tags('<OME><Pixels PhysicalSizeX="0.325" PhysicalSizeXUnit="µm" PhysicalSizeY="0.325"/></OME>'), 0.325),
    (tags('<OME><Pixels PhysicalSizeX="650" PhysicalSizeXUnit="nm" PhysicalSizeY="650" PhysicalSizeYUnit="nm"/></OME>'),
     0.65),
    (tags(t282=72.0, t283=72.0, t296=2), None),
    (tags(t282=300.0, t283=300.0, t296=2), None),
    (tags(t282=20_000.0, t283=10_000.0, t296=3), None),
    (tags("unit=pixel\n", t282=4.0, t283=4.0, t296=1), None),
    (tags(), None),
])
def test_tiff_tags(tmp_path, info, expected):
    GRAY.save(tmp_path / "x.tif", tiffinfo=info)
    found = read_um_per_px(tmp_path / "x.tif")
    assert found is expected if expected is None else found == pytest.approx(expected, rel=1e-3)


def test_png_and_jpeg_resolutions(tmp_path):
    GRAY.save(tmp_path / "x.png", dpi=(50_800, 50_800))
    GRAY.save(tmp_path / "x.jpg", dpi=(72, 72))
    assert read_um_per_px(tmp_path / "x.png") == pytest.approx(0.5, rel=1e-3)
    assert read_um_per_px(tmp_path / "x.jpg") is None


def test_a_damaged_file_says_nothing(tmp_path):
    (tmp_path / "x.tif").write_bytes(b"II*\0 not a tiff")
    assert read_um_per_px(tmp_path / "x.tif") is None
