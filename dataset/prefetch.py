"""Read items ahead on threads, in order. Decoding and resizing release the interpreter lock, so all cores are used."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")

_MOST_THREADS = 8  # with more, the disk is the limit, not decoding


def read_ahead(read: Callable[[int], Item], positions: Sequence[int], *, ahead: int | None = None) -> Iterator[Item]:
    """`read(position)` for each position in order, up to `ahead` of them in progress (default two per thread).

    `read` is called on several threads at once. Its exception is raised at its place in the order; later reads that have
    not begun are dropped.
    """
    threads = min(_count_cores(), _MOST_THREADS)
    ahead = 2 * threads if ahead is None else ahead
    if threads == 1 or len(positions) < 2:
        yield from map(read, positions)
        return
    pool = ThreadPoolExecutor(max_workers=threads)
    try:
        under_way: deque[Future[Item]] = deque()
        for position in positions:
            under_way.append(pool.submit(read, position))
            if len(under_way) > ahead:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _count_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
