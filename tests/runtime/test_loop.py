"""The loop of every training, on one number that falls: what it saves, when it stops, and what not finite means."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dataset.ranks import Ranks
from models.ema import ExponentialMovingAverage
from tools.runtime import loop as loop_module
from tools.runtime.checkpoints import list_resume_checkpoints, read_checkpoint
from tools.runtime.command import Diverged, Interrupted
from tools.runtime.loop import MOST_SKIPPED, Loop, descend
from tools.runtime.resume import ResumeState, Saving
from tools.runtime.tracking import Tracker


def make_state(**fields: Any) -> ResumeState:
    network = nn.Linear(2, 1)
    nn.init.constant_(network.weight, 1.0)
    nn.init.zeros_(network.bias)
    return ResumeState({"net": network}, ExponentialMovingAverage(network, 0.9),
                       {"sgd": torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)}, **fields)


def weight(state: ResumeState) -> torch.Tensor:
    return state.networks["net"].weight


def take_step(state: ResumeState, step: int, *, bad: bool = False) -> str | None:
    """A step towards a place that depends on the step alone."""
    network = state.networks["net"]
    loss = (network(torch.tensor([[1.0, step % 3]])) - step).square().mean() * (float("nan") if bad else 1.0)
    if not descend(state.optimizers["sgd"], loss):
        return None
    state.ema.update(network)
    return "fine"


def run(state: ResumeState, num_steps: int, *, signal_at: int | None = None, bad: range = range(0), **options: Any) -> Loop:
    options = {"title": "test", "images_per_step": 2, "remedy": "do less", "show": False, **options}
    with Loop(state, num_steps, **options) as loop:
        for step in loop.steps():
            if step == signal_at:
                os.kill(os.getpid(), signal.SIGTERM)
            loop.end_step(take_step(state, step, bad=step in bad))
    return loop


def steps_saved(folder: Path) -> list[int]:
    return sorted(int(path.stem.removeprefix("resume-")) for path in list_resume_checkpoints(folder))


def test_a_resumed_loop_equals_an_unbroken_one_and_says_how_to_resume(tmp_path: Path) -> None:
    whole, saving = make_state(), Saving(tmp_path, "a", key="k", every_steps=4, keep=9)
    run(whole, 11)
    with pytest.raises(Interrupted, match="saved at step 3; run the same command to resume") as stopped:
        run(make_state(), 11, signal_at=2, saving=saving)
    assert stopped.value.signal_number == signal.SIGTERM and steps_saved(tmp_path) == [3]
    state = make_state()
    state.resume(saving)
    run(state, 11, saving=saving)
    assert steps_saved(tmp_path) == [3, 4, 8, 11]
    assert torch.equal(weight(state), weight(whole))
    assert torch.equal(state.ema.average["weight"], whole.ema.average["weight"])


def test_a_stop_in_the_last_step_is_the_end_and_without_saving_nothing_is_kept(tmp_path: Path) -> None:
    run(make_state(), 3, signal_at=2, saving=Saving(tmp_path, "a", key="k"))
    assert steps_saved(tmp_path) == [3]
    run(make_state(), 3, signal_at=2, saving=Saving(tmp_path / "b", "a", key="k", at_end=False))
    assert steps_saved(tmp_path / "b") == []
    with pytest.raises(Interrupted, match="stopped; run the same command to resume"):
        run(make_state(), 3, signal_at=1)


def test_steps_that_are_not_finite_move_nothing_and_ten_in_a_row_end_it_also_over_a_resume(tmp_path: Path) -> None:
    saving = Saving(tmp_path, "a", key="k", every_steps=1)
    state = make_state()
    run(state, MOST_SKIPPED, bad=range(1, MOST_SKIPPED), saving=saving)
    once = make_state()
    run(once, 1)
    assert torch.equal(weight(state), weight(once)) and state.ema.num_updates == 1
    resumed = make_state()
    resumed.resume(saving)
    assert resumed.skipped_in_a_row == MOST_SKIPPED - 1
    with pytest.raises(Diverged, match="step 11: loss or gradient was not finite 10 times in a row; the last checkpoint is "
                                       "intact, but the same steps would diverge again: do less"):
        run(resumed, 30, bad=range(30), saving=saving)
    assert torch.isfinite(read_checkpoint(list_resume_checkpoints(tmp_path)[0])[0]["net.weight"]).all()
    run(make_state(), 40, bad=range(1, 40, 2))  # a good one in between


def test_a_gradient_that_is_not_finite_is_no_step() -> None:
    value = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([value], lr=1.0)
    loss = value.abs().sqrt().sum()  # 0, whose slope is not
    assert not descend(optimizer, loss) and float(value.detach()) == 0.0
    assert descend(optimizer, 3 * value.sum(), clip_norm=0.5) and float(value.detach()) == pytest.approx(-0.5)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds, which each reading moves on by one."""
    now = [0.0]

    def read() -> float:
        now[0] += 1.0
        return now[0]

    monkeypatch.setattr(loop_module.time, "monotonic", read)
    return now


