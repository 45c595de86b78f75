"""The verdict: each rule fires on rows that it is about, and on images that are blurred, noised, swapped or repeated."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dataset.storage import hash_bytes
from models.classifier import Classifier, ClassifierConfig
from tools.evaluation.distances import add_distances, encode_sets
from tools.evaluation.encoders import Encoder, load_encoder
from tools.evaluation.evaluation_sets import EvaluationSets, EvaluationSettings, no_bar
from tools.evaluation.fidelity import add_class_fidelity
from tools.evaluation.image_set import ImageSet
from tools.evaluation.references import blur
from tools.evaluation.rows import OVERALL, EvaluationReport, Row
from tools.evaluation.similarities import add_similarities
from tools.evaluation.verdict import (
    CAUTION,
    CLASS,
    COPIES,
    FAILS,
    GOOD,
    HOLDS,
    MOST_HEADLINES,
    QUESTIONS,
    STUDIED,
    UNKNOWN,
    USEFUL,
    choose_headlines,
    format_value,
    write_verdict,
)

KERNEL, SUFFIX = "KD[e@01234567,p]", "[e@01234567,p]"
NAMES = ("dark", "bright")
COUNT = 24  # images of a class and a set


def row(metric: str, comparison: str, value: float | None, low: float | None = None, high: float | None = None,
        **others: object) -> Row:
    interval = None if low is None or high is None else (low, high)
    return Row(metric, OVERALL, comparison, value, interval, **others)  # type: ignore[arg-type]


GOOD_ROWS = [
    row(KERNEL, "total", 0.01, 0.0, 0.02), row(KERNEL, "real_real", 0.005, 0.0, 0.015), row(KERNEL, "ceiling", 0.002),
    row(KERNEL, "model_gap", 0.008, 0.0, 0.012), row(KERNEL, "floor", 0.004),
    *[row(f"{score}{SUFFIX}", name, 0.9, 0.85, 0.95) for score in ("precision", "recall", "coverage")
      for name in ("total", "real_real")],
    row(f"two-sample AUC{SUFFIX}", "total", 0.52, 0.45, 0.58), row(f"two-sample AUC{SUFFIX}", "real_real", 0.5, 0.42, 0.57),
    row("SSIM", "diversity", 0.31, 0.29, 0.33), row("SSIM", "real_pairs", 0.3, 0.28, 0.32),
    row("class AUC", "held_out", 0.8, 0.7, 0.9), row("class AUC", "synthetic", 0.82, 0.75, 0.88),
    row("near-copies[pixels at 16 px]", "copies", 0.01, note="no copying detected at tau: 1 of 100; binomial p = 0.6"),
    row("near-copies[pixels at 16 px]", "copies_control", 0.012),
]


def changed(*rows: Row) -> list[Row]:
    """The good rows with these in place of those of the same name."""
    names = {(one.metric, one.comparison) for one in rows}
    return [*[one for one in GOOD_ROWS if (one.metric, one.comparison) not in names], *rows]


def says(rows: Sequence[Row], question: str) -> dict[str, str]:
    """The texts on a question by tone, joined in their order."""
    found: dict[str, str] = {}
    for one in write_verdict(rows):
        if one.question == question:
            found[one.tone] = f"{found[one.tone]} {one.text}" if one.tone in found else one.text
    return found


def test_good_rows_hold_and_usefulness_is_not_claimed() -> None:
    assert list(says(GOOD_ROWS, GOOD)) == [HOLDS]
    assert "kernel distance 0.0100 (0 to 0.0200)" in says(GOOD_ROWS, GOOD)[HOLDS]
    assert "Synthetic images show their class as real ones do: AUC 0.820" in says(GOOD_ROWS, CLASS)[HOLDS]
    assert says(GOOD_ROWS, COPIES) == {HOLDS: "No copying detected at tau: 1 of 100 [pixels at 16 px]."}
    assert "Not studied" in says(GOOD_ROWS, USEFUL)[UNKNOWN]
    quoted = [one for one in write_verdict(GOOD_ROWS, study=["It helped.", "A little."]) if one.question == USEFUL]
    assert [(one.tone, one.text) for one in quoted] == [(STUDIED, "It helped."), (STUDIED, "A little.")]
    assert [one.question for one in write_verdict(GOOD_ROWS)] == [GOOD, CLASS, CLASS, COPIES, USEFUL]


def test_without_rows_nothing_was_tested() -> None:
    sentences = write_verdict([])
    assert [one.question for one in sentences] == list(QUESTIONS)
    assert {one.tone for one in sentences} == {UNKNOWN}
    assert says([], COPIES)[UNKNOWN] == "Copies of training images were not tested."
    assert choose_headlines([]) == []
    refused = row("near-copies[pixels at 16 px]", "copies", None, note="not computed: too few groups")
    assert says([refused], COPIES)[UNKNOWN] == "Copies of training images were not tested."


@pytest.mark.parametrize(("ceiling", "expected"), [
    (0.9, "The VAE is the limit"), (0.05, "The diffusion model is the limit, not the VAE"),
    (0.5, "VAE and diffusion model cost about the same"),
])
def test_the_part_that_limits_is_named(ceiling: float, expected: str) -> None:
    rows = changed(row(KERNEL, "total", 0.8, 0.7, 0.9), row(KERNEL, "model_gap", 0.5, 0.4, 0.6),
                   row(KERNEL, "ceiling", ceiling))
    assert "can be told from real ones" in says(rows, GOOD)[FAILS]
    assert says(rows, GOOD)[CAUTION].startswith(expected)


def test_a_good_distance_names_no_limit_and_no_interval_proves_nothing() -> None:
    assert "limit" not in " ".join(says(changed(row(KERNEL, "ceiling", 5.0)), GOOD).values())
    told = [row(f"two-sample AUC{SUFFIX}", name, value, value - 0.04, value + 0.04)
            for name, value in (("total", 0.9), ("model_gap", 0.6), ("ceiling", 0.85))]
    assert "The VAE is the limit: real images against their VAE round trip 0.850" in says(changed(*told), GOOD)[CAUTION]
    assert "nothing is proven" in says(changed(row(KERNEL, "total", 0.01)), GOOD)[UNKNOWN]


def test_an_encoder_made_from_the_training_images_never_passes_alone() -> None:
    narrow = [replace(one, metric=one.metric.replace("e@", "classifier@")) for one in GOOD_ROWS]
    assert "blind to much that the pictures show" in says(narrow, GOOD)[CAUTION]
    name = f"two-sample AUC{SUFFIX.replace('e@', 'classifier@')}"
    told = [replace(one, value=0.66, interval=(0.6, 0.7)) if (one.metric, one.comparison) == (name, "total") else one
            for one in narrow]
    assert "yet they can be told apart" in says(told, GOOD)[CAUTION]
    assert "blind to much that the pictures show" in says(told, GOOD)[CAUTION]
    both = [*narrow, *GOOD_ROWS]
    assert list(says(both, GOOD)) == [HOLDS]
    assert choose_headlines(both)[0].row.metric == KERNEL


def test_numbers_without_an_interval_accuse_nobody() -> None:
    rows = changed(*[row(f"{score}{SUFFIX}", name, 0.9 + 0.01 * (name == "real_real"))
                     for score in ("precision", "recall", "coverage") for name in ("total", "real_real")],
                   row("SSIM", "diversity", 0.5), row("SSIM", "real_pairs", 0.3), row("SSIM", "cross", 0.1))
    told = says(rows, GOOD)
    assert not any("outside of what" in text or "missing" in text or "alike" in text for text in told)


def test_images_that_are_told_apart_miss_variety_or_repeat() -> None:
    told = changed(row(f"two-sample AUC{SUFFIX}", "total", 0.9, 0.85, 0.95))
    assert "can be told from real ones: kernel distance" in says(told, GOOD)[FAILS]
    seldom = changed(row(f"two-sample AUC{SUFFIX}", "total", 0.65, 0.6, 0.7))
    assert "yet they can be told apart" in says(seldom, GOOD)[CAUTION]
    outside = changed(row(f"precision{SUFFIX}", "total", 0.5, 0.4, 0.6))
    assert "outside of what real images look like: precision 0.500" in says(outside, GOOD)[CAUTION]
    fewer = row(f"coverage{SUFFIX}", "total", 0.5, 0.4, 0.6)
    assert says(changed(fewer), GOOD)[CAUTION].startswith("Part of the variety of real images is missing: coverage 0.500")
    alike = row("SSIM", "diversity", 0.5, 0.45, 0.55)
    assert "the blur of a VAE alone does that" in says(changed(alike), GOOD)[CAUTION]
    assert says(changed(fewer, alike), GOOD)[FAILS].startswith("The model repeats itself")


def test_images_unlike_real_ones_fail_even_where_the_encoder_is_blind() -> None:
    name = "LPIPS-squeeze-v0.1"
    for metric, pairs, unlike, near in (("SSIM", (0.31, 0.29, 0.33), (0.23, 0.22, 0.24), (0.285, 0.28, 0.289)),
                                        (name, (0.3, 0.28, 0.32), (0.4, 0.38, 0.42), (0.325, 0.321, 0.33))):
        beside = [row(metric, "real_pairs", *pairs), row(metric, "diversity", *pairs)]
        assert "less like real ones than real ones are among themselves" in says(
            changed(*beside, row(metric, "cross", *unlike)), GOOD)[FAILS]
        assert list(says(changed(*beside, row(metric, "cross", *near)), GOOD)) == [HOLDS]  # apart, but by less than a tenth


def test_lpips_goes_before_ssim_and_points_the_other_way() -> None:
    name = "LPIPS-squeeze-v0.1"
    near, far = row(name, "diversity", 0.1, 0.08, 0.12), row(name, "real_pairs", 0.3, 0.28, 0.32)
    assert "LPIPS-squeeze-v0.1 of synthetic pairs 0.100" in says(changed(near, far), GOOD)[CAUTION]
    more = [replace(near, value=0.5, interval=(0.45, 0.55)), far]
    assert list(says(changed(*more), GOOD)) == [HOLDS]


@pytest.mark.parametrize(("auc", "tone", "expected"), [
    ((0.52, 0.42, 0.61), FAILS, "No class signal found: class-conditional claims are not supported (AUC on held-out real "
                                "images 0.520 (0.420 to 0.610); 0.5 is chance). A faint one can escape a "
                                "classifier that had few images or little training."),
    ((0.64, 0.55, 0.73), CAUTION, "The class is faintly visible in real images: AUC on held-out real images 0.640 (0.550 to "
                                  "0.730)."),
    ((0.8, None, None), UNKNOWN, "The class signal is unproven"),
])
def test_the_class_signal_is_told_with_its_interval(auc: tuple[float, float, float], tone: str, expected: str) -> None:
    assert says(changed(row("class AUC", "held_out", *auc)), CLASS)[tone].startswith(expected)
    if tone != CAUTION:  # nothing is said of synthetic images where real ones show no class
        assert len([one for one in write_verdict(changed(row("class AUC", "held_out", *auc))) if one.question == CLASS]) == 1


@pytest.mark.parametrize(("auc", "tone", "expected"), [
    ((0.2, 0.1, 0.3), FAILS, "swapped"), ((0.5, 0.4, 0.6), FAILS, "do not show their class"),
    ((0.6, 0.55, 0.65), CAUTION, "less clearly"), ((0.98, 0.95, 1.0), CAUTION, "more clearly"),
])
def test_the_class_of_synthetic_images_is_read(auc: tuple[float, float, float], tone: str, expected: str) -> None:
    assert expected in says(changed(row("class AUC", "synthetic", *auc)), CLASS)[tone]


def test_too_few_held_out_groups_clear_nothing() -> None:
    text = "too few held-out groups to tell: 4 of them, at least 37 are needed for a tau at 5%; 2 of 4 images"
    few = row("near-copies[pixels at 16 px]", "copies", 0.5, note=f"{text}; binomial p = 0.6")
    assert says(changed(few), COPIES) == {UNKNOWN: f"T{text[1:]} [pixels at 16 px]."}


def test_copies_are_told_also_where_a_second_space_finds_them() -> None:
    found = row("near-copies[e@01234567,p]", "copies", 0.2,
                note="copying found: 20 of 100; 7 training images hit; binomial p = 0")
    assert says([*GOOD_ROWS, found], COPIES) == {
        HOLDS: "No copying detected at tau: 1 of 100 [pixels at 16 px].",
        FAILS: "Copying found: 20 of 100; 7 training images hit [e]."}
    assert not any("private" in one.text for one in write_verdict([*GOOD_ROWS, found]))


def test_headlines_are_eight_at_most_with_what_to_read_them_beside() -> None:
    titles = [one.title for one in choose_headlines(GOOD_ROWS)]
    assert len(titles) == MOST_HEADLINES and "look like a real image (precision)" not in titles
    unjudged = [one for one in GOOD_ROWS if not one.metric.startswith("class")]
    assert "look like a real image (precision)" in [one.title for one in choose_headlines(unjudged)]
    first = choose_headlines(GOOD_ROWS)[0]
    assert first.row.comparison == "total" and first.beside is not None and first.beside.comparison == "real_real"
    assert format_value(row("x", "total", None)) == "not computed"


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
    return load_encoder("classifier", weights_path=folder)


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

    assert "can be told from" not in of(made)
    rng = np.random.default_rng(0)
    for changed_pixels in (blur(blur(made.pixels)), made.pixels + rng.normal(0, 30, size=made.pixels.shape)):
        worse = of(with_pixels(changed_pixels))
        assert "Synthetic images can be told from real ones" in worse
        assert "The diffusion model is the limit, not the VAE" in worse
    few = np.concatenate([np.repeat(made.pixels[start:start + 3], COUNT, axis=0)[:COUNT] for start in (0, COUNT)])
    assert "The model repeats itself and misses part of the variety: coverage" in of(with_pixels(few))
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
    assert "The class is faintly visible in real images: AUC on held-out real images 0.6" in faint
    assert re.search(r"real images 0\.6\d+ \(0\.5\d+ to 0\.\d+\)", faint)
