"""A study's choice over recorded evaluations: what each round asks for, who goes on, and who is shown on the test set."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from config.errors import UserError
from config.load import load_config
from config.schema import Config
from tools.study.__main__ import run_study
from tools.study.plan import Arm, Study, load_study
from tools.study.runs import ArmRun

Distances = Mapping[tuple[int, int], float]  # by steps and seed


class RecordedRuns:
    """Stands for StudyRuns: evaluations that are known beforehand, and a note of those that were asked for."""

    def __init__(self, distances: Mapping[str, Distances], *, copying: Sequence[str] = (), slow: Sequence[str] = (),
                 diverged: Sequence[tuple[str, int]] = ()) -> None:
        self.distances, self.copying, self.slow, self.diverged = distances, copying, slow, diverged
        self.asked: list[tuple[str, list[tuple[str, int, int]]]] = []

    def config_of(self, _: Arm) -> Config:
        return load_config("config/demo.yaml", ["evaluation_params.encoders=[vae]", "evaluation_params.judge_path=null"])

    def identity(self, arms: Sequence[Arm]) -> str:
        return ", ".join(arm.name for arm in arms)

    def seconds_per_step(self, arm: Arm) -> float:
        return 2.0 if arm.name in self.slow else 0.5

    def evaluate(self, runs: Sequence[ArmRun], split: str) -> list[dict[str, Any]]:
        self.asked.append((split, [(run.arm.name, run.steps, run.seed) for run in runs]))
        return [self._evaluation(run, split) for run in runs]

    def _evaluation(self, run: ArmRun, split: str) -> dict[str, Any]:
        if (run.arm.name, run.seed) in self.diverged:
            return {"diverged": "error: step 9: not finite"}
        distance = 100.0 + run.seed if split == "test" else self.distances[run.arm.name][run.steps, run.seed]
        copies = "copying found: 3" if run.arm.name in self.copying else "none found"
        compared = "model_gap" if run.arm.generator == "diffusion" else "total"
        rows = [("KD[vae]", compared, -distance, ""),  # these features like best what is worst
                ("KD[untrained_conv]", compared, distance, ""), ("near-copies[pixels at 16 px]", "copies", 0.0, copies)]
        provenance = {"encoders": {"vae": {"weights_sha256": "0e"}, "untrained_conv": {"weights_sha256": "0f"}},
                      "num_images": {split: 7}}
        return {"provenance": provenance, "rows": [{
            "metric": metric, "comparison": comparison, "class": "all", "value": value, "interval": None,
                          "note": note} for metric, comparison, value, note in rows]}


def declare(folder: Path, *, test: bool = True, **families: Sequence[str]) -> Study:
    """Screening from 1 minute on, a final of 10 minutes between two, seeds 1 and 2."""
    generators = {"gan": {"generator": "gan"}, "augmented": {"generator": "augment_real"}}
    arms = {family: {name: generators.get(family, {}) for name in names} for family, names in families.items()}
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({
        "base": "config/demo.yaml", "output": str(folder / "study"), "screen_minutes": 1, "final_minutes": 10,
        "finalists": 2, "seeds": [1, 2], "test": test, "arms": arms.pop("recipes"), "baselines": arms}, sort_keys=False),
        encoding="utf-8")
    return load_study(path)


def families_of(study: Study) -> dict[str, Any]:
    return json.loads((Path(study.output) / "study.json").read_text(encoding="utf-8"))["families"]


def test_rounds_halve_at_doubled_minutes_and_the_final_is_won_by_the_mean_over_the_seeds(tmp_path: Path) -> None:
    study = declare(tmp_path, recipes=["a", "b", "c", "d", "e"])
    runs = RecordedRuns({
        "a": {(120, 1): 0.10, (240, 1): 0.11, (1200, 1): 0.05, (1200, 2): 0.50},  # ahead until the second seed
        "b": {(120, 1): 0.20, (240, 1): 0.60},
        "c": {(30, 1): 0.30, (60, 1): 0.31, (300, 1): 0.20, (300, 2): 0.22},
        "d": {(120, 1): 0.01},
        "e": {(120, 1): 0.90},
    }, copying=["d"], slow=["c"])
    run_study(study, runs, ["recipes"])
    assert runs.asked == [
        ("val", [("a", 120, 1), ("b", 120, 1), ("c", 30, 1), ("d", 120, 1), ("e", 120, 1)]),
        ("val", [("a", 240, 1), ("b", 240, 1), ("c", 60, 1)]),
        ("val", [("a", 1200, 1), ("a", 1200, 2), ("c", 300, 1), ("c", 300, 2)]),
        ("test", [("c", 300, 1), ("c", 300, 2)]),
    ]
    family = families_of(study)["recipes"]
    assert (family["chosen"], family["steps"]) == ("c", 300)
    assert family["test"] == {"KD model gap (synthetic, VAE round trip)": [101.0, 102.0],
                              "near-copies by pixels": [0.0, 0.0]}
    shown = [(each["title"], {row["arm"]: row["distances"] for row in each["arms"]}) for each in family["rounds"]]
    assert shown == [
        ("recipes, 1 min, seed 1", {"a": [0.10], "b": [0.20], "c": [0.30], "d": [0.01], "e": [0.90]}),
        ("recipes, 2 min, seed 1", {"a": [0.11], "b": [0.60], "c": [0.31]}),
        ("recipes, 10 min, 2 seeds", {"a": [0.05, 0.50], "c": [0.20, 0.22]}),
    ]
    assert [row["refusal"] for row in family["rounds"][0]["arms"]] == [None, None, None, "copying found", None]
    assert family["selection"] == {"decided_by": "untrained_conv", "features": ["untrained_conv"]}
    assert family["rounds"][2]["arms"][1]["by_encoder"] == {"untrained_conv": [0.20, 0.22]}
    assert "\n* recipes: c, by untrained_conv features.\n" in (tmp_path / "study/study.md").read_text(encoding="utf-8")


def test_a_baseline_of_refused_arms_is_chosen_from_as_it_is_and_recipes_are_not(tmp_path: Path) -> None:
    study = declare(tmp_path, recipes=["only"], gan=["gan-1", "gan-2", "gan-3"], augmented=["near", "far"])
    distances: dict[str, Distances] = {
        "gan-1": {(120, 1): 0.3}, "gan-2": {(120, 1): 0.1, (1200, 1): 0.4, (1200, 2): 0.6},
        "gan-3": {(120, 1): 0.2, (1200, 1): 0.5, (1200, 2): 0.3},
        "near": {(1200, 1): 0.1, (1200, 2): 0.1}, "far": {(1200, 1): 0.8, (1200, 2): 0.9},
    }
    runs = RecordedRuns(distances, copying=["gan-1", "gan-2", "gan-3", "near"])
    run_study(study, runs, list(study.families))
    assert runs.asked == [
        ("test", [("only", 1200, 1), ("only", 1200, 2)]),  # nothing to choose
        ("val", [("gan-1", 120, 1), ("gan-2", 120, 1), ("gan-3", 120, 1)]),
        ("val", [("gan-2", 1200, 1), ("gan-2", 1200, 2), ("gan-3", 1200, 1), ("gan-3", 1200, 2)]),
        ("test", [("gan-3", 1200, 1), ("gan-3", 1200, 2)]),
        ("val", [("near", 1200, 1), ("near", 1200, 2), ("far", 1200, 1), ("far", 1200, 2)]),  # no more than finalists
        ("test", [("far", 1200, 1), ("far", 1200, 2)]),  # a baseline, too, passes over copies where it has another arm
    ]
    assert {name: family["chosen"] for name, family in families_of(study).items()} == {
        "recipes": "only", "gan": "gan-3", "augmented": "far"}
    assert {name: family["refusal"] for name, family in families_of(study).items()} == {
        "recipes": None, "gan": "copying found", "augmented": None}
    assert [each["score"] for each in families_of(study)["gan"]["rounds"]] == ["KD above real, total"] * 2

    recipes = declare(tmp_path, recipes=["gan-1", "gan-2", "gan-3"], gan=["near"])
    with pytest.raises(UserError, match=r"no arm of the study can be kept \(gan-1: copying found; gan-2: "):
        run_study(recipes, RecordedRuns(distances, copying=["gan-1", "gan-2", "gan-3"]),
                  list(recipes.families))
    found = families_of(recipes)  # what was measured is kept, and the other family has run
    assert found["recipes"]["chosen"] is None and len(found["recipes"]["rounds"][0]["arms"]) == 3
    assert found["gan"]["chosen"] == "near" and "test" not in found["recipes"]
    assert (Path(recipes.output) / "study.md").read_text(encoding="utf-8").startswith("| | gan |\n")


def test_an_arm_that_is_left_alone_is_not_weighed_again(tmp_path: Path) -> None:
    study = declare(tmp_path, recipes=["a", "b", "c", "d", "e"])
    runs = RecordedRuns({name: {(120, 1): 0.1} for name in "abcde"}, copying=list("abde"))
    run_study(study, runs, ["recipes"])
    assert [split for split, _ in runs.asked] == ["val", "test"]
    assert families_of(study)["recipes"]["chosen"] == "c"


def test_a_training_that_diverged_is_a_result(tmp_path: Path) -> None:
    study = declare(tmp_path, recipes=["a", "b"], gan=["gan"])
    runs = RecordedRuns({"a": {(1200, 1): 0.1, (1200, 2): 0.1}, "b": {(1200, 1): 0.5, (1200, 2): 0.6}},
                        diverged=[("a", 2), ("gan", 1)])
    run_study(study, runs, list(study.families))
    found = families_of(study)
    assert found["recipes"]["chosen"] == "b"  # the other is nearer where it learned
    (final,) = found["recipes"]["rounds"]
    shown = [(row["refusal"], row["distances"]) for row in final["arms"]]
    assert shown == [("1 trainings diverged", []), (None, [0.5, 0.6])]
    assert (found["gan"]["diverged"], found["gan"]["refusal"]) == (1, "1 trainings diverged")
    assert found["gan"]["test"]["KD total (synthetic, real)"] == [102.0]  # of the seed that there is
    table = (Path(study.output) / "study.md").read_text(encoding="utf-8")
    assert table.startswith("| | recipes | gan (1 of 2 seeds diverged) |\n")
    assert found["recipes"]["measured_by"] == {"encoder": ["untrained_conv", {"weights_sha256": "0f"}],
                                               "num_images": {"test": 7}}
    assert found["recipes"]["seconds_per_step"] == 0.5


def test_a_study_without_a_test_leaves_the_test_set_closed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = declare(tmp_path, test=False, recipes=["a", "b"])
    runs = RecordedRuns({"a": {(1200, 1): 0.2, (1200, 2): 0.3}, "b": {(1200, 1): 0.1, (1200, 2): 0.3}})
    run_study(study, runs, ["recipes"])
    assert [split for split, _ in runs.asked] == ["val"]
    assert families_of(study)["recipes"]["chosen"] == "b" and "test" not in families_of(study)["recipes"]
    assert sorted(path.name for path in Path(study.output).iterdir()) == ["study.json", "study.png"]
    assert "test set" not in capsys.readouterr().out
