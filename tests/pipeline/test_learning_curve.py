"""A learning curve of two arms from start to end, and a second call that does nothing again."""

import json
from pathlib import Path

import pytest
from workspace import Workspace

from config.errors import UserError
from dataset.decoding import decode_image
from tools.diffusion.project import Project
from tools.learning_curve import __main__ as learning_curve

pytestmark = pytest.mark.timeout(900)  # a dozen processes start one after another


def test_a_curve_trains_each_arm_and_knows_what_is_done(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("train_params.max_steps=2", "sample_params.num_images=30", "sample_params.num_steps=1",
             "evaluation_params.encoders=[vae]", "evaluation_params.judge_path=null", "evaluation_params.max_pairs=10")
    words = [*workspace.arguments(*given), "--images", "40", "80", "--seeds", "1", "--arms", "nothing", "unlabelled",
             "--output", str(tmp_path / "curve")]
    learning_curve.main(words)
    shown = capsys.readouterr().out
    result = json.loads((tmp_path / "curve/learning_curve.json").read_text(encoding="utf-8"))
    points = {(point["arm"], point["num_images"]): point["values"] for point in result["points"]}
    assert [arm for arm, _ in points] == ["nothing", "nothing", "unlabelled", "unlabelled"]
    assert all(40 <= images <= 120 for _, images in points) and len({images for _, images in points}) == 2
    assert all(len(values["KD above real, model gap"]) == 1 for values in points.values())
    assert any(text in shown for text in ("as good as nothing with", "better than nothing with"))
    assert decode_image(tmp_path / "curve/learning_curve.png").ndim == 3
    counts = {}
    for path in sorted((tmp_path / "curve").glob("*/seed0/samples/evaluation.json")):
        counts[path.parts[-4]] = json.loads(path.read_text(encoding="utf-8"))["provenance"]["num_images"]
    whole = len(Project.open(workspace.config()).images("train").records)
    for name, found in counts.items():
        assert found["train"] == int(name.split("_")[1])
        assert found.get("unlabelled", 0) == (whole - found["train"]) * name.startswith("unlabelled")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "curve").rglob("*.safetensors")}
    learning_curve.main(words)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "curve").rglob("*.safetensors")} == times


def test_arms_and_their_options_go_together(workspace: Workspace) -> None:
    for further in (["--arms", "warm"], ["--start-from", "runs/other"]):
        with pytest.raises(UserError, match="--start-from: expected with the arm warm, and only with it"):
            learning_curve.main([*workspace.arguments(), "--images", "50", *further])
