"""The result of an evaluation: rows, warnings, provenance, and what the pages show besides. The pages are report/'s."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tools.evaluation.image_set import ImageSet
from tools.evaluation.memorisation import CopyAudit
from tools.evaluation.morphometry_record import MorphometryRecord
from tools.evaluation.report.exhibits import Exhibits, FeatureExhibit
from tools.evaluation.rows import OVERALL, Row
from tools.evaluation.sweep_curves import SweepRecord

TableRow = dict[str, object]  # the cells of a table for internal use, by column


@dataclass
class ReportDetails:
    """What images, plots and tables are made of; it is not part of evaluation.json.

    Attributes:
        copies: the audits in pixels, then of each encoder.
        copy_pairs: the nearest pairs by name.
        rejected: the images that were left out as near-copies.
        features: what each encoder sees.
        exhibits: all that the pages show; None before the images are taken.
        held_out_sha256: the hash of each held-out image.
        study: the sentences of an augmentation study.
        flips: class flips from the same noise.
    """

    copies: list[CopyAudit] = field(default_factory=list)
    copy_pairs: list[TableRow] = field(default_factory=list)
    rejected: list[TableRow] = field(default_factory=list)
    features: list[FeatureExhibit] = field(default_factory=list)
    exhibits: Exhibits | None = None
    held_out_sha256: Sequence[str] = ()
    study: Sequence[str] = ()
    morphometry: MorphometryRecord | None = None
    sweep: SweepRecord | None = None
    flips: ImageSet | None = None

    @property
    def shown(self) -> Exhibits:
        """The exhibits of a finished evaluation."""
        assert self.exhibits is not None  # the protocol's last step makes them
        return self.exhibits


@dataclass
class EvaluationReport:
    """Everything an evaluation found. Equal runs give equal reports: no clock, no host."""

    provenance: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    details: ReportDetails = field(default_factory=ReportDetails)

    def warn(self, text: str) -> None:
        """Add a warning once."""
        if text not in self.warnings:
            self.warnings.append(text)

    def find(self, metric: str, comparison: str, class_name: str = OVERALL) -> Row | None:
        """The row of this metric, comparison and class, if there is one."""
        return next((row for row in self.rows if (row.metric, row.comparison, row.class_name)
                     == (metric, comparison, class_name)), None)
