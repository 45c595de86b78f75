"""Comparing evaluations: what is refused, how systems are found and named, the column of real images, and the files."""

import base64
import contextlib
import csv
import io
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from config.errors import UserError
from dataset.decoding import read_png_text
from dataset.storage import hash_json
from tools.compare import __main__ as command
from tools.compare.comparison import REAL, System, SystemComparison, compare
from tools.compare.differences import Outcome
from tools.compare.evaluation_files import locate, read_system
from tools.compare.figure import MARK
from tools.compare.page import describe_differences, format_cell, format_table, render_page
from tools.evaluation.check_kinds import EMPTY
from tools.evaluation.direct_checks import DIRECT, DIRECT_REAL
from tools.evaluation.memorisation import PIXEL_SPACE
from tools.evaluation.metric_keys import parse_metric
from tools.evaluation.rows import OVERALL, Row

HOSTILE = '<script>alert("x")</script>'
SUFFIX = "[untrained_a@aaaaaaaa,p]"
ENCODERS = {"untrained_a": {"weights_sha256": "a" * 64, "preset": "p"},
            "classifier": {"weights_sha256": "c" * 64, "preset": "symmetric"}}
HALF = 0.02  # of every interval, in shares of a distance of 1


def make_rows(
    distance: float, suffix: str = SUFFIX, *, n: int = 60, judged: float = 0.9, authentic: float = 0.7
) -> list[Row]:
    """An evaluation whose kernel distance is `distance`; its other numbers go with it."""
    def row(metric: str, comparison: str, value: float, half: float = HALF, class_name: str = OVERALL) -> Row:
        return Row(parse_metric(metric), class_name, comparison, value, (value - half, value + half), n, n)

    rows = [
        *(row(f"{family}{suffix}", comparison, value) for family in ("FD", "KD") for comparison, value in
          (("total", distance), ("real_real", 0.1), ("model_gap", distance / 2), ("floor", 0.05))),
        *(row(f"{family}{suffix}", comparison, value) for family in ("precision", "recall", "coverage")
          for comparison, value in (("total", 1 - distance / 4), ("real_real", 0.95))),
        row(f"two-sample AUC{suffix}", "total", 0.5 + distance / 4), row(f"two-sample AUC{suffix}", "real_real", 0.5),
    ]
    rows += [row(f"KD{suffix}", "total", distance, class_name=name) for name in ("a", "b")]
    return [*rows, row("class AUC", "held_out", judged), row("class AUC", "synthetic", 0.8),
            Row(parse_metric(f"near-copies[{PIXEL_SPACE}]"), OVERALL, "copies", 0.02, n_real=9, n_synthetic=n),
            Row(parse_metric(f"near-copies[{PIXEL_SPACE}]"), OVERALL, "copies_control", 0.01, n_real=9, n_synthetic=0),
            row(f"authenticity{suffix}", "authentic", 0.6), row(f"authenticity{suffix}", "authentic_real", authentic)]


def make_evaluation(distance: float, **changes: Any) -> dict[str, Any]:
    """evaluation.json as plain values; `changes` are keys of its provenance, or `rows`."""
    rows = changes.pop("rows", make_rows(distance))
    provenance = {
        "schema": 1, "method": 2, "real_split": "test", "vae_sha256": "v" * 64, "checkpoint_sha256": None,
        "transform": {"image_size": 64, "fit": "crop"}, "class_names": ["a", "b"], "encoders": ENCODERS,
        "images_sha256": {"synthetic": str(distance), "test": "t", "train": "r"},
        "num_images": {"synthetic": 60, "test": 60, "train": 200}, **changes}
    return {"provenance": provenance, "rows": [row.to_dict() for row in rows], "warnings": []}


def make_system(name: str, distance: float, **changes: Any) -> System:
    made = make_evaluation(distance, **changes)
    return System(name, name, made["provenance"], tuple(map(Row.from_dict, made["rows"])))


def write(path: Path, distance: float, **changes: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(make_evaluation(distance, **changes)), encoding="utf-8")
    return path


@pytest.fixture
def comparison() -> SystemComparison:
    return compare([make_system("ours", 0.4), make_system("same", 0.41), make_system("far", 0.9)])


