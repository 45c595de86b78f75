"""The command morphometry from start to end: its files, its table, class flips and what it refuses."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from workspace import CLASS_NAMES, Workspace

from config.errors import UserError
from dataset.storage import hash_file
from tools import evaluate, morphometry
from tools.evaluation.morphometry_run import draw_flips
from tools.evaluation.report.page import INTERNAL_NAME, SHAREABLE_NAME
from tools.make_phantoms.__main__ import PhantomRequest, write_phantoms
from tools.make_phantoms.phantoms import FIELD_UM

SIZE_PX = 128


@pytest.fixture(scope="module")
def large(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Phantoms that are large enough to be measured, others that stand for synthetic ones, and the arguments."""
    root = tmp_path_factory.mktemp("large")
    write_phantoms(root / "real", PhantomRequest(num_images=28, image_size=SIZE_PX, seed=4))
    write_phantoms(root / "other", PhantomRequest(num_images=28, image_size=SIZE_PX, seed=5))
    with (root / "other/annotations.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            folder = root / "synthetic" / CLASS_NAMES[int(row["blastocyst"])]
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / "other/images" / f"{row['IMAGE_NAME']}.png", folder)
    arguments = workspace.arguments(
        f"dataset_params.params.csv_file={root / 'real/annotations.csv'}", "dataset_params.latent_size=32",
        f"dataset_params.params.root_dir={root / 'real/images'}", f"dataset_params.params.image_size={SIZE_PX}",
        f"dataset_params.params.um_per_px={FIELD_UM / SIZE_PX}",
    )
    return root, [*arguments, "--synthetic", str(root / "synthetic")]


