"""The checks before training on time-lapse frames and on public images: what they print helps, and nothing floods."""

import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from dataset.images import write_png
from tools import check_symmetries
from tools.check_confounders import __main__ as check_confounders
from tools.check_dataset import __main__ as check_dataset
from tools.init import __main__ as init

STAGES = ("tPB2", "t2", "t4", "t8")
SIDE_PX = 96


def draw_frame(embryo: np.random.Generator, frame: np.random.Generator, stage: int) -> np.ndarray:
    """One embryo of a time-lapse, uint8 (96, 96): its well fills the frame, its stage changes a little of the middle."""
    ticks = (np.arange(SIDE_PX) + 0.5) / SIDE_PX * 2 - 1
    coarse = embryo.normal(0, 1, (12, 12)).repeat(8, axis=0).repeat(8, axis=1)
    x, y = embryo.normal(0, 0.1, 2)
    image = 120 + 12 * coarse + 40 * (np.hypot(ticks[None, :] - x, ticks[:, None] - y) < 0.45)
    image += 8 * stage * (np.hypot(ticks[None, :] - x, ticks[:, None] - y) < 0.12)
    image += frame.normal(0, 4, image.shape)
    return image.clip(0, 255).astype(np.uint8)


@pytest.fixture
def time_lapse(tmp_path: Path) -> Path:
    """The proposed config of 24 embryos, each at all four stages; two embryos are one, under two names."""
    rows = []
    for number in range(24):
        for stage, name in enumerate(STAGES):
            drawn = draw_frame(np.random.default_rng(7 if number == 9 else number),
                               np.random.default_rng(1000 * number + stage), stage)
            write_png(tmp_path / "images" / f"{number:02d}_{stage}.png", drawn)
            rows.append(f"{number:02d}_{stage},{name},E{number:02d},{'train' if number < 16 else 'test'}")
    (tmp_path / "sheet.csv").write_text("\n".join(["file,stage,EMBRYO_ID,SPLIT", *rows]) + "\n", encoding="utf-8")
    return propose(tmp_path, tmp_path / "sheet.csv", tmp_path / "images")


def propose(folder: Path, table: Path, images: Path) -> Path:
    init.main([str(table), str(images), "--output", str(folder / "my.yaml"), "--gpu-memory-gb", "0"])
    return folder / "my.yaml"


def write_rows(path: Path, lines: Iterable[str]) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def run(command, config: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    command.main(["--config", str(config), *words])
    return capsys.readouterr().out


def test_frames_of_one_embryo_at_several_stages_are_one_note(
    time_lapse: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = run(check_dataset, time_lapse, capsys, "--output", str(tmp_path / "out"))
    assert "96 images in 24 groups: 0 errors, 1 warning, 1 note" in shown
    assert re.search(r"note +stages +1  nearly identical images with different labels within one group; expected if the "
                     r"label changes over time, as a stage does; otherwise check the labels\n +96 images in 24 groups, such "
                     r"as 00_0 \(row 2, tPB2, (train|val)\), 00_\d \(row \d, t\d, (train|val)\)\n", shown)
    warning, = re.findall(r"warning +(\w+) +1 ", shown)
    assert warning == "near_conflict" and "07_0 (row 30, tPB2" in shown, "one embryo under two names stays a warning"
    assert "data:image/jpeg" in (tmp_path / "out/check.html").read_text(encoding="utf-8")


def test_a_well_that_fills_the_frame_leaves_the_background_untested(
    time_lapse: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = run(check_confounders, time_lapse, capsys, "--output", str(tmp_path))
    assert "not computed: the content fills the frame\n" in shown and "warning:" not in shown and "RIVALS" not in shown
    written = json.loads((tmp_path / "confounders.json").read_text(encoding="utf-8"))
    assert written["warnings"] == [] and [source["rivals"] for source in written["sources"]] == [False, False]


def test_embryos_at_seven_focal_planes(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """STORK, three planes of each embryo: the planes are one note, and the grade is known for the label in other words."""
    header, *rows = (shared / "data/stork/annotations.csv").read_text(encoding="utf-8").splitlines()
    planes = [row for row in rows if row.split(",")[3] in ("-15", "0", "15")]
    table = write_rows(tmp_path / "sheet.csv", [header, *planes])
    config = propose(tmp_path, table, shared / "data/stork/images")
    shown = run(check_dataset, config, capsys, "--output", str(tmp_path / "out"))
    assert "42 images in 14 groups: 0 errors, 0 warnings, 3 notes" in shown
    assert re.findall(r"^note +(\w+) +1 ", shown, re.MULTILINE) == ["planes", "gray", "unlisted"]

    shown = run(check_symmetries, config, capsys)
    assert "note: with 10 groups a break smaller than" in shown and "no group_column" not in shown
    proposed, recommended = (re.search(r"^  symmetries: \[(.*?)\]", text, re.MULTILINE).group(1)
                             for text in (config.read_text(encoding="utf-8"), shown))
    assert proposed == recommended == "identity, mirror"

    shown = run(check_confounders, config, capsys, "--set", "dataset_params.params.image_size=64",
                "--set", "dataset_params.params.covariate_columns=[FOCAL_PLANE_UM, GARDNER_GRADE]")
    warning, = re.findall("^warning: (.*)", shown, re.MULTILINE)
    assert warning.startswith("metadata alone, GARDNER_GRADE (category): AUC")
    assert "it may be the label in other words: remove it from covariate_columns" in warning
    assert "an AUC below 0.5 means that nothing was learned" in shown


def test_a_set_without_groups_says_what_that_costs(shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every third image of a published generator's: no embryos are known, and its wells differ by stage."""
    header, *rows = (shared / "data/embryostage/annotations.csv").read_text(encoding="utf-8").splitlines()
    table = write_rows(tmp_path / "sheet.csv", [header, *rows[::3]])
    config = propose(tmp_path, table, shared / "data/embryostage/images")
    shown = run(check_dataset, config, capsys, "--output", str(tmp_path / "out"))
    assert shown.startswith("167 images without groups: 0 errors") and "split  class       images\n" in shown
    kinds = Counter(re.findall(r"^(?:note|warning|error) +(\w+)", shown, re.MULTILINE))
    assert kinds["ungrouped"] == 1 and set(kinds) <= {"ungrouped", "contrast", "focus", "unlisted"}
    costs = "note: there is no group_column, so each image counts as a separate patient"
    shown = run(check_symmetries, config, capsys)
    assert costs in shown and "  symmetries: [identity]\n" in shown
    assert "symmetries: [identity] " in config.read_text(encoding="utf-8")
    shown = run(check_confounders, config, capsys, "--set", "dataset_params.params.image_size=64")
    assert costs in shown and shown.count("warning:") == 1 and "warning: background alone: AUC 0.7" in shown