def find_line(comparison: SystemComparison, title: str) -> Any:
    return next(line for line in comparison.lines if line.title == title)


# What is refused


DIFFERENT: dict[str, tuple[dict[str, Any], str]] = {
    "held-out images": ({"images_sha256": {"test": "other", "train": "r"}}, "the test images"),
    "training images": ({"images_sha256": {"test": "t", "train": "other"}}, "the train images"),
    "split": ({"real_split": "val"}, "the split"),
    "transform": ({"transform": {"image_size": 64, "fit": "pad"}}, "fit of the transform"),
    "class names": ({"class_names": ["a", "c"]}, "the class names"),
    "method": ({"method": 3}, "the method"),
    "n": ({"rows": make_rows(0.5, n=50)}, r"expected n as in one \(60 real and 60 synthetic images\), found 50 and 50"),
    "features": ({"encoders": {"classifier": ENCODERS["classifier"]}}, "published or untrained features"),
    "weights": ({"encoders": {"untrained_a": {"weights_sha256": "b" * 64, "preset": "p"}}}, "weights or presets differ"),
    "preset": ({"encoders": {"untrained_a": {"weights_sha256": "a" * 64, "preset": "q"}}}, "weights or presets differ"),
}


@pytest.mark.parametrize("kind", DIFFERENT)
def test_evaluations_that_differ_in_what_they_measure_are_refused_in_one_line(kind: str) -> None:
    changes, said = DIFFERENT[kind]
    with pytest.raises(UserError, match=said) as refusal:
        compare([make_system("one", 0.5), make_system("other", 0.5, **changes)])
    assert "\n" not in str(refusal.value)


def test_n_of_a_class_must_agree_too() -> None:
    rows = [replace(row, n_real=30, n_synthetic=30) if row.class_name == "a" else row for row in make_rows(0.5)]
    with pytest.raises(UserError, match="one of class a"):
        compare([make_system("one", 0.5), make_system("other", 0.5, rows=rows)])


