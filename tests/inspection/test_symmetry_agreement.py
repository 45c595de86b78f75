"""init, check_symmetries and check_dataset answer alike: one test on one sample, for planted breaks and for none."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from config.load import load_config
from config.schema import SYMMETRIES, Config
from dataset.images import write_png
from tools import check_symmetries
from tools.check_dataset.inspection import inspect_dataset
from tools.init import __main__ as init
from tools.inspection.symmetries import LEVEL, measure_symmetries
from tools.inspection.symmetry_sample import spread_over_groups

SIDE_PX = 32
TICKS = np.linspace(-1, 1, SIDE_PX)  # to the right and downwards


def draw_embryo(rng: np.random.Generator, fault: str, strength: float = 1.0) -> np.ndarray:
    """A gray disc somewhere in a bright field, uint8 (32, 32), with a fault of the optics or the handling."""
    x, y = rng.normal(0, 0.06, 2)
    x += strength * 0.25 if fault == "offset" else 0.0
    image = 150 - 60.0 * (np.hypot(TICKS[None, :] - x, TICKS[:, None] - y) < 0.5) + rng.normal(0, 6, (SIDE_PX, SIDE_PX))
    if fault == "light":
        image -= strength * 30 * TICKS[:, None]
    if fault == "mark":
        image[2:5, 2:9] += strength * 70
    return image.clip(0, 255).astype(np.uint8)


def run_init(folder: Path, faults: list[str], *, splits: list[str] | None = None, per_group: int = 2) -> Config:
    """Write a group for each fault, propose a config for them and load it."""
    rng, rows = np.random.default_rng(3), []
    for number, fault in enumerate(faults):
        split = f",{splits[number]}" if splits else ""
        for frame in range(per_group):
            write_png(folder / "images" / f"{number:03d}_{frame}.png", draw_embryo(rng, fault))
            rows.append(f"{number:03d}_{frame},{number % 2},E{number}{split}")
    header = "file,label,EMBRYO_ID" + (",SPLIT" if splits else "")
    (folder / "sheet.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    propose(folder)
    return load_config(folder / "my.yaml", ["logging_params.progress_bar=false"])


def propose(folder: Path) -> None:
    init.main([str(folder / "sheet.csv"), str(folder / "images"), "--output", str(folder / "my.yaml"), "--force",
               "--gpu-memory-gb", "0"])


def recommend(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[tuple[str, ...], str]:
    """What check_symmetries recommends for the proposed config, and all that it prints."""
    capsys.readouterr()
    check_symmetries.main(["--config", str(folder / "my.yaml")])
    shown = capsys.readouterr().out
    names, = re.findall(r"^  symmetries: \[(.*)\]$", shown, re.MULTILINE)
    return tuple(names.split(", ")), shown


@pytest.mark.parametrize(("fault", "obeyed"), [
    ("offset", ("identity", "flip")), ("light", ("identity", "mirror")), ("mark", ("identity",)), ("none", SYMMETRIES),
])
def test_the_commands_agree_on_planted_breaks(
    tmp_path: Path, fault: str, obeyed: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    config = run_init(tmp_path, [fault] * 40)
    assert config.dataset_params.symmetries == obeyed
    assert recommend(tmp_path, capsys)[0] == obeyed
    findings = inspect_dataset(config.dataset_params, progress_bar=False).findings
    assert not [finding for finding in findings if finding.kind == "symmetries"]
    text = (tmp_path / "my.yaml").read_text(encoding="utf-8")
    assert re.search(r"symmetries: .*# tested on 56 training images of 28 groups$", text, re.MULTILINE)


def test_the_commands_look_at_training_images_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Test images from a microscope with a mark are no reason to change what the network is trained on."""
    splits = ["train"] * 30 + ["val"] * 4 + ["test"] * 30
    config = run_init(tmp_path, ["light"] * 30 + ["mark"] * 34, splits=splits, per_group=1)
    assert config.dataset_params.symmetries == recommend(tmp_path, capsys)[0] == ("identity", "mirror")
    findings = inspect_dataset(config.dataset_params, progress_bar=False).findings
    assert not [finding for finding in findings if finding.kind == "symmetries"]


def test_too_few_groups_are_left_undecided_by_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = run_init(tmp_path, ["none"] * 7, splits=["train"] * 7, per_group=4)
    told = capsys.readouterr().out
    names, shown = recommend(tmp_path, capsys)
    assert config.dataset_params.symmetries == names == ("identity",)
    assert shown.count("not tested") == 7 and "5 groups are too few" in shown and "rule:" not in shown
    assert "symmetries: 5 groups are too few to test symmetries, 8 are needed" in told
    assert "# not tested: 5 groups are too few" in (tmp_path / "my.yaml").read_text(encoding="utf-8")


def test_a_table_with_faults_is_measured_by_its_other_rows(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    run_init(tmp_path, ["light"] * 30, splits=["train"] * 28 + ["val"] * 2)
    (folder / "000_0.png").unlink()
    (folder / "001_0.png").write_bytes((folder / "001_0.png").read_bytes()[:200])
    propose(tmp_path)
    assert load_config(tmp_path / "my.yaml").dataset_params.symmetries == ("identity", "mirror")
    assert "# tested on 54 training images of 28 groups" in (tmp_path / "my.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("fault", ["offset", "light", "mark"])
def test_a_break_is_called_one_from_the_printed_size_on(fault: str) -> None:
    """`found_from` separates what the test rejects from what it cannot see, for breaks of every size."""
    for strength in (0.02, 0.1, 0.2, 0.4, 1.0):
        rng = np.random.default_rng(5)
        images = np.stack([draw_embryo(rng, fault, strength)[None] for _ in range(30)]) / 127.5 - 1
        for test in measure_symmetries(images, groups=[str(number) for number in range(30)]).tests:
            assert test.broken == (test.effect > test.found_from)


def test_sets_without_a_break_raise_false_alarms_at_their_level() -> None:
    """40 sets of 20 embryos: 280 tests at 0.01, of which more than nine would come by chance in one of 500 runs."""
    alarms = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        images = np.stack([draw_embryo(rng, "none")[None] for _ in range(40)]) / 127.5 - 1
        alarms += sum(test.broken for test in measure_symmetries(images, groups=[str(n // 2) for n in range(40)]).tests)
    assert alarms <= 9, f"{alarms} of 280 at a level of {LEVEL}"


def test_the_sample_takes_every_group_before_any_twice() -> None:
    groups = ["long"] * 900 + [f"P{number}" for number in range(300)] + ["pair"] * 2
    chosen = spread_over_groups(groups, 310)
    counts = Counter(groups[place] for place in chosen)
    assert len(chosen) == len(set(chosen)) == 310 and chosen == sorted(chosen)
    assert len(counts) == 302 and counts["pair"] == 2 and counts["long"] == 8
    assert spread_over_groups(groups, 2000) == list(range(len(groups))) and spread_over_groups([], 10) == []
    half = [place for place in chosen if groups[place] == "long"]
    assert max(half) - min(half) > 450, "frames of one embryo are spread, not its first ones"
