"""The verdict: each rule fires on rows that it is about, and on images that are blurred, noised, swapped or repeated."""

import ast
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dataset.storage import hash_bytes
from models.classifier import Classifier, ClassifierConfig
from tools.evaluation.aspects import Aspect, Tone
from tools.evaluation.distances import add_distances, encode_sets
from tools.evaluation.encoders.encoder import Encoder, load_encoder
from tools.evaluation.evaluation_report import EvaluationReport
from tools.evaluation.evaluation_sets import EvaluationSets, EvaluationSettings, no_bar
from tools.evaluation.fidelity import add_class_fidelity
from tools.evaluation.image_set import ImageSet
from tools.evaluation.metric_keys import OFFICIAL, parse_metric
from tools.evaluation.references import blur
from tools.evaluation.report.headlines import MOST_HEADLINES, choose_headlines
from tools.evaluation.rows import OVERALL, Row, format_value
from tools.evaluation.similarities import add_similarities
from tools.evaluation.verdict import write_verdict

FIDELITY, VARIETY, CLASS, PRIVACY, UTILITY = Aspect
HOLDS, CAUTION, FAILS, UNKNOWN, STUDIED = Tone
KERNEL, SUFFIX = "KD[e@01234567,p]", "[e@01234567,p]"
NAMES = ("dark", "bright")
COUNT = 24  # images of a class and a set


def row(metric: str, comparison: str, value: float | None, low: float | None = None, high: float | None = None,
        **others: object) -> Row:
    interval = None if low is None or high is None else (low, high)
    return Row(parse_metric(metric), OVERALL, comparison, value, interval, **others)  # type: ignore[arg-type]


def features(encoder: str, **changes: tuple[float, float, float]) -> list[Row]:
    """Rows of one encoder by which nothing differs, but those of `changes`: value and interval by the score's first word."""
    suffix = f"[{encoder}@01234567,p]"
    values = {"KD": (0.01, 0.0, 0.02), "precision": (0.9, 0.85, 0.95), "coverage": (0.9, 0.85, 0.95),
              "recall": (0.9, 0.85, 0.95), "AUC": (0.52, 0.45, 0.58)}
    of_real = {**values, "KD": (0.005, 0.0, 0.015), "AUC": (0.5, 0.42, 0.57)}
    names = {"AUC": "two-sample AUC"}
    return [row(f"{names.get(name, name)}{suffix}", comparison, *numbers)
            for comparison, of in (("total", {**values, **changes}), ("real_real", of_real)) for name, numbers in of.items()]


GOOD_ROWS = [
    *features("e"), row(KERNEL, "ceiling", 0.002), row(KERNEL, "model_gap", 0.008, 0.0, 0.012), row(KERNEL, "floor", 0.004),
    row("SSIM", "diversity", 0.31, 0.29, 0.33), row("SSIM", "real_pairs", 0.3, 0.28, 0.32),
    row("class AUC", "held_out", 0.8, 0.7, 0.9), row("class AUC", "synthetic", 0.82, 0.75, 0.88),
    row("near-copies[pixels at 16 px]", "copies", 0.01, note="no copying detected at tau: 1 of 100; binomial p = 0.6",
        outcome=HOLDS),
    row("near-copies[pixels at 16 px]", "copies_control", 0.012),
]


def changed(*rows: Row) -> list[Row]:
    """The good rows with these in place of those of the same name."""
    names = {(one.metric, one.comparison) for one in rows}
    return [*[one for one in GOOD_ROWS if (one.metric, one.comparison) not in names], *rows]


def says(rows: Sequence[Row], aspect: Aspect) -> dict[Tone, str]:
    """The texts on an aspect by tone, joined in their order."""
    found: dict[Tone, str] = {}
    for one in write_verdict(rows):
        if one.aspect is aspect:
            found[one.tone] = f"{found[one.tone]} {one.text}" if one.tone in found else one.text
    return found


