"""Confounded phantoms are warned of and clean ones are not; the background is what lies around the cell."""

import json
from functools import cache

import numpy as np
import pytest

from config.errors import UserError
from dataset.images import from_uint8
from tools.check_confounders.confounders import ConfounderReport, format_report, measure_confounders
from tools.evaluation.descriptors import describe_background, describe_image, find_background, outside_disc
from tools.inspection.readout import Interval
from tools.make_phantoms.phantoms import MICROSCOPES, choose_microscope, draw_parameters, render_phantom, under_microscope

COUNT = 224


@cache
def draw_set(seed: int, difficulty: str, share: float) -> tuple[np.ndarray, np.ndarray, list[str], list[str]]:
    """Images, labels, patients and microscopes; `share` as in make_phantoms --tint-microscope."""
    drawn = [draw_parameters(seed=seed, index=index, difficulty=difficulty) for index in range(COUNT)]
    scopes = [choose_microscope(p, share=share) for p in drawn]
    pixels = np.stack([from_uint8(render_phantom(under_microscope(p, scope), size_px=32))[None]
                       for p, scope in zip(drawn, scopes, strict=True)])
    return pixels, np.array([p.label for p in drawn]), [str(p.patient) for p in drawn], [MICROSCOPES[s] for s in scopes]


def measure(seed: int, difficulty: str, share: float) -> ConfounderReport:
    images, labels, groups, scopes = draw_set(seed, difficulty, share)
    return measure_confounders(images, labels=labels, groups=groups, covariates={"MICROSCOPE": scopes}, seed=seed)


@pytest.mark.parametrize(("seed", "difficulty"), [(0, "faint"), (1, "faint"), (2, "faint"), (0, "clear")])
def test_a_microscope_tied_to_the_class_is_warned_of(seed: int, difficulty: str) -> None:
    report = measure(seed, difficulty, 0.9)
    assert {source.kind for source in report.sources if source.rivals} == {"metadata", "background"}
    assert len(report.warnings) == 2 and any("MICROSCOPE" in text for text in report.warnings)
    assert "RIVALS" in format_report(report)


@pytest.mark.parametrize(("seed", "difficulty"), [(0, "faint"), (1, "faint"), (2, "faint"), (0, "clear")])
def test_a_microscope_independent_of_the_class_is_not(seed: int, difficulty: str) -> None:
    report = measure(seed, difficulty, 0.0)
    assert report.warnings == ()
    assert [source.kind for source in report.sources] == ["whole", "background", "metadata"]


def test_what_is_a_rival_depends_on_the_best_reading_of_the_whole_image() -> None:
    """A column of AUC 0.6, far from chance with 1200 images, rivals an invisible class and not one in plain sight."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, size=1200)
    images = 0.1 * rng.standard_normal((1200, 1, 16, 16)).astype(np.float32)
    column = {"S": [str(value) for value in np.where(rng.random(1200) < 0.6, labels, 1 - labels)]}
    groups = [str(number // 4) for number in range(1200)]
    hidden = measure_confounders(images, labels=labels, groups=groups, covariates=column)
    assert [source.rivals for source in hidden.sources] == [False, False, True]
    judged = measure_confounders(images, labels=labels, groups=groups, covariates=column,
                                 judged=Interval(0.95, 0.94, 0.96, 0.005))
    assert not judged.warnings and judged.sources[1].auc.value == 0.95
    images[:, :, 4:12, 4:12] += 0.3 * labels[:, None, None, None]
    seen = measure_confounders(images, labels=labels, groups=groups, covariates=column)
    assert not seen.warnings and seen.sources[-1].p_value < 0.001


def test_several_columns_are_read_together_and_alone() -> None:
    images, labels, groups, scopes = draw_set(0, "clear", 0.9)
    report = measure_confounders(images, labels=labels, groups=groups, covariates={
        "MICROSCOPE": scopes, "CLINIC": ["one"] * COUNT, "SESSION": [str(n % 4) for n in range(COUNT)]})
    rows = {source.name: source for source in report.sources}
    assert rows["metadata alone, all columns"].rivals and rows["metadata alone, MICROSCOPE (category)"].rivals
    assert not rows["metadata alone, SESSION (category)"].rivals
    assert rows["metadata alone, CLINIC (constant)"].auc is None
    assert any(note == "CLINIC: has one value only" for note in report.notes)
    assert "not computed: has one value only" in format_report(report)


def test_without_columns_the_report_says_what_was_not_looked_at() -> None:
    images, labels, groups, _ = draw_set(0, "clear", 0.0)
    report = measure_confounders(images, labels=labels, groups=groups, covariates={})
    assert any("covariate_columns" in note for note in report.notes)


def test_the_background_leaves_out_the_cell() -> None:
    images = draw_set(0, "clear", 0.0)[0]
    mask = find_background(images)
    assert mask is not None and 0.08 < mask.mean() < 0.25
    assert not mask[10:54, 10:54].any() and mask[0, 0] and mask[-1, -1]
    changed = images.copy()
    changed[..., 5:27, 5:27] = 0.0  # the mask's pixels are at 64 px, the images' at 32
    assert np.array_equal(describe_background(changed, mask), describe_background(images, mask))
    assert not np.allclose(describe_image(changed), describe_image(images))


def draw_wells(seed: int, *, radius: float, count: int = 80) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Time-lapse frames (N, 1, 64, 64): a well of this radius, in half sides, with texture up to its wall, in the dark.

    The embryo is the disc of radius 0.4 in the middle; brighter medium goes with label 1.
    """
    rng = np.random.default_rng(seed)
    ticks = (np.arange(64) + 0.5) / 32 - 1
    distance = np.hypot(ticks[:, None], ticks[None, :])
    labels = np.arange(count) % 2
    images = np.full((count, 1, 64, 64), -0.8) + 0.01 * rng.standard_normal((count, 1, 64, 64))
    medium = 0.2 * labels[:, None, None, None] + 0.15 * rng.standard_normal(images.shape)
    images = np.where(distance < radius, medium, images)
    images = np.where(distance < 0.4, 0.3 * rng.standard_normal(images.shape), images)
    return images.astype(np.float32), labels, [str(number) for number in range(count)]


