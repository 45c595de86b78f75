"""Variants of one measurement, each in a process of its own that waits between repeats, so that repeats interleave and
peak memory is each variant's own. Knows nothing of what is measured.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from config.errors import UserError

Numbers = dict[str, float]
Repeat = Callable[[], Numbers]  # measures once
_LONGEST_ERROR = 300  # characters of a worker's last line


@dataclass(frozen=True)
class BenchmarkSetup:
    """What every variant is told: the configs whose networks are measured, a folder to share files, and the extent."""

    paper_config: str
    demo_config: str
    scratch: str
    quick: bool


Prepare = Callable[[BenchmarkSetup], Repeat]  # builds a variant, warms it up and returns what measures it


class Worker:
    """One variant in its own process: `ask` starts a repeat, `answer` waits for its numbers."""

    def __init__(self, name: str, setup: BenchmarkSetup, environment: Mapping[str, str]) -> None:
        self._name = name
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the worker)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tools.benchmark", "--worker", name, "--setup", json.dumps(asdict(setup))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True,
            env={**os.environ, **environment})

    def ask(self) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("repeat\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._fail()

    def answer(self) -> Numbers:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._fail()
        return json.loads(line)

    def close(self) -> None:
        """End the process; between repeats it holds nothing that has to be put away."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def _fail(self) -> None:
        self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines() or ["no message"]
        raise UserError(f"the measurement {self._name} failed: {lines[-1][:_LONGEST_ERROR]}")


def serve(prepare: Prepare, setup: BenchmarkSetup) -> None:
    """The worker's side: prepare the variant, then measure once for every line that comes in."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not be taken for an answer
    repeat = prepare(setup)
    print(json.dumps({}), file=answers, flush=True)
    for _ in sys.stdin:
        numbers = repeat()
        print(json.dumps({**numbers, "peak_bytes": peak_bytes()}), file=answers, flush=True)


@contextmanager
def started(
    names: Sequence[str], setup: BenchmarkSetup, environments: Sequence[Mapping[str, str]] | None = None
) -> Iterator[list[Worker]]:
    """Workers that are warm: prepared one after the other, so that none disturbs another's preparation; with
    `environments`, one a worker, all together, since processes of one group wait for each other."""
    with ExitStack() as stack:
        workers = []
        for number, name in enumerate(names):
            worker = Worker(name, setup, environments[number] if environments else {})
            stack.callback(worker.close)
            workers.append(worker)
            if not environments:
                worker.answer()
        if environments:
            for worker in workers:
                worker.answer()
        yield workers


def interleave(names: Sequence[str], setup: BenchmarkSetup, *, repeats: int) -> dict[str, Numbers]:
    """Medians over `repeats` rounds in which every variant is measured once, by name."""
    rounds: dict[str, list[Numbers]] = {name: [] for name in names}
    with started(names, setup) as workers:
        for _ in range(repeats):
            for name, worker in zip(names, workers, strict=True):
                worker.ask()
                rounds[name].append(worker.answer())
    return {name: medians(measured) for name, measured in rounds.items()}


def medians(measured: Sequence[Numbers]) -> Numbers:
    """The median of each number over repeats."""
    return {key: statistics.median(numbers[key] for numbers in measured) for key in measured[0]}


def timed(work: Callable[[], object]) -> float:
    """Seconds of the wall clock that the work takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def peak_bytes() -> int:
    """The largest resident size that this process has had, in bytes.

    Raises:
        UserError: Windows, which has no such figure.
    """
    status = Path("/proc/self/status")
    if status.exists():  # getrusage's figure outlives exec, so that a child would begin with its parent's
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError as error:
        raise UserError("tools.benchmark measures memory as Linux and macOS do; on Windows run it under WSL 2") from error
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
