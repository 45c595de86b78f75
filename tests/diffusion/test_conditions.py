"""Conditions beside the class: the network's columns, and the prior that sampling draws from."""

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from config.errors import UserError
from config.schema import Config
from models.unet import ConditionShape
from tools.diffusion.conditions import (
    ConditionPrior,
    condition_levels,
    condition_shapes,
    join_view,
    null_levels,
    read_fixed_levels,
)

CONDITIONS = {"PLANE": ["-15", "0", "15"], "GRADE": {"levels": ["C", "B", "A", "AA"], "kind": "ordinal"}}


@pytest.fixture
def make(make_config: Callable[..., Config]) -> Callable[..., Config]:
    """A config of two conditions; `data` and `sample` set further keys of those sections."""
    def build(*, data: dict[str, Any] | None = None, sample: dict[str, Any] | None = None) -> Config:
        table = {"csv_file": "table.csv", "root_dir": "images", "image_size": 32, "conditions": CONDITIONS}
        return make_config(dataset_params={"params": table, **(data or {})}, sample_params=sample or {})

    return build


def test_columns_are_the_conditions_in_order_then_the_view(make: Callable[..., Config]) -> None:
    config = make(data={"symmetry_conditioning": True, "symmetries": ["identity", "mirror", "rotate_90"]})
    assert condition_levels(config) == {"PLANE": ("-15", "0", "15"), "GRADE": ("C", "B", "A", "AA")}
    assert condition_shapes(config) == (
        ConditionShape(3), ConditionShape(4, ordinal=True), ConditionShape(3, has_null=False))
    assert null_levels(config) == (3, 4)
    assert condition_shapes(make()) == condition_shapes(config)[:2]


def test_the_view_is_a_column_only_where_the_network_sees_it() -> None:
    levels, views = torch.tensor([[0, 2], [1, 1]]), torch.tensor([5, 0])
    assert join_view(levels, views, sees_view=True).tolist() == [[0, 2, 5], [1, 1, 0]]
    assert torch.equal(join_view(levels, views, sees_view=False), levels)
    assert join_view(levels[:, :0], views, sees_view=True).tolist() == [[5], [0]]
    assert join_view(levels[:, :0], views, sees_view=False) is None


LABELS = np.array([0] * 6 + [1] * 4)
LEVELS = np.array([[0, 0]] * 3 + [[2, 1]] * 3 + [[1, 3]] * 4)


def test_levels_are_drawn_together_as_the_data_have_them_given_the_class() -> None:
    prior = ConditionPrior.measure(LABELS, LEVELS, num_classes=2)
    assert prior.counts == ((((0, 0), 3), ((2, 1), 3)), (((1, 3), 4),))
    assert ConditionPrior.from_values(json.loads(json.dumps(prior.to_values()))) == prior
    drawn = Counter(prior.draw(0, index, seed=4, fixed={}) for index in range(2000))
    assert set(drawn) == {(0, 0), (2, 1)}  # never (0, 1): no such image, though both levels occur
    assert drawn[0, 0] / 2000 == pytest.approx(0.5, abs=4 * (0.25 / 2000) ** 0.5)
    assert {prior.draw(1, index, seed=4, fixed={}) for index in range(50)} == {(1, 3)}


def test_draws_are_addressed_and_a_fixed_level_leaves_the_others() -> None:
    rng = np.random.default_rng(0)
    prior = ConditionPrior.measure(rng.integers(2, size=300), rng.integers(3, size=(300, 2)), num_classes=2)
    first = [prior.draw(0, index, seed=1, fixed={}) for index in range(60)]
    assert first == [prior.draw(0, index, seed=1, fixed={}) for index in range(60)]
    assert first != [prior.draw(0, index, seed=2, fixed={}) for index in range(60)]
    assert first != [prior.draw(1, index, seed=1, fixed={}) for index in range(60)]
    for level in range(3):
        assert [prior.draw(0, index, seed=1, fixed={0: level}) for index in range(60)] == [(level, b) for _, b in first]


def test_without_further_conditions_there_is_nothing_to_draw() -> None:
    prior = ConditionPrior.measure(LABELS, LEVELS[:, :0], num_classes=2)
    assert [prior.draw(label, 3, seed=0, fixed={}) for label in (0, 1)] == [(), ()]


def test_fixed_levels_are_read_by_name_and_must_have_been_seen(make: Callable[..., Config]) -> None:
    prior = ConditionPrior.measure(LABELS, LEVELS, num_classes=2)
    assert read_fixed_levels(make(sample={"conditions": {"PLANE": -15, "GRADE": "AA"}}), prior) == {0: 0, 1: 3}
    assert read_fixed_levels(make(), prior) == {}
    with pytest.raises(UserError, match=r"conditions\.GRADE: no training image has the level 'A'; choose one of C, B, AA"):
        read_fixed_levels(make(sample={"conditions": {"GRADE": "A"}}), prior)
