"""Reading ahead: the order and the values of a plain loop, errors at their place, and no more under way than asked."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from config.errors import UserError
from dataset.images import load_image, write_png
from dataset.prefetch import read_ahead


@pytest.fixture(autouse=True)
def _two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dataset.prefetch._count_cores", lambda: 2)


def test_the_order_is_that_of_the_positions() -> None:
    def read(position: int) -> int:
        time.sleep(0.01 if position % 3 == 0 else 0.0)  # later ones finish first
        return position * position

    positions = [7, 3, 0, 9, 9, 1, 6, 2, 12, 5]
    assert list(read_ahead(read, positions)) == [position * position for position in positions]
    assert list(read_ahead(read, [])) == [] and list(read_ahead(read, [4])) == [16]


def test_files_come_as_a_plain_loop_reads_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{i}.png" for i in range(24)]
    for path in paths:
        write_png(path, rng.integers(0, 256, (40, 56, 3), dtype=np.uint8))

    def read(position: int) -> np.ndarray:
        return load_image(paths[position], im_channels=3, size_px=32, fit="pad")

    for ahead, expected in zip(read_ahead(read, range(24)), map(read, range(24)), strict=True):
        assert ahead.tobytes() == expected.tobytes()


def test_two_are_read_at_the_same_time() -> None:
    together = threading.Barrier(2, timeout=20)  # breaks where one is read after the other

    def read(position: int) -> int:
        together.wait()
        return position

    assert list(read_ahead(read, range(4))) == [0, 1, 2, 3]


def test_an_error_is_raised_at_its_place() -> None:
    def read(position: int) -> int:
        if position == 3:
            raise UserError("image 3 is damaged")
        return position

    seen = []
    with pytest.raises(UserError, match="image 3 is damaged"):
        for value in read_ahead(read, range(100)):
            seen.append(value)
    assert seen == [0, 1, 2]


def test_no_more_is_read_than_is_asked_for() -> None:
    read_positions: list[int] = []

    def read(position: int) -> int:
        read_positions.append(position)
        return position

    ahead = read_ahead(read, range(1000), ahead=3)
    assert next(ahead) == 0
    ahead.close()
    assert len(read_positions) <= 4
