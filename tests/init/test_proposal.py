"""Holds init to its word: what it writes loads as it is, and it says what it does not know."""

from pathlib import Path

import cv2
import numpy as np
import openpyxl
import pytest
import yaml

from config.errors import UserError
from config.load import load_config
from config.schema import INCEPTION_FILE
from dataset.images import write_png
from tools.diffusion.project import Project
from tools.init import __main__ as init

RNG = np.random.default_rng(2)


def draw(root: Path, count: int, *, size: tuple[int, int] = (24, 24), prefix: str = "i") -> list[str]:
    names = [f"{prefix}{number:02d}" for number in range(count)]
    for name in names:
        write_png(root / f"{name}.png", RNG.integers(0, 256, size, dtype=np.uint8))
    return names


def write_rows(path: Path, header: str, rows: list[str]) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def run(tmp_path: Path, *words: str | Path, name: str = "my.yaml"):
    output = tmp_path / "config" / name
    init.main([*map(str, words), "--output", str(output), "--gpu-memory-gb", "0"])
    return load_config(output), output.read_text(encoding="utf-8")


@pytest.fixture
def table(tmp_path) -> Path:
    names = draw(tmp_path / "images", 24)
    rows = [f"{name},{number % 2},P{number // 2},{number % 3}" for number, name in enumerate(names)]
    return write_rows(tmp_path / "sheet.csv", "file,blastocyst,PATIENT_ID,remarks_code", rows)


def test_the_proposal_loads_and_its_images_open(tmp_path, table, capsys):
    config, text = run(tmp_path, table, tmp_path / "images")
    params = config.dataset_params.params
    assert (params.image_column, params.label_column, params.group_column) == ("file", "blastocyst", "PATIENT_ID")
    assert params.class_names == ("no_blastocyst", "blastocyst") and params.im_channels == 1 and params.image_size == 32
    assert len(Project.open(config).records) == 24
    shown = capsys.readouterr().out
    assert "to decide before the first training:\n  1. " in shown
    assert "other columns that can be labels: remarks_code" in shown
    assert "# 1. " in text and "NO COLUMN" not in text


def test_without_a_column_of_patients_the_comment_is_loud(tmp_path, table):
    table.write_text(table.read_text().replace("PATIENT_ID", "number"))
    config, text = run(tmp_path, table, tmp_path / "images")
    assert config.dataset_params.params.group_column is None
    assert text.splitlines()[1].startswith("# 1. group_column: NO COLUMN'S HEADER NAMES PATIENTS")
    assert "NO PATIENTS KNOWN" in text


def test_an_existing_file_is_kept_unless_forced(tmp_path, table):
    run(tmp_path, table, tmp_path / "images")
    with pytest.raises(UserError, match=r"my\.yaml: exists already; give another --output, or --force"):
        run(tmp_path, table, tmp_path / "images")
    run(tmp_path, table, tmp_path / "images", "--force")


def test_several_label_columns_are_refused_with_the_candidates(tmp_path, table):
    table.write_text(table.read_text().replace("blastocyst", "good").replace("remarks_code", "colour_code"))
    with pytest.raises(UserError, match=r"found several: 'good' \(0, 1\), 'colour_code' \(0, 1, 2\); choose one with --"):
        run(tmp_path, table, tmp_path / "images")
    config, _ = run(tmp_path, table, tmp_path / "images", "--label-column", "colour_code")
    assert config.dataset_params.params.class_names == ("colour_code_0", "colour_code_1", "colour_code_2")
    for given, meant in (("color_code", "did you mean 'colour_code'\\?"), ("Good", "did you mean 'good'\\?"),
                         ("xyzzy", "give the column of the classes")):
        with pytest.raises(UserError, match=f"--label-column: expected one of 'file'.*found '{given}'; {meant}"):
            run(tmp_path, table, tmp_path / "images", "--label-column", given, name="other.yaml")


