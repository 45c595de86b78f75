"""Which pairs of images the pairwise readings (cross, diversity) look at: seeded, capped, within a class. Owns no
distance."""

from collections.abc import Sequence

import numpy as np

from config.errors import UserError

MAX_PAIRS = 20_000  # a reading


def cross_pairs(labels_a: np.ndarray, labels_b: np.ndarray, *, limit: int = MAX_PAIRS, seed: int) -> np.ndarray:
    """Pairs (P, 2) int64 of one image of each side with the same label: all of them, or `limit` drawn at random.

    Raises:
        UserError: no label occurs on both sides.
    """
    labels_a, labels_b = np.asarray(labels_a), np.asarray(labels_b)
    pairs = np.argwhere(labels_a[:, None] == labels_b[None, :])
    if not len(pairs):
        raise UserError(
            f"expected a label on both sides, found {sorted(set(labels_a.tolist()))} and "
            f"{sorted(set(labels_b.tolist()))}; compare sets of the same classes"
        )
    return _cap(pairs, limit, seed)


def inner_pairs(
    labels: np.ndarray, groups: Sequence[str] | None = None, *, limit: int = MAX_PAIRS, seed: int
) -> np.ndarray:
    """Pairs (P, 2) int64, first index below second, of two images with one label and, where given, two groups.

    Images of one group (focal planes of an embryo) are near copies: leaving them out keeps the diversity of real
    images from being understated.

    Raises:
        UserError: no such pair exists.
    """
    labels = np.asarray(labels)
    allowed = np.triu(labels[:, None] == labels[None, :], k=1)
    if groups is not None:
        names = np.asarray(groups)
        allowed &= names[:, None] != names[None, :]
    pairs = np.argwhere(allowed)
    if not len(pairs):
        raise UserError(f"expected two images of one class and two groups among {len(labels)}, found none")
    return _cap(pairs, limit, seed)


def _cap(pairs: np.ndarray, limit: int, seed: int) -> np.ndarray:
    if len(pairs) <= limit:
        return pairs.astype(np.int64)
    chosen = np.random.default_rng(seed).choice(len(pairs), size=limit, replace=False)
    return pairs[np.sort(chosen)].astype(np.int64)
