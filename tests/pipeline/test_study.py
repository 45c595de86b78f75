"""A study of two recipes and two baselines from start to end, and reruns that do again only what changed."""

import csv
import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from workspace import Workspace

from config.errors import UserError
from dataset.decoding import decode_image
from dataset.storage import write_json
from tools.runtime.command import run_command
from tools.study import __main__ as study
from tools.study import plan as studying
from tools.study.runs import StudyRuns

pytestmark = pytest.mark.timeout(900)  # a dozen processes start one after another; a busy machine takes minutes for it


def declare(workspace: Workspace, folder: Path, *, output: str = "study", **changes: object) -> Path:
    path = folder / f"{output}.yaml"
    path.write_text(yaml.safe_dump({
        "base": str(workspace.config_path), "output": str(folder / output), "screen_minutes": 0.0005,
        "final_minutes": 0.001, "seeds": [1], "finalists": 1, "calibration_steps": 2,
        "overrides": {"evaluation_params.encoders": ["vae"], "evaluation_params.judge_path": None,
                      "train_params.resume_training": False,
                      "sample_params.num_images": 30, "evaluation_params.max_pairs": 10, "gan_params.width": 8,
                      "dataset_params.directory_inception_features": str(folder / "features")},
        "arms": {"ours": {}, "epsilon": {"diffusion_params.prediction_type": "epsilon"}}, **changes},
        sort_keys=False), encoding="utf-8")
    return path


def put_down_speed(declared: Path, seconds_per_step: float) -> None:
    """Have the speeds measured, then put down another, so that the numbers of steps do not depend on the machine."""
    declaration = studying.load_study(declared)
    for arm in declaration.arms:
        StudyRuns(declaration).seconds_per_step(arm)
    for path in Path(declaration.output).glob("trainings/*.speed/speed.json"):
        write_json(path, {"seconds_per_step": seconds_per_step})


def read_result(folder: Path, output: str = "study") -> dict[str, object]:
    return json.loads((folder / output / "study.json").read_text(encoding="utf-8"))


def read_pixels(samples: Path) -> np.ndarray:
    return np.stack([decode_image(path) for path in sorted((samples / "images").iterdir())])


def changed_times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (folder / "study/arms").rglob("*") if path.is_file()}


