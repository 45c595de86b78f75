"""Measuring oocytes: phantoms' truth, direction, invariance, and what is not measured."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from tools.evaluation.morphometry import ABSTENTIONS, BOUNDARIES, Abstention, Ellipse, Measurement, measure_oocyte
from tools.evaluation.morphometry_pictures import draw_overlay
from tools.make_phantoms.phantoms import FIELD_UM, PhantomParameters, draw_parameters, render_phantom

SEED = 90
IN_FOCUS_UM = 4.0  # |focus_um|: about four phantoms in five


def in_focus(count: int) -> list[PhantomParameters]:
    drawn = (draw_parameters(seed=SEED, index=index, difficulty="clear") for index in range(1000))
    chosen = [p for p in drawn if abs(p.focus_um) <= IN_FOCUS_UM]
    return chosen[:count]


def measure(image: np.ndarray) -> Measurement:
    result = measure_oocyte(image)
    assert isinstance(result, Measurement), result
    return result


@pytest.fixture(scope="module")
def phantom() -> PhantomParameters:
    return replace(in_focus(1)[0], has_well=0, num_debris=2, focus_um=-1.0)


@pytest.fixture(scope="module")
def image(phantom: PhantomParameters) -> np.ndarray:
    return render_phantom(phantom, size_px=256)


@pytest.fixture(scope="module")
def measurement(image: np.ndarray) -> Measurement:
    return measure(image)


def test_the_truth_of_phantoms_of_512_pixels() -> None:
    size_px, measured, right = 512, 0, 0
    sample = in_focus(14)
    for p in sample:
        result = measure_oocyte(render_phantom(p, size_px=size_px))
        if isinstance(result, Abstention):
            continue
        measured += 1
        um_per_px = FIELD_UM / size_px
        found = result.values(um_per_px)
        outer, inner = 2 * p.outer_radius_um, 2 * (p.outer_radius_um - p.zona_um)
        right += (abs(found["outer_diameter"] / outer - 1) < 0.03 and abs(found["inner_diameter"] / inner - 1) < 0.03
                  and abs(found["zona_thickness"] - p.zona_um) < max(0.1 * p.zona_um, 1.5 * um_per_px))
    assert measured >= 0.9 * len(sample)
    assert right >= 0.95 * measured - 1  # one in a sample this small


def test_the_three_boundaries_are_where_the_phantom_has_them(phantom: PhantomParameters, measurement: Measurement) -> None:
    per_um = 256 / FIELD_UM
    place = (phantom.centre_x_um * per_um + 127.5, 127.5 - phantom.centre_y_um * per_um)
    radii = (phantom.outer_radius_um, phantom.outer_radius_um - phantom.zona_um,
             phantom.outer_radius_um - phantom.zona_um - phantom.pvs_um)
    for name, radius_um in zip(BOUNDARIES, radii, strict=True):
        ellipse = measurement.ellipses[name]
        assert np.hypot(ellipse.x - place[0], ellipse.y - place[1]) < 2.5
        assert ellipse.diameter == pytest.approx(2 * radius_um * per_um, rel=0.03)
    assert measurement.perivitelline_space == pytest.approx(phantom.pvs_um * per_um, abs=1.5)


@pytest.mark.parametrize(
    ("change", "measure_name", "sign"),
    [({"outer_radius_um": 79.0}, "outer_diameter", 1), ({"zona_um": 19.5}, "zona_thickness", 1),
     ({"pvs_um": 14.5}, "perivitelline_space", 1), ({"granularity": 1.2, "core_granularity": 0.9}, "granularity", 1),
     ({"mean_level": 90.0}, "mean_intensity", -1)],
)
def test_what_grows_in_the_phantom_grows_in_the_measure(
    phantom: PhantomParameters, change: dict[str, float], measure_name: str, sign: int
) -> None:
    plain = replace(phantom, outer_radius_um=74.0, zona_um=14.0, pvs_um=6.0, granularity=0.5, core_granularity=0.1,
                    mean_level=112.0)
    values = [measure(render_phantom(p, size_px=192)).values()[measure_name] for p in (plain, replace(plain, **change))]
    assert sign * (values[1] - values[0]) > 0.03 * values[0]


def test_a_mirrored_and_a_turned_image_give_the_same_measures(image: np.ndarray, measurement: Measurement) -> None:
    for other in (image[:, ::-1], np.rot90(image)):
        again = measure(np.ascontiguousarray(other)).values()
        for name, value in measurement.values().items():
            assert again[name] == pytest.approx(value, rel=0.03 if "perivitelline" not in name else 0.1), name


def test_types_channels_and_units(image: np.ndarray, measurement: Measurement) -> None:
    for same in (image / 255.0, np.repeat(image[..., None], 3, axis=2)):
        assert measure(same).values() == pytest.approx(measurement.values(), rel=1e-5)
    in_um = measurement.values(0.5)
    assert in_um["zona_thickness"] == measurement.zona_thickness / 2
    assert in_um["granularity"] == measurement.granularity
    with pytest.raises(TypeError, match="expected uint8 or float"):
        measure_oocyte(image.astype(np.int32))
    with pytest.raises(ValueError, match="finite"):
        measure_oocyte(np.full((64, 64), np.nan))


def test_an_ellipse_against_its_own_equation() -> None:
    ellipse = Ellipse(x=10.0, y=20.0, semi_major=8.0, semi_minor=5.0, rotation_deg=30.0)
    points = ellipse.outline(100)
    angles = np.arctan2(points[:, 1] - 21.0, points[:, 0] - 9.0)
    np.testing.assert_allclose(ellipse.radius(angles, x=9.0, y=21.0), np.hypot(points[:, 0] - 9.0, points[:, 1] - 21.0))
    assert np.pi * ellipse.diameter**2 / 4 == pytest.approx(cv2.contourArea(points.astype(np.float32)), rel=2e-3)


def reason_of(image: np.ndarray) -> str:
    result = measure_oocyte(image)
    assert isinstance(result, Abstention), "measured"
    assert result.reason in ABSTENTIONS and result.detail
    return result.reason


def test_what_is_not_measured(phantom: PhantomParameters, image: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    assert reason_of(np.full((256, 256), 120, np.uint8)) == "no_oocyte"
    assert reason_of(rng.integers(0, 255, (256, 256), dtype=np.uint8)) == "no_oocyte"
    ramp = np.tile(np.linspace(20, 220, 256).astype(np.uint8), (256, 1))
    assert reason_of(ramp) == "no_oocyte"
    assert reason_of(render_phantom(phantom, size_px=64)) == "too_small"
    assert reason_of(image[:16, :16]) == "too_small"
    beside = render_phantom(replace(phantom, index=phantom.index + 1), size_px=256)
    assert reason_of(np.concatenate([image, beside], axis=1)) == "several_candidates"
    assert reason_of(render_phantom(replace(phantom, centre_x_um=32.0), size_px=256)) in ("touches_frame", "no_oocyte")
    noisy = 118 + 0.06 * (image - 118.0) + 12 * rng.standard_normal(image.shape)
    assert reason_of(np.clip(noisy, 0, 255).astype(np.uint8)) in ("no_oocyte", "low_contrast")


def test_real_blastocysts_are_not_measured_as_oocytes(shared: Path) -> None:
    paths = sorted((shared / "data/stork/images").iterdir())[::12]
    results = [measure_oocyte(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)) for path in paths]
    assert len(results) > 5 and all(isinstance(result, Abstention) for result in results)


def test_the_overlay_draws_boundaries_or_the_reason(image: np.ndarray, measurement: Measurement) -> None:
    plain = np.repeat(cv2.resize(image, (320, 320), interpolation=cv2.INTER_CUBIC)[..., None], 3, axis=2)
    drawn = draw_overlay(image, measurement)
    assert drawn.shape == (320, 320, 3) and drawn.dtype == np.uint8
    changed = np.argwhere((drawn != plain).any(axis=2))
    ellipse, factor = measurement.ellipses["outer"], 320 / 256
    far = np.hypot(changed[:, 1] - ellipse.x * factor, changed[:, 0] - ellipse.y * factor)
    assert len(changed) > 1000 and far.max() == pytest.approx(ellipse.semi_major * factor, abs=4)
    written = draw_overlay(image, Abstention("no_oocyte", "nothing"))
    assert (written[:20] != plain[:20]).any() and (written[100:] == plain[100:]).all()
