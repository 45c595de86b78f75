"""Rows about the class and further conditions: whether a separate classifier can read them from real images at all, better
than a plain baseline can, and what it reads from synthetic ones. Owns no classifier and trains no network."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from dataset.images import from_uint8
from models.classifier import Classifier
from tools.evaluation.accuracy import (
    balanced_accuracy,
    confusion_shares,
    weighted_balanced_accuracy,
    weighted_class_area,
)
from tools.evaluation.baseline import Baseline, BaselineFeatures, fit_baseline
from tools.evaluation.evaluation_report import EvaluationReport
from tools.evaluation.evaluation_sets import SEED, EvaluationSets
from tools.evaluation.image_set import ImageSet, groups_of_labels
from tools.evaluation.inference import compute_logits
from tools.evaluation.metric_keys import Family, MetricKey
from tools.evaluation.resampling import FEWEST_GROUPS, bootstrap_interval
from tools.evaluation.rows import OVERALL, Row

NO_SIGNAL = "no class signal found: class-conditional claims are not supported"
_INTERVAL_NOTE = "interval: 95% bootstrap over groups"


@dataclass(frozen=True)
class JudgedCondition:
    """A further condition, the names of its levels, and the classifier that was trained on them."""

    name: str
    levels: Sequence[str]
    judge: Classifier


@dataclass(frozen=True)
class _Trait:
    """What is read from images: the class or, by its name, a further condition; `levels` are the names of its labels."""

    levels: Sequence[str]
    condition: str | None = None

    def metric(self, family: Family, level: str = "") -> MetricKey:
        return MetricKey(family, level, self.condition)

    @property
    def no_signal(self) -> str:
        if self.condition is None:
            return NO_SIGNAL
        return f"no signal of {self.condition} found: claims about this condition are not supported"

    @property
    def beaten(self) -> str:
        """Where a plain baseline reads more."""
        name = "class" if self.condition is None else self.condition
        return f"a plain baseline reads the {name} better than the judge: no claim about it can rest on the judge"

    @property
    def absent(self) -> str:
        return f"not computed: a {'class' if self.condition is None else 'level'} has no image"


@dataclass(frozen=True)
class _Judged:
    """What the classifier makes of one set, whose labels are the trait's; `reading` says how well it reads real images."""

    trait: _Trait
    comparison: str
    images: ImageSet
    probabilities: np.ndarray
    reading: str = ""

    @property
    def predicted(self) -> np.ndarray:
        return self.probabilities.argmax(axis=1)

    def accuracy(self) -> float | None:
        """Balanced; None without an image."""
        return balanced_accuracy(self.images.labels, self.predicted) if len(self.images) else None

    def area(self) -> float | None:
        """None where a label has no image."""
        labels, probabilities = self.images.labels, self.probabilities
        if len(np.unique(labels)) < len(self.trait.levels):
            return None
        if len(self.trait.levels) == 2:
            return float(roc_auc_score(labels, probabilities[:, 1]))
        return float(roc_auc_score(labels, probabilities, multi_class="ovr", average="macro"))

    def weighted_accuracy(self, weights: np.ndarray) -> np.ndarray:
        return weighted_balanced_accuracy(self.images.labels, self.predicted, weights)

    def weighted_area(self, weights: np.ndarray) -> np.ndarray:
        return weighted_class_area(self.images.labels, self.probabilities, weights)

    def only(self, labels: np.ndarray) -> "_Judged":
        """The images of these labels."""
        rows = np.flatnonzero(np.isin(self.images.labels, labels))
        return replace(self, images=self.images.select(rows), probabilities=self.probabilities[rows])

    def row(self, metric: MetricKey, value: float | None, *, class_name: str = OVERALL,
            interval: tuple[float, float] | None = None, note: str = "", count: int | None = None) -> Row:
        count = len(self.images) if count is None else count
        synthetic = self.comparison == "synthetic"
        return Row(metric, class_name, self.comparison, value, interval, n_real=0 if synthetic else count,
                   n_synthetic=count if synthetic else 0, note=note if value is None else _join(note, self.reading))


def add_class_fidelity(
    report: EvaluationReport, sets: EvaluationSets, judge: Classifier, *, bootstrap_repeats: int,
    features: Sequence[BaselineFeatures] = (),
) -> None:
    """What a classifier trained on real training images reads from held-out real, restored and synthetic images.

    `features` of all images of `sets.train` and `sets.real` are what the baseline may read.
    """
    baseline = fit_baseline(features, sets.train.labels, sets.train.groups, seed=SEED)
    _add_fidelity(report, _Trait(sets.class_names), judge, (sets.real, sets.real_round_trip, sets.synthetic),
                  bootstrap_repeats, baseline)


