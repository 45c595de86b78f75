"""What the rows of an evaluation amount to: the headline numbers, and sentences each by one stated rule.

Rows in, sentences out. It computes no metric and knows no page. Two values differ here when their intervals do not
overlap, which is stricter than a test at 5%: a verdict should not turn on noise.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tools.evaluation.aspects import Tone
from tools.evaluation.feature_kinds import FeatureKind, kind_of
from tools.evaluation.memorisation import COPYING_FOUND, TOO_FEW_TO_TELL
from tools.evaluation.rows import OVERALL, Row

HOLDS, CAUTION, FAILS, UNKNOWN, STUDIED = (tone.value for tone in Tone)
GOOD, CLASS, COPIES, USEFUL = "Are they good?", "Do they show their class?", "Are they copies?", "Are they useful?"
QUESTIONS = (GOOD, CLASS, COPIES, USEFUL)
MOST_HEADLINES = 8
_TOLD_APART_AUC = 0.75  # of the two-sample test: from here on three pairs in four are told apart
_UNLIKE_SHARE = 0.1  # of the similarity of real pairs; smaller differences can be the blur of a VAE
_FAINT_AUC = 0.7  # up to here published classifiers of oocytes get: the label is barely visible
_KERNEL_NAMES = ("KID", "KD[")


@dataclass(frozen=True)
class Sentence:
    """`tone` is one of HOLDS, CAUTION, FAILS, UNKNOWN and STUDIED."""

    question: str
    tone: str
    text: str


@dataclass(frozen=True)
class Headline:
    """A number for the front page, the number to read it beside, and how."""

    title: str
    row: Row
    beside: Row | None
    beside_title: str
    reading: str


class Rows:
    """Rows by metric, comparison and class; only those that have a value are found."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.all = rows
        self._found = {(row.metric, row.comparison, row.class_name): row for row in rows if row.value is not None}

    def find(self, metric: str | None, comparison: str) -> Row | None:
        """The overall row of this metric and comparison."""
        return None if metric is None else self._found.get((metric, comparison, OVERALL))

    @property
    def kernel(self) -> str | None:
        """The kernel distance, the headline of small sets, of the first encoder that could be used and is not narrow."""
        names = [row.metric for row in self.all if row.metric.startswith(_KERNEL_NAMES) and row.comparison == "total"
                 and row.class_name == OVERALL and row.value is not None]
        return next((name for name in names if kind_of(name) is not FeatureKind.IN_DOMAIN), names[0] if names else None)

    @property
    def is_narrow(self) -> bool:
        return self.kernel is not None and kind_of(self.kernel) is FeatureKind.IN_DOMAIN

    def score(self, name: str) -> str | None:
        """What a neighbour score or the two-sample test is called for the headline's encoder."""
        kernel = self.kernel
        if kernel is None:
            return None
        return f"{name}[FID features]" if kernel.startswith("KID") else f"{name}{kernel.removeprefix('KD')}"

    @property
    def pairs(self) -> str | None:
        """The similarity that tells diversity: LPIPS where there is one, else SSIM."""
        names = [row.metric for row in self.all if row.comparison == "diversity" and row.class_name == OVERALL
                 and row.value is not None]
        return next((name for name in names if name != "SSIM"), names[0] if names else None)

    @property
    def copies(self) -> Row | None:
        """The test for copies that decides, which is the first."""
        return next((row for row in self.all if row.comparison == "copies" and row.value is not None), None)


def write_verdict(rows: Sequence[Row], *, study: Sequence[str] = ()) -> list[Sentence]:
    """The sentences that the rows support, by question, and those of an augmentation study as they are. A question whose
    rows are absent was not tested, and it says so."""
    known = Rows(rows)
    found = [sentence for rule in _RULES for sentence in rule(known)]
    found += [Sentence(USEFUL, STUDIED, text) for text in study] or [_NOT_STUDIED]
    return [sentence for question in QUESTIONS for sentence in found if sentence.question == question]


