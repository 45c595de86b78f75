"""What a choice goes by: the least favourable features, on a scale without units, and never in-domain ones."""

from typing import Any

import numpy as np
import pytest

from tools.evaluation.selection import ABOVE_REAL, measure_excess

REAL, FLOOR, WIDTH = 0.3, -0.2, 0.5  # the distance of real images, the same through the VAE, the interval of the former


def rows(encoder: str, made: float, *, unit: float = 1.0, interval: bool = True) -> list[dict[str, Any]]:
    """The rows of one encoder, all distances in this unit."""
    values = {"total": made, "model_gap": made - 0.1, "real_real": REAL, "floor": FLOOR}
    metric = "KID" if encoder == "inception" else f"KD[{encoder}@0123abcd,p]"
    return [{"metric": metric, "class": "all", "comparison": name, "value": unit * value,
             "interval": [unit * (value - 0.2), unit * (value - 0.2 + WIDTH)] if interval else None}
            for name, value in values.items()]


def test_it_is_the_distance_above_real_images_in_widths_of_their_interval() -> None:
    found = measure_excess(rows("untrained_conv", 2.0), "total")["untrained_conv"]
    assert found.value == pytest.approx((2.0 - REAL) / WIDTH)
    assert found.interval == pytest.approx(((1.8 - REAL) / WIDTH, (2.3 - REAL) / WIDTH))
    through = measure_excess(rows("untrained_conv", 2.0), "model_gap")["untrained_conv"]
    assert through.value == pytest.approx((1.9 - FLOOR) / WIDTH)
    assert set(ABOVE_REAL) == {"total", "model_gap"}


@pytest.mark.parametrize("comparison", list(ABOVE_REAL))
def test_units_of_an_encoder_change_nothing_and_one_kind_alone_ranks_as_its_distance(comparison: str) -> None:
    made = np.random.default_rng(0).normal(3, 2, size=12)  # some nearer than real images
    plain, scaled = ([measure_excess(rows("squeezenet1_1", value, unit=unit), comparison)["squeezenet1_1"].value
                      for value in made] for unit in (1.0, 1e4))
    np.testing.assert_allclose(scaled, plain, rtol=1e-9)
    assert np.argsort(plain).tolist() == np.argsort(made).tolist()


def test_published_and_untrained_features_take_part_and_in_domain_ones_do_not() -> None:
    mixed = [*rows("classifier", 9.0), *rows("untrained_conv", 1.0), *rows("vae", 9.0), *rows("inception", 2.0)]
    assert set(measure_excess(mixed, "total")) == {"untrained_conv", "inception"}
    assert measure_excess(rows("classifier", 9.0), "total") == {}
    gone = [row | {"value": None} for row in rows("squeezenet1_1", 1.0)]
    assert set(measure_excess([*gone, *rows("untrained_conv", 1.0)], "total")) == {"untrained_conv"}


def test_without_an_interval_of_real_images_the_first_features_decide_alone_by_their_distance() -> None:
    bare = [*rows("squeezenet1_1", 2.0, interval=False), *rows("untrained_conv", 1.0, interval=False)]
    found = measure_excess([*rows("classifier", 9.0), *bare], "total")
    assert list(found) == ["squeezenet1_1"] and found["squeezenet1_1"].value == pytest.approx(2.0 - REAL)
    one = [*rows("squeezenet1_1", 2.0, interval=False), *rows("untrained_conv", 1.0)]
    assert list(measure_excess(one, "total")) == ["untrained_conv"]  # the other has no scale to be weighed on
