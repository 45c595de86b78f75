"""Stages end in one of four ways, stop when asked to, and are done again only where their inputs changed."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from config.errors import UserError
from dataset.storage import read_json, write_json
from tools.runtime.command import Diverged, Interrupted, run_command
from tools.runtime.stages import DIVERGED, DoneRecord, Stage, our_command, run_stages


def python(title: str, code: str, **further: Path) -> Stage:
    return Stage(title, [sys.executable, "-c", code], **further)


def test_each_end_of_a_stage_is_named() -> None:
    with pytest.raises(UserError, match="generator: ended with exit code 2: see above; fix the cause, then run"):
        run_stages([python("generator", "raise SystemExit(2)")])
    with pytest.raises(Diverged, match="generator: ended with exit code 3"):
        run_stages([python("generator", "raise SystemExit(3)")])
    with pytest.raises(UserError, match=r"stopped by SIGKILL \(memory may have run out"):
        run_stages([python("generator", "import os; os.kill(os.getpid(), 9)")])
    with pytest.raises(Interrupted, match="run the same command again to resume"):
        run_stages([python("generator", "raise SystemExit(143)")])


def test_an_error_quotes_the_last_line_of_the_log_and_names_it(tmp_path: Path) -> None:
    log = tmp_path / "arm" / "log.txt"
    with pytest.raises(UserError) as error:
        run_stages([python("arm", "print('first'); raise SystemExit('error: no space')", log=log)])
    assert str(error.value).startswith(f"arm: ended with exit code 1: error: no space; see {log}; ")
    assert log.read_text(encoding="utf-8").splitlines() == ["first", "error: no space"]


def test_divergence_is_a_result_where_the_caller_says_where_to_write_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = tmp_path / "ran"
    run_stages([python("wild", "print('loss is nan'); raise SystemExit(3)", log=tmp_path / "log.txt",
                       divergence=tmp_path / "diverged.json"),
                python("tame", f"import pathlib; pathlib.Path({str(ran)!r}).touch()")])
    assert read_json(tmp_path / "diverged.json") == {DIVERGED: "loss is nan"} and ran.is_file()
    assert "wild: diverged (loss is nan)" in capsys.readouterr().out


def test_stages_run_side_by_side_with_an_equal_part_of_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    code = ("import os, pathlib, time; own, other = map(pathlib.Path, ({!r}, {!r})); "
            "own.write_text(os.environ['OMP_NUM_THREADS'])\n"
            "while not other.exists(): time.sleep(0.01)")  # neither ends before the other has begun
    paths = [str(tmp_path / name) for name in "ab"]
    run_stages([python("a", code.format(*paths)), python("b", code.format(*reversed(paths)))], jobs=2)
    assert [Path(path).read_text(encoding="utf-8") for path in paths] == ["3", "3"]


def test_a_signal_reaches_every_stage_and_waits_until_it_has_saved(tmp_path: Path) -> None:
    def slow(name: str) -> Stage:
        return python(name, f"""
import pathlib, signal, sys, time
def save(*_):
    time.sleep(0.3)
    pathlib.Path({str(tmp_path / name)!r}).with_suffix(".saved").touch()
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
pathlib.Path({str(tmp_path / name)!r}).with_suffix(".started").touch()
time.sleep(60)
""")

    def stop_once_both_run() -> None:
        while len(list(tmp_path.glob("*.started"))) < 2:
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGTERM)

    watcher = threading.Thread(target=stop_once_both_run)
    watcher.start()
    with pytest.raises(SystemExit) as stopped:
        run_command(lambda: run_stages([slow("a"), slow("b"), slow("never")], jobs=2))
    watcher.join()
    assert stopped.value.code == 143
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.saved", "a.started", "b.saved", "b.started"]


def test_our_commands_run_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for script in ("train_ddpm_cond.py", "tools.check_dataset"):
        run_stages([Stage(script, our_command(script, "--help"), log=tmp_path / script)])
        assert "--config" in (tmp_path / script).read_text(encoding="utf-8")


def test_a_stage_is_done_while_its_key_and_its_outputs_are_there(tmp_path: Path) -> None:
    output = tmp_path / "evaluation.json"
    record = DoneRecord(tmp_path / "done.json", "abc", outputs=(output,))
    assert record.read() is None and not record.begun()
    record.begin()
    output.touch()
    assert record.begun() and record.read() is None
    record.finish(sampler="ddim")
    assert record.read() == {"key": "abc", "done": True, "sampler": "ddim"} and not record.begun()
    assert DoneRecord(record.path, "other", outputs=(output,)).read() is None
    output.unlink()
    assert record.read() is None


@pytest.mark.parametrize("written", [{"key": "abc"}, {"key": "abc", "sampler": "ddim", "steps": 5},
                                     {"key": "abc", "done": True}])
def test_records_of_studies_and_sweeps_made_before_are_read(tmp_path: Path, written: dict[str, object]) -> None:
    write_json(tmp_path / "point.json", written)
    assert DoneRecord(tmp_path / "point.json", "abc").read() == written