def test_labels_in_words_and_odd_names_survive_the_yaml(tmp_path):
    names = draw(tmp_path / "images", 12)
    header = '"file: name","label # \u00e9","PATIENT_ID"'
    rows = [f"{name},{'yes' if number % 2 else 'no'},{number:03d}" for number, name in enumerate(names)]
    config, _ = run(tmp_path, write_rows(tmp_path / "t.csv", header, rows), tmp_path / "images")
    params = config.dataset_params.params
    assert params.class_names == ("no", "yes") and params.label_column == "label # \u00e9"
    assert len(Project.open(config).records) == 12


def test_words_for_a_missing_label_are_proposed_and_not_assumed(tmp_path, capsys):
    """A column of grades with ND and NA: neither becomes a class, and no row is left out before a person says so."""
    grades = ["A", "B", "A", "B", "A", "ND", "B", "", "A", "NA", "B", "nd", "unknown", "A", "B", "unknown"]
    rows = [f"{name},{grade},P{number}" for number, (name, grade) in
            enumerate(zip(draw(tmp_path / "images", 16), grades, strict=True))]
    config, text = run(tmp_path, write_rows(tmp_path / "t.csv", "file,grade,PATIENT_ID", rows), tmp_path / "images",
                       "--label-column", "grade")
    assert config.dataset_params.params.class_names == ("A", "B", "unknown")
    said = " ".join(capsys.readouterr().out.split())
    assert ("missing_labels: 4 of 16 rows have no label: ND (1: row 7), blank (1: row 9), NA (1: row 11), nd (1: row 13). "
            "Training refuses them") in said
    assert "class_names: unknown (2 rows) became a class. If it means that nobody knows the class, move it" in said
    with pytest.raises(UserError, match=r"labels that cannot be used \(4\): row 7 'ND', row 9 blank"):
        _ = Project.open(config).records
    line = next(line for line in text.splitlines() if line.startswith("    # missing_labels: "))
    switched = tmp_path / "switched.yaml"
    switched.write_text(text.replace(line, line.replace("# ", "", 1)), encoding="utf-8")
    config = load_config(switched)
    assert config.dataset_params.params.missing_labels == ("ND", "blank", "NA")
    assert len(Project.open(config).records) == 12


def test_a_filtered_workbook_is_proposed_without_its_hidden_rows_and_says_so(tmp_path, capsys):
    book = openpyxl.Workbook()
    book.active.append(["file", "blastocyst", "PATIENT_ID"])
    for number, name in enumerate(draw(tmp_path / "images", 24)):
        book.active.append([name, bool(number % 2), f"P{number // 2}"])
        book.active.row_dimensions[number + 2].hidden = number < 4
    book.save(tmp_path / "t.xlsx")
    config, text = run(tmp_path, tmp_path / "t.xlsx", tmp_path / "images")
    assert config.dataset_params.params.class_names == ("FALSE", "TRUE")
    assert "the sheet has 24 rows, 20 are read" in " ".join(capsys.readouterr().out.split())
    assert "the sheet has 24 rows, 20 are read" in " ".join(text.replace("#", "").split())
    assert len(Project.open(config).records) == 20


def test_a_cell_that_training_would_refuse_is_refused_here(tmp_path):
    book = openpyxl.Workbook()
    book.active.append(["file", "blastocyst"])
    for number, name in enumerate(draw(tmp_path / "images", 12)):
        book.active.append([name, number % 2])
    book.active["B5"], book.active["B5"].number_format = 0.4, "0"
    book.save(tmp_path / "t.xlsx")
    with pytest.raises(UserError, match=r"B5 shows 0, holds 0\.4"):
        run(tmp_path, tmp_path / "t.xlsx", tmp_path / "images", "--label-column", "blastocyst")


def test_labels_from_one_on_are_refused(tmp_path):
    rows = [f"{name},{1 + number % 2}" for number, name in enumerate(draw(tmp_path / "images", 12))]
    table = write_rows(tmp_path / "t.csv", "file,label", rows)
    with pytest.raises(UserError, match=r"none among 'file', 'label'; skipped because their numbers do not start at 0: "
                                        r"'label' \(1, 2\); number such labels from 0, or use names; choose one with"):
        run(tmp_path, table, tmp_path / "images")
    with pytest.raises(UserError, match=r"'label': expected labels 0, 1, ... or names, found 1, 2; number them from 0"):
        run(tmp_path, table, tmp_path / "images", "--label-column", "label")


