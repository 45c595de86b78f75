"""The convolution whose weights' gradient is nine matrix products, against torch's own."""

import copy

import pytest
import torch
from torch import nn

from models.convolution import Convolution3x3, _weight_gradient


@pytest.fixture(scope="module")
def large() -> tuple[Convolution3x3, nn.Conv2d, torch.Tensor]:
    """A layer that is large enough for products, torch's with the same weights, and an input of two uneven maps."""
    torch.manual_seed(0)
    ours, theirs = Convolution3x3(128, 130), nn.Conv2d(128, 130, 3, padding=1)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs, torch.randn(2, 128, 40, 33)


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_outputs_are_torchs_and_gradients_differ_by_rounding(
    large: tuple[Convolution3x3, nn.Conv2d, torch.Tensor], memory_format: torch.memory_format
) -> None:
    results = []
    for module in large[:2]:
        module = copy.deepcopy(module).to(memory_format=memory_format)
        x = large[2].clone().contiguous(memory_format=memory_format).requires_grad_()
        output = module(x)
        output.backward(torch.linspace(-1, 1, output.numel()).view_as(output))
        results.append((output, x.grad, module.weight.grad, module.bias.grad))
    for ours, theirs in zip(*results, strict=True):
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def test_products_give_the_weights_gradient_exactly() -> None:
    x, grad = torch.randn(3, 4, 5, 7, dtype=torch.float64), torch.randn(3, 2, 5, 7, dtype=torch.float64)
    expected = torch.nn.grad.conv2d_weight(x, (2, 4, 3, 3), grad, padding=1)
    torch.testing.assert_close(_weight_gradient(x, grad), expected, rtol=0, atol=1e-12)


def test_products_are_for_large_maps_in_float32_that_are_trained(
    large: tuple[Convolution3x3, nn.Conv2d, torch.Tensor]
) -> None:
    module, _, x = large

    def by_products(output: torch.Tensor) -> bool:
        return "ByProducts" in type(output.grad_fn).__name__

    assert by_products(module(x))
    assert not by_products(module(x[:, :, :31]))
    assert not by_products(Convolution3x3(128, 127)(x))
    assert not by_products(copy.deepcopy(module).double()(x.double()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not by_products(module(x))
    with torch.no_grad():
        assert module(x).grad_fn is None


def test_an_input_that_needs_no_gradient_gets_none(large: tuple[Convolution3x3, nn.Conv2d, torch.Tensor]) -> None:
    module, x = copy.deepcopy(large[0]), large[2]
    module(x).sum().backward()
    assert x.grad is None and module.weight.grad.abs().max() > 0