def choose_headlines(rows: Sequence[Row]) -> list[Headline]:
    """At most eight numbers for the front page, the most telling that there are, each with the one to read it beside."""
    known = Rows(rows)
    kernel, pairs, copies = known.kernel, known.pairs, known.copies
    alike = "SSIM: above real pairs" if pairs == "SSIM" else "below real pairs"
    candidates = [  # (rank, title, row, number beside, its title, reading); the lowest ranks go first where there are many
        (0, "distance to real images", known.find(kernel, "total"), known.find(kernel, "real_real"), "real with real",
         "what you get; the nearer to real with real, the better"),
        (1, "of it the VAE", known.find(kernel, "ceiling"), known.find(kernel, "real_real"), "real with real",
         "no diffusion model on this VAE can be better"),
        (1, "of it the diffusion model", known.find(kernel, "model_gap"), known.find(kernel, "floor"), "floor",
         "synthetic against VAE round trip of real"),
        (8, "look like a real image (precision)", known.find(known.score("precision"), "total"),
         known.find(known.score("precision"), "real_real"), "real with real", "should equal real with real"),
        (3, "real images represented (coverage)", known.find(known.score("coverage"), "total"),
         known.find(known.score("coverage"), "real_real"), "real with real", "lower: part of the variety is missing"),
        (4, "told from real (AUC)", known.find(known.score("two-sample AUC"), "total"),
         known.find(known.score("two-sample AUC"), "real_real"), "real with real", "0.5: not told apart, 1: always"),
        (6, f"alike among themselves ({pairs})", known.find(pairs, "diversity"), known.find(pairs, "real_pairs"),
         "real pairs", f"{alike}: the model repeats itself"),
        (2, "class read from them (AUC)", known.find("class AUC", "synthetic"), known.find("class AUC", "held_out"),
         "held-out real", "0.5: no class to be seen"),
        (2, "near-copies of training images", copies, known.find(copies.metric if copies else None, "copies_control"),
         "held-out control", "share under the threshold; should equal its level"),
    ]
    present = [c for c in candidates if c[2] is not None]
    kept = sorted(present, key=lambda c: c[0])[:MOST_HEADLINES]
    return [Headline(title, row, beside, beside_title, reading)
            for rank, title, row, beside, beside_title, reading in present
            if row is not None and any(row is c[2] for c in kept)]


def format_value(row: Row) -> str:
    """A value with its interval, three digits."""
    if row.value is None:
        return "not computed"
    return _three(row.value) + (f" ({_three(row.interval[0])} to {_three(row.interval[1])})" if row.interval else "")


def _three(number: float) -> str:
    return f"{number:#.3g}".rstrip(".") if number else "0"


# Rules: each takes the rows and gives the sentences that it can.


def _judge_distance(rows: Rows) -> list[Sentence]:
    """Near to real images where `_differs` does not hold, the two-sample test is no better than among real images and the
    encoder is not narrow."""
    total, real = rows.find(rows.kernel, "total"), rows.find(rows.kernel, "real_real")
    if total is None or real is None:
        return [Sentence(GOOD, UNKNOWN, "No distance to real images was computed: no encoder, or too few images or groups.")]
    numbers = f"kernel distance {format_value(total)}, real images among themselves {format_value(real)}"
    if total.interval is None or real.interval is None:
        return [Sentence(GOOD, UNKNOWN, f"Too few groups for an interval, so nothing is proven: {numbers}.")]
    area = rows.find(rows.score("two-sample AUC"), "total")
    of_real = rows.find(rows.score("two-sample AUC"), "real_real")
    told_apart = area is not None and of_real is not None and _above(area, of_real)
    if area is not None:
        numbers += f"; a linear model tells synthetic from real images with AUC {format_value(area)}"
    if _differs(rows):
        return [Sentence(GOOD, FAILS, f"Synthetic images can be told from real ones: {numbers}.")]
    if told_apart:
        blind = " The encoder was made from the training images and is blind to much that the pictures show."
        return [Sentence(GOOD, CAUTION, f"The distance is no larger than that of real images, yet they can be told apart: "
                         f"{numbers}.{blind if rows.is_narrow else ''}")]
    if rows.is_narrow:
        return [Sentence(GOOD, CAUTION, f"No difference from real images was found, but only by an encoder made from the "
                         f"training images, which is blind to much that the pictures show: {numbers}.")]
    return [Sentence(GOOD, HOLDS, f"No difference from real images was found at this number of images: {numbers}.")]