def test_good_rows_hold_and_usefulness_is_not_claimed() -> None:
    assert says(GOOD_ROWS, FIDELITY) == {HOLDS: (
        "No difference from real images was found at this number of images by e features, the only kind compared: kernel "
        "distance 0.0100 (0 to 0.0200), real images among themselves 0.00500 (0 to 0.0150); a linear model separates "
        "synthetic from real images with AUC 0.520 (0.450 to 0.580).")}
    assert says(GOOD_ROWS, VARIETY)[HOLDS].startswith("No lack of variety was found at this number of images")
    assert "Synthetic images show their class as real ones do: AUC 0.820" in says(GOOD_ROWS, CLASS)[HOLDS]
    assert says(GOOD_ROWS, PRIVACY) == {HOLDS: "No copying detected at tau: 1 of 100 [pixels at 16 px]."}
    assert "Not studied" in says(GOOD_ROWS, UTILITY)[UNKNOWN]
    quoted = [one for one in write_verdict(GOOD_ROWS, study=["It helped.", "A little."]) if one.aspect is UTILITY]
    assert [(one.tone, one.text) for one in quoted] == [(STUDIED, "It helped."), (STUDIED, "A little.")]
    assert [one.aspect for one in write_verdict(GOOD_ROWS)] == list(Aspect)


def test_without_rows_nothing_was_tested() -> None:
    sentences = write_verdict([])
    assert [one.aspect for one in sentences] == list(Aspect)
    assert {one.tone for one in sentences} == {UNKNOWN}
    assert says([], PRIVACY)[UNKNOWN] == "Copies of training images were not tested."
    assert choose_headlines([]) == []
    refused = row("near-copies[pixels at 16 px]", "copies", None, note="not computed: too few groups")
    assert says([refused], PRIVACY)[UNKNOWN] == "Copies of training images were not tested."


# Which features decide

CLASSIFIER = features("classifier", AUC=(0.68, 0.6, 0.75))
SQUEEZENET = features("squeezenet1_1", KD=(1.3, 1.1, 1.5), recall=(0.03, 0.01, 0.05), coverage=(0.33, 0.28, 0.38),
                      AUC=(1.0, 0.999, 1.0))
UNTRAINED = features("untrained_a", KD=(0.2, 0.17, 0.23), recall=(0.71, 0.66, 0.76), coverage=(0.79, 0.75, 0.83),
                     AUC=(0.86, 0.82, 0.9))


def test_the_least_favourable_features_decide_and_are_named() -> None:
    """The table of the 997 embryo images: the classifier's features alone saw nothing."""
    rows = [*CLASSIFIER, *UNTRAINED, *SQUEEZENET]
    assert says(rows, FIDELITY)[FAILS].startswith(
        "Synthetic images can be distinguished from real ones by SqueezeNet features: kernel distance 1.30 (1.10 to 1.50), "
        "real images among themselves 0.00500 (0 to 0.0150); a linear model separates synthetic from real images with AUC "
        "1.00")
    assert says(rows, VARIETY) == {FAILS: (
        "Most of the variety of real images is missing by SqueezeNet features: coverage 0.330 (0.280 to 0.380), real images "
        "0.900 (0.850 to 0.950); recall 0.0300 (0.0100 to 0.0500), real images 0.900 (0.850 to 0.950).")}
    assert choose_headlines(rows)[0].row.metric.startswith("KD[squeezenet1_1")


def test_untrained_features_decide_where_no_others_are_there() -> None:
    rows = [*CLASSIFIER, *UNTRAINED]
    assert "distinguished from real ones by untrained_a features" in says(rows, FIDELITY)[FAILS]
    assert says(rows, VARIETY)[CAUTION].startswith("Part of the variety of real images is missing by untrained_a features")
    assert choose_headlines(rows)[0].row.metric.startswith("KD[untrained_a")


