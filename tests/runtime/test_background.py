"""The thread behind the caller: calls in order, errors that come out, a bounded queue, nothing left behind."""

import threading
import time

import pytest

from tools.runtime.background import InOrder


def test_calls_are_made_in_order_and_all_of_them() -> None:
    done: list[int] = []
    with InOrder() as behind:
        for number in range(20):
            behind.add(lambda number=number: (time.sleep(0.002 if number % 4 == 0 else 0), done.append(number)))
    assert done == list(range(20))


def test_the_caller_goes_on_meanwhile() -> None:
    may_finish = threading.Event()
    with InOrder() as behind:
        behind.add(lambda: may_finish.wait(20))
        may_finish.set()  # reached while the call is under way, or the block would wait 20 s
    assert may_finish.is_set()


def test_the_queue_is_bounded() -> None:
    may_go, begun = threading.Event(), []
    added: list[int] = []

    def fill() -> None:
        with InOrder() as behind:
            for number in range(10):
                behind.add(lambda number=number: (begun.append(number), may_go.wait(20)))
                added.append(number)

    filler = threading.Thread(target=fill)
    filler.start()
    time.sleep(0.3)
    assert len(added) <= 4 and begun == [0]
    may_go.set()
    filler.join(20)
    assert begun == list(range(10))


@pytest.mark.parametrize("more", [0, 30])
def test_an_error_comes_out(more: int) -> None:
    def fail() -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), InOrder() as behind:
        behind.add(fail)
        for _ in range(more):  # at the latest when the queue is full
            behind.add(lambda: None)


def test_what_has_not_begun_is_dropped_when_the_block_raises() -> None:
    may_go, done = threading.Event(), []
    with pytest.raises(KeyboardInterrupt), InOrder() as behind:
        behind.add(lambda: (may_go.wait(20), done.append("under way")))
        time.sleep(0.1)
        behind.add(lambda: done.append("waiting"))
        threading.Timer(0.2, may_go.set).start()
        raise KeyboardInterrupt
    assert done == ["under way"]
