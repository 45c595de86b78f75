"""Rows about the class: whether a separate classifier can read it from real images at all, and what it reads from
synthetic ones. Owns no classifier and trains none."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

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
from tools.evaluation.evaluation_sets import SEED, EvaluationSets
from tools.evaluation.image_set import ImageSet
from tools.evaluation.resampling import bootstrap_interval
from tools.evaluation.rows import OVERALL, EvaluationReport, Row

NO_SIGNAL = "no class signal found: class-conditional claims are not supported"
_INTERVAL_NOTE = "interval: 95% bootstrap over groups"
_NO_CLASS = "not computed: a class has no image"


@dataclass(frozen=True)
class _Judged:
    """What the classifier makes of one set."""

    comparison: str
    images: ImageSet
    probabilities: np.ndarray

    @property
    def predicted(self) -> np.ndarray:
        return self.probabilities.argmax(axis=1)

    def row(self, metric: str, value: float | None, *, class_name: str = OVERALL,
            interval: tuple[float, float] | None = None, note: str = "", count: int | None = None) -> Row:
        count = len(self.images) if count is None else count
        synthetic = self.comparison == "synthetic"
        return Row(metric, class_name, self.comparison, value, interval, n_real=0 if synthetic else count,
                   n_synthetic=count if synthetic else 0, note=note)


def add_class_fidelity(report: EvaluationReport, sets: EvaluationSets, judge: Classifier, *, bootstrap_repeats: int) -> None:
    """What a classifier trained on real training images reads from held-out real, restored and synthetic images."""
    areas, accuracies = {}, {}
    for comparison, images in (("held_out", sets.real), ("round_trip", sets.real_round_trip), ("synthetic", sets.synthetic)):
        judged = _Judged(comparison, images, classify(judge, images))
        accuracies[comparison] = _add_accuracy(report, judged, bootstrap_repeats)
        areas[comparison] = _add_area(report, judged, sets.class_names, bootstrap_repeats)
        _add_confusion(report, judged, sets.class_names)
        if comparison == "held_out":
            _add_signal(report, judged, areas[comparison])
    for name, values in (("ratio of class balanced accuracy", accuracies), ("ratio of class AUC", areas)):
        made, real = values["synthetic"].value, values["held_out"].value
        known = made is not None and real
        report.rows.append(Row(name, OVERALL, "synthetic", made / real if known else None, n_real=len(sets.real),
                               n_synthetic=len(sets.synthetic), note="synthetic over held-out real" if known else _NO_CLASS))


def classify(judge: Classifier, images: ImageSet) -> np.ndarray:
    """Class probabilities float64 (N, num_classes) of the images, at most 256 of which are held at a time."""
    parts = []
    with torch.inference_mode():
        for pixels in images.chunks():
            batch = torch.from_numpy(from_uint8(pixels)).permute(0, 3, 1, 2)
            batch = batch[:, : judge.config.im_channels].expand(-1, judge.config.im_channels, -1, -1)
            parts.append(judge(batch).double().softmax(dim=1).numpy())
    return np.concatenate(parts)


def _add_accuracy(report: EvaluationReport, judged: _Judged, repeats: int) -> Row:
    labels, predicted = judged.images.labels, judged.predicted
    interval = _interval(partial(weighted_balanced_accuracy, labels, predicted), judged.images.groups, repeats)
    row = judged.row("class balanced accuracy", balanced_accuracy(labels, predicted), interval=interval,
                     note=_INTERVAL_NOTE if interval else "")
    report.rows.append(row)
    return row


def _add_area(report: EvaluationReport, judged: _Judged, class_names: Sequence[str], repeats: int) -> Row:
    labels, probabilities = judged.images.labels, judged.probabilities
    if len(np.unique(labels)) < len(class_names):
        row = judged.row("class AUC", None, note=_NO_CLASS)
    else:
        if len(class_names) == 2:
            area = roc_auc_score(labels, probabilities[:, 1])
        else:
            area = roc_auc_score(labels, probabilities, multi_class="ovr", average="macro")
        interval = _interval(partial(weighted_class_area, labels, probabilities), judged.images.groups, repeats)
        row = judged.row("class AUC", float(area), interval=interval, note=_INTERVAL_NOTE if interval else "")
    report.rows.append(row)
    return row


def _add_signal(report: EvaluationReport, judged: _Judged, area: Row) -> None:
    """AUC - 0.5 on held-out real images: what there is to be learned about the class."""
    if area.value is None:
        report.rows.append(judged.row("class signal", None, note=area.note))
        return
    if area.interval is None:
        report.rows.append(judged.row("class signal", area.value - 0.5, note="no interval: too few groups"))
        report.warn("the class signal has no interval, because the held-out images are of too few groups: it is unproven")
        return
    low, high = area.interval
    found = low > 0.5
    report.rows.append(judged.row("class signal", area.value - 0.5, interval=(low - 0.5, high - 0.5),
                                  note=f"AUC - 0.5; {_INTERVAL_NOTE}" if found else NO_SIGNAL))
    if not found:
        report.warn(NO_SIGNAL)


def _add_confusion(report: EvaluationReport, judged: _Judged, class_names: Sequence[str]) -> None:
    """A row for each cell of the confusion matrix: the share of a true class that is judged as another."""
    shares = confusion_shares(judged.images.labels, judged.predicted, len(class_names))
    for label, name in enumerate(class_names):
        count = int((judged.images.labels == label).sum())
        for other, taken_for in enumerate(class_names):
            report.rows.append(judged.row(f"judged as {taken_for}", float(shares[label, other]) if count else None,
                                          class_name=name, count=count, note="" if count else _NO_CLASS))


def _interval(statistic: partial[np.ndarray], groups: Sequence[str], repeats: int) -> tuple[float, float] | None:
    if len(set(groups)) < 2:
        return None
    return bootstrap_interval(statistic, groups, repeats=repeats, seed=SEED)
