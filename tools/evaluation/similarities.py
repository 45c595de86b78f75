"""Rows of LPIPS and SSIM: pairs of images in four readings, each beside the value of real images. Owns which pairs are
looked at and what a row says; the similarities are ssim.py's and lpips_distance.py's."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from config.errors import UserError
from dataset.order import generator
from tools.evaluation.evaluation_report import EvaluationReport
from tools.evaluation.evaluation_sets import MAX_PAIRWISE_IMAGES, SEED, EvaluationSets, EvaluationSettings
from tools.evaluation.image_set import ImageSet
from tools.evaluation.lpips_distance import PerceptualEmbedding
from tools.evaluation.metric_keys import SSIM, Family, MetricKey
from tools.evaluation.pairs import cross_pairs, inner_pairs
from tools.evaluation.resampling import FEWEST_GROUPS, bootstrap_interval, cap_by_group
from tools.evaluation.rows import Row, name_classes
from tools.evaluation.ssim import pairwise_ssim

Pairwise = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class _Metric:
    """`nearest` picks the most alike of an array's values."""

    key: MetricKey
    comparable: bool
    pairwise: Pairwise
    nearest: np.ufunc


def add_similarities(
    report: EvaluationReport, sets: EvaluationSets, matched: EvaluationSets, perceptual: PerceptualEmbedding | None,
    settings: EvaluationSettings,
) -> None:
    """The readings cross, diversity, nearest and reconstruction, overall and per class, for every metric that is there."""
    metrics = [_Metric(SSIM, True, pairwise_ssim, np.maximum)]
    if perceptual is not None:
        metrics.append(_Metric(MetricKey(Family.PERCEPTUAL, perceptual.name), perceptual.literature_comparable,
                               perceptual.pairwise, np.minimum))
    chosen_real = cap_by_group(matched.real.groups, limit=MAX_PAIRWISE_IMAGES, seed=SEED)
    chosen_synthetic = cap_by_group(matched.synthetic.groups, limit=MAX_PAIRWISE_IMAGES, seed=SEED)
    real, restored = (_held(images, chosen_real) for images in (matched.real, matched.real_round_trip))
    synthetic = _held(matched.synthetic, chosen_synthetic)
    train = _held(sets.train, cap_by_group(sets.train.groups, limit=MAX_PAIRWISE_IMAGES, seed=SEED))
    same = np.stack([np.arange(len(real))] * 2, axis=1)
    readings = [
        ("cross", real, synthetic, cross_pairs(real.labels, synthetic.labels, limit=settings.max_pairs, seed=SEED)),
        ("real_pairs", real, real, _pairs_within(real.labels, real.groups, settings.max_pairs)),
        ("diversity", synthetic, synthetic, _pairs_within(synthetic.labels, None, settings.max_pairs)),
        ("reconstruction", real, restored, same),
    ]
    for metric in metrics:
        for comparison, first, second, pairs in readings:
            if len(pairs) == 0:
                report.warn(f"{metric.key.name}, {comparison}: there are no two images of one class from different groups "
                            "to compare")
                continue
            values = metric.pairwise(first.pixels, second.pixels, pairs)
            for class_name, chosen in _classes(first.labels[pairs[:, 0]], sets.class_names):
                report.rows.append(Row(
                    metric.key, class_name, comparison, float(values[chosen].mean()),
                    _pair_interval(first, second, pairs[chosen], values[chosen], settings, same_images=pairs is same),
                    n_real=len(real), n_synthetic=len(synthetic), literature_comparable=metric.comparable,
                    note=f"{int(chosen.sum())} pairs"))
        for comparison, images in (("nearest", synthetic), ("real_nearest", real)):
            _add_nearest(report, metric, comparison, images, train, sets.class_names, settings)


