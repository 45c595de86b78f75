"""Subsets are nested, made of whole groups, of about the class prior, and their tables read back."""

from pathlib import Path

import pytest

from config.errors import UserError
from config.load import build_config
from dataset.annotations import read_records
from dataset.records import ImageRecord
from tools.learning_curve.curve import GAP, METRICS, SubsetResult, describe, format_table, plot_curves
from tools.learning_curve.subsets import choose_subsets, order_groups, write_subset


def make_records(root: Path) -> list[ImageRecord]:
    """Groups of two images; two thirds of class 0, one of class 1; every fifth group is a test one."""
    records = []
    for group in range(30):
        for image in range(2):
            name = f"g{group:02d}_{image}.png"
            split = "test" if group % 5 == 4 else "train"
            records.append(ImageRecord(name, root / name, int(group % 3 == 2), f"p{group}", split, place=name))
    return records


def test_subsets_are_nested_whole_groups_of_the_class_prior(tmp_path: Path) -> None:
    records = [record for record in make_records(tmp_path) if record.split == "train"]
    subsets = choose_subsets(records, [6, 13, 48], num_classes=2, seed=1)
    assert subsets[0] < subsets[1] < subsets[2] == {record.group for record in records}
    assert [sum(record.group in subset for record in records) for subset in subsets] == [6, 14, 48]
    for subset in subsets:
        labels = [record.label for record in records if record.group in subset]
        assert abs(sum(labels) / len(labels) - 1 / 3) < 0.1
    assert order_groups(records, seed=1) == order_groups(records[::-1], seed=1) != order_groups(records, seed=2)


@pytest.mark.parametrize(("sizes", "message"), [
    ([6, 6], "different numbers in growing order"), ([], "different numbers"), ([9, 6], "growing order"),
    ([100], "at most 48, the labelled training images, found 100"), ([1], "which has 1 of 2 classes; start with more")])
def test_sizes_that_cannot_be_had_are_refused(tmp_path: Path, sizes: list[int], message: str) -> None:
    records = [record for record in make_records(tmp_path) if record.split == "train"]
    with pytest.raises(UserError, match=message):
        choose_subsets(records, sizes, num_classes=2, seed=1)


@pytest.mark.parametrize("rest_unlabelled", [False, True])
def test_the_table_of_a_subset_reads_back(tmp_path: Path, rest_unlabelled: bool) -> None:
    images = tmp_path / "images"
    images.mkdir()
    records = make_records(images)
    for record in records:
        record.path.touch()
    data = build_config({
        "dataset_params": {"params": {"root_dir": str(images), "csv_file": "t.csv", "class_names": ["no", "yes"],
                                      "group_column": "patient", "covariate_columns": ["clinic"]}},
        "train_params": {"task_name": "run"}, "autoencoder_params": {"pretrained": "vae"}}, source="test").dataset_params
    train = [record for record in records if record.split == "train"]
    (subset,) = choose_subsets(train, [10], num_classes=2, seed=1)
    own = write_subset(data, records, subset, tmp_path / "out", rest_unlabelled=rest_unlabelled).params
    found = read_records(own.csv_file, own.root_dir, class_names=own.class_names, image_column=own.image_column,
                         label_column=own.label_column, group_column=own.group_column, split_column=own.split_column,
                         unlabelled_values=own.unlabelled_values if own.unlabelled == "train" else ())
    labelled = {record.path: (record.label, record.group, record.split) for record in found if record.label < 2}
    assert labelled == {record.path: (record.label, record.group, record.split) for record in records
                        if record.split == "test" or record.group in subset}
    rest = [record for record in found if record.label == 2]
    assert len(rest) == (len(train) - 10) * rest_unlabelled and all(record.split == "train" for record in rest)


def test_the_sentence_says_what_an_arm_is_worth() -> None:
    def point(arm: str, images: int, *gaps: float) -> SubsetResult:
        return SubsetResult(arm, images, {metric: list(gaps) if metric == GAP else [] for metric in METRICS})

    points = [point("nothing", 50, 4.0, 6.0), point("nothing", 100, 2.0, 4.0), point("nothing", 200, 1.0, 1.0),
              point("warm", 50, 2.0, 3.0), point("unlabelled", 50, 0.5, 0.5)]
    assert describe(points, reference="nothing") == [
        f"warm with 50 labelled images: {GAP} 2.5, as good as nothing with 200 (means over the seeds).",
        f"unlabelled with 50 labelled images: {GAP} 0.5, better than nothing with 200, the most that were tried (means over "
        "the seeds).", f"nothing: {GAP} 5 with 50 images, 1 with 200."]
    table = format_table(points)
    assert "| nothing | 50 | 5 (4 to 6) | not computed | not computed | not computed |" in table
    assert plot_curves(points).startswith(b"\x89PNG") and plot_curves(points) == plot_curves(points)
