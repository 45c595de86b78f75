"""The table of a study: each line reads its own number among all that an evaluation holds, and is written as stated."""

from itertools import count, product
from typing import Any

import pytest

from tools.study.table import describe_selection, format_table, read_metrics

FAMILIES = ("FD", "KD", "p of KD", "precision", "recall", "density", "coverage", "two-sample AUC")
COMPARISONS = ("total", "model_gap", "ceiling", "real_real", "floor", "halves")
WITHOUT_ENCODER = (("class AUC", "held_out"), ("class AUC", "round_trip"), ("class AUC", "synthetic"),
                   ("class balanced accuracy", "synthetic"), ("ratio of class AUC", "synthetic"))
# No two are alike: the number of what is read, whose whole part this is, and the seed behind the point.
NUMBERS = {key: float(number) for number, key in zip(count(1), (
    *product(FAMILIES, COMPARISONS), *WITHOUT_ENCODER,
    *product(("near-copies", "near-copies by the encoder"), ("copies", "copies_control"))))}


def evaluation(seed: int, *, encoder: str = "squeezenet1_1@435c,min224", official: bool = False) -> dict[str, Any]:
    """Rows in the order of evaluation.json: what is missing first, the first encoder, its classes, then a second one."""
    def row(metric: str, comparison: str, value: float | None, class_name: str = "all") -> dict[str, Any]:
        interval = None if value is None or metric != "class AUC" else [value - 0.25, value + 0.5]
        return {"metric": metric, "class": class_name, "comparison": comparison, "value": value, "interval": interval}

    def name(family: str, key: str) -> str:
        return {"FD": "FID", "KD": "KID", "p of KD": "p of KID"}.get(family, f"{family}[FID features]") if official else (
            f"{family}[{key}]")

    copied = "inception@6726,tf1" if official else encoder
    with_encoder = [key for key in NUMBERS if key[0] in FAMILIES]
    plain = [key for key in NUMBERS if key[0] not in (*FAMILIES, "near-copies by the encoder")]
    return {"rows": [
        *(row(metric, "total", None) for metric in ("FID", "KID", "LPIPS")),  # an encoder that cannot be had
        *(row(name(key[0], encoder), key[1], -1.0, "arrested") for key in with_encoder),
        *(row(name(key[0], encoder), key[1], NUMBERS[key] + seed / 10) for key in with_encoder),
        *(row(f"{key[0]}[classifier@12]", key[1], -2.0) for key in with_encoder),
        *(row(key[0], key[1], -3.0, "arrested") for key in plain),
        *(row(key[0] + "[pixels at 16 px]" * (key[0] == "near-copies"), key[1], NUMBERS[key] + seed / 10) for key in plain),
        *(row(f"near-copies[{copied}]", comparison, NUMBERS["near-copies by the encoder", comparison] + seed / 10)
          for comparison in ("copies", "copies_control")),
        row("near-copies[classifier@12]", "copies", -4.0),
    ]}


LABELS = {"total": "total (synthetic, real)", "ceiling": "ceiling (VAE round trip, real)",
          "model_gap": "model gap (synthetic, VAE round trip)", "floor": "floor (training, held out, both round trips)",
          "real_real": "real (training, held out)"}
WANTED = {
    **{f"{metric} {label}": (metric, comparison)
       for metric in ("FD", "KD", "precision", "recall", "coverage", "two-sample AUC")
       for comparison, label in LABELS.items()},
    "class AUC on synthetic": ("class AUC", "synthetic"),
    "class AUC on VAE round trips": ("class AUC", "round_trip"),
    "class AUC on held-out real": ("class AUC", "held_out"),
    "class AUC on held-out real, its 95% interval from": ("class AUC", "held_out"),
    "class AUC on held-out real, its 95% interval to": ("class AUC", "held_out"),
    "near-copies by pixels": ("near-copies", "copies"),
    "near-copies by pixels, held-out control": ("near-copies", "copies_control"),
    "near-copies by the encoder": ("near-copies by the encoder", "copies"),
    "near-copies by the encoder, held-out control": ("near-copies by the encoder", "copies_control"),
}


@pytest.mark.parametrize("official", [False, True])
def test_each_line_is_the_overall_number_of_the_first_encoder_a_value_a_seed(official: bool) -> None:
    read = read_metrics([evaluation(seed, official=official) for seed in (1, 2, 3)])
    ends = {line: -0.25 if line.endswith("from") else 0.5 for line in WANTED if "interval" in line}
    assert read == {line: [NUMBERS[key] + seed / 10 + ends.get(line, 0) for seed in (1, 2, 3)]
                    for line, key in WANTED.items()}
    assert list(read) == list(WANTED)