def add_absent_class(report: EvaluationReport) -> None:
    """The rows that a judge of one class would have, each saying why it has no value."""
    note = "not computed: all images are of one class"
    report.rows += [Row(MetricKey(family), OVERALL, comparison, None, note=note)
                    for family in (Family.ACCURACY, Family.AUC) for comparison in ("held_out", "synthetic")]


def add_condition_fidelity(
    report: EvaluationReport, sets: EvaluationSets, condition: JudgedCondition, *, bootstrap_repeats: int,
    features: Sequence[BaselineFeatures] = (),
) -> None:
    """The same of the levels of a further condition, which are known of the images of all sets."""
    relabelled = [replace(images, labels=images.conditions[condition.name])
                  for images in (sets.real, sets.real_round_trip, sets.synthetic)]
    trait, baseline = _Trait(condition.levels, condition.name), None
    if features:
        baseline = fit_baseline(features, sets.train.conditions[condition.name], sets.train.groups, seed=SEED)
    _add_fidelity(report, trait, condition.judge, relabelled, bootstrap_repeats, baseline)


def _add_fidelity(
    report: EvaluationReport, trait: _Trait, judge: Classifier, sets: Sequence[ImageSet], repeats: int,
    baseline: Baseline | None,
) -> None:
    """Rows for `sets`: held-out, restored and synthetic images, and the ratios of the last to the first."""
    real = _Judged(trait, "held_out", sets[0], classify(judge, sets[0]))
    beaten = _add_baseline(report, real, baseline, repeats)
    accuracy = real.accuracy()
    reading = "" if accuracy is None else _join(
        f"the judge reads held-out real images with a balanced accuracy of {accuracy:.3f}", trait.beaten if beaten else "")
    judged = [real, *(_Judged(trait, comparison, images, classify(judge, images), reading)
                      for comparison, images in zip(("round_trip", "synthetic"), sets[1:], strict=True))]
    for one in judged:
        _add_accuracy(report, one, repeats)
        area = _add_area(report, one, repeats)
        _add_confusion(report, one)
        if one.comparison == "held_out":
            _add_signal(report, one, area)
    _add_ratios(report, real=judged[0], made=judged[2], repeats=repeats)


def _add_baseline(report: EvaluationReport, judged: _Judged, baseline: Baseline | None, repeats: int) -> bool:
    """What a plain baseline reads from the same images, and the difference; returns whether it reads them better."""
    trait, images = judged.trait, judged.images
    if baseline is None or not len(images):
        note = trait.absent if not len(images) else "not computed: no features of a published or untrained network"
        report.rows += [judged.row(trait.metric(family), None, note=note) for family in (Family.BASELINE, Family.GAIN)]
        return False

    def of_baseline(weights: np.ndarray) -> np.ndarray:
        return weighted_balanced_accuracy(images.labels, baseline.predicted, weights)

    value, own = balanced_accuracy(images.labels, baseline.predicted), balanced_accuracy(images.labels, judged.predicted)
    interval = _interval(of_baseline, judged, repeats=repeats)
    report.rows.append(judged.row(trait.metric(Family.BASELINE), value, interval=interval,
                                  note=_join(baseline.describe(), _INTERVAL_NOTE if interval else "")))
    gain = _interval(lambda weights: judged.weighted_accuracy(weights) - of_baseline(weights), judged, repeats=repeats)
    beaten = gain is not None and gain[1] < 0
    report.rows.append(judged.row(trait.metric(Family.GAIN), own - value, interval=gain, note=_join(
        trait.beaten if beaten else "above 0: the judge reads more than the baseline",
        f"{_INTERVAL_NOTE}, paired" if gain else "")))
    if beaten:
        report.warn(f"{trait.beaten}: on held-out real images its balanced accuracy is {own:.3f}, the baseline's "
                    f"{value:.3f}; train the judge anew with tools.train_encoder, with more images or minutes")
    return beaten


def classify(judge: Classifier, images: ImageSet) -> np.ndarray:
    """Class probabilities float64 (N, num_classes) of the images, at most 256 of which are held at a time."""
    channels = judge.config.im_channels
    batches = (torch.from_numpy(from_uint8(pixels)).permute(0, 3, 1, 2) for pixels in images.chunks())
    logits = compute_logits(judge, (batch[:, :channels].expand(-1, channels, -1, -1) for batch in batches))
    return logits.double().softmax(dim=1).numpy()


