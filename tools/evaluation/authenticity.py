"""Authenticity: the share of images that are farther from a training image than its own neighbours. Arrays in, numbers out.

It stands beside the copies test and decides nothing: see docs/evaluation.md for what it can and cannot say.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from config.errors import UserError
from tools.evaluation.checks import as_features, as_groups
from tools.evaluation.metric_keys import Family, MetricKey
from tools.evaluation.neighbours import squared_distances
from tools.evaluation.resampling import FEWEST_GROUPS, bootstrap_interval
from tools.evaluation.rows import OVERALL, Row

_ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class TrainingNeighbours:
    """Training images in V versions, float64 (V, M, D), and the reference distances (V, M): of each image to its nearest
    neighbour in the same version and another group."""

    versions: np.ndarray
    distances: np.ndarray


def measure_training(
    versions: Sequence[np.ndarray], groups: Sequence[str] | None = None, *, views: Sequence[np.ndarray] | None = None
) -> TrainingNeighbours:
    """The reference distances of training images.

    Images of one group (the focal planes of an embryo, the frames of a patient) are so alike that their distance to each
    other would let most copies pass; so neighbours are taken from other groups.

    Args:
        versions: the training images, and for example their round trips through the VAE, each (M, D).
        groups: of each image; None is the paper's reading, in which every image is a group.
        views: views of each version, such as its flips, (views, M, D); the nearest pair of a view and an image counts.
            None: the images as they are.

    Raises:
        UserError: NaN or infinite features, versions of different shapes, or fewer than two groups.
    """
    arrays = [as_features(version, name="training images") for version in versions]
    shapes = sorted({array.shape for array in arrays})
    if len(shapes) != 1:
        raise UserError(f"training images: expected versions of one shape, found {shapes}; encode all with the same encoder")
    names = np.arange(len(arrays[0])) if groups is None else groups
    numbers, count = as_groups(names, len(arrays[0]), minimum=1)
    if count < 2:
        raise UserError("expected training images of at least 2 groups (patients, embryos), found 1; use more training "
                        "images, or fill the group column")
    distances = [_nearest(_as_views(turned), array[None], groups=numbers)[0]
                 for turned, array in zip(arrays if views is None else views, arrays, strict=True)]
    return TrainingNeighbours(np.stack(arrays), np.stack(distances))


def find_authentic(images: np.ndarray, training: TrainingNeighbours) -> np.ndarray:
    """Which images are authentic, bool (N,); `images` are features (N, D), or views of them (views, N, D).

    An image is authentic where it is farther from its nearest training image than that one is from its own nearest
    neighbour. An exact copy never is.

    Raises:
        UserError: NaN or infinite features, no image, or another number of columns than the training images have.

    Source: Alaa et al. 2022, arXiv 2102.08921. The condition is on the synthetic image, as in the paper's text and in
    dgm-eval's `compute_authpct`. The authors' `compute_alpha_precision` starts from each training image and looks up its
    reference distance at the position of the nearest synthetic one; its value changes with the order of the images.
    """
    views = _as_views(images)
    expected = training.versions.shape[2]
    if views.shape[2] != expected:
        raise UserError(f"expected features of one encoder, found {views.shape[2]} and {expected} columns; encode both sets "
                        "with the same encoder")
    distance, version, nearest = _nearest(views, training.versions)
    return distance > training.distances[version, nearest]


def authenticity(
    synthetic: np.ndarray, train: np.ndarray, groups: Sequence[str] | None = None
) -> float:
    """The share of `synthetic` (N, D) that is authentic against `train` (M, D), in [0, 1]; see `find_authentic`."""
    return float(find_authentic(synthetic, measure_training([train], groups)).mean())


def authenticity_rows(
    space: str, synthetic: np.ndarray, held_out: np.ndarray, *, num_train: int, groups: tuple[Sequence[str], Sequence[str]],
    repeats: int, seed: int,
) -> list[Row]:
    """The share among synthetic images and among as many held-out ones; `groups` are those of both, flags bool (N,)."""
    rows = []
    for comparison, flags, names in zip(("authentic", "authentic_real"), (synthetic, held_out), groups, strict=True):
        values = flags.astype(np.float64)
        interval = bootstrap_interval(lambda weights, of=values: weights @ of / weights.sum(axis=1), names, repeats=repeats,
                                      seed=seed) if len(set(names)) >= FEWEST_GROUPS else None
        note = "interval: 95% bootstrap over groups, training images held fixed; " if interval else ""
        rows.append(Row(MetricKey(Family.AUTHENTICITY, space), OVERALL, comparison, float(values.mean()), interval,
                        n_real=num_train, n_synthetic=len(values), note=f"{note}does not decide: near-copies does"))
    return rows


def _as_views(images: np.ndarray) -> np.ndarray:
    """Finite float64 (views, N, D), with one view for an array (N, D)."""
    views = np.asarray(images)[None] if np.asarray(images).ndim == 2 else np.asarray(images)
    return np.stack([as_features(view, name="images to test", minimum=1) for view in views])


def _nearest(
    views: np.ndarray, versions: np.ndarray, *, groups: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distance (N,) of each image to its nearest reference over all views and versions, and that one's version and position.

    `groups` int64 (N,) says that the images are the references themselves: those of an image's own group are left out. The
    distance is taken from differences, so that a copy is at exactly zero.
    """
    centre = versions.mean(axis=(0, 1))
    centred = versions - centre
    count, references = views.shape[1], versions.shape[1]
    distance, version, nearest = np.empty(count), np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64)
    for start in range(0, count, _ROWS_AT_ONCE):
        rows = slice(start, min(start + _ROWS_AT_ONCE, count))
        squared = np.concatenate([np.min([squared_distances(view[rows] - centre, of) for view in views], axis=0)
                                  for of in centred], axis=1)
        if groups is not None:
            squared[np.tile(groups[rows, None] == groups, len(versions))] = np.inf
        version[rows], nearest[rows] = np.divmod(squared.argmin(axis=1), references)
        differences = views[:, rows] - versions[version[rows], nearest[rows]]
        distance[rows] = np.sqrt((differences**2).sum(axis=2)).min(axis=0)
    return distance, version, nearest