@pytest.mark.parametrize(("names", "said"), [
    (["one"], "expected two evaluations or more, found 1"), (["one", "one"], "the name of 2 evaluations"),
    (["one", REAL], "the column of real images"),
])
def test_names_and_numbers_of_systems_are_checked(names: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        compare([make_system(name, 0.5) for name in names])


def test_against_must_be_a_column() -> None:
    systems = [make_system("ours", 0.5), make_system("gan", 0.5)]
    with pytest.raises(UserError, match="--against: expected one of ours, gan, real images, found 'gann'; did you mean"):
        compare(systems, against="gann")


# What is left out, and said


def test_features_that_only_some_have_are_left_out_and_named() -> None:
    more = {**ENCODERS, "squeezenet1_1": {"weights_sha256": "b" * 64, "preset": "q"}}
    compared = compare([make_system("one", 0.5, encoders=more), make_system("other", 0.6)])
    assert "features of squeezenet1_1: only one has them" in compared.left_out
    assert {line.section for line in compared.lines} == {"untrained_a, untrained features", "Class", "Copies"}
    assert any(text.startswith("features of classifier") for text in compared.left_out)


def test_the_model_gap_is_left_out_where_vaes_differ() -> None:
    compared = compare([make_system("one", 0.5), make_system("other", 0.6, vae_sha256="w" * 64)])
    assert not [line for line in compared.lines if line.comparison == "model_gap"]
    assert any(text.startswith("model gaps") for text in compared.left_out)


def test_the_class_is_left_out_where_another_classifier_read_it() -> None:
    compared = compare([make_system("one", 0.5), make_system("other", 0.6, rows=make_rows(0.6, judged=0.7))])
    assert "class AUC" not in {line.metric.name for line in compared.lines}
    assert any(text.startswith("class AUC") for text in compared.left_out)


def test_a_control_that_differs_between_evaluations_is_not_shown() -> None:
    compared = compare([make_system("one", 0.5), make_system("other", 0.6, rows=make_rows(0.6, authentic=0.5))])
    assert find_line(compared, "Authentic, by untrained_a").real is None
    assert find_line(compared, f"Near-copies, by {PIXEL_SPACE}").real is not None
    assert any(text.startswith("Authentic, by untrained_a, of real images") for text in compared.left_out)


def test_features_by_which_real_images_lie_elsewhere_are_left_out() -> None:
    """Equal files read as gray in one evaluation and as colour in another."""
    rows = [replace(row, value=0.2) if (row.metric, row.comparison) == (f"FD{SUFFIX}", "real_real") else row
            for row in make_rows(0.6)]
    with pytest.raises(UserError, match="images of one are gray"):
        compare([make_system("one", 0.5), make_system("other", 0.6, rows=rows)])


def test_official_weights_go_by_their_official_names() -> None:
    encoders = {"inception": {"weights_sha256": "d" * 64, "preset": "tf1"}}

    names = {"authenticity[FID features]": "authenticity[inception@dddddddd,tf1]"}

    def official(distance: float) -> list[Row]:
        return [replace(row, key=parse_metric(names.get(row.metric, row.metric)))
                for row in make_rows(distance, "[FID features]")]

    compared = compare([make_system(name, value, encoders=encoders, rows=official(value))
                        for name, value in (("one", 0.5), ("other", 0.6))])
    assert [find_line(compared, f"{name} distance").metric.name for name in ("Fréchet", "Kernel")] == ["FID", "KID"]
    assert find_line(compared, "Coverage").cells["other"].value == pytest.approx(0.85)
    assert find_line(compared, "Authentic, by inception").cells["one"].value == 0.6
    assert {line.section for line in compared.lines} >= {"inception, published features"}


# The table and the differences


def test_real_images_are_a_column_from_the_reference_rows(comparison: SystemComparison) -> None:
    expected = {"Kernel distance": 0.1, "Kernel distance, model gap": 0.05, "Coverage": 0.95, "Two-sample AUC": 0.5,
                "Class AUC of a separate classifier": 0.9, f"Near-copies, by {PIXEL_SPACE}": 0.01,
                "Authentic, by untrained_a": 0.7}
    assert {title: find_line(comparison, title).real.value for title in expected} == pytest.approx(expected)
    header, *lines = format_table(comparison).splitlines()
    assert header == "| | ours | same | far | real images |"
    assert any(line == "| Kernel distance | 0.400 (0.380 to 0.420) | 0.410 (0.390 to 0.430) | 0.900 (0.880 to 0.920) | "
               "0.100 (0.0800 to 0.120) |" for line in lines)


def test_differences_have_their_sign_and_only_planted_ones_are_called_worse(comparison: SystemComparison) -> None:
    outcomes = {one.line.title: (one.differences, one.outcome) for one in comparison.subtracted}
    assert set(outcomes) == {"Fréchet distance", "Kernel distance", "Coverage", "Two-sample AUC",
                             "Fréchet distance, model gap", "Kernel distance, model gap"}
    for differences, outcome in outcomes.values():
        assert list(differences) == ["same", "far"]
        assert outcome("far") is Outcome.WORSE and outcome("same") is Outcome.NONE
        low, high = differences["same"].interval
        assert low < 0 < high
    assert outcomes["Kernel distance"][0]["far"].value == pytest.approx(0.5)
    assert outcomes["Coverage"][0]["far"].value == pytest.approx(-0.125)
    assert comparison.num_comparisons == 12
    assert "12 differences from ours" in describe_differences(comparison)


def test_what_direct_checks_accuse_a_system_of_is_in_its_column() -> None:
    empty = [Row(parse_metric(EMPTY), OVERALL, DIRECT, 0.5, None, 60, 60),
             Row(parse_metric(EMPTY), OVERALL, DIRECT_REAL, 0.0, None, 60, 60),
             Row(parse_metric(f"adjusted p of {EMPTY}"), OVERALL, DIRECT, 0.001, None, 60, 60)]
    compared = compare([make_system("one", 0.5), make_system("other", 0.5, rows=[*make_rows(0.5), *empty])])
    assert {name: [fault.text for fault in faults] for name, faults in compared.faults.items()} == {
        "one": [], "other": ["30 of 60 images are empty."]}
    assert format_table(compared).splitlines()[-1] == "| faults named by direct checks | 0 | 1 | |"
    assert "<td class=\"text\">1<span class=\"note\">30 of 60 images are empty.</span></td>" in render_page(compared, b"")
    assert compared.to_dict()["faults"]["other"][0]["check"] == EMPTY


def test_the_others_can_be_subtracted_from_any_column(comparison: SystemComparison) -> None:
    far = compare(comparison.systems, against="far")
    line = next(one for one in far.subtracted if one.line.title == "Kernel distance")
    assert list(line.differences) == ["ours", "same"] and line.outcome("ours") is Outcome.BETTER
    assert line.differences["ours"].value == pytest.approx(-0.5)
    real = compare(comparison.systems, against=REAL)
    line = next(one for one in real.subtracted if one.line.title == "Kernel distance")
    assert line.differences["ours"].value == pytest.approx(0.3) and list(line.differences) == ["ours", "same", "far"]


def test_numbers_without_an_interval_are_shown_and_not_subtracted() -> None:
    def bare(distance: float) -> list[Row]:
        return [replace(row, interval=None) for row in make_rows(distance)]

    compared = compare([make_system("one", 0.5, rows=bare(0.5)), make_system("other", 0.9)])
    assert not compared.subtracted and compared.num_comparisons == 0
    assert "no pair of numbers has one each" in describe_differences(compared)
    assert format_cell(find_line(compared, "Kernel distance").cells["one"]) == "0.500"


@pytest.mark.parametrize(("value", "shown"), [
    (0.0, "0"), (0.123456, "0.123"), (-0.5, "-0.500"), (99.96, "100"), (123.4, "123"), (2345.6, "2346"), (1.0, "1.00")])
def test_numbers_have_three_digits_and_no_powers_of_ten(value: float, shown: str) -> None:
    assert format_cell(Row(parse_metric("KD[x]"), OVERALL, "total", value)) == shown


# Files and names


def test_evaluations_are_found_by_file_folder_and_run_and_named_after_them(tmp_path: Path) -> None:
    run = write(tmp_path / "demo/run/samples/evaluation.json", 0.5)
    assert locate(str(tmp_path / "demo/run")) == ("run", run)
    assert locate(str(run)) == ("run", run) and locate(str(run.parent)) == ("run", run)
    gan = write(tmp_path / "gan/evaluation.json", 0.5)
    assert locate(str(gan.parent)) == ("gan", gan)
    assert locate(f"our GAN={gan}") == ("our GAN", gan)
    renamed = write(tmp_path / "stick/theirs.json", 0.5)
    assert locate(str(renamed)) == ("theirs", renamed)
    odd = write(tmp_path / "lr=0.1/evaluation.json", 0.5)
    assert locate(str(odd.parent)) == ("lr=0.1", odd)
    assert locate(f"slow={odd.parent}") == ("slow", odd)


def test_several_none_or_broken_evaluations_are_refused(tmp_path: Path) -> None:
    for name in ("samples", "second"):
        write(tmp_path / "run" / name / "evaluation.json", 0.5)
    with pytest.raises(UserError, match=r"expected one evaluation, found 2: .*samples, .*second; give one of these folders"):
        locate(str(tmp_path / "run"))
    with pytest.raises(UserError, match="found nothing there"):
        locate(str(tmp_path / "absent"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no evaluation.json in it"):
        locate(str(tmp_path / "empty"))
    for argument, said in (("=place", "no name"), ("name=", "no path")):
        with pytest.raises(UserError, match=said):
            locate(argument)
    old = make_evaluation(0.5)
    del old["provenance"]["transform"]
    for content in ("[]", "{}", json.dumps({"provenance": {}, "rows": 3}), json.dumps(old)):
        (tmp_path / "other.json").write_text(content, encoding="utf-8")
        with pytest.raises(UserError, match=r"other.json: expected an evaluation.json of this release"):
            read_system("other", tmp_path / "other.json")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three evaluations."""
    root = tmp_path_factory.mktemp("evaluations")
    for name, distance in (("ours", 0.4), ("gan", 0.9), ("third", 0.5)):
        write(root / name / "evaluation.json", distance)
    return root


@pytest.fixture(scope="module")
def pages(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with page.html and what lies beside it, and the screen's text as said.txt in the folder above."""
    root = tmp_path_factory.mktemp("output")
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        run(folder, root / "pages/page.html", "--against", REAL)
    (root / "said.txt").write_text(said.getvalue(), encoding="utf-8")
    return root / "pages"


def run(folder: Path, output: Path, *further: str) -> Path:
    """Compare the three, one of them under a hostile name."""
    command.main([str(folder / "ours"), str(folder / "gan"), f"{HOSTILE}={folder / 'third'}", "--output", str(output),
                  *further])
    return output


def test_equal_inputs_give_equal_files_wherever_they_lie(folder: Path, pages: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    again = run(tmp_path / "copy", tmp_path / "again/page.html", "--against", REAL).parent
    names = sorted(path.name for path in again.iterdir())
    assert names == ["page.csv", "page.html", "page.json", "page.png"]
    for name in names:
        assert (pages / name).read_bytes() == (again / name).read_bytes(), name
    assert str(tmp_path) not in (again / "page.html").read_text(encoding="utf-8")


class Page(HTMLParser):
    """The tags of a page with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_the_page_loads_nothing_escapes_names_and_can_be_read_without_eyes(pages: Path) -> None:
    text = (pages / "page.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not page.all("script") and HOSTILE not in text and "&lt;script&gt;" in text
    assert not re.search(r"(?:https?:)?//\w", re.sub(r"base64,[\w+/=]+", "", text))
    assert all(str(image["src"]).startswith("data:image/png;base64,") for image in page.all("img"))
    assert len(page.all("img")) == 1 and "Coverage" in str(page.all("img")[0]["alt"])
    assert (pages / "page.png").read_bytes() == base64.b64decode(str(page.all("img")[0]["src"]).partition(",")[2])
    assert page.all("html")[0]["lang"] == "en" and len(page.all("main")) == len(page.all("h1")) == 1
    assert len(page.all("table")) == 2
    assert all(head.get("scope") in ("col", "row", "colgroup") for head in page.all("th"))
    regions = [div for div in page.all("div") if div.get("class") == "scroll"]
    assert regions and all(one["tabindex"] == "0" and one["role"] == "group" and one["aria-label"] for one in regions)


def test_json_and_csv_hold_every_number_of_the_table(pages: Path) -> None:
    stored = json.loads((pages / "page.json").read_text(encoding="utf-8"))
    assert [system["name"] for system in stored["systems"]] == ["ours", "gan", HOSTILE] and stored["against"] == REAL
    with (pages / "page.csv").open(encoding="utf-8", newline="") as file:
        cells = {(row["kind"], row["title"], row["system"]): row for row in csv.DictReader(file)}
    assert all(len(lines) == 5 for lines in stored["summary"].values())
    for line in stored["lines"]:
        for name, row in (*line["systems"].items(), (REAL, line["real"])):
            assert float(cells["value", line["title"], name]["value"]) == row["value"]
    assert read_png_text(pages / "page.png")[MARK] == hash_json(stored)
    count = 0
    for line in stored["differences"]:
        for name, difference in line["systems"].items():
            found = cells["difference", line["title"], name]
            assert float(found["value"]) == difference["value"] and found["outcome"] == difference["outcome"]
            count += 1
    assert count == stored["num_comparisons"] > 0


@pytest.mark.parametrize("name", ["page.pdf", "page", "evaluation.html"])
def test_names_of_pages_that_would_mislead_or_replace_an_evaluation_are_refused(
    folder: Path, name: str
) -> None:
    with pytest.raises(UserError, match="--output: expected"):
        run(folder, folder / "ours" / name)


def test_an_evaluation_that_was_renamed_is_not_replaced_either(folder: Path) -> None:
    renamed = (folder / "gan/evaluation.json").rename(folder / "theirs.json")
    with pytest.raises(UserError, match=r"beside which theirs.json would be written"):
        command.main([str(folder / "ours"), str(renamed), "--output", str(folder / "theirs.html")])


def test_the_screen_says_what_was_compared(pages: Path) -> None:
    said = (pages.parent / "said.txt").read_text(encoding="utf-8")
    assert "differences from real images" in said and "| Coverage | " in said
    assert "not compared: features of classifier" in said
