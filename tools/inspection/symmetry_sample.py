"""Which symmetries a sample of a set's images obeys: small, so that it costs seconds whatever the size of the set."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from config.errors import UserError
from dataset.images import load_image
from tools.inspection.symmetries import SymmetryMeasurement, measure_symmetries

_MOST_IMAGES = 400
_SIDE_PX = 64  # the side to which measure_symmetries averages


def measure_sample(
    files: Sequence[Path], groups: Sequence[str], *, im_channels: int, fit: str
) -> SymmetryMeasurement | None:
    """Measure up to 400 images, spread evenly over the files; those that cannot be read are left out, None if all are."""
    places = np.unique(np.linspace(0, len(files) - 1, min(_MOST_IMAGES, len(files))).round().astype(int)) if files else ()
    images, their_groups = [], []
    for place in places:
        try:
            images.append(load_image(files[place], im_channels=im_channels, size_px=_SIDE_PX, fit=fit))
        except UserError:
            continue  # a finding of its own
        their_groups.append(groups[place])
    return measure_symmetries(np.stack(images), groups=their_groups) if images else None