def test_features_of_networks_trained_on_these_images_never_decide() -> None:
    for bad in (False, True):
        changes = {"KD": (1.3, 1.1, 1.5), "recall": (0.1, 0.0, 0.2), "precision": (0.1, 0.0, 0.2)} if bad else {}
        narrow = [*features("classifier", **changes), *features("vae", **changes)]
        for aspect in (FIDELITY, VARIETY):
            assert says(narrow, aspect)[UNKNOWN].startswith(
                f"{aspect.value.capitalize()} was not tested: there are only classifier features and vae features, of "
                "networks that were trained on these images")
            assert list(says([*narrow, *features("untrained_a")], aspect)) == [HOLDS]


def test_features_that_disagree_are_named_in_a_clause() -> None:
    rows = [*features("untrained_a"), *SQUEEZENET, *features("inception")]
    for aspect in (FIDELITY, VARIETY):
        assert says(rows, aspect)[FAILS].endswith("; not seen by untrained_a features or Inception features.")
    calm = [*features("untrained_a"), *features("untrained_b", AUC=(0.55, 0.5, 0.6), recall=(0.85, 0.8, 0.9))]
    assert "by any of 2 kinds of features; the least favourable are untrained_b features: recall 0.850" in says(
        [*calm, row(KERNEL, "total", None)], VARIETY)[HOLDS]


def test_the_official_inception_is_found_under_its_own_names() -> None:
    official = [replace(one, key=replace(one.key, about=OFFICIAL))
                for one in features("inception", KD=(1.0, 0.9, 1.1))]
    assert "by Inception features: kernel distance 1.00" in says(official, FIDELITY)[FAILS]
    assert "by Inception features, the only kind compared: coverage" in says(official, VARIETY)[HOLDS]


def test_more_questions_ask_for_stronger_evidence() -> None:
    """A difference of three standard errors is found by one kind of features, and is chance among twelve."""
    value = 0.9 - 3 * 2 * 0.05 / 1.96  # both sides of both numbers vary
    near = features("untrained_a", recall=(value, value - 0.05, value + 0.05))
    assert CAUTION in says(near, VARIETY)
    many = [one for number in range(12) for one in features(f"untrained_{number + 1}x")]
    assert list(says([*near, *many], VARIETY)) == [HOLDS]


@pytest.mark.parametrize(("ceiling", "expected"), [
    (0.9, "The VAE is the limit"), (0.05, "The diffusion model is the limit, not the VAE"),
    (0.5, "VAE and diffusion model cost about the same"),
])
def test_the_part_that_limits_is_named(ceiling: float, expected: str) -> None:
    rows = changed(row(KERNEL, "total", 0.8, 0.7, 0.9), row(KERNEL, "model_gap", 0.5, 0.4, 0.6),
                   row(KERNEL, "ceiling", ceiling))
    assert "can be distinguished from real ones" in says(rows, FIDELITY)[FAILS]
    assert says(rows, FIDELITY)[CAUTION].startswith(expected)


def test_a_good_distance_names_no_limit_and_no_interval_proves_nothing() -> None:
    assert "limit" not in " ".join(says(changed(row(KERNEL, "ceiling", 5.0)), FIDELITY).values())
    told = [row(f"two-sample AUC{SUFFIX}", name, value, value - 0.04, value + 0.04)
            for name, value in (("total", 0.9), ("model_gap", 0.6), ("ceiling", 0.85))]
    assert "The VAE is the limit: real images against their VAE round trip 0.850" in says(
        changed(row(f"two-sample AUC{SUFFIX}", "real_real", 0.5, 0.42, 0.57), *told), FIDELITY)[CAUTION]
    assert "nothing is proven" in says(changed(row(KERNEL, "total", 0.01)), FIDELITY)[UNKNOWN]


def test_numbers_without_an_interval_accuse_nobody() -> None:
    rows = changed(*[row(f"{score}{SUFFIX}", name, 0.5 + 0.4 * (name == "real_real"))
                     for score in ("precision", "recall", "coverage") for name in ("total", "real_real")],
                   row("SSIM", "diversity", 0.5), row("SSIM", "real_pairs", 0.3), row("SSIM", "cross", 0.1))
    assert list(says(rows, FIDELITY)) == [HOLDS] and list(says(rows, VARIETY)) == [UNKNOWN]


