"""Each thing is found once, under its most specific kind, and outliers are judged against their own set."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from dataset.annotations import ImageRecord, Problem
from tools.check_dataset.problems import ERROR, image_findings, row_findings, symmetry_findings, unlisted_findings
from tools.inspection.image_statistics import ImageStatistics, find_outliers
from tools.inspection.symmetries import SymmetryMeasurement, SymmetryTest

RNG = np.random.default_rng(1)
USUAL = {"width": 64, "height": 64, "channels": 1, "gray": True, "bits": 8, "peak": 255, "contrast": 0.2, "focus": 0.1}


def make_set(count: int = 40, *, group_size: int = 2):
    """Records in two classes and splits, all different."""
    records = [ImageRecord(f"i{n}", Path(f"i{n}.png"), n // group_size % 2, f"P{n // group_size}",
                           "test" if n >= count - 8 else "train", place=f"row {n + 2}") for n in range(count)]
    statistics = [ImageStatistics(**USUAL, content=str(n).encode()) for n in range(count)]
    thumbnails = RNG.integers(0, 256, (count, 32, 32), dtype=np.uint8)
    return records, statistics, thumbnails


def change(statistics: list, place: int, **values) -> None:
    old = {name: getattr(statistics[place], name) for name in ImageStatistics.__slots__}
    statistics[place] = ImageStatistics(**{**old, **values})


def inspect(records, statistics, thumbnails, **settings):
    settings = {"faults": {}, "class_names": ("no", "yes"), "im_channels": 1, "image_size": 64, "grouped": True, **settings}
    return image_findings(records, statistics, thumbnails, **settings)


def test_a_sound_set_has_no_findings():
    assert inspect(*make_set()) == []


def test_copies_are_conflicts_before_leaks_before_duplicates_and_leave_accordingly():
    records, statistics, thumbnails = make_set()
    for first, second in ((0, 4), (8, 36), (12, 38), (16, 17)):
        change(statistics, second, content=statistics[first].content)
        thumbnails[second] = thumbnails[first]
    records[38] = ImageRecord("i38", Path("i38.png"), 1, "P19", "test", place="row 40")  # i12 has label 0
    found = inspect(records, statistics, thumbnails)
    assert [(f.kind, f.images, f.leaves) for f in found] == [
        ("conflict", (12, 38), ("row 14", "row 40")), ("leak", (8, 36), ("row 10",)),
        ("duplicate", (0, 4), ("row 6",)), ("duplicate", (16, 17), ("row 19",)),
    ]


def test_pictures_alike_are_a_note_within_a_group_and_a_warning_between_groups():
    records, statistics, thumbnails = make_set()
    thumbnails[1] = thumbnails[0]  # one group
    thumbnails[8] = thumbnails[4]  # two groups, one split
    thumbnails[36] = thumbnails[12]  # two splits
    thumbnails[18] = thumbnails[20]  # two labels
    found = {f.kind: f for f in inspect(records, statistics, thumbnails)}
    assert {kind: f.images for kind, f in found.items()} == {
        "planes": (), "near_duplicate": (4, 8), "near_leak": (12, 36), "near_conflict": (18, 20)}
    assert found["planes"].text == "2 images in 1 group"
    assert all(f.severity != ERROR and f.leaves == () for f in found.values())


def test_labels_that_change_within_a_group_are_one_note_with_the_count():
    """Frames of one embryo at two stages: 88 of them were 88 warnings. Images alike across groups stay warnings."""
    records, statistics, thumbnails = make_set(80, group_size=4)
    for first in range(0, 80, 4):
        records[first + 1] = replace(records[first + 1], label=1 - records[first].label)
        thumbnails[first + 1] = thumbnails[first]
    thumbnails[22] = thumbnails[10]  # embryos P2 and P5, labels 0 and 1
    found = inspect(records, statistics, thumbnails)
    assert [(f.kind, f.severity, f.images) for f in found] == [
        ("near_conflict", "warning", (10, 22)), ("stages", "note", (0, 1))]
    assert found[1].text == ("40 images in 20 groups, such as i0 (row 2, no, train), i1 (row 3, yes, train)")
    assert found[1].leaves == ()


def test_without_groups_images_alike_under_different_labels_stay_warnings():
    records, statistics, thumbnails = make_set(group_size=1)
    thumbnails[1] = thumbnails[0]
    assert [f.kind for f in inspect(records, statistics, thumbnails, grouped=False)] == ["near_conflict", "ungrouped"]


def test_identical_images_of_one_group_under_different_labels_stay_errors():
    records, statistics, thumbnails = make_set(group_size=4)
    records[1] = replace(records[1], label=1 - records[0].label)
    change(statistics, 1, content=statistics[0].content)
    thumbnails[1] = thumbnails[0]
    assert [(f.kind, f.severity) for f in inspect(records, statistics, thumbnails)] == [("conflict", ERROR)]


def test_a_set_that_is_mostly_colour_is_one_error_and_loses_no_rows():
    records, statistics, thumbnails = make_set()
    for place in range(30):
        change(statistics, place, gray=False, channels=3)
    finding, = inspect(records, statistics, thumbnails)
    assert (finding.kind, finding.severity, finding.text, finding.leaves) == ("colour", ERROR, "30 of 40 images", ())


def test_a_group_in_two_splits_is_not_told_again_for_its_copies():
    records, statistics, thumbnails = make_set()
    records[36] = ImageRecord("i36", Path("i36.png"), 0, "P0", "test", place="row 38")
    change(statistics, 36, content=statistics[0].content)
    thumbnails[36] = thumbnails[0]
    problem = Problem("groups in two", ("'P0'",), "keep", "group_leak", (("row 2", "row 3", "row 38"),))
    rows = row_findings([problem], records)
    assert [(f.kind, f.leaves) for f in rows] == [("group_leak", ("row 38",))]
    assert [f.kind for f in inspect(records, statistics, thumbnails)] == ["duplicate"]


def test_sizes_depths_and_colours_that_stand_out_are_named_one_by_one():
    records, statistics, thumbnails = make_set()
    change(statistics, 3, width=80, height=60, focus=0.001)  # another size is not also unsharp
    change(statistics, 5, bits=16, peak=4095)
    change(statistics, 7, gray=False, channels=3)
    assert [(f.kind, f.images) for f in inspect(records, statistics, thumbnails)] == [
        ("colour", (7,)), ("size", (3,)), ("depth", (5,))]
    assert "tinted" in {f.kind for f in inspect(records, statistics, thumbnails, im_channels=3)}


def test_what_the_whole_set_shares_is_one_line():
    records, statistics, thumbnails = make_set()
    for place in range(40):
        change(statistics, place, bits=16, peak=4000, channels=3, width=64 + place % 2, contrast=0.01)
    found = {f.kind: f.text for f in inspect(records, statistics, thumbnails, image_size=128, grouped=False)}
    assert set(found) == {"range", "gray", "sizes", "small", "ungrouped"}
    assert "values up to 4,000 of 65,535 (12 bits)" in found["range"]


def test_blank_images_are_errors_and_nothing_else():
    records, statistics, thumbnails = make_set()
    for place in (2, 30):
        change(statistics, place, contrast=0.0, focus=0.0, content=b"blank")
        thumbnails[place] = 0
    assert [(f.kind, f.severity, f.leaves) for f in inspect(records, statistics, thumbnails)] == [
        ("blank", ERROR, ("row 4",)), ("blank", ERROR, ("row 32",))]


def test_a_class_missing_from_the_test_split_is_told():
    records, statistics, thumbnails = make_set()
    kept = [n for n in range(40) if not (records[n].split == "test" and records[n].label == 1)]
    found = inspect([records[n] for n in kept], [statistics[n] for n in kept], thumbnails[kept])
    assert [(f.kind, f.text) for f in found] == [("class_absent", "yes in test")]


def test_outliers_are_far_from_the_bulk_and_few_values_have_none():
    values = np.exp(RNG.normal(0, 0.1, 200))
    assert len(find_outliers(values, low_only=False)) == 0
    values[[3, 9]] = 0.2, 5.0
    assert find_outliers(values, low_only=False).tolist() == [3, 9]
    assert find_outliers(values, low_only=True).tolist() == [3]
    assert len(find_outliers(np.array([1.0] * 18 + [100.0]), low_only=False)) == 0
    assert find_outliers(np.array([1.0] * 40 + [1.5, 100.0]), low_only=False).tolist() == [41]  # no spread: a factor counts


def test_only_symmetries_of_the_config_that_are_broken_are_told():
    tests = (SymmetryTest("mirror", 1.3, 0.0005, "slope", True, 0.5), SymmetryTest("flip", 2.0, 0.0005, "slope", True, 0.5))
    measured = SymmetryMeasurement(("identity",), tests, num_images=40, num_groups=20)
    finding, = symmetry_findings(measured, ("identity", "mirror"))
    assert finding.kind == "symmetries" and "mirror (effect 1.3 standard deviations)" in finding.text
    assert "flip" not in finding.text and "recommended: [identity]" in finding.text
    assert symmetry_findings(measured, ("identity", "rotate_180")) == [] == symmetry_findings(None, ("identity", "mirror"))


def test_images_without_a_row_are_counted_and_the_first_named():
    finding, = unlisted_findings([f"i{n}.png" for n in range(1200)])
    assert (finding.kind, finding.severity) == ("unlisted", "note")
    assert finding.text.startswith("1,200: i0.png, i1.png") and unlisted_findings([]) == []
