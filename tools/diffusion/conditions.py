"""Conditions besides the class, as training and sampling use them: the network's inputs and the prior of their levels.

The columns of a conditions tensor are those of `dataset_params.params.conditions` in their order, then, under
`symmetry_conditioning`, the index of the view. The view has no null: a network that does not know the view would generate
turned images, so guidance keeps the identity in both halves.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from config.errors import UserError, name_some
from config.schema import DatasetParams, TableParams
from dataset.order import generator
from models.unet import ConditionShape


def condition_levels(table: TableParams) -> dict[str, tuple[str, ...]]:
    """The levels of each further condition by the name of its column; the view is not included."""
    return {name: condition.levels for name, condition in table.conditions.items()}


def condition_shapes(data: DatasetParams) -> tuple[ConditionShape, ...]:
    """The conditions that the network has tables for, the view last."""
    shapes = [ConditionShape(len(condition.levels), ordinal=condition.kind == "ordinal")
              for condition in data.params.conditions.values()]
    if data.symmetry_conditioning:
        shapes.append(ConditionShape(len(data.symmetries), has_null=False))
    return tuple(shapes)


def null_levels(table: TableParams) -> tuple[int, ...]:
    """The null of each further condition: the row after its levels."""
    return tuple(len(levels) for levels in condition_levels(table).values())


def join_view(levels: torch.Tensor, views: torch.Tensor, *, sees_view: bool) -> torch.Tensor | None:
    """int64 (B, K) levels and, if the network sees it, the (B,) view as its conditions; None if it takes none."""
    joined = torch.cat([levels, views[:, None]], dim=1) if sees_view else levels
    return joined if joined.shape[1] else None


@dataclass(frozen=True)
class ConditionPrior:
    """How often each combination of levels occurs with each class in the training images.

    `counts[c]` lists (levels, number of images) of class c in the order of the levels. It counts the data, not the
    training stream, which `balanced_sampling` may shift.
    """

    counts: tuple[tuple[tuple[tuple[int, ...], int], ...], ...]

    @classmethod
    def measure(cls, labels: np.ndarray, conditions: np.ndarray, *, num_classes: int) -> "ConditionPrior":
        """From int64 (N,) labels and (N, K) levels."""
        found = [Counter(map(tuple, conditions[labels == label].tolist())) for label in range(num_classes)]
        return cls(tuple(tuple(sorted(counter.items())) for counter in found))

    @classmethod
    def from_values(cls, values: Sequence[Sequence[tuple[Sequence[int], int]]]) -> "ConditionPrior":
        """From what `to_values` gave, as JSON keeps it."""
        return cls(tuple(tuple((tuple(levels), count) for levels, count in rows) for rows in values))

    def to_values(self) -> list[list[list[object]]]:
        """Plain nested lists for a checkpoint."""
        return [[[list(levels), count] for levels, count in rows] for rows in self.counts]

    def draw(self, label: int, index: int, *, seed: int, fixed: Mapping[int, int]) -> tuple[int, ...]:
        """Levels of image `index` of class `label`, at the prior given the class, a function of (seed, class, index).

        `fixed` sets levels by column after the draw, so that the others do not change: one condition varies alone.
        """
        rows = self.counts[label]
        ends = np.cumsum([count for _, count in rows])
        place = generator(seed, "sample conditions", label, index).integers(ends[-1])
        drawn = rows[int(np.searchsorted(ends, place, side="right"))][0]
        return tuple(fixed.get(column, level) for column, level in enumerate(drawn))

    def known_levels(self, column: int) -> set[int]:
        """The levels of a condition that occur in the training images."""
        return {levels[column] for rows in self.counts for levels, _ in rows}


def read_fixed_levels(table: TableParams, wanted: Mapping[str, str], prior: ConditionPrior) -> dict[int, int]:
    """`sample_params.conditions`, the `wanted` levels by name, as level by column.

    Raises:
        UserError: no training image has the level, so the network never saw it.
    """
    fixed = {}
    for column, (name, levels) in enumerate(condition_levels(table).items()):
        if name in wanted:
            level = levels.index(wanted[name])
            known = prior.known_levels(column)
            if level not in known:
                raise UserError(f"sample_params.conditions.{name}: no training image has the level {levels[level]!r}; "
                                f"choose one of {name_some([levels[k] for k in sorted(known)])}")
            fixed[column] = level
    return fixed
