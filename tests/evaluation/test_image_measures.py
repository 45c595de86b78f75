"""Measures of single images against closed forms."""

import cv2
import numpy as np
import pytest

from tools.evaluation.image_measures import SHORTEST_OCTAVE, edge_disorder, measure_images, octave_powers
from tools.evaluation.references import blur


def test_white_noise_has_the_power_of_the_bins_of_each_octave() -> None:
    noise = np.random.default_rng(0).normal(0, 10, size=(400, 64, 64)).astype(np.float32)
    powers = {name: values.mean() for name, values in octave_powers(noise).items()}
    ticks = np.fft.fftfreq(64)
    radial = np.hypot(ticks[:, None], ticks[None, :])
    bins = {"2-4 px": radial > 1 / 4, "4-8 px": (radial <= 1 / 4) & (radial > 1 / 8),
            "8-16 px": (radial <= 1 / 8) & (radial > 1 / 16), "16-32 px": (radial <= 1 / 16) & (radial > 1 / 32)}
    assert list(powers) == list(bins)
    for name, inside in bins.items():
        assert powers[name] == pytest.approx(100 * inside.mean(), rel=0.06)


@pytest.mark.parametrize(("wavelength", "octave"), [(3, "2-4 px"), (6, "4-8 px"), (12, "8-16 px"), (24, "16-32 px")])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_sinusoid_has_half_its_squared_amplitude_in_its_octave(wavelength: int, octave: str, axis: int) -> None:
    wave = 20 * np.sin(2 * np.pi * np.mgrid[:256, :256][axis] / wavelength)
    powers = {name: float(values[0]) for name, values in octave_powers(wave[None].astype(np.float32)).items()}
    assert powers[octave] == pytest.approx(200, rel=0.02)
    assert sum(powers.values()) == pytest.approx(200, rel=0.02)


def test_a_checkerboard_is_in_the_shortest_octave_and_a_ramp_is_not() -> None:
    board = 10.0 * (-1) ** np.mgrid[:64, :64].sum(axis=0)
    ramp = np.broadcast_to(np.linspace(0, 255, 64), (64, 64))
    of_board, of_ramp = (octave_powers(image[None].astype(np.float32))[SHORTEST_OCTAVE][0] for image in (board, ramp))
    assert of_board == pytest.approx(100, rel=1e-3)
    assert of_ramp < 0.01  # the step between its opposite borders is not seen


def test_blur_lowers_the_shortest_octave_first() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, size=(20, 64, 64, 1), dtype=np.uint8)
    before, after = measure_images(pixels), measure_images(blur(pixels))
    kept = [float((after.grain[name] / before.grain[name]).mean()) for name in before.grain]
    assert kept == sorted(kept) and kept[0] < 0.05 and kept[-1] > 0.9
    assert (after.focus < before.focus).all()


def test_brightness_contrast_and_tint_are_those_of_known_images() -> None:
    gray = np.zeros((1, 16, 16, 3), dtype=np.uint8)
    gray[:, :, 8:] = 200
    found = measure_images(gray)
    assert (found.brightness[0], found.contrast[0]) == pytest.approx((100, 100), rel=1e-5)
    assert found.saturated[0] == 0.5
    assert np.abs([values[0] for values in found.colour.values()]).max() < 0.1
    red = np.zeros((1, 16, 16, 3), dtype=np.uint8)
    red[..., 0] = 255
    assert [values[0] for values in measure_images(red).colour.values()] == pytest.approx([80.1, 67.2, 0], abs=0.1)
    assert measure_images(red[..., :1]).colour == {}


def test_straight_edges_are_in_order_and_noise_is_not() -> None:
    ramp = np.broadcast_to(np.linspace(0, 200, 64, dtype=np.float32), (64, 64)).copy()
    noise = np.random.default_rng(0).normal(0, 30, size=(64, 64)).astype(np.float32)
    y, x = np.mgrid[:64, :64] - 31.5
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    disc, dented = (100 * (radius < edge).astype(np.float32) for edge in (20.0, 20 + 2.5 * np.sin(9 * angle)))
    disorder = [edge_disorder(image) for image in (ramp, disc, dented, noise)]
    assert disorder[0] < 1e-3 and disorder == sorted(disorder)
    assert disorder[2] > 1.5 * disorder[1] and disorder[3] > 0.4
    larger = cv2.resize(disc, (256, 256), interpolation=cv2.INTER_NEAREST)
    assert edge_disorder(larger) == pytest.approx(disorder[1], rel=1e-5)
    assert edge_disorder(np.full((16, 16), 5, dtype=np.float32)) == 0


def test_a_flat_image_has_no_power_and_no_focus() -> None:
    found = measure_images(np.full((1, 32, 32, 1), 77, dtype=np.uint8))
    assert found.contrast[0] == found.focus[0] == 0
    assert all(values[0] < 1e-6 for values in found.grain.values())
