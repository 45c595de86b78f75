"""How every command begins and ends: its first line, exit codes and one-line errors."""

import argparse
import ctypes
import errno
import importlib.metadata
import os
import signal
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from config.errors import UserError
from dataset.storage import UNREADABLE, describe_disk_error, describe_read_error
from tools.runtime.faults import explain_fault

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_KEEP_UP_TO_BYTES = 1 << 30

EXIT_DONE = 0
EXIT_USER_ERROR = 2
EXIT_DIVERGED = 3
EXIT_SIGNAL_BASE = 128  # a shell reports a process ended by signal n as 128 + n

# Ctrl-C, a scheduler's stop, a closed connection, a scheduler's warning; Windows has the first two only.
STOP_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name))


class Diverged(UserError):
    """The training's numbers are no longer finite; the same command would fail again."""


class Interrupted(BaseException):
    """A signal asked the process to stop, and it stopped at a safe place; `hint` says how to resume.

    Not an Exception, like KeyboardInterrupt: code that catches any Exception of an import or a file must not catch this.
    """

    def __init__(self, signal_number: int, hint: str = "") -> None:
        super().__init__(hint)
        self.signal_number = signal_number


class _FirstLine:
    """Whether the command's first line is wanted and has not been printed."""

    wanted = False


def announce(place: str) -> None:
    """Print once, on the first process of a command, where it computes and with which versions."""
    if _FirstLine.wanted and os.environ.get("RANK", "0") == "0":
        print(", ".join([f"BlastDiffusion {project_version()}", f"torch {importlib.metadata.version('torch')}",
                         *filter(None, [place])]), file=sys.stderr, flush=True)
    _FirstLine.wanted = False


def project_version() -> str:
    """This project's version, as pyproject.toml has it."""
    path = Path(__file__).parents[2] / "pyproject.toml"
    return str(tomllib.loads(path.read_text(encoding="utf-8"))["project"]["version"])


def add_config(parser: argparse.ArgumentParser, meaning: str = "YAML config") -> None:
    """The options `--config` and `--set`, as `load_config(arguments.config, arguments.set)` takes them."""
    parser.add_argument("--config", required=True, help=meaning)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a config key")


def run_command(main: Callable[[], None], *, keep_freed_memory: bool = True, on_device: bool = True) -> NoReturn:
    """Run `main`, then exit: 0 done, 2 a mistake of the user or the machine in one line, 3 the training diverged, 128 + n
    stopped by signal n; a bug keeps its traceback.

    The first line of a command names its device; without one (`on_device` False) it names only the versions.
    """
    previous = {number: signal.signal(number, _raise_interrupted) for number in _heard_signals() if number != signal.SIGINT}
    _FirstLine.wanted = True
    if not on_device and not {"-h", "--help"} & set(sys.argv[1:]):
        announce("")
    if keep_freed_memory:
        keep_freed_buffers()
    try:
        main()
    except UserError as error:
        message = " ".join(str(error).splitlines())
        print(f"error: {message}", file=sys.stderr)
        sys.exit(EXIT_DIVERGED if isinstance(error, Diverged) else EXIT_USER_ERROR)
    except OSError as error:
        # Libraries read and write files without dataset.storage; these errors are never bugs.
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            line = describe_disk_error(error, Path(error.filename or "a file"))
        elif error.errno in UNREADABLE and isinstance(error.filename, str):
            line = describe_read_error(error, Path(error.filename))
        else:
            raise
        print(f"error: {line}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(EXIT_SIGNAL_BASE + signal.SIGINT)
    except Interrupted as stop:
        print(str(stop) or "stopped by a signal", file=sys.stderr)
        sys.exit(EXIT_SIGNAL_BASE + stop.signal_number)
    except Exception as error:
        line = explain_fault(error)
        if line is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    finally:
        _FirstLine.wanted = False
        for number, handler in previous.items():
            signal.signal(number, handler)
    sys.exit(EXIT_DONE)


class StopRequest:
    """Whether a signal has asked for a stop; the training loop reads it between steps."""

    def __init__(self) -> None:
        self.signal_number: int | None = None

    def __bool__(self) -> bool:
        return self.signal_number is not None


@contextmanager
def deferred_signals() -> Iterator[StopRequest]:
    """Within the block STOP_SIGNALS only set the yielded request; a second signal acts at once.

    Under a launcher of several processes a second signal is ignored: Ctrl-C and schedulers signal the launcher too, which
    passes the signal on, and ends what is left after 30 s.
    """
    request, launched = StopRequest(), "TORCHELASTIC_RUN_ID" in os.environ

    def note(number: int, frame: FrameType | None) -> None:
        if request and launched:
            return
        if request:
            _raise_interrupted(number, frame)
        request.signal_number = number
        print(f"\n{signal.Signals(number).name} received: stopping after this step"
              + (" (again to stop at once)" * (not launched)), file=sys.stderr)

    previous = {number: signal.signal(number, note) for number in _heard_signals()}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _heard_signals() -> list[signal.Signals]:
    """STOP_SIGNALS without those that this process was started to ignore, as nohup does with SIGHUP."""
    return [number for number in STOP_SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]


def keep_freed_buffers() -> None:
    """Let glibc keep large freed buffers instead of returning each to the system and requesting it again.

    Training on a CPU frees and allocates the same buffers every step. On two cores this speeds up the training step of
    a small autoencoder by a quarter (54 to 69 images/s). Without glibc it does nothing.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    for parameter in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
        mallopt(parameter, _KEEP_UP_TO_BYTES)


def _raise_interrupted(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001 - the signature of a handler
    raise Interrupted(number)
