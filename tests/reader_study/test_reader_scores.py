"""Scoring: a small study whose numbers are known by hand, its files, and every answer that is refused."""

import copy
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openpyxl import load_workbook

from config.errors import UserError
from dataset.storage import hash_file
from tools.reader_study import page as reader_report
from tools.reader_study.answers import CONFIDENCE_SCALE, read_answers, read_key
from tools.reader_study.scores import ALL_READERS, ReaderReport, score

HOSTILE = '=HYPERLINK("http://x")'
ARMS = ["real"] * 4 + ["synthetic"] * 4 + ["round_trip"] * 2
LABELS = [0, 0, 1, 1, 0, 0, 1, 1, 0, 1]
CONFIDENCE = {"R1": [1, 2, 3, 5, 3, 4, 6, 6, 4, 4], "R2": [1, 1, 1, 1, 6, 6, 6, 6, 1, 6]}
GRADES = {"R1": [0, 0, 1, 0, 0, 0, 1, 1, 0, 1], "R2": LABELS}


class Study:
    """A key of ten images, the first and the fifth shown twice, and the answers of two readers."""

    def __init__(self, folder: Path, task: str = "both") -> None:
        self.folder = folder
        items = [{"item": f"i{n}", "arm": arm, "label": label, "group": f"g{n}", "image_id": f"image{n}", "showing": 1}
                 for n, (arm, label) in enumerate(zip(ARMS, LABELS, strict=True))]
        items += [{**items[n], "item": f"again{n}", "showing": 2} for n in (0, 4)]
        self.key: dict[str, Any] = {
            "schema": 1, "task": task, "scale": list(CONFIDENCE_SCALE), "class_names": ["arrested", HOSTILE],
            "defects": ["blur", HOSTILE], "readers": ["R1", "R2", "R3"], "seed": 1, "pack_sha256": "p" * 64,
            "provenance": {}, "items": items}
        self.write_key()
        self.answers = {reader: self.answer(reader) for reader in ("R1", "R2")}

    @property
    def key_path(self) -> Path:
        return self.folder / "key.json"

    def write_key(self) -> None:
        self.key_path.write_text(json.dumps(self.key), encoding="utf-8")

    def answer(self, reader: str) -> dict[str, Any]:
        def one(item: str, n: int, confidence: int) -> dict[str, Any]:
            return {"item": item, "confidence": confidence, "grade": GRADES[reader][n], "seconds": 2.0 + n,
                    "defects": [0] if ARMS[n] == "synthetic" and reader == "R1" else []}

        answers = [one(f"i{n}", n, value) for n, value in enumerate(CONFIDENCE[reader])]
        answers += [one(f"again{n}", n, CONFIDENCE[reader][n] + (reader == "R1")) for n in (0, 4)]
        return {"schema": 1, "pack_sha256": "p" * 64, "key_sha256": hash_file(self.key_path), "reader": reader,
                "complete": True, "answers": answers[::-1]}

    def score(self, *readers: str) -> ReaderReport:
        key = read_key(self.key_path)
        return score(key, read_answers(self.write_answers(*readers), key), repeats=200, seed=0)

    def write_answers(self, *readers: str) -> list[Path]:
        paths = []
        for reader in readers or tuple(self.answers):
            paths.append(self.folder / f"answers_{reader}.json")
            paths[-1].write_text(json.dumps(self.answers[reader]), encoding="utf-8")
        return paths


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path)


def value(report: ReaderReport, metric: str, comparison: str, reader: str = ALL_READERS) -> float:
    row = report.find(metric, comparison, reader)
    assert row is not None and row.value is not None, (metric, comparison, reader)
    return row.value


