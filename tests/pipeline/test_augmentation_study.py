"""The whole study at its smallest: folds, generator, arms, numbers; and a study that was killed ends the same."""

import csv
import json
import os
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from openpyxl import load_workbook
from workspace import Workspace

from config.errors import UserError
from config.load import load_config
from dataset.decoding import decode_image
from dataset.storage import hash_file
from tools.augmentation_study import __main__ as augmentation_study
from tools.augmentation_study.folds import StudyRequest, UtilityStudy, plan_study, write_fold
from tools.augmentation_study.page import NAME
from tools.augmentation_study.runs import _FoldTrainer
from tools.augmentation_study.utility import CONTROL, METRICS
from tools.diffusion.project import Project
from tools.diffusion.trained_images import shorten_hashes
from tools.runtime.command import run_command

pytestmark = pytest.mark.timeout(900)  # four processes start one after another; a busy machine takes minutes for it

SETTINGS = ("train_params.max_steps=2", "sample_params.num_steps=1", "train_params.num_samples=2")
NUM_ARMS = 6


def arguments(workspace: Workspace, folder: Path, *further: str) -> list[str]:
    return [*workspace.arguments(*SETTINGS), "--output", str(folder), "--folds", "2", "--seeds", "2", "--epochs", "1",
            "--bootstrap-repeats", "100", *further]


def prediction_files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("fold_*/predictions/*.json")}


def stop_when(condition: Path) -> threading.Thread:
    """A thread that sends this process SIGTERM once the file is there."""
    def watch() -> None:
        while not condition.exists():
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


