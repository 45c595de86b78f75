"""The colours of the report pages: every text on every ground it can be on has the contrast of WCAG AA, in both schemes."""

import re
from pathlib import Path

import pytest

from tools.evaluation.report import plots

TEMPLATE = Path(plots.__file__).with_name("report_page.html").read_text(encoding="utf-8")
STYLE = re.sub(r"/\*.*?\*/", "", TEMPLATE.split("<style>")[1].split("</style>")[0], flags=re.DOTALL)
DARK = re.search(r"@media \(prefers-color-scheme: dark\) \{(.*?\})\s*\}", STYLE, re.DOTALL)
TEXT, GRAPHIC = 4.5, 3.0  # Source: WCAG 2.2, success criteria 1.4.3 and 1.4.11
PAGE_GROUNDS = ("paper", "pale")  # what text without its own ground can be on
DECORATION = {"line"}  # hairlines between rows, which no reader needs


def read_variables(style: str) -> dict[str, str]:
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", style))


def schemes() -> dict[str, dict[str, str]]:
    assert DARK is not None
    light = read_variables(STYLE.replace(DARK[0], ""))
    return {"light": light, "dark": {**light, **read_variables(DARK[1])}}


def contrast(one: str, other: str) -> float:
    def luminance(colour: str) -> float:
        parts = [int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def pairs() -> list[tuple[str, str, str, float]]:
    """(rule, colour, ground, least contrast) of every rule that sets a colour: on its own ground, else on the page's."""
    found = []
    for selector, body in re.findall(r"([^{}]+)\{([^{}]*)\}", STYLE):
        declared = dict(re.findall(r"(?:^|[;\s])([a-z-]+):\s*([^;]+)", body))
        grounds = [name for name in re.findall(r"var\(--([\w-]+)\)", declared.get("background", "")) if name != "share"]
        for name in re.findall(r"var\(--([\w-]+)\)", declared.get("color", "")):
            found += [(selector.strip(), name, ground, TEXT) for ground in grounds or PAGE_GROUNDS]
        for key in ("fill", "stroke", "border", "outline"):
            least = TEXT if key == "fill" and "text" in selector else GRAPHIC
            found += [(selector.strip(), name, "paper", least) for name in re.findall(r"var\(--([\w-]+)\)",
                                                                                      declared.get(key, ""))
                      if name not in DECORATION | {"paper"}]
    return found


def test_the_formula_gives_the_published_extremes() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_pair_of_colours_has_the_contrast_of_aa(scheme: str) -> None:
    colours = schemes()[scheme]
    assert len(pairs()) > 25 and {"made", "real", "restored", "good", "care", "bad"} <= {name for _, name, _, _ in pairs()}
    too_weak = [(rule, name, ground, round(contrast(colours[name], colours[ground]), 2)) for rule, name, ground, least in
                pairs() if contrast(colours[name], colours[ground]) < least]
    assert not too_weak


def test_every_colour_is_named_in_both_schemes_and_none_stands_in_a_rule() -> None:
    assert DARK is not None
    light, dark = read_variables(STYLE.replace(DARK[0], "")), read_variables(DARK[1])
    assert light.keys() == dark.keys()
    rules = re.sub(r":root \{[^}]*\}", "", STYLE)
    assert not re.findall(r"#[0-9a-fA-F]{3,8}\b|rgba?\(|hsla?\(", rules)
    assert set(re.findall(r"var\(--([\w-]+)\)", rules)) - {"share"} == light.keys()


def test_plots_in_images_have_the_contrast_on_their_white_ground() -> None:
    for colour in (plots.REAL_COLOUR, plots.SYNTHETIC_COLOUR, plots.RESTORED_COLOUR):
        assert contrast(colour, "#ffffff") >= GRAPHIC
    assert contrast(plots.INK, "#ffffff") >= TEXT
