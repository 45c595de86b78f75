"""Runs the stages of a command, each a command of ours in its own process, and records which are done."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.errors import UserError
from dataset.storage import make_folder, read_json, write_json
from tools.runtime.command import EXIT_DIVERGED, EXIT_SIGNAL_BASE, STOP_SIGNALS, Diverged, Interrupted, deferred_signals

DIVERGED = "diverged"  # the key under which a record holds what a stage that diverged said
_ROOT = Path(__file__).parents[2]
_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class DoneRecord:
    """The JSON file beside a stage's outputs that says from which inputs they were made.

    `key` is a hash of all that the outputs depend on. Records without `done`, as versions before 0.3 wrote them, stand for
    finished stages.
    """

    path: Path
    key: str
    outputs: tuple[Path, ...] = ()

    def read(self) -> dict[str, Any] | None:
        """What the record says where the stage is done with this key and its outputs exist, else None."""
        if not self.path.is_file() or not all(output.exists() for output in self.outputs):
            return None
        found: dict[str, Any] = read_json(self.path)
        return found if found.get("key") == self.key and found.get("done", True) else None

    def begun(self) -> bool:
        """Whether a stage with this key began and has not ended."""
        return self.path.is_file() and read_json(self.path) == {"key": self.key, "done": False}

    def begin(self) -> None:
        write_json(self.path, {"key": self.key, "done": False})

    def finish(self, **facts: Any) -> None:
        write_json(self.path, {"key": self.key, "done": True, **facts})


@dataclass(frozen=True)
class Stage:
    """A command to run.

    `log` receives what it prints, which otherwise goes to the terminal. `divergence` is the JSON file to write where the
    command diverges, for those who take that as a result; without it divergence is an error.
    """

    title: str
    command: Sequence[str]
    log: Path | None = None
    divergence: Path | None = None

    def start(self, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        if self.log is None:
            sys.stdout.flush()
            return subprocess.Popen(self.command, env=environment, start_new_session=True)
        make_folder(self.log.parent)
        with self.log.open("ab") as log:
            return subprocess.Popen(self.command, env=environment, stdout=log, stderr=subprocess.STDOUT,
                                    start_new_session=True)

    def check_exit(self, code: int) -> None:
        """Return where the stage ended well, or diverged as it may.

        Raises:
            Diverged: it diverged, and that is no result here.
            Interrupted: it was stopped by a signal.
            UserError: it failed.
        """
        stopped = -code if code < 0 else code - EXIT_SIGNAL_BASE
        if stopped in STOP_SIGNALS:
            raise Interrupted(stopped, "run the same command again to resume")
        if code < 0:
            cause = " (memory may have run out: free some, or lower batch sizes)" if -code == signal.SIGKILL else ""
            raise UserError(f"{self.title}: stopped by {signal.Signals(-code).name}{cause}; run the same command again to "
                            "resume")
        if code == EXIT_DIVERGED and self.divergence is not None:
            last = self._last_line()
            print(f"{self.title}: diverged ({last})", flush=True)
            write_json(self.divergence, {DIVERGED: last})
        elif code:
            said = "see above" if self.log is None else f"{self._last_line()}; see {self.log}"
            kind = Diverged if code == EXIT_DIVERGED else UserError
            raise kind(f"{self.title}: ended with exit code {code}: {said}; fix the cause, then run the same command again "
                       "to resume")

    def _last_line(self) -> str:
        lines = [] if self.log is None else self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else "no output"


def our_command(script: str, *words: str) -> list[str]:
    """Command line of a root script (`train_ddpm_cond.py`) or of a module (`tools.evaluate`) in a process of this Python."""
    return [sys.executable, *([str(_ROOT / script)] if script.endswith(".py") else ["-m", script]), *words]


def as_options(overrides: Iterable[str]) -> list[str]:
    """The words of a command line that set these keys."""
    return [word for override in overrides for word in ("--set", override)]


def run_stages(stages: Sequence[Stage], *, jobs: int = 1) -> None:
    """Run every stage, `jobs` at a time, each with an equal part of the cores. A signal to this process reaches all of them,
    which then save and stop; this process waits for them.

    Raises:
        Diverged, Interrupted, UserError: as `Stage.check_exit`; stages that still run are stopped first.
    """
    waiting, active = list(stages), dict[int, tuple[Stage, subprocess.Popen[bytes]]]()
    environment = _environment(jobs)
    with deferred_signals() as stop:  # none may fall between the start of a process and the note of it
        try:
            while (waiting or active) and not stop:
                while waiting and len(active) < jobs:
                    stage = waiting.pop(0)
                    print(f"{stage.title}{'' if stage.log is None else f': see {stage.log}'}", flush=True)
                    process = stage.start(environment)
                    active[process.pid] = stage, process
                time.sleep(_POLL_SECONDS)
                for stage, process in list(active.values()):
                    if (code := process.poll()) is not None:
                        del active[process.pid]
                        stage.check_exit(code)
        finally:
            _stop([process for _, process in active.values()])
    if stop:
        raise Interrupted(stop.signal_number or signal.SIGTERM, "run the same command again to resume")


def _stop(processes: Sequence[subprocess.Popen[Any]]) -> None:
    """Ask the processes to save and stop, and wait; where this process is asked once more, so are they."""
    try:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait()
    except Interrupted:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait()
        raise


def _environment(jobs: int) -> dict[str, str]:
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs))} if jobs > 1 else {}
    paths = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, **threads, "PYTHONPATH": paths}
