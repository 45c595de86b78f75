"""Inspect a config's whole data set once: its rows, then every file. The order of the checks is here, their rules are
in problems.py."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from config.schema import DatasetParams
from dataset.annotations import AnnotationError, ImageRecord, Problem, list_reading_notes
from dataset.decoding import ImageError
from dataset.image_folder import ImageFolder
from tools.check_dataset.problems import (
    ERROR,
    Finding,
    image_findings,
    reading_findings,
    row_findings,
    symmetry_findings,
    unlabelled_findings,
    unlisted_findings,
)
from tools.diffusion.project import open_images
from tools.inspection.image_statistics import ImageStatistics, measure_image
from tools.inspection.perceptual_hash import THUMBNAIL_PX
from tools.inspection.symmetry_sample import measure_sound_rows
from tools.runtime.progress import Progress


@dataclass(frozen=True)
class Inspection:
    """All findings; `num_unopened` counts faulty rows, whose images were not opened."""

    records: Sequence[ImageRecord]
    statistics: Sequence[ImageStatistics | None]
    findings: Sequence[Finding]
    num_unopened: int

    @property
    def has_groups(self) -> bool:
        """Whether the records have groups (patients or embryos)."""
        return not any(finding.kind == "ungrouped" for finding in self.findings)

    @property
    def num_errors(self) -> int:
        return sum(finding.severity == ERROR for finding in self.findings)


def inspect_dataset(data: DatasetParams, *, progress_bar: bool) -> Inspection:
    """Check every row and every file of the config's data set.

    Raises:
        UserError: the table or the folder cannot be read at all.
    """
    records, problems = _read(data)
    statistics: list[ImageStatistics | None] = []
    thumbnails = np.zeros((len(records), THUMBNAIL_PX, THUMBNAIL_PX), np.uint8)
    faults: dict[int, tuple[str, str]] = {}
    with Progress("looking at images", len(records), enabled=progress_bar) as progress:
        for position, record in enumerate(records):
            try:
                values, thumbnails[position] = measure_image(record.path)
            except ImageError as error:
                values = None
                _, _, reason = str(error).removeprefix(f"{record.path}: ").partition(", ")
                faults[position] = ("truncated" if error.is_cut else "unreadable", reason)
            statistics.append(values)
            progress.update(position + 1)
    table = data.params
    grouped = len({record.group for record in records}) < len(records)
    findings = row_findings(problems, records) + image_findings(
        records, statistics, thumbnails, faults=faults, class_names=table.class_names, im_channels=table.im_channels,
        image_size=table.image_size, grouped=grouped or table.group_column is not None,
    )
    if not data.symmetry_conditioning:  # with it the network knows the view
        findings += symmetry_findings(measure_sound_rows(
            data, progress_bar=progress_bar), data.symmetries)
    if table.csv_file is not None and not problems:  # a faulty row may name any of them
        named = {record.path for record in records}
        files = ImageFolder.scan(table.root_dir).files
        findings += unlisted_findings([name for name in sorted(files) if Path(table.root_dir) / name not in named])
    if data.target == DatasetParams.target:  # another one may read no table
        findings += reading_findings(list_reading_notes(table.csv_file, table.label_column, table.missing_labels))
    findings += unlabelled_findings(records, len(table.class_names))
    opened = {record.place for record in records}
    unopened = {place for problem in problems for places in problem.places for place in places} - opened
    return Inspection(records, statistics, findings, len(unopened))


def _read(data: DatasetParams) -> tuple[Sequence[ImageRecord], Sequence[Problem]]:
    try:
        return open_images(data).records, ()
    except AnnotationError as error:
        if not error.problems:
            raise
        return error.records, error.problems
