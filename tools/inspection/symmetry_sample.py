"""Which symmetries a config's training images obey. Every command uses this, so that all give the same answer."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from config.errors import UserError
from config.schema import DatasetParams
from dataset.annotations import AnnotationError, ImageRecord
from dataset.images import load_image
from dataset.latents import LabelledImages
from dataset.order import generator
from tools.diffusion.project import open_images
from tools.inspection.symmetries import SymmetryMeasurement, measure_symmetries
from tools.runtime.progress import Progress

# Of 1,000 patients' images the mean of a statistic is known to 0.03 standard deviations, far below MIN_EFFECT, in seconds.
_MOST_IMAGES = 1000
UNGROUPED = (
    "there is no group_column, so each image counts as a separate patient. If one patient has several images, what is found "
    "here is less certain than it looks"
)
_SIDE_PX = 64  # the side to which measure_symmetries averages


def measure_training_symmetries(data: DatasetParams, *, progress_bar: bool) -> SymmetryMeasurement:
    """Test up to 1,000 training images of a data set, chosen by `spread_over_groups`, at 64 px a side.

    Raises:
        UserError: the table, the folder or an image cannot be read.
    """
    images = _open(data)
    measured = _measure(images.records, lambda place: images[place][0].numpy(), skip_unreadable=False,
                        progress_bar=progress_bar)
    assert measured is not None
    return measured


def measure_sound_rows(data: DatasetParams, *, progress_bar: bool) -> SymmetryMeasurement | None:
    """The same for a table that may have faults, which check_dataset names: faulty rows and images are left out.

    None if no training image is left.
    """
    try:
        images = _open(data)
    except UserError as error:
        found = error.records if isinstance(error, AnnotationError) else ()
        records, table = [record for record in found if record.split == "train"], data.params
        return _measure(records, lambda place: load_image(
            records[place].path, im_channels=table.im_channels, size_px=_SIDE_PX, fit=table.fit), skip_unreadable=True,
            progress_bar=progress_bar)
    return _measure(images.records, lambda place: images[place][0].numpy(), skip_unreadable=True, progress_bar=progress_bar)


def spread_over_groups(groups: Sequence[str], most: int) -> list[int]:
    """Positions of `most` images, or of all: every group's first image, in a seeded order, before any group's second."""
    seen: Counter[str] = Counter()
    ranked = []
    for place in generator(0, "symmetry sample").permutation(len(groups)).tolist():
        ranked.append((seen[groups[place]], place))
        seen[groups[place]] += 1
    return sorted(place for _, place in sorted(ranked, key=lambda item: item[0])[:most])


def _open(data: DatasetParams) -> LabelledImages:
    return open_images(replace(data, params=replace(data.params, image_size=_SIDE_PX)), "train")


def _measure(
    records: Sequence[ImageRecord], read: Callable[[int], np.ndarray], *, skip_unreadable: bool, progress_bar: bool
) -> SymmetryMeasurement | None:
    chosen = spread_over_groups([record.group for record in records], _MOST_IMAGES)
    images, groups = [], []
    with Progress("measuring symmetries", len(chosen), enabled=progress_bar) as progress:
        for number, place in enumerate(chosen, start=1):
            try:
                images.append(read(place))
            except UserError:
                if not skip_unreadable:
                    raise
                continue
            groups.append(records[place].group)
            progress.update(number)
    return measure_symmetries(np.stack(images), groups=groups) if images else None
