"""The evaluation protocol: which sets are compared by which metric, at equal n and class prior. Arrays in, rows out.

Distances come in three gaps (total, model gap, ceiling) beside their references (real_real, floor); pairs of images in
readings beside the real-real value. It knows neither configs nor files but the feature cache.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from config.errors import UserError
from dataset.images import from_uint8
from dataset.order import generator
from models.classifier import Classifier
from tools.evaluation.accuracy import balanced_accuracy
from tools.evaluation.encoders import Encoder
from tools.evaluation.features import Features, cached_features
from tools.evaluation.frechet import frechet_distance
from tools.evaluation.image_set import ImageSet, count_labels, draw_matched, halve_groups, matched_counts
from tools.evaluation.kernel import kernel_distance, kernel_interval
from tools.evaluation.lpips_distance import PerceptualEmbedding
from tools.evaluation.neighbours import neighbour_scores
from tools.evaluation.pairs import cross_pairs, inner_pairs
from tools.evaluation.resampling import subsample_range
from tools.evaluation.rows import OVERALL, EvaluationReport, Row
from tools.evaluation.ssim import pairwise_ssim

SMALLEST_FRECHET_SET = 50  # images a side under which a Fréchet distance says nothing
LITERATURE_FRECHET_SET = 2048  # the dimension of the FID features: below it a covariance cannot have full rank
NEIGHBOURS = 5  # k of precision, recall, density and coverage
_SEED = 0  # of every draw in the evaluation; part of the protocol, not of a run


@dataclass(frozen=True)
class EvaluationSets:
    """What is compared: all at one size; `train` and `real` are disjoint in their groups."""

    synthetic: ImageSet
    real: ImageSet
    train: ImageSet
    real_round_trip: ImageSet
    train_round_trip: ImageSet
    class_names: Sequence[str]

    def matched(self) -> "EvaluationSets":
        """Subsets of equal n at the real class prior: the first synthetic images and a fixed draw of the others."""
        num_classes = len(self.class_names)
        have = [count_labels(images.labels, num_classes) for images in (self.real, self.synthetic, self.train)]
        counts = matched_counts(have[0], have[1], have[2])
        exact = (counts == have[0]).all()
        real = np.arange(len(self.real)) if exact else draw_matched(self.real.labels, counts, rng=generator(_SEED, "real"))
        train = draw_matched(self.train.labels, counts, rng=generator(_SEED, "train"))
        synthetic = draw_matched(self.synthetic.labels, counts, rng=None)
        return EvaluationSets(
            self.synthetic.select(synthetic), self.real.select(real), self.train.select(train),
            self.real_round_trip.select(real), self.train_round_trip.select(train), self.class_names,
        )


@dataclass(frozen=True)
class EvaluationSettings:
    """How much is computed."""

    feature_folder: Path
    transform_hash: str
    round_trip_hash: str
    batch_size: int
    max_pairs: int
    frechet_repeats: int
    bootstrap_repeats: int


def evaluate(
    sets: EvaluationSets, *, encoders: Sequence[Encoder], perceptual: PerceptualEmbedding | None, judge: Classifier | None,
    settings: EvaluationSettings, report: EvaluationReport, say: Callable[[str], None],
) -> None:
    """Add all rows and warnings to `report`; `say` is told what is being worked on."""
    matched = sets.matched()
    if len(matched.real) < len(sets.real):
        report.warn(f"only {len(matched.real)} of {len(sets.real)} held-out images are compared, because synthetic or "
                    "training images at the real class prior are fewer; draw more synthetic images to use all")
    for encoder in encoders:
        say(f"features of {encoder.name}")
        if encoder.name == "classifier":
            report.warn("the encoder named classifier was trained on the training images, which it separates better than "
                        "others: its real_real and floor per class are too large to compare with")
        _add_distances(report, sets, matched, encoder, settings)
    say("image similarity")
    _add_similarities(report, matched, perceptual, settings)
    if judge is not None:
        say("class fidelity")
        _add_class_fidelity(report, sets, judge)


def classify(judge: Classifier, pixels: np.ndarray, *, batch_size: int = 256) -> np.ndarray:
    """Class probabilities float64 (N, num_classes) of uint8 images (N, H, W, C)."""
    parts = []
    with torch.inference_mode():
        for start in range(0, len(pixels), batch_size):
            images = torch.from_numpy(from_uint8(pixels[start:start + batch_size])).permute(0, 3, 1, 2)
            images = images[:, : judge.config.im_channels].expand(-1, judge.config.im_channels, -1, -1)
            parts.append(judge(images).double().softmax(dim=1).numpy())
    return np.concatenate(parts)


def _add_distances(
    report: EvaluationReport, sets: EvaluationSets, matched: EvaluationSets, encoder: Encoder, settings: EvaluationSettings
) -> None:
    """FD, KD and neighbour scores of one encoder, overall and per class."""
    of = _encode_all(sets, matched, encoder, settings)
    names = [(OVERALL, None), *[(name, label) for label, name in enumerate(sets.class_names)]]
    pairs = {
        "total": ("synthetic", "real"), "model_gap": ("synthetic", "real_round_trip"),
        "ceiling": ("real_round_trip", "real"), "real_real": ("train", "real"),
        "floor": ("train_round_trip", "real_round_trip"),
    }
    for class_name, label in names:
        part = {key: features if label is None else features.select(features.labels == label)
                for key, features in of.items() if key != "all_train"}
        for comparison, (first, second) in pairs.items():
            with_interval = comparison in ("total", "model_gap", "real_real")
            _add_pair(report, encoder, class_name, comparison, part[first], part[second], settings, with_interval)
    for comparison in ("blurred", "noised"):
        _add_pair(report, encoder, OVERALL, comparison, of[comparison], of["real"], settings, False)
    halves = [of["all_train"].select(half)
              for half in halve_groups(of["all_train"].groups, rng=generator(_SEED, "halves"))]
    have = [count_labels(part.labels, len(sets.class_names)) for part in (of["real"], *halves)]
    counts = matched_counts(have[0], have[1], have[2])
    first, second = (part.select(draw_matched(part.labels, counts, rng=generator(_SEED, "half"))) for part in halves)
    _add_pair(report, encoder, OVERALL, "halves", first, second, settings, False)
    one, other = (of["real"].select(of["real"].labels == label) for label in (0, 1))
    _add_pair(report, encoder, OVERALL, "between_classes", one, other, settings, False)


def _encode_all(
    sets: EvaluationSets, matched: EvaluationSets, encoder: Encoder, settings: EvaluationSettings
) -> dict[str, Features]:
    """Features of every set; those of real images come from the cache of the whole split and are sliced."""
    def cached(images: ImageSet, name: str, transform_hash: str) -> Features:
        return cached_features(
            settings.feature_folder, encoder=encoder, images=lambda: images.pixels, ids=images.ids, labels=images.labels,
            groups=images.groups, image_sha256=images.sha256, transform_hash=transform_hash, split=name,
            batch_size=settings.batch_size,
        )

    def fresh(images: ImageSet) -> Features:
        values = encoder.encode(images.pixels, batch_size=settings.batch_size)
        return Features(values=values, ids=images.ids, labels=images.labels, groups=images.groups, key="")

    def slice_of(whole: Features, subset: ImageSet) -> Features:
        position = {image_id: row for row, image_id in enumerate(whole.ids)}
        return whole.select(np.array([position[image_id] for image_id in subset.ids]))

    all_train = cached(sets.train, "train", settings.transform_hash)
    return {
        "synthetic": fresh(matched.synthetic),
        "real": slice_of(cached(sets.real, sets.real.name, settings.transform_hash), matched.real),
        "train": slice_of(all_train, matched.train),
        "real_round_trip": slice_of(
            cached(sets.real_round_trip, f"{sets.real.name}_round_trip", settings.round_trip_hash), matched.real),
        "train_round_trip": slice_of(
            cached(sets.train_round_trip, "train_round_trip", settings.round_trip_hash), matched.train),
        "blurred": fresh(matched.real.with_pixels("blurred", blur(matched.real.pixels))),
        "noised": fresh(matched.real.with_pixels("noised", add_noise(matched.real.pixels))),
        "all_train": all_train,
    }


def _add_pair(
    report: EvaluationReport, encoder: Encoder, class_name: str, comparison: str, first: Features, second: Features,
    settings: EvaluationSettings, with_interval: bool,
) -> None:
    """FD, KD and, where one side is synthetic or both are real, the neighbour scores of two sets of features."""
    smaller = min(len(first.values), len(second.values))
    comparable = encoder.literature_comparable and comparison == "total" and class_name == OVERALL
    common = {"class_name": class_name, "comparison": comparison, "n_real": len(second.values),
              "n_synthetic": len(first.values),
              "literature_comparable": comparable and smaller >= LITERATURE_FRECHET_SET}
    enough_groups = min(len(set(first.groups)), len(set(second.groups))) >= 2
    name = encoder.metric_name("FD")
    if smaller < SMALLEST_FRECHET_SET:
        note = f"not computed: {smaller} images, a Fréchet distance needs {SMALLEST_FRECHET_SET}; read the kernel distance"
        report.rows.append(Row(name, value=None, note=note, **common))
        report.warn(f"some Fréchet distances are not computed, because a class has fewer than {SMALLEST_FRECHET_SET} images")
    else:
        if smaller < LITERATURE_FRECHET_SET:
            report.warn(f"Fréchet distances under n = {LITERATURE_FRECHET_SET} are biased upwards: compare them with the "
                        "reference rows of this table only, never with another n")
        interval = subsample_range(
            first.values, second.values, first.groups, second.groups, statistic=frechet_distance,
            repeats=settings.frechet_repeats, seed=_SEED,
        ) if with_interval and class_name == OVERALL and enough_groups else None
        note = "interval: subsample range at 80% of the groups" if interval else ""
        report.rows.append(Row(name, value=frechet_distance(first.values, second.values), interval=interval, note=note,
                               **common))
    if smaller < 2 * NEIGHBOURS:
        report.rows.append(Row(encoder.metric_name("KD"), value=None, note=f"not computed: {smaller} images", **common))
        report.warn(f"kernel distances and neighbour scores need {2 * NEIGHBOURS} images a class; some classes have fewer")
        return
    interval = kernel_interval(
        first.values, second.values, first.groups, second.groups, repeats=settings.bootstrap_repeats, seed=_SEED,
    ) if with_interval and enough_groups else None
    report.rows.append(Row(encoder.metric_name("KD"), value=kernel_distance(first.values, second.values),
                           interval=interval, note="interval: 95% bootstrap over groups" if interval else "", **common))
    if comparison in ("total", "model_gap", "real_real", "floor"):
        scores = neighbour_scores(second.values, first.values, k=NEIGHBOURS)
        suffix = encoder.metric_name("FD").removeprefix("FD") if not encoder.literature_comparable else "[FID features]"
        for score in ("precision", "recall", "density", "coverage"):
            report.rows.append(Row(f"{score}{suffix}", value=float(getattr(scores, score)), **common))


def _add_similarities(
    report: EvaluationReport, sets: EvaluationSets, perceptual: PerceptualEmbedding | None, settings: EvaluationSettings
) -> None:
    """LPIPS and SSIM of unpaired images within a class, beside the real-real value, and of round trips."""
    synthetic, real, restored = sets.synthetic, sets.real, sets.real_round_trip
    same = np.stack([np.arange(len(real))] * 2, axis=1)
    readings = [
        ("cross", real, synthetic, cross_pairs(real.labels, synthetic.labels, limit=settings.max_pairs, seed=_SEED)),
        ("real_pairs", real, real, _pairs_within(real.labels, real.groups, settings.max_pairs)),
        ("diversity", synthetic, synthetic, _pairs_within(synthetic.labels, None, settings.max_pairs)),
        ("reconstruction", real, restored, same),
    ]
    metrics: list[tuple[str, bool, Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]]] = [
        ("SSIM", True, pairwise_ssim)]
    if perceptual is not None:
        metrics.append((perceptual.name, perceptual.literature_comparable, perceptual.pairwise))
    for metric, comparable, pairwise in metrics:
        for comparison, first, second, pairs in readings:
            if len(pairs) == 0:
                report.warn(f"{metric}, {comparison}: there are no two images of one class from different groups to compare")
                continue
            values = pairwise(first.pixels, second.pixels, pairs)
            of_class = first.labels[pairs[:, 0]]
            for class_name, chosen in [(OVERALL, np.ones(len(pairs), bool)),
                                       *[(name, of_class == label) for label, name in enumerate(sets.class_names)]]:
                if chosen.any():
                    report.rows.append(Row(
                        metric, class_name, comparison, float(values[chosen].mean()), n_real=len(real),
                        n_synthetic=len(synthetic), literature_comparable=comparable, note=f"{int(chosen.sum())} pairs"))


def _pairs_within(labels: np.ndarray, groups: Sequence[str] | None, limit: int) -> np.ndarray:
    """Pairs of images of one class from different groups (P, 2); none where a class has one group only."""
    try:
        return inner_pairs(labels, groups, limit=limit, seed=_SEED)
    except UserError:
        return np.empty((0, 2), dtype=np.int64)


def _add_class_fidelity(report: EvaluationReport, sets: EvaluationSets, judge: Classifier) -> None:
    """What a classifier trained on real training images reads from real, restored and synthetic images."""
    for comparison, images in (("held_out", sets.real), ("round_trip", sets.real_round_trip), ("synthetic", sets.synthetic)):
        probabilities = classify(judge, images.pixels)
        correct = balanced_accuracy(images.labels, probabilities.argmax(axis=1))
        common = {"class_name": OVERALL, "comparison": comparison,
                  "n_real": 0 if comparison == "synthetic" else len(images),
                  "n_synthetic": len(images) if comparison == "synthetic" else 0}
        report.rows.append(Row("class balanced accuracy", value=correct, **common))
        if len(np.unique(images.labels)) < len(sets.class_names):
            report.rows.append(Row("class AUC", value=None, note="not computed: a class has no image", **common))
            continue
        if len(sets.class_names) == 2:
            area = roc_auc_score(images.labels, probabilities[:, 1])
        else:
            area = roc_auc_score(images.labels, probabilities, multi_class="ovr", average="macro")
        report.rows.append(Row("class AUC", value=float(area), **common))


def blur(pixels: np.ndarray) -> np.ndarray:
    """uint8 (N, H, W, C) after a Gaussian blur of one pixel, rounded."""
    return np.stack([cv2.GaussianBlur(image, (0, 0), 1.0).reshape(image.shape) for image in pixels])


def add_noise(pixels: np.ndarray) -> np.ndarray:
    """uint8 (N, H, W, C) with Gaussian noise of one gray level, rounded and clipped."""
    noise = generator(_SEED, "noised").standard_normal(pixels.shape)
    return np.clip(np.rint(pixels + noise), 0, 255).astype(np.uint8)