def test_images_that_differ_miss_variety_or_repeat() -> None:
    told = changed(row(f"two-sample AUC{SUFFIX}", "total", 0.9, 0.85, 0.95))
    assert "can be distinguished from real ones by e features: kernel distance" in says(told, FIDELITY)[FAILS]
    seldom = changed(row(f"two-sample AUC{SUFFIX}", "total", 0.7, 0.65, 0.74))
    assert "yet a linear model can separate them" in says(seldom, FIDELITY)[CAUTION]
    outside = changed(row(f"precision{SUFFIX}", "total", 0.5, 0.4, 0.6))
    assert "unlike any real image by e features: precision 0.500" in says(outside, FIDELITY)[CAUTION]
    fewer = row(f"coverage{SUFFIX}", "total", 0.5, 0.4, 0.6)
    assert says(changed(fewer), VARIETY)[CAUTION].startswith(
        "Part of the variety of real images is missing by e features: coverage 0.500")
    alike = row("SSIM", "diversity", 0.5, 0.45, 0.55)
    assert "the blur of a VAE alone does that" in says(changed(alike), VARIETY)[CAUTION]
    assert says(changed(fewer, alike), VARIETY)[FAILS].startswith("The model repeats itself")


def test_images_unlike_real_ones_fail_even_where_the_features_see_nothing() -> None:
    name = "LPIPS-squeeze-v0.1"
    for metric, pairs, unlike, near in (("SSIM", (0.31, 0.29, 0.33), (0.23, 0.22, 0.24), (0.285, 0.28, 0.289)),
                                        (name, (0.3, 0.28, 0.32), (0.4, 0.38, 0.42), (0.325, 0.321, 0.33))):
        beside = [row(metric, "real_pairs", *pairs), row(metric, "diversity", *pairs)]
        assert "less like real ones than real ones are among themselves" in says(
            changed(*beside, row(metric, "cross", *unlike)), FIDELITY)[FAILS]
        assert list(says(changed(*beside, row(metric, "cross", *near)), FIDELITY)) == [HOLDS]  # apart by less than a tenth


def test_lpips_goes_before_ssim_and_points_the_other_way() -> None:
    name = "LPIPS-squeeze-v0.1"
    near, far = row(name, "diversity", 0.1, 0.08, 0.12), row(name, "real_pairs", 0.3, 0.28, 0.32)
    assert "LPIPS-squeeze-v0.1 of synthetic pairs 0.100" in says(changed(near, far), VARIETY)[CAUTION]
    more = [replace(near, value=0.5, interval=(0.45, 0.55)), far]
    assert list(says(changed(*more), VARIETY)) == [HOLDS]


def test_real_images_separated_by_less_than_chance_raise_no_alarm() -> None:
    """Cross-validation can put real images under 0.5: an AUC of 0.62 is worse than 0.5, and not by as much as than 0.35."""
    area = row(f"two-sample AUC{SUFFIX}", "real_real", 0.35, 0.25, 0.43)
    assert list(says(changed(area, row(f"two-sample AUC{SUFFIX}", "total", 0.62, 0.51, 0.73)), FIDELITY)) == [HOLDS]
    assert list(says(changed(area, row(f"two-sample AUC{SUFFIX}", "total", 0.72, 0.65, 0.77)), FIDELITY)) == [CAUTION]


# Direct checks


def fault(check: str, value: float, class_name: str = OVERALL) -> list[Row]:
    """Rows by which a direct check finds a fault."""
    rows = [row(check, "direct", value, 0.9 * value, 1.1 * value), row(f"adjusted p of {check}", "direct", 0.001),
            row(check, "direct_real", 1.0, 0.95, 1.05)]
    return [replace(one, class_name=class_name) for one in rows]


