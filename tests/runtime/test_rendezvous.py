"""Processes that wait for one another at the start: named, limited, and ended by a signal."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from config.errors import UserError
from tools.runtime import rendezvous
from tools.runtime.rendezvous import MeetingPoint, meet

REPOSITORY = Path(__file__).parents[2]
_MEET = ("import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "  # ignored in a shell's background
         "from tools.runtime.command import run_command; from tools.runtime import rendezvous as r; "
         "run_command(lambda: print(r.meet(r.read_meeting_point(), minutes={minutes}).num_keys()), on_device=False)")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(rank: int, port: int, *, minutes: float = 1.0) -> subprocess.Popen[str]:
    given = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return subprocess.Popen([sys.executable, "-c", _MEET.format(minutes=minutes)], cwd=REPOSITORY, text=True,
                            env={**os.environ, **given}, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.parametrize(("rank", "whom"), [(0, "rank 1 (1 of 2 processes are there)"), (1, "rank 0 (")])
def test_the_wait_is_said_and_limited(
    rank: int, whom: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    monkeypatch.setattr(rendezvous, "_SECONDS_TO_FIRST_WORD", 0.5)
    here = MeetingPoint("127.0.0.1", free_port(), rank, 2)
    with pytest.raises(UserError) as refused:
        meet(here, minutes=0.03)
    assert f"rank {rank} of 2 waited 0.03 min at 127.0.0.1:{here.port} for {whom}" in str(refused.value)
    assert "launch_params.rendezvous_minutes" in str(refused.value)
    said = capsys.readouterr().err
    assert said.startswith(f"rank {rank} of 2 waits at 127.0.0.1:{here.port} for {whom}") and "at most 0.03 min" in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_wait_at_once(number: signal.Signals) -> None:
    process = start(0, free_port())
    try:
        assert process.stderr is not None
        assert process.stderr.readline() != ""  # its first line
        while "waits at" not in process.stderr.readline():
            assert process.poll() is None
        sent = time.monotonic()
        process.send_signal(number)
        assert process.wait(timeout=20) == 128 + number and time.monotonic() - sent < 10
    finally:
        process.kill()
        process.communicate()


def test_two_processes_meet_whichever_comes_first() -> None:
    port = free_port()
    second, first = start(1, port), start(0, port)
    for process in (first, second):
        output, complaints = process.communicate(timeout=100)
        assert process.returncode == 0 and int(output) >= 2, complaints[-1000:]


def test_a_taken_port_is_named() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=rf"MASTER_PORT: rank 0 cannot listen on 127\.0\.0\.1:{port}"):
            meet(MeetingPoint("127.0.0.1", port, 0, 2), minutes=0.01)