def _judge_limit(rows: Rows) -> list[Sentence]:
    """Which part limits images that differ: the VAE where its ceiling lies above the interval of the model gap, the
    diffusion model where it lies below; by the kernel distance, or by the two-sample test where only that differs."""
    far = _is_far(rows)
    name, nothing = (rows.kernel, 0.0) if far else (rows.score("two-sample AUC"), 0.5)
    gap, ceiling = rows.find(name, "model_gap"), rows.find(name, "ceiling")
    if gap is None or ceiling is None or gap.interval is None or not _differs(rows):
        return []
    measure = "kernel distance" if far else "AUC"
    numbers = (f"real images against their VAE round trip {format_value(ceiling)}, synthetic images against that round trip "
               f"{format_value(gap)} ({measure})")
    if _number(ceiling) > max(gap.interval[1], nothing):
        return [Sentence(GOOD, CAUTION, f"The VAE is the limit: {numbers}. Improve the VAE before the diffusion model.")]
    if gap.interval[0] > max(_number(ceiling), nothing):
        return [Sentence(GOOD, CAUTION, f"The diffusion model is the limit, not the VAE: {numbers}.")]
    return [Sentence(GOOD, CAUTION, f"VAE and diffusion model cost about the same: {numbers}.")]


def _judge_pairs(rows: Rows) -> list[Sentence]:
    """A synthetic and a real image of a class are less alike than two real ones: by a tenth or more, intervals apart."""
    cross, real = rows.find(rows.pairs, "cross"), rows.find(rows.pairs, "real_pairs")
    if cross is None or real is None:
        return []
    unlike = (_above(real, cross) and _number(cross) <= (1 - _UNLIKE_SHARE) * _number(real) if rows.pairs == "SSIM" else
              _above(cross, real) and _number(cross) >= (1 + _UNLIKE_SHARE) * _number(real))
    return [Sentence(GOOD, FAILS, f"Synthetic images are less like real ones than real ones are among themselves: "
                     f"{rows.pairs} {format_value(cross)}, real pairs {format_value(real)}.")] if unlike else []


def _judge_realism(rows: Rows) -> list[Sentence]:
    """Fewer synthetic images among real ones than real images are."""
    made, real = (rows.find(rows.score("precision"), name) for name in ("total", "real_real"))
    if made is None or real is None or not _above(real, made):
        return []
    return [Sentence(GOOD, CAUTION, f"Some synthetic images lie outside of what real images look like: precision "
                     f"{format_value(made)}, real images {format_value(real)}.")]


def _judge_variety(rows: Rows) -> list[Sentence]:
    """What is missed (coverage or recall under real), and whether the images repeat (pairs more alike than real pairs)."""
    missed = []
    for name in ("coverage", "recall"):
        made, real = rows.find(rows.score(name), "total"), rows.find(rows.score(name), "real_real")
        if made is not None and real is not None and _above(real, made):
            missed.append(f"{name} {format_value(made)}, real images {format_value(real)}")
    diversity, pairs = rows.find(rows.pairs, "diversity"), rows.find(rows.pairs, "real_pairs")
    more_alike = diversity is not None and pairs is not None and (
        _above(diversity, pairs) if rows.pairs == "SSIM" else _above(pairs, diversity))
    alike = "" if diversity is None or pairs is None else (
        f"{rows.pairs} of synthetic pairs {format_value(diversity)}, of real pairs {format_value(pairs)}")
    if missed and more_alike:
        return [Sentence(GOOD, FAILS, f"The model repeats itself and misses part of the variety: {'; '.join(missed)}; "
                         f"{alike}.")]
    if missed:
        return [Sentence(GOOD, CAUTION, f"Part of the variety of real images is missing: {'; '.join(missed)}.")]
    if more_alike:
        return [Sentence(GOOD, CAUTION, f"Synthetic images are more alike than real ones ({alike}); the blur of a VAE alone "
                         "does that to some degree.")]
    return []


def _judge_missing_classes(rows: Rows) -> list[Sentence]:
    names = {row.class_name: None for row in rows.all if row.comparison == "total" and row.class_name != OVERALL
             and row.n_synthetic == 0}
    return [Sentence(CLASS, FAILS, f"There is no synthetic image of {', '.join(names)}.")] if names else []


