"""The plots of the main numbers: marks at their values, in the right order, with texts for who cannot see them."""

import re
from html import unescape

import pytest

from tools.evaluation.metric_keys import parse_metric
from tools.evaluation.report.line_plot import Kind, Mark, PlotLine, draw_lines
from tools.evaluation.report.numbers import show_numbers
from tools.evaluation.rows import OVERALL, Row

KD = "KD[squeezenet1_1@0123abcd,imagenet-min64]"
NARROW = "KD[classifier@0123abcd,symmetric]"


def row(metric: str, comparison: str, value: float, low: float | None = None, high: float | None = None) -> Row:
    interval = None if low is None or high is None else (low, high)
    return Row(parse_metric(metric), OVERALL, comparison, value, interval, n_real=100, n_synthetic=100)


def draw(*values: float, bars: bool = False, log: bool = False, limits: tuple[float, float] = (0.0, 1.0)) -> str:
    lines = [PlotLine(str(value), "", [Mark(value, Kind.MADE, (value, limits[1]))]) for value in values]
    return draw_lines(lines, title="t", description="d", limits=limits, bars=bars, log=log)


def centres(plot: str) -> list[float]:
    return [float(x) for x in re.findall(r'<circle class="made" cx="([\d.]+)"', plot)]


def test_dots_and_whiskers_are_at_their_values() -> None:
    values = (0.0, 0.25, 0.5, 1.0)
    plot = draw(*values)
    left, *_, right = centres(plot)
    assert [(x - left) / (right - left) for x in centres(plot)] == pytest.approx(values, abs=1e-3)
    ends = [(float(low), float(high)) for low, high in re.findall(r'd="M([\d.]+) [\d.]+v8M[\d.]+ [\d.]+H([\d.]+)M', plot)]
    assert [low for low, _ in ends] == centres(plot) and {high for _, high in ends} == {right}


def test_a_scale_of_ratios_puts_half_and_twice_at_equal_distances() -> None:
    half, one, twice = centres(draw(0.5, 1.0, 2.0, log=True, limits=(0.25, 4.0)))
    assert twice - one == pytest.approx(one - half, abs=0.11) and half < one


def test_a_value_off_the_scale_stays_in_the_picture_and_a_bar_starts_at_0() -> None:
    assert centres(draw(9.0, -9.0)) == [342.0, 8.0]
    bars = re.findall(r'<rect class="made" x="([\d.]+)" y="[\d.]+" width="([\d.]+)"',
                      draw(-0.5, 1.0, bars=True, limits=(-1.0, 1.0)))
    (below, below_width), (above, above_width) = ((float(x), float(width)) for x, width in bars)
    assert below + below_width == pytest.approx(above) == pytest.approx(175.0)
    assert above_width == pytest.approx(2 * below_width)


def test_texts_of_a_plot_are_escaped_and_long_names_leave_room_for_their_number() -> None:
    plot = draw_lines([PlotLine("<b>" + "x" * 80, "0.123", [Mark(0.1, Kind.REAL)])], title="a < b", description='"said"',
                      limits=(0.0, 1.0))
    assert "<b>" not in plot and "a &lt; b" in plot and "&#34;said&#34;" in plot
    (shown,) = re.findall(r'<text x="8" y="\d+">([^<]*)</text>', plot)
    assert shown.endswith("…") and len(unescape(shown)) < 60


def test_the_gaps_of_every_encoder_are_shown_and_those_that_decide_nothing_come_last() -> None:
    gaps = (("total", 0.6), ("ceiling", 0.1), ("model_gap", 0.5), ("real_real", 0.05))
    page = show_numbers([row(metric, comparison, value, value - 0.01, value + 0.01) for metric in (NARROW, KD)
                         for comparison, value in gaps], num_classes=2)
    titles = re.findall(r"<figcaption><strong>([^<]*)</strong> ([^<]*)<", page)
    assert titles == [("SqueezeNet features", "published network"),
                      ("classifier features", "trained on your images; decides nothing")]
    assert page.count('<rect class="made" ') == 4 and page.count('<rect class="restored" ') == 2
    assert "Total: synthetic with real 0.600 (0.590 to 0.610)" in page and "Real with real 0.0500" in page
    assert '<td class="number">0.500 (0.490 to 0.510)</td>' in page  # the table beside the plot


def test_scores_the_class_and_copies_stand_beside_real_images() -> None:
    suffix = KD.removeprefix("KD")
    pixels = "pixels at 16 px"
    rows = [row(KD, "total", 0.1), row(f"coverage{suffix}", "total", 0.33), row(f"coverage{suffix}", "real_real", 0.91),
            row("class AUC", "held_out", 0.9), row("class AUC", "synthetic", 0.6),
            row("class balanced accuracy", "held_out", 0.8), row("class baseline balanced accuracy", "held_out", 0.7),
            row("class judge minus baseline", "held_out", 0.1, 0.02, 0.2),
            row(f"near-copies[{pixels}]", "copies", 0.2), row(f"near-copies[{pixels}]", "copies_control", 0.01),
            row(f"authenticity[{pixels}]", "authentic", 0.4), row(f"authenticity[{pixels}]", "authentic_real", 0.6)]
    page = show_numbers(rows, num_classes=4)
    for text in ("0.33 (0.91)", "Coverage of real images 0.910", "dashed line: chance, 0.25", "dashed line: chance, 0.5",
                 "A plain baseline on held-out real images", "0.100 (0.0200 to 0.200)", "Near-copies of training images",
                 "Authenticity", f"{pixels}, held-out real images 0.0100"):
        assert text in page, text


def test_a_fault_found_directly_is_said_in_words_and_drawn_on_a_scale_of_ratios() -> None:
    grain = "grain power[2-4 px]"
    rows = [row(grain, "direct", 0.4, 0.35, 0.45), row(grain, "direct_real", 1.02, 0.9, 1.1),
            row(f"adjusted p of {grain}", "direct", 0.002), row("brightness mean", "direct", 1.0),
            row("brightness mean", "direct_real", 0.5), row("adjusted p of brightness mean", "direct", 0.9)]
    page = show_numbers(rows, num_classes=2)
    assert page.count("<li>") == 1 and "<li>Grain of 2 to 4 px has 0.4 of its power in real images.</li>" in page
    assert page.count("<svg") == 1 and "Power of grain of 2 to 4 px 0.400 (0.350 to 0.450)" in page
    assert "Brightness mean" in page  # a difference, so in the table alone
    innocent = show_numbers([*rows[:2], row(f"adjusted p of {grain}", "direct", 0.4)], num_classes=2)
    assert "No check found a fault." in innocent and "<li>" not in innocent


def test_without_rows_nothing_is_drawn() -> None:
    page = show_numbers([], num_classes=2)
    assert "There are no numbers" in page and "<svg" not in page
