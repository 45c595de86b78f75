"""The part of one rank in work that several processes do together. The caller passes the communication functions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

Item = TypeVar("Item")


def _unchanged(values: np.ndarray) -> np.ndarray:
    return values


@dataclass(frozen=True)
class Ranks:
    """This process is rank `rank` of `count`; all call the same things in the same order.

    `agree` waits for all processes and returns whether every one called it with True. `join` takes an array in which
    each process has filled its own part and left the rest zero. It returns the whole array to every one, bit for bit.
    """

    rank: int = 0
    count: int = 1
    agree: Callable[[bool], bool] = bool
    join: Callable[[np.ndarray], np.ndarray] = _unchanged

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def part(self, items: Sequence[Item]) -> Sequence[Item]:
        """This process's contiguous part of the items, which may be empty."""
        return items[self._bound(self.rank, len(items)):self._bound(self.rank + 1, len(items))]

    def rows(self, total: int, batch_size: int = 1) -> range:
        """The positions of this process's part of `total`: contiguous, and whole batches as one process would make them."""
        batches = self.part(range(0, total, batch_size))
        assert isinstance(batches, range)
        return range(min(batches.start, total), min(batches.stop, total))

    def _bound(self, index: int, total: int) -> int:
        return index * total // self.count


ALONE = Ranks()
