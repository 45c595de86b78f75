"""Assign whole groups to splits, stratified by class: a pure function of a seed and the groups' names."""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Hashable, Mapping
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)

SPLITS = ("train", "val", "test")
SPLIT_ALIASES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def draw_splits(
    group_labels: Mapping[str, Collection[int]], *, fractions: Mapping[str, float], seed: int, purpose: str
) -> dict[str, str]:
    """Assign whole groups to splits so that each class is divided by `fractions`, counted in groups.

    Groups are sorted by a hash of (seed, purpose, name), and rarer classes are assigned first. Each class gives
    one group to every split that has none of it yet. It then fills the splits from the last to the first, each with
    consecutive groups, so that adding a few groups moves few others. A class with fewer groups than splits, or whose
    groups are all taken by other classes, can be absent from a split: the caller checks.

    Args:
        group_labels: the classes that occur in each group.
        fractions: fraction of each split, positive, adding up to 1.
    """
    order = sorted(group_labels, key=lambda group: (_address(seed, purpose, group), group))
    members: defaultdict[int, list[str]] = defaultdict(list)
    for group in order:
        for label in set(group_labels[group]):
            members[label].append(group)
    splits = list(fractions)[::-1]
    dealt: dict[str, str] = {}
    for label in sorted(members, key=lambda label: (len(members[label]), label)):
        left = _share_out(len(members[label]), {split: fractions[split] for split in splits})
        absent = set(splits)
        for group in members[label]:
            if group in dealt:
                left[dealt[group]] -= 1
                absent.discard(dealt[group])
        for group in members[label]:
            if group not in dealt:
                waiting = [split for split in splits if split in absent] or [s for s in splits if left[s] > 0]
                split = waiting[0]
                dealt[group] = split
                left[split] -= 1
                absent.discard(split)
    return dealt


def _address(seed: int, purpose: str, group: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{purpose}\0{group}".encode("utf-8", "surrogatepass")).digest()


def apportion(exact: Mapping[Key, float], total: int) -> dict[Key, int]:
    """The whole numbers nearest to `exact` with its sum, `total` (largest remainders; ties to the first)."""
    counts = {key: int(value + 1e-9) for key, value in exact.items()}  # 10 * 0.7 = 6.999... counts as 7
    by_remainder = sorted(exact, key=lambda key: counts[key] - exact[key])
    for key in by_remainder[: total - sum(counts.values())]:
        counts[key] += 1
    return counts


def _share_out(num_groups: int, fractions: Mapping[str, float]) -> dict[str, int]:
    """Whole numbers nearest to the fractions that add up to `num_groups`, none 0 if possible."""
    counts = apportion({split: num_groups * fraction for split, fraction in fractions.items()}, num_groups)
    for split in counts:
        if counts[split] == 0 and num_groups >= len(counts):
            counts[max(counts, key=lambda other: counts[other])] -= 1
            counts[split] = 1
    return counts
