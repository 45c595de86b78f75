"""The UNet's 3 x 3 convolution; where a CPU's library is slow, matrix products compute the gradient of its weights."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

_LEAST_CHANNELS, _LEAST_POSITIONS = 128, 32 * 32  # from here oneDNN had 0.5 to 1.0 of the products' rate; below, more


class Convolution3x3(nn.Conv2d):
    """A convolution of kernel 3 and stride 1 that keeps the side: (B, C, h, w) -> (B, out, h, w).

    Same parameters and outputs as `nn.Conv2d`. The gradient differs from it by rounding, and only for large maps and many
    channels in float32 on a CPU.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self._by_products(x):
            return _WeightGradientByProducts.apply(x, self.weight, self.bias)
        return super().forward(x)

    def _by_products(self, x: torch.Tensor) -> bool:
        plain = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        large = min(self.weight.shape[:2]) >= _LEAST_CHANNELS and x.shape[2] * x.shape[3] >= _LEAST_POSITIONS
        return plain and large and torch.is_grad_enabled()


class _WeightGradientByProducts(torch.autograd.Function):
    """The library's convolution forward and for the input's gradient, nine matrix products for the weights'."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias, padding=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor]:
        x, weight = ctx.saved_tensors
        to_input = torch.nn.grad.conv2d_input(x.shape, weight, grad, padding=1) if ctx.needs_input_grad[0] else None
        return to_input, _weight_gradient(x, grad), grad.sum(dim=(0, 2, 3))


def _weight_gradient(x: torch.Tensor, grad: torch.Tensor) -> torch.Tensor:
    """(out, C, 3, 3) of inputs (B, C, h, w) and the gradient (B, out, h, w) of the output.

    Both are padded to the same rows of w + 2 positions and flattened. The inputs of each of the nine weights are then all
    rows from some offset on: a view. At the end of a row or an image, the gradient's padding is zero.
    """
    width = x.shape[3] + 2
    inputs = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1)).flatten(0, 2)  # (B (h + 2) (w + 2), C)
    outputs = F.pad(grad.permute(0, 2, 3, 1), (0, 0, 0, 2, 0, 2)).flatten(0, 2)  # the same rows, out
    count = len(inputs) - 2 * width - 2  # the largest offset; all rows of `outputs` behind are padding
    outputs = outputs[:count].T
    products = inputs.new_empty(3, 3, grad.shape[1], x.shape[1])
    for row in range(3):
        for column in range(3):
            offset = row * width + column
            torch.mm(outputs, inputs[offset:offset + count], out=products[row, column])
    return products.permute(2, 3, 0, 1).contiguous(memory_format=torch.channels_last)
