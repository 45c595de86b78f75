"""How a command ends: exit codes and one-line errors, the same for every script. Knows nothing of what they do."""

import ctypes
import errno
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from config.errors import UserError
from dataset.storage import UNREADABLE, describe_disk_error, describe_read_error

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_KEEP_UP_TO_BYTES = 1 << 30

EXIT_DONE = 0
EXIT_USER_ERROR = 2
EXIT_DIVERGED = 3
EXIT_SIGNAL_BASE = 128  # a shell reports a process ended by signal n as 128 + n


class Diverged(UserError):
    """A training whose numbers are no longer finite: the same command would end the same way again."""


class Interrupted(BaseException):
    """The process was asked to stop by a signal and did so at a safe place; `hint` says how to go on.

    As with KeyboardInterrupt, whoever takes any Exception for a failed import or a damaged file must not take this for one.
    """

    def __init__(self, signal_number: int, hint: str = "") -> None:
        super().__init__(hint)
        self.signal_number = signal_number


def run_command(main: Callable[[], None], *, keep_freed_memory: bool = True) -> NoReturn:
    """Run `main`, then exit: 0 done, 2 a user's mistake in one line, 3 one that diverged, 130 or
    143 signalled; a bug keeps its traceback."""
    previous = signal.signal(signal.SIGTERM, _raise_interrupted)
    if keep_freed_memory:
        keep_freed_buffers()
    try:
        main()
    except UserError as error:
        message = " ".join(str(error).splitlines())
        print(f"error: {message}", file=sys.stderr)
        sys.exit(EXIT_DIVERGED if isinstance(error, Diverged) else EXIT_USER_ERROR)
    except OSError as error:
        # Files that libraries read and write do not go through dataset.storage; these are never a bug.
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
    finally:
        signal.signal(signal.SIGTERM, previous)
    sys.exit(EXIT_DONE)


class StopRequest:
    """Whether a signal has asked for a stop; the training loop reads it between steps."""

    def __init__(self) -> None:
        self.signal_number: int | None = None

    def __bool__(self) -> bool:
        return self.signal_number is not None


@contextmanager
def deferred_signals() -> Iterator[StopRequest]:
    """Within the block SIGINT and SIGTERM only set the yielded request; a second one acts at once."""
    request = StopRequest()

    def note(number: int, frame: FrameType | None) -> None:
        if request:
            _raise_interrupted(number, frame)
        request.signal_number = number
        print(f"\n{signal.Signals(number).name} received: stopping after this step (again to stop at once)",
              file=sys.stderr)

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def keep_freed_buffers() -> None:
    """Let glibc keep large freed buffers instead of giving each back to the system and faulting it in anew.

    Training on a CPU frees and asks for the same buffers every step: on two cores this is worth a quarter of the speed of
    a small autoencoder's training step (54 to 69 images/s). Elsewhere than on glibc it does nothing.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    for parameter in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD):
        mallopt(parameter, _KEEP_UP_TO_BYTES)


def _raise_interrupted(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001 - the signature of a handler
    raise Interrupted(number)