@pytest.fixture(scope="module")
def study(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that a signal stopped among the classifiers of its first fold, and that the same command finished."""
    folder = tmp_path_factory.mktemp("study") / "killed"
    watcher = stop_when(folder / "fold_1" / "predictions" / "real_seed0.json")
    with pytest.raises(SystemExit) as stopped:
        run_command(lambda: augmentation_study.main(arguments(workspace, folder)))
    watcher.join()
    assert stopped.value.code == 128 + signal.SIGTERM
    assert not (folder / f"{NAME}.json").exists() and 1 <= len(prediction_files(folder)) < 2 * NUM_ARMS
    augmentation_study.main(arguments(workspace, folder))
    return folder


def test_every_image_is_tested_once_by_networks_that_did_not_see_its_patient(study: Path, workspace: Workspace) -> None:
    tested = []
    for fold in (1, 2):
        config = load_config(study / f"fold_{fold}" / "config.yaml")
        with Path(str(config.dataset_params.params.csv_file)).open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        groups = {split: {row["STUDY_GROUP"] for row in rows if row["STUDY_SPLIT"] == split}
                  for split in ("train", "val", "test")}
        assert len(rows) == 200 and sum(map(len, groups.values())) == len(set.union(*groups.values()))
        inside = [row["STUDY_IMAGE"] for row in rows if row["STUDY_SPLIT"] == "test"]
        tested += inside
        for path in (study / f"fold_{fold}" / "predictions").glob("*.json"):
            assert json.loads(path.read_text(encoding="utf-8"))["images"] == inside
        assert config.autoencoder_params.pretrained == str(workspace.root / "vae")
        num_train = sum(row["STUDY_SPLIT"] == "train" for row in rows)
        assert len(list((study / f"fold_{fold}" / "round_trips").iterdir())) == num_train
        assert len(list((study / f"fold_{fold}" / "synthetic" / "images").iterdir())) == num_train
    assert len(tested) == len(set(tested)) == 200


def test_classifiers_see_the_fold_s_real_then_synthetic_then_round_trip_images(study: Path, workspace: Workspace) -> None:
    """In the order that the arms' members count in (tools/augmentation_study/arms.py)."""
    folder = study / "fold_1"
    config = load_config(folder / "config.yaml")
    planned = plan_study(workspace.config(*SETTINGS), StudyRequest(num_folds=2, num_seeds=2, epochs=1))
    trainer = _FoldTrainer(planned, config, 0, folder)
    real = Project.open(config).images("train")
    with (folder / "synthetic" / "manifest.csv").open(encoding="utf-8", newline="") as file:
        drawn = list(csv.DictReader(file))
    assert trainer._labels.tolist() == [record.label for record in real.records]
    assert trainer._synthetic_labels.tolist() == [int(row["label"]) for row in drawn]

    def read(path: Path) -> torch.Tensor:
        return torch.from_numpy(decode_image(path).astype(np.float32) / 127.5 - 1)[None]

    codec, num_real = Project.open(config).open_codec(), len(real)
    for place in (0, 1, num_real // 2, num_real - 1):
        seen, synthetic, restored = trainer._pool.batch(
            np.array([place, num_real + place, num_real + len(drawn) + place]))
        assert torch.equal(seen, real[place][0])
        torch.testing.assert_close(synthetic, read(folder / "synthetic" / "images" / drawn[place]["IMAGE_NAME"]),
                                   atol=1e-6, rtol=0)
        torch.testing.assert_close(restored, codec.round_trip(real[place][0][None])[0], atol=1.01 / 127.5, rtol=0)
    others = [codec.round_trip(real[place][0][None])[0] for place in range(5)]
    assert min(float((others[0] - other).abs().max()) for other in others[1:]) > 4 / 127.5  # so that an order is seen


def test_the_report_has_every_arm_and_says_that_two_steps_do_not_help(study: Path) -> None:
    report = json.loads((study / f"{NAME}.json").read_text(encoding="utf-8"))
    assert len(report["scores"]) == NUM_ARMS * len(METRICS)
    assert {row["arm"] for row in report["scores"]} == set(report["provenance"]["arms"])
    assert {row["against"] for row in report["differences"]} >= {CONTROL}
    assert all(0 <= row["value"] <= 1 and row["low"] <= row["high"] for row in report["scores"])
    verdict = " ".join(report["verdict"])
    assert "Adding synthetic images" in verdict and "improved" not in verdict
    assert any("is kept in all folds, as one that was not trained on these images" in text for text in report["warnings"])
    assert any("2 classifier seeds: expected 5 or more" in warning for warning in report["warnings"])
    sheets = load_workbook(study / f"{NAME}.xlsx")
    assert sheets.sheetnames == ["differences", "scores", "verdict", "provenance"]
    assert (study / f"{NAME}.png").read_bytes()[1:4] == b"PNG"
    assert "patients" in (study / "PATIENT_DATA.txt").read_text(encoding="utf-8")


def test_a_killed_study_ends_like_one_that_was_not_and_takes_further_seeds(study: Path, workspace: Workspace) -> None:
    report, predictions = (study / f"{NAME}.json").read_bytes(), prediction_files(study)
    assert len(predictions) == 4 * NUM_ARMS
    for name in predictions:
        (study / name).unlink()
    augmentation_study.main(arguments(workspace, study, "--seeds", "3"))  # all classifiers in one go
    again = prediction_files(study)
    assert len(again) == 6 * NUM_ARMS and predictions.items() <= again.items()
    assert (study / f"{NAME}.json").read_bytes() != report
    augmentation_study.main(arguments(workspace, study))
    assert (study / f"{NAME}.json").read_bytes() == report
    with pytest.raises(UserError, match="holds a study with other epochs; restore them to go on, or give another --output"):
        augmentation_study.main(arguments(workspace, study, "--epochs", "2"))


def test_a_dry_run_says_what_can_be_shown_and_what_it_takes(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    augmentation_study.main(arguments(workspace, tmp_path / "none", "--dry-run"))
    printed = capsys.readouterr().out
    assert "fold 2  train: arrested" in printed and "smallest gain over an AUROC of 0.7" in printed
    assert "is kept in all folds, as one that was not trained on these images" in printed
    assert "24 classifiers" in printed and "time  about" in printed
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(("further", "message"), [
    (("--folds", "1"), "--folds: expected 2 or more, found 1"),
    (("--folds", "150"), "--folds 150: every class needs a group of its own in each fold"),
    (("--seeds", "1"), "--seeds: expected 2 or more, found 1; one does not show the noise of training"),
    (("--epochs", "0"), "--epochs: expected 1 or more, found 0"),
    (("--synthetic-ratio", "1", "0.001"), "--synthetic-ratio 0.001: fold 1 would have a class without a synthetic image"),
    (("--synthetic-ratio", "1", "-2"), r"--synthetic-ratio: expected different numbers above 0, found \[1.0, -2.0\]"),
    (("--synthetic-ratio", "1", "1"), "--synthetic-ratio: expected different numbers"),
    (("--bootstrap-repeats", "5"), "--bootstrap-repeats: expected 100 or more, found 5"),
    (("--set", "autoencoder_params.training.fine_tune=true", "--set", "autoencoder_params.pretrained=v", "--set",
      "autoencoder_params.training.output=v"), "is the fine-tuned VAE itself, which has seen every image"),
    (("--dry-run", "--expected-auc", "0.3"), "--expected-auc: expected 0.5 or more and below 1, found 0.3"),
])
def test_what_cannot_be_studied_is_refused(
    workspace: Workspace, tmp_path: Path, further: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        augmentation_study.main(arguments(workspace, tmp_path / "none", *further))
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(("choice", "own", "refit", "sentence"), [
    ("auto", True, True, "trained anew in each fold"), ("always", False, True, "trained anew in each fold"),
    ("auto", False, False, "as one that was not trained on these images"),
    ("never", True, False, "although it was trained on these images"),
])
def test_whose_vae_a_fold_uses(
    workspace: Workspace, tmp_path: Path, choice: str, own: bool, refit: bool, sentence: str
) -> None:
    config = workspace.config("train_params.resume_training=false",
                              *[f"autoencoder_params.training.output={workspace.root / 'vae'}"] * own)
    study = plan_study(config, StudyRequest(num_folds=2, refit_vae=choice))
    assert study.refit_vae == refit and sentence in study.vae_use
    trained = write_fold(study, 0, tmp_path)
    assert trained.train_params.resume_training  # a study goes on
    before = load_config(tmp_path / "vae.yaml").autoencoder_params
    assert before.pretrained == str(workspace.root / "vae") and before.training.output == str(tmp_path / "vae")
    assert trained.autoencoder_params.pretrained == (before.training.output if refit else before.pretrained)


def test_what_a_vae_of_train_vae_s_has_seen_is_not_guessed(workspace: Workspace, tmp_path: Path) -> None:
    vae = shutil.copytree(workspace.root / "vae", tmp_path / "vae")
    (vae / "training.json").write_text("{}", encoding="utf-8")
    config = workspace.config(f"autoencoder_params.pretrained={vae}")
    with pytest.raises(UserError, match=r"vae was made by train_vae, on which images is not recorded; give --refit-vae alw"):
        plan_study(config, StudyRequest(num_folds=2))
    assert plan_study(config, StudyRequest(num_folds=2, refit_vae="always")).refit_vae
    assert not plan_study(config, StudyRequest(num_folds=2, refit_vae="never")).refit_vae
    tuned = workspace.config(f"autoencoder_params.pretrained={vae}", "autoencoder_params.training.fine_tune=true",
                             f"autoencoder_params.training.output={tmp_path / 'tuned'}")
    assert "from " in (sentence := plan_study(tuned, StudyRequest(num_folds=2, refit_vae="always")).vae_use)
    assert "which is not recorded" in sentence


def test_a_vae_that_has_seen_tested_images_is_told_by_its_record(workspace: Workspace, tmp_path: Path) -> None:
    vae = shutil.copytree(workspace.root / "vae", tmp_path / "vae")
    config = workspace.config(f"autoencoder_params.pretrained={vae}")
    seen = [hash_file(record.path) for record in Project.open(config).records[:30]]

    def write(images: list[str]) -> None:
        (vae / "training.json").write_text(json.dumps({"trained_images": shorten_hashes(images)}), encoding="utf-8")

    write(seen)
    with pytest.raises(UserError, match="was trained on 30 of these 200 images; give --refit-vae always"):
        plan_study(config, StudyRequest(num_folds=2))
    kept = plan_study(config, StudyRequest(num_folds=2, refit_vae="never"))
    assert "although it was trained on 30 of these images" in kept.vae_use and "is flattered" in kept.vae_use
    assert "trained anew" in plan_study(config, StudyRequest(num_folds=2, refit_vae="always")).vae_use
    tuned = workspace.config(f"autoencoder_params.pretrained={vae}", "autoencoder_params.training.fine_tune=true",
                             f"autoencoder_params.training.output={tmp_path / 'tuned'}")
    with pytest.raises(UserError, match="which fine-tuning would start from, was trained on 30 of these images; name"):
        plan_study(tuned, StudyRequest(num_folds=2, refit_vae="always"))

    write(["f" * 64])
    assert "by its record it was trained on none of these" in plan_study(config, StudyRequest(num_folds=2)).vae_use
    assert "which has seen none of these" in plan_study(tuned, StudyRequest(num_folds=2, refit_vae="always")).vae_use


def test_one_picture_of_two_patients_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    images = shutil.copytree(workspace.phantoms / "images", tmp_path / "images")
    records = Project.open(workspace.config()).records
    other = next(record for record in records if record.group != records[0].group)
    shutil.copy(images / records[0].path.name, images / other.path.name)
    config = workspace.config(f"dataset_params.params.root_dir={images}")
    with pytest.raises(UserError, match=r"is the same file as .* of another group, so one would be tested"):
        plan_study(config, StudyRequest(num_folds=2))


def test_classes_of_few_patients_are_refused_or_warned_of(workspace: Workspace) -> None:
    study = plan_study(workspace.config(), StudyRequest(num_folds=2))
    study.check_groups()

    def keep(count: int) -> UtilityStudy:
        kept = {label: list(dict.fromkeys(record.group for record in study.records if record.label == label))[:count]
                for label in (0, 1)}
        return replace(study, records=[record for record in study.records if record.group in kept[record.label]])

    with pytest.raises(UserError, match=r"expected 5 groups .* of each class or more.*; found 'arrested' \(4\)"):
        keep(4).check_groups()
    assert any("Few groups of class 'arrested' (10)" in warning for warning in keep(10).warnings)
    assert not study.warnings


def test_images_without_groups_are_numbered(workspace: Workspace, tmp_path: Path) -> None:
    study = plan_study(workspace.config("dataset_params.params.group_column=null"), StudyRequest(num_folds=2))
    groups = [record.group for record in Project.open(write_fold(study, 0, tmp_path)).records]
    assert groups == [str(number) for number in range(200)]


def test_one_guide_for_all_folds_is_refused(workspace: Workspace) -> None:
    config = workspace.config("sample_params.guide_checkpoint=guide.safetensors", "sample_params.guidance_scale=2")
    with pytest.raises(UserError, match=r"sample_params\.guide_checkpoint: expected none, as one network would guide all"):
        plan_study(config, StudyRequest(num_folds=2))


def test_a_fold_s_table_keeps_labels_groups_and_conditions(workspace: Workspace, tmp_path: Path) -> None:
    config = workspace.config("dataset_params.params.conditions={has_well: [0, 1]}")
    study = plan_study(config, StudyRequest(num_folds=3))
    for fold in range(3):
        records = Project.open(write_fold(study, fold, tmp_path)).records
        for mine, original in zip(records, study.records, strict=True):
            assert (mine.path, mine.label, mine.group) == (original.path, original.label, original.group)
            assert mine.conditions == original.conditions
        tested = [record.split == "test" for record in records]
        assert tested == (study.folds == fold).tolist()
        for split in ("train", "val"):
            assert {record.label for record in records if record.split == split} == {0, 1}
    assert {record.conditions for record in study.records} == {(0,), (1,)}
