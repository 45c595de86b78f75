"""Agreement between readers, or of a reader with a label or with himself, beyond chance."""

import numpy as np

WEIGHTINGS = ("none", "linear", "quadratic")
LEVELS = ("nominal", "ordinal", "interval")
MISSING = -1


def count_pairs(first: np.ndarray, second: np.ndarray, num_categories: int) -> np.ndarray:
    """How often each pair of categories 0..K-1 was given to one item, int64 (K, K); rows are `first`."""
    codes = np.asarray(first, dtype=np.int64) * num_categories + np.asarray(second, dtype=np.int64)
    return np.bincount(codes, minlength=num_categories**2).reshape(num_categories, num_categories)


def kappa_of_counts(counts: np.ndarray, *, weighting: str = "none") -> np.ndarray:
    """Cohen's kappa of tables (..., K, K) of counts or weights, float64 (...); NaN if chance leaves no disagreement.

    `weighting` is how a disagreement grows with the distance of two ordered categories.
    Source: Cohen 1968, Psychological Bulletin 70:213.
    """
    counts = np.asarray(counts, dtype=np.float64)
    distance = _distance(counts.shape[-1], weighting)
    total = counts.sum(axis=(-2, -1))
    by_chance = counts.sum(axis=-1)[..., :, None] * counts.sum(axis=-2)[..., None, :]
    observed = (counts * distance).sum(axis=(-2, -1)) * total
    expected = (by_chance * distance).sum(axis=(-2, -1))
    return 1 - np.divide(observed, expected, out=np.full_like(observed, np.nan), where=expected > 0)


def cohen_kappa(first: np.ndarray, second: np.ndarray, *, num_categories: int, weighting: str = "none") -> float:
    """Cohen's kappa of two ratings (N,) in 0..K-1; NaN if all ratings are one category."""
    return float(kappa_of_counts(count_pairs(first, second, num_categories), weighting=weighting))


def fleiss_kappa(ratings: np.ndarray, *, num_categories: int) -> float:
    """Fleiss' kappa of ratings (readers, items) in 0..K-1 by two readers or more; NaN where all are one category.

    Source: Fleiss 1971, Psychological Bulletin 76:378.
    """
    counts = _count_categories(ratings, num_categories)
    num_items, num_readers = len(counts), len(ratings)
    agreeing = (counts * (counts - 1)).sum() / (num_items * num_readers * (num_readers - 1))
    by_chance = np.square(counts.sum(axis=0) / counts.sum()).sum()
    return float((agreeing - by_chance) / (1 - by_chance)) if by_chance < 1 else float("nan")


def krippendorff_alpha(ratings: np.ndarray, *, num_categories: int, level: str) -> float:
    """Krippendorff's alpha of ratings (readers, items) in 0..K-1, or MISSING; NaN where all are one category.

    Items with fewer than two ratings do not count. `level` says how categories differ: "nominal", "ordinal" or "interval".
    Source: Krippendorff 2011, "Computing Krippendorff's alpha-reliability", section D.
    """
    if level not in LEVELS:
        raise ValueError(f"expected one of {', '.join(LEVELS)}, found {level}")
    counts = _count_categories(ratings, num_categories)
    sizes = counts.sum(axis=1)
    counts, sizes = counts[sizes > 1], sizes[sizes > 1]
    scaled = counts / (sizes - 1)[:, None]
    coincidences = scaled.T @ counts - np.diag(scaled.sum(axis=0))
    totals = coincidences.sum(axis=1)
    if level == "nominal":
        difference = 1 - np.eye(num_categories)
    elif level == "interval":
        difference = _distance(num_categories, "quadratic")
    else:
        below = np.cumsum(totals) - totals / 2  # how many values are below the middle of each category
        difference = np.square(below[:, None] - below[None, :])
    expected = (np.outer(totals, totals) * difference).sum()
    if not expected > 0:
        return float("nan")
    return float(1 - (totals.sum() - 1) * (coincidences * difference).sum() / expected)


def _count_categories(ratings: np.ndarray, num_categories: int) -> np.ndarray:
    """How many readers gave each item each category, float64 (items, K)."""
    ratings = np.asarray(ratings)
    return np.stack([(ratings == category).sum(axis=0) for category in range(num_categories)], axis=1).astype(np.float64)


def _distance(num_categories: int, weighting: str) -> np.ndarray:
    if weighting not in WEIGHTINGS:
        raise ValueError(f"expected one of {', '.join(WEIGHTINGS)}, found {weighting}")
    places = np.arange(num_categories, dtype=np.float64)
    steps = np.abs(places[:, None] - places[None, :])
    return {"none": (steps > 0).astype(np.float64), "linear": steps, "quadratic": np.square(steps)}[weighting]
