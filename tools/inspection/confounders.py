"""Whether the label can be read from what should not tell it: metadata alone, or the background alone.

Owns the comparison with the whole image and the rule of the warning; features and encodings come from beside it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import t as student_t

from tools.inspection.covariates import encode_covariate
from tools.inspection.descriptors import describe_background, describe_image, find_background
from tools.inspection.readout import GroupedLabels, Interval, summarise

# Strict, since a fit that met a chance association errs more than a bootstrap of its scores can tell. Of 80 sets of phantoms
# each, 0.001 raised one false alarm and missed one tint in the background, 0.005 one and none.
LEVEL = 0.005
RIVAL_SHARE = 1 / 3
RULE = (
    f"a source rivals the whole image where its AUC is above 0.5 (one-sided p < {LEVEL} over all sources together, groups "
    "as units) and its distance from 0.5 at least a third of the whole image's"
)
BACKGROUND = "the background alone is every pixel outside one central disc that holds 97% of the images' mean edge energy"


@dataclass(frozen=True)
class Source:
    """The label's AUC from one source: `kind` is whole, metadata or background; `auc` is None where `note` says why."""

    name: str
    kind: str
    auc: Interval | None
    p_value: float | None = None
    rivals: bool = False
    note: str | None = None


@dataclass(frozen=True)
class ConfounderReport:
    """Sources in the order of the table, the warnings that they raise, and what else the reader must know."""

    sources: tuple[Source, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    num_images: int
    num_groups: int
    mask: np.ndarray

    def to_json(self) -> dict[str, Any]:
        """Plain values, without the mask."""
        return {"num_images": self.num_images, "num_groups": self.num_groups, "rule": RULE, "background": BACKGROUND,
                "background_share": float(self.mask.mean()), "sources": [asdict(source) for source in self.sources],
                "warnings": list(self.warnings), "notes": list(self.notes)}


def measure_confounders(
    images: np.ndarray,
    *,
    labels: np.ndarray,
    groups: Sequence[str],
    covariates: Mapping[str, Sequence[str]],
    whole_features: Mapping[str, np.ndarray] | None = None,
    judged: Interval | None = None,
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

    Raises:
        UserError: labels that cannot be held out by group.
    """
    grouped = GroupedLabels(labels, groups, seed=seed)
    mask, fills = find_background(images)
    notes = [BACKGROUND + f": {mask.mean():.0%} of the frame here"]
    if fills:
        notes.append("the content fills the frame: the background alone shows parts of it, so read its AUC with care")

    whole = {"whole image, levels and edges": describe_image(images)}
    whole |= {f"whole image, {name}": values for name, values in (whole_features or {}).items()}
    encoded = [encode_covariate(name, cells) for name, cells in covariates.items()]
    notes += [f"{column.name}: {column.note}" for column in encoded if column.note is not None]
    telling = [column for column in encoded if column.values.shape[1]]
    tested = {("background alone", "background"): describe_background(images, mask)}
    if len(telling) > 1:
        tested["metadata alone, all columns", "metadata"] = np.concatenate([column.values for column in telling], axis=1)
    tested |= {(f"metadata alone, {column.name} ({column.kind})", "metadata"): column.values for column in telling}
    if not covariates:
        notes.append("metadata were not looked at: name their columns in dataset_params.params.covariate_columns")

    sources = [Source(name, "whole", _measure(grouped, values, name)) for name, values in whole.items()]
    sources += [] if judged is None else [Source("whole image, judge on held-out images", "whole", judged)]
    best = max(source.auc.value for source in sources)
    for (name, kind), values in tested.items():
        auc = _measure(grouped, values, name)
        p_value = min(1.0, len(tested) * _p_above_chance(auc, grouped.num_groups))
        rivals = p_value < LEVEL and auc.value - 0.5 >= RIVAL_SHARE * (best - 0.5)
        sources.append(Source(name, kind, auc, p_value, rivals))
    sources += [Source(f"metadata alone, {column.name} ({column.kind})", "metadata", None, note=column.note)
                for column in encoded if not column.values.shape[1]]
    if all(_p_above_chance(source.auc, grouped.num_groups) >= LEVEL for source in sources if source.kind == "whole"):
        notes.append("no class signal was found in the whole image by these means; a trained classifier may see more")
    warnings = [
        f"{source.name}: AUC {source.auc.format()} against {best:.3f} of the whole image; the label may be read from how or "
        "where an image was taken, so balance or split the data by it before believing anything about the class"
        for source in sources if source.rivals
    ]
    return ConfounderReport(tuple(sources), tuple(warnings), tuple(notes), len(images), grouped.num_groups, mask)


def format_report(report: ConfounderReport) -> str:
    """The table, the warnings and the notes as lines."""
    width = max(len(source.name) for source in report.sources) + 2
    lines = [f"{report.num_images} images of {report.num_groups} groups; AUC of the label with its 95% interval",
             f"{'read from':<{width}}{'AUC':<24}{'p':<10}verdict"]
    for source in report.sources:
        if source.auc is None:
            lines.append(f"{source.name:<{width}}{'not computed: ' + str(source.note)}")
            continue
        p_value = "" if source.p_value is None else f"{source.p_value:.4f}"
        verdict = "" if source.kind == "whole" else "RIVALS the whole image" if source.rivals else "no rival"
        lines.append(f"{source.name:<{width}}{source.auc.format():<24}{p_value:<10}{verdict}".rstrip())
    lines += [f"warning: {text}" for text in report.warnings]
    lines += [f"note: {text}" for text in report.notes]
    lines.append(f"rule: {RULE}")
    return "\n".join(lines)


def _measure(grouped: GroupedLabels, values: np.ndarray, name: str) -> Interval:
    return summarise(grouped.resampled_auc(grouped.cross_validate(values, name=name)))


def _p_above_chance(auc: Interval, num_groups: int) -> float:
    """One-sided p of an AUC above 0.5 by Student's t with the bootstrap's standard error."""
    if auc.error == 0.0:
        return 0.0 if auc.value > 0.5 else 1.0
    return float(student_t.sf((auc.value - 0.5) / auc.error, num_groups - 1))