def _add_accuracy(report: EvaluationReport, judged: _Judged, repeats: int) -> None:
    interval = _interval(judged.weighted_accuracy, judged, repeats=repeats)
    report.rows.append(judged.row(judged.trait.metric(Family.ACCURACY), judged.accuracy(), interval=interval,
                                  note=_INTERVAL_NOTE if interval else ""))


def _add_area(report: EvaluationReport, judged: _Judged, repeats: int) -> Row:
    metric, area = judged.trait.metric(Family.AUC), judged.area()
    if area is None:
        row = judged.row(metric, None, note=judged.trait.absent)
    else:
        interval = _interval(judged.weighted_area, judged, repeats=repeats)
        row = judged.row(metric, area, interval=interval, note=_INTERVAL_NOTE if interval else "")
    report.rows.append(row)
    return row


def _add_signal(report: EvaluationReport, judged: _Judged, area: Row) -> None:
    """AUC - 0.5 on held-out real images: what there is to be learned about the class or condition."""
    trait, metric = judged.trait, judged.trait.metric(Family.SIGNAL)
    if area.value is None:
        report.rows.append(judged.row(metric, None, note=area.note))
        return
    if area.interval is None:
        report.rows.append(judged.row(metric, area.value - 0.5,
                                      note=f"no interval: fewer than {FEWEST_GROUPS} groups a label"))
        report.warn(f"the {metric.name} has no interval, because the held-out images are of too few groups: it is unproven")
        return
    low, high = area.interval
    found = low > 0.5
    report.rows.append(judged.row(metric, area.value - 0.5, interval=(low - 0.5, high - 0.5),
                                  note=f"AUC - 0.5; {_INTERVAL_NOTE}" if found else trait.no_signal))
    if not found:
        report.warn(trait.no_signal)


def _add_confusion(report: EvaluationReport, judged: _Judged) -> None:
    """A row for each cell of the confusion matrix: the share of a true class or level that is judged as another."""
    names = judged.trait.levels
    shares = confusion_shares(judged.images.labels, judged.predicted, len(names))
    for label, name in enumerate(names):
        count = int((judged.images.labels == label).sum())
        for other, taken_for in enumerate(names):
            report.rows.append(judged.row(judged.trait.metric(Family.CONFUSION, taken_for),
                                          float(shares[label, other]) if count else None, class_name=name,
                                          count=count, note="" if count else judged.trait.absent))


def _add_ratios(report: EvaluationReport, *, real: _Judged, made: _Judged, repeats: int) -> None:
    """Synthetic over held-out real; of accuracies over the labels that both have, which the fewer would else decide."""
    trait, common = real.trait, np.intersect1d(real.images.labels, made.images.labels)
    all_common = len(common) == len(np.union1d(real.images.labels, made.images.labels))
    about = "" if all_common else f" of {', '.join(trait.levels[label] for label in common)} only"
    _add_ratio(report, trait.metric(Family.ACCURACY), real.only(common), made.only(common), value=_Judged.accuracy,
               weighted=_Judged.weighted_accuracy, repeats=repeats, about=about)
    _add_ratio(report, trait.metric(Family.AUC), real, made, value=_Judged.area, weighted=_Judged.weighted_area,
               repeats=repeats)


def _add_ratio(
    report: EvaluationReport, metric: MetricKey, real: _Judged, made: _Judged, *, value: Callable[[_Judged], float | None],
    weighted: Callable[[_Judged, np.ndarray], np.ndarray], repeats: int, about: str = "",
) -> None:
    def draw(real_weights: np.ndarray, made_weights: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):  # a draw without one of the labels, which does not count
            return weighted(made, made_weights) / weighted(real, real_weights)

    of_real, of_made = value(real), value(made)
    ratio = of_made / of_real if of_real and of_made is not None else None
    interval = None if ratio is None else _interval(draw, real, made, repeats=repeats)
    note = real.trait.absent if ratio is None else f"synthetic over held-out real{about}"
    report.rows.append(Row(
        replace(metric, is_ratio=True), OVERALL, "synthetic", ratio, interval, n_real=len(real.images),
        n_synthetic=len(made.images),
        note=_join(note, f"{_INTERVAL_NOTE}, both drawn" if interval else "", "" if ratio is None else made.reading)))


def _interval(statistic: Callable[..., np.ndarray], *judged: _Judged, repeats: int) -> tuple[float, float] | None:
    """None where a label of a set lies in too few groups for an interval to say anything."""
    groups = [one.images.groups for one in judged]
    if any(fewest < FEWEST_GROUPS for one in judged for fewest in groups_of_labels(one.images).values()):
        return None
    return bootstrap_interval(statistic, *groups, repeats=repeats, seed=SEED)


def _join(*notes: str) -> str:
    return "; ".join(note for note in notes if note)
