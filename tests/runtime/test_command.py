"""How a command ends, and how signals are put off to a safe place."""

import errno
import os
import signal
from collections.abc import Callable, Iterator

import pytest

from config.errors import UserError
from tools.runtime.command import STOP_SIGNALS, Diverged, Interrupted, deferred_signals, run_command


@pytest.fixture(autouse=True)
def _usual_signals() -> Iterator[None]:
    """As in a terminal, also where these tests run under nohup or in the background."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in STOP_SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def end(main: Callable[[], None]) -> object:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ending:
        run_command(main)
    assert signal.getsignal(signal.SIGTERM) is before
    return ending.value.code


def fail(error: BaseException) -> Callable[[], None]:
    def main() -> None:
        raise error
    return main


def test_exit_codes_and_their_line(capsys: pytest.CaptureFixture[str]) -> None:
    for main, code, message in (
        (lambda: None, 0, ""),
        (fail(UserError("expected a, found b\nin c")), 2, "error: expected a, found b in c\n"),
        (fail(Diverged("step 3: the loss is not finite")), 3, "error: step 3: the loss is not finite\n"),
        (fail(KeyboardInterrupt()), 130, "interrupted\n"),
        (fail(Interrupted(15, "saved; run again")), 143, "saved; run again\n"),
        (fail(Interrupted(2)), 130, "stopped by a signal\n"),
        (fail(OSError(errno.EROFS, "read-only", "/a/b")), 2, "error: /a/b: could not be written (Read-only file system): "
         "nothing can be written there; choose another folder, or mount it for writing\n"),
        (fail(OSError(errno.EACCES, "refused", "/a/b")), 2,
         "error: /a/b: could not be opened or read (Permission denied): ask for access to it, or give another path\n"),
        *((lambda number=number: os.kill(os.getpid(), number), 128 + number, "stopped by a signal\n")
          for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)),
    ):
        assert end(main) == code
        assert capsys.readouterr().err == message


def test_a_signal_is_no_failure_of_what_it_falls_into(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Exception as error:  # as libraries do around an import, or ours around a damaged file
            raise UserError("the file is damaged") from error

    assert end(main) == 143 and capsys.readouterr().err == "stopped by a signal\n"


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run_command(fail(ZeroDivisionError()))
    with pytest.raises(PermissionError):
        run_command(fail(OSError(errno.EACCES, "of no file")))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_the_first_signal_waits_and_the_second_acts_at_once(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    before = [signal.getsignal(n) for n in STOP_SIGNALS]
    with pytest.raises(Interrupted) as stopped, deferred_signals() as stop:
        assert not stop
        os.kill(os.getpid(), number)
        assert stop and stop.signal_number == number
        assert "stopping after this step (again to stop at once)" in capsys.readouterr().err
        os.kill(os.getpid(), signal.SIGTERM)
    assert stopped.value.signal_number == signal.SIGTERM
    assert [signal.getsignal(n) for n in STOP_SIGNALS] == before


def test_a_launcher_that_passes_a_signal_on_does_not_break_the_saving(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with deferred_signals() as stop:
        for _ in range(2):  # from the terminal, and from the launcher
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.signal_number == signal.SIGINT
    assert capsys.readouterr().err == "\nSIGINT received: stopping after this step\n"


def test_a_signal_that_was_ignored_at_the_start_stays_ignored() -> None:
    """As under nohup, which exists so that a closed connection does not end the command."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def main() -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        with deferred_signals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop

    try:
        assert end(main) == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
