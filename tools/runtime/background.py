"""Run calls in order on a second thread: decode and write images while the next ones are generated."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

_MOST_WAITING = 2  # calls that may wait, which bounds their memory


class InOrder:
    """A queue of calls that one thread makes in the order given; leaving the block waits for all of them.

    A call's exception is raised at the next `add`, or on leaving. If the block itself raises, calls that have not begun
    are dropped and the running one is finished, so that nothing is still running afterwards.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._waiting: deque[Future[None]] = deque()

    def __enter__(self) -> "InOrder":
        return self

    def add(self, call: Callable[[], None]) -> None:
        """Queue a call; waits while too many are queued."""
        while self._waiting and (len(self._waiting) > _MOST_WAITING or self._waiting[0].done()):
            self._waiting.popleft().result()
        self._waiting.append(self._thread.submit(call))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            while kind is None and self._waiting:
                self._waiting.popleft().result()
        finally:
            self._thread.shutdown(wait=True, cancel_futures=True)