def _add_nearest(
    report: EvaluationReport, metric: _Metric, comparison: str, images: ImageSet, train: ImageSet,
    class_names: Sequence[str], settings: EvaluationSettings,
) -> None:
    """Similarity of some images to the most alike training image of their class; as many images as the pairs allow."""
    pairs = _pairs_with_all(images.labels, train.labels, settings.max_pairs)
    if not len(pairs):
        return
    values = metric.pairwise(images.pixels, train.pixels, pairs)
    queries, starts = np.unique(pairs[:, 0], return_index=True)
    best = metric.nearest.reduceat(values, starts)
    labels = images.labels[queries]
    for class_name, chosen in _classes(labels, class_names):
        groups = [images.groups[query] for query in queries[chosen]]
        of_image = best[chosen]
        interval = bootstrap_interval(
            lambda weights, of_image=of_image: weights @ of_image / weights.sum(axis=1), groups,
            repeats=settings.bootstrap_repeats, seed=SEED) if len(set(groups)) >= FEWEST_GROUPS else None
        report.rows.append(Row(
            metric.key, class_name, comparison, float(of_image.mean()), interval,
            n_real=len(train) if comparison == "nearest" else len(images),
            n_synthetic=len(images) if comparison == "nearest" else 0, literature_comparable=metric.comparable,
            note=f"{len(of_image)} images against all training images of their class"))


def _pairs_with_all(labels: np.ndarray, others: np.ndarray, limit: int) -> np.ndarray:
    """Pairs (P, 2) of seeded queries with every other image of their class, sorted by query; about `limit` in all, and a
    query or more of each class that both have."""
    parts = []
    for label in np.unique(labels):
        members, candidates = np.flatnonzero(labels == label), np.flatnonzero(others == label)
        if not len(candidates):
            continue
        budget = max(1, int(limit * len(members) / len(labels)) // len(candidates))
        chosen = generator(SEED, "nearest", int(label)).permutation(members)[:budget]
        parts.append(np.stack([chosen.repeat(len(candidates)), np.tile(candidates, len(chosen))], axis=1))
    if not parts:
        return np.empty((0, 2), dtype=np.int64)
    pairs = np.concatenate(parts)
    return pairs[np.argsort(pairs[:, 0], kind="stable")]


def _pair_interval(
    first: ImageSet, second: ImageSet, pairs: np.ndarray, values: np.ndarray, settings: EvaluationSettings, *,
    same_images: bool,
) -> tuple[float, float] | None:
    """95% bootstrap over groups of the mean over pairs; a pair counts as often as both its images are drawn."""
    ends = [np.unique(pairs[:, side], return_inverse=True) for side in (0, 1)]
    groups = [[images.groups[row] for row in used] for images, (used, _) in zip((first, second), ends, strict=True)]
    options = {"repeats": settings.bootstrap_repeats, "seed": SEED}

    def weighted(weights: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return weights @ values / weights.sum(axis=1)

    if same_images:
        return bootstrap_interval(weighted, groups[0], **options) if len(set(groups[0])) >= FEWEST_GROUPS else None
    if first is second:
        used, numbers = np.unique(pairs, return_inverse=True)
        numbers = numbers.reshape(pairs.shape)
        names = [first.groups[row] for row in used]
        if len(set(names)) < FEWEST_GROUPS:
            return None
        return bootstrap_interval(lambda drawn: weighted(drawn[:, numbers[:, 0]] * drawn[:, numbers[:, 1]]), names,
                                  **options)
    if min(len(set(names)) for names in groups) < FEWEST_GROUPS:
        return None
    rows = [numbers for _, numbers in ends]
    return bootstrap_interval(lambda one, other: weighted(one[:, rows[0]] * other[:, rows[1]]), *groups, **options)


def _classes(labels: np.ndarray, class_names: Sequence[str]) -> list[tuple[str, np.ndarray]]:
    """(name, mask) of all and of each class that occurs."""
    masks = [(name, np.ones(len(labels), bool) if label is None else labels == label)
             for name, label in name_classes(class_names)]
    return [(name, mask) for name, mask in masks if mask.any()]


def _held(images: ImageSet, rows: np.ndarray) -> ImageSet:
    """These images, decoded."""
    chosen = images if len(rows) == len(images) else images.select(rows)
    return chosen.with_pixels(chosen.name, chosen.in_memory())


def _pairs_within(labels: np.ndarray, groups: Sequence[str] | None, limit: int) -> np.ndarray:
    """Pairs of images of one class from different groups (P, 2); none where a class has one group only."""
    try:
        return inner_pairs(labels, groups, limit=limit, seed=SEED)
    except UserError:
        return np.empty((0, 2), dtype=np.int64)
