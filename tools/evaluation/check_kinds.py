"""The direct checks by name: what each is about, which size is worth a sentence, and the sentence."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from tools.evaluation.aspects import Aspect

_GRAIN = "grain power["
_HALF = (0.45, 0.55)  # said in words


class Scale(Enum):
    """What a value is: RATIO synthetic over real, DIFFERENCE synthetic minus real, or FRACTION of the synthetic images."""

    RATIO = "ratio"
    DIFFERENCE = "difference"
    FRACTION = "fraction"


@dataclass(frozen=True)
class CheckKind:
    """`bound` is the smallest size of a fault: a factor (up or down) of a ratio, an amount of a difference or a fraction.
    `measure` is what is averaged.

    `describe` makes the sentence from the value, without a full stop; that of fractions is made where the counts are.
    """

    name: str
    aspect: Aspect
    scale: Scale
    bound: float
    measure: str
    describe: Callable[[float], str]

    def is_large(self, value: float) -> bool:
        """Whether a value is worth a sentence."""
        if self.scale is Scale.RATIO:
            return value <= 1 / self.bound or value >= self.bound
        return abs(value) >= self.bound

    def is_low(self, value: float) -> bool:
        """Whether a value is under that of equal sets."""
        return value < (1.0 if self.scale is Scale.RATIO else 0.0)


def grain_name(octave: str) -> str:
    """The name of the check of an octave, such as "2-4 px"."""
    return f"{_GRAIN}{octave}]"


def octave_words(name: str) -> str | None:
    """"2 to 4 px" of the check of this octave; None for other checks."""
    return name.removeprefix(_GRAIN).removesuffix("]").replace("-", " to ") if name.startswith(_GRAIN) else None


def kind_of_check(name: str) -> CheckKind | None:
    """The kind of a check by the name of its metric; None for other metrics."""
    octave = octave_words(name)
    if octave is None:
        return _KINDS.get(name)
    return CheckKind(name, Aspect.FIDELITY, Scale.RATIO, 1.25, "mean power in squared gray levels",
                     lambda value: f"Grain of {octave} has {share_of(value)} its power in real images")


def share_of(value: float) -> str:
    """"0.4 of" or "2.3 times", two digits."""
    return f"{_two(value)} of" if value < 1 else f"{_two(value)} times"


def _two(value: float) -> str:
    return f"{value:.2g}" if value < 10 else f"{value:.0f}"


def _as_much(value: float) -> str:
    return "half as much" if _HALF[0] <= value <= _HALF[1] else f"{_two(value)} times as much"


def _spread(what: str) -> Callable[[float], str]:
    return lambda value: f"{what} {_as_much(value)} between images as in real ones"


def _towards(low: str, high: str) -> Callable[[float], str]:
    return lambda value: f"Images are {high if value > 0 else low} than real ones, by {_two(abs(value))} units of CIELAB"


def _counted(value: float) -> str:
    raise AssertionError(f"sentences of fractions need counts, found the value {value} alone")


BRIGHTNESS, CONTRAST, SHARPNESS, ROUGHNESS = "brightness mean", "contrast mean", "sharpness mean", "outline roughness"
BRIGHTNESS_SPREAD, CONTRAST_SPREAD, SHARPNESS_SPREAD = "brightness spread", "contrast spread", "sharpness spread"
GREENNESS, BLUENESS, TINT_SPREAD, COLOURS = ("tint mean[green to red]", "tint mean[blue to yellow]", "tint spread",
                                             "colour contrast")
EMPTY, OFF_RANGE, EFFECTIVE, LOOKS = "empty images", "off-range images", "effective images", "looks like its class"

SPREADS = (BRIGHTNESS_SPREAD, CONTRAST_SPREAD, SHARPNESS_SPREAD, TINT_SPREAD)

_KINDS = {kind.name: kind for kind in (
    CheckKind(BRIGHTNESS, Aspect.FIDELITY, Scale.DIFFERENCE, 5.0, "mean luma in gray levels",
              lambda value: f"Images are {abs(value):.0f} of 255 gray levels {'brighter' if value > 0 else 'darker'} than "
              "real ones"),
    CheckKind(BRIGHTNESS_SPREAD, Aspect.VARIETY, Scale.RATIO, 1.25, "deviation in gray levels",
              _spread("Brightness varies")),
    CheckKind(CONTRAST, Aspect.FIDELITY, Scale.RATIO, 1.1, "mean contrast in gray levels",
              lambda value: f"Contrast is {share_of(value)} that of real images"),
    CheckKind(CONTRAST_SPREAD, Aspect.VARIETY, Scale.RATIO, 1.25, "deviation of its logarithm", _spread("Contrast varies")),
    CheckKind(SHARPNESS, Aspect.FIDELITY, Scale.RATIO, 1.25, "mean variance of the Laplacian over the variance",
              lambda value: f"Sharpness is {share_of(value)} that of real images"),
    CheckKind(SHARPNESS_SPREAD, Aspect.VARIETY, Scale.RATIO, 1.25, "deviation of its logarithm",
              _spread("Sharpness varies")),
    CheckKind(ROUGHNESS, Aspect.FIDELITY, Scale.RATIO, 1.1, "mean disorder of neighbouring edges",
              lambda value: f"Outlines are {'rougher' if value > 1 else 'smoother'}: neighbouring edges differ in direction "
              f"{_as_much(value)} as in real images"),
    CheckKind(GREENNESS, Aspect.FIDELITY, Scale.DIFFERENCE, 2.3, "CIELAB units", _towards("greener", "redder")),
    CheckKind(BLUENESS, Aspect.FIDELITY, Scale.DIFFERENCE, 2.3, "CIELAB units", _towards("bluer", "yellower")),
    CheckKind(TINT_SPREAD, Aspect.VARIETY, Scale.RATIO, 1.25, "deviation in CIELAB units", _spread("Tints vary")),
    CheckKind(COLOURS, Aspect.FIDELITY, Scale.RATIO, 1.25, "mean deviation in CIELAB units",
              lambda value: f"Colours vary {_as_much(value)} within an image as in real ones"),
    CheckKind(EMPTY, Aspect.FIDELITY, Scale.FRACTION, 0.0, "fraction of the images", _counted),
    CheckKind(OFF_RANGE, Aspect.FIDELITY, Scale.FRACTION, 0.0, "fraction of the images", _counted),
    CheckKind(EFFECTIVE, Aspect.VARIETY, Scale.RATIO, 1.25, "effective number",
              lambda value: f"Images repeat or resemble each other: they hold {_two(value)} times as many different images "
              "as real ones" if value < 1 else f"Images differ more than real ones: they hold {_two(value)} times as many "
              "different images"),
    CheckKind(LOOKS, Aspect.CLASS, Scale.FRACTION, 0.1, "fraction of the images", _counted),
)}
FRACTIONS = tuple(kind.name for kind in _KINDS.values() if kind.scale is Scale.FRACTION)
