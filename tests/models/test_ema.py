"""The moving average: its warm-up formula, its limits, and that it is restored exactly."""

import pytest
import torch
from torch import nn

from models.ema import ExponentialMovingAverage, power_of_length


def linear(value: float) -> nn.Linear:
    module = nn.Linear(2, 2)
    set_to(module, value)
    return module


def set_to(module: nn.Module, value: float) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(value)


@pytest.mark.parametrize("decay", [0.5, 0.9995])
def test_average_follows_the_warm_up_formula(decay: float) -> None:
    module = linear(0.0)
    ema = ExponentialMovingAverage(module, decay)
    expected = 0.0
    for n in range(1, 60):
        set_to(module, float(n))
        ema.update(module)
        at_n = min(decay, (1 + n) / (10 + n))
        expected = at_n * expected + (1 - at_n) * n
        for value in ema.state_dict().values():
            torch.testing.assert_close(value, torch.full_like(value, expected), rtol=1e-5, atol=0)
    assert ema.num_updates == 59


def test_a_decay_of_zero_is_the_weights_themselves() -> None:
    module = nn.Linear(3, 4)
    ema = ExponentialMovingAverage(module, 0.0)
    nn.init.normal_(module.weight)
    ema.update(module)
    assert torch.equal(ema.state_dict()["weight"], module.weight) and torch.equal(ema.state_dict()["bias"], module.bias)


def test_average_is_a_copy_without_gradients() -> None:
    module = linear(1.0)
    ema = ExponentialMovingAverage(module, 0.9)
    set_to(module, 5.0)
    assert all(not value.requires_grad and bool((value == 1).all()) for value in ema.state_dict().values())
    ema.update(module)
    assert all(bool((parameter == 5).all()) for parameter in module.parameters())


def test_restored_average_goes_on_as_if_never_stored() -> None:
    module = linear(0.0)
    whole = ExponentialMovingAverage(module, 0.9)
    for n in range(4):
        set_to(module, float(n))
        whole.update(module)
    stored = {name: value.clone() for name, value in whole.state_dict().items()}
    restored = ExponentialMovingAverage(linear(7.0), 0.9)
    restored.load_state_dict(stored, whole.num_updates)
    for ema in (whole, restored):
        ema.update(linear(11.0))
    assert all(torch.equal(whole.state_dict()[name], restored.state_dict()[name]) for name in stored)
    with pytest.raises(ValueError, match="other parameters than the network"):
        restored.load_state_dict({"weight": stored["weight"]}, 1)


@pytest.mark.parametrize("length", [0.05, 0.1, 0.25])
def test_a_relative_length_weighs_updates_by_a_power_whose_width_is_that_length(length: float) -> None:
    """Of weights that are the number of their update, the average is n (g + 1) / (g + 2), and of its squares n^2 (g + 1) /
    (g + 3): their difference is the width."""
    gamma, count = power_of_length(length), 4000
    averages = []
    for power in (1, 2):
        module = linear(99.0).double()  # forgotten at the first update
        ema = ExponentialMovingAverage(module, 0.9, length)
        for n in range(1, count + 1):
            set_to(module, float(n) ** power)
            ema.update(module)
        averages.append(float(ema.state_dict()["bias"][0]))
    assert averages[0] / count == pytest.approx((gamma + 1) / (gamma + 2), rel=2e-3)
    assert (averages[1] - averages[0] ** 2) ** 0.5 / count == pytest.approx(length, rel=1e-2)
