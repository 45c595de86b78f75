"""The class-conditional UNet on latents."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from models.blocks import UNetBlock
from models.layers import Downsample, OrdinalEmbedding, TimeEmbedding, Upsample, zero_initialised

_CLASS_EMBEDDING_STD = 0.5  # of the order of the time embedding's own values


@dataclass(frozen=True)
class ConditionShape:
    """A condition besides the class: how many levels it has, whether they are ordered, whether it can be unknown."""

    num_levels: int
    ordinal: bool = False
    has_null: bool = True


@dataclass(frozen=True)
class UNetShape:
    """Everything that determines the network's parameters; plain values, so that it can be stored with the weights.

    `channels` and `attention` go from the finest level to the coarsest, which is the middle of the U.
    """

    latent_channels: int
    num_classes: int
    channels: tuple[int, ...]
    num_layers: int
    attention: tuple[bool, ...]
    num_heads: int
    time_embedding_dim: int
    context_dim: int
    norm_groups: int
    dropout: float
    condition_types: tuple[str, ...]
    conditions: tuple[ConditionShape, ...] = ()


class UNet(nn.Module):
    """UNet over latents with one row of embedding per class and one more, `null_label`, for "no class".

    `class` conditioning adds a class embedding to the time embedding; `context_class` gives a context token to
    cross-attention at the levels that have attention. Further conditions act in the same ways as the class, each with
    separate tables: added to the time embedding, as one more context token, or both. With several tokens attention
    weighs them by position, so that different places can follow different conditions.

    A table has a row per level and, if the condition can be unknown, one more for its null. Ordered levels have an
    OrdinalEmbedding.
    """

    def __init__(self, shape: UNetShape) -> None:
        super().__init__()
        self.shape = shape
        self.null_label = shape.num_classes
        embedding_dim = shape.time_embedding_dim
        uses_context = "context_class" in shape.condition_types
        channels = shape.channels

        def block(in_channels: int, out_channels: int, attention: bool) -> UNetBlock:
            return UNetBlock(
                in_channels, out_channels, embedding_dim=embedding_dim, norm_groups=shape.norm_groups,
                dropout=shape.dropout, attention=attention, num_heads=shape.num_heads,
                context_dim=shape.context_dim if uses_context else None,
            )

        self.time_embedding = TimeEmbedding(embedding_dim)
        self.class_embedding = (
            nn.Embedding(shape.num_classes + 1, embedding_dim) if "class" in shape.condition_types else None
        )
        self.context_embedding = nn.Embedding(shape.num_classes + 1, shape.context_dim) if uses_context else None
        self.condition_embeddings = nn.ModuleList(
            _embed_condition(condition, embedding_dim) for condition in shape.conditions if "class" in shape.condition_types
        )
        self.condition_contexts = nn.ModuleList(
            _embed_condition(condition, shape.context_dim) for condition in shape.conditions if uses_context
        )

        self.conv_in = nn.Conv2d(shape.latent_channels, channels[0], 3, padding=1)
        outer = list(zip(channels, shape.attention, strict=True))[:-1]  # every level but the middle
        self.down_blocks = nn.ModuleList(
            nn.ModuleList(block(width, width, attention) for _ in range(shape.num_layers)) for width, attention in outer
        )
        self.downsamples = nn.ModuleList(Downsample(channels[i], channels[i + 1]) for i in range(len(outer)))
        self.middle_blocks = nn.ModuleList(
            block(channels[-1], channels[-1], shape.attention[-1]) for _ in range(shape.num_layers)
        )
        self.upsamples = nn.ModuleList(Upsample(channels[i + 1], channels[i]) for i in range(len(outer)))
        self.up_blocks = nn.ModuleList(
            nn.ModuleList(block(2 * width, width, attention) for _ in range(shape.num_layers))
            for width, attention in outer
        )
        self.norm_out = nn.GroupNorm(shape.norm_groups, channels[0])
        self.conv_out = zero_initialised(nn.Conv2d(channels[0], shape.latent_channels, 3, padding=1))

        # Labels count as much as the time from the first step on; runs of a thousand steps need that.
        for table in (self.class_embedding, self.context_embedding):
            if table is not None:
                nn.init.normal_(table.weight, std=_CLASS_EMBEDDING_STD)

    def forward(
        self, x: torch.Tensor, timesteps: torch.Tensor, labels: torch.Tensor, conditions: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Predict the training target for noisy latents.

        x: float (B, C, h, w); timesteps: int64 (B,) in [0, T); labels: int64 (B,) in [0, num_classes], the last being
        the null label; conditions: int64 (B, K), column k in [0, num_levels], the last being the null, for the K
        conditions of the shape. Returns (B, C, h, w).
        """
        levels = () if conditions is None else conditions.unbind(dim=1)
        embedding = self.time_embedding(timesteps)  # (B, E)
        if self.class_embedding is not None:
            embedding = embedding + self.class_embedding(labels)  # (B, E)
            for table, level in zip(self.condition_embeddings, levels, strict=True):
                embedding = embedding + table(level)  # (B, E)
        context = None
        if self.context_embedding is not None:
            further = [table(level) for table, level in zip(self.condition_contexts, levels, strict=True)]
            context = torch.stack([self.context_embedding(labels), *further], dim=1)  # (B, 1 + K, D)

        x = self.conv_in(x.contiguous(memory_format=torch.channels_last))  # (B, c0, h, w)
        skips = []
        for blocks, downsample in zip(self.down_blocks, self.downsamples, strict=True):
            for block in blocks:
                x = block(x, embedding, context)  # (B, c_level, h / 2^level, w / 2^level)
                skips.append(x)
            x = downsample(x)  # (B, c_level+1, h / 2^(level+1), w / 2^(level+1))
        for block in self.middle_blocks:
            x = block(x, embedding, context)  # (B, c_last, h_last, w_last)
        for blocks, upsample in zip(reversed(self.up_blocks), reversed(self.upsamples), strict=True):
            x = upsample(x)  # (B, c_level, h / 2^level, w / 2^level)
            for block in blocks:
                x = block(torch.cat([x, skips.pop()], dim=1), embedding, context)  # (B, c_level, ...)
        return self.conv_out(F.silu(self.norm_out(x)))  # (B, C, h, w)


def _embed_condition(condition: ConditionShape, dim: int) -> nn.Module:
    if condition.ordinal:
        return OrdinalEmbedding(condition.num_levels, dim, std=_CLASS_EMBEDDING_STD)
    table = nn.Embedding(condition.num_levels + condition.has_null, dim)
    nn.init.normal_(table.weight, std=_CLASS_EMBEDDING_STD)
    return table


def count_parameters(module: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
