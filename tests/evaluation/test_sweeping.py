"""The sweep's choice follows its stated rule, and its points and openings are counted right."""

from pathlib import Path

import pytest

from config.errors import UserError
from config.load import load_config
from tools.evaluation.openings import record_opening
from tools.evaluation.sweeping import (
    PointResult,
    SweepPoint,
    choose,
    count_evaluations,
    list_points,
    make_record,
    read_result,
)

CONFIG = load_config("config/demo.yaml")


def result(distance: float | None, *, low: float | None = None, passes: float = 20, guidance: float = 1.0,
           copying: bool = False, class_share: float | None = 1.0) -> PointResult:
    point = SweepPoint(Path("best.safetensors"), "ddim", int(passes), guidance)
    interval = None if low is None or distance is None else (low, 2 * distance - low)
    return PointResult(point, passes, distance, interval, copying, class_share, {})


def test_the_least_distance_is_chosen() -> None:
    results = [result(0.3, low=0.29), result(0.1, low=0.09), result(0.2, low=0.19)]
    assert choose(results) is results[1]


def test_among_points_within_the_interval_the_cheapest_is_chosen() -> None:
    results = [result(0.10, low=0.05, passes=50), result(0.12, low=0.08, passes=20), result(0.12, low=0.11, passes=10)]
    assert choose(results) is results[1]  # the third is surely worse, the second is not and costs less than the first
    guided = [result(0.10, low=0.05, guidance=2.0), result(0.11, low=0.05, guidance=1.5)]
    assert choose(guided) is guided[1]


def test_points_that_copy_or_lose_the_class_are_passed_over() -> None:
    good = result(0.5, low=0.4)
    assert choose([result(0.1, copying=True), result(0.2, class_share=0.89), result(None), good]) is good
    assert choose([result(0.2, class_share=None), good]).class_share is None  # not judged is no reason
    with pytest.raises(UserError, match=r"no point of the sweep can be chosen .*copying found.*no kernel distance"):
        choose([result(0.1, copying=True), result(None)])


def test_network_evaluations_count_guidance_inside_its_interval_twice() -> None:
    point = SweepPoint(Path("best.safetensors"), "ddim", 20, 2.0)
    assert count_evaluations(point, CONFIG) == 40
    assert count_evaluations(SweepPoint(Path("best.safetensors"), "ddim", 20, 1.0), CONFIG) == 20
    half = load_config("config/demo.yaml", ["sample_params.guidance_interval=[0.25, 0.75]"])
    assert count_evaluations(point, half) == 30
    # Heun's steps begin and end at 999, 949, ... 49; what lies inside is evaluated as an end and as a beginning.
    inside = [timestep for timestep in range(999, 0, -50) if 0.25 <= timestep / 999 <= 0.75]
    assert count_evaluations(SweepPoint(Path("best.safetensors"), "heun", 20, 2.0), half) == 39 + 2 * len(inside)
    solver = load_config("config/demo.yaml", [
        "sample_params.guidance_interval=[0.25, 0.75]", "diffusion_params.schedule=scaled_linear",
        "diffusion_params.prediction_type=v", "diffusion_params.timestep_sampling=uniform",
        "sample_params.sampler=dpm-solver++"])
    # Its timesteps are quadratic, 999 (i / 19)^2: i from 10 to 16 lie inside.
    assert count_evaluations(SweepPoint(Path("best.safetensors"), "dpm-solver++", 20, 2.0), solver) == 20 + 7


def test_points_are_the_grid_without_repeats() -> None:
    points = list_points([Path("a/best.st")], ["ddim", "unipc"], [10, 20], [1.0, 1.0, 2.0])
    assert len(points) == 8 and len({point.name() for point in points}) == 8
    with pytest.raises(UserError, match="two points of the sweep are named best-ddim"):
        list_points([Path("a/best.st"), Path("b/best.st")], ["ddim"], [10], [1.0])


