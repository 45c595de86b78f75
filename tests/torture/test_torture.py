"""The torture harness: its trials are spread as stated, its faults take effect, and what it would call a failure is one."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from torture import PHASES, Bench, Phase, Reference, Trial, _compare, _find_partial_file, _hash_results, draw_trials

CACHING = next(phase for phase in PHASES if phase.name == "caching")
needs_compiler = pytest.mark.skipif(
    not sys.platform.startswith("linux") or shutil.which("cc") is None, reason="needs Linux and a C compiler"
)


def test_half_of_the_kills_are_at_instants_and_half_spread_over_the_kinds_of_calls() -> None:
    reference = Reference(Path("x"), {}, seconds=5.0, calls=(40, 12, 6))
    trials = list(draw_trials(CACHING, reference, seed=3, num_kills=20, num_full=2))
    assert trials == list(draw_trials(CACHING, reference, seed=3, num_kills=20, num_full=2))
    instants = [trial for trial in trials if trial.call is None]
    assert len(instants) == 10 and all(0 <= trial.at <= 5 for trial in instants)
    at_calls = [trial for trial in trials if trial.call is not None and trial.act == "kill"]
    assert [trial.call for trial in at_calls] == [0, 1, 2] * 3 + [0]
    assert all(1 <= trial.at <= reference.calls[trial.call or 0] for trial in at_calls)
    assert [trial.act for trial in trials[20:]] == ["full", "full"]


def test_a_partial_file_with_a_final_name_is_found(tmp_path: Path) -> None:
    np.save(tmp_path / "whole.npy", np.arange(100))
    assert _find_partial_file(tmp_path) is None
    data = (tmp_path / "whole.npy").read_bytes()
    (tmp_path / ".hidden.npy").write_bytes(data[:-8])
    (tmp_path / "mean.npy.partial").write_bytes(data[:-8])
    assert _find_partial_file(tmp_path) is None  # these names say that they are not whole
    (tmp_path / "cut.npy").write_bytes(data[:-8])
    assert str(_find_partial_file(tmp_path)).startswith("partial file cut.npy")


def test_results_that_differ_or_are_missing_are_told() -> None:
    assert _compare({"a": "1"}, {"a": "1"}) is None
    assert _compare({"a": "1", "b": "2"}, {"a": "3"}) == "differs from the unbroken run: a, b"


def test_files_that_hold_a_clock_are_not_compared(tmp_path: Path) -> None:
    for name in ("metrics.jsonl", "timing.json", "evaluation.xlsx", ".x.tmp"):
        (tmp_path / "run" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "run" / name).write_text("1", encoding="utf-8")
    training = next(phase for phase in PHASES if phase.name == "training")
    assert list(_hash_results(tmp_path, training)) == ["run/metrics.jsonl"]


@needs_compiler
def test_the_preloaded_library_tears_the_chosen_write_and_counts_the_others(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.work.mkdir()
    lines = ["import os", "for i in range(5):", "    with open(f'f{i}', 'wb') as file:", "        file.write(b'12345678')",
             "    os.rename(f'f{i}', f'g{i}')"]
    (bench.work / "writer.py").write_text("\n".join(lines), encoding="utf-8")
    writer = Phase("writer", (str(bench.work / "writer.py"),), (), ("g*",))

    def run(trial: Trial | None) -> tuple[subprocess.CompletedProcess[str], tuple[int, int, int]]:
        for path in bench.work.glob("[fg]*"):
            path.unlink()
        return bench._run(writer, trial)

    finished, calls = run(None)
    assert finished.returncode == 0 and calls == (5, 0, 5)
    killed, calls = run(Trial(writer, "kill", 0, 3))
    assert killed.returncode == -9 and calls == (3, 0, 2)
    assert (bench.work / "f2").read_bytes() == b"1234" and not (bench.work / "g2").exists()
    killed, _ = run(Trial(writer, "kill", 2, 2))
    assert killed.returncode == -9 and sorted(path.name for path in bench.work.glob("[fg]*")) == ["f1", "g0"]
    full, _ = run(Trial(writer, "full", 0, 2))
    assert full.returncode == 1 and "No space left on device" in full.stderr


@needs_compiler
def test_caching_killed_at_a_rename_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    reference = bench.make_reference(CACHING)
    assert min(reference.calls) > 0 and reference.hashes[next(n for n in reference.hashes if n.endswith("mean.npy"))]
    outcome = bench.run_trial(Trial(CACHING, "kill", 2, reference.calls[2] // 2), reference)
    assert outcome == {"outcome": "exit code -9", "failure": None}
