"""Plots of values with intervals, a line each, as SVG text in the colours of the page. Equal arguments give equal text."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

_WIDTH, _MARGIN, _LINE_HEIGHT, _AXIS_HEIGHT, _TOP = 350, 8, 42, 26, 4  # px, at which letters have their size on a phone too
_LABEL_HEIGHT = 17  # of the name of a line
_OFFSET = 5  # px that two marks of a line are apart
_LETTER_PX = 6.3  # width of a letter of 12 px, about
_LOG_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)


class Kind(Enum):
    """What a mark is of; it has its own colour and its own shape."""

    MADE = "made"
    REAL = "real"
    RESTORED = "restored"


@dataclass(frozen=True)
class Mark:
    """A value, with its interval where there is one."""

    value: float
    kind: Kind
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class PlotLine:
    """A line of a plot: its name, the number as text, and one or two marks."""

    name: str
    text: str
    marks: Sequence[Mark]


def draw_lines(
    lines: Sequence[PlotLine], *, title: str, description: str, limits: tuple[float, float], reference: Mark | None = None,
    bars: bool = False, log: bool = False,
) -> Markup:
    """SVG of `lines` on one scale: bars from 0 or dots, whiskers for intervals, a dashed line at `reference` with a band for
    its interval. `limits` above 0 for `log`."""
    place = _scale(limits, log=log)
    bottom = _TOP + _LINE_HEIGHT * len(lines)
    parts = []
    for number, one in enumerate(lines):
        top = _TOP + number * _LINE_HEIGHT
        if reference is not None:
            parts += _draw_reference(reference, place, top + _LABEL_HEIGHT, top + _LINE_HEIGHT)
        parts.append(Markup('<text x="{}" y="{}">{}</text><text class="value" x="{}" y="{}">{}</text>').format(
            _MARGIN, top + 13, _shorten(one.name, one.text), _WIDTH - _MARGIN, top + 13, one.text))
        middle = top + 28
        for index, mark in enumerate(one.marks):
            y = middle + _OFFSET * (2 * index - len(one.marks) + 1)
            parts += _draw_bar(mark, place, y) if bars else _draw_dot(mark, place, y)
    parts += _draw_axis(limits, place, bottom, log=log)
    return Markup('<svg class="plot" role="img" viewBox="0 0 {0} {1}" width="{0}" height="{1}" aria-label="{2}. {3}">'
                  "<title>{2}</title><desc>{3}</desc>{4}</svg>").format(
        _WIDTH, bottom + _AXIS_HEIGHT, title, description, Markup().join(parts))


def _scale(limits: tuple[float, float], *, log: bool) -> Callable[[float], float]:
    low, high = (math.log(limit) for limit in limits) if log else limits

    def place(number: float) -> float:
        at = (math.log(max(number, 1e-12)) if log else number) - low
        share = min(1.0, max(0.0, at / (high - low))) if high > low else 0.5
        return _MARGIN + share * (_WIDTH - 2 * _MARGIN)

    return place


def _draw_reference(mark: Mark, place: Callable[[float], float], top: float, bottom: float) -> list[Markup]:
    """A dashed line from `top` to `bottom`, on a band where there is an interval; it leaves the names of the lines free."""
    parts = []
    if mark.interval is not None:
        left, right = (place(end) for end in mark.interval)
        parts.append(Markup('<rect class="{} band" x="{:.1f}" y="{}" width="{:.1f}" height="{}"/>').format(
            mark.kind.value, left, top, right - left, bottom - top))
    x = place(mark.value)
    return [*parts, Markup('<line class="{} reference" x1="{:.1f}" x2="{:.1f}" y1="{}" y2="{}"/>').format(
        mark.kind.value, x, x, top, bottom)]


def _draw_bar(mark: Mark, place: Callable[[float], float], y: float) -> list[Markup]:
    start, end = sorted((place(0.0), place(mark.value)))
    bar = Markup('<rect class="{}" x="{:.1f}" y="{}" width="{:.1f}" height="12"/>')
    return [bar.format(mark.kind.value, start, y - 6, max(end - start, 1.0)), *_draw_whisker(mark, place, y)]


def _draw_dot(mark: Mark, place: Callable[[float], float], y: float) -> list[Markup]:
    """A filled dot for synthetic images, a hollow diamond for real ones, a square for restored ones."""
    x, kind = place(mark.value), mark.kind.value
    if mark.kind is Kind.MADE:
        dot = Markup('<circle class="{}" cx="{:.1f}" cy="{}" r="4"/>').format(kind, x, y)
    elif mark.kind is Kind.REAL:
        dot = Markup('<path class="{} hollow" d="M{:.1f} {}l5 5l-5 5l-5 -5z"/>').format(kind, x, y - 5)
    else:
        dot = Markup('<rect class="{}" x="{:.1f}" y="{}" width="7" height="7"/>').format(kind, x - 3.5, y - 3.5)
    return [*_draw_whisker(mark, place, y), dot]


def _draw_whisker(mark: Mark, place: Callable[[float], float], y: float) -> list[Markup]:
    if mark.interval is None:
        return []
    left, right = (place(end) for end in mark.interval)
    whisker = Markup('<path class="whisker" d="M{0:.1f} {1}v8M{0:.1f} {2}H{3:.1f}M{3:.1f} {1}v8"/>')
    return [whisker.format(left, y - 4, y, right)]


def _draw_axis(limits: tuple[float, float], place: Callable[[float], float], bottom: float, *, log: bool) -> list[Markup]:
    low, high = limits
    found = _LOG_TICKS if log else MaxNLocator(nbins=4, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high).tolist()
    slack = 1e-9 * (high - low)
    line = Markup('<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"/>')
    number = Markup('<text class="minor" x="{:.1f}" y="{}" text-anchor="{}">{:.3g}</text>')
    parts = [line.format(_MARGIN, _WIDTH - _MARGIN, bottom, bottom)]
    for tick in (number for number in found if low - slack <= number <= high + slack):
        x = place(tick)
        anchor = "start" if x < 2 * _MARGIN else "end" if x > _WIDTH - 2 * _MARGIN else "middle"
        parts += [line.format(f"{x:.1f}", f"{x:.1f}", bottom, bottom + 4), number.format(x, bottom + 17, anchor, tick)]
    return parts


def _shorten(name: str, beside: str) -> str:
    most = int((_WIDTH - 3 * _MARGIN) / _LETTER_PX) - len(beside)
    return name if len(name) <= most else f"{name[:max(most - 1, 3)]}…"