def test_a_fault_is_named_under_its_aspect_which_does_not_hold() -> None:
    grain, tints = fault("grain power[2-4 px]", 0.4), fault("tint spread", 0.5)
    assert says([*GOOD_ROWS, *grain], FIDELITY) == {CAUTION: "Grain of 2 to 4 px has 0.4 of its power in real images."}
    assert list(says([*GOOD_ROWS, *grain], VARIETY)) == [HOLDS]
    assert says([*GOOD_ROWS, *tints], VARIETY) == {CAUTION: "Tints vary half as much between images as in real ones."}
    looks = [replace(one, n_synthetic=30, n_real=30) for one in fault("looks like its class", 0.2, "bright")]
    assert says([*GOOD_ROWS, *looks], CLASS)[CAUTION].startswith("Class bright: 24 of 30 images look like another class")
    both = says([*UNTRAINED, *grain, *tints], FIDELITY)
    assert FAILS in both and both[CAUTION] == "Grain of 2 to 4 px has 0.4 of its power in real images."


# The class


@pytest.mark.parametrize(("auc", "tone", "expected"), [
    ((0.52, 0.42, 0.61), FAILS, "No class signal found: class-conditional claims are not supported (on held-out real images "
                                "the judge has AUC 0.520 (0.420 to 0.610); 0.5 is chance). A faint one can escape a "
                                "classifier that had few images or little training."),
    ((0.64, 0.55, 0.73), CAUTION, "The class is faintly visible in real images: on held-out real images the judge has AUC "
                                  "0.640 (0.550 to 0.730)."),
    ((0.8, None, None), UNKNOWN, "The class signal is unproven"),
])
def test_the_class_signal_is_told_with_its_interval(auc: tuple[float, float, float], tone: Tone, expected: str) -> None:
    assert says(changed(row("class AUC", "held_out", *auc)), CLASS)[tone].startswith(expected)
    if tone is not CAUTION:  # nothing is said of synthetic images where real ones show no class
        assert len([one for one in write_verdict(changed(row("class AUC", "held_out", *auc))) if one.aspect is CLASS]) == 1


@pytest.mark.parametrize(("auc", "tone", "expected"), [
    ((0.2, 0.1, 0.3), FAILS, "swapped"), ((0.5, 0.4, 0.6), FAILS, "do not show their class"),
    ((0.6, 0.55, 0.65), CAUTION, "less clearly"), ((0.98, 0.95, 1.0), CAUTION, "more clearly"),
])
def test_the_class_of_synthetic_images_is_read(auc: tuple[float, float, float], tone: Tone, expected: str) -> None:
    assert expected in says(changed(row("class AUC", "synthetic", *auc)), CLASS)[tone]


def test_no_claim_rests_on_a_judge_that_a_plain_baseline_beats() -> None:
    judge = [row("class balanced accuracy", "held_out", 0.35, 0.3, 0.4),
             row("class baseline balanced accuracy", "held_out", 0.7, 0.65, 0.75)]
    beaten = changed(*judge, row("class judge minus baseline", "held_out", -0.35, -0.42, -0.28))
    assert list(says(beaten, CLASS)) == [UNKNOWN]
    assert says(beaten, CLASS)[UNKNOWN] == (
        "The judge has not learned the class, so nothing is said about it: a plain logistic regression on features reads it "
        "better (on held-out real images the judge has AUC 0.800 (0.700 to 0.900) and balanced accuracy 0.350 (0.300 to "
        "0.400), a plain baseline 0.700 (0.650 to 0.750)). Train the judge again.")
    equal = changed(*judge, row("class judge minus baseline", "held_out", -0.02, -0.07, 0.03))
    assert "as real ones do" in says(equal, CLASS)[HOLDS] and "balanced accuracy 0.350" in says(equal, CLASS)[HOLDS]


# Copies


def test_too_few_held_out_groups_rule_nothing_out() -> None:
    text = "too few held-out groups to tell: 4 of them, at least 37 are needed for a tau at 5%; 2 of 4 images"
    few = row("near-copies[pixels at 16 px]", "copies", 0.5, note=f"{text}; binomial p = 0.6", outcome=UNKNOWN)
    assert says(changed(few), PRIVACY) == {UNKNOWN: f"T{text[1:]} [pixels at 16 px]."}


