"""The card tells what the rows say, once each, and nothing in a name or a note acts as Markdown or HTML."""

from config.load import build_config
from config.schema import Config
from tools.evaluation.aspects import Tone
from tools.evaluation.evaluation_report import EvaluationReport
from tools.evaluation.metric_keys import parse_metric
from tools.evaluation.rows import Row
from tools.evaluation.summary import summarise_report
from tools.release.model_card import CardFacts, copy_rows, unescape, write_card


def make_config() -> Config:
    return build_config({"dataset_params": {"params": {"csv_file": "a.csv", "root_dir": "b"}},
                         "train_params": {"task_name": "c"}, "autoencoder_params": {"pretrained": "d"}}, source="test")


def make_facts(**changes: object) -> CardFacts:
    values = {"class_counts": {"no_blastocyst": 3, "blastocyst": 2}, "sampling": {"steps": ["20"], "seed": ["0", "1"]},
              "steps": 900, "best_step": 600, "compared_with_data": True, "num_common_names": 0, **changes}
    return CardFacts(**values)


def make_report(*rows: Row, warnings: tuple[str, ...] = ()) -> EvaluationReport:
    return EvaluationReport({"num_images": {"train": 40}, "real_split": "val"}, list(rows), list(warnings))


def test_rows_are_grouped_by_metric_with_n_and_interval() -> None:
    card = write_card(make_config(), make_facts(), make_report(
        Row(parse_metric("FD[x]"), "all", "total", 12.345678, (10.0, 15.5), 30, 40),
        Row(parse_metric("KD[x]"), "all", "total", 0.5, None, 30, 40),
        Row(parse_metric("FD[x]"), "all", "real_real", 3.0, None, 30, 30),
        Row(parse_metric("FD[x]"), "blastocyst", "total", 99.5, None, 9, 9)))
    lines = [line for line in card.splitlines() if line.startswith("| ") and "metric" not in line]
    assert lines == [r"| FD\[x\] | total | 12.35 | 10 to 15.5 | 30 | 40 |", r"| FD\[x\] | real_real | 3 |  | 30 | 30 |",
                     r"| KD\[x\] | total | 0.5 |  | 30 | 40 |"]
    assert "real images of the validation split" in card and "99.5" not in card
    assert "5 synthetic microscopy images of 64 x 64 px" in card and r"3 no\_blastocyst, 2 blastocyst" in card
    assert "trained for 900 steps" in card and "weights of step 600" in card and "seed 0, 1" in card


def test_what_was_not_computed_is_said_once_with_its_reason() -> None:
    missing = [Row(parse_metric("FID"), "all", comparison, None, note="not computed: no <b>weights</b>")
               for comparison in ("total", "floor")]
    card = write_card(make_config(), make_facts(), make_report(*missing, warnings=("few | images",)))
    assert card.count("FID") == 1
    assert "* FID: not computed: no &lt;b&gt;weights&lt;/b&gt;" in card and "few \\| images" in card


def test_a_name_is_found_again_in_what_markdown_needs_before_its_signs() -> None:
    name = r"P_7 [left] <O'Neil> \ a|b"
    card = write_card(make_config(), make_facts(), make_report(warnings=(name,)))
    assert name not in card and name in unescape(card)


def test_the_summary_comes_first_in_the_words_of_the_evaluation() -> None:
    evaluated = make_report(Row(parse_metric("near-copies[x]"), "all", "copies", 0.25, None, 12, 36,
                                note="copying found: <9> of 36",
                                outcome=Tone.FAILS))
    section = write_card(make_config(), make_facts(), evaluated).split("\n## ")[1]
    assert section.startswith("Summary")
    lines = [line for line in unescape(section).splitlines() if line.startswith("* ")]
    assert lines == [f"* **{line.aspect.value}** ({line.tone.value}): {line.text}" for line in summarise_report(evaluated)]
    assert "* **privacy** (fails): Copying found: &lt;9&gt; of 36" in section
    assert "not evaluated" in write_card(make_config(), make_facts(), None).split("\n## ")[1]


def test_the_verdict_on_copies_is_shown_apart_or_its_absence_said() -> None:
    audited = make_report(Row(parse_metric("r[x]"), "all", "copies", 0.25, None, 12, 36, note="copies found: 9 of 36"),
                          Row(parse_metric("r[x]"), "all", "copies_control", 0.02, None, 50, 0, note="as expected"))
    card = write_card(make_config(), make_facts(num_common_names=7), audited)
    assert [row.comparison for row in copy_rows(audited)] == ["copies", "copies_control"]
    section = card.split("## Copies of training images")[1].split("\n## ")[0]
    assert "copies found: 9 of 36" in section and "| copies | 0.25 |" in section and "not tested" not in section
    assert "7 names are plain short numbers" in section
    refused = make_report(Row(parse_metric("r[x]"), "all", "copies", None, note="not computed: too few groups"))
    card = write_card(make_config(), make_facts(compared_with_data=False), refused)
    section = card.split("## Copies of training images")[1].split("\n## ")[0]
    assert "Copies were not tested" in section and "too few groups" in section and "The data set was not at hand" in section
