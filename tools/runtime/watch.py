"""Processes that train together watch each other: one that hangs is named, and the others end.

A process that dies breaks its connections. One that is stopped, swapped out or waits for a dead disk keeps them, and the
others would wait inside torch, where Python runs no signal handler. So each process reports to the common store once a
second that it is alive and how far it is. A second thread reads the reports of the others and ends the process at the limit.
"""

import json
import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tools.runtime import progress
from tools.runtime.command import EXIT_SIGNAL_BASE, EXIT_USER_ERROR, STOP_SIGNALS
from tools.runtime.rendezvous import MeetingPoint

_BEAT_SECONDS = 1.0
_LONGEST_TICK = 3.0  # time in which this process itself was stopped does not count as waiting
_SECONDS_TO_FIRST_WORD = 15.0
_SILENT_SECONDS = 10.0  # without a report: the wait message says so; after a signal the wait ends
_WAITING_PLACES = ("torch/distributed/", "torch/autograd/", "torch/nn/parallel/")


@dataclass
class Peer:
    """Another process as this one sees it: its last report, and the seconds since it reported anything new."""

    told: dict[str, Any]
    since_beat: float = 0.0
    since_tick: float = 0.0

    def hear(self, told: dict[str, Any]) -> None:
        """Take its current report."""
        if told["beat"] != self.told["beat"]:
            self.since_beat = 0.0
        if told["ticks"] != self.told["ticks"]:
            self.since_tick = 0.0
        self.told = told


class Judge:
    """Decides from the reports of all processes whether this one waits in vain. It reads neither clock nor store."""

    def __init__(self, peers: dict[int, Peer], *, limit_seconds: float) -> None:
        self.peers, self._limit = peers, limit_seconds
        self.idle = self.store_silent = 0.0  # seconds since this process made progress, and since the store answered
        self._signal: tuple[int, float] | None = None  # and the seconds since
        self._next_word = _SECONDS_TO_FIRST_WORD

    def pass_time(self, seconds: float, *, moved: bool) -> None:
        """Add the seconds that passed; `moved` if this process made progress in them."""
        for peer in self.peers.values():
            peer.since_beat += seconds
            peer.since_tick += seconds
        self.idle = 0.0 if moved else self.idle + seconds
        if moved:
            self._next_word = _SECONDS_TO_FIRST_WORD
        self.store_silent += seconds
        if self._signal is not None:
            self._signal = self._signal[0], self._signal[1] + seconds

    def note_signal(self, number: int) -> None:
        """This process was asked to stop."""
        self._signal = self._signal or (number, 0.0)

    def blame(self, seconds: float, mine: dict[str, Any]) -> dict[int, str]:
        """The processes that have kept this one waiting for at least so long, each with the reason."""
        found = {}
        for rank, peer in self.peers.items():
            if peer.told["ended"]:
                continue
            behind = mine["title"] is not None and (  # reading a large set at the start moves no bar
                (mine["waiting"] and not peer.told["waiting"])
                or (mine["title"] == peer.told["title"] and peer.told["done"] < mine["done"]))
            if peer.since_beat >= seconds:
                found[rank] = "its process gives no sign of life: it is stopped, or its machine is"
            elif behind and peer.since_tick >= seconds:
                found[rank] = "its process is alive but makes no progress: a disk or a device may not answer"
        if not found and self.store_silent >= seconds:
            found[0] = "the common store, which it holds, does not answer: it is stopped, or its machine is"
        return found

    def decide(self, mine: dict[str, Any]) -> tuple[str, int | None]:
        """The line to print, if any, and the exit code if this process has to end."""
        if self._signal is not None and min(self._signal[1], self.idle) >= _SILENT_SECONDS:
            silent = [rank for rank, peer in self.peers.items()
                      if peer.since_beat >= _SILENT_SECONDS and not peer.told["ended"]]
            if silent or self.store_silent >= _SILENT_SECONDS:
                number = self._signal[0]
                return (f"{signal.Signals(number).name}: stopped while waiting for rank {(silent or [0])[0]}, which gives "
                        "no sign of life; the last checkpoint is complete", EXIT_SIGNAL_BASE + number)
        if self.idle >= self._limit and (found := self.blame(self._limit, mine)):
            rank, reason = next(iter(found.items()))
            return (f"error: {self._name(rank)} did not reach {_next_place(mine)} within {self._limit / 60:g} minutes: "
                    f"{reason}. Check that process, end what is left of it and run the same command again, which resumes "
                    "from the last checkpoint; launch_params.collective_minutes is the limit", EXIT_USER_ERROR)
        if self.idle >= self._next_word and (found := self.blame(_SILENT_SECONDS, mine)):
            self._next_word = 2 * self.idle
            rank, reason = next(iter(found.items()))
            return (f"rank {mine['rank']} waits for {self._name(rank)} at {_next_place(mine)} since {self.idle:.0f} s, at "
                    f"most {self._limit / 60:g} min: {reason}", None)
        return "", None

    def _name(self, rank: int) -> str:
        told = self.peers[rank].told if rank in self.peers else {"host": ""}
        return f"rank {rank} (pid {told['pid']} on {told['host']})" if told["host"] else f"rank {rank}"


