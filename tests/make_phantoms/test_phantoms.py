"""Phantoms: addressed draws, known Bayes rates, no shortcut through brightness or size, and what the light does."""

import dataclasses
from collections import Counter
from functools import cache

import cv2
import numpy as np
import pytest
from scipy.special import ndtr
from scipy.stats import rankdata

from tools.make_phantoms import phantoms

SEED = 1111


@cache
def draw(difficulty: str, count: int) -> list[phantoms.PhantomParameters]:
    return [phantoms.draw_parameters(seed=SEED, index=index, difficulty=difficulty) for index in range(count)]


@cache
def render(difficulty: str, count: int) -> np.ndarray:
    return np.stack([phantoms.render_phantom(p, size_px=64) for p in draw(difficulty, count)])


def column(parameters: list[phantoms.PhantomParameters], name: str) -> np.ndarray:
    return np.array([getattr(p, name) for p in parameters], dtype=np.float64)


def measure_auc(scores: np.ndarray, labels: np.ndarray) -> float:
    ranks, positives = rankdata(scores), labels == 1
    wins = ranks[positives].sum() - positives.sum() * (positives.sum() + 1) / 2
    return float(wins / (positives.sum() * (~positives).sum()))


def measure_balanced_accuracy(labels: np.ndarray, predicted: np.ndarray) -> float:
    return float(np.mean([(predicted[labels == value] == value).mean() for value in (0, 1)]))


def score_ridge(features: np.ndarray, labels: np.ndarray, patients: np.ndarray) -> float:
    """Held-out balanced accuracy of a class-weighted ridge classifier, odd patients against even ones, both ways."""
    x = (features - features.mean(axis=0)) / features.std(axis=0)
    x = np.column_stack([np.ones(len(x)), x])
    predicted = np.zeros(len(x))
    for side in (0, 1):
        fit = patients % 2 == side
        weights = np.where(labels == 1, 0.5 / labels[fit].mean(), 0.5 / (1 - labels[fit].mean()))[fit]
        normal = (x[fit] * weights[:, None]).T @ x[fit] + 1.0 * np.eye(x.shape[1])
        predicted[~fit] = x[~fit] @ np.linalg.solve(normal, (x[fit] * weights[:, None]).T @ (2 * labels[fit] - 1))
    return measure_balanced_accuracy(labels, (predicted > 0).astype(int))


def test_a_draw_depends_on_its_address_alone() -> None:
    late = phantoms.draw_parameters(seed=SEED, index=137, difficulty="clear")
    assert late == draw("clear", 400)[137]
    assert late != phantoms.draw_parameters(seed=SEED + 1, index=137, difficulty="clear")
    image = phantoms.render_phantom(late, size_px=64)
    assert np.array_equal(image, render("clear", 400)[137])
    assert image.dtype == np.uint8 and image.shape == (64, 64)
    assert not np.array_equal(image, render("clear", 400)[138])


def test_textures_of_neighbours_and_seeds_differ() -> None:
    first, twin = draw("clear", 400)[0], dataclasses.replace(draw("clear", 400)[0], index=1)
    other_seed = dataclasses.replace(first, seed=SEED + 1)
    images = [phantoms.render_phantom(p, size_px=64, noise=False) for p in (first, twin, other_seed)]
    assert not np.array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])


def test_patients_have_four_to_ten_images_in_a_row() -> None:
    patients = [phantoms.find_patient(seed=SEED, index=index) for index in range(10 * phantoms.IMAGES_PER_BLOCK)]
    assert patients == sorted(patients)
    assert set(patients) == set(range(10 * phantoms.PATIENTS_PER_BLOCK))
    sizes = Counter(patients).values()
    assert min(sizes) >= 4 and max(sizes) <= 10 and len(set(sizes)) > 3


@pytest.mark.parametrize("difficulty", phantoms.DIFFICULTIES)
def test_classes_are_seventy_to_thirty(difficulty: str) -> None:
    share = column(draw(difficulty, 6000), "label").mean()
    assert abs(share - phantoms.BLASTOCYST_SHARE) < 0.02


def test_oocytes_of_a_patient_and_its_microscope_have_more_in_common() -> None:
    drawn = draw("faint", 6000)
    patients = column(drawn, "patient").astype(int)
    for name in ("mean_level", "pvs_um", "outer_radius_um"):
        values = column(drawn, name)
        means = np.bincount(patients, values) / np.bincount(patients)
        within = np.mean((values - means[patients]) ** 2)
        assert within < 0.9 * values.var()
    for name in ("light_strength", "gradient", "has_well", "noise_level"):
        assert all(len({getattr(p, name) for p in drawn if p.patient == patient}) == 1 for patient in range(20))


