"""The command make_phantoms: files that agree with the parameters, whole patients in splits, reruns and refusals."""

import csv
import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from config.errors import UserError
from tools.make_phantoms import __main__ as make_phantoms
from tools.make_phantoms import phantoms
from tools.make_phantoms.__main__ import PhantomRequest, split_patients, write_phantoms

ROOT = Path(__file__).parents[2]
SMALL = PhantomRequest(num_images=60, image_size=32, difficulty="clear", seed=7)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms") / "set"
    _, made = write_phantoms(folder, SMALL)
    assert made
    return folder


def read_table(folder: Path) -> list[dict[str, str]]:
    with (folder / "annotations.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_all(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_table_images_and_true_parameters_agree(written: Path) -> None:
    rows = read_table(written)
    assert len(rows) == SMALL.num_images
    assert list(rows[0])[:5] == ["IMAGE_NAME", "blastocyst", "PATIENT_ID", "SPLIT", "UM_PER_PX"]
    kinds = {field.name: field.type for field in dataclasses.fields(phantoms.PhantomParameters)}
    for row in rows:
        read = phantoms.PhantomParameters(**{name: kind(row[name]) for name, kind in kinds.items()})
        assert read == phantoms.draw_parameters(seed=7, index=read.index, difficulty="clear")
        assert int(row["blastocyst"]) == read.label == read.morphology_class
        assert row["PATIENT_ID"] == f"patient_{read.patient:04d}"
        assert float(row["UM_PER_PX"]) == pytest.approx(200.0 / 32)
        image = cv2.imread(str(written / "images" / f"{row['IMAGE_NAME']}.png"), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(image, phantoms.render_phantom(read, size_px=32))


def test_summary_counts_the_table_and_stores_the_bayes_rate(written: Path) -> None:
    summary = json.loads((written / "phantoms.json").read_text())
    rows = read_table(written)
    for split, counts in summary["counts"].items():
        members = [row for row in rows if row["SPLIT"] == split]
        assert counts["arrested"] == sum(row["blastocyst"] == "0" for row in members)
        assert counts["blastocyst"] == sum(row["blastocyst"] == "1" for row in members)
        assert counts["patients"] == len({row["PATIENT_ID"] for row in members}) > 0
    rate = phantoms.bayes_rate("clear")
    assert summary["bayes"] == {"balanced_accuracy": rate.balanced_accuracy, "auc": rate.auc}
    assert summary["seed"] == 7 and summary["difficulty"] == "clear"


def test_phantoms_do_not_depend_on_how_many_are_written(written: Path, tmp_path: Path) -> None:
    write_phantoms(tmp_path / "fewer", dataclasses.replace(SMALL, num_images=30))
    ours, theirs = read_all(written), read_all(tmp_path / "fewer")
    shared = [name for name in theirs if name.startswith("images/")]
    assert len(shared) == 30 and all(ours[name] == theirs[name] for name in shared)


@pytest.mark.parametrize("count", [28, 60, 500])
def test_no_patient_is_in_two_splits_and_none_is_empty(count: int) -> None:
    drawn = [phantoms.draw_parameters(seed=3, index=index, difficulty="faint") for index in range(count)]
    splits = split_patients(labels=[p.label for p in drawn], patients=[p.patient for p in drawn], seed=3)
    assert set(splits) == {"train", "val", "test"}
    assert len({(p.patient, split) for p, split in zip(drawn, splits, strict=True)}) == len({p.patient for p in drawn})


def test_splits_are_stratified() -> None:
    drawn = [phantoms.draw_parameters(seed=3, index=index, difficulty="clear") for index in range(1000)]
    labels = np.array([p.label for p in drawn])
    splits = np.array(split_patients(labels=labels.tolist(), patients=[p.patient for p in drawn], seed=3))
    for split, share in make_phantoms.SPLIT_SHARES.items():
        assert (splits == split).mean() == pytest.approx(share, abs=0.015)
        assert labels[splits == split].mean() == pytest.approx(labels.mean(), abs=0.03)


def test_fewer_than_three_patients_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="expected 3 patients or more, found 2"):
        split_patients(labels=[0, 1, 0], patients=[0, 0, 1], seed=1)


@pytest.mark.parametrize("image_format", make_phantoms.IMAGE_FORMATS)
def test_every_format_can_be_read_back(image_format: str, tmp_path: Path) -> None:
    request = dataclasses.replace(SMALL, num_images=28, format=image_format)
    write_phantoms(tmp_path, request)
    files = sorted((tmp_path / "images").glob(f"*.{image_format}"))
    assert len(files) == 28
    image = cv2.imread(str(files[0]), cv2.IMREAD_UNCHANGED)
    p = phantoms.draw_parameters(seed=7, index=0, difficulty="clear")
    difference = np.abs(image.astype(int) - phantoms.render_phantom(p, size_px=32))
    assert difference.max() <= (12 if image_format == "jpg" else 0)


def test_a_set_without_the_later_options_is_named_as_it_always_was(written: Path) -> None:
    """Sets on users' disks, and what is keyed by them, stay valid: the key is that of version 0.1."""
    assert PhantomRequest().key() == "de58e3a7da6c6ddbd07ff03eeea2802637566891931db22fa6099cb14175b5a0"
    summary = json.loads((written / "phantoms.json").read_text())
    assert not {"focal_planes", "tint_microscope", "isotropic_light"} & set(summary)


def test_every_oocyte_is_taken_at_every_focal_plane(written: Path, tmp_path: Path) -> None:
    write_phantoms(tmp_path, dataclasses.replace(SMALL, num_images=28, focal_planes=3))
    rows, plain = read_table(tmp_path), read_table(written)
    assert [row["FOCAL_PLANE"] for row in rows] == ["0", "1", "2"] * 28
    assert [row["IMAGE_NAME"] for row in rows[:3]] == [f"phantom_000000_plane{plane}" for plane in range(3)]
    for first in range(0, len(rows), 3):
        stack = rows[first:first + 3]
        assert len({(row["PATIENT_ID"], row["SPLIT"], row["blastocyst"], row["pvs_um"]) for row in stack}) == 1
        own = float(plain[first // 3]["focus_um"])
        assert [float(row["focus_um"]) for row in stack] == pytest.approx([own / 2, own / 2 + 10, own / 2 + 20])
    images = np.stack([cv2.imread(str(tmp_path / "images" / f"{row['IMAGE_NAME']}.png"), 0) for row in rows]).astype(float)
    sharpness = np.array([cv2.Laplacian(image, cv2.CV_64F).std() for image in images]).reshape(-1, 3).mean(axis=0)
    assert sharpness[0] > 1.2 * sharpness[1] > 1.2 * 1.1 * sharpness[2]
    assert np.array_equal(images[0], cv2.imread(str(tmp_path / "images/phantom_000000_plane0.png"), 0))


def test_the_microscope_is_tied_to_the_class_as_firmly_as_asked() -> None:
    drawn = [phantoms.draw_parameters(seed=5, index=index, difficulty="clear") for index in range(3000)]
    for share in (0.0, 0.5, 1.0):
        agreement = np.mean([phantoms.choose_microscope(p, share=share) == p.label for p in drawn])
        assert agreement == pytest.approx((1 + share) / 2, abs=0.03)
    tinted = phantoms.render_phantom(phantoms.under_microscope(drawn[0], 1), size_px=32, noise=False).astype(float)
    plain = phantoms.render_phantom(drawn[0], size_px=32, noise=False).astype(float)
    assert tinted.mean() - plain.mean() == pytest.approx(24, abs=1)
    corner, middle = (slice(0, 4), slice(0, 4)), (slice(14, 18), slice(14, 18))
    assert tinted[corner].mean() / tinted[middle].mean() < 0.95 * plain[corner].mean() / plain[middle].mean()
    assert phantoms.under_microscope(drawn[0], 0) == drawn[0]


def test_the_table_names_the_microscope_that_took_the_image(tmp_path: Path) -> None:
    write_phantoms(tmp_path, dataclasses.replace(SMALL, num_images=28, tint_microscope=1.0))
    for row in read_table(tmp_path):
        assert row["MICROSCOPE"] == phantoms.MICROSCOPES[int(row["blastocyst"])]


def test_isotropic_light_leaves_no_view_less_likely_than_another(tmp_path: Path) -> None:
    """Under relief contrast the side of an oocyte that faces the lamp is brighter; without it no side is."""
    drawn = [phantoms.draw_parameters(seed=6, index=index, difficulty="clear") for index in range(60)]

    def slope(parameters: list[phantoms.PhantomParameters]) -> float:
        images = np.stack([phantoms.render_phantom(p, size_px=32, noise=False) for p in parameters]).astype(float)
        differences = images[:, :16].mean(axis=(1, 2)) - images[:, 16:].mean(axis=(1, 2))
        return float(differences.mean() / (differences.std() / len(differences) ** 0.5))

    assert abs(slope([phantoms.under_isotropic_light(p) for p in drawn])) < 3
    assert slope(drawn) > 6
    write_phantoms(tmp_path, dataclasses.replace(SMALL, num_images=28, isotropic_light=True))
    assert {float(row["light_strength"]) for row in read_table(tmp_path)} == {0.0}


def test_a_rerun_does_nothing_and_says_so(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in written.rglob("*")}
    arguments = ["--output", str(written), "--num-images", "60", "--image-size", "32", "--seed", "7"]
    make_phantoms.main(arguments)
    printed = capsys.readouterr().out
    assert "already holds these 60 phantoms: nothing to do" in printed
    assert "Bayes rate from the true parameters (clear): balanced accuracy 0.99" in printed
    assert {path: path.stat().st_mtime_ns for path in written.rglob("*")} == before


def test_a_set_that_lost_an_image_or_its_table_is_made_again(written: Path, tmp_path: Path) -> None:
    write_phantoms(tmp_path, SMALL)
    (tmp_path / "images" / "phantom_000003.png").unlink()
    assert write_phantoms(tmp_path, SMALL)[1]
    (tmp_path / "annotations.csv").write_text("IMAGE_NAME\n")
    assert write_phantoms(tmp_path, SMALL)[1]
    assert read_all(tmp_path) == read_all(written)


def test_a_killed_run_is_seen_and_finished(tmp_path: Path) -> None:
    request = dataclasses.replace(SMALL, num_images=600)
    command = [sys.executable, "-m", "tools.make_phantoms", "--output", str(tmp_path), "--num-images", "600"]
    process = subprocess.Popen([*command, "--image-size", "32", "--seed", "7"], cwd=ROOT)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("images/phantom_000005.png")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "annotations.csv").exists() and not (tmp_path / "phantoms.json").exists()
    with pytest.raises(UserError, match="made with other arguments"):
        write_phantoms(tmp_path, SMALL)
    assert write_phantoms(tmp_path, request)[1]
    assert not write_phantoms(tmp_path, request)[1]
    assert not list(tmp_path.rglob("*unfinished*"))


@pytest.mark.parametrize(
    "change", [{"seed": 8}, {"difficulty": "faint"}, {"image_size": 48}, {"num_images": 61}, {"format": "bmp"}]
)
def test_other_arguments_into_a_filled_folder_are_refused(written: Path, change: dict[str, int | str]) -> None:
    with pytest.raises(UserError, match="expected an empty folder or this same set") as caught:
        write_phantoms(written, dataclasses.replace(SMALL, **change))
    assert "\n" not in str(caught.value) and str(written) in str(caught.value)


def test_a_folder_of_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="expected an empty folder, found other files"):
        write_phantoms(tmp_path, SMALL)
    with pytest.raises(UserError, match="expected a folder, found a file"):
        write_phantoms(tmp_path / "notes.txt", SMALL)
    assert list(tmp_path.iterdir()) == [tmp_path / "notes.txt"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_images": 27}, "--num-images: expected 28 or more .* found 27"),
        ({"image_size": 8}, "--image-size: expected 16 to 2048 pixels, found 8"),
        ({"difficulty": "hard"}, "--difficulty: expected one of clear, faint, shuffled, found 'hard'"),
        ({"seed": -1}, "--seed: expected 0 or more, found -1"),
        ({"format": "gif"}, "--format: expected one of png, jpg, tiff, bmp, found 'gif'"),
        ({"focal_planes": 0}, "--focal-planes: expected 1 to 9, found 0"),
        ({"tint_microscope": 1.5}, "--tint-microscope: expected a fraction from 0 to 1, found 1.5"),
    ],
)
def test_requests_that_cannot_be_served_are_refused(
    change: dict[str, int | str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        write_phantoms(tmp_path / "new", dataclasses.replace(SMALL, **change))
    assert not (tmp_path / "new").exists()


def test_the_command_ends_a_mistake_with_one_line_and_code_two(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tools.make_phantoms", "--output", str(tmp_path / "new"), "--num-images", "3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == ""
    first, error = done.stderr.splitlines()
    assert first.startswith("BlastDiffusion ") and error.startswith("error: --num-images: expected 28 or more")