def test_the_numbers_by_hand(study: Study) -> None:
    report = study.score()
    # R1: of 16 pairs of synthetic (3 4 6 6) and real (1 2 3 5), 3 over 3 is a tie and 3 and 4 lose to 5.
    assert value(report, "AUC of confidence", "total", "R1") == 13.5 / 16
    assert value(report, "AUC of confidence", "total", "R2") == 1
    assert value(report, "AUC of confidence", "total") == (13.5 / 16 + 1) / 2
    assert value(report, "AUC of confidence", "ceiling", "R1") == 6 / 8
    assert value(report, "AUC of confidence", "model_gap", "R2") == 0.75
    assert value(report, "sensitivity", "synthetic", "R1") == 0.75
    assert value(report, "specificity", "real", "R1") == 0.75
    assert value(report, "share called real", "synthetic") == 0.125
    assert value(report, "share called real", "round_trip") == 0.25
    assert value(report, "grade, balanced accuracy", "real", "R1") == 0.75
    assert value(report, "grade, kappa with the label", "real", "R1") == 0.5
    assert value(report, "grade, kappa with the label", "synthetic", "R1") == 1
    assert value(report, "defect: blur", "synthetic", "R1") == 1 and value(report, "any defect", "synthetic") == 0.5
    assert value(report, "defect: blur", "real") == 0
    assert value(report, "confidence, same answer", "within a reader", "R1") == 0
    assert value(report, "confidence, same answer", "within a reader", "R2") == 1
    assert value(report, "confidence, kappa (quadratic weights)", "within a reader", "R2") == 1
    assert value(report, "grade, same answer", "within a reader") == 1
    assert value(report, "median seconds an image", "reading", "R1") == 6.0


def test_the_order_of_readers_and_answers_does_not_matter_and_the_seed_decides_the_intervals(study: Study) -> None:
    first = study.score("R1", "R2")
    study.answers["R1"]["answers"].sort(key=lambda answer: answer["item"])
    assert study.score("R2", "R1").rows == first.rows
    total = first.find("AUC of confidence", "total")
    assert total is not None and total.interval is not None and total.interval[0] < total.value <= total.interval[1]
    told = first.find("AUC of confidence", "total", "R2")
    assert told is not None and told.interval is None  # 1 in every draw


def test_warnings_name_what_intervals_do_not_cover(study: Study) -> None:
    text = " | ".join(study.score("R2").warnings)
    assert "no answers of R1, R3" in text and "one reader: the intervals cover other images, not other readers" in text
    assert "synthetic: 4 groups" in text and "resampling gives no interval" in text
    for answer in study.answers["R1"]["answers"]:
        answer["confidence"] = 3 + int(answer["item"][-1]) % 2
    assert any("the interval of the AUC holds 0.5" in warning for warning in study.score("R1").warnings)


def test_one_category_throughout_is_undefined_and_says_so(study: Study) -> None:
    for answer in study.answers["R2"]["answers"]:
        answer["confidence"] = 2
    row = study.score("R2").find("confidence, kappa (quadratic weights)", "within a reader", "R2")
    assert row is not None and row.value is None and "undefined" in row.note


@pytest.mark.parametrize(("task", "absent"), [("realism", "grade"), ("outcome", "confidence")])
def test_a_task_asks_only_its_questions(tmp_path: Path, task: str, absent: str) -> None:
    study = Study(tmp_path, task)
    for answers in study.answers.values():
        for answer in answers["answers"]:
            del answer[absent]
    metrics = {row.metric for row in study.score().rows}
    assert not any(absent in metric for metric in metrics) and len(metrics) > 3


