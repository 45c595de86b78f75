"""What an evaluation compares, at equal n and class prior, and how much of it is computed. Owns no metric."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from config.errors import UserError
from dataset.order import generator
from tools.evaluation.image_set import ImageSet, count_labels, draw_matched, matched_counts

SEED = 0  # of every draw in the evaluation; part of the protocol, not of a run
MAX_PAIRWISE_IMAGES = 5000  # a side, for statistics whose cost is quadratic in the number of images


class Bar(Protocol):
    """Something that is told how many images are done."""

    def update(self, done: int) -> None: ...


class _Silent:
    def update(self, done: int) -> None:
        """Nobody watches."""


OpenBar = Callable[[str, int], AbstractContextManager[Bar]]


def no_bar(_title: str, _total: int) -> AbstractContextManager[Bar]:
    """The bar of an evaluation that nobody watches."""
    return nullcontext(_Silent())


@dataclass(frozen=True)
class EvaluationSets:
    """What is compared: all at one size; `train` and `real` are disjoint in their groups.

    `trained` holds the images of `train` and after them those that were trained on without a label, where there are any.
    """

    synthetic: ImageSet
    real: ImageSet
    train: ImageSet
    real_round_trip: ImageSet
    train_round_trip: ImageSet
    class_names: Sequence[str]
    trained: ImageSet | None = None
    trained_round_trip: ImageSet | None = None

    @property
    def searched(self) -> tuple[ImageSet, ImageSet]:
        """The images that copies may be of, and their round trips."""
        if self.trained is None or self.trained_round_trip is None:
            return self.train, self.train_round_trip
        return self.trained, self.trained_round_trip

    def missing_classes(self) -> list[str]:
        """Names of classes that have real images and no synthetic one."""
        real, synthetic = (count_labels(images.labels, len(self.class_names)) for images in (self.real, self.synthetic))
        return [name for name, of_real, made in zip(self.class_names, real, synthetic, strict=True) if of_real and not made]

    def matched(self) -> "EvaluationSets":
        """Subsets of equal n at the real class prior: the first synthetic images and a fixed draw of the others.

        Classes without a synthetic image are left out of all sets.

        Raises:
            UserError: no class has images in all sets.
        """
        num_classes = len(self.class_names)
        have = [count_labels(images.labels, num_classes) for images in (self.real, self.synthetic, self.train)]
        wanted = have[0] * (have[1] > 0)
        if not wanted.any():
            raise UserError(f"expected synthetic images of a class of the held-out images, found none among "
                            f"{len(self.synthetic)}; look at the labels of the synthetic images")
        counts = matched_counts(wanted, have[1], have[2])
        exact = (counts == have[0]).all()
        real = np.arange(len(self.real)) if exact else draw_matched(self.real.labels, counts, rng=generator(SEED, "real"))
        train = draw_matched(self.train.labels, counts, rng=generator(SEED, "train"))
        synthetic = draw_matched(self.synthetic.labels, counts, rng=None)
        return EvaluationSets(
            self.synthetic.select(synthetic), self.real.select(real), self.train.select(train),
            self.real_round_trip.select(real), self.train_round_trip.select(train), self.class_names,
        )


@dataclass(frozen=True)
class EvaluationSettings:
    """How much is computed."""

    feature_folder: Path
    transform_hash: str
    round_trip_hash: str
    batch_size: int
    max_pairs: int
    frechet_repeats: int
    bootstrap_repeats: int
