"""Rows of one encoder: Fréchet and kernel distance, neighbour scores and the two-sample test, in three gaps beside their
references. Owns which sets are compared and what a row says; the formulas lie in the files that it imports."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from dataset.ranks import ALONE, Ranks
from tools.evaluation.encoders.encoder import Encoder
from tools.evaluation.evaluation_report import EvaluationReport
from tools.evaluation.evaluation_sets import MAX_PAIRWISE_IMAGES, SEED, EvaluationSets, EvaluationSettings, OpenBar
from tools.evaluation.features import Features, cached_features, encode_images
from tools.evaluation.frechet import frechet_distance
from tools.evaluation.image_set import ImageSet, count_labels
from tools.evaluation.kernel import (
    MAX_PERMUTED_IMAGES,
    kernel_distance,
    kernel_interval,
    kernel_permutation_test,
)
from tools.evaluation.metric_keys import Family, MetricKey
from tools.evaluation.neighbours import count_neighbours, nearest_neighbours
from tools.evaluation.references import add_noise, balance, blur, split_halves
from tools.evaluation.report.exhibits import make_feature_exhibit
from tools.evaluation.resampling import FEWEST_GROUPS, bootstrap_interval, cap_by_group, subsample_range
from tools.evaluation.rows import OVERALL, Row, name_classes
from tools.evaluation.two_sample import two_sample_test

SMALLEST_FRECHET_SET = 50  # images a side under which a Fréchet distance says nothing
LITERATURE_FRECHET_SET = 2048  # the dimension of the FID features: below it a covariance cannot have full rank
NEIGHBOURS = 5  # k of precision, recall, density and coverage
_MOST_OF_ONE_GROUP = 0.5  # of an image's neighbours, from where on neighbour scores are no longer about the population
_SUBSAMPLED_SHARE = 0.8  # of the groups of either side, for the range of a Fréchet distance
_PAIRS = {
    "total": ("synthetic", "real"), "model_gap": ("synthetic", "real_round_trip"), "ceiling": ("real_round_trip", "real"),
    "real_real": ("train", "real"), "floor": ("train_round_trip", "real_round_trip"),
}
_WITH_INTERVAL = ("total", "model_gap", "real_real")


@dataclass(frozen=True)
class _Comparison:
    """Two sets of features, `first` against `second`, and the row that a number about them goes to."""

    class_name: str
    name: str
    first: Features
    second: Features
    with_interval: bool = False
    with_neighbours: bool = False

    @property
    def smaller(self) -> int:
        return min(len(self.first.values), len(self.second.values))

    @property
    def fewest_groups(self) -> int:
        """Groups of the side that has fewer."""
        return min(len(set(self.first.groups)), len(set(self.second.groups)))

    @property
    def resamples(self) -> bool:
        """Whether intervals are wanted and there are enough groups to draw."""
        return self.with_interval and self.fewest_groups >= FEWEST_GROUPS

    def row(self, metric: MetricKey, value: float | None, *, interval: tuple[float, float] | None = None,
            comparable: bool = False, note: str = "") -> Row:
        return Row(metric, self.class_name, self.name, value, interval, n_real=len(self.second.values),
                   n_synthetic=len(self.first.values), literature_comparable=comparable, note=note)


def add_distances(
    report: EvaluationReport, sets: EvaluationSets, encoder: Encoder, settings: EvaluationSettings, of: dict[str, Features]
) -> None:
    """All rows of one encoder, overall and per class, from the features `of` every set that `encode_sets` gave."""
    add = partial(_add_comparison, report, encoder, settings)
    for class_name, label in name_classes(sets.class_names):
        part = {key: features if label is None else features.select(features.labels == label)
                for key, features in of.items() if key not in ("all_train", "all_real")}
        for name, (first, second) in _PAIRS.items():
            add(_Comparison(class_name, name, part[first], part[second], with_interval=name in _WITH_INTERVAL,
                            with_neighbours=True))
    for name in ("blurred", "noised"):
        add(_Comparison(OVERALL, name, of[name], of["real"]))
    num_classes = len(sets.class_names)
    add(_Comparison(OVERALL, "halves", *split_halves(of["all_train"], of["real"].labels, num_classes)))
    if num_classes > 1:
        one, other = (of["real"].select(of["real"].labels == label) for label in (0, 1))
        add(_Comparison(OVERALL, "between_classes", one, other))
    counts = count_labels(of["real"].labels, num_classes)
    level = np.where(counts > 0, counts[counts > 0].min(), 0)
    add(_Comparison(OVERALL, "balanced", balance(of["synthetic"], level), balance(of["real"], level)))
    report.details.features.append(make_feature_exhibit(encoder.name, MetricKey(Family.FRECHET, encoder.space).name, of))


def encode_sets(
    sets: EvaluationSets, matched: EvaluationSets, encoder: Encoder, settings: EvaluationSettings, open_bar: OpenBar,
    ranks: Ranks = ALONE,
) -> dict[str, Features]:
    """Features of every set; those of real images come from the cache of the whole split and are sliced."""
    def cached(images: ImageSet, name: str, transform_hash: str) -> Features:
        with open_bar(f"{encoder.name}, {name}", len(images)) as bar:
            return cached_features(
                settings.feature_folder, encoder=encoder, images=lambda: images.pixels, ids=images.ids, labels=images.labels,
                groups=images.groups, image_sha256=images.sha256, transform_hash=transform_hash, split=name,
                batch_size=settings.batch_size, progress=bar.update, ranks=ranks,
            )

    def fresh(images: ImageSet) -> Features:
        with open_bar(f"{encoder.name}, {images.name}", len(images)) as bar:
            values = encode_images(encoder, images.pixels, count=len(images), split=images.name,
                                   batch_size=settings.batch_size, progress=bar.update, ranks=ranks)
        return Features(values=values, ids=images.ids, labels=images.labels, groups=images.groups, key="")

    def slice_of(whole: Features, subset: ImageSet) -> Features:
        position = {image_id: row for row, image_id in enumerate(whole.ids)}
        return whole.select(np.array([position[image_id] for image_id in subset.ids]))

    all_train = cached(sets.train, "train", settings.transform_hash)
    all_real = cached(sets.real, sets.real.name, settings.transform_hash)
    pixels = matched.real.in_memory()
    return {
        "synthetic": slice_of(cached(sets.synthetic, sets.synthetic.name, settings.transform_hash), matched.synthetic),
        "real": slice_of(all_real, matched.real),
        "train": slice_of(all_train, matched.train),
        "real_round_trip": slice_of(
            cached(sets.real_round_trip, f"{sets.real.name}_round_trip", settings.round_trip_hash), matched.real),
        "train_round_trip": slice_of(
            cached(sets.train_round_trip, "train_round_trip", settings.round_trip_hash), matched.train),
        "blurred": fresh(matched.real.with_pixels("blurred", blur(pixels))),
        "noised": fresh(matched.real.with_pixels("noised", add_noise(pixels))),
        "all_train": all_train,
        "all_real": all_real,
    }


def _add_comparison(
    report: EvaluationReport, encoder: Encoder, settings: EvaluationSettings, compared: _Comparison
) -> None:
    """Every number about two sets of features that they are large enough for."""
    comparable = (encoder.literature_comparable and compared.name == "total" and compared.class_name == OVERALL
                  and compared.smaller >= LITERATURE_FRECHET_SET)
    _add_frechet(report, encoder, settings, compared, comparable)
    kernel = MetricKey(Family.KERNEL, encoder.space)
    if compared.smaller < 2 * NEIGHBOURS:
        report.rows.append(compared.row(kernel, None, comparable=comparable,
                                        note=f"not computed: {compared.smaller} images"))
        report.warn(f"kernel distances and neighbour scores need {2 * NEIGHBOURS} images a class; some classes have fewer")
        return
    first, second = (_capped(features) for features in (compared.first, compared.second))
    cap = _describe_cap(compared, MAX_PAIRWISE_IMAGES)
    _add_kernel(report, kernel, settings, compared, first, second, comparable, cap)
    if compared.with_neighbours:
        _add_neighbours(report, encoder.space, settings, compared, first, second, comparable, cap)
        _add_two_sample(report, MetricKey(Family.TWO_SAMPLE, encoder.space), settings, compared, first, second, cap)


def _add_frechet(
    report: EvaluationReport, encoder: Encoder, settings: EvaluationSettings, compared: _Comparison, comparable: bool
) -> None:
    metric, smaller = MetricKey(Family.FRECHET, encoder.space), compared.smaller
    if smaller < SMALLEST_FRECHET_SET:
        note = f"not computed: {smaller} images, a Fréchet distance needs {SMALLEST_FRECHET_SET}; read the kernel distance"
        report.rows.append(compared.row(metric, None, comparable=comparable, note=note))
        report.warn(f"some Fréchet distances are not computed, because a class has fewer than {SMALLEST_FRECHET_SET} images")
        return
    if smaller < LITERATURE_FRECHET_SET:
        report.warn(f"Fréchet distances under n = {LITERATURE_FRECHET_SET} are biased upwards: compare them with the "
                    "reference rows of this table only, never with another n")
    first, second = compared.first, compared.second
    interval, note = None, ""
    if compared.resamples:
        interval = subsample_range(
            first.values, second.values, first.groups, second.groups, statistic=frechet_distance,
            repeats=settings.frechet_repeats, fraction=_SUBSAMPLED_SHARE, seed=SEED)
        note = (f"interval: subsample range at n of about {round(_SUBSAMPLED_SHARE * smaller)}, "
                f"{settings.frechet_repeats} draws of {_SUBSAMPLED_SHARE:.0%} of the groups")
    report.rows.append(compared.row(metric, frechet_distance(first.values, second.values), interval=interval,
                                    comparable=comparable, note=note))


def _add_kernel(
    report: EvaluationReport, metric: MetricKey, settings: EvaluationSettings, compared: _Comparison, first: Features,
    second: Features, comparable: bool, cap: str,
) -> None:
    """The kernel distance, and where it has an interval also the p value of the permutation test."""
    arrays = (first.values, second.values, first.groups, second.groups)
    if compared.fewest_groups < 2:
        report.rows.append(compared.row(metric, None, comparable=comparable,
                                        note="not computed: one side has one group, within which images are alike"))
        return
    interval = kernel_interval(*arrays, repeats=settings.bootstrap_repeats, seed=SEED) if compared.resamples else None
    report.rows.append(compared.row(
        metric, kernel_distance(*arrays), interval=interval, comparable=comparable,
        note=_join("interval: 95% bootstrap over groups" if interval else "", cap)))
    if compared.resamples:
        p_value = kernel_permutation_test(*arrays, permutations=settings.bootstrap_repeats, seed=SEED)
        cap = _describe_cap(compared, min(MAX_PERMUTED_IMAGES, MAX_PAIRWISE_IMAGES))
        report.rows.append(compared.row(replace(metric, family=Family.KERNEL_P), p_value, note=_join(
            f"share of {settings.bootstrap_repeats} exchanges of whole groups that are at least as far apart", cap)))


def _add_neighbours(
    report: EvaluationReport, space: str, settings: EvaluationSettings, compared: _Comparison, first: Features,
    second: Features, comparable: bool, cap: str,
) -> None:
    """Precision, recall, density and coverage, `second` being the real side."""
    if compared.name == "total" and compared.class_name == OVERALL:
        _warn_of_stacks(report, second)
    counts = count_neighbours(second.values, first.values, k=NEIGHBOURS)
    scores = counts.scores
    shares: dict[Family, tuple[float, np.ndarray, Sequence[str]]] = {
        Family.PRECISION: (scores.precision, counts.balls_around > 0, first.groups),
        Family.RECALL: (scores.recall, counts.recalled, second.groups),
        Family.DENSITY: (scores.density, counts.balls_around / NEIGHBOURS, first.groups),
        Family.COVERAGE: (scores.coverage, counts.covered, second.groups),
    }
    for family, (value, of_image, groups) in shares.items():
        interval = bootstrap_interval(
            partial(_weighted_mean, of_image.astype(np.float64)), groups, repeats=settings.bootstrap_repeats, seed=SEED,
        ) if compared.resamples else None
        note = "interval: 95% bootstrap over the groups of the images judged, balls held fixed" if interval else ""
        report.rows.append(compared.row(MetricKey(family, space), float(value), interval=interval, comparable=comparable,
                                        note=_join(note, cap)))


def _warn_of_stacks(report: EvaluationReport, real: Features) -> None:
    """Say so where the real balls are as small as one patient's frames are alike."""
    _, rows = nearest_neighbours(real.values, real.values, k=NEIGHBOURS, skip_self=True)
    groups = np.asarray(real.groups)
    share = float((groups[rows] == groups[:, None]).mean())
    if share > _MOST_OF_ONE_GROUP:
        report.warn(f"{share:.0%} of the {NEIGHBOURS} nearest neighbours of held-out images are of the same group, as in "
                    "focal stacks: precision, density and coverage are about likeness within a patient; read recall and "
                    "the kernel distance")


