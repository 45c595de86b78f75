"""The arms of a study of utility: which images of a fold a classifier is trained on, with which labels. Trains nothing."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from config.errors import UserError
from tools.augmentation_study.utility import CONTROL, REAL, ROUND_TRIP, SHUFFLED, SYNTHETIC, WITH_SYNTHETIC
from tools.diffusion.generation import count_per_class


@dataclass(frozen=True)
class UtilityArm:
    """What one classifier sees: places in the pool [real | synthetic | round trips] and a label for each."""

    name: str
    members: np.ndarray  # int64 (M,)
    labels: np.ndarray  # int64 (M,)
    balance: float = 1.0
    augment: bool = True


def name_with_synthetic(ratio: float) -> str:
    """The arm of so many synthetic images for each real one."""
    return f"{WITH_SYNTHETIC} x{ratio:g}"


def list_arms(ratios: Sequence[float]) -> list[str]:
    """Names of all arms in the order of the report; the first ratio is the headline's and that of the other arms."""
    return [REAL, CONTROL, *map(name_with_synthetic, ratios), SYNTHETIC, SHUFFLED, ROUND_TRIP]


def describe_arms(ratios: Sequence[float]) -> dict[str, str]:
    """What each arm's classifiers are trained on, by the arm's name. All take the same number of optimizer steps."""
    augmented = "all classes equally often, with classical augmentation (all of the config's symmetries, shifts, exposure)"
    mixed = {name_with_synthetic(ratio): f"the control's images and synthetic ones, {ratio:g} for each real one, {augmented}"
             for ratio in ratios}
    return {
        REAL: "the real training images at their class prior, without augmentation",
        CONTROL: f"the real training images, {augmented}",
        **mixed,
        SYNTHETIC: f"synthetic images, {ratios[0]:g} for each real one, and none of the real ones, {augmented}",
        SHUFFLED: f"as {name_with_synthetic(ratios[0])}, the synthetic images' labels permuted among them anew for each "
                  "classifier: their pictures without their classes",
        ROUND_TRIP: f"the control's images and their own VAE round trips, {ratios[0]:g} for each, {augmented}: the VAE's "
                    "blur without generated content",
    }


def build_arms(
    real: np.ndarray, synthetic: np.ndarray, ratios: Sequence[float], *, num_classes: int, shuffle: np.random.Generator
) -> list[UtilityArm]:
    """The arms of a fold, in the order of `list_arms`.

    Args:
        real: labels int64 (N,) of the real training images, which are also those of their round trips.
        synthetic: labels (M,) of the synthetic images; of each class the first ones are taken, at the real class prior.
        shuffle: permutes the labels of the arm that has them shuffled.

    Raises:
        UserError: too few synthetic images of a class.
    """
    first_synthetic, first_round_trip = len(real), len(real) + len(synthetic)
    counts = np.bincount(real, minlength=num_classes).tolist()
    own = np.arange(len(real))
    chosen = [_take(synthetic, count_per_class(round(ratio * len(real)), counts), ratio) for ratio in ratios]
    main = chosen[0]
    shuffled = shuffle.permutation(synthetic[main])
    again = np.concatenate([np.resize(np.flatnonzero(real == label), wanted)  # over and over in order
                            for label, wanted in enumerate(count_per_class(len(main), counts))])

    def join(name: str, members: np.ndarray, labels: np.ndarray) -> UtilityArm:
        return UtilityArm(name, np.concatenate([own, members]), np.concatenate([real, labels]))

    return [
        UtilityArm(REAL, own, real, balance=0.0, augment=False),
        UtilityArm(CONTROL, own, real),
        *(join(name_with_synthetic(ratio), first_synthetic + places, synthetic[places])
          for ratio, places in zip(ratios, chosen, strict=True)),
        UtilityArm(SYNTHETIC, first_synthetic + main, synthetic[main]),
        join(SHUFFLED, first_synthetic + main, shuffled),
        join(ROUND_TRIP, first_round_trip + again, real[again]),
    ]


def _take(synthetic: np.ndarray, wanted: Sequence[int], ratio: float) -> np.ndarray:
    """Places of the first synthetic images of each class, as many as `wanted`."""
    places = []
    for label, count in enumerate(wanted):
        of_class = np.flatnonzero(synthetic == label)
        if not 1 <= count <= len(of_class):
            raise UserError(f"synthetic images x{ratio:g}: class {label} would have {count} of {len(of_class)} that there "
                            "are; expected one or more; give another --synthetic-ratio")
        places.append(of_class[:count])
    return np.concatenate(places)
