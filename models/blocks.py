"""The UNet's repeating unit: a residual block that the embedding modulates, then attention."""

import torch
import torch.nn.functional as F
from torch import nn

from models.convolution import Convolution3x3
from models.layers import CrossAttention, SelfAttention, zero_initialised


class ResidualBlock(nn.Module):
    """Norm, SiLU, conv twice; the embedding scales and shifts the second norm. Source: Dhariwal & Nichol 2021."""

    def __init__(
        self, in_channels: int, out_channels: int, *, embedding_dim: int, norm_groups: int, dropout: float
    ) -> None:
        super().__init__()
        self.norm_in = nn.GroupNorm(norm_groups, in_channels)
        self.conv_in = Convolution3x3(in_channels, out_channels)
        self.modulation = nn.Linear(embedding_dim, 2 * out_channels)
        self.norm_out = nn.GroupNorm(norm_groups, out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv_out = zero_initialised(Convolution3x3(out_channels, out_channels))
        same = in_channels == out_channels
        self.skip = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        scale, shift = self.modulation(F.silu(embedding))[:, :, None, None].chunk(2, dim=1)  # each (B, out, 1, 1)
        hidden = self.conv_in(F.silu(self.norm_in(x)))  # (B, out, h, w)
        hidden = F.silu(torch.addcmul(shift, self.norm_out(hidden), 1 + scale))  # (B, out, h, w)
        return self.skip(x) + self.conv_out(self.dropout(hidden))  # (B, out, h, w)


class UNetBlock(nn.Module):
    """A residual block, then self-attention if requested, then cross-attention if there is a context."""

    def __init__(
        self, in_channels: int, out_channels: int, *, embedding_dim: int, norm_groups: int, dropout: float,
        attention: bool, num_heads: int, context_dim: int | None,
    ) -> None:
        super().__init__()
        self.residual = ResidualBlock(
            in_channels, out_channels, embedding_dim=embedding_dim, norm_groups=norm_groups, dropout=dropout
        )
        self.self_attention = (
            SelfAttention(out_channels, num_heads=num_heads, norm_groups=norm_groups) if attention else None
        )
        self.cross_attention = (
            CrossAttention(out_channels, context_dim=context_dim, num_heads=num_heads, norm_groups=norm_groups)
            if context_dim is not None and attention else None
        )

    def forward(self, x: torch.Tensor, embedding: torch.Tensor, context: torch.Tensor | None) -> torch.Tensor:
        x = self.residual(x, embedding)  # (B, out, h, w)
        if self.self_attention is not None:
            x = self.self_attention(x)  # (B, out, h, w)
        if self.cross_attention is not None:
            x = self.cross_attention(x, context)  # (B, out, h, w)
        return x
