"""Who is blamed for a wait, and when: from what processes tell, without clock, store or processes."""

import signal
from typing import Any

import pytest

from tools.runtime.watch import Judge, Peer

LIMIT = 1800.0


def tell(**changes: Any) -> dict[str, Any]:
    """What a process tells that trains and waits inside torch."""
    return {"rank": 0, "beat": 1, "ticks": 12, "ended": False, "title": "training", "done": 12, "unit": "steps",
            "waiting": True, "host": "node", "pid": 7, **changes}


def judge_after(seconds: float, *, beats: bool = True, ticks: bool = False, number: int | None = None,
                store: bool = True, **peer: Any) -> tuple[str, int | None]:
    """The last word of a process that has waited so long for a peer that tells `peer`, asked every second."""
    judge, word = Judge({1: Peer(tell(**peer))}, limit_seconds=LIMIT), ("", None)
    if number is not None:
        judge.note_signal(number)
    for second in range(int(seconds)):
        judge.pass_time(1.0, moved=False)
        if store:
            judge.store_silent = 0.0
            judge.peers[1].hear(tell(**{**peer, "beat": second if beats else 1, "ticks": second if ticks else 12}))
        said = judge.decide(tell())
        word = said if said[0] else word
        if said[1] is not None:
            break
    return word


def test_a_stopped_process_is_named_with_the_step_it_did_not_reach() -> None:
    message, code = judge_after(LIMIT, beats=False)
    assert code == 2 and message.startswith("error: rank 1 (pid 7 on node) did not reach step 13 of training within 30 "
                                            "minutes: its process gives no sign of life")
    message, code = judge_after(LIMIT - 1, beats=False)
    assert code is None and message.startswith("rank 0 waits for rank 1 (pid 7 on node) at step 13 of training since")


def test_a_process_that_lives_and_hangs_in_its_own_work_is_named() -> None:
    message, code = judge_after(LIMIT, waiting=False)
    assert code == 2 and "rank 1" in message and "its process is alive but makes no progress" in message
    message, code = judge_after(LIMIT, done=11)  # GPUs: the host is ahead of the device
    assert code == 2 and "rank 1" in message


@pytest.mark.parametrize("peer", [{"ticks": True, "waiting": False}, {"ended": True}, {"waiting": True}])
def test_work_an_end_and_a_common_wait_are_not_blamed(peer: dict[str, Any]) -> None:
    assert judge_after(4 * LIMIT, **peer) == ("", None)


def test_a_silent_store_is_its_holder_stopped() -> None:
    message, code = judge_after(LIMIT, store=False, ended=True)
    assert code == 2 and "rank 0 did not reach step 13" in message and "the common store, which it holds" in message


def test_a_signal_ends_the_wait_for_a_stopped_process_and_no_other() -> None:
    message, code = judge_after(11, beats=False, number=signal.SIGTERM)
    assert code == 143 and message.startswith("SIGTERM: stopped while waiting for rank 1, which gives no sign of life")
    assert judge_after(60, waiting=False, number=signal.SIGTERM)[1] is None  # it may be writing the checkpoint


def test_time_in_which_this_process_moved_is_no_wait() -> None:
    judge = Judge({1: Peer(tell())}, limit_seconds=LIMIT)
    for _ in range(int(2 * LIMIT)):
        judge.pass_time(1.0, moved=True)
        judge.store_silent = 0.0
        assert judge.decide(tell()) == ("", None)
