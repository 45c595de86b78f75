"""Measurements by hand: what a table may hold, and each refusal."""

from pathlib import Path

import pytest

from config.errors import UserError
from tools.evaluation.manual_measurements import compare_with_manual, read_manual
from tools.evaluation.morphometry import MEASURES, Abstention, Measurement


def measurement(value: float) -> Measurement:
    return Measurement(**dict.fromkeys(MEASURES, value), ellipses={}, outlines={}, inliers={})


def write(folder: Path, text: str) -> Path:
    path = folder / "manual.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_units_come_from_the_header_and_names_match_with_or_without_extension(tmp_path: Path) -> None:
    path = write(tmp_path, "IMAGE_NAME,outer_diameter_um,zona_thickness_px,circularity,reader\n"
                           "a.png,100,20,0.9,me\nb,,21,,me\nc.png,90,,,me\n")
    table = read_manual(path, ["a", "b.png", "c"], um_per_px=0.5)
    assert table.units == {"outer_diameter": "um", "zona_thickness": "px", "circularity": ""}
    assert table.values["b.png"] == {"zona_thickness": 21.0}
    results = {"a": measurement(204.0), "b.png": measurement(23.0), "c": Abstention("low_contrast", "")}
    found = compare_with_manual(table, results, um_per_px=0.5)
    assert (found["outer_diameter"].n, found["outer_diameter"].bias) == (1, 2.0)
    assert (found["zona_thickness"].n, found["zona_thickness"].bias) == (2, (184 + 2) / 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [("IMAGE_NAME,outer_diameter\na,100\n", "column outer_diameter: expected the unit in its name"),
     ("IMAGE_NAME,outer_diameter_um\na,100\n", "is in micrometres and dataset_params.params.um_per_px is not set"),
     ("IMAGE_NAME,diameter_px\na,100\n", "expected a column of a measure"),
     ("IMAGE_NAME,outer_diameter_px,outer_diameter_px\na,1,1\n", "expected one column of outer_diameter"),
     ("IMAGE_NAME,outer_diameter_px\na,100\nz,90\n", "found 1 others: z"),
     ("IMAGE_NAME,outer_diameter_px\na,100\na.png,90\n", "row 3: a.png comes twice"),
     ("IMAGE_NAME,outer_diameter_px\na,wide\n", "row 2: outer_diameter_px: expected a number"),
     ("name,outer_diameter_px\na,100\n", "expected a column 'IMAGE_NAME'")],
)
def test_tables_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        read_manual(write(tmp_path, text), ["a", "b"], um_per_px=None)
    assert "\n" not in str(error.value)


def test_images_of_the_same_name_in_two_folders_are_kept_apart(tmp_path: Path) -> None:
    known = ["a/001.png", "b/001.png", "c/2.png", "c/2.tif"]
    table = read_manual(write(tmp_path, "IMAGE_NAME,outer_diameter_px\nb/001,90\na/001.png,80\nc/2.tif,70\n"), known,
                        um_per_px=None)
    assert {name: values["outer_diameter"] for name, values in table.values.items()} == {
        "b/001.png": 90, "a/001.png": 80, "c/2.tif": 70}
    for name, message in (("d/001", "found 1 others: d/001"), ("001", "found 1 others: 001"), ("c/2", "found several")):
        with pytest.raises(UserError, match=message):
            read_manual(write(tmp_path, f"IMAGE_NAME,outer_diameter_px\n{name},90\n"), known, um_per_px=None)


def test_no_overlap_is_refused(tmp_path: Path) -> None:
    table = read_manual(write(tmp_path, "IMAGE_NAME,outer_diameter_px\na,100\n"), ["a", "b"], um_per_px=None)
    with pytest.raises(UserError, match="no overlap: of 1 images measured by hand none was measured automatically"):
        compare_with_manual(table, {"a": Abstention("no_oocyte", ""), "b": measurement(3)}, um_per_px=None)
