"""The report's pages: what the shareable one must not hold, escaping, withheld near-copies, and equal bytes."""

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from markupsafe import escape
from PIL import Image

from models.classifier import Classifier, ClassifierConfig
from tools.evaluation import protocol
from tools.evaluation.aspects import Tone
from tools.evaluation.encoders.encoder import load_encoder
from tools.evaluation.evaluation_report import EvaluationReport, ReportDetails
from tools.evaluation.evaluation_sets import EvaluationSets, EvaluationSettings
from tools.evaluation.image_set import ImageSet
from tools.evaluation.metric_keys import parse_metric
from tools.evaluation.report.exhibits import REAL_SET, RESTORED_SET, SYNTHETIC_SET, make_salt
from tools.evaluation.report.page import INTERNAL_NAME, PSEUDONYMS_NAME, SHAREABLE_NAME, render_page, write_pages
from tools.evaluation.report.plots import draw_interval, encode_png
from tools.evaluation.rows import OVERALL, Row

HOSTILE = '<script>alert("x")</script>'
NAMES = (HOSTILE, "bright & good")
COUNT = 24
NUM_COPIES = 3
PATH = "/data/clinic/weights.pth"


def make_set(name: str, *, seed: int) -> ImageSet:
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1], COUNT)
    coarse = rng.normal(0, 25, size=(len(labels), 8, 8)).repeat(4, axis=1).repeat(4, axis=2)
    pixels = np.clip(100 + 40 * labels[:, None, None] + coarse, 0, 255).astype(np.uint8)[..., None]
    ids = [f"{name}-{i:03d}" for i in range(len(labels))]
    return ImageSet(name, pixels, labels, ids, [f"{name}-patient-{i // 2}" for i in range(len(labels))],
                    [f"{seed}-{i}" for i in ids])


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> EvaluationReport:
    """An evaluation in which the first synthetic images are training images."""
    folder = tmp_path_factory.mktemp("features")
    torch.manual_seed(0)
    for name, data in Classifier(ClassifierConfig(im_channels=1, num_classes=2, image_size=32)).to_files().items():
        (folder / name).write_bytes(data)
    real, train, made = make_set("test", seed=1), make_set("train", seed=2), make_set("drawn", seed=3)
    pixels = made.pixels.copy()
    pixels[:NUM_COPIES] = train.pixels[:NUM_COPIES]
    sets = EvaluationSets(
        synthetic=replace(made, pixels=pixels), real=real, train=train,
        real_round_trip=real.with_pixels("test_round_trip", real.pixels // 2 + 60),
        train_round_trip=train.with_pixels("train_round_trip", train.pixels // 2 + 60), class_names=NAMES)
    report = EvaluationReport(provenance={
        "real_split": "test", "num_images": {"synthetic": 48, "test": 48, "train": 48}, "class_names": list(NAMES),
        "where": PATH, "test_set_opening": 2, "checkpoint_sha256": "ab" * 32})
    settings = EvaluationSettings(feature_folder=folder, transform_hash="a", round_trip_hash="b", batch_size=64,
                                  max_pairs=50, frechet_repeats=2, bootstrap_repeats=10)
    protocol.evaluate(sets, encoders=[load_encoder("classifier", weights_path=folder)], perceptual=None, judge=None,
                      settings=settings, report=report, say=lambda _: None)
    report.rows.append(Row(parse_metric("LPIPS"), OVERALL, "cross", None,
                           note=f"not computed: {PATH}: of train-patient-4 is missing"))
    report.warn("look at test-007 and train-patient-4")
    report.warn(f"read from {PATH}, or else from relative/place/table.csv")
    return report


@pytest.fixture(scope="module")
def pages(report: EvaluationReport, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    write_pages(report, folder, internal_folder=folder / "internal")
    return folder


def read(pages: Path, *, internal: bool) -> str:
    path = pages / "internal" / INTERNAL_NAME if internal else pages / SHAREABLE_NAME
    return path.read_text(encoding="utf-8")


def pictures(page: str) -> list[np.ndarray]:
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("L")) for text in found]


def holds(picture: np.ndarray, tile: np.ndarray) -> bool:
    """Whether a tile stands somewhere in a picture, pixel by pixel."""
    side = tile.shape[0]
    if min(picture.shape) < side:
        return False
    windows = np.lib.stride_tricks.sliding_window_view(picture, (side, side))
    corners = np.argwhere(windows[:, :, 0, 0] == tile[0, 0])
    return any((windows[y, x] == tile).all() for y, x in corners)


def test_the_shareable_page_names_no_real_image_patient_or_path(pages: Path) -> None:
    page = read(pages, internal=False)
    for name in ("test", "train"):
        real = make_set(name, seed=1)
        assert not [one for one in (*real.ids, *real.groups) if one in page]
    assert PATH not in page and "/data" not in page and "relative/place" not in page
    assert "left out of the shareable report" in page
    kept = read(pages, internal=True)
    assert "train-patient-4" in kept and PATH in kept


def test_the_shareable_page_shows_no_real_image_and_no_near_copy(pages: Path) -> None:
    real = [image[..., 0] for images in (make_set("test", seed=1), make_set("train", seed=2)) for image in images.pixels]
    shared, kept = (pictures(read(pages, internal=internal)) for internal in (False, True))
    encoded = [base64.b64encode(encode_png(image[..., None])).decode() for image in real]
    assert not any(text in read(pages, internal=False) for text in encoded)
    assert not [tile for tile in real if any(holds(picture, tile) for picture in shared)]
    assert sum(any(holds(picture, tile) for picture in kept) for tile in real) > COUNT  # the search does find them
    withheld = re.search(r"(\d+) withheld, which may be near-copies of real images", read(pages, internal=False))
    assert withheld is not None and int(withheld[1]) >= NUM_COPIES
    drawn = make_set("drawn", seed=3).pixels[..., 0]
    assert any(holds(picture, drawn[NUM_COPIES + 1]) for picture in shared)


def test_copies_and_the_opening_are_on_the_front_page(pages: Path) -> None:
    front = read(pages, internal=False).split('<section id="details"')[0]
    assert "Copying found" in front and "tone-fails" in front
    assert "opening 2 of this test set: chosen after looks, it flatters" in front
    assert "comparable with published numbers: SSIM" in front
    assert "Patient data." not in front and "Patient data." in read(pages, internal=True).split("<nav")[0]


def test_ids_are_salted_and_only_the_internal_folder_can_undo_it(pages: Path, report: EvaluationReport) -> None:
    stored = json.loads((pages / "internal" / PSEUDONYMS_NAME).read_text(encoding="utf-8"))
    page = read(pages, internal=False)
    shown = set(re.findall(r"id-[0-9a-f]{12}", page))
    assert shown and shown <= set(stored["salted_ids"])
    assert {stored["salted_ids"][one] for one in shown} >= {f"train-{i:03d}" for i in range(NUM_COPIES)}
    assert stored["salt"] not in page and stored["salt"] not in json.dumps(report.provenance)
    real, train, made = (make_set(name, seed=seed).sha256 for name, seed in (("test", 1), ("train", 2), ("drawn", 3)))
    assert make_salt([real, train, made]) == stored["salt"]
    assert make_salt([["other", *real[1:]], train, made]) != stored["salt"]


class _Tags(HTMLParser):
    """A page as a list of elements (tag, attributes, tags above it, text) in the order of the page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str], tuple[str, ...]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}, tuple(self.open)))
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}, tuple(self.open)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def all(self, *tags: str) -> list[dict[str, str]]:
        return [attributes for tag, attributes, _ in self.elements if tag in tags]


@pytest.mark.parametrize("internal", [False, True])
def test_pages_are_well_formed_escaped_and_fetch_nothing(pages: Path, internal: bool) -> None:
    page = read(pages, internal=internal)
    tags = _Tags(page)
    assert tags.open == []
    addresses = [one[key] for _, one, _ in tags.elements for key in ("src", "href") if key in one]
    assert addresses and all(address.startswith(("data:", "#")) for address in addresses)
    assert not tags.all("script", "iframe", "object", "form", "base")
    assert not [key for _, one, _ in tags.elements for key in one if key.startswith("on") or key == "srcset"]
    assert "&lt;script&gt;" in page and "bright &amp; good" in page
    assert "default-src 'none'" in page
    assert not re.search(r"url\(|@import", page)


@pytest.mark.parametrize("internal", [False, True])
def test_images_come_first_then_the_nearest_pairs_the_summary_and_the_numbers(pages: Path, internal: bool) -> None:
    page = read(pages, internal=internal)
    tags = _Tags(page)
    sections = [one["id"] for one in tags.all("section")]
    assert sections == ["images", "nearest", "summary", "numbers", "limits", "details"]
    titles = ("<h1>", "Patient data.", "<nav", 'id="images"', "<img", 'id="nearest"', 'id="summary"', "<dt>Fidelity</dt>",
              "<dt>Variety</dt>", "<dt>Class</dt>", "<dt>Privacy</dt>", "<dt>Utility</dt>", 'id="numbers"', "<svg",
              'id="limits"', 'id="details"', "<summary>Every finding")
    places = [page.index(title) for title in titles if internal or title != "Patient data."]
    assert places == sorted(places)
    front = [one["alt"] for one in _Tags(page.split('id="nearest"')[0] + "").all("img")]
    wanted = ["real images of class", "synthetic images of class"] if internal else ["synthetic images of class"]
    assert len(front) == len(wanted) * len(NAMES)
    assert all(part in alt and name in alt for alt, (name, part) in zip(
        front, [(name, part) for name in NAMES for part in wanted], strict=True))


@pytest.mark.parametrize("internal", [False, True])
def test_pages_can_be_used_by_keyboard_and_screen_reader(pages: Path, internal: bool) -> None:
    tags = _Tags(read(pages, internal=internal))
    assert tags.all("html")[0]["lang"] == "en"
    for landmark in ("header", "nav", "main", "footer", "h1"):
        assert len(tags.all(landmark)) == 1, landmark
    levels = [int(tag[1]) for tag, _, _ in tags.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and all(after - before <= 1 for before, after in pairwise(levels))
    ids = [one["id"] for _, one, _ in tags.elements if "id" in one]
    assert len(ids) == len(set(ids))
    assert {one["href"][1:] for one in tags.all("a")} | {one["aria-labelledby"] for one in tags.all("section")} <= set(ids)
    assert tags.all("a")[0]["class"] == "skip"
    pictures_of_all = [(one, above) for tag, one, above in tags.elements if tag == "img"]
    assert pictures_of_all and all(len(one["alt"]) > 20 for one, _ in pictures_of_all)
    assert all(above[-3:] == ("figure", "details", "summary") for _, above in pictures_of_all)  # each can be enlarged
    assert tags.all("th") and all(one["scope"] in ("col", "row") for one in tags.all("th"))
    boxes = [one for one in tags.all("div") if one.get("class") == "scroll"]
    assert len(boxes) >= len(tags.all("table")) and all(one["tabindex"] == "0" and one["aria-label"] for one in boxes)
    plots = [one for one in tags.all("svg") if one.get("aria-hidden") != "true"]
    assert len(plots) >= 3 and all(one["role"] == "img" and one["aria-label"] for one in plots)


def test_how_something_turned_out_is_said_by_word_and_sign(pages: Path) -> None:
    page = read(pages, internal=False)
    found = re.findall(r'<span class="tone tone-(\w+)"><span aria-hidden="true">(.)</span> ([\w ]+)</span>', page)
    assert len(found) == page.count('class="tone ') >= 10
    words = {tone.name.lower(): tone.value for tone in Tone}
    assert all(words[name] == word for name, _, word in found)
    assert len({sign for _, sign, _ in found}) == len({name for name, _, _ in found})


@pytest.mark.parametrize("internal", [False, True])
def test_a_page_says_what_its_numbers_cannot_see(pages: Path, internal: bool) -> None:
    assert "such as polar bodies, pronuclei or cells" in read(pages, internal=internal)


def test_equal_reports_give_equal_pages(report: EvaluationReport, pages: Path, tmp_path: Path) -> None:
    write_pages(report, tmp_path, internal_folder=tmp_path / "internal")
    for internal in (False, True):
        assert read(tmp_path, internal=internal) == read(pages, internal=internal)


def test_what_was_not_computed_is_absent_or_said(report: EvaluationReport, tmp_path: Path) -> None:
    exhibits = report.details.shown
    bare = replace(exhibits, features=[], ratios=[], pairs=[], controls=[], missed=exhibits.missed[:0])
    write_pages(EvaluationReport(provenance={}, details=ReportDetails(exhibits=bare)), tmp_path,
                internal_folder=tmp_path / "internal")
    for internal in (False, True):
        page = read(tmp_path, internal=internal)
        assert "Copies of training images were not tested." in page and "<p>Copies were not tested.</p>" in page
        absent = ("What the model misses", "Confusion matrix", "Headline", "<svg")
        assert not [text for text in absent if text in page]


def test_controls_are_held_out_images_that_did_not_set_tau(report: EvaluationReport, pages: Path) -> None:
    audit, exhibits, real = report.details.copies[0], report.details.shown, make_set("test", seed=1)
    innocent = {real.ids[row] for row in audit.control_rows}
    assert exhibits.controls and {pair.image_id for pair in exhibits.controls} <= innocent
    assert len(innocent) < len(real)
    assert all(np.isclose(audit.control, pair.ratio, rtol=1e-6).any() for pair in exhibits.controls)
    assert "of the held-out real images that did not set tau" in read(pages, internal=True)


def test_few_pictures_whatever_the_number_of_images(report: EvaluationReport) -> None:
    exhibits = report.details.shown
    for panels in exhibits.grids.values():
        assert {len(images) for images in panels.values()} == {12}
    assert len(exhibits.pairs) == 24 and len(exhibits.missed) <= 24


@pytest.mark.parametrize(("num_classes", "shown"), [(2, 12), (5, 8), (12, 4)])
def test_pages_stay_small_and_show_fewer_images_of_more_classes(
    report: EvaluationReport, num_classes: int, shown: int
) -> None:
    """Noise is what compresses worst; the images of 128 px are gray."""
    exhibits = report.details.shown
    noise = np.random.default_rng(0).integers(0, 256, size=(12, 128, 128, 1), dtype=np.uint8)
    names = [f"class {label}" for label in range(num_classes)]
    pairs = [replace(pair, image=noise[0], nearest=noise[1], second=noise[2]) for pair in exhibits.pairs]
    large = replace(exhibits, class_names=names, pairs=pairs, controls=pairs[:6], missed=noise.repeat(2, axis=0), grids={
        name: dict.fromkeys((REAL_SET, RESTORED_SET, SYNTHETIC_SET), noise) for name in names},
        withheld=dict.fromkeys(names, np.zeros(12, dtype=bool)))
    page = render_page(EvaluationReport({}, details=replace(report.details, exhibits=large)), internal=True)
    assert len(page) < 6e6
    assert page.count(f"{shown} synthetic images of class") == 2 * num_classes  # said of the image and when it is enlarged


def test_an_interval_bar_puts_values_in_their_order() -> None:
    bar = draw_interval(0.5, (0.25, 0.75), 1.0, (0.0, 1.0))
    low, high, value, reference = (float(re.search(pattern, bar)[1]) for pattern in (  # type: ignore[index]
        r'x1="([\d.]+)" x2="[\d.]+" y1="8" y2="8" class="made"', r'x2="([\d.]+)" y1="8" y2="8" class="made"',
        r'cx="([\d.]+)"', r'x1="([\d.]+)" x2="[\d.]+" y1="1"'))
    assert low < value < high < reference
    assert high - value == pytest.approx(value - low)
    assert "nan" not in draw_interval(1.0, None, None, (1.0, 1.0))


def test_every_condition_has_its_own_confusion_matrix(report: EvaluationReport) -> None:
    """Also where a class and a level have one name, and names hold brackets and markup."""
    plane, other = "<i>PLANE</i>", "A[B]"
    rows = []
    for before, after, levels in (("", "", ("0", "1")), ("condition ", f"[{plane}]", ("0", "1", "2")),
                                  ("condition ", f"[{other}]", ("low", "high"))):
        if after:
            rows.append(Row(parse_metric(f"condition balanced accuracy{after}"), OVERALL, "held_out", 0.9, n_real=8,
                            n_synthetic=0))
        rows += [Row(parse_metric(f"{before}judged as {shown}{after}"), level, "held_out", 0.5, n_real=4, n_synthetic=0)
                 for level in levels for shown in levels]
    for internal in (False, True):
        page = render_page(EvaluationReport(report.provenance, rows=rows, details=report.details), internal=internal)
        titles = ("Confusion matrix of the class", f"Confusion matrix of {escape(plane)}", f"Confusion matrix of {other}")
        sections = page.split("<details>")
        for title, count in zip(titles, (4, 9, 4), strict=True):
            (section,) = [part for part in sections if part.startswith(f"<summary>{title}</summary>")]
            assert section.count('class="heat"') == count
        assert plane not in page and "condition judged as" not in page
