"""Work that is divided is done once, in whole batches, whatever the number of processes."""

import numpy as np
import pytest

from dataset.ranks import ALONE, Ranks


@pytest.mark.parametrize("count", [1, 2, 3, 7, 40])
@pytest.mark.parametrize("total", [0, 1, 23, 64])
@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_parts_are_disjoint_whole_and_alike(count: int, total: int, batch_size: int) -> None:
    group = [Ranks(rank, count) for rank in range(count)]
    items = [f"item{i}" for i in range(total)]
    assert [item for ranks in group for item in ranks.part(items)] == items
    assert np.ptp([len(ranks.part(items)) for ranks in group]) <= 1
    rows = [ranks.rows(total, batch_size) for ranks in group]
    assert [row for part in rows for row in part] == list(range(total))
    assert all(part.start % batch_size == 0 or not part for part in rows)


def test_a_process_alone_has_all_of_it() -> None:
    values = np.array([0.0, -0.0, np.nan], dtype=np.float32)
    assert ALONE.is_first and ALONE.rows(5, 2) == range(5)
    assert ALONE.join(values) is values and ALONE.agree(True) is True and ALONE.agree(False) is False
