"""A sweep from start to end: points on validation images, one opening of the test set, and a rerun that draws nothing."""

import json
from pathlib import Path

import pytest
from workspace import Workspace

from config.errors import UserError
from dataset.decoding import decode_image
from tools import sweep
from tools.evaluation.openings import LEDGER_NAME
from tools.evaluation.report.page import INTERNAL_NAME, SHAREABLE_NAME

GRID = ("--steps", "2", "3")


def test_a_sweep_chooses_on_validation_and_opens_the_test_set_once(
    classifiers: Workspace, reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reference.is_dir()
    features = tmp_path / "features"
    # Without a judge: the classes of a model of twelve steps cannot be told, and the rule would pass every point over.
    overrides = ("evaluation_params.judge_path=null", "sample_params.num_images=30",
                 f"dataset_params.directory_inception_features={features}")
    arguments = [*classifiers.arguments(*overrides), *GRID, "--output", str(tmp_path / "sweep")]
    sweep.main(arguments)
    assert "so whether images still show their class is not weighed" in capsys.readouterr().err
    result = json.loads((tmp_path / "sweep/sweep.json").read_text(encoding="utf-8"))
    names = [point["name"] for point in result["points"]]
    assert len(names) == 2 and result["chosen"] in names and result["test_set_opening"] == 1
    assert [point["network_evaluations"] for point in result["points"]] == [2, 3]
    for name in names:
        evaluation = json.loads((tmp_path / "sweep/points" / name / "evaluation.json").read_text(encoding="utf-8"))
        assert evaluation["provenance"]["real_split"] == "val"
    chosen = json.loads((tmp_path / "sweep/chosen/evaluation.json").read_text(encoding="utf-8"))
    assert chosen["provenance"]["real_split"] == "test"
    assert decode_image(tmp_path / "sweep/sweep.png").ndim == 3
    title = "Sweep: metrics against checkpoint, sampler, steps and guidance"
    for page in (SHAREABLE_NAME, f"internal/{INTERNAL_NAME}"):
        shown = (tmp_path / "sweep/chosen" / page).read_text(encoding="utf-8")
        assert title in shown and all(name in shown for name in names)
        assert title not in (tmp_path / "sweep/points" / names[0] / page).read_text(encoding="utf-8")
    assert chosen["provenance"]["sweep_sha256"] and not any("the sweep shown" in text for text in chosen["warnings"])

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "sweep").rglob("evaluation.json")}
    sweep.main(arguments)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "sweep").rglob("evaluation.json")}
    ledger = json.loads((features / LEDGER_NAME).read_text(encoding="utf-8"))
    assert [len(opened) for opened in ledger.values()] == [1]


def test_what_cannot_be_drawn_or_judged_is_told_before_anything_is_drawn(
    workspace: Workspace, reference: Path, tmp_path: Path
) -> None:
    assert reference.is_dir()
    output = ["--output", str(tmp_path / "sweep")]
    with pytest.raises(UserError, match="num_steps 2000 is above"):
        sweep.main([*workspace.arguments(), "--steps", "2", "2000", *output])
    with pytest.raises(UserError, match=r"the first, inception, takes part in the choice .*, or list another encoder first"):
        sweep.main([*workspace.arguments("evaluation_params.encoders=[inception, vae]"), *output])
    assert not (tmp_path / "sweep/points").exists()


def test_missing_weights_are_named_before_anything_is_drawn(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected the weights of a trained model, found nothing there"):
        sweep.main([*workspace.arguments(), "--checkpoint", str(tmp_path / "no.safetensors"), "--output", str(tmp_path)])
