"""Compare how well metadata alone, the background alone and the whole image predict the label."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import t as student_t

from config.errors import UserError
from tools.check_confounders.covariates import encode_covariate
from tools.evaluation.descriptors import (
    LEAST_BACKGROUND,
    describe_background,
    describe_image,
    find_background,
    outside_disc,
)
from tools.inspection.readout import GroupedLabels, Interval, summarise

# Strict, because the bootstrap of scores does not see the error of a fit to a chance association. On 80 sets of phantoms
# each, 0.001 raised one false alarm and missed one tint in the background, 0.005 one and none.
LEVEL = 0.005
RIVAL_SHARE = 1 / 3
RULE = (
    f"a source rivals the whole image if its AUC is above 0.5 (one-sided p < {LEVEL} over all sources together, groups as "
    "units) and at least a third as far from 0.5 as the whole image's"
)
BACKGROUND = "the background alone is every pixel outside one central disc that holds 97% of the images' mean edge energy"
_CHOSEN_BACKGROUND = "the background alone is every pixel outside the central disc that you chose"
_FILLED = "the content fills the frame"
_SEPARATE = (
    f"background alone: the central disc that holds 97% of the edges leaves less than {LEAST_BACKGROUND:.0%} of the frame. "
    "To separate the background, use images with a wider margin (fit: pad if crop cuts it off), or give --disc the diameter "
    "of the embryo if it is smaller, as in a well that fills the frame"
)
_ALL_COLUMNS = "metadata alone, all columns"
_ADVICE = {
    "background": "The label may depend on how or where an image was taken. Balance or split the data by that before you "
                  "trust any result about the class",
    "metadata": "If a column says how, where or when an image was taken, balance or split the data by it before you trust "
                "any result about the class. If it describes the embryo, it may be the label in other words: remove it from "
                "covariate_columns",
}


@dataclass(frozen=True)
class LabelSource:
    """The label's AUC from one source: `kind` is whole, metadata or background; `auc` is None if `note` says why."""

    name: str
    kind: str
    auc: Interval | None
    p_value: float | None = None
    rivals: bool = False
    note: str | None = None