def test_images_that_never_passed_the_vae_have_no_lines_about_it() -> None:
    read = read_metrics([evaluation(1)], passed_vae=False)
    assert set(WANTED) - set(read) == {line for line in WANTED if "round trip" in line}
    assert read["KD total (synthetic, real)"] == [NUMBERS["KD", "total"] + 0.1]


def test_a_line_that_one_seed_lacks_is_left_out() -> None:
    whole, without_value, without_row = (evaluation(seed) for seed in (1, 2, 3))
    for row in without_value["rows"]:
        if row["metric"] == "class AUC" and row["comparison"] == "synthetic":
            row["value"] = None
    without_row["rows"] = [row for row in without_row["rows"] if not row["metric"].startswith("near-copies")]
    read = read_metrics([whole, without_value, without_row])
    copies = {line for line in WANTED if line.startswith("near-copies")}
    assert set(WANTED) - set(read) == {"class AUC on synthetic"} | copies
    assert read["KD model gap (synthetic, VAE round trip)"] == [NUMBERS["KD", "model_gap"] + seed / 10 for seed in (1, 2, 3)]


def test_a_number_that_the_first_encoder_lacks_is_not_the_seconds() -> None:
    found = evaluation(1)
    for row in found["rows"]:
        if row["metric"].startswith("KD[squeezenet") and row["comparison"] == "model_gap":
            row["value"] = None
    assert set(WANTED) - set(read_metrics([found])) == {"KD model gap (synthetic, VAE round trip)"}


def test_untrained_features_stand_beside_published_ones_and_the_classifiers_are_not_shown() -> None:
    def rows(encoder: str, value: float) -> list[dict[str, Any]]:
        return [{"metric": f"KD[{encoder}]", "class": "all", "comparison": comparison, "value": value, "interval": None}
                for comparison in ("total", "real_real")]

    first, *others = rows("classifier@12", -2.0), rows("squeezenet1_1@435c,p", 7.0), rows("untrained_conv@9,native", 3.0)
    read = read_metrics([{"rows": [*first, *(row for each in others for row in each)]}])
    assert read == {"KD total (synthetic, real)": [7.0], "KD real (training, held out)": [7.0],
                    "KD total (synthetic, real), by untrained_conv features": [3.0],
                    "KD real (training, held out), by untrained_conv features": [3.0]}
    assert [line.split("|")[1].strip() for line in format_table({"recipes": read}).splitlines()[2:]] == list(read)
    assert read_metrics([{"rows": first}])["KD total (synthetic, real)"] == [-2.0]  # an old file that has no others


@pytest.mark.parametrize(("row", "said"), [
    ({"chosen": "a", "selection": {"decided_by": "inception", "features": ["inception", "untrained_conv"]}},
     "gan: a, by Inception features, the least favourable of 2 kinds (beside untrained_conv features)"),
    ({"chosen": "a", "selection": {"decided_by": "untrained_conv", "features": ["untrained_conv"]}},
     "gan: a, by untrained_conv features"),
    ({"chosen": "a", "selection": None}, "gan: a, which stood alone"),
    ({"chosen": None, "refusal": "no arm"}, "gan: no arm"),
])
def test_the_choice_is_told_with_the_features_that_decided(row: dict[str, Any], said: str) -> None:
    assert describe_selection("gan", row) == said


def test_the_table_shows_mean_least_and_most_with_about_three_digits() -> None:
    kd, copies = "KD model gap (synthetic, VAE round trip)", "near-copies by pixels"
    ours = {copies: [0.0, 0.0], "FD total (synthetic, real)": [3.0, 1.0, 2.0], kd: [0.0123, 0.0137],
            "recall total (synthetic, real)": [0.5], "precision total (synthetic, real)": [0.004, 0.006],
            "FD real (training, held out)": [123.456]}
    gan = {"FD total (synthetic, real)": [1.49, 1.498], kd: [-0.25, -0.75],
           "recall total (synthetic, real)": [0.2, 0.2, 0.5], copies: [0.02, -0.02]}
    assert format_table({"recipes": ours, "gan": gan}) == (
        "| | recipes | gan |\n"
        "|---|---|---|\n"
        "| FD total (synthetic, real) | 2.0 (1.0 to 3.0) | 1.494 (1.490 to 1.498) |\n"
        "| FD real (training, held out) | 123.5 | - |\n"
        f"| {kd} | 0.013 (0.012 to 0.014) | -0.500 (-0.750 to -0.250) |\n"
        "| precision total (synthetic, real) | 0.00500 (0.00400 to 0.00600) | - |\n"
        "| recall total (synthetic, real) | 0.500 | 0.300 (0.200 to 0.500) |\n"
        f"| {copies} | 0 (0 to 0) | 0.000 (-0.020 to 0.020) |\n"
    )
