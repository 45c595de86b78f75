"""From a key and readings to the numbers of a reader study: rows by reader and for all readers, warnings, provenance.

page.py writes them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from tools.reader_study.agreement import cohen_kappa, fleiss_kappa, kappa_of_counts, krippendorff_alpha
from tools.reader_study.answers import (
    CONFIDENCE_SCALE,
    FIRST_SYNTHETIC,
    REAL,
    ROUND_TRIP,
    SCHEMA,
    SYNTHETIC,
    Readings,
    StudyKey,
)
from tools.reader_study.intervals import (
    Resamples,
    balanced_accuracy_of_tables,
    draw_resamples,
    mean_over_readers,
    percentile_interval,
    weighted_auc,
    weighted_share,
    weighted_tables,
)

ALL_READERS = "all readers"
DEFECT, ANY_DEFECT = "defect: ", "any defect"
# The two arms that are distinguished; the names are those of the other metrics.
COMPARISONS = {
    "total": (SYNTHETIC, REAL, "synthetic told from real"),
    "ceiling": (ROUND_TRIP, REAL, "VAE round trips of real told from real"),
    "model_gap": (SYNTHETIC, ROUND_TRIP, "synthetic told from VAE round trips of real"),
}
_FEWEST_CASES = 20  # below this an interval by resampling is too narrow to be read as 95%
_FEWEST_READERS = 4


@dataclass(frozen=True)
class ReaderRow:
    """One number. `reader` is a name or ALL_READERS, the mean over readers; `value` None means undefined: see `note`."""

    metric: str
    comparison: str
    reader: str
    value: float | None
    interval: tuple[float, float] | None
    n: int
    note: str = ""


@dataclass
class ReaderReport:
    """All results of a reader study."""

    rows: list[ReaderRow]
    warnings: list[str]
    provenance: dict[str, Any]

    def find(self, metric: str, comparison: str, reader: str = ALL_READERS) -> ReaderRow | None:
        """The row of this metric, comparison and reader, if there is one."""
        return next((row for row in self.rows if (row.metric, row.comparison, row.reader)
                     == (metric, comparison, reader)), None)


@dataclass
class _Study:
    """First showings only: arms and labels (N,), ratings (J, N), and the drawn weights for their intervals."""

    key: StudyKey
    readings: Readings
    arms: np.ndarray
    labels: np.ndarray
    first: np.ndarray  # positions among the key's items
    resamples: Resamples
    rows: list[ReaderRow] = field(default_factory=list)

    def in_arm(self, arm: str) -> np.ndarray:
        return self.arms == arm

    def present(self, arm: str) -> bool:
        return bool(self.in_arm(arm).any())

    def add(self, metric: str, comparison: str, n: int, statistic: Callable[[np.ndarray], np.ndarray]) -> None:
        """Rows for each reader and for all, of a statistic of case weights (B, N) -> (B, J)."""
        values = statistic(np.ones((1, len(self.arms))))[0]
        draws = statistic(self.resamples.cases)
        for reader, value, own in zip(self.readings.readers, values, draws.T, strict=True):
            self.rows.append(_row(metric, comparison, reader, value, percentile_interval(own), n))
        mean = mean_over_readers(values[None], np.ones((1, len(values))))[0]
        self.rows.append(_row(metric, comparison, ALL_READERS, mean,
                              percentile_interval(mean_over_readers(draws, self.resamples.readers)), n))


def score(key: StudyKey, readings: Readings, *, repeats: int, seed: int) -> ReaderReport:
    """All numbers of a study. Of an image shown twice the first showing counts; the second only serves agreement."""
    first = np.array([place for place, item in enumerate(key.items) if item.showing == 1])
    items = [key.items[place] for place in first]
    resamples = draw_resamples([item.group for item in items], [item.arm for item in items],
                               num_readers=len(readings.readers), repeats=repeats, seed=seed)
    study = _Study(key, readings, np.array([item.arm for item in items]), np.array([item.label for item in items]), first,
                   resamples)
    if key.asks_realism:
        _score_realism(study)
        _score_defects(study)
    if key.asks_outcome:
        _score_outcome(study)
    _score_between_readers(study)
    _score_within_readers(study)
    for reader, seconds in zip(readings.readers, readings.seconds, strict=True):
        study.rows.append(_row("median seconds an image", "reading", reader, float(np.median(seconds)), None, len(seconds)))
    return ReaderReport(rows=study.rows, warnings=_warnings(study), provenance={
        "schema": SCHEMA, "key_sha256": key.sha256, "pack_sha256": key.pack_sha256, "task": key.task,
        "class_names": list(key.class_names), "scale": list(CONFIDENCE_SCALE), "readers": list(readings.readers),
        "readers_without_answers": [name for name in key.readers if name not in readings.readers],
        "num_images": {str(arm): int(count) for arm, count in zip(*np.unique(study.arms, return_counts=True), strict=True)},
        "num_repeated": len(key.items) - len(first), "bootstrap_repeats": repeats, "bootstrap_seed": seed,
        "pack": key.provenance,
    })


def _score_realism(study: _Study) -> None:
    confidence = study.readings.confidence[:, study.first]
    for comparison, (above, below, _) in COMPARISONS.items():
        if study.present(above) and study.present(below):
            positive, negative = study.in_arm(above), study.in_arm(below)
            study.add("AUC of confidence", comparison, int((positive | negative).sum()),
                      lambda w, p=positive, n=negative: weighted_auc(confidence, p, n, w))
    called = confidence >= FIRST_SYNTHETIC
    chosen = study.in_arm(SYNTHETIC)
    study.add("sensitivity", SYNTHETIC, int(chosen.sum()), lambda w: weighted_share(called, study.in_arm(SYNTHETIC), w))
    study.add("specificity", REAL, int(study.in_arm(REAL).sum()), lambda w: weighted_share(~called, study.in_arm(REAL), w))
    for arm in (REAL, ROUND_TRIP, SYNTHETIC):
        if study.present(arm):
            study.add("share called real", arm, int(study.in_arm(arm).sum()),
                      lambda w, a=arm: weighted_share(~called, study.in_arm(a), w))


def _score_defects(study: _Study) -> None:
    """Fraction of the images of an arm on which a reader ticks a defect."""
    ticked = study.readings.defects[:, study.first]
    marks = {f"{DEFECT}{name}": ticked[:, :, place] for place, name in enumerate(study.key.defects)}
    if marks:
        marks[ANY_DEFECT] = ticked.any(axis=2)
    for metric, mark in marks.items():
        for arm in (REAL, ROUND_TRIP, SYNTHETIC):
            if study.present(arm):
                study.add(metric, arm, int(study.in_arm(arm).sum()),
                          lambda w, m=mark, a=arm: weighted_share(m, study.in_arm(a), w))


def _score_outcome(study: _Study) -> None:
    grades = study.readings.grades[:, study.first]
    for arm in (REAL, ROUND_TRIP, SYNTHETIC):
        if study.present(arm):
            chosen = study.in_arm(arm)
            tables = partial(weighted_tables, study.labels, grades, chosen, num_classes=len(study.key.class_names))
            n = int(chosen.sum())
            study.add("grade, balanced accuracy", arm, n, lambda w, t=tables: balanced_accuracy_of_tables(t(w)))
            study.add("grade, kappa with the label", arm, n, lambda w, t=tables: kappa_of_counts(t(w)))


def _score_between_readers(study: _Study) -> None:
    """Agreement between readers on first showings, over all arms together."""
    if len(study.readings.readers) < 2:
        return
    n = len(study.first)
    found: list[tuple[str, float]] = []
    if study.key.asks_realism:
        confidence = study.readings.confidence[:, study.first] - 1
        levels = len(CONFIDENCE_SCALE)
        pairs = [cohen_kappa(a, b, num_categories=levels, weighting="quadratic")
                 for place, a in enumerate(confidence) for b in confidence[place + 1:]]
        known = [value for value in pairs if np.isfinite(value)]
        found += [
            ("confidence, Krippendorff's alpha (ordinal)",
             krippendorff_alpha(confidence, num_categories=levels, level="ordinal")),
            ("confidence, mean pairwise kappa (quadratic weights)", float(np.mean(known)) if known else float("nan")),
            ("called synthetic, Fleiss' kappa", fleiss_kappa(confidence + 1 >= FIRST_SYNTHETIC, num_categories=2)),
        ]
    if study.key.asks_outcome:
        grades = study.readings.grades[:, study.first]
        found.append(("grade, Fleiss' kappa", fleiss_kappa(grades, num_categories=len(study.key.class_names))))
    for metric, value in found:
        study.rows.append(_row(metric, "between readers", ALL_READERS, value, None, n))


def _score_within_readers(study: _Study) -> None:
    """Agreement of each reader with himself on the images shown twice, and its mean over readers."""
    key, readings = study.key, study.readings
    showings: dict[tuple[str, str], dict[int, int]] = {}
    for place, item in enumerate(key.items):
        showings.setdefault((item.arm, item.image_id), {})[item.showing] = place
    pairs = np.array([(found[1], found[2]) for found in showings.values() if 2 in found], dtype=np.int64).reshape(-1, 2)
    if not len(pairs):
        return
    ratings = [("confidence, kappa (quadratic weights)", readings.confidence - 1, len(CONFIDENCE_SCALE), "quadratic")
               ] if key.asks_realism else []
    ratings += [("grade, kappa", readings.grades, len(key.class_names), "none")] if key.asks_outcome else []
    for metric, values, num_categories, weighting in ratings:
        early, late = values[:, pairs[:, 0]], values[:, pairs[:, 1]]
        kappas = np.array([cohen_kappa(a, b, num_categories=num_categories, weighting=weighting)
                           for a, b in zip(early, late, strict=True)])
        same = (early == late).mean(axis=1)
        for name, by_reader in ((metric, kappas), (f"{metric.split(',')[0]}, same answer", same)):
            for reader, value in zip(readings.readers, by_reader, strict=True):
                study.rows.append(_row(name, "within a reader", reader, value, None, len(pairs)))
            mean = mean_over_readers(by_reader[None], np.ones((1, len(by_reader))))[0]
            study.rows.append(_row(name, "within a reader", ALL_READERS, mean, None, len(pairs)))


def _row(metric: str, comparison: str, reader: str, value: float, interval: tuple[float, float] | None, n: int) -> ReaderRow:
    if np.isfinite(value):
        return ReaderRow(metric, comparison, reader, float(value), interval, n)
    return ReaderRow(metric, comparison, reader, None, None, n, note="undefined: all answers are one category")


def _warnings(study: _Study) -> list[str]:
    key, readings = study.key, study.readings
    warnings = []
    absent = [name for name in key.readers if name not in readings.readers]
    if absent:
        warnings.append(f"no answers of {', '.join(absent)}: if they were asked and did not finish, say so in the report")
    if len(readings.readers) == 1:
        warnings.append("one reader: the intervals cover other images, not other readers")
    elif len(readings.readers) < _FEWEST_READERS:
        warnings.append(f"{len(readings.readers)} readers: intervals over so few readers tend to be too narrow")
    for arm in np.unique(study.arms):
        groups = {key.items[place].group for place in study.first[study.in_arm(arm)]}
        if len(groups) < _FEWEST_CASES:
            warnings.append(f"{arm}: {len(groups)} groups (patients, embryos; a synthetic image is its own): intervals over "
                            "so few tend to be too narrow")
    if key.asks_realism:
        total = next(row for row in study.rows if (row.metric, row.comparison, row.reader)
                     == ("AUC of confidence", "total", ALL_READERS))
        if total.interval is None:
            warnings.append(f"AUC {total.value:g} in every draw: resampling gives no interval")
        elif total.interval[0] <= 0.5 <= total.interval[1]:
            warnings.append("the interval of the AUC holds 0.5: that synthetic images can be told was not shown; how well "
                            "they might be is the interval's upper end")
    return warnings
