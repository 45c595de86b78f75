"""A study of two arms from start to end, and a rerun that trains and draws nothing."""

import json
from pathlib import Path

import pytest
import yaml
from workspace import Workspace

from config.errors import UserError
from dataset.decoding import decode_image
from tools import study


def declare(workspace: Workspace, folder: Path, **changes: object) -> Path:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({
        "base": str(workspace.config_path), "output": str(folder / "study"), "screen_minutes": 0.0005,
        "final_minutes": 0.001, "seeds": [1], "finalists": 1, "calibration_steps": 2,
        "overrides": {"evaluation_params.encoders": ["vae"], "evaluation_params.judge_path": None,
                      "sample_params.num_images": 30, "evaluation_params.max_pairs": 10,
                      "dataset_params.directory_inception_features": str(folder / "features")},
        "arms": {"ours": {}, "epsilon": {"diffusion_params.prediction_type": "epsilon"}}, **changes},
        sort_keys=False), encoding="utf-8")
    return path


def test_a_study_screens_chooses_tests_once_and_knows_what_is_done(workspace: Workspace, tmp_path: Path) -> None:
    declared = declare(workspace, tmp_path)
    study.main(["--config", str(declared)])
    result = json.loads((tmp_path / "study/study.json").read_text(encoding="utf-8"))
    screened, final = result["rounds"]
    assert [row["arm"] for row in screened["arms"]] == ["ours", "epsilon"]
    best = min(screened["arms"], key=lambda row: row["distances"][0])["arm"]
    assert result["chosen"] == best == final["arms"][0]["arm"] and [row["arm"] for row in result["test"]] == [best]
    assert decode_image(tmp_path / "study/study.png").ndim == 3
    evaluations = sorted((tmp_path / "study").rglob("evaluation.json"))
    splits = [json.loads(path.read_text(encoding="utf-8"))["provenance"]["real_split"] for path in evaluations]
    # Where the machine is so slow that the final's minutes are the screen's steps, the final is done already.
    assert splits.count("test") == 1 and splits.count("val") in (2, 3)

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "study/arms").rglob("*") if path.is_file()}
    study.main(["--config", str(declared)])
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "study/arms").rglob("*") if path.is_file()} == before
    assert json.loads((tmp_path / "study/study.json").read_text(encoding="utf-8")) == result


def test_an_arms_mistake_is_told_before_anything_trains(workspace: Workspace, tmp_path: Path) -> None:
    declared = declare(workspace, tmp_path, arms={"ours": {}, "typo": {"train_params.ldm_lrr": 1}})
    with pytest.raises(UserError, match=r"arm typo: .*ldm_lrr: unknown key; did you mean train_params\.ldm_lr\?"):
        study.main(["--config", str(declared)])
    assert not (tmp_path / "study").exists()
