"""What the benchmark says: targets in both directions, inequality named, a picture that is drawn."""

from pathlib import Path

from dataset.decoding import decode_image
from tools.benchmark.findings import Findings, Ratio, draw_picture


def test_a_target_is_a_bound_from_below_or_from_above() -> None:
    assert Ratio("speed", 6.0, 6.0).holds and not Ratio("speed", 5.9, 6.0).holds
    assert Ratio("memory", 0.45, 0.45, at_most=True).holds and not Ratio("memory", 0.5, 0.45, at_most=True).holds
    assert Ratio("speed", 3.0, 6.0).part_of_target == 0.5 and Ratio("memory", 0.9, 0.45, at_most=True).part_of_target == 0.5
    missed = Ratio("share", 0.583, 0.6, percent=True).describe()
    assert "58.3%" in missed and "at least 60.0%" in missed and missed.endswith("MISSED")
    assert Ratio("memory", 0.4, 0.45, at_most=True).describe().split("  ")[-1].strip() == "holds"


def test_only_what_is_unequal_is_held_against_a_run() -> None:
    found = Findings("title", ratios=[Ratio("speed", 1.0, 6.0)])
    found.expect_equal("outputs", 1e-6, tolerance=1e-5)
    assert found.unequal == []
    found.expect_equal("outputs", 2e-5, tolerance=1e-5)
    assert found.unequal == ["outputs differ by 2e-05, more than 1e-05"]
    found.expect_equal("not a number", float("nan"), tolerance=1e-5)
    assert len(found.unequal) == 2
    assert found.to_json()["ratios"][0]["holds"] is False


def test_the_picture_shows_ratios_and_the_series(tmp_path: Path) -> None:
    found = Findings("title", ratios=[Ratio("speed", 3.0, 6.0), Ratio("memory", 0.4, 0.45, at_most=True)])
    draw_picture(tmp_path / "plain.png", [found])
    draw_picture(tmp_path / "both.png", [found], encoding=[(100, 1.0), (1000, 10.2)])
    plain, both = (decode_image(tmp_path / name) for name in ("plain.png", "both.png"))
    assert both.shape[1] > plain.shape[1] and plain.std() > 0
