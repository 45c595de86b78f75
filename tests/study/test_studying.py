"""A study's declaration is checked in one line, its rounds halve, and its choice follows the stated rule."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from config.errors import UserError
from tools.study.plan import (
    Arm,
    ArmScore,
    NoArmLeft,
    Study,
    format_scores,
    keep_best,
    list_rounds,
    load_study,
    score_arm,
    steps_for,
)
from tools.study.runs import StudyRuns, hash_cost

ROOT = Path(__file__).parents[2]
OURS, GAN = Arm("ours", "diffusion", {}), Arm("gan", "gan", {})
GIVEN: dict[str, Any] = {
    "base": "config/demo.yaml", "output": "runs/study", "screen_minutes": 2, "final_minutes": 10, "seeds": [1, 2],
    "arms": {"ours": {}, "epsilon": {"diffusion_params.prediction_type": "epsilon"}},
}


def load(folder: Path, **changes: Any) -> Study:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({**GIVEN, **changes}, sort_keys=False), encoding="utf-8")
    return load_study(path)


def score(name: str, *distances: float, copying: bool = False, share: float | None = None) -> ArmScore:
    return ArmScore(name, distances, {}, copying, share)


def test_arms_are_those_named_and_every_combination_of_the_grid(tmp_path: Path) -> None:
    grid = {"train_params.ema_decay": [0.99, 0.999], "diffusion_params.prediction_type": ["v", "x0"]}
    study = load(tmp_path, grid=grid)
    arms = {arm.name: arm for arm in study.arms}
    assert list(arms) == ["ours", "epsilon", "ema_decay_0.99-prediction_type_v", "ema_decay_0.99-prediction_type_x0",
                                "ema_decay_0.999-prediction_type_v", "ema_decay_0.999-prediction_type_x0"]
    assert arms["ema_decay_0.999-prediction_type_x0"].overrides == {"train_params.ema_decay": 0.999,
                                                                    "diffusion_params.prediction_type": "x0"}
    assert study.seeds == (1, 2) and study.finalists == 2 and arms["ours"] == Arm("ours", "diffusion", {})


def test_a_baseline_is_a_family_of_its_own_with_its_own_trials(tmp_path: Path) -> None:
    study = load(tmp_path, arms={"ours": {}}, baselines={
        "gan": {"gan": {"generator": "gan"}, "gan-slow": {"generator": "gan", "gan_params.lr": 0.0001}},
        "augmented": {"augmented": {"generator": "augment_real"}}})
    assert {family: [arm.name for arm in arms] for family, arms in study.families.items()} == {
        "recipes": ["ours"], "gan": ["gan", "gan-slow"], "augmented": ["augmented"]}
    assert study.families["gan"][1] == Arm("gan-slow", "gan", {"gan_params.lr": 0.0001})


@pytest.mark.parametrize("path", sorted(ROOT.glob("config/studies/*.yaml")), ids=lambda path: path.name)
def test_every_arm_of_the_repository_s_studies_is_a_config(path: Path) -> None:
    study = load_study(path)
    for arm in study.arms:
        assert StudyRuns(study).config_of(arm).train_params


@pytest.mark.parametrize(("changes", "wanted"), [
    ({"minutes": 3}, "expected the keys arms, base, baselines,"),
    ({"base": None}, "base: expected a path, found 'None'"),
    ({"screen_minutes": 0}, "screen_minutes: expected minutes above 0, found '0'"),
    ({"final_minutes": True}, "final_minutes: expected minutes above 0"),
    ({"finalists": 1.5}, "finalists: expected a whole number"),
    ({"seeds": [1, 1]}, "seeds: expected a list of different whole numbers"),
    ({"seeds": 3}, "seeds: expected a list of different whole numbers, found '3'"),
    ({"arms": {"one": {}}}, "arms: expected two arms or more"),
    ({"arms": {"a/b": {}, "c": {}}}, "arms: expected names of letters"),
    ({"arms": {"a": 3, "b": {}}}, "arms: expected names, each with config keys"),
    ({"grid": {"train_params.ldm_lr": 3}}, "grid: expected a list of values for train_params.ldm_lr"),
    ({"arms": {"num_steps_10": {"train_params.ldm_lr": 0.1}}, "grid": {"sample_params.num_steps": [10, 20]}},
     "grid: expected combinations whose names differ"),
    ({"grid": {"unet_params.attention": [[True, False], "[True, False]"]}},
     "grid: expected combinations whose names differ"),
    ({"arms": {"a": {"train_params.seed": 3}, "b": {}}}, "train_params.seed: expected no value in arms, grid"),
    ({"overrides": {"train_params.max_steps": 3}}, "train_params.max_steps: expected no value in arms, grid"),
    ({"baselines": {"paper": {}}}, "baselines: expected names, each with arms"),
    ({"baselines": {"recipes": {"a": {}}}}, "baselines: expected another name than recipes"),
    ({"baselines": {"paper": {"ours": {}}}}, "baselines: expected arms whose names differ"),
    ({"arms": {"wide": {}, "Wide": {"train_params.ldm_lr": 0.1}}}, "arms: expected names that differ by more than upper"),
    ({"baselines": {"gan": {"gan": {"generator": "vae"}}}}, "gan.generator: expected one of diffusion, gan, augment_real"),
    ({"baselines": {"b": {"x": {"generator": "gan"}, "y": {}}}}, "baselines: expected one generator in all arms of b"),
    ({"test": 1}, "test: expected true or false, found '1'"),
    ({"baselines": {"gan": {"gan": {"gan_params.max_steps": 3}}}}, "gan_params.max_steps: expected no value in arms, grid"),
])
def test_a_study_that_cannot_be_run_is_refused_in_one_line(tmp_path: Path, changes: dict[str, Any], wanted: str) -> None:
    with pytest.raises(UserError) as caught:
        load(tmp_path, **changes)
    assert wanted in str(caught.value) and str(caught.value).isprintable()


def test_what_is_no_yaml_or_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="which cannot be read"):
        load_study(tmp_path / "none.yaml")
    (tmp_path / "broken.yaml").write_text("a: [", encoding="utf-8")
    with pytest.raises(UserError, match="which cannot be read"):
        load_study(tmp_path / "broken.yaml")


def test_an_arm_given_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("base: a.yaml\narms:\n  one: {}\n  one: {train_params.ldm_lr: 0.1}\n", encoding="utf-8")
    with pytest.raises(UserError, match="the key 'one' is given twice"):
        load_study(path)


def test_each_round_halves_the_arms_and_doubles_the_minutes(tmp_path: Path) -> None:
    assert list_rounds(load(tmp_path), 9) == [(9, 2), (5, 4), (3, 8)]
    assert list_rounds(load(tmp_path, finalists=9), 9) == []
    assert list_rounds(load(tmp_path, finalists=1), 2) == [(2, 2)]


def test_minutes_become_whole_steps() -> None:
    assert steps_for(2, 0.5) == 240 and steps_for(1, 0.7) == 85 and steps_for(0.001, 10) == 1


def test_the_least_mean_over_the_seeds_is_kept() -> None:
    scores = [score("lucky", 0.1, 0.9), score("steady", 0.3, 0.4), score("worse", 0.5, 0.6)]
    assert keep_best(scores, 2) == ["steady", "lucky"]
    passed = [score("copies", 0.1, copying=True), score("no class", 0.1, share=0.89), score("none"), score("good", 0.9)]
    assert keep_best(passed, 3) == ["good"]
    with pytest.raises(UserError, match=r"no arm .* can be kept \(copies: copying found; no class: class AUC 0.89"):
        keep_best(passed[:3], 1)
    assert keep_best(passed[:3], 1, of_baseline=True) == ["copies"]


def evaluation(
    distance: float | None, *, copies: str = "none found", made: float = 0.7, visible: bool = True
) -> dict[str, Any]:
    def row(metric: str, comparison: str, value: float | None, note: str = "") -> dict[str, Any]:
        interval = [0.6 if visible else 0.4, 0.9] if comparison == "held_out" else None
        return {"metric": metric, "comparison": comparison, "value": value, "class": "all", "interval": interval,
                "note": note}

    return {"rows": [row("KD[classifier]", "model_gap", -1.0), row("KD[classifier]", "total", -1.0),
                     row("KD[untrained_conv]", "model_gap", distance), row("KD[untrained_conv]", "total", 9.0),
                     row("class AUC", "synthetic", made), row("class AUC", "held_out", 0.8),
                     row("near-copies[pixels at 16 px]", "copies", 0.0, copies)]}


def test_an_arm_is_read_as_the_mean_of_its_seeds_and_a_copy_in_one_of_them_counts() -> None:
    read = score_arm(OURS, [evaluation(0.2, made=0.8), evaluation(0.4, made=0.6)])
    assert read.distances == (0.2, 0.4) and read.mean == pytest.approx(0.3) and not read.copying
    assert read.class_share == pytest.approx(0.875) and read.curves["class AUC"] == pytest.approx(0.7)
    assert score_arm(OURS, [evaluation(0.2, made=0.3, visible=False)]).refusal() is None  # no class to be kept
    assert score_arm(OURS, [evaluation(0.2), evaluation(0.4, copies="copying found: 3")]).copying
    assert score_arm(OURS, [evaluation(0.2), evaluation(None)]).refusal() == (
        "no kernel distance by published or untrained features")


def test_images_that_never_passed_the_vae_are_ranked_by_their_distance_to_the_images_themselves() -> None:
    assert score_arm(GAN, [evaluation(0.2)]).distances == (9.0,)


def by_features(**distances: float) -> dict[str, Any]:
    """An evaluation of a total of these, where real images are 1 apart (0.5 to 1.5) by all features."""
    def row(encoder: str, comparison: str, value: float) -> dict[str, Any]:
        return {"metric": f"KD[{encoder}@1,p]", "comparison": comparison, "value": value, "class": "all",
                "interval": [value - 0.5, value + 0.5], "note": ""}

    return {"rows": [row(name, comparison, value if comparison == "total" else 1.0) for name, value in distances.items()
                     for comparison in ("total", "real_real")]}


def test_the_classifier_prefers_one_arm_and_the_least_favourable_features_choose_the_other() -> None:
    blind = score_arm(Arm("blind", "gan", {}), [by_features(classifier=1.0, squeezenet1_1=3.0, untrained_conv=9.0 + seed)
                                                for seed in (0, 2)])
    sound = score_arm(Arm("sound", "gan", {}), [by_features(classifier=8.0, squeezenet1_1=5.0 - seed, untrained_conv=2.0)
                                                for seed in (0, 2)])
    assert (blind.decided_by, blind.distances) == ("untrained_conv", (8.0, 10.0))  # less the distance of real images
    assert (sound.decided_by, sound.distances) == ("squeezenet1_1", (4.0, 2.0))  # the mean over the seeds decides
    assert sound.by_encoder == {"squeezenet1_1": (4.0, 2.0), "untrained_conv": (1.0, 1.0)}
    assert keep_best([blind, sound], 1) == ["sound"]
    assert "by untrained_conv features" in format_scores("round", [blind, sound])
    narrow = score_arm(Arm("narrow", "gan", {}), [by_features(classifier=1.0)])
    with pytest.raises(NoArmLeft, match="narrow: no kernel distance by published or untrained features"):
        keep_best([narrow], 1)
    unlike = score_arm(Arm("unlike", "gan", {}), [by_features(squeezenet1_1=1.0)])
    with pytest.raises(UserError, match="found squeezenet1_1 for unlike and squeezenet1_1, untrained_conv for sound"):
        keep_best([unlike, sound], 1)


def test_arms_of_equal_network_and_batch_share_a_speed_and_others_do_not(tmp_path: Path) -> None:
    arms = {"ours": {}, "rate": {"train_params.ldm_lr": 1e-4}, "drawn": {"sample_params.num_steps": 5},
            "batch": {"train_params.ldm_batch_size": 8}, "wide": {"unet_params.channels": [128, 192, 256]}}
    gans = {"gan": {"generator": "gan"}, "gan-rate": {"generator": "gan", "gan_params.lr": 1e-4},
            "gan-narrow": {"generator": "gan", "gan_params.width": 8}}
    study = load(tmp_path, arms=arms, baselines={"gans": gans})
    runs = StudyRuns(study)
    cost = {arm.name: hash_cost(arm.generator, runs.config_of(arm)) for arm in study.arms}
    assert cost["ours"] == cost["rate"] == cost["drawn"] and cost["gan"] == cost["gan-rate"]
    assert len(set(cost.values())) == 5


def test_arms_that_encode_in_every_step_share_a_speed_only_with_the_same_vae(tmp_path: Path) -> None:
    arms = {"ours": {}, "other": {"autoencoder_params.pretrained": "models/pretrained/mhsma64_vae"}}
    for live in (False, True):
        study = load(tmp_path, arms=arms, overrides={"dataset_params.load_latents": not live})
        runs = StudyRuns(study)
        cost = {arm.name: hash_cost(arm.generator, runs.config_of(arm)) for arm in study.arms}
        assert (cost["ours"] != cost["other"]) == live