@dataclass(frozen=True)
class ConfounderReport:
    """Sources in the order of the table, their warnings, and notes for the reader."""

    sources: tuple[LabelSource, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    num_images: int
    num_groups: int
    background: str
    mask: np.ndarray | None

    def to_json(self) -> dict[str, Any]:
        """Plain values, without the mask; `background_share` is None if the background cannot be separated."""
        share = None if self.mask is None else float(self.mask.mean())
        return {"num_images": self.num_images, "num_groups": self.num_groups, "rule": RULE, "background": self.background,
                "background_share": share, "sources": [asdict(source) for source in self.sources],
                "warnings": list(self.warnings), "notes": list(self.notes)}


def measure_confounders(
    images: np.ndarray,
    *,
    labels: np.ndarray,
    groups: Sequence[str],
    covariates: Mapping[str, Sequence[str]],
    whole_features: Mapping[str, np.ndarray] | None = None,
    judged: Interval | None = None,
    disc: float | None = None,
    seed: int = 0,
) -> ConfounderReport:
    """Compare the label's AUC from metadata and background with that from the whole image.

    Every AUC is that of a ridge logistic regression on held-out groups, with an interval by group bootstrap; with more
    than two classes it is the mean of each class against the rest.

    Args:
        images: float (N, C, H, H) in [-1, 1].
        labels: int (N,).
        groups: patient or embryo of each image.
        covariates: the cells of each column, (N,) text.
        whole_features: further descriptions of the whole images by name, such as those of a network, (N, D) each.
        judged: the AUC of a trained classifier on those images that it has not seen.
        disc: diameter of the central disc that holds the embryo, in sides of the frame; None finds it by its edges.

    Raises:
        UserError: labels that cannot be held out by group, or a disc that leaves no background.
    """
    grouped, mask = GroupedLabels(labels, groups, seed=seed), _choose_background(images, disc)
    background = BACKGROUND if disc is None else _CHOSEN_BACKGROUND
    notes = [_SEPARATE] if mask is None else [f"{background}: {mask.mean():.0%} of the frame here"]

    whole = {"whole image, levels and edges": describe_image(images)}
    whole |= {f"whole image, {name}": values for name, values in (whole_features or {}).items()}
    encoded = [encode_covariate(name, cells) for name, cells in covariates.items()]
    notes += [f"{column.name}: {column.note}" for column in encoded if column.note is not None]
    telling = [column for column in encoded if column.values.shape[1]]
    tested = {} if mask is None else {("background alone", "background"): describe_background(images, mask)}
    if len(telling) > 1:
        tested[_ALL_COLUMNS, "metadata"] = np.concatenate([column.values for column in telling], axis=1)
    tested |= {(f"metadata alone, {column.name} ({column.kind})", "metadata"): column.values for column in telling}
    if not covariates:
        notes.append("no metadata were tested: name their columns in dataset_params.params.covariate_columns")
    sources = [LabelSource(name, "whole", _measure(grouped, values, name)) for name, values in whole.items()]
    sources += [] if judged is None else [LabelSource("whole image, judge on held-out images", "whole", judged)]
    sources += [] if mask is not None else [LabelSource("background alone", "background", None, note=_FILLED)]
    best = max(source.auc.value for source in sources if source.auc is not None)
    for (name, kind), values in tested.items():
        auc = _measure(grouped, values, name)
        p_value = min(1.0, len(tested) * _p_above_chance(auc, grouped.num_groups))
        rivals = p_value < LEVEL and auc.value - 0.5 >= RIVAL_SHARE * (best - 0.5)
        sources.append(LabelSource(name, kind, auc, p_value, rivals))
    sources += [LabelSource(f"metadata alone, {column.name} ({column.kind})", "metadata", None, note=column.note)
                for column in encoded if not column.values.shape[1]]
    if any(source.auc is not None and source.auc.high < 0.5 for source in sources):
        notes.append("an AUC below 0.5 means that nothing was learned; with few groups it can be far below")
    if all(_p_above_chance(source.auc, grouped.num_groups) >= LEVEL for source in sources if source.kind == "whole"):
        notes.append("no class signal was found in the whole image by this method; a trained classifier may see more")
    return ConfounderReport(tuple(sources), tuple(_warn(sources, best)), tuple(notes), len(images), grouped.num_groups,
                            background, mask)


def _choose_background(images: np.ndarray, disc: float | None) -> np.ndarray | None:
    """Where the frame shows no embryo: outside the disc, or found by edges; None where that is too little.

    Raises:
        UserError: a disc that leaves too little.
    """
    mask = find_background(images) if disc is None else outside_disc(disc)
    if disc is not None and mask is None:
        raise UserError(f"--disc: expected a disc that leaves {LEAST_BACKGROUND:.0%} of the frame or more, found a diameter "
                        f"of {disc:g} sides; choose a smaller one, such as 0.8")
    return mask


def format_report(report: ConfounderReport) -> str:
    """The table, the warnings and the notes as lines."""
    width = max(len(source.name) for source in report.sources) + 2
    lines = [f"{report.num_images} images of {report.num_groups} groups; AUC of the label with its 95% interval",
             f"{'read from':<{width}}{'AUC':<24}{'p':<10}verdict"]
    for source in report.sources:
        if source.auc is None:
            lines.append(f"{source.name:<{width}}{'not computed: ' + str(source.note)}")
            continue
        p_value = "" if source.p_value is None else f"{source.p_value:.4f}" if source.p_value >= 1e-4 else "<0.0001"
        verdict = "" if source.kind == "whole" else "RIVALS the whole image" if source.rivals else "no rival found"
        lines.append(f"{source.name:<{width}}{source.auc.format():<24}{p_value:<10}{verdict}".rstrip())
    lines += [f"warning: {text}" for text in report.warnings]
    lines += [f"note: {text}" for text in report.notes]
    lines.append(f"rule: {RULE}")
    return "\n".join(lines)


def _warn(sources: Sequence[LabelSource], best: float) -> Iterator[str]:
    """One warning for the background and one for all metadata, which names the columns that alone rival the image."""
    for kind, advice in _ADVICE.items():
        rivals = [source for source in sources if source.kind == kind and source.rivals]
        rivals = [source for source in rivals if source.name != _ALL_COLUMNS] or rivals
        if rivals:
            named = "; ".join(f"{source.name}: AUC {source.auc.format()}" for source in rivals if source.auc is not None)
            yield f"{named}; the whole image: {best:.3f}. {advice}"


def _measure(grouped: GroupedLabels, values: np.ndarray, name: str) -> Interval:
    return summarise(grouped.resampled_auc(grouped.cross_validate(values, name=name)))


def _p_above_chance(auc: Interval, num_groups: int) -> float:
    """One-sided p of an AUC above 0.5 by Student's t with the bootstrap's standard error."""
    if auc.error == 0.0:
        return 0.0 if auc.value > 0.5 else 1.0
    return float(student_t.sf((auc.value - 0.5) / auc.error, num_groups - 1))
