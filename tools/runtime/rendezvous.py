"""How processes that were started together find each other: they say whom they wait for, and give up at a limit.

torch waits inside its library, where no signal is handled and nothing is printed. Here Python does the waiting; the
resulting store is torch's.
"""

import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import parse_qs, urlparse

import torch

from config.errors import UserError

_SCHEME = "blastdiffusion"
_SECONDS_TO_FIRST_WORD, _SECONDS_BETWEEN_WORDS = 5.0, 30.0
_POLL_SECONDS = 0.2
_CONNECT_SECONDS = 1.0
_STORE_SECONDS = timedelta(seconds=30)


@dataclass(frozen=True)
class MeetingPoint:
    """The address where `size` processes meet; this one has number `rank`."""

    address: str
    port: int
    rank: int
    size: int

    def open_store(self, *, host: bool) -> torch.distributed.TCPStore:
        """A connection to the store there, without waiting; `host` opens the store itself."""
        return torch.distributed.TCPStore(
            self.address, self.port, self.size, is_master=host, timeout=_STORE_SECONDS, wait_for_workers=False,
            multi_tenant=True, use_libuv=os.environ.get("USE_LIBUV", "1") == "1" and sys.platform != "win32")


def read_meeting_point(rank: int | None = None, size: int | None = None) -> MeetingPoint:
    """The rendezvous that the launcher gives in the environment.

    Raises:
        UserError: a variable is missing or not a number.
    """
    def number(name: str, default: str | None = None) -> int:
        text = os.environ.get(name) or default
        if text is None or not text.isdigit():
            raise UserError(f"{name}: expected a number from the launcher, found {text!r}; start with accelerate launch or "
                            "torchrun, or set RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT")
        return int(text)

    return MeetingPoint(os.environ.get("MASTER_ADDR") or "127.0.0.1", number("MASTER_PORT", "29500"),
                        number("RANK") if rank is None else rank, number("WORLD_SIZE") if size is None else size)


_AFTER_MEETING: list[Callable[[MeetingPoint], None]] = []


def init_method(minutes: float, *, then: Callable[[MeetingPoint], None]) -> str:
    """What to give `init_process_group` so that processes meet here, within so many minutes; `then` is called once they
    have, before torch connects them."""
    _AFTER_MEETING[:] = [then]
    if _SCHEME not in torch.distributed.rendezvous.__globals__["_rendezvous_handlers"]:
        torch.distributed.register_rendezvous_handler(_SCHEME, _handle)
    return f"{_SCHEME}://?minutes={minutes!r}"


def _handle(url: str, **_: object) -> Iterator[tuple[torch.distributed.Store, int, int]]:
    query = {name: values[0] for name, values in parse_qs(urlparse(url).query).items()}
    here = read_meeting_point(*(int(query[name]) if name in query else None for name in ("rank", "world_size")))
    store = meet(here, minutes=float(query["minutes"]))
    for act in _AFTER_MEETING:
        act(here)
    yield store, here.rank, here.size
    raise RuntimeError("processes meet once")


def meet(here: MeetingPoint, *, minutes: float) -> torch.distributed.Store:
    """The common store, once all processes are there.

    Raises:
        UserError: a process did not arrive within the limit, or the port is taken.
    """
    words = _Words(here, minutes)
    by_launcher = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if here.rank == 0 and not by_launcher:
        try:
            store = here.open_store(host=True)
        except RuntimeError as error:
            raise UserError(f"MASTER_PORT: rank 0 cannot listen on {here.address}:{here.port} ({_first_line(error)}); "
                            "choose a free port of this machine") from error
    else:
        store = _connect(here, words, "the launcher" if by_launcher else "rank 0")
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    keys = [f"{_SCHEME}/arrived/{attempt}/{rank}" for rank in range(here.size)]
    store.set(keys[here.rank], "here")
    while missing := [rank for rank, key in enumerate(keys) if not store.check([key])]:
        names = f"rank{'s' * (len(missing) > 1)} {', '.join(map(str, missing))}"
        words.wait(f"{names} ({here.size - len(missing)} of {here.size} processes are there)")
    return store


def _connect(here: MeetingPoint, words: "_Words", host: str) -> torch.distributed.TCPStore:
    while True:
        try:
            socket.create_connection((here.address, here.port), timeout=_CONNECT_SECONDS).close()
            return here.open_store(host=False)
        except (OSError, RuntimeError) as error:  # torch's own are RuntimeErrors
            words.wait(f"{host} ({_first_line(error)})")


class _Words:
    """Prints now and then whom this process waits for, and ends the wait at the limit."""

    def __init__(self, here: MeetingPoint, minutes: float) -> None:
        self._here, self._minutes = here, minutes
        self._started = time.monotonic()
        self._next_word = _SECONDS_TO_FIRST_WORD

    def wait(self, whom: str) -> None:
        """A short while.

        Raises:
            UserError: the limit is reached.
        """
        here, waited = self._here, time.monotonic() - self._started
        if waited > 60 * self._minutes:
            raise UserError(f"rank {here.rank} of {here.size} waited {self._minutes:g} min at {here.address}:{here.port} "
                            f"for {whom}: start all processes with the same MASTER_ADDR and MASTER_PORT, check that no "
                            "firewall is between them, or raise launch_params.rendezvous_minutes")
        if waited > self._next_word:
            self._next_word += _SECONDS_BETWEEN_WORDS
            print(f"rank {here.rank} of {here.size} waits at {here.address}:{here.port} for {whom}, since {waited:.0f} s, "
                  f"at most {self._minutes:g} min", file=sys.stderr, flush=True)
        time.sleep(_POLL_SECONDS)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
