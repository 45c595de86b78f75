"""The comparison of five systems that docs/evaluation.md quotes: its table and figure are those of the stored numbers."""

import json
import re
from pathlib import Path
from typing import Any

from dataset.decoding import read_png_text
from dataset.storage import hash_json
from tools.compare.comparison import REAL
from tools.compare.figure import MARK
from tools.compare.page import format_cell
from tools.evaluation.rows import Row

DOCS = Path(__file__).parents[2] / "docs"
STORED: dict[str, Any] = json.loads((DOCS / "studies/compare_phantoms.json").read_text(encoding="utf-8"))
SECTION = (DOCS / "evaluation.md").read_text(encoding="utf-8").split("### Five systems on phantoms\n")[1].split("\n## ")[0]


def tables() -> list[list[list[str]]]:
    """Every table of the section, as cells without emphasis; the rule below the header is left out."""
    found: list[list[list[str]]] = []
    for block in re.findall(r"(?:^\|.*\n)+", SECTION, re.MULTILINE):
        cells = [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in block.splitlines()]
        found.append([cells[0], *cells[2:]])
    return found


def expected_values() -> dict[str, list[str]]:
    """What each line has to say, by its title and features."""
    names = [system["name"] for system in STORED["systems"]]
    lines = {f"{aspect['aspect']}": [STORED["summary"][name][number]["tone"] for name in names] + [""]
             for number, aspect in enumerate(STORED["summary"][names[0]])}
    lines["faults named by direct checks"] = [str(len(STORED["faults"][name])) for name in names] + [""]
    for line in STORED["lines"]:
        feature = line["section"].partition(",")[0]
        title = line["title"] if ", by " in line["title"] or feature == "Class" else f"{line['title']}, {feature}"
        rows = [*(line["systems"][name] for name in names), line["real"]]
        lines[title] = [format_cell(None if row is None else Row.from_dict(row)) for row in rows]
    return lines


def test_the_table_of_systems_holds_the_stored_numbers() -> None:
    header, *lines = tables()[0]
    assert header == ["", *(system["name"] for system in STORED["systems"]), REAL]
    expected = expected_values()
    assert len(lines) >= 20
    for title, *cells in lines:
        assert cells == expected[title], title


def test_the_table_of_differences_says_what_the_stored_outcomes_say() -> None:
    header, *lines = tables()[1]
    names = header[1:]
    stored = {f"{line['title']}, {line['section'].partition(',')[0]}": line["systems"] for line in STORED["differences"]}
    assert names == [system["name"] for system in STORED["systems"] if system["name"] != STORED["against"]]
    assert [title for title, *_ in lines] == list(stored)
    for title, *cells in lines:
        assert cells == [stored[title][name]["outcome"] for name in names], title
    assert f"{STORED['num_comparisons']} differences" in SECTION


def test_the_figure_is_of_the_stored_numbers() -> None:
    assert "](studies/compare_phantoms.png)" in SECTION and "](studies/compare_phantoms.json)" in SECTION
    assert read_png_text(DOCS / "studies/compare_phantoms.png")[MARK] == hash_json(STORED)


def test_the_stored_numbers_name_no_place() -> None:
    assert not re.search(r"(?:^|[\s\"'(])(?:~|[A-Za-z]:)?/\w+/", json.dumps(STORED))
