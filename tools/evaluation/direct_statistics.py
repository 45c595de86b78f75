"""The direct checks as statistics of groups: which number of each image makes which check, overall and per class."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tools.evaluation.check_kinds import (
    BLUENESS,
    BRIGHTNESS,
    BRIGHTNESS_SPREAD,
    COLOURS,
    CONTRAST,
    CONTRAST_SPREAD,
    EFFECTIVE,
    GREENNESS,
    LOOKS,
    ROUGHNESS,
    SHARPNESS,
    SHARPNESS_SPREAD,
    TINT_SPREAD,
    CheckKind,
    grain_name,
    kind_of_check,
    octave_words,
)
from tools.evaluation.checks import as_groups
from tools.evaluation.direct_measurements import MeasuredImages, squared_likeness
from tools.evaluation.group_statistics import LogEffective, LogSpread, Mean, Statistic, sum_by_group
from tools.evaluation.image_measures import BLUE_YELLOW, COLOUR_CONTRAST, GREEN_RED, ROUNDING_POWER
from tools.evaluation.resampling import FEWEST_GROUPS
from tools.evaluation.rows import OVERALL, name_classes

SMALLEST_SIDE = 10  # intact images a side under which a check is left out
_SMALL_LOG, _SMALL_FRACTION = 0.01, 0.02  # differences of logarithms and fractions that count as none
_SMALL_LEVELS, _SMALL_LAB = 0.1, 0.05
_SOFT_FOCUS, _SOFT_DISORDER, _SOFT_SCATTER = 1e-4, 1e-2, 0.1  # added before a logarithm; the last in CIELAB units


@dataclass(frozen=True)
class Item:
    """One check, overall or of one class."""

    kind: CheckKind
    class_name: str
    statistic: Statistic
    num_first: int
    num_second: int


def make_items(
    first: MeasuredImages, second: MeasuredImages, class_names: Sequence[str], scale: float
) -> tuple[list[Item], np.ndarray, np.ndarray]:
    """The checks that both sets have enough images for; which groups are the first set's, bool (G,); strata, int64 (G,)."""
    numbers, counts = zip(*(as_groups(one.images.groups, len(one), minimum=1) for one in (first, second)), strict=True)
    number = np.concatenate([numbers[0], numbers[1] + counts[0]])
    sides = np.arange(sum(counts)) < counts[0]
    labels = np.concatenate([first.images.labels, second.images.labels])
    intact = np.concatenate([first.intact, second.intact])
    is_first = np.arange(len(labels)) < len(first)
    items: list[Item] = []
    for class_name, label in name_classes(class_names):
        chosen = intact if label is None else intact & (labels == label)
        if all((chosen & side).sum() >= SMALLEST_SIDE and len(np.unique(number[chosen & side])) >= FEWEST_GROUPS
               for side in (is_first, ~is_first)):
            items += _items_of(class_name, first, second, chosen, number, scale)
    classes = sum_by_group(labels[None] == np.arange(len(class_names))[:, None], number, len(sides)) > 0
    pure = (classes.sum(axis=0) == 1).all()
    return items, sides, classes.argmax(axis=0) if pure else np.zeros(len(sides), np.int64)


def _items_of(
    class_name: str, first: MeasuredImages, second: MeasuredImages, chosen: np.ndarray, number: np.ndarray, scale: float
) -> Iterator[Item]:
    num_groups = int(number.max()) + 1
    counts = sum_by_group(chosen.astype(np.float64), number, num_groups)

    def item(name: str, statistic: Statistic) -> Item:
        kind = kind_of_check(name)
        assert kind is not None
        return Item(kind, class_name, statistic, int(chosen[:len(first)].sum()), int(chosen[len(first):].sum()))

    def mean(name: str, values: np.ndarray, resolution: float) -> Item:
        return item(name, Mean(counts, sum_by_group(np.where(chosen, values, 0.0), number, num_groups), resolution))

    def spread(name: str, values: np.ndarray, resolution: float) -> Item:
        values = np.where(chosen, values - values[:, chosen].mean(axis=1, keepdims=True), 0.0)
        return item(name, LogSpread(counts, sum_by_group(values, number, num_groups),
                                    sum_by_group(values**2, number, num_groups), resolution))

    values = {name: np.concatenate([one[name], other[name]]) for one, other in [(_numbers(first), _numbers(second))]
              for name in one}
    yield mean(BRIGHTNESS, values[BRIGHTNESS], _SMALL_LEVELS)
    yield spread(BRIGHTNESS_SPREAD, values[BRIGHTNESS][None], _SMALL_LEVELS)
    for name, of_spread in ((CONTRAST, CONTRAST_SPREAD), (SHARPNESS, SHARPNESS_SPREAD)):
        yield mean(name, values[name], _SMALL_LOG)
        yield spread(of_spread, values[name][None], _SMALL_LOG)
    yield mean(ROUGHNESS, values[ROUGHNESS], _SMALL_LOG)
    for name in values:
        if octave_words(name) is not None:
            yield mean(name, values[name], _SMALL_LOG)
    if GREENNESS in values:
        yield mean(GREENNESS, values[GREENNESS], _SMALL_LAB)
        yield mean(BLUENESS, values[BLUENESS], _SMALL_LAB)
        yield spread(TINT_SPREAD, np.stack([values[GREENNESS], values[BLUENESS]]), _SMALL_LAB)
        yield mean(COLOURS, values[COLOURS], _SMALL_LOG)
    yield item(EFFECTIVE, _effective(first, second, chosen, number, scale))
    if first.predicted.min() >= 0 and class_name != OVERALL:
        labels, predicted = (np.concatenate([a, b]) for a, b in ((first.images.labels, second.images.labels),
                                                                 (first.predicted, second.predicted)))
        yield mean(LOOKS, (labels == predicted).astype(np.float64), _SMALL_FRACTION)


def _numbers(measured: MeasuredImages) -> dict[str, np.ndarray]:
    """One number an image by the check that averages it: gray levels, CIELAB units or logarithms."""
    measures = measured.measures
    numbers = {BRIGHTNESS: measures.brightness, CONTRAST: np.log(measures.contrast + ROUNDING_POWER**0.5),
               SHARPNESS: np.log(measures.focus + _SOFT_FOCUS), ROUGHNESS: np.log(measures.roughness + _SOFT_DISORDER)}
    numbers |= {grain_name(octave): np.log(power + ROUNDING_POWER) for octave, power in measures.grain.items()}
    if measures.colour:
        numbers |= {GREENNESS: measures.colour[GREEN_RED], BLUENESS: measures.colour[BLUE_YELLOW],
                    COLOURS: np.log(measures.colour[COLOUR_CONTRAST] + _SOFT_SCATTER)}
    return numbers


def _effective(
    first: MeasuredImages, second: MeasuredImages, chosen: np.ndarray, number: np.ndarray, scale: float
) -> LogEffective:
    members, places = np.unique(number[chosen], return_inverse=True)
    alike = squared_likeness(np.concatenate([first.thumbnails, second.thumbnails])[chosen], scale)
    by_group = sum_by_group(sum_by_group(alike, places, len(members)).T, places, len(members))
    return LogEffective(members, np.bincount(places).astype(np.float64), by_group, int(chosen[:len(first)].sum()))
