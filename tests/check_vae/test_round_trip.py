"""What a round trip costs: closed forms, direction, and the rule that says when a VAE is not good enough."""

import dataclasses

import cv2
import numpy as np
import pytest

from tools.check_vae.round_trip import (
    Ceiling,
    VaeCost,
    VaeMeasurement,
    choose,
    format_table,
    measure_round_trip,
    octave_ratios,
    shorten_names,
)
from tools.inspection.readout import GroupedLabels


def draw_noise(count: int = 24, size: int = 64, seed: int = 0) -> np.ndarray:
    return (0.2 * np.random.default_rng(seed).standard_normal((count, 1, size, size))).astype(np.float32)


def blur(images: np.ndarray, sigma: float) -> np.ndarray:
    return np.stack([cv2.GaussianBlur(image[0], (0, 0), sigma)[None] for image in images])


def measure(real: np.ndarray, restored: np.ndarray, name: str = "vae", scores: tuple | None = None) -> VaeMeasurement:
    labels, groups = np.arange(len(real)) % 2, [str(number // 2) for number in range(len(real))]
    return measure_round_trip(name, real, restored, grouped=GroupedLabels(labels, groups, seed=0), scores=scores, lpips=None)


def test_a_perfect_round_trip_changes_no_octave() -> None:
    images = draw_noise()
    measured = measure(images, images)
    assert measured.psnr_db > 100 and measured.problems == () and measured.worst_octave == 0
    assert list(measured.spectrum) == ["2-4 px", "4-8 px", "8-16 px", "16-32 px"]
    assert set(measured.spectrum.values()) == {1.0}


def test_psnr_of_a_constant_error_and_power_of_a_gain_are_closed_forms() -> None:
    images = draw_noise()
    assert measure(images, images + np.float32(0.02)).psnr_db == pytest.approx(40.0, abs=1e-3)
    assert list(octave_ratios(images, 0.5 * images).values()) == pytest.approx([0.25] * 4)


def test_a_blur_takes_what_its_transfer_function_says() -> None:
    """A Gaussian of sigma s multiplies the power at frequency f by exp(-4 pi^2 s^2 f^2)."""
    images = draw_noise(count=64)
    ratios = list(octave_ratios(images, blur(images, 1.5)).values())
    bounds = [np.exp(-((2 * np.pi * 1.5 * frequency) ** 2)) for frequency in (1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32)]
    for ratio, low, high in zip(ratios, bounds, bounds[1:], strict=False):
        assert low * 0.7 < ratio < high * 1.1
    assert ratios == sorted(ratios)


def test_lost_texture_is_held_against_a_vae_but_not_lost_noise() -> None:
    images = draw_noise()
    noise_only = measure(images, blur(images, 0.5))
    assert noise_only.spectrum["2-4 px"] < 0.6 and noise_only.problems == ()
    texture = measure(images, blur(images, 2.0))
    assert any("of the power at 4-8 px" in problem for problem in texture.problems)
    invented = measure(blur(images, 2.0), images)
    assert any("4-8 px" in problem for problem in invented.problems)


def test_a_lost_class_is_held_against_a_vae_and_an_invisible_one_is_not() -> None:
    images, rng = draw_noise(count=200), np.random.default_rng(0)
    labels = np.arange(200) % 2
    noise = rng.standard_normal(200)

    def as_scores(values: np.ndarray) -> np.ndarray:
        return np.stack([np.zeros(200), values], axis=1)

    visible, blind = as_scores(2.0 * labels + noise), as_scores(rng.standard_normal(200))
    kept = measure(images, images, scores=(visible, visible))
    assert kept.problems == () and kept.auc_loss.value == 0 and kept.auc_loss.error == 0
    lost = measure(images, images, scores=(visible, blind))
    assert lost.auc_loss.low > 0.25 and "of the class AUC" in lost.problems[0]
    assert measure(images, images, scores=(blind, as_scores(rng.standard_normal(200)))).problems == ()
    # Paired: the loss between two readings of the same images is known better than either reading.
    near = measure(images, images, scores=(visible, as_scores(2.0 * labels + noise + 0.1 * rng.standard_normal(200))))
    assert near.auc_loss.high - near.auc_loss.low < 0.5 * (near.auc_real.high - near.auc_real.low)


def test_the_better_vae_is_chosen_and_the_table_names_what_is_wrong() -> None:
    images = draw_noise()
    sharp, soft = measure(images, blur(images, 0.5), "sharp"), measure(images, blur(images, 2.0), "soft")
    assert choose([soft, sharp]) is sharp and choose([soft]) is soft
    table = format_table([soft, sharp])
    assert "soft: keeps" in table and "sharp: keeps" not in table and "not read" in table
    assert soft.to_json()["good_enough"] is False and sharp.to_json()["good_enough"] is True


def test_of_good_vaes_the_one_whose_images_lie_nearest_as_a_set_is_chosen() -> None:
    images, rng = draw_noise(), np.random.default_rng(0)
    features = rng.standard_normal((60, 4))
    near, far = Ceiling.between(features, features), Ceiling.between(features, features + 3)
    assert near.frechet_distance == pytest.approx(0, abs=1e-9) and (near.precision, near.recall) == (1, 1)
    assert far.frechet_distance == pytest.approx(4 * 3**2) and far.recall < near.recall
    exact = dataclasses.replace(measure(images, images, "exact"), ceiling=far)
    other = dataclasses.replace(measure(images, blur(images, 0.5), "other"), ceiling=near)
    assert choose([exact, other]) is other
    seen = dataclasses.replace(other, distances={"squeezenet1_1": 1.5, "untrained_conv": 9.0})
    even = dataclasses.replace(exact, distances={"squeezenet1_1": 3.0, "untrained_conv": 2.0})
    assert choose([seen, even]) is even  # the least favourable features decide, not the first
    assert "exact: FD 3.0 (by SqueezeNet features), 2.0 (by untrained_conv features) times" in format_table([even])
    cost = VaeCost(num_parameters=650_000, latent_shape=(8, 16, 16), milliseconds=4.2, training_seconds=90)
    exact = dataclasses.replace(exact, cost=cost)
    header, row, costless = format_table([exact, other]).splitlines()[:3]
    assert row.split()[:5] == ["exact", "0.65", "8x16x16", "1.5", "4.2"] and costless.split()[1] == f"{other.psnr_db:.2f}"
    assert row.index("4.2") + 3 == header.index("ms") + 2  # columns are right-aligned
    assert "36.0" in format_table([exact, other]) and other.to_json()["ceiling"]["recall"] == 1


def test_vaes_are_called_by_the_ends_of_their_paths_in_rows_that_fit_a_terminal() -> None:
    assert shorten_names(["/weights/taesd3", "runs/my_vae", "madebyollin/taesd"]) == ["taesd3", "my_vae", "taesd"]
    assert shorten_names(["/a/one/vae", "/a/two/vae/", "other"]) == ["one/vae", "two/vae", "other"]
    assert shorten_names(["/a/vae", "/a/vae"]) == ["/a/vae", "/a/vae"]
    images = draw_noise(size=128)
    shapes = {"/weights/of/others/taesd3": (16, 16, 16), "runs/my_vae": (4, 16, 16)}
    cost = {name: VaeCost(2_460_000, shape, 30.0, None) for name, shape in shapes.items()}
    measured = [dataclasses.replace(measure(images, blur(images, 2.0), name), cost=cost[name],
                                    ceiling=Ceiling(12.3, 0.9, 0.8)) for name in cost]
    lines = format_table(measured).splitlines()
    assert [line.split()[0] for line in lines if "x16" in line] == ["taesd3", "my_vae"]
    assert [line.split()[2] for line in lines if "x16" in line] == ["16x16x16", "4x16x16"]
    tables = [line for line in lines if not line.startswith(("rule:", "taesd3: ", "my_vae: "))]
    assert max(map(len, tables)) <= 120 and len({len(line) for line in lines[:3]}) == 1
    assert "taesd3: keeps" in format_table(measured) and "/weights" not in format_table(measured)
