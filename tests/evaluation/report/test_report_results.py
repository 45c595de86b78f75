"""What other commands found, as it stands on a page: read from their files, shown with intervals, escaped, no real image."""

import base64
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from config.errors import UserError
from tools.evaluation.morphometry import MEASURES, Abstention, Measurement, measure_oocyte
from tools.evaluation.morphometry_comparison import MeasuredSet, morphometry_rows
from tools.evaluation.morphometry_record import read_morphometry
from tools.evaluation.report.results import show_morphometry, show_sweep
from tools.evaluation.rows import Row
from tools.evaluation.sweep_curves import CURVES, SweepRecord, SweptPoint, draw_sweep, read_sweep

HOSTILE = '<img src=x onerror="alert(1)">'
NAMES = (HOSTILE, "b & c")


def measured(name: str, shift: float, seed: int) -> MeasuredSet:
    """20 images a class whose outer diameter is 100 px, `shift` more in the second class; two cannot be measured."""
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1], 20)
    results: list[Measurement | Abstention] = []
    for label in labels:
        values = {measure: float(rng.normal(1, 0.1)) for measure in MEASURES}
        values["outer_diameter"] = float(rng.normal(100 + shift * label, 1))
        results.append(Measurement(**values, ellipses={}, outlines={}, inliers={}))
    blank = measure_oocyte(np.full((32, 32, 1), 90, np.uint8))
    assert isinstance(blank, Abstention)
    results[0] = results[1] = blank
    ids = [f"{name}-{i}" for i in range(len(labels))]
    return MeasuredSet(name, results, labels, ids, ids)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A morphometry.json in which synthetic classes differ by 2 px, real ones by 4."""
    sets = {name: measured(name, shift, seed) for seed, (name, shift) in enumerate(
        (("real", 4.0), ("train", 4.0), ("synthetic", 2.0), ("class_flips", 2.0)))}
    rows = morphometry_rows(synthetic=sets["synthetic"], real=sets["real"], train=sets["train"], flips=sets["class_flips"],
                            class_names=NAMES, repeats=100)
    path = tmp_path_factory.mktemp("morphometry") / "morphometry.json"
    path.write_text(json.dumps({
        "provenance": {"um_per_px": None, "class_names": NAMES, "images_sha256": {"synthetic": "a"}},
        "not_measured": {name: images.reasons() for name, images in sets.items()},
        "rows": [row.to_dict() for row in rows],
        "agreement_with_manual": {"outer_diameter": {"n": 7, "bias": 1.5, "limits": [-2.0, 5.0], "unit": "px"}},
    }), encoding="utf-8")
    return path


def cells_of(page: str, head: str) -> list[list[str]]:
    """The cells of every table row with this head."""
    lines = re.findall(rf'<tr><th scope="row">{re.escape(head)}</th>(.*?)</tr>', page)
    return [[re.sub("<[^>]+>", "", one) for one in re.findall("<td.*?</td>", line)] for line in lines]


def test_rows_of_the_file_are_those_that_were_written(stored: Path) -> None:
    rows = read_morphometry(stored).rows
    assert [row.to_dict() for row in rows] == json.loads(stored.read_text(encoding="utf-8"))["rows"]
    assert all(isinstance(row, Row) for row in rows)


def test_measurements_stand_with_effects_and_intervals_beside_real_ones(stored: Path) -> None:
    page = show_morphometry(read_morphometry(stored))
    by_class = cells_of(page, "outer diameter, px")
    assert len(by_class) == 3  # both classes, and the agreement
    for (real, made, effect, *_), low in zip(by_class[:2], (False, True), strict=True):
        mean_real, mean_made = float(real.split(" ")[0]), float(made.split(" ")[0])
        value, below, above = map(float, re.fullmatch(r"(\S+) \((\S+) to (\S+)\)", effect).groups())  # type: ignore[union-attr]
        assert below < value < above
        assert (above < 0 and mean_made < mean_real - 1) if low else abs(mean_made - mean_real) < 1
    (differences,) = cells_of(page, "outer diameter")
    real, made, flips, made_minus, flips_minus = (float(text.split(" ")[0]) for text in differences)
    assert real > made > 0 and flips > 0 and made_minus < 0 and flips_minus < 0
    assert by_class[2] == ["7", "1.5", "-2 to 5"]
    shares = cells_of(page, "real, held out")
    assert [line[1] for line in shares] == ["0.95", "0.90", "1.00"] and shares[0][3].startswith("2: ")
    assert HOSTILE not in page and "&lt;img" in page and "b &amp; c" in page


def test_a_sweep_is_a_picture_the_rule_and_every_point(tmp_path: Path) -> None:
    points = tuple(SweptPoint(f"{HOSTILE}-{w:g}", "best$x$", "ab", "ddim", 20, w, 20 * w, "copying found" if w > 2 else None,
                              (0.1, 0.3), dict.fromkeys(CURVES, w)) for w in (1.0, 2.0, 3.0))
    record = SweepRecord("The rule & its words.", points[1].name, points)
    (tmp_path / "sweep.json").write_text(json.dumps({**record.to_dict(), "test_set_opening": 3}), encoding="utf-8")
    assert read_sweep(tmp_path / "sweep.json") == record
    page = show_sweep(record)
    (picture,) = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert base64.b64decode(picture) == draw_sweep(record)
    width, height = Image.open(io.BytesIO(draw_sweep(record))).size
    assert width > height > 500  # seven panels in two rows
    assert HOSTILE not in page and "The rule &amp; its words." in page
    texts = [line[-1] for w in (1, 2, 3) for line in cells_of(page, f"{HOSTILE}-{w}".replace("<", "&lt;").replace(
        ">", "&gt;").replace('"', "&#34;"))]
    assert texts == ["", "chosen", "copying found"]
    other = replace(record, points=(replace(points[0], curves={**points[0].curves, "recall": 0.5}), *points[1:]))
    assert draw_sweep(other) != draw_sweep(record)


@pytest.mark.parametrize("text", ["[]", "{}", '{"points": [{}], "rule": "", "chosen": ""}', '{"rows": 3}'])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"other\.json: expected the sweep\.json of a sweep"):
        read_sweep(path)
    with pytest.raises(UserError, match=r"other\.json: expected the morphometry\.json of python -m tools\.morphometry"):
        read_morphometry(path)