def test_a_study_screens_chooses_tests_once_and_knows_what_is_done(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    baselines = {"gan": {"gan": {"generator": "gan"}}, "augmented": {"augmented": {"generator": "augment_real"}}}
    declared = declare(workspace, tmp_path, baselines=baselines)
    study.main(["--config", str(declared)])
    result = read_result(tmp_path)
    rounds = {name: family["rounds"] for name, family in result["families"].items()}
    (screened,) = rounds.pop("recipes")  # one finalist, and baselines of one arm, leave nothing to choose in a final
    assert rounds == {"gan": [], "augmented": []}
    assert [row["arm"] for row in screened["arms"]] == ["ours", "epsilon"]
    best = min(screened["arms"], key=lambda row: row["distances"][0])["arm"]
    assert {name: family["chosen"] for name, family in result["families"].items()} == {
        "recipes": best, "gan": "gan", "augmented": "augmented"}
    assert decode_image(tmp_path / "study/study.png").ndim == 3
    evaluations = sorted((tmp_path / "study").rglob("evaluation.json"))
    splits = [json.loads(path.read_text(encoding="utf-8"))["provenance"]["real_split"] for path in evaluations]
    assert splits.count("test") == 3 and splits.count("val") == 2
    table = (tmp_path / "study/study.md").read_text(encoding="utf-8")
    assert table.startswith("| | recipes | gan | augmented |\n") and table in capsys.readouterr().out
    augmented = json.loads((tmp_path / "study/arms/augmented/steps1_seed1/evaluation_test/evaluation.json").read_text())
    shown = next(row["value"] for row in augmented["rows"] if row["metric"].startswith("KD[untrained_conv@")
                 and row["comparison"] == "total" and row["class"] == "all")
    read = result["families"]["augmented"]["test"]
    assert read["KD total (synthetic, real)"] == [shown] and not [line for line in read if "round trip" in line]
    assert result["families"]["augmented"]["refusal"] == "copying found"

    before = changed_times(tmp_path)
    study.main(["--config", str(declared)])
    assert changed_times(tmp_path) == before and read_result(tmp_path) == result


def test_a_stopped_study_goes_on_and_ends_like_an_unbroken_one_with_other_jobs(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # bits are equal where the threads are
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    asked = {"seeds": [1, 2], "arms": {"ours": {}}, "baselines": {"other": {"unused": {"generator": "augment_real"}}}}
    unbroken = declare(workspace, tmp_path, output="unbroken", **asked)
    put_down_speed(unbroken, 0.001)
    study.main(["--config", str(unbroken), "--families", "recipes"])

    declared, trainings = declare(workspace, tmp_path, **asked), tmp_path / "study/trainings"
    command = ["--config", str(declared), "--families", "recipes", "--jobs", "2"]
    (speed,) = (tmp_path / "unbroken/trainings").glob("*.speed")
    shutil.copytree(speed, trainings / speed.name)

    def stop_once_steps_are_saved() -> None:
        while not [path for path in trainings.glob("*/checkpoints/resume-*") if path.parents[1].suffix != ".speed"]:
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGTERM)

    watcher = threading.Thread(target=stop_once_steps_are_saved, daemon=True)
    watcher.start()
    with pytest.raises(SystemExit) as stopped:
        run_command(lambda: study.main(command))
    watcher.join()
    assert stopped.value.code == 128 + signal.SIGTERM and not (tmp_path / "study/study.json").exists()
    study.main(command)
    logs = [path.read_text(encoding="utf-8") for path in trainings.glob("*_steps60/log.txt")]
    assert len(logs) == 2 and any("resuming at step" in log for log in logs)

    result = read_result(tmp_path)
    assert result == read_result(tmp_path, "unbroken")
    measured = result["families"]["recipes"]["test"]
    assert [len(values) for values in measured.values()] == [2] * len(measured)
    first, second = (f"arms/ours/steps60_seed{seed}/samples" for seed in (1, 2))
    drawn = {folder: read_pixels(tmp_path / "study" / folder) for folder in (first, second)}
    assert all(np.array_equal(pixels, read_pixels(tmp_path / "unbroken" / folder)) for folder, pixels in drawn.items())
    assert not np.array_equal(drawn[first], drawn[second])


def test_arms_that_differ_in_drawing_alone_share_their_training(workspace: Workspace, tmp_path: Path) -> None:
    declared = declare(workspace, tmp_path, arms={"ours": {}, "guided": {"sample_params.guidance_scale": 4.0}})
    put_down_speed(declared, 0.0015)  # enough steps for the classes to part
    study.main(["--config", str(declared)])
    trainings = [path.name for path in (tmp_path / "study/trainings").iterdir() if path.suffix != ".speed"]
    assert sorted(name.split("_")[1] for name in trainings) == ["steps20", "steps40"]
    screened = [tmp_path / f"study/arms/{name}/steps20_seed1/samples" for name in ("ours", "guided")]
    pixels, tables = [read_pixels(folder) for folder in screened], [folder / "manifest.csv" for folder in screened]
    assert (pixels[0] != pixels[1]).any(axis=(1, 2)).all()
    rows = [row for table in tables for row in csv.DictReader(table.read_text(encoding="utf-8").splitlines())]
    assert len(rows) == 60 and len({row["checkpoint_sha256"] for row in rows}) == 1
    assert [row["guidance_scale"] for row in rows] == ["1"] * 30 + ["4"] * 30


def test_other_labels_make_a_study_anew(workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    declared = declare(workspace, tmp_path, arms={"augmented": {"generator": "augment_real"}},
                       baselines={"b": {"other": {"generator": "augment_real", "sample_params.num_images": 20}}})
    study.main(["--config", str(declared)])
    result = read_result(tmp_path)
    table = Path(str(workspace.config().dataset_params.params.csv_file))
    fewer = tmp_path / "fewer.csv"
    fewer.write_text("\n".join(table.read_text(encoding="utf-8").splitlines()[:-20]) + "\n", encoding="utf-8")
    given = yaml.safe_load(declared.read_text(encoding="utf-8"))
    given["overrides"]["dataset_params.params.csv_file"] = str(fewer)
    declared.write_text(yaml.safe_dump(given), encoding="utf-8")
    study.main(["--config", str(declared)])
    first = read_result(tmp_path)
    assert first["families"]["recipes"]["test"] != result["families"]["recipes"]["test"]
    fewer.write_text("\n".join(fewer.read_text(encoding="utf-8").splitlines()[:-10]) + "\n", encoding="utf-8")
    study.main(["--config", str(declared), "--families", "b"])  # the same keys, other rows behind them
    assert "recipes was made from other images, weights or keys" in capsys.readouterr().out
    (left,) = (result := read_result(tmp_path))["families"].items()
    assert left[0] == "b" and left[1]["test"] != first["families"]["b"]["test"]
    study.main(["--config", str(declared), "--families", "recipes"])
    assert list(read_result(tmp_path)["families"]) == ["recipes", "b"]  # each as it was, in the declared order
    assert read_result(tmp_path)["families"]["b"] == result["families"]["b"]
    assert (tmp_path / "study/study.md").read_text(encoding="utf-8").startswith("| | recipes | b |\n")


def test_mistakes_are_told_before_anything_trains(workspace: Workspace, tmp_path: Path) -> None:
    declared = declare(workspace, tmp_path, arms={"ours": {}, "typo": {"train_params.ldm_lrr": 1}})
    with pytest.raises(UserError, match=r"arm typo: .*ldm_lrr: unknown key; did you mean train_params\.ldm_lr\?"):
        study.main(["--config", str(declared)])
    with pytest.raises(UserError, match="--jobs: expected 1 or more, found 0"):
        study.main(["--config", str(declared), "--jobs", "0"])
    with pytest.raises(UserError, match="--families: expected some of recipes, found 'gan'"):
        study.main(["--config", str(declared), "--families", "gan"])
    assert not (tmp_path / "study").exists()


    for changes, message in (
        ({"overrides": {"evaluation_params.judge_path": str(tmp_path / "no_judge")}}, "expected a trained classifier"),
        ({"overrides": {"dataset_params.params.image_size": 24, "dataset_params.latent_size": 6},
          "baselines": {"gan": {"gan": {"generator": "gan"}}}}, "4 px times a power of two"),
    ):
        common = {"evaluation_params.judge_path": None, "evaluation_params.encoders": ["vae"]}
        changes["overrides"] = common | changes["overrides"]
        with pytest.raises(UserError, match=message):
            study.main(["--config", str(declare(workspace, tmp_path, **changes))])
    assert not list((tmp_path / "study").glob("trainings/*"))


def test_a_command_that_fails_is_quoted_with_its_log(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "a_file").touch()
    no_folder = {"evaluation_params.encoders": ["vae"], "evaluation_params.judge_path": None,
                 "dataset_params.directory_latents": str(tmp_path / "a_file" / "latents")}
    declared = declare(workspace, tmp_path, overrides=no_folder)
    with pytest.raises(UserError, match=r"code 2: error: .*a_file.*; see .*log\.txt; fix the cause"):
        study.main(["--config", str(declared)])


def test_a_training_that_diverges_is_not_begun_again(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    declared = declare(workspace, tmp_path, calibration_steps=14, arms={"ours": {}, "wild": {
        "train_params.ldm_lr": 1e30, "train_params.clip_grad_norm": 0, "train_params.warmup_steps": 0,
        "train_params.ldm_batch_size": 8}})  # whose speed is measured while it diverges
    put_down_speed(declared, 0.0015)
    study.main(["--config", str(declared)])
    assert "wild, 20 steps, seed 1: diverged (error: step " in capsys.readouterr().out
    ours, wild = read_result(tmp_path)["families"]["recipes"]["rounds"][0]["arms"]
    assert (ours["refusal"], wild["refusal"], wild["distances"]) == (None, "1 trainings diverged", [])
    (note,) = (tmp_path / "study/trainings").glob("*_steps20/diverged.json")
    log = note.with_name("log.txt").read_bytes()
    study.main(["--config", str(declared)])
    assert note.with_name("log.txt").read_bytes() == log