def _next_place(mine: dict[str, Any]) -> str:
    if mine["title"] is None:
        return "the common start"
    return f"{mine['unit'].removesuffix('s')} {mine['done'] + 1} of {mine['title']}"


class Watch:
    """The two threads of this process: one reports and reads reports, one decides."""

    def __init__(self, here: MeetingPoint, *, minutes: float) -> None:
        self._here, self._main = here, threading.main_thread().ident
        self._lock, self._over = threading.Lock(), threading.Event()
        unknown = {"beat": -1, "ticks": -1, "ended": False, "title": None, "done": 0, "waiting": True, "host": "", "pid": 0}
        self._judge = Judge({rank: Peer(unknown) for rank in range(here.size) if rank != here.rank},
                            limit_seconds=60 * minutes)
        self._teller = threading.Thread(target=self._tell, name="watch: tell", daemon=True)
        self._hears, self._wakes = socket.socketpair()  # the library's handler writes a byte for each signal, at once

    def start(self) -> None:
        """Watch until `end`; called on the main thread."""
        for end in (self._hears, self._wakes):
            end.setblocking(False)
        signal.set_wakeup_fd(self._wakes.fileno(), warn_on_full_buffer=False)
        self._teller.start()
        threading.Thread(target=self._decide, name="watch: decide", daemon=True).start()

    def end(self) -> None:
        """Report that nobody has to wait for this process any more."""
        self._over.set()
        self._teller.join(2 * _BEAT_SECONDS)
        signal.set_wakeup_fd(-1)

    def _tell(self) -> None:
        """Once a second: report this process's progress to the store, and read that of the others."""
        try:
            store, beat = self._here.open_store(host=False), 0
            while True:
                beat, over = beat + 1, self._over.is_set()
                store.set(_key(self._here.rank), json.dumps({**self._describe(), "beat": beat, "ended": over}))
                if over:
                    return
                told = {rank: json.loads(store.get(_key(rank))) for rank in self._judge.peers if store.check([_key(rank)])}
                with self._lock:
                    self._judge.store_silent = 0.0
                    for rank, words in told.items():
                        self._judge.peers[rank].hear(words)
                self._over.wait(_BEAT_SECONDS)
        except RuntimeError:  # the process that holds the store has ended, which breaks all other connections too
            self._over.set()

    def _decide(self) -> None:
        """Once a second: decide whether this process waits in vain; if so, end it."""
        before, ticks = time.monotonic(), -1
        while not self._over.wait(_BEAT_SECONDS):
            now, mine = time.monotonic(), self._describe()
            with self._lock:
                self._judge.pass_time(min(now - before, _LONGEST_TICK), moved=mine["ticks"] != ticks)
                for number in self._signals():
                    self._judge.note_signal(number)
                message, code = self._judge.decide(mine)
            before, ticks = now, mine["ticks"]
            if message:
                print(message, file=sys.stderr, flush=True)
            if code is not None:
                sys.stdout.flush()
                os._exit(code)  # the main thread is inside torch and cannot be reached

    def _signals(self) -> list[int]:
        """The signals since the last call that ask for a stop."""
        with suppress(BlockingIOError):
            return [number for number in self._hears.recv(64) if number in STOP_SIGNALS]
        return []

    def _describe(self) -> dict[str, Any]:
        place, frame = progress.latest(), sys._current_frames().get(self._main or 0)
        waiting = frame is not None and any(name in frame.f_code.co_filename for name in _WAITING_PLACES)
        return {"rank": self._here.rank, "ticks": place.ticks, "title": place.title, "done": place.done, "unit": place.unit,
                "waiting": waiting, "host": socket.gethostname(), "pid": os.getpid()}


def _key(rank: int) -> str:
    return f"blastdiffusion/watch/{rank}"
