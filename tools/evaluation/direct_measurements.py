"""Sets of images as the direct checks see them: measured, sorted by what is broken, and read by a plain model of the class.

What must be known beforehand, limits and models, comes from the training images alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from dataset.images import from_uint8
from tools.evaluation.descriptors import describe_image
from tools.evaluation.evaluation_sets import SEED
from tools.evaluation.image_measures import ImageMeasures, measure_images
from tools.evaluation.image_set import ImageSet
from tools.evaluation.memorisation import pixel_vectors
from tools.evaluation.resampling import cap_by_group

_FAR = 2.0  # an image is broken this many times as far from the median as all but 1% of the training images
_TAIL = 0.01
NUM_OFF_RANGE_LIMITS = 3
_LEAST_BRIGHTNESS, _LEAST_SATURATED = 10.0, 0.05  # least distances from the median: gray levels, fraction
_LEAST_LOG_CONTRAST = float(np.log(4.0))
_SOFT_CONTRAST = 0.5  # gray levels added before a logarithm: the rounding of a flat image
_LIKENESS = 0.1  # expected squared likeness of a training image to all others of a set
_MAX_LIKENESS_IMAGES = 1000
_MOST_BROKEN = 0.5
_FEWEST_OF_CLASS = 5


@dataclass(frozen=True)
class MeasuredImages:
    """N images: their measures, unit vectors of 16 px thumbnails (N, D), which are empty or off-range, bool (N,), and the
    class that a linear model reads, int64 (N,), -1 where none could be fitted."""

    images: ImageSet
    measures: ImageMeasures
    thumbnails: np.ndarray
    empty: np.ndarray
    off_range: np.ndarray
    predicted: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def select(self, rows: np.ndarray) -> "MeasuredImages":
        """The images at these positions."""
        return MeasuredImages(self.images.select(rows), self.measures.select(rows), self.thumbnails[rows], self.empty[rows],
                              self.off_range[rows], self.predicted[rows])

    def find(self, images: ImageSet) -> "MeasuredImages":
        """Those of `images` that are among these, in their order."""
        position = {image_id: row for row, image_id in enumerate(self.images.ids)}
        return self.select(np.array([position[image_id] for image_id in images.ids if image_id in position], np.int64))

    @property
    def intact(self) -> np.ndarray:
        """Which images the other checks see: those that are not broken, or all where most are."""
        broken = self.empty | self.off_range
        return ~broken if broken.mean() < _MOST_BROKEN else np.ones(len(broken), bool)


def measure_sets(train: ImageSet, *others: ImageSet) -> list[MeasuredImages]:
    """The training images and other sets, all measured alike. The training images are read by a model fitted to them."""
    taken = [_measure(images) for images in (train, *others)]
    limits = _Limits.of(taken[0][0])
    predictions = _read_classes(train, [descriptions for _, descriptions, _ in taken])
    return [MeasuredImages(images, measures, thumbnails, limits.empty(measures), limits.off_range(measures), predicted)
            for images, (measures, _, thumbnails), predicted in zip((train, *others), taken, predictions, strict=True)]


def _measure(images: ImageSet) -> tuple[ImageMeasures, np.ndarray, np.ndarray]:
    parts = [(measure_images(chunk), describe_image(from_uint8(np.moveaxis(chunk, -1, 1))), pixel_vectors(chunk))
             for chunk in images.chunks()]
    measures, descriptions, thumbnails = zip(*parts, strict=True)
    return ImageMeasures.join(measures), np.concatenate(descriptions), np.concatenate(thumbnails)


@dataclass(frozen=True)
class _Limits:
    """Beyond these an image is empty (least contrast) or off-range (brightness, saturated pixels)."""

    log_contrast: float
    brightness: tuple[float, float]
    saturated: float

    @classmethod
    def of(cls, measures: ImageMeasures) -> "_Limits":
        """As far from the median as `_FAR` times all but 1% of the training images, on either side."""
        low, _ = _limits(np.log(measures.contrast + _SOFT_CONTRAST), _LEAST_LOG_CONTRAST)
        _, high = _limits(measures.saturated, _LEAST_SATURATED)
        return cls(low, _limits(measures.brightness, _LEAST_BRIGHTNESS), high)

    def empty(self, measures: ImageMeasures) -> np.ndarray:
        return np.log(measures.contrast + _SOFT_CONTRAST) < self.log_contrast

    def off_range(self, measures: ImageMeasures) -> np.ndarray:
        low, high = self.brightness
        outside = (measures.brightness < low) | (measures.brightness > high) | (measures.saturated > self.saturated)
        return outside & ~self.empty(measures)


def _limits(values: np.ndarray, least: float) -> tuple[float, float]:
    low, middle, high = np.percentile(values, [1, 50, 99])
    return (float(middle - max(_FAR * (middle - low), least)), float(middle + max(_FAR * (high - middle), least)))


def _read_classes(train: ImageSet, descriptions: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Classes read by a linear discriminant with shrunk covariance, every class equally likely.

    Source: Ledoit and Wolf 2004 for the shrinkage; Fisher 1936.
    """
    counts = np.bincount(train.labels)
    if (counts > 0).sum() < 2 or counts[counts > 0].min() < _FEWEST_OF_CLASS:
        return [np.full(len(each), -1) for each in descriptions]
    centre, scale = descriptions[0].mean(axis=0), descriptions[0].std(axis=0)
    scaled = [(each - centre) / np.where(scale > 0, scale, 1.0) for each in descriptions]
    num_classes = int((counts > 0).sum())
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=np.full(num_classes, 1 / num_classes))
    model.fit(scaled[0], train.labels)
    return [model.predict(each).astype(np.int64) for each in scaled]


def tail_rate(num_groups: int, *, heavy: bool) -> float:
    """The fraction of intact groups beyond one limit of broken images that was set by `num_groups` training groups.

    All but 1%, or one group of fewer than 100, are within half the distance. Beyond it is the square of that fraction where
    tails fall like exp(-x), and its power of sqrt(2) where they are as `heavy` as exp(-sqrt(x)).
    """
    return float(max(_TAIL, 1.0 / num_groups) ** (np.sqrt(2.0) if heavy else 2.0))


def fit_likeness(train: MeasuredImages, num_images: int) -> float:
    """The scale h of the squared likeness exp(-d^2 / h^2) at which `num_images` training images count as 10/11 as many.

    So narrow a likeness sees repeats: each image twice is 11 standard deviations from 100 real images of three data sets,
    with a scale that counts them as half only 3 to 6.
    """
    rows = np.flatnonzero(train.intact)
    groups = np.asarray(train.images.groups)[rows]
    kept = cap_by_group(groups, limit=_MAX_LIKENESS_IMAGES, seed=SEED)
    rows, groups = rows[kept], groups[kept]
    squared = _squared_distances(train.thumbnails[rows])[groups[:, None] != groups[None, :]]
    if not len(squared):
        return 1.0
    low, high = 1e-3, 10.0
    for _ in range(40):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if (num_images - 1) * np.exp(-squared / middle**2).mean() > _LIKENESS else (middle, high)
    return (low * high) ** 0.5


def squared_likeness(vectors: np.ndarray, scale: float) -> np.ndarray:
    """exp(-d^2 / scale^2) of all pairs of unit vectors (N, D): (N, N)."""
    return np.exp(-_squared_distances(vectors) / scale**2)


def _squared_distances(vectors: np.ndarray) -> np.ndarray:
    return np.maximum(2.0 - 2.0 * (vectors @ vectors.T), 0.0)
