"""The study of power from a config to its table, and again from the cache."""

import json
from pathlib import Path

import numpy as np
import pytest
from workspace import Workspace

from config.errors import UserError
from dataset.images import write_png
from tools.power_study import __main__ as power_study
from tools.power_study.power import format_table


def test_a_study_from_start_to_table_and_again_from_the_cache(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(power_study, "NUMBERS", (30,))
    monkeypatch.setattr(power_study, "MOST_FAULTY", 40)
    monkeypatch.setattr(power_study, "MOST_REAL", 120)
    faults = [fault for fault in power_study.PIXEL_FAULTS if fault.name in ("noise", "tint")]
    monkeypatch.setattr(power_study, "PIXEL_FAULTS", faults)
    monkeypatch.setattr(power_study, "ROUND_TRIP_FRACTIONS", (1.0,))
    for name in workspace.config().dataset_params.params.class_names:
        for index in range(20):
            noise = np.random.default_rng(index).integers(0, 256, (32, 32), dtype=np.uint8)
            write_png(tmp_path / "early" / name / f"{index}.png", noise)
    command = [*workspace.arguments(), "--name", "tiny", "--output", str(tmp_path / "features"), "--candidate",
               "untrained_texture", "--early", f"7={tmp_path / 'early'}", "--table", str(tmp_path / "power.json")]
    (tmp_path / "power.json").write_text('{"other": 1}', encoding="utf-8")
    power_study.main(command)
    first = json.loads((tmp_path / "power.json").read_text(encoding="utf-8"))
    assert first.pop("other") == 1  # which another call wrote
    [entry] = first.values()
    features = entry["encoders"]["untrained_texture"]  # beside a classifier, where another test trained one
    assert format_table(entry) in capsys.readouterr().out
    noise = features["shares_found"]["noise"]["30"]
    assert noise[-1] > noise[0] and features["shares_found"]["early stop"]["30"] == [1.0]
    assert set(entry["faults"]) == {"noise", "tint", "round trip", "mode drop", "class drop", "duplicates", "early stop"}
    assert (entry["images"], entry["side_px"], entry["numbers"]) == (120, 32, [30])
    stored = {path: path.stat().st_mtime_ns for path in (tmp_path / "features").iterdir()}
    power_study.main(command)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "features").iterdir()} == stored
    again = json.loads((tmp_path / "power.json").read_text(encoding="utf-8"))["tiny"]
    assert again["encoders"]["untrained_texture"]["shares_found"] == features["shares_found"]


@pytest.mark.parametrize(("option", "told"), [("1000", "expected NAME=FOLDER, found '1000'"),
                                              ("late=x", "expected the number of steps before the =, found 'late'")])
def test_an_option_that_cannot_be_read_is_refused(workspace: Workspace, tmp_path: Path, option: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        power_study.main([*workspace.arguments(), "--name", "tiny", "--output", str(tmp_path), "--early", option])
