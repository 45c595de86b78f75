"""The summary: five lines, the gravest of each aspect, in the same words on the screen and in every file."""

import json
from pathlib import Path

from openpyxl import load_workbook

from tools.evaluation.aspects import Aspect, Tone
from tools.evaluation.evaluation_report import EvaluationReport, ReportDetails
from tools.evaluation.metric_keys import parse_metric
from tools.evaluation.report import report
from tools.evaluation.rows import OVERALL, Row
from tools.evaluation.summary import SummaryLine, read_study, summarise, summarise_report


def row(metric: str, comparison: str, value: float, low: float, high: float) -> Row:
    return Row(parse_metric(metric), OVERALL, comparison, value, (low, high))


ROWS = [
    row("KD[untrained_a@01234567,p]", "total", 0.8, 0.7, 0.9), row("KD[untrained_a@01234567,p]", "real_real", 0.1, 0.0, 0.2),
    row("recall[untrained_a@01234567,p]", "total", 0.9, 0.85, 0.95),
    row("recall[untrained_a@01234567,p]", "real_real", 0.9, 0.85, 0.95),
    row("class AUC", "held_out", 0.64, 0.55, 0.73), row("class AUC", "synthetic", 0.65, 0.55, 0.75),
    Row(parse_metric("near-copies[pixels at 16 px]"), OVERALL, "copies", 0.01, note="no copying detected at tau: 1 of 100",
        outcome=Tone.HOLDS),
    Row(parse_metric("near-copies[e@01234567,p]"), OVERALL, "copies", 0.2, note="copying found: 20 of 100",
        outcome=Tone.FAILS),
]


def texts(lines: list[SummaryLine]) -> list[str]:
    return [line.text for line in lines]


def test_each_aspect_has_one_line_of_its_gravest_finding() -> None:
    lines = summarise(ROWS)
    assert [(line.aspect, line.tone) for line in lines] == [
        (Aspect.FIDELITY, Tone.FAILS), (Aspect.VARIETY, Tone.HOLDS), (Aspect.CLASS, Tone.CAUTION),
        (Aspect.PRIVACY, Tone.FAILS), (Aspect.UTILITY, Tone.UNKNOWN)]
    assert "by untrained_a features" in lines[0].text and "untrained_a features" in lines[1].text
    assert "faintly visible" in lines[2].text and lines[3].text == "Copying found: 20 of 100 [e]."
    assert [(line.aspect, line.tone) for line in summarise([])] == [(aspect, Tone.UNKNOWN) for aspect in Aspect]


def test_a_study_answers_for_use_in_its_first_sentence() -> None:
    assert summarise(ROWS, study=["It did not help.", "The VAE was kept."])[-1] == SummaryLine(
        Aspect.UTILITY, Tone.STUDIED, "It did not help.")


def test_a_line_names_the_faults_that_direct_checks_found() -> None:
    def fault(octave: str) -> list[Row]:
        check = f"grain power[{octave} px]"
        return [row(check, "direct", 0.4, 0.3, 0.5), row(f"adjusted p of {check}", "direct", 0.001, 0.001, 0.001)]

    line = summarise([*ROWS, *fault("2-4")])[0]
    assert line.tone is Tone.FAILS and "by untrained_a features" in line.text
    assert line.text.endswith("; grain of 2 to 4 px has 0.4 of its power in real images.")
    many = [one for octave in ("2-4", "4-8", "8-16", "16-32", "32-64") for one in fault(octave)]
    assert summarise([*ROWS, *many])[0].text.endswith("grain of 8 to 16 px has 0.4 of its power in real images; and 2 more.")
    assert summarise(fault("2-4"))[0] == SummaryLine(
        Aspect.FIDELITY, Tone.CAUTION, "Grain of 2 to 4 px has 0.4 of its power in real images.")


def test_all_files_and_the_screen_have_the_same_words(tmp_path: Path) -> None:
    evaluation = EvaluationReport(provenance={}, rows=list(ROWS), details=ReportDetails(study=["It did not help."]))
    lines = summarise_report(evaluation)
    report.write(evaluation, tmp_path)
    stored = json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8"))
    assert stored["summary"] == [{"aspect": line.aspect.value, "tone": line.tone.value, "text": line.text} for line in lines]
    read = [Row.from_dict(one) for one in stored["rows"]]
    assert summarise(read, study=read_study(stored)) == lines
    book = load_workbook(tmp_path / "evaluation.xlsx")
    assert book.sheetnames[0] == "summary"
    assert list(book["summary"].iter_rows(min_row=2, values_only=True)) == [
        (line.aspect.value, line.tone.value, line.text) for line in lines]
    screen = report.format_table(evaluation).splitlines()[:5]
    assert [line.endswith(text) for line, text in zip(screen, texts(lines), strict=True)] == [True] * 5


def test_an_evaluation_from_before_summaries_quotes_no_study() -> None:
    assert read_study({"rows": []}) == []