def test_tables_pictures_and_agreement_with_truth_given_as_by_hand(
    large: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, arguments = large
    with (root / "real/annotations.csv").open(encoding="utf-8") as file:
        truth = [row for row in csv.DictReader(file) if row["SPLIT"] != "val"]
    lines = [f"{row['IMAGE_NAME']},{2 * float(row['outer_radius_um'])},{row['zona_um']}" for row in truth]
    (tmp_path / "manual.csv").write_text("\n".join(["IMAGE_NAME,outer_diameter_um,zona_thickness_um", *lines]))
    output = tmp_path / "out"
    morphometry.main([*arguments, "--output", str(output), "--manual", str(tmp_path / "manual.csv")])
    shown = capsys.readouterr().out
    assert "of 28 measured" in shown
    assert "automatic minus by hand" in shown and "g, blastocyst minus arrested" in shown

    found = json.loads((output / "morphometry.json").read_text(encoding="utf-8"))
    assert found["provenance"]["num_images"]["synthetic"] == 28
    outer = found["agreement_with_manual"]["outer_diameter"]
    assert outer["unit"] == "um" and outer["n"] > 0.7 * len(truth)
    assert abs(outer["bias"]) < 0.04 * 150
    assert abs(found["agreement_with_manual"]["zona_thickness"]["bias"]) < 1.6
    with (output / "measurements_synthetic.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 28 and all(bool(row["outer_diameter_um"]) != bool(row["reason"]) for row in rows)
    names = {path.name for path in output.iterdir()}
    assert names == {"internal", "morphometry.json", "measurements_synthetic.csv", "overlays_synthetic.png"}
    internal = {path.name for path in (output / "internal").iterdir()}
    assert internal == {"PATIENT_DATA.txt", "measurements_real.csv", "measurements_train.csv", "overlays_real.png",
                        "overlays_train.png"}
    ids = {row["IMAGE_NAME"] for row in truth}
    assert not any(image_id in (output / "morphometry.json").read_text(encoding="utf-8") for image_id in ids)


def test_a_flip_is_one_noise_under_every_label(workspace: Workspace, reference: Path) -> None:
    flips = draw_flips(workspace.config(), reference / "checkpoints/ddpm_ckpt.safetensors", 3, torch.device("cpu"))
    assert flips.labels.tolist() == [0, 1] * 3
    assert flips.groups == [f"noise_{i:06d}" for i in (0, 0, 1, 1, 2, 2)]
    pixels = flips.in_memory().astype(float)
    assert all((pixels[i] != pixels[i + 1]).any() for i in (0, 2, 4))
    within = np.mean([np.abs(pixels[i] - pixels[i + 1]).mean() for i in (0, 2, 4)])
    across = np.mean([np.abs(pixels[i] - pixels[j]).mean() for i in range(6) for j in range(6) if i // 2 != j // 2])
    assert within < across


def test_the_reports_of_an_evaluation_show_the_measurements_and_say_where_they_do_not_fit(
    large: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, arguments = large
    arguments = [*arguments, "--set", f"dataset_params.directory_inception_features={tmp_path / 'features'}"]
    morphometry.main([*arguments, "--output", str(tmp_path / "measured")])
    assert "opening 1 of this test set" in capsys.readouterr().out
    measured = tmp_path / "measured/morphometry.json"
    without_networks = ["--set", "evaluation_params.encoders=[inception]", "--set", "evaluation_params.judge_path=null",
                        "--morphometry", str(measured)]

    def run(output: Path, *words: str) -> dict:
        evaluate.main([*arguments, *without_networks, *words, "--output", str(output)])
        return json.loads((output / "evaluation.json").read_text(encoding="utf-8"))

    evaluation = run(tmp_path / "out")
    assert evaluation["provenance"]["morphometry_sha256"] == hash_file(measured)
    assert evaluation["provenance"]["test_set_opening"] == 1  # the same images, so no new opening
    assert not any("morphometry" in text for text in evaluation["warnings"])
    for page in (SHAREABLE_NAME, f"internal/{INTERNAL_NAME}"):
        shown = (tmp_path / "out" / page).read_text(encoding="utf-8")
        assert "Morphometry: measured oocytes" in shown and shown.count(">outer diameter, um</th>") == len(CLASS_NAMES)
    shared = (tmp_path / "out" / SHAREABLE_NAME).read_text(encoding="utf-8")
    words = set(re.findall(r"[\w.-]+", re.sub(r"base64,[A-Za-z0-9+/=]+", "", shared)))
    with (root / "real/annotations.csv").open(encoding="utf-8") as file:
        assert not words & {row[column] for row in csv.DictReader(file) for column in ("IMAGE_NAME", "PATIENT_ID")}
    shutil.copytree(root / "synthetic", tmp_path / "fewer")
    for name in CLASS_NAMES:
        next((tmp_path / "fewer" / name).iterdir()).unlink()
    other = run(tmp_path / "other", "--synthetic", str(tmp_path / "fewer"))
    warnings = other["warnings"]
    assert other["provenance"]["test_set_opening"] == 2
    assert any("morphometry shown was made of other images (synthetic) than this evaluation" in text for text in warnings)
    with pytest.raises(UserError, match=r"expected measurements of the classes early, late, found arrested, blastocyst"):
        run(tmp_path / "none", "--set", "dataset_params.params.class_names=[early, late]")


def test_images_too_small_to_measure_are_refused_with_the_reasons(workspace: Workspace, tmp_path: Path) -> None:
    for label, name in enumerate(CLASS_NAMES):
        (tmp_path / "synthetic" / name).mkdir(parents=True)
        write_phantoms(tmp_path / f"set{label}", PhantomRequest(num_images=28, image_size=32, seed=30 + label))
        for path in sorted((tmp_path / f"set{label}/images").iterdir())[:3]:
            shutil.copy(path, tmp_path / "synthetic" / name / f"{label}_{path.name}")
    with pytest.raises(UserError, match=r"no oocyte could be measured \(synthetic: .*too_small.*docs/morphometry.md"):
        morphometry.main([*workspace.arguments(), "--synthetic", str(tmp_path / "synthetic"),
                          "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_arguments_that_are_refused(large: tuple[Path, list[str]], tmp_path: Path) -> None:
    root, arguments = large
    with pytest.raises(UserError, match="--flips: expected 0 or more, found -1"):
        morphometry.main([*arguments, "--output", str(tmp_path), "--flips", "-1"])
    (tmp_path / "manual.csv").write_text("IMAGE_NAME,outer_diameter_px\nnobody,3\n")
    with pytest.raises(UserError, match="found 1 others: nobody"):
        morphometry.main([*arguments, "--output", str(tmp_path), "--manual", str(tmp_path / "manual.csv")])
    copies = tmp_path / "copies"
    for name in CLASS_NAMES:
        (copies / name).mkdir(parents=True)
        shutil.copy(root / "real/images/phantom_000000.png", copies / name)
        shutil.copy(root / "real/images/phantom_000001.png", copies / name / f"{name}.png")
    arguments = [*arguments[:-1], str(copies)]
    with pytest.raises(UserError):
        morphometry.main([*arguments, "--output", str(tmp_path / "out")])