def test_bayes_rates_lie_in_their_ranges() -> None:
    clear, faint, shuffled = (phantoms.bayes_rate(name) for name in ("clear", "faint", "shuffled"))
    assert 0.97 <= clear.balanced_accuracy <= 0.995
    assert 0.63 <= faint.auc <= 0.67
    assert (shuffled.balanced_accuracy, shuffled.auc) == (0.5, 0.5)


@pytest.mark.parametrize("difficulty", ["clear", "faint"])
def test_closed_form_bayes_rate_agrees_with_the_drawn_parameters(difficulty: str) -> None:
    drawn = draw(difficulty, 6000)
    labels = column(drawn, "label").astype(int)
    ratios = np.array([phantoms.log_likelihood_ratio(p) for p in drawn])
    rate = phantoms.bayes_rate(difficulty)
    assert measure_auc(ratios, labels) == pytest.approx(rate.auc, abs=0.025 if difficulty == "faint" else 0.001)
    accuracy = measure_balanced_accuracy(labels, (ratios > 0).astype(int))
    assert accuracy == pytest.approx(rate.balanced_accuracy, abs=0.025 if difficulty == "faint" else 0.006)
    # The ratio's own law, from which the closed form follows: means -D^2/2 and D^2/2, variance D^2 in both classes.
    squared = 2 * np.mean(ratios * np.where(labels == 1, 1, -1))
    assert squared == pytest.approx(np.mean([ratios[labels == value].var() for value in (0, 1)]), rel=0.2)


@pytest.mark.parametrize("difficulty", ["clear", "faint"])
def test_closed_form_bayes_rate_agrees_with_monte_carlo(difficulty: str) -> None:
    effects = np.array(list(phantoms._EFFECTS[difficulty].values()))
    rng = np.random.default_rng(5)
    labels = (rng.random(200_000) < phantoms.BLASTOCYST_SHARE).astype(int)
    scores = rng.standard_normal((labels.size, effects.size)) + (labels[:, None] - 0.5) * effects
    ratios = scores @ effects
    rate = phantoms.bayes_rate(difficulty)
    assert measure_auc(ratios, labels) == pytest.approx(rate.auc, abs=0.004)
    assert measure_balanced_accuracy(labels, (ratios > 0).astype(int)) == pytest.approx(
        rate.balanced_accuracy, abs=0.004
    )


def test_shuffled_has_the_look_of_clear_but_no_signal() -> None:
    drawn = draw("shuffled", 6000)
    as_clear = np.array([phantoms.log_likelihood_ratio(dataclasses.replace(p, difficulty="clear")) for p in drawn])
    assert measure_auc(as_clear, column(drawn, "morphology_class").astype(int)) > 0.99
    assert abs(measure_auc(as_clear, column(drawn, "label").astype(int)) - 0.5) < 0.03
    assert all(phantoms.log_likelihood_ratio(p) == 0.0 for p in drawn[:50])
    for name in ("pvs_um", "core_granularity"):
        ours, theirs = column(drawn, name), column(draw("clear", 6000), name)
        assert abs(ours.mean() - theirs.mean()) < 0.1 * theirs.std()
        assert ours.std() == pytest.approx(theirs.std(), rel=0.1)


@pytest.mark.parametrize("difficulty", phantoms.DIFFICULTIES)
def test_brightness_and_size_do_not_give_the_class_away(difficulty: str) -> None:
    count = 400
    drawn, images = draw(difficulty, count), render(difficulty, count).astype(np.float64)
    mean, radius = images.mean(axis=(1, 2)), column(drawn, "outer_radius_um")
    features = np.column_stack([mean, radius, mean**2, radius**2, mean * radius])
    labels, patients = column(drawn, "label").astype(int), column(drawn, "patient").astype(int)
    assert score_ridge(features, labels, patients) <= 0.65


