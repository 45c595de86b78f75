"""What a log file is told of progress: soon, then seldom, and nothing where it is switched off."""

import json
from pathlib import Path

import pytest

from tools.runtime import progress
from tools.runtime.command import Diverged
from tools.runtime.progress import Pace, Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_pipe_gets_a_line_soon_and_then_every_ten_seconds(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress("encoding", 40) as bar:
        for second in range(1, 41):
            clock[0] = 100.0 + second
            bar.update(second, "note")
    assert capsys.readouterr().err.splitlines() == [f"encoding: {n}/40 images note" for n in (3, 14, 25, 36)]


def test_what_is_said_is_a_line_of_its_own_unless_progress_is_off(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    for enabled, lines in ((True, ["step 4: done"]), (False, [])):
        with Progress("training", 9, enabled=enabled) as bar:
            clock[0] += 50
            bar.say("step 4: done")
            bar.update(5)
        assert capsys.readouterr().err.splitlines() == lines


def test_a_pace_tells_the_settled_rate_and_is_written_once_it_is_over(clock: list[float], tmp_path: Path) -> None:
    path = tmp_path / "timing.json"
    with pytest.raises(Diverged), Pace(4, path) as pace:
        for seconds in (10.0, 2.0, 2.0, 2.0):  # the first step is compiled
            clock[0] += seconds
            rate = pace.add_step()
        assert (rate, pace.minutes) == (1.0, pytest.approx(16 / 60))
        raise Diverged
    assert json.loads(path.read_text(encoding="utf-8")) == {
        "images_per_second": 1.0, "settled_images_per_second": 2.0, "steps": 4}
    with Pace(4, tmp_path / "none.json"):
        pass  # no step, no rate
    with pytest.raises(OSError, match="disk full"), Pace(4, tmp_path / "none.json") as pace:
        pace.add_step()
        raise OSError("disk full")  # and nothing more is written
    assert not (tmp_path / "none.json").exists()
