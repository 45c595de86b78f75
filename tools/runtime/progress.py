"""Progress bars on a terminal; elsewhere a line now and then."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tqdm import tqdm

from dataset.storage import write_json
from tools.runtime.command import Diverged

_SECONDS_TO_FIRST_LINE, _SECONDS_BETWEEN_LINES = 2.0, 10.0  # in a log file or a pipe


class Pace:
    """The speed of a training loop in images per second; written to `path`, if given, when the loop is done or has
    diverged."""

    def __init__(self, images_per_step: int, path: Path | None) -> None:
        self._images_per_step, self._path, self._times = images_per_step, path, [time.monotonic()]

    def __enter__(self) -> "Pace":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        over = kind is None or issubclass(kind, Diverged)
        if self._path is not None and over and len(self._times) > 1:
            write_json(self._path, self._describe())

    def add_step(self) -> float:
        """Note that a step has ended; the rate since the start."""
        self._times.append(time.monotonic())
        return self.rate

    @property
    def rate(self) -> float:
        """Images a second since the start."""
        return self._rate(0)

    @property
    def minutes(self) -> float:
        """Since the start."""
        return (time.monotonic() - self._times[0]) / 60

    def _describe(self) -> dict[str, float]:
        """The rate, the rate of the later half of the steps (after compilation and warm-up), and the number of steps."""
        steps = len(self._times) - 1
        return {"images_per_second": self.rate, "settled_images_per_second": self._rate(steps // 2), "steps": steps}

    def _rate(self, first: int) -> float:
        steps = len(self._times) - 1 - first
        return steps * self._images_per_step / max(self._times[-1] - self._times[first], 1e-9)


@dataclass
class Place:
    """The progress of this process: the count of the last lasting bar, and how often any bar has moved."""

    title: str | None = None
    done: int = 0
    unit: str = ""
    ticks: int = 0


_PLACE = Place()


def latest() -> Place:
    """The progress of this process, for processes that wait for it."""
    return _PLACE


class Progress:
    """A bar from 0 to `total`; in a pipe a line after two seconds, then one every ten. Use as a context manager.

    A `passing` bar is shown below another one and disappears when it is done.
    """

    def __init__(self, title: str, total: int, *, unit: str = "images", initial: int = 0, enabled: bool = True,
                 passing: bool = False) -> None:
        self._title, self._total, self._unit = title, total, unit
        self._done = initial
        self._terminal = sys.stderr.isatty()
        self._enabled, self._passing = enabled, passing
        self._last_line = time.monotonic() - (_SECONDS_BETWEEN_LINES - _SECONDS_TO_FIRST_LINE)
        self._bar = (
            tqdm(total=total, initial=initial, desc=title, unit=f" {unit}", dynamic_ncols=True, smoothing=0.1,
                 leave=not passing)
            if enabled and self._terminal else None
        )

    def update(self, done: int, note: str = "") -> None:
        """Say that `done` of the total are done, with a short note such as the loss."""
        _PLACE.ticks += 1
        if not self._passing:
            _PLACE.title, _PLACE.done, _PLACE.unit = self._title, done, self._unit
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(done - self._done)
        elif self._enabled and time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            print(f"{self._title}: {done}/{self._total} {self._unit} {note}".rstrip(), file=sys.stderr, flush=True)
        self._done = done

    def say(self, text: str) -> None:
        """Print a lasting line, above the bar or in the log; nothing if progress is not shown."""
        if self._enabled and self._terminal:
            tqdm.write(text, file=sys.stderr)
        elif self._enabled:
            self._last_line = time.monotonic()
            print(text, file=sys.stderr, flush=True)

    def report(self, done: int, total: int) -> None:
        """`update` in the form that libraries call."""
        assert total == self._total
        self.update(done)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