def test_tables_of_splits_and_folders_of_classes(tmp_path):
    images = tmp_path / "images"
    for split, count in (("train", 8), ("valid", 4), ("test", 6)):
        names = draw(images, count, prefix=split)
        write_rows(tmp_path / f"{split}.csv", "file,y", [f"{name},{n % 2}" for n, name in enumerate(names)])
    config, text = run(tmp_path, tmp_path, images)
    assert sorted(config.dataset_params.params.csv_file) == ["test", "train", "val"]
    assert [len(Project.open(config).images(split).records) for split in ("train", "val", "test")] == [8, 4, 6]
    assert "val_from_train" not in text and "split_fractions" not in text

    for name in ("arrested", "blastocyst"):
        draw(tmp_path / "layout" / name, 8, prefix=name)
    config, text = run(tmp_path, tmp_path / "layout", name="layout.yaml")
    assert config.dataset_params.params.csv_file is None
    assert config.dataset_params.params.class_names == ("arrested", "blastocyst")
    assert len(Project.open(config).records) == 16
    for split in ("train", "test"):
        for name in ("arrested", "blastocyst"):
            draw(tmp_path / "both" / split / name, 6, prefix=name)
    config, text = run(tmp_path, tmp_path / "both", name="both.yaml")
    assert config.dataset_params.params.val_from_train == 0.2 and "val_from_train" in text
    assert len(Project.open(config).images("test").records) == 12
    with pytest.raises(UserError, match="there is no table; folders name the classes"):
        run(tmp_path, tmp_path / "both", "--label-column", "y", name="third.yaml")