def test_minutes_end_it_over_all_parts_and_are_saved(tmp_path: Path, clock: list[float]) -> None:
    assert clock == [0.0]
    saving = Saving(tmp_path, "a", key="k", every_seconds=5.0)
    state = make_state(seconds=0.0)
    loop = run(state, 1000, max_minutes=1.0, saving=saving)
    assert state.step < 60 and loop.is_last and loop.elapsed > 60 and steps_saved(tmp_path) == [state.step]
    resumed = make_state(seconds=0.0)
    resumed.resume(saving)
    assert resumed.seconds == pytest.approx(60, abs=10)
    run(resumed, 1000, max_minutes=1.0)
    assert resumed.step == state.step + 1  # one more, and it is over
    assert "seconds" not in make_state().to_checkpoint()[1]  # equal runs save equal bytes


def test_what_is_due_comes_after_the_last_step_too_and_the_body_can_end_it() -> None:
    due = []
    state = make_state()
    with Loop(state, 100, title="test", images_per_step=1, remedy="", show=False) as loop:
        for _ in loop.steps():
            loop.end_step("")
            if state.step == 7:
                loop.is_last = True
            due += [state.step] * loop.is_due(3)
    assert due == [3, 6, 7]
    with pytest.raises(AssertionError, match="end_step"), Loop(state, 9, title="t", images_per_step=1, remedy="") as loop:
        for _ in loop.steps():
            pass


def test_the_first_of_several_processes_alone_saves_and_all_stop_after_the_same_step(tmp_path: Path) -> None:
    asked = []

    def agree(value: bool) -> bool:
        asked.append(value)
        return value and len(asked) != 2  # at the second question another process was asked to stop

    for index in (0, 1):
        asked.clear()
        state, saving = make_state(), Saving(tmp_path / str(index), "a", key="k")
        with pytest.raises(Interrupted) as stopped:
            run(state, 100, saving=saving, ranks=Ranks(index, 2, agree=agree), stop_interval=5)
        assert stopped.value.signal_number == signal.SIGTERM and state.step == 10
        assert len(asked) == 3  # after every fifth step, and once to wait for the one that saves
        assert steps_saved(tmp_path / str(index)) == [10][index:]


def test_a_log_is_on_the_disk_before_the_state_that_relies_on_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(Tracker, "sync_to_disk", lambda _: calls.append("log"))
    monkeypatch.setattr(ResumeState, "save", lambda *_: calls.append("state"))
    tracker = Tracker(tmp_path / "metrics.jsonl", step=0)
    run(make_state(), 2, saving=Saving(tmp_path, "a", key="k", every_steps=2), tracker=tracker,
        timing=tmp_path / "timing.json")
    assert calls == ["log", "state"] and tracker._file.closed
    assert json.loads((tmp_path / "timing.json").read_text(encoding="utf-8"))["steps"] == 2
