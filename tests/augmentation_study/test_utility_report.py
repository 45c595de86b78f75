"""The verdict says what the numbers say, negative ones included; the files hold the same numbers."""

import json
from pathlib import Path

import numpy as np
import pytest
from openpyxl import load_workbook

from tools.augmentation_study.page import NAME, format_table, state_verdict, write
from tools.augmentation_study.utility import (
    AUROC,
    CONTROL,
    METRICS,
    REAL,
    ROUND_TRIP,
    SHUFFLED,
    SYNTHETIC,
    UtilityReport,
    score_arms,
)

HEADLINE = "real + synthetic x1"
ARMS = (REAL, CONTROL, HEADLINE, SYNTHETIC, SHUFFLED, ROUND_TRIP)


def make_report(**effects: float) -> UtilityReport:
    """A report of arms that read the class with these effects; 1 where none is given."""
    rng, labels = np.random.default_rng(0), np.arange(240) % 2
    by_name = {"headline": HEADLINE, "control": CONTROL, "shuffled": SHUFFLED, "round_trip": ROUND_TRIP, "alone": SYNTHETIC}
    wanted = {by_name[name]: value for name, value in effects.items()}
    shared = rng.normal(size=240)
    predictions = {}
    for arm in ARMS:
        scores = shared + wanted.get(arm, 1.0) * labels + 0.3 * rng.normal(size=(3, 240))
        positive = 1 / (1 + np.exp(-scores))
        predictions[arm] = np.stack([1 - positive, positive], axis=-1)
    pairs = [(arm, CONTROL) for arm in ARMS if arm != CONTROL] + [(HEADLINE, SHUFFLED), (HEADLINE, ROUND_TRIP)]
    scores, differences = score_arms(labels, [str(i) for i in range(240)], np.arange(240) // 120, predictions, pairs=pairs,
                                     repeats=200, seed=0)
    return UtilityReport(HEADLINE, scores, differences, ["a limit"], {"images": 240}, images=["0a"])


@pytest.mark.parametrize(("effects", "said", "not_said"), [
    ({"headline": 2.0}, ("improved AUROC", "exceeds that of synthetic images with shuffled labels"), ("No class signal",)),
    ({"headline": 2.0, "shuffled": 2.0}, ("improved AUROC", "cannot be told from regularisation", "with shuffled labels ("),
     ("VAE round trips of real images (", "exceeds that")),
    ({"headline": 2.0, "round_trip": 2.0}, ("improved AUROC", "not beyond VAE round trips of real images ("),
     ("shuffled labels (",)),
    ({}, ("did not improve AUROC on held-out groups beyond the noise", "A smaller gain or loss is not ruled out"),
     ("regularisation",)),
    ({"headline": 0.2}, ("worse than the fair control's",), ("did not improve", "regularisation")),
    (dict.fromkeys(("headline", "control", "shuffled", "round_trip", "alone"), 0.0),
     ("No class signal found", "did not improve"), ("worse",)),
])
def test_the_verdict_follows_the_numbers(
    effects: dict[str, float], said: tuple[str, ...], not_said: tuple[str, ...]
) -> None:
    report = make_report(**effects)
    verdict = " ".join(state_verdict(report))
    for words in said:
        assert words in verdict
    for words in not_said:
        assert words not in verdict
    main = report.difference(HEADLINE, CONTROL, AUROC)
    assert f"with a power of 80% is {main.detectable:.3f}" in verdict
    assert main.detectable > 2.8 * main.standard_error
    assert "Trained on synthetic images alone the classifier reaches" in verdict


def test_files_and_table_hold_the_numbers_of_the_report(tmp_path: Path) -> None:
    report = make_report(headline=1.5)
    write(report, tmp_path)
    stored = json.loads((tmp_path / f"{NAME}.json").read_text(encoding="utf-8"))
    assert stored["provenance"] == {"schema": 2, "images": 240} and stored["images"] == ["0a"]
    assert stored["verdict"] == state_verdict(report)
    assert [row["value"] for row in stored["scores"]] == [row.value for row in report.scores]
    rows = list(load_workbook(tmp_path / f"{NAME}.xlsx")["differences"].values)
    assert len(rows) == 1 + 7 * len(METRICS)
    assert [row[3] for row in rows[1:]] == pytest.approx([row.value for row in report.differences], rel=1e-12)
    table = format_table(report)
    for arm in ARMS:
        assert f"{arm}  " in table
    assert f"{report.score(CONTROL, AUROC).value:.3f} (" in table and "note: a limit" in table
    first = (tmp_path / f"{NAME}.png").read_bytes()
    write(report, tmp_path)
    assert (tmp_path / f"{NAME}.png").read_bytes() == first  # equal numbers, equal picture
