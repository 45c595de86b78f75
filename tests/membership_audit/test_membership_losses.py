"""Canaries are told by the whole name that planting gives them, so that no image of a user is taken for one."""

from pathlib import Path

import pytest

from dataset.annotations import ImageRecord
from tools.membership_audit.losses import is_canary


@pytest.mark.parametrize(("name", "expected"), [
    ("canary_000012_000.png", True), ("canary_000012_1000.tif", True), ("canary_bird.png", False),
    ("canary_12_000.png", False), ("image_000012.png", False),
])
def test_only_planted_names_are_canaries(name: str, expected: bool) -> None:
    assert is_canary(ImageRecord(name, Path("images") / name, 0, "g", "train")) == expected