def _judge_signal(rows: Rows) -> list[Sentence]:
    """There is a class to be learned where the held-out AUC's interval lies above 0.5."""
    real = rows.find("class AUC", "held_out")
    if real is None:
        return [Sentence(CLASS, UNKNOWN, "The class was not judged: no classifier was given, or a class has no held-out "
                         "image.")]
    numbers = f"AUC on held-out real images {format_value(real)}"
    if real.interval is None:
        return [Sentence(CLASS, UNKNOWN, f"The class signal is unproven, because the held-out images are of too few groups: "
                         f"{numbers}.")]
    if real.interval[0] <= 0.5:
        return [Sentence(CLASS, FAILS, f"No class signal found: class-conditional claims are not supported ({numbers}; 0.5 "
                         "is chance). A faint one can escape a classifier that had few images or little training.")]
    if _number(real) < _FAINT_AUC:
        return [Sentence(CLASS, CAUTION, f"The class is faintly visible in real images: {numbers}.")]
    return [Sentence(CLASS, HOLDS, f"The class is visible in real images: {numbers}.")]


def _judge_class(rows: Rows) -> list[Sentence]:
    """Whether synthetic images show the class as real ones do, where real ones show it."""
    real, made = rows.find("class AUC", "held_out"), rows.find("class AUC", "synthetic")
    if real is None or made is None or real.interval is None or made.interval is None or real.interval[0] <= 0.5:
        return []
    numbers = f"AUC {format_value(made)}, held-out real images {format_value(real)}"
    if made.interval[1] < 0.5:
        return [Sentence(CLASS, FAILS, f"The classes of synthetic images are swapped: {numbers}.")]
    if made.interval[0] <= 0.5:
        return [Sentence(CLASS, FAILS, f"Synthetic images do not show their class: {numbers}.")]
    if _above(real, made):
        return [Sentence(CLASS, CAUTION, f"Synthetic images show their class less clearly than real ones: {numbers}.")]
    if _above(made, real):
        return [Sentence(CLASS, CAUTION, "Synthetic images show their class more clearly than real ones, as a caricature: "
                         f"{numbers}.")]
    return [Sentence(CLASS, HOLDS, f"Synthetic images show their class as real ones do: {numbers}.")]


def _judge_copies(rows: Rows) -> list[Sentence]:
    """The verdict of the deciding test, and of others that disagree. No test says that images are private."""
    if rows.copies is None:
        return [Sentence(COPIES, UNKNOWN, "Copies of training images were not tested.")]
    sentences = []
    for row in rows.all:
        if row.comparison == "copies" and row.value is not None:
            found = row.note.startswith(COPYING_FOUND)
            if row is rows.copies or found:
                text = row.note.split("; binomial p")[0]
                text = f"{text[:1].upper()}{text[1:]} [{_space(row)}]."
                calm = UNKNOWN if row.note.startswith(TOO_FEW_TO_TELL) else HOLDS
                sentences.append(Sentence(COPIES, FAILS if found else calm, text))
    return sentences


_RULES: tuple[Callable[[Rows], list[Sentence]], ...] = (
    _judge_distance, _judge_limit, _judge_pairs, _judge_realism, _judge_variety, _judge_missing_classes, _judge_signal,
    _judge_class, _judge_copies,
)
_NOT_STUDIED = Sentence(USEFUL, UNKNOWN, "Not studied: whether these images help a classifier takes an augmentation study "
                        "against real images alone and against classical augmentation.")


def _differs(rows: Rows) -> bool:
    """Whether the kernel distance or the two-sample test tells synthetic from real images."""
    area = rows.find(rows.score("two-sample AUC"), "total")
    told_apart = area is not None and area.interval is not None and area.interval[0] >= _TOLD_APART_AUC
    return told_apart or _is_far(rows)


def _is_far(rows: Rows) -> bool:
    """Whether the kernel distance `total` lies above `real_real`, intervals apart."""
    total, real = rows.find(rows.kernel, "total"), rows.find(rows.kernel, "real_real")
    return total is not None and real is not None and _above(total, real)


def _above(one: Row, other: Row) -> bool:
    """Whether `one` lies above `other`, intervals apart; without both intervals nothing is proven."""
    return one.interval is not None and other.interval is not None and one.interval[0] > other.interval[1]


def _number(row: Row) -> float:
    assert row.value is not None  # Rows finds no other
    return row.value


def _space(row: Row) -> str:
    return row.metric.removeprefix("near-copies[").removesuffix("]").split("@")[0]
