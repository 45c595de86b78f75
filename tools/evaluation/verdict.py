"""What the rows of an evaluation amount to, in sentences, each by one stated rule.

Rows in, sentences out. It computes no metric and knows no page. Fidelity and variety go by the least favourable features
(evidence.py); features of networks that were trained on the user's images speak of the class alone. About the class and
the limit, two values differ where their intervals do not overlap, which is stricter than a test at 5%: a verdict should not
turn on noise.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tools.evaluation.aspects import Aspect, Tone
from tools.evaluation.direct_checks import find_faults
from tools.evaluation.evidence import Comparison, EncoderRows, Evidence
from tools.evaluation.memorisation import read_verdict
from tools.evaluation.metric_keys import CLASS_ACCURACY, CLASS_AUC, CLASS_BASELINE, CLASS_GAIN, Family
from tools.evaluation.rows import OVERALL, Row, format_value

QUESTIONS = {
    Aspect.FIDELITY: "Do they look real?", Aspect.VARIETY: "Do they vary as real images do?",
    Aspect.CLASS: "Do they show their class?", Aspect.PRIVACY: "Are they copies?", Aspect.UTILITY: "Are they useful?",
}
_SEPARATED_AUC = 0.75  # of the two-sample test: from here on three pairs in four are ranked rightly
_MOST_MISSED = 0.5  # of the real images' recall or coverage; below it most of the variety is missing
_UNLIKE_SHARE = 0.1  # of the similarity of real pairs; smaller differences can be the blur of a VAE
_FAINT_AUC = 0.7  # up to here published classifiers of oocytes get: the label is barely visible


@dataclass(frozen=True)
class Sentence:
    """One finding about an aspect, and where it is long, the same without most of its numbers."""

    aspect: Aspect
    tone: Tone
    text: str
    short: str = ""
    is_fault: bool = False  # named by a direct check

    @property
    def brief(self) -> str:
        return self.short or self.text


def write_verdict(rows: Sequence[Row], *, study: Sequence[str] = ()) -> list[Sentence]:
    """The sentences that the rows support, by aspect, and those of an augmentation study as they are. An aspect whose rows
    are absent was not tested, and it says so."""
    known = Evidence(rows)
    found = [sentence for rule in _RULES for sentence in rule(known)]
    found += [Sentence(Aspect.UTILITY, Tone.STUDIED, text) for text in study] or [_NOT_STUDIED]
    return [sentence for aspect in Aspect for sentence in found if sentence.aspect is aspect]


def least_favourable(known: Evidence) -> EncoderRows | None:
    """The features that decide the verdict on fidelity; where only others are there, the first of those."""
    if not known.deciding:
        return known.encoders[0] if known.encoders else None
    return max(known.deciding, key=lambda one: (
        _is_far(known, one), known.is_worse(one.separation), _separates(one),
        0.0 if one.distance is None else one.distance.excess))


# Fidelity and variety


def _judge_fidelity(known: Evidence) -> list[Sentence]:
    """Holds where no encoder's distance, separation or precision is worse than real images', no pair is unlike and no direct
    check found a fault."""
    found = [*_judge_distance(known), *_judge_pairs(known), *_judge_realism(known), *_name_faults(known, Aspect.FIDELITY)]
    return found or [_hold_or_not_tested(
        known, Aspect.FIDELITY, "No difference from real images was found", lambda one: one.distance)]


def _judge_distance(known: Evidence) -> list[Sentence]:
    """By the encoder whose features separate synthetic from real images best, of those that do."""
    found = [one for one in known.deciding if known.is_worse(one.distance) or known.is_worse(one.separation)]
    if not found:
        return []
    worst = least_favourable(known)
    assert worst is not None  # one was found
    numbers, others = _describe_distance(worst), _name_others(known, found)
    far, brief = _is_far(known, worst), _describe_separation(worst) or numbers
    claim = (f"Synthetic images can be distinguished from real ones by {worst.title}" if far else
             f"By {worst.title} the distance is no larger than that of real images, yet a linear model can separate them")
    sentence = Sentence(Aspect.FIDELITY, Tone.FAILS if far else Tone.CAUTION, f"{claim}: {numbers}{others}.",
                        f"{claim} ({brief}{others}).")
    return [sentence, *(_judge_limit(known, worst) if far else [])]


def _is_far(known: Evidence, one: EncoderRows) -> bool:
    """Whether the kernel distance or a strong separation tells synthetic from real images."""
    return known.is_worse(one.distance) or (known.is_worse(one.separation) and one.separation is not None
                                            and _low(one.separation.made) >= _SEPARATED_AUC)


def _separates(one: EncoderRows) -> float:
    return 0.5 if one.separation is None else _number(one.separation.made)


def _describe_distance(one: EncoderRows) -> str:
    distance = "" if one.distance is None else (f"kernel distance {format_value(one.distance.made)}, real images among "
                                                f"themselves {format_value(one.distance.real)}")
    return "; ".join(filter(None, (distance, _describe_separation(one))))


def _describe_separation(one: EncoderRows) -> str:
    return "" if one.separation is None else ("a linear model separates synthetic from real images with AUC "
                                              f"{format_value(one.separation.made)}")


def _judge_limit(known: Evidence, one: EncoderRows) -> list[Sentence]:
    """Which part limits images that differ: the VAE where its ceiling is above the interval of the model gap, the diffusion
    model where it is below; by the kernel distance, or by the two-sample test where only that differs."""
    by_kernel = known.is_worse(one.distance)
    name, nothing = (one.kernel, 0.0) if by_kernel else (one.score(Family.TWO_SAMPLE), 0.5)
    gap, ceiling = known.find(name, "model_gap"), known.find(name, "ceiling")
    if gap is None or ceiling is None or gap.interval is None:
        return []
    numbers = (f"real images against their VAE round trip {format_value(ceiling)}, synthetic images against that round trip "
               f"{format_value(gap)} ({'kernel distance' if by_kernel else 'AUC'})")
    if _number(ceiling) > max(gap.interval[1], nothing):
        text = f"The VAE is the limit: {numbers}. Improve the VAE before the diffusion model."
    elif gap.interval[0] > max(_number(ceiling), nothing):
        text = f"The diffusion model is the limit, not the VAE: {numbers}."
    else:
        text = f"VAE and diffusion model cost about the same: {numbers}."
    return [Sentence(Aspect.FIDELITY, Tone.CAUTION, text)]


def _judge_pairs(known: Evidence) -> list[Sentence]:
    """A synthetic and a real image of a class are less alike than two real ones, by a tenth or more."""
    unlike = known.unlike
    if unlike is None or not known.is_worse(unlike) or abs(unlike.share - 1) < _UNLIKE_SHARE:
        return []
    return [Sentence(Aspect.FIDELITY, Tone.FAILS, f"Synthetic images are less like real ones than real ones are "
                     f"among themselves: {unlike.made.metric} {format_value(unlike.made)}, real pairs "
                     f"{format_value(unlike.real)}.")]


def _judge_realism(known: Evidence) -> list[Sentence]:
    """Fewer synthetic images among real ones than real images are."""
    short = [(one, one.precision) for one in known.deciding if one.precision and known.is_worse(one.precision)]
    if not short:
        return []
    worst, precision = min(short, key=lambda pair: pair[1].share)
    return [Sentence(Aspect.FIDELITY, Tone.CAUTION, f"Some synthetic images look unlike any real image by {worst.title}: "
                     f"{_describe(precision)}{_name_others(known, [one for one, _ in short])}.")]


def _judge_variety(known: Evidence) -> list[Sentence]:
    """Holds where no encoder's coverage or recall is under real images', no pair is too alike and no direct check found a
    fault."""
    found = [*_judge_missing(known), *_name_faults(known, Aspect.VARIETY)]
    return found or [_hold_or_not_tested(known, Aspect.VARIETY, "No lack of variety was found", _lowest_variety)]


def _judge_missing(known: Evidence) -> list[Sentence]:
    """What is missing (coverage or recall under real), and whether the images repeat (pairs more alike than real pairs)."""
    short = [(one, score) for one in known.deciding for score in (one.coverage, one.recall)
             if score is not None and known.is_worse(score)]
    repeats = known.alike if known.is_worse(known.alike) else None
    alike = "" if repeats is None else (f"{repeats.made.metric} of synthetic pairs {format_value(repeats.made)}, of real "
                                        f"pairs {format_value(repeats.real)}")
    if not short:
        return [] if repeats is None else [Sentence(
            Aspect.VARIETY, Tone.CAUTION, f"Synthetic images are more alike than real ones ({alike}); the blur of a VAE "
            "alone does that to some degree.")]
    worst, lowest = min(short, key=lambda pair: pair[1].share)
    others = _name_others(known, [one for one, _ in short])
    numbers = f"{'; '.join(_describe(score) for one, score in short if one is worst)}{others}"
    if repeats is not None:
        tone, claim = Tone.FAILS, "The model repeats itself and misses part of the variety"
        numbers += f"; {alike}"
    elif lowest.share < _MOST_MISSED:
        tone, claim = Tone.FAILS, "Most of the variety of real images is missing"
    else:
        tone, claim = Tone.CAUTION, "Part of the variety of real images is missing"
    return [Sentence(Aspect.VARIETY, tone, f"{claim} by {worst.title}: {numbers}.",
                     f"{claim} by {worst.title} ({_describe(lowest)}{others}).")]


def _lowest_variety(one: EncoderRows) -> Comparison | None:
    scores = [score for score in (one.coverage, one.recall) if score is not None]
    return min(scores, key=lambda score: score.share) if scores else None


def _name_faults(known: Evidence, aspect: Aspect) -> list[Sentence]:
    """What the direct checks found."""
    return [Sentence(aspect, Tone.CAUTION, fault.text, is_fault=True) for fault in find_faults(known.all)
            if fault.aspect is aspect]


def _hold_or_not_tested(
    known: Evidence, aspect: Aspect, claim: str, read: Callable[[EncoderRows], Comparison | None]
) -> Sentence:
    """What is said where nothing speaks against the images: `read` is the number that features have about the aspect."""
    tested = [(one, found) for one in known.deciding if (found := read(one)) is not None]
    if not tested:
        return Sentence(aspect, Tone.UNKNOWN, _explain_untested(known, aspect))
    worst, number = max(tested, key=lambda pair: pair[1].excess)
    brief = _describe(number)
    numbers = _describe_distance(worst) if aspect is Aspect.FIDELITY else brief
    if len(tested) == 1:
        claim = f"{claim} at this number of images by {worst.title}, the only kind compared"
    else:
        claim = (f"{claim} at this number of images by any of {len(tested)} kinds of features; the least favourable are "
                 f"{worst.title}")
    return Sentence(aspect, Tone.HOLDS, f"{claim}: {numbers}.", f"{claim} ({brief}).")


def _explain_untested(known: Evidence, aspect: Aspect) -> str:
    name = aspect.value.capitalize()
    if known.deciding:
        return f"{name} was not tested: too few images or groups (patients, embryos) for an interval, so nothing is proven."
    if known.encoders:
        names = " and ".join(one.title for one in known.encoders)
        return (f"{name} was not tested: there are only {names}, of networks that were trained on these images and see "
                "little of what they were not trained for; evaluate again to compare by untrained features, which need no "
                "file.")
    return f"{name} was not tested: no features were compared, or too few images."


def _name_others(known: Evidence, found: Sequence[EncoderRows]) -> str:
    """A clause on the features that disagree, where there are any."""
    silent = [one.title for one in known.deciding if one not in found]
    return f"; not seen by {' or '.join(silent)}" if silent else ""


def _describe(comparison: Comparison) -> str:
    return f"{comparison.name} {format_value(comparison.made)}, real images {format_value(comparison.real)}"


# The class


def _judge_missing_classes(known: Evidence) -> list[Sentence]:
    names = {row.class_name: None for row in known.all if row.comparison == "total" and row.class_name != OVERALL
             and row.n_synthetic == 0}
    return [Sentence(Aspect.CLASS, Tone.FAILS, f"There is no synthetic image of {', '.join(names)}.")] if names else []


def _judge_class(known: Evidence) -> list[Sentence]:
    """Whether real images show the class to the judge, and whether synthetic ones show it as they do."""
    real, made = known.find(CLASS_AUC, "held_out"), known.find(CLASS_AUC, "synthetic")
    if real is None:
        return [Sentence(Aspect.CLASS, Tone.UNKNOWN, "The class was not judged: no classifier was given, or a class has no "
                         "held-out image.")]
    reading = f"on held-out real images the judge has AUC {format_value(real)}{_describe_accuracy(known)}"
    against = known.find(CLASS_GAIN, "held_out")
    if against is not None and against.interval is not None and against.interval[1] < 0:
        return [Sentence(Aspect.CLASS, Tone.UNKNOWN, "The judge has not learned the class, so nothing is said about it: a "
                         f"plain logistic regression on features reads it better ({reading}). Train the judge again.")]
    if real.interval is None:
        return [Sentence(Aspect.CLASS, Tone.UNKNOWN, "The class signal is unproven, because the held-out images are of too "
                         f"few groups: {reading}.")]
    if real.interval[0] <= 0.5:
        return [Sentence(Aspect.CLASS, Tone.FAILS, "No class signal found: class-conditional claims are not supported "
                         f"({reading}; 0.5 is chance). A faint one can escape a classifier that had few images or little "
                         "training.")]
    faint = [Sentence(Aspect.CLASS, Tone.CAUTION, f"The class is faintly visible in real images: {reading}.")
             ] if _number(real) < _FAINT_AUC else []
    if made is None or made.interval is None:
        return [*faint, Sentence(Aspect.CLASS, Tone.UNKNOWN, "Whether synthetic images show their class is unproven: too "
                                 f"few images or groups of a class; {reading}.")]
    tone, claim = _compare_class(real, made)
    return [*faint, Sentence(Aspect.CLASS, tone, f"{claim}: AUC {format_value(made)}; {reading}.")]


def _compare_class(real: Row, made: Row) -> tuple[Tone, str]:
    """What the judge's areas on held-out and on synthetic images, both with intervals, say of the latter."""
    assert made.interval is not None
    if made.interval[1] < 0.5:
        return Tone.FAILS, "The classes of synthetic images are swapped"
    if made.interval[0] <= 0.5:
        return Tone.FAILS, "Synthetic images do not show their class"
    if _above(real, made):
        return Tone.CAUTION, "Synthetic images show their class less clearly than real ones"
    if _above(made, real):
        return Tone.CAUTION, "Synthetic images show their class more clearly than real ones, as a caricature"
    return Tone.HOLDS, "Synthetic images show their class as real ones do"


