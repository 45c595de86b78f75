"""Replacing near-copies: which images remain, in which order, and when it gives up."""

from collections.abc import Sequence

import pytest

from config.errors import UserError
from tools.diffusion.generation import ImageRequest, list_requests
from tools.evaluation.rejection import most_replacements, replace_copies


def run(counts: list[int], bad: set[tuple[int, int]]) -> tuple[list[list[int]], list[tuple[int, int]], list[list[int]]]:
    """Accepted indices by class, rejected (label, index), and the indices drawn in each round."""
    rounds: list[list[int]] = []

    def draw(wanted: Sequence[ImageRequest]) -> None:
        rounds.append([request.index for request in wanted])

    accepted, rejected = replace_copies(list_requests(counts), complete=list, draw=draw,
                                        flag=lambda wanted: [(r.label, r.index) in bad for r in wanted])
    return ([[r.index for r in accepted if r.label == label] for label in range(len(counts))],
            [(r.label, r.index) for r in rejected], rounds)


def test_the_next_images_of_the_class_stand_in() -> None:
    accepted, rejected, rounds = run([4, 3], {(0, 1), (0, 3), (0, 4), (1, 7)})
    assert accepted == [[0, 2, 5, 6], [0, 1, 2]]
    assert rejected == [(0, 1), (0, 3), (0, 4)]
    assert rounds == [[0, 1, 2, 3, 0, 1, 2], [4, 5], [6]]


def test_without_copies_nothing_changes() -> None:
    assert run([3, 2], set()) == ([[0, 1, 2], [0, 1]], [], [[0, 1, 2, 0, 1]])


def test_a_model_that_only_copies_is_refused() -> None:
    most = most_replacements(5)
    allowed = {(1, index) for index in range(most)}
    accepted, rejected, _ = run([2, 5], allowed)
    assert accepted[1] == list(range(most, most + 5)) and len(rejected) == most
    with pytest.raises(UserError, match=r"of class 1 are near-copies of training images: the model repeats .*fewer steps"):
        run([2, 5], {(1, index) for index in range(100)})