def test_clear_classes_can_be_read_from_the_pixels() -> None:
    count = 400
    drawn, images = draw("clear", count), render("clear", count).astype(np.float32)
    profiles = []
    for p, image in zip(drawn, images, strict=True):
        centre = (32 + p.centre_x_um * 0.32 - 0.5, 32 - p.centre_y_um * 0.32 - 0.5)
        polar = cv2.warpPolar(image, (28, 64), centre, 28, cv2.WARP_POLAR_LINEAR)
        profiles.append(np.concatenate([polar.mean(axis=0)[4:], polar.std(axis=0)[4:]]))
    labels, patients = column(drawn, "label").astype(int), column(drawn, "patient").astype(int)
    assert score_ridge(np.array(profiles), labels, patients) >= 0.90


def test_every_size_shows_the_same_anatomy() -> None:
    for p in draw("clear", 400)[:12]:
        small = phantoms.render_phantom(p, size_px=64, noise=False)
        for size_px in (128, 512):
            large = phantoms.render_phantom(p, size_px=size_px, noise=False)
            reduced = cv2.resize(large, (64, 64), interpolation=cv2.INTER_AREA)
            assert np.corrcoef(small.ravel(), reduced.ravel())[0, 1] > 0.95


def test_light_comes_from_above() -> None:
    images = render("clear", 400).astype(np.float64)
    difference = images[:, :32].mean(axis=(1, 2)) - images[:, 32:].mean(axis=(1, 2))
    assert difference.mean() > 5 and (difference > 0).mean() > 0.9


def test_without_light_strength_there_is_no_direction() -> None:
    for p in draw("clear", 400)[:6]:
        flat = dataclasses.replace(p, light_strength=0.0)
        turned = dataclasses.replace(flat, light_deg=flat.light_deg + 130.0)
        assert np.array_equal(phantoms.render_phantom(flat, size_px=64), phantoms.render_phantom(turned, size_px=64))
    no_well = [dataclasses.replace(p, light_strength=0.0, has_well=0) for p in draw("clear", 400)[:40]]
    images = np.stack([phantoms.render_phantom(p, size_px=64) for p in no_well]).astype(np.float64)
    assert abs(images[:, :32].mean() - images[:, 32:].mean()) < 1.5


def test_exposure_sets_the_mean_level_and_noise_leaves_it() -> None:
    for p in draw("clear", 400)[:10]:
        clean = phantoms.render_phantom(p, size_px=64, noise=False).astype(np.float64)
        assert clean.mean() == pytest.approx(p.mean_level, abs=0.5)
        noisy = phantoms.render_phantom(p, size_px=64).astype(np.float64)
        assert 0.8 < (noisy - clean).std() < 4.0
        assert abs((noisy - clean).mean()) < 0.3


def test_no_area_is_perfectly_flat_and_little_is_clipped() -> None:
    images = render("clear", 400)
    blocks = images.reshape(len(images), 8, 8, 8, 8).astype(np.float64)
    assert (blocks.std(axis=(2, 4)) > 0).all()
    assert ((images == 0) | (images == 255)).mean() < 0.005


def test_a_larger_defocus_blurs() -> None:
    p = dataclasses.replace(draw("clear", 400)[1], focus_um=0.0)
    sharpness = [
        np.var(cv2.Laplacian(phantoms.render_phantom(q, size_px=128, noise=False).astype(np.float64), cv2.CV_64F))
        for q in (p, dataclasses.replace(p, focus_um=4.0), dataclasses.replace(p, focus_um=8.0))
    ]
    assert sharpness[0] > sharpness[1] > sharpness[2]


def test_scores_map_one_to_one_onto_physical_ranges() -> None:
    for name, (low, high) in phantoms._RANGES.items():
        for score in np.linspace(-6, 6, 13):
            value = phantoms._from_score(name, float(score))
            assert low < value < high
            assert phantoms._to_score(name, value) == pytest.approx(score, abs=1e-9)
    effects = np.array(list(phantoms._EFFECTS["faint"].values()))
    assert phantoms.bayes_rate("faint").balanced_accuracy == pytest.approx(ndtr(np.linalg.norm(effects) / 2))


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="difficulty must be one of clear, faint, shuffled, found 'hard'"):
        phantoms.draw_parameters(seed=SEED, index=0, difficulty="hard")
    with pytest.raises(ValueError, match="difficulty must be one of"):
        phantoms.bayes_rate("hard")
    with pytest.raises(ValueError, match="seed and index must be 0 or more"):
        phantoms.draw_parameters(seed=SEED, index=-1, difficulty="clear")
    with pytest.raises(ValueError, match="size_px must be 16 or more, found 8"):
        phantoms.render_phantom(draw("clear", 400)[0], size_px=8)