def _describe_accuracy(known: Evidence) -> str:
    """How well the judge reads held-out real images, and a plain baseline beside it."""
    judge, baseline = known.find(CLASS_ACCURACY, "held_out"), known.find(CLASS_BASELINE, "held_out")
    if judge is None:
        return ""
    beside = "" if baseline is None else f", a plain baseline {format_value(baseline)}"
    return f" and balanced accuracy {format_value(judge)}{beside}"


def _judge_class_faults(known: Evidence) -> list[Sentence]:
    return _name_faults(known, Aspect.CLASS)


# Privacy and use


def _judge_copies(known: Evidence) -> list[Sentence]:
    """What the deciding test, which is the first, found, and others that disagree. No test says that images are private."""
    tests = [row for row in known.all if row.comparison == "copies" and row.value is not None]
    if not tests:
        return [Sentence(Aspect.PRIVACY, Tone.UNKNOWN, "Copies of training images were not tested.")]
    sentences = []
    for row in tests:
        if row is tests[0] or row.outcome is Tone.FAILS:
            text = read_verdict(row)
            space = row.key.space
            text = f"{text[:1].upper()}{text[1:]} [{space}]."
            sentences.append(Sentence(Aspect.PRIVACY, row.outcome or Tone.UNKNOWN, text))
    return sentences


_RULES: tuple[Callable[[Evidence], list[Sentence]], ...] = (
    _judge_fidelity, _judge_variety, _judge_missing_classes, _judge_class, _judge_class_faults,
    _judge_copies,
)
_NOT_STUDIED = Sentence(Aspect.UTILITY, Tone.UNKNOWN, "Not studied: whether these images help a classifier takes an "
                        "augmentation study against real images alone and against classical augmentation.")


def _above(one: Row, other: Row) -> bool:
    """Whether `one` is above `other`, intervals apart; without both intervals nothing is proven."""
    return one.interval is not None and other.interval is not None and one.interval[0] > other.interval[1]


def _low(row: Row) -> float:
    assert row.interval is not None  # a comparison has both
    return row.interval[0]


def _number(row: Row) -> float:
    assert row.value is not None  # Evidence finds no other
    return row.value