def test_copies_are_told_also_where_a_second_space_finds_them() -> None:
    found = row("near-copies[e@01234567,p]", "copies", 0.2, outcome=FAILS,
                note="copying found: 20 of 100; 7 training images hit; binomial p = 0")
    assert says([*GOOD_ROWS, found], PRIVACY) == {
        HOLDS: "No copying detected at tau: 1 of 100 [pixels at 16 px].",
        FAILS: "Copying found: 20 of 100; 7 training images hit [e]."}
    assert not any("private" in one.text for one in write_verdict([*GOOD_ROWS, found]))


def test_files_that_tell_of_copies_in_their_notes_alone_are_still_read() -> None:
    notes = {"copying found: 20 of 100; binomial p = 0": FAILS, "too few held-out groups to tell: 4 of them": UNKNOWN,
             "no copying detected at tau: 1 of 100": HOLDS}
    for note, tone in notes.items():
        stored = row("near-copies[pixels at 16 px]", "copies", 0.2, note=note).to_dict()
        assert "outcome" not in stored and Row.from_dict(stored).outcome is tone
        assert Row.from_dict(row("near-copies[x]", "copies", 0.2, note=note, outcome=HOLDS).to_dict()).outcome is HOLDS
    assert Row.from_dict(row("x", "total", 0.2).to_dict()).outcome is None


def test_headlines_are_eight_at_most_with_what_to_read_them_beside() -> None:
    titles = [one.title for one in choose_headlines(GOOD_ROWS)]
    assert len(titles) == MOST_HEADLINES and "look like a real image (precision)" not in titles
    unjudged = [one for one in GOOD_ROWS if not one.metric.startswith("class")]
    assert "look like a real image (precision)" in [one.title for one in choose_headlines(unjudged)]
    first = choose_headlines(GOOD_ROWS)[0]
    assert first.row.comparison == "total" and first.beside is not None and first.beside.comparison == "real_real"
    assert format_value(row("x", "total", None)) == "not computed"


def test_the_page_on_evaluation_quotes_sentences_that_there_are() -> None:
    root = Path(__file__).parents[2]
    texts = [node.value.lower() for module in ("verdict", "memorisation")
             for node in ast.walk(ast.parse((root / f"tools/evaluation/{module}.py").read_text(encoding="utf-8")))
             if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    page = (root / "docs/evaluation.md").read_text(encoding="utf-8")
    table = page.split("| where a sentence says | try |\n|---|---|\n")[1].split("\n\n")[0]
    quoted = [words for line in table.splitlines() for words in line.split(" | ")[0].strip("| ").split("; ")]
    assert len(quoted) > 10
    assert [words for words in quoted if not any(words.lower() in text for text in texts)] == []


# From images to sentences


def make_set(name: str, counts: tuple[int, int], *, seed: int, contrast: float = 40) -> ImageSet:
    """Smooth random images of 32 px, two of a patient; class 1 is brighter by `contrast` gray levels."""
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1], counts)
    coarse = rng.normal(0, 25, size=(len(labels), 8, 8)).repeat(4, axis=1).repeat(4, axis=2)
    pixels = np.clip(100 + contrast * labels[:, None, None] + coarse, 0, 255).astype(np.uint8)[..., None]
    ids = [f"{name}{i}" for i in range(len(labels))]
    return ImageSet(name, pixels, labels, ids, [f"{name}-patient{i // 2}" for i in range(len(labels))],
                    [f"{seed}-{i}" for i in ids])