def test_a_well_that_fills_the_frame_raises_no_warning_and_says_what_would_separate_it() -> None:
    """The disc covers 92% of the frame and more: what is outside it is no background."""
    images, labels, groups = draw_wells(0, radius=1.25)
    assert find_background(images) is None
    report = measure_confounders(images, labels=labels, groups=groups, covariates={})
    assert report.warnings == ()
    background, = [source for source in report.sources if source.kind == "background"]
    assert (background.auc, background.p_value, background.rivals) == (None, None, False)
    shown = format_report(report)
    assert "RIVALS" not in shown and "warning" not in shown and "with care" not in shown
    assert "background alone               not computed: the content fills the frame\n" in shown
    assert "To separate the background, use images with a wider margin" in shown and "--disc" in shown
    written = report.to_json()
    json.dumps(written, allow_nan=False)
    assert written["background_share"] is None and written["warnings"] == []


def test_a_disc_around_the_embryo_separates_its_background() -> None:
    images, labels, groups = draw_wells(0, radius=1.25)
    report = measure_confounders(images, labels=labels, groups=groups, covariates={}, disc=0.5)
    assert [source.kind for source in report.sources if source.rivals] == ["background"]
    assert len(report.warnings) == 1 and "balance or split the data by that" in report.warnings[0].lower()
    assert report.to_json()["background_share"] == pytest.approx(1 - np.pi * 0.5**2 / 4, abs=0.01)
    assert "outside the central disc that you chose: 80% of the frame here" in format_report(report)
    with pytest.raises(UserError, match=r"--disc: expected a disc that leaves 8% of the frame or more, found .* 1.3 sides"):
        measure_confounders(images, labels=labels, groups=groups, covariates={}, disc=1.3)


def test_a_smaller_well_is_separated_by_itself() -> None:
    images, labels, groups = draw_wells(0, radius=0.8)
    mask = find_background(images)
    assert mask is not None and 0.3 < mask.mean() < 0.55
    assert measure_confounders(images, labels=labels, groups=groups, covariates={}).warnings == ()


def test_columns_that_rival_share_one_warning() -> None:
    images, labels, groups, scopes = draw_set(0, "clear", 0.9)
    report = measure_confounders(images, labels=labels, groups=groups, covariates={
        "MICROSCOPE": scopes, "GRADE": [f"{label}AA" for label in labels]})
    warning, = [text for text in report.warnings if text.startswith("metadata alone")]
    assert warning.count("AUC") == 2 and "MICROSCOPE (category): AUC" in warning and "GRADE (category): AUC" in warning
    assert "all columns" not in warning and "it may be the label in other words: remove it from covariate_columns" in warning


def test_colour_and_size_are_taken_as_they_come() -> None:
    rng = np.random.default_rng(0)
    for shape in [(3, 3, 40, 40), (3, 1, 128, 128), (3, 1, 97, 97)]:
        images = rng.uniform(-1, 1, size=shape).astype(np.float32)
        for values in (describe_image(images), describe_background(images, outside_disc(1.0))):
            assert values.shape[0] == 3 and np.isfinite(values).all()


def test_detail_of_single_pixels_is_described_at_any_size() -> None:
    rng = np.random.default_rng(0)
    smooth = np.zeros((2, 1, 256, 256), dtype=np.float32)
    grainy = smooth + 0.02 * rng.choice([-1.0, 1.0], size=smooth.shape)
    assert np.abs(describe_image(grainy) - describe_image(smooth)).max() > 3