def test_the_files_hold_the_rows_and_no_formula_and_no_image_id(study: Study) -> None:
    key = read_key(study.key_path)
    readings = read_answers(study.write_answers(), key)
    report = score(key, readings, repeats=100, seed=0)
    reader_report.write(report, key, readings, study.folder / "out")
    stored = json.loads((study.folder / "out/reader_study.json").read_text(encoding="utf-8"))
    assert list(stored) == ["provenance", "rows", "warnings"] and len(stored["rows"]) == len(report.rows)
    assert stored["provenance"]["key_sha256"] == hash_file(study.key_path)
    book = load_workbook(study.folder / "out/reader_study.xlsx")
    assert book.sheetnames == ["results", "comparisons", "answers", "warnings", "provenance"]
    cells = [cell for sheet in book for line in sheet.iter_rows() for cell in line]
    assert all(cell.data_type != "f" for cell in cells) and HOSTILE in {cell.value for cell in cells}
    assert book["results"].max_row == len(report.rows) + 1
    with (study.folder / "out/answers.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 2 * 12
    assert {line["item"]: line["confidence"] for line in lines if line["reader"] == "R2"}["i4"] == "6"
    for path in (study.folder / "out").iterdir():
        if path.suffix != ".xlsx":
            assert "image3" not in path.read_text(encoding="utf-8")
    table = reader_report.format_table(report)
    assert "AUC of confidence" in table and "note: " in table and "fraction of images with it" in table


def test_a_changed_key_is_refused(study: Study) -> None:
    paths = study.write_answers("R1")
    commitment = hash_file(study.key_path)
    assert read_key(study.key_path, commitment=commitment.upper()).sha256 == commitment
    study.key["items"][0]["arm"] = "synthetic"
    study.write_key()
    with pytest.raises(UserError, match="the key was changed after the pack was made"):
        read_answers(paths, read_key(study.key_path))
    with pytest.raises(UserError, match="this is not the original key of the pack"):
        read_key(study.key_path, commitment=commitment)
    del study.key["items"][0]["arm"]
    study.write_key()
    with pytest.raises(UserError, match="an item of this key is not as pack writes it"):
        read_key(study.key_path)
    study.key_path.write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="expected the key of a reader study"):
        read_key(study.key_path)


def refuse(study: Study, message: str, readers: tuple[str, ...] = ("R1",)) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_answers(study.write_answers(*readers), read_key(study.key_path))
    assert "\n" not in str(caught.value)


def test_answers_that_do_not_belong_are_refused(study: Study) -> None:
    whole = copy.deepcopy(study.answers["R1"])

    def changed(**fields: Any) -> None:
        study.answers["R1"] = {**copy.deepcopy(whole), **fields}

    changed(pack_sha256="q" * 64)
    refuse(study, "found answers to the pack qqqqqqqqqqqqqqqq; score each pack with its own key")
    changed(key_sha256="0" * 64)
    refuse(study, "the pack was committed to a key with sha256 0000000000000000")
    changed(reader="R9")
    refuse(study, "expected one of the readers R1, R2, R3, found 'R9'")
    changed(reader="R2")
    refuse(study, "expected one file per reader, found answers of 'R2'", ("R1", "R2"))
    changed(schema=2)
    refuse(study, "expected answers saved by the page")
    changed(answers=whole["answers"][1:])
    refuse(study, "found 1 missing: again4")
    changed(answers=[*whole["answers"], whole["answers"][0]])
    refuse(study, "found 1 twice: again4")
    changed(answers=[*whole["answers"][1:], {**whole["answers"][0], "item": "x"}])
    refuse(study, "found 1 that the pack does not hold: x")
    changed(answers=[3])
    refuse(study, "found one without")


@pytest.mark.parametrize(("field", "bad", "message"), [
    ("confidence", 7, "confidence: expected a whole number from 1 to 6, found 7"),
    ("confidence", None, "confidence: expected a whole number from 1 to 6, found None"),
    ("confidence", True, "confidence: expected a whole number"), ("confidence", 2.5, "confidence: expected a whole number"),
    ("grade", -1, "grade: expected a whole number from 0 to 1, found -1"),
    ("defects", [2], "defects: expected a whole number from 0 to 1, found 2"), ("defects", "blur", "expected a list"),
    ("seconds", -1, "seconds: expected a number from 0"), ("seconds", "5", "seconds: expected a number from 0"),
])
def test_an_answer_outside_its_scale_is_refused(study: Study, field: str, bad: object, message: str) -> None:
    study.answers["R1"]["answers"][3][field] = bad
    refuse(study, message)


def test_rows_of_all_readers_are_the_mean_of_theirs(study: Study) -> None:
    report, compared = study.score(), set()
    for row in report.rows:
        if row.reader == ALL_READERS and report.find(row.metric, row.comparison, "R1") and row.value is not None:
            own = [value(report, row.metric, row.comparison, reader) for reader in ("R1", "R2")]
            assert row.value == pytest.approx(np.mean(own))
            compared.add((row.metric, row.comparison))
    assert len(compared) >= 3
