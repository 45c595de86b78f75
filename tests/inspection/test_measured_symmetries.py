"""Measured symmetries: phantoms lit from one side, copies of them turned at random, and a set of real images."""

import csv
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from config.errors import UserError
from config.schema import SYMMETRIES
from dataset.images import from_uint8, load_image
from dataset.symmetries import apply_symmetry
from tools.inspection.symmetries import MIN_GROUPS, compose, format_measurement, measure_symmetries
from tools.make_phantoms.phantoms import draw_parameters, render_phantom


@cache
def draw_phantoms(seed: int, count: int = 112) -> tuple[np.ndarray, tuple[str, ...]]:
    drawn = [draw_parameters(seed=seed, index=index, difficulty="clear") for index in range(count)]
    pixels = np.stack([from_uint8(render_phantom(p, size_px=32))[None] for p in drawn])
    return pixels, tuple(str(p.patient) for p in drawn)


def turn_each(images: np.ndarray, names: Sequence[str], seed: int) -> np.ndarray:
    """Each image turned by one of `names` at random."""
    chosen = np.random.default_rng(seed).integers(len(names), size=len(images))
    return np.stack([apply_symmetry(torch.from_numpy(image), names[number]).numpy()
                     for image, number in zip(images, chosen, strict=True)])


@pytest.mark.parametrize("seed", range(3))
def test_light_from_above_leaves_the_mirror_only(seed: int) -> None:
    images, groups = draw_phantoms(seed)
    measured = measure_symmetries(images, groups=groups)
    assert measured.recommended == ("identity", "mirror")
    effects = {test.name: test.effect for test in measured.tests}
    assert min(effect for name, effect in effects.items() if name != "mirror") > 3 * effects["mirror"]


@pytest.mark.parametrize("seed", range(3))
def test_images_turned_at_random_obey_all_eight(seed: int) -> None:
    images, groups = draw_phantoms(seed)
    assert measure_symmetries(turn_each(images, SYMMETRIES, seed), groups=groups).recommended == SYMMETRIES


@pytest.mark.parametrize("name", SYMMETRIES[1:])
def test_the_axis_of_the_light_is_followed(name: str) -> None:
    """Phantoms obey the mirror, so phantoms turned by g obey g after the mirror after the inverse of g."""
    images, groups = draw_phantoms(0)
    turned = turn_each(images, [name], 0)
    inverse = next(other for other in SYMMETRIES if compose(name, other) == "identity")
    expected = compose(compose(inverse, "mirror"), name)
    assert measure_symmetries(turned, groups=groups).recommended == ("identity", expected)


def test_half_turned_sets_obey_the_four_of_a_rectangle() -> None:
    images, groups = draw_phantoms(1)
    measured = measure_symmetries(turn_each(images, ("identity", "rotate_180"), 1), groups=groups)
    assert set(measured.recommended) == {"identity", "mirror", "flip", "rotate_180"}


def test_p_values_are_uniform_enough_where_all_is_obeyed() -> None:
    """The level holds with images of a patient alike: whole patients are turned, and 8 images each are no evidence."""
    p_values = []
    for seed in range(24):
        rng = np.random.default_rng(seed)
        shared = np.repeat(rng.standard_normal((12, 1, 16, 16)), 8, axis=0)
        images = (shared + 0.1 * rng.standard_normal(shared.shape)).astype(np.float32)
        groups = [str(number // 8) for number in range(len(images))]
        p_values += [test.p_value for test in measure_symmetries(images, groups=groups).tests]
        alone = measure_symmetries(images, groups=[str(number) for number in range(len(images))])
        assert any(test.broken for test in alone.tests), "as 96 images of their own, 12 accidents look like a law"
    assert np.mean(np.array(p_values) < 0.05) < 0.12
    assert 0.35 < np.mean(p_values) < 0.65


def test_large_sets_do_not_break_on_trifles() -> None:
    rng = np.random.default_rng(0)
    images = rng.standard_normal((2000, 1, 16, 16)).astype(np.float32)
    slope = np.linspace(-1, 1, 16, dtype=np.float32)
    groups = [str(number) for number in range(len(images))]
    trifle = measure_symmetries(images + 0.01 * slope, groups=groups)
    assert trifle.recommended == SYMMETRIES
    mirror = next(test for test in trifle.tests if test.name == "mirror")
    assert mirror.p_value < 0.01 and mirror.statistic == "brightness slope left to right"
    plain = measure_symmetries(images + 0.1 * slope, groups=groups)
    assert plain.recommended == ("identity", "flip")


def test_few_groups_are_not_tested() -> None:
    images, groups = draw_phantoms(0)
    kept = np.isin(groups, sorted(set(groups))[:MIN_GROUPS - 1])
    measured = measure_symmetries(images[kept], groups=np.array(groups)[kept])
    assert measured.recommended == ("identity",)
    assert not measured.decided and "7 groups are too few" in measured.note


def test_contrast_exposure_and_size_do_not_matter() -> None:
    images, groups = draw_phantoms(2)
    gains = np.random.default_rng(0).uniform(0.5, 0.9, size=(len(images), 1, 1, 1))
    plain = measure_symmetries(images, groups=groups)
    exposed = measure_symmetries(images * gains + 0.1, groups=groups)
    assert [test.effect for test in exposed.tests] == pytest.approx([test.effect for test in plain.tests], rel=1e-6)
    large = measure_symmetries(images.repeat(5, axis=-1).repeat(5, axis=-2), groups=groups)
    assert large.recommended == plain.recommended


def test_equal_images_are_obeyed_without_a_number_breaking() -> None:
    flat = np.zeros((10, 1, 16, 16), dtype=np.float32)
    measured = measure_symmetries(flat, groups=[str(number) for number in range(10)])
    assert measured.recommended == SYMMETRIES and all(test.effect == 0 for test in measured.tests)


def test_the_recommended_line_is_one_that_the_config_takes() -> None:
    images, groups = draw_phantoms(0)
    assert "  symmetries: [identity, mirror]" in format_measurement(measure_symmetries(images, groups=groups)).splitlines()


def test_refusals() -> None:
    images, groups = draw_phantoms(0)
    with pytest.raises(UserError, match="one group for each of 112 images"):
        measure_symmetries(images, groups=groups[:-1])
    with pytest.raises(ValueError, match="square images"):
        measure_symmetries(images[..., :-1], groups=groups)


def test_embryos_under_a_microscope_allow_the_mirror_only(shared: Path) -> None:
    """STORK: the frame's top is the brighter half in 98 of 98 images."""
    with (shared / "data/stork/annotations.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    images = np.stack([
        load_image(shared / "data/stork/images" / f"{row['IMAGE_NAME']}.jpg", im_channels=1, size_px=128, fit="pad")
        for row in rows
    ])
    measured = measure_symmetries(images, groups=[row["EMBRYO_ID"] for row in rows])
    assert measured.num_groups == 14
    assert "with 14 groups a break smaller than 1.2 standard deviations can go unnoticed" in format_measurement(measured)
    assert measured.recommended == ("identity", "mirror")
