"""The smallest parts of the UNet: embeddings, attention and resampling."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from models.convolution import Convolution3x3

_LONGEST_PERIOD = 10_000  # of the sinusoidal embedding; Vaswani 2017, section 3.5

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def zero_initialised(module: nn.Module) -> nn.Module:
    """Set all parameters to zero, so that a residual branch ending here starts as the identity."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class TimeEmbedding(nn.Module):
    """Sinusoids of the timestep through a two-layer perceptron. Source: Ho 2020, appendix B."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        half = dim // 2
        frequencies = torch.exp(-math.log(_LONGEST_PERIOD) * torch.arange(half, dtype=torch.float32) / half)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.mlp = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, timesteps: torch.Tensor) -> torch.Tensor:
        angles = timesteps.float()[:, None] * self.frequencies  # (B, dim / 2)
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=1))  # (B, dim)


class OrdinalEmbedding(nn.Module):
    """Embedding of ordered levels as a walk, and a separate row for "unknown".

    Level k is the vector of level 0 plus the first k of the steps between neighbours, each of standard deviation `std` at
    the start. Neighbouring levels thus start more alike than distant ones. Every image of a level trains the steps of
    all levels up to it, so rare grades learn from common ones.
    """

    def __init__(self, num_levels: int, dim: int, *, std: float) -> None:
        super().__init__()
        self.first = nn.Parameter(std * torch.randn(1, dim))
        self.steps = nn.Parameter(std * torch.randn(num_levels - 1, dim))
        self.null = nn.Parameter(std * torch.randn(1, dim))

    def forward(self, levels: torch.Tensor) -> torch.Tensor:
        """Rows (B, dim) of int64 (B,) levels in [0, num_levels], the last being the null."""
        table = torch.cat([self.first, self.first + self.steps.cumsum(dim=0), self.null])  # (num_levels + 1, dim)
        return F.embedding(levels, table)


class SelfAttention(nn.Module):
    """Multi-head self-attention over the positions of a feature map, with a residual connection.

    `attend` is the attention of (B, heads, N, d) queries, keys and values; it is an attribute so that a benchmark can
    run another implementation on the same weights.
    """

    attend: Attend = staticmethod(F.scaled_dot_product_attention)

    def __init__(self, channels: int, *, num_heads: int, norm_groups: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.GroupNorm(norm_groups, channels)
        self.to_qkv = nn.Linear(channels, 3 * channels)
        self.to_out = zero_initialised(nn.Linear(channels, channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = x.shape
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # (B, N, C)
        qkv = self.to_qkv(tokens).view(batch, height * width, 3, self.num_heads, channels // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, N, d)
        attended = self.attend(q, k, v).transpose(1, 2).reshape(batch, height * width, channels)  # (B, N, C)
        return x + self.to_out(attended).transpose(1, 2).view(batch, channels, height, width)


class CrossAttention(nn.Module):
    """Multi-head attention from the positions of a feature map to context tokens, with a residual connection.

    Softmax over a single key is 1 for every query. With one token the result is therefore that token's projected value at
    every position, and is computed exactly so, without queries and keys.
    """

    def __init__(self, channels: int, *, context_dim: int, num_heads: int, norm_groups: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.GroupNorm(norm_groups, channels)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(context_dim, channels)
        self.to_v = nn.Linear(context_dim, channels)
        self.to_out = zero_initialised(nn.Linear(channels, channels))

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        if context.shape[1] == 1:
            return x + self.to_out(self.to_v(context[:, 0]))[:, :, None, None]  # (B, C, 1, 1) broadcast
        return self.attend_to_all(x, context)

    def attend_to_all(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """The general case, for any number of (B, T, context_dim) tokens."""
        batch, channels, height, width = x.shape

        def split_heads(tokens: torch.Tensor) -> torch.Tensor:
            return tokens.view(batch, -1, self.num_heads, channels // self.num_heads).transpose(1, 2)

        q = split_heads(self.to_q(self.norm(x).flatten(2).transpose(1, 2)))  # (B, heads, N, d)
        k, v = split_heads(self.to_k(context)), split_heads(self.to_v(context))  # (B, heads, T, d)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, -1, channels)  # (B, N, C)
        return x + self.to_out(attended).transpose(1, 2).view(batch, channels, height, width)


class Downsample(nn.Module):
    """Halve the resolution by a strided convolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x)  # (B, out, h / 2, w / 2)


class Upsample(nn.Module):
    """Double the resolution by nearest neighbours, then convolve."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = Convolution3x3(in_channels, out_channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))  # (B, out, 2 h, 2 w)