def test_results_are_read_from_the_rows_of_the_first_encoder() -> None:
    def row(metric: str, comparison: str, value: float | None, *, class_name: str = "all", note: str = "") -> dict:
        interval = None if value is None else [value - 1, value + 1] if metric.startswith("K") else [0.6, 0.95]
        return {"metric": metric, "class": class_name, "comparison": comparison, "value": value, "interval": interval,
                "note": note}

    rows = [row("KD[a@1,p]", "model_gap", 9.0, class_name="arrested"), row("KD[a@1,p]", "model_gap", 2.0),
            row("KD[b@2,p]", "model_gap", 7.0), row("class AUC", "synthetic", 0.8), row("class AUC", "held_out", 0.9),
            row("near-copies[pixels at 16 px]", "copies", 0.1, note="copying found; p"), row("FID", "total", None)]
    read = read_result(SweepPoint(Path("x"), "ddim", 5, 1.0), {"rows": rows}, CONFIG)
    # No interval of real with real: the first features decide alone, by the distance itself.
    assert (read.distance, read.interval, read.copying, read.decided_by) == (2.0, (1.0, 3.0), True, "a")
    assert read.class_share == pytest.approx(0.8 / 0.9) and read.curves["near-copies"] == 0.1
    assert read.curves["KD model gap"] == 2.0
    less = [row("KD[a@1,p]", "total", 4.0), row("KD[a@1,p]", "model_gap", None), row("KD[b@2,p]", "model_gap", 7.0)]
    found = read_result(SweepPoint(Path("x"), "ddim", 5, 1.0), {"rows": less}, CONFIG)
    assert found.decided_by == "b" and "KD model gap" not in found.curves  # a curve is never of another scale
    official = read_result(SweepPoint(Path("x"), "ddim", 5, 1.0), {"rows": [row("KID", "model_gap", 3.0)]}, CONFIG)
    assert (official.distance, official.decided_by) == (3.0, "inception")


def test_the_least_favourable_features_choose_and_the_classifier_has_no_say() -> None:
    """Two points: by the classifier and by SqueezeNet the guided one is nearer, by untrained features it is far."""
    def rows(**distances: float) -> list[dict]:
        def row(encoder: str, comparison: str, value: float, half: float) -> dict:
            return {"metric": f"KD[{encoder}@1,p]", "class": "all", "comparison": comparison, "value": value,
                    "interval": [value - half, value + half], "note": ""}

        scale = {"classifier": 0.01, "squeezenet1_1": 5.0, "untrained_conv": 0.2}  # half of the interval of real with real
        return [made for encoder, value in distances.items() for made in (
            row(encoder, "model_gap", value, scale[encoder] / 10), row(encoder, "floor", 0.0, 0.0),
            row(encoder, "real_real", 0.1, scale[encoder]))]

    plain = SweepPoint(Path("best.safetensors"), "ddim", 20, 1.0)
    guided = SweepPoint(Path("best.safetensors"), "ddim", 20, 2.0)
    results = [read_result(plain, {"rows": rows(classifier=5.0, squeezenet1_1=20.0, untrained_conv=0.4)}, CONFIG),
               read_result(guided, {"rows": rows(classifier=0.1, squeezenet1_1=10.0, untrained_conv=4.0)}, CONFIG)]
    assert [result.distance for result in results] == pytest.approx([2.0, 10.0])  # 20 of 10 widths, 4 of 0.4
    assert [result.decided_by for result in results] == ["squeezenet1_1", "untrained_conv"]
    assert results[1].interval == pytest.approx((10 - 0.05, 10 + 0.05))
    chosen = choose(results)
    assert chosen.point is plain
    record = make_record(results, chosen, {plain.checkpoint: "ab"})
    assert record.to_dict()["selection"] == {"decided_by": "squeezenet1_1", "features": ["squeezenet1_1", "untrained_conv"]}
    assert record.describe_choice() == ("by SqueezeNet features, the least favourable of 2 kinds (beside untrained_conv "
                                        "features)")
    narrow = read_result(plain, {"rows": rows(classifier=0.1)}, CONFIG)
    assert narrow.refusal() == "no kernel distance by published or untrained features"
    fewer = read_result(guided, {"rows": rows(squeezenet1_1=1.0)}, CONFIG)
    with pytest.raises(UserError, match=r"found squeezenet1_1, untrained_conv for .* and squeezenet1_1 for"):
        choose([results[0], fewer])


def test_openings_count_different_images_once(tmp_path: Path) -> None:
    def opening(test_set: str, synthetic: str) -> int:
        return record_opening(tmp_path, test_set=test_set, synthetic_set=synthetic)

    assert [opening("t", "a"), opening("t", "b"), opening("t", "a"), opening("u", "b"), opening("t", "c")] == [1, 2, 1, 1, 3]