def _add_two_sample(
    report: EvaluationReport, metric: MetricKey, settings: EvaluationSettings, compared: _Comparison, first: Features,
    second: Features, cap: str,
) -> None:
    if compared.fewest_groups < 2:
        report.rows.append(compared.row(metric, None, note="not computed: one side has one group, which cannot be both "
                                        "learned from and judged"))
        return
    result = two_sample_test(first.values, second.values, first.groups, second.groups,
                             repeats=settings.bootstrap_repeats if compared.resamples else 0, seed=SEED)
    note = "0.5: not told apart" + ("; interval: 95% bootstrap over groups" if result.interval else "")
    report.rows.append(compared.row(metric, result.area, interval=result.interval, note=_join(note, cap)))


def _capped(features: Features) -> Features:
    """At most so many images of whole groups as pairwise statistics can afford."""
    if len(features.values) <= MAX_PAIRWISE_IMAGES:
        return features
    return features.select(cap_by_group(features.groups, limit=MAX_PAIRWISE_IMAGES, seed=SEED))


def _describe_cap(compared: _Comparison, limit: int) -> str:
    """What a row says where a side has more images than were used."""
    larger = max(len(compared.first.values), len(compared.second.values))
    return f"capped at {limit} images a side, whole groups" if larger > limit else ""


def _weighted_mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return weights @ values / weights.sum(axis=1)


def _join(*notes: str) -> str:
    return "; ".join(note for note in notes if note)
