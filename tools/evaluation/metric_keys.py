"""What a row measures, as a typed key, and the name that files and pages give it: `KD[inception@0123abcd,tf1]`, `class AUC`.

Code reads the fields of a key. Names are written and parsed here alone.
"""

from dataclasses import dataclass
from enum import Enum
from functools import cache, cached_property

from tools.evaluation.check_kinds import kind_of_check

OFFICIAL = "FID features"  # the space of Inception features by the official weights
PIXELS = "pixels"  # how the name of a space of pixels begins
_OFFICIAL_NAMES = {"FD": "FID", "KD": "KID", "p of KD": "p of KID"}
_RATIO = "ratio of "


class Family(Enum):
    """The kinds of metrics; a name begins with the value, or with a word and the value."""

    FRECHET = "FD"
    KERNEL = "KD"
    KERNEL_P = "p of KD"
    PRECISION = "precision"
    RECALL = "recall"
    DENSITY = "density"
    COVERAGE = "coverage"
    TWO_SAMPLE = "two-sample AUC"
    NEAR_COPIES = "near-copies"
    AUTHENTICITY = "authenticity"
    SSIM = "SSIM"
    PERCEPTUAL = "LPIPS"
    AUC = "AUC"
    ACCURACY = "balanced accuracy"
    SIGNAL = "signal"
    BASELINE = "baseline balanced accuracy"
    GAIN = "judge minus baseline"
    CONFUSION = "judged as"
    CHECK = "direct check"
    ADJUSTED_P = "adjusted p of"
    LOOKS_LIKE = "looks like"
    MORPHOMETRY = "morphometry:"
    OTHER = "other"  # metrics without a family, and names that this release does not know


_OF_SPACE = frozenset((Family.FRECHET, Family.KERNEL, Family.KERNEL_P, Family.PRECISION, Family.RECALL, Family.DENSITY,
                       Family.COVERAGE, Family.TWO_SAMPLE, Family.NEAR_COPIES, Family.AUTHENTICITY))
OF_JUDGE = frozenset((Family.AUC, Family.ACCURACY, Family.SIGNAL, Family.BASELINE, Family.GAIN, Family.CONFUSION))
_WITH_REST = (Family.CONFUSION, Family.ADJUSTED_P, Family.LOOKS_LIKE, Family.MORPHOMETRY)


@dataclass(frozen=True)
class MetricKey:
    """What a row measures.

    Attributes:
        about: the space of features or pixels; the level or class that images are judged as; the direct check; the whole
            name of a perceptual distance and of other metrics.
        condition: the further condition that a judge reads; None where it is the class.
        is_ratio: what is read from synthetic images over what is read from held-out ones.
    """

    family: Family
    about: str = ""
    condition: str | None = None
    is_ratio: bool = False

    @property
    def short(self) -> str:
        """The name without its space."""
        if self.family in _OF_SPACE:
            return _OFFICIAL_NAMES.get(self.family.value, self.family.value) if self.about == OFFICIAL else self.family.value
        return self.name

    @cached_property
    def name(self) -> str:
        """The name in files and on pages, which `parse_metric` reads."""
        if self.family in _OF_SPACE:
            return self.short if self.short in _OFFICIAL_NAMES.values() else f"{self.short}[{self.about}]"
        if self.family in (Family.PERCEPTUAL, Family.CHECK, Family.OTHER):
            return self.about
        text = f"{self.family.value} {self.about}" if self.family in _WITH_REST else self.family.value
        if self.family in OF_JUDGE and self.condition is not None:
            text = f"condition {text}[{self.condition}]"
        elif self.family in OF_JUDGE and self.family is not Family.CONFUSION:
            text = f"class {text}"
        return f"{_RATIO}{text}" if self.is_ratio else text

    @property
    def space(self) -> str | None:
        """The pixels or the encoder that images are compared by, without weights and preset; None for other metrics."""
        return self.about.split("@")[0] if self.family in _OF_SPACE else None

    @property
    def encoder(self) -> str | None:
        """The encoder behind the metric; None where there is none."""
        if self.space is None or self.space.startswith(PIXELS):
            return None
        return "inception" if self.about == OFFICIAL else self.space


SSIM, LPIPS = MetricKey(Family.SSIM), MetricKey(Family.PERCEPTUAL, "LPIPS")
CLASS_AUC, CLASS_ACCURACY = MetricKey(Family.AUC), MetricKey(Family.ACCURACY)
CLASS_BASELINE, CLASS_GAIN = MetricKey(Family.BASELINE), MetricKey(Family.GAIN)


@cache
def parse_metric(name: str) -> MetricKey:
    """The key of a stored name; Family.OTHER where this release knows no such metric."""
    start, _, rest = name.partition("[")
    for family in _OF_SPACE:
        if name == _OFFICIAL_NAMES.get(family.value):
            return MetricKey(family, OFFICIAL)
        if start == family.value and rest.endswith("]"):
            return MetricKey(family, rest[:-1])
    if name == SSIM.name:
        return SSIM
    if name == LPIPS.name or name.startswith(("LPIPS-", "PD[")):
        return MetricKey(Family.PERCEPTUAL, name)
    if kind_of_check(name) is not None:
        return MetricKey(Family.CHECK, name)
    for family in _WITH_REST:
        if name.startswith(f"{family.value} "):
            return MetricKey(family, name.removeprefix(f"{family.value} "))
    return _parse_judged(name.removeprefix(_RATIO), is_ratio=name.startswith(_RATIO)) or MetricKey(Family.OTHER, name)


def _parse_judged(name: str, *, is_ratio: bool) -> MetricKey | None:
    """The key of what a judge reads of the class or a condition; None for other names."""
    trait, _, text = name.partition(" ")
    condition = None
    if trait == "condition" and text.endswith("]"):
        text, _, condition = text[:-1].partition("[")
    elif trait != "class":
        return None
    if condition is not None and text.startswith(f"{Family.CONFUSION.value} "):
        return MetricKey(Family.CONFUSION, text.removeprefix(f"{Family.CONFUSION.value} "), condition, is_ratio)
    family = next((one for one in OF_JUDGE - {Family.CONFUSION} if one.value == text), None)
    return None if family is None else MetricKey(family, condition=condition, is_ratio=is_ratio)
