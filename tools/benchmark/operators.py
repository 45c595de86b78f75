"""What each kind of operator of a network reaches by itself: the heaviest of the kind, forward and backward."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from config.schema import DatasetParams, UNetParams
from models.convolution import Convolution3x3
from models.layers import SelfAttention
from models.unet import UNet
from tools.benchmark.workers import timed
from tools.diffusion.estimate import BACKWARD_FACTOR
from tools.diffusion.networks import unet_shape
from tools.diffusion.training import latent_shape

_LEAST_SECONDS = 0.5  # of a measurement


@dataclass(frozen=True)
class Operator:
    """The heaviest of its kind in one forward pass: how to build it, its input, its FLOPs, and the whole kind's FLOPs."""

    kind: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    flops: float
    kind_flops: float


class _Attention(nn.Module):
    """Attention of (B, heads, N, d) to itself."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(x, x, x)


def find_operators(data: DatasetParams, unet: UNetParams, batch: int) -> list[Operator]:
    """The heaviest convolution, linear layer and self-attention of the network."""
    seen: dict[str, list[Operator]] = {"convolution": [], "linear layer": [], "attention": []}

    def note(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        x = inputs[0]
        if isinstance(module, nn.Conv2d):
            flops = 2.0 * output.numel() * module.in_channels * module.kernel_size[0] * module.kernel_size[1]
            channels = module.in_channels, module.out_channels
            build = (partial(Convolution3x3, *channels) if isinstance(module, Convolution3x3) else
                     partial(nn.Conv2d, *channels, module.kernel_size, stride=module.stride, padding=module.padding))
            seen["convolution"].append(Operator("convolution", build, tuple(x.shape), flops, 0))
        elif isinstance(module, nn.Linear):
            build = partial(nn.Linear, module.in_features, module.out_features)
            flops = 2.0 * x.numel() * module.out_features
            seen["linear layer"].append(Operator("linear layer", build, tuple(x.shape), flops, 0))
        elif isinstance(module, SelfAttention):
            size, channels_all = x.shape[2] * x.shape[3], x.shape[1]
            shape = batch, module.num_heads, size, channels_all // module.num_heads
            seen["attention"].append(Operator("attention", _Attention, shape, 4.0 * batch * size**2 * channels_all, 0))

    with torch.device("meta"):
        network = UNet(unet_shape(data, unet))
        for module in network.modules():
            module.register_forward_hook(note)
        labels = torch.empty(batch, dtype=torch.int64)
        conditions = torch.empty(batch, len(network.shape.conditions), dtype=torch.int64)
        network(torch.empty(batch, *latent_shape(data)), labels, labels, conditions)
    return [replace(max(found, key=lambda operator: operator.flops), kind_flops=sum(operator.flops for operator in found))
            for found in seen.values() if found]


def measure_operator(operator: Operator, device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the operator's forward and backward pass by itself."""
    module = operator.build().to(device, dtype)
    x = torch.randn(operator.shape, device=device, dtype=dtype)
    if isinstance(module, nn.Conv2d):  # as the networks lie
        module, x = module.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    x.requires_grad_(True)
    gradient = torch.randn_like(module(x))

    def passes(count: int) -> None:
        for _ in range(count):
            module(x).backward(gradient)
        wait_for(device)

    passes(1)
    count = max(1, round(_LEAST_SECONDS / timed(lambda: passes(1))))
    return count * BACKWARD_FACTOR * operator.flops / timed(lambda: passes(count))


def wait_for(device: torch.device) -> None:
    """Return when the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
