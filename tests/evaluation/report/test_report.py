"""The files of a report: JSON of plain numbers, a workbook in which text stays text, and a table for the screen."""

import json
from pathlib import Path

import pytest
from openpyxl import load_workbook

from tools.evaluation.aspects import Aspect
from tools.evaluation.evaluation_report import EvaluationReport
from tools.evaluation.metric_keys import parse_metric
from tools.evaluation.report import report
from tools.evaluation.rows import COMPARISONS, OVERALL, Row

HOSTILE = '=HYPERLINK("http://x")'


@pytest.fixture
def evaluation() -> EvaluationReport:
    found = EvaluationReport(provenance={"schema": 1, "class_names": [HOSTILE, "b"]}, rows=[
        Row(parse_metric("KD[e@01234567,p]"), OVERALL, "total", 0.125, (0.1, 0.2), 10, 10, note="interval: 95%"),
        Row(parse_metric("KD[e@01234567,p]"), HOSTILE, "total", -1e-5, None, 5, 5),
        Row(parse_metric("FID"), OVERALL, "total", None, note="not computed: name the file"),
        Row(parse_metric("SSIM"), OVERALL, "cross", 0.5, literature_comparable=True),
        Row(parse_metric("class AUC"), OVERALL, "held_out", 0.75, None, 10, 0),
    ])
    found.warn("=careful")
    found.warn("=careful")
    return found


def test_the_json_has_its_keys_in_order(evaluation: EvaluationReport, tmp_path: Path) -> None:
    report.write(evaluation, tmp_path)
    stored = json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8"))
    assert list(stored) == ["summary", "provenance", "rows", "warnings"]
    assert stored["rows"][0] == {
        "metric": "KD[e@01234567,p]", "class": "all", "comparison": "total", "value": 0.125, "interval": [0.1, 0.2],
        "n_real": 10, "n_synthetic": 10, "literature_comparable": False, "note": "interval: 95%"}
    assert [list(row) for row in stored["rows"]] == [list(stored["rows"][0])] * 5
    assert stored["warnings"] == ["=careful"]
    first = (tmp_path / "evaluation.json").read_bytes()
    report.write(evaluation, tmp_path)
    assert (tmp_path / "evaluation.json").read_bytes() == first
    evaluation.rows = [Row.from_dict(row) for row in stored["rows"]]
    report.write(evaluation, tmp_path)
    assert (tmp_path / "evaluation.json").read_bytes() == first


def test_no_cell_of_the_workbook_is_a_formula(evaluation: EvaluationReport, tmp_path: Path) -> None:
    report.write(evaluation, tmp_path)
    book = load_workbook(tmp_path / "evaluation.xlsx")
    cells = [cell for sheet in book for line in sheet.iter_rows() for cell in line]
    assert all(cell.data_type != "f" for cell in cells)
    assert {HOSTILE, "=careful"} <= {cell.value for cell in cells}
    header, *lines = book["metrics"].iter_rows(values_only=True)
    assert header == ("metric", "class", "comparison", "value", "low", "high", "n_real", "n_synthetic",
                      "literature_comparable", "note")
    assert lines[0] == ("KD[e@01234567,p]", "all", "total", 0.125, 0.1, 0.2, 10, 10, False, "interval: 95%")
    assert lines[2][3] is None
    assert {line[0]: line[1] for line in list(book["comparisons"].iter_rows(values_only=True))[1:]} == COMPARISONS


def test_the_table_shows_numbers_and_says_what_is_missing(evaluation: EvaluationReport) -> None:
    lines = report.format_table(evaluation).splitlines()
    assert [line.split()[0] for line in lines[:5]] == [aspect.value for aspect in Aspect] and lines[5] == ""
    lines = lines[6:]
    assert lines[0].split() == ["distance", "class", "total", "ceiling", "model_gap", "real_real", "floor"]
    assert lines[1].split() == ["KD[e@01234567,p]", "all", "0.125"]
    assert "FID: not computed: name the file" in lines
    assert "note: =careful" in lines
    assert len(report.format_table(EvaluationReport(provenance={})).splitlines()) == len(Aspect)


def test_the_table_shows_conditions_and_ratios_but_not_their_confusions() -> None:
    """A condition of ten levels has a hundred cells, for which there is the page."""
    rows = [Row(parse_metric("condition balanced accuracy[PLANE]"), OVERALL, name, value) for name, value in
            (("held_out", 0.9), ("round_trip", 0.8), ("synthetic", 0.6))]
    rows += [Row(parse_metric("condition judged as 0[PLANE]"), "1", "held_out", 0.1),
             Row(parse_metric("ratio of condition balanced accuracy[PLANE]"), OVERALL, "synthetic", 0.667, (0.6, 0.7)),
             Row(parse_metric("ratio of condition AUC[PLANE]"), OVERALL, "synthetic", None,
                 note="not computed: a level has no image")]
    title, line, ratio = report.format_table(EvaluationReport(provenance={}, rows=rows)).splitlines()[6:]
    assert title.split() == ["fidelity", "class", "held_out", "round_trip", "synthetic"]
    assert line.split() == ["condition", "balanced", "accuracy[PLANE]", "all", "0.9", "0.8", "0.6"]
    assert ratio == "ratio of condition balanced accuracy[PLANE]: 0.667 (0.600 to 0.700)"


def test_the_table_has_a_line_for_each_direct_check_of_all_classes() -> None:
    rows = [Row(parse_metric("tint spread"), OVERALL, "direct", 0.5), Row(parse_metric("tint spread"), "a", "direct", 0.25),
            Row(parse_metric("adjusted p of tint spread"), OVERALL, "direct", 0.001),
            Row(parse_metric("adjusted p of tint spread"), "a", "direct", 1.0),
            Row(parse_metric("tint spread"), OVERALL, "direct_real", 0.9)]
    title, line = report.format_table(EvaluationReport(provenance={}, rows=rows)).splitlines()[6:]
    assert title.split() == ["direct", "checks", "direct", "direct_real", "adjusted", "p"]
    assert line.split() == ["tint", "spread", "0.5", "0.9", "0.001"]


def test_scalars_are_the_numbers_that_there_are(evaluation: EvaluationReport) -> None:
    assert report.scalars(evaluation) == {
        "KD[e@01234567,p]/all/total": 0.125, f"KD[e@01234567,p]/{HOSTILE}/total": -1e-5, "SSIM/all/cross": 0.5,
        "class AUC/all/held_out": 0.75}
