"""The loop of every training: signals, progress, pace, saving, and steps that are not finite.

    with Loop(state, num_steps, title="training", ...) as loop:
        for step in loop.steps():
            ...                         # one optimizer step
            loop.end_step("loss 0.5")
            ...                         # after some steps: a row of the log, a validation

A signal ends the loop after the step, saved. Ten steps in a row that are not finite end it as `Diverged`, exit code 3.
"""

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from types import TracebackType

import torch

from dataset.ranks import ALONE, Ranks
from tools.runtime.command import Diverged, Interrupted, StopRequest, deferred_signals
from tools.runtime.progress import Pace, Progress
from tools.runtime.resume import ResumeState, Saving
from tools.runtime.tracking import NullTracker, Tracker

MOST_SKIPPED = 10  # steps in a row that are not finite, after which a training has diverged
_MINUTES_FROM_SECONDS = 120.0  # from which the time left is shown in minutes


class Loop:
    """The steps of one training from `state.step` to `num_steps`, or to `max_minutes` over all parts.

    The body may set `is_last` and use `pace` and `bar`.

    remedy: what to change after a divergence, in words.
    saving: None keeps nothing on a stop.
    timing: path for the pace at the end.
    ranks: several processes take each step together; only the first saves and shows progress.
    stop_interval: steps between checks whether any process was asked to stop; each check makes GPUs wait.
    """

    def __init__(self, state: ResumeState, num_steps: int, *, title: str, images_per_step: int, remedy: str,
                 saving: Saving | None = None, tracker: Tracker | None = None, timing: Path | None = None,
                 max_minutes: float | None = None, ranks: Ranks = ALONE, stop_interval: int = 1, show: bool = True) -> None:
        self.state, self.num_steps = state, num_steps
        self.is_last = state.step >= num_steps
        self._remedy, self._saving, self._tracker = remedy, saving, tracker or NullTracker()
        self._limit = 60 * (max_minutes or math.inf)
        self._ranks, self._stop_interval = ranks, stop_interval
        self._images_per_step = images_per_step
        self.pace = Pace(images_per_step, timing if ranks.is_first else None)
        self.bar = Progress(title, num_steps, unit="steps", initial=state.step, enabled=show and ranks.is_first)
        self._stop = StopRequest()
        self._began = self._last_saved = time.monotonic()
        self._seconds_before = state.seconds or 0.0
        self._opened = ExitStack()

    def __enter__(self) -> "Loop":
        self._opened.enter_context(closing(self._tracker))
        self._stop = self._opened.enter_context(deferred_signals())
        self._opened.enter_context(self.pace)
        self._opened.enter_context(self.bar)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.__exit__(kind, error, trace)

    @property
    def elapsed(self) -> float:
        """Seconds in all parts."""
        return self._seconds_before + time.monotonic() - self._began

    @property
    def fraction(self) -> float:
        """The fraction of the training that is done, by steps or by time."""
        return max(self.state.step / self.num_steps, self.elapsed / self._limit)

    def steps(self) -> Iterator[int]:
        """The steps' addresses, from 0. After each body the loop saves if it is time to, and stops if asked to.

        Raises:
            Interrupted: a signal asked for a stop; the state is saved if there is a `saving`.
        """
        while not self.is_last:
            step = self.state.step
            yield step
            assert self.state.step == step + 1, "the body ends its step by `end_step`"
            self._save_or_stop()

    def end_step(self, note: str | None) -> None:
        """Count the optimizer's step and show it with a short note; None if it was skipped as not finite.

        Raises:
            Diverged: too many in a row were skipped.
        """
        self.state.step += 1
        self.state.skipped_in_a_row = 0 if note is not None else self.state.skipped_in_a_row + 1
        self.is_last = self.state.step >= self.num_steps or self.elapsed > self._limit
        rate = self.pace.add_step()
        left = min((self.num_steps - self.state.step) * self._images_per_step / rate, self._limit - self.elapsed)
        notes = ["not finite, step skipped" if note is None else note, f"{rate:.0f} images/s", _describe_time(left)]
        self.bar.update(self.state.step, ", ".join(filter(None, notes)))
        self.refuse_divergence(self.state.skipped_in_a_row)

    def refuse_divergence(self, skipped_in_a_row: int) -> None:
        """End a training that has stopped learning.

        Raises:
            Diverged: so many steps in a row were skipped, with the remedy.
        """
        if skipped_in_a_row >= MOST_SKIPPED:
            kept = "" if self._saving is None else "the last checkpoint is intact, but "
            raise Diverged(f"step {self.state.step}: loss or gradient was not finite {MOST_SKIPPED} times in a row; "
                           f"{kept}the same steps would diverge again: {self._remedy}")

    def is_due(self, interval: int) -> bool:
        """Whether work that is due every `interval` steps is due now; it is always due after the last step."""
        return self.state.step % interval == 0 or self.is_last

    def _save_or_stop(self) -> None:
        stopping = self.is_due(self._stop_interval) and self._agree_to_stop()
        if self._saving is not None and self._ranks.is_first and self._is_save_due(self._saving, stopping):
            if self.state.seconds is not None:
                self.state.seconds = self.elapsed
            self._tracker.sync_to_disk()
            self.state.save(self._saving)
            self._last_saved = time.monotonic()
        if stopping and not self.is_last:
            self._ranks.agree(True)  # wait: when one process ends, the launcher ends the others, also the one that saves
            done = "stopped" if self._saving is None else f"saved at step {self.state.step}"
            raise Interrupted(self._stop.signal_number or 15, f"{done}; run the same command to resume")

    def _is_save_due(self, saving: Saving, stopping: bool) -> bool:
        if self.is_last:
            return saving.at_end
        by_steps = saving.every_steps is not None and self.state.step % saving.every_steps == 0
        return stopping or by_steps or time.monotonic() - self._last_saved > saving.every_seconds

    def _agree_to_stop(self) -> bool:
        """Whether any process was asked to stop; all of them then stop after the same step."""
        return bool(self._stop) if self._ranks.count == 1 else not self._ranks.agree(not self._stop)


def descend(optimizer: torch.optim.Optimizer, loss: torch.Tensor, *, clip_norm: float | None = None) -> bool:
    """One step down the gradient of the loss, a scalar; False, and no change, if loss or gradient is not finite."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if clip_norm is None:
        norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    else:
        norm = torch.nn.utils.clip_grad_norm_(parameters, clip_norm)
    finite = bool(torch.isfinite(norm) & torch.isfinite(loss.detach()))
    if finite:
        optimizer.step()
    return finite


def _describe_time(seconds: float) -> str:
    return f"{seconds:.0f} s left" if seconds < _MINUTES_FROM_SECONDS else f"{seconds / 60:.1f} min left"