class Brightness(Classifier):
    """A judge that reads the class off the mean gray level."""

    def __init__(self) -> None:
        super().__init__(ClassifierConfig(im_channels=1, num_classes=2, image_size=32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = (x.mean(dim=(1, 2, 3)) + 1) * 127.5
        return torch.stack([120 - mean, mean - 120], dim=1)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("encoder")
    for name, data in Classifier(ClassifierConfig(im_channels=1, num_classes=2, image_size=32)).to_files().items():
        (folder / name).write_bytes(data)
    found = load_encoder("classifier", weights_path=folder)
    found.name = "untrained_tiny"  # which it is
    return found


def make_sets(synthetic: ImageSet, *, contrast: float = 40, count: int = COUNT) -> EvaluationSets:
    """Held-out and training images of another draw, and an autoencoder that loses nothing."""
    real = make_set("test", (count, count), seed=1, contrast=contrast)
    train = make_set("train", (count, count), seed=2, contrast=contrast)
    synthetic = replace(synthetic, sha256=[hash_bytes(image.tobytes()) for image in synthetic.in_memory()])
    return EvaluationSets(
        synthetic=synthetic, real=real, train=train, real_round_trip=real.with_pixels("test_round_trip", real.pixels),
        train_round_trip=train.with_pixels("train_round_trip", train.pixels), class_names=NAMES)


def join(report: EvaluationReport) -> str:
    return " ".join(one.text for one in write_verdict(report.rows))


def test_changed_images_change_the_sentences(encoder: Encoder, tmp_path: Path) -> None:
    made = make_set("synthetic", (COUNT, COUNT), seed=3)
    settings = EvaluationSettings(feature_folder=tmp_path, transform_hash="a", round_trip_hash="b", batch_size=64,
                                  max_pairs=200, frechet_repeats=2, bootstrap_repeats=40)

    def of(images: ImageSet) -> str:
        report, sets = EvaluationReport(provenance={}), make_sets(images)
        matched = sets.matched()
        add_distances(report, sets, encoder, settings, encode_sets(sets, matched, encoder, settings, no_bar))
        add_similarities(report, sets, matched, None, settings)
        return join(report)

    def with_pixels(pixels: np.ndarray) -> ImageSet:
        return made.with_pixels("synthetic", np.clip(pixels, 0, 255).astype(np.uint8))

    assert "No difference from real images was found" in of(made) and "No lack of variety was found" in of(made)
    rng = np.random.default_rng(0)
    for changed_pixels in (blur(blur(made.pixels)), made.pixels + rng.normal(0, 30, size=made.pixels.shape)):
        worse = of(with_pixels(changed_pixels))
        assert "Synthetic images can be distinguished from real ones by untrained_tiny features" in worse
        assert "The diffusion model is the limit, not the VAE" in worse
    few = np.concatenate([np.repeat(made.pixels[start:start + 3], COUNT, axis=0)[:COUNT] for start in (0, COUNT)])
    assert ("The model repeats itself and misses part of the variety by untrained_tiny features: coverage"
            in of(with_pixels(few)))
    one_mode = made.pixels[:1] + rng.normal(0, 4, size=made.pixels.shape)
    assert "The model repeats itself" in of(with_pixels(one_mode))
    assert "There is no synthetic image of bright" in of(made.select(np.arange(COUNT)))


def read_class(synthetic: ImageSet, *, contrast: float = 40) -> str:
    report = EvaluationReport(provenance={})
    add_class_fidelity(report, make_sets(synthetic, contrast=contrast, count=60), Brightness(), bootstrap_repeats=200)
    return join(report)


def test_swapped_shuffled_and_faint_classes_are_told() -> None:
    made = make_set("synthetic", (60, 60), seed=3)
    assert "show their class as real ones do" in read_class(made)
    assert "The classes of synthetic images are swapped" in read_class(replace(made, labels=1 - made.labels))
    shuffled = read_class(make_set("synthetic", (60, 60), seed=3, contrast=0), contrast=0)
    assert "No class signal found: class-conditional claims are not supported" in shuffled
    assert "show their class" not in shuffled
    faint = read_class(make_set("synthetic", (60, 60), seed=3, contrast=1.5), contrast=1.5)
    assert "The class is faintly visible in real images: on held-out real images the judge has AUC 0.6" in faint
    assert re.search(r"AUC 0\.6\d+ \(0\.5\d+ to 0\.\d+\) and balanced accuracy 0\.\d+ ", faint)