def test_sixteen_bits_that_use_twelve_and_other_shapes_are_told(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for number in range(12):
        assert cv2.imwrite(str(images / f"{number}.tif"), RNG.integers(0, 4096, (40, 30), dtype=np.uint16))
    rows = [f"{number},{number % 2},0.5" for number in range(12)]
    config, text = run(tmp_path, write_rows(tmp_path / "t.csv", "file,label,um_per_px", rows), images)
    assert config.dataset_params.params.class_names == ("class_0", "class_1")
    assert "values reach 4" in text and "images are not all square of one size (30 x 40 px)" in text
    assert config.dataset_params.params.um_per_px == pytest.approx(0.5 * 40 / config.dataset_params.params.image_size)


def test_a_gpu_of_24_gb_gets_the_papers_network_in_bf16_and_a_small_one_more_micro_steps(tmp_path):
    names = draw(tmp_path / "images", 8, size=(512, 512))
    rows = [f"{name},{number % 2}" for number, name in enumerate(names)]
    table = write_rows(tmp_path / "t.csv", "file,label", rows)
    found = {}
    for memory in (24, 4, 1):
        init.main([str(table), str(tmp_path / "images"), "--output", str(tmp_path / f"{memory}.yaml"), "--gpu-memory-gb",
                   str(memory)])
        found[memory] = load_config(tmp_path / f"{memory}.yaml")
    paper = load_config("config/embryo.yaml")
    large, small = found[24], found[4]
    assert large.unet_params == paper.unet_params and large.train_params.mixed_precision == "bf16"
    assert large.train_params.ldm_batch_size == 24 and large.dataset_params.params.image_size == 512
    assert large.dataset_params.condition_types == paper.dataset_params.condition_types
    assert small.train_params.gradient_accumulation_steps > large.train_params.gradient_accumulation_steps
    assert found[1].unet_params.channels == (64, 96, 128)  # where the paper's weights alone do not fit


def test_the_public_sets_are_recognised(tmp_path, shared, capsys):
    sperm, embryos = shared / "data/mhsma64", shared / "data/stork"
    with pytest.raises(UserError, match="found several: 'head_abnormal'"):
        run(tmp_path, sperm, sperm / "images")
    config, _ = run(tmp_path, sperm, sperm / "images", "--label-column", "head_abnormal")
    assert [len(Project.open(config).images(split).records) for split in ("train", "val", "test")] == [1000, 240, 300]
    assert config.dataset_params.params.image_size == 64
    capsys.readouterr()

    config, text = run(tmp_path, embryos / "annotations.csv", embryos / "images", name="stork.yaml")
    params = config.dataset_params.params
    assert (params.im_channels, params.group_column, params.label_column, params.split_column) == \
        (1, "EMBRYO_ID", "good_quality", "SPLIT")
    assert "gray stored as RGB" in text and "focal planes: FOCAL_PLANE_UM has 7 planes" in text
    assert "FOCAL_PLANE_UM: {levels: ['-45', '-30', '-15', '0', '15', '30', '45'], kind: ordinal}" in text
    assert "GARDNER_GRADE holds three Gardner grades in one (3AA)" in " ".join(text.replace("#", " ").split())
    assert not any("90" in name or "transpose" in name for name in config.dataset_params.symmetries)
    assert len({record.split for record in Project.open(config).records}) == 3
    assert yaml.safe_load(text)["dataset_params"]["params"]["class_names"] == ["no_good_quality", "good_quality"]


def test_planes_and_grades_are_proposed_as_conditions_and_switched_on_by_hand_only(tmp_path):
    images = tmp_path / "images"
    rows = [f"{name},{n % 2},P{n // 4},{15 * (n % 3) - 15}.0,{'CBA'[n % 3]},{1 + n % 4},{'x' if n else ''},4A{'AB'[n % 2]}"
            for n, name in enumerate(draw(images, 24))]
    header = "file,label,PATIENT_ID,FOCAL_PLANE_UM,ICM_GRADE,expansion,remark grade,GARDNER_GRADE"
    config, text = run(tmp_path, write_rows(tmp_path / "t.csv", header, rows), images)
    assert config.dataset_params.params.conditions == {}
    told = " ".join(text.replace("#", " ").split())
    assert ("conditions: FOCAL_PLANE_UM (3 levels, -15 to 15), ICM_GRADE (3 levels, C to A), expansion (4 levels, 1 to 4) "
            "can be inputs of the network") in told
    assert "GARDNER_GRADE holds three Gardner grades in one (4AA)" in told

    switched = [line.replace("    # ", "    ", 1) if line.startswith(("    # conditions:", "    #   "))
                else line for line in text.splitlines()]
    (tmp_path / "on.yaml").write_text("\n".join(switched), encoding="utf-8")
    config = load_config(tmp_path / "on.yaml")
    conditions = config.dataset_params.params.conditions
    assert {name: (condition.levels, condition.kind) for name, condition in conditions.items()} == {
        "FOCAL_PLANE_UM": (("-15", "0", "15"), "ordinal"), "ICM_GRADE": (("C", "B", "A"), "ordinal"),
        "expansion": (("1", "2", "3", "4"), "ordinal")}
    assert [record.conditions for record in Project.open(config).records[:3]] == [(0, 0, 0), (1, 1, 1), (2, 2, 2)]


def test_what_the_evaluation_lacks_is_told(tmp_path, table):
    config, text = run(tmp_path, table, tmp_path / "images")
    assert config.evaluation_params.encoders == ("classifier", "inception")
    assert config.evaluation_params.allow_download == "auto"
    told = " ".join(text.replace("#", " ").split())
    assert "the first evaluation downloads them once into torch's cache" in told
    assert f"set evaluation_params.inception_path ({INCEPTION_FILE}) and dataset_params.lpips_path" in told


def test_columns_that_may_name_patients_and_files_without_a_row_are_told(tmp_path):
    images = tmp_path / "images"
    names = draw(images, 40, prefix="i")
    rows = [f"{name},{n % 2},code{n // 4},{'AB'[n % 2]}" for n, name in enumerate(names[:36])]
    write_rows(tmp_path / "sheet.csv", "file,label,Code,Clinic", rows)
    config, text = run(tmp_path, tmp_path / "sheet.csv", images)
    text = " ".join(text.replace("#", " ").split())
    assert config.dataset_params.params.group_column is None
    assert "If one of Code (9 values in 36 rows) names patients, set group_column to it; else add a column" in text
    assert f"files: 4 of 40 images in the folder have no row (such as {sorted(names)[36]}" in text
