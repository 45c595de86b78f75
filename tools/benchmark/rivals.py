"""The networks that ours are measured against: attention maps that are formed, and diffusers' UNets of equal cost."""

from bisect import bisect_left
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from config.schema import DatasetParams, UNetParams
from models.layers import CrossAttention, SelfAttention
from tools.diffusion.estimate import count_training_flops

_WIDTH_UNIT = 8  # channels change in steps of this, which is also the number of norm groups


def materialise_attention() -> None:
    """Have every attention of this process form its maps, on the same weights."""
    SelfAttention.forward = materialised_self_attention
    CrossAttention.forward = CrossAttention.attend_to_all


def materialised_self_attention(block: SelfAttention, x: torch.Tensor) -> torch.Tensor:
    """SelfAttention as torch.nn.MultiheadAttention computes it by default: the whole (B, heads, N, N) map is formed."""
    batch, channels, height, width = x.shape
    tokens = block.norm(x).flatten(2).permute(2, 0, 1)  # (N, B, C)
    attended, _ = F.multi_head_attention_forward(
        tokens, tokens, tokens, channels, block.num_heads, block.to_qkv.weight, block.to_qkv.bias, None, None, False, 0.0,
        block.to_out.weight, block.to_out.bias, training=block.training,
    )
    return x + attended.permute(1, 2, 0).reshape(batch, channels, height, width)


def conditional_unet(data: DatasetParams, unet: UNetParams) -> nn.Module:
    """diffusers' UNet2DConditionModel with the channels, layers, heads and attention levels of the config's UNet."""
    from diffusers import UNet2DConditionModel

    down = tuple("CrossAttnDownBlock2D" if attention else "DownBlock2D" for attention in unet.attention)
    up = tuple("CrossAttnUpBlock2D" if attention else "UpBlock2D" for attention in reversed(unet.attention))
    return UNet2DConditionModel(
        sample_size=data.latent_size, in_channels=data.z_channels, out_channels=data.z_channels, down_block_types=down,
        up_block_types=up, block_out_channels=unet.channels, layers_per_block=unet.num_layers,
        cross_attention_dim=unet.context_dim, attention_head_dim=unet.num_heads,  # which here is the number of heads
        norm_num_groups=unet.norm_groups)


def run_conditional(network: nn.Module, x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
    """Its prediction, with one context token an image."""
    context = torch.zeros(len(x), 1, network.config.cross_attention_dim, device=x.device)
    return network(x, timesteps, encoder_hidden_states=context).sample


def unconditional_unet(
    data: DatasetParams, unet: UNetParams, *, flops: int, batch_size: int, seed: int
) -> tuple[nn.Module, int]:
    """diffusers' class-conditional UNet2DModel of the config's levels whose training step comes nearest to `flops`.

    Its channels keep the proportions of the config's; their number is what is sought. Returns it with its own count.
    """
    @cache
    def count(width: int) -> int:
        with torch.device("meta"):
            network = _plain_unet(data, unet, width)
        return count_rival_flops(lambda x, t: run_plain(network, x, t), data, batch_size)

    widths = range(_WIDTH_UNIT, 2 * unet.channels[0] + 1, _WIDTH_UNIT)
    above = bisect_left(widths, flops, key=count)  # a wider network costs more
    width = min(widths[max(above - 1, 0):above + 1], key=lambda width: abs(count(width) - flops))
    torch.manual_seed(seed)
    return _plain_unet(data, unet, width), count(width)


def run_plain(network: nn.Module, x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
    """Its prediction for images of the first class."""
    return network(x, timesteps, class_labels=torch.zeros_like(timesteps)).sample


def count_rival_flops(
    run: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], data: DatasetParams, batch_size: int
) -> int:
    """Operations of a training step of a network on the meta device, counted as those of ours are."""
    return count_training_flops(
        lambda: run(torch.empty(batch_size, data.z_channels, data.latent_size, data.latent_size),
                    torch.empty(batch_size, dtype=torch.int64)))


def _plain_unet(data: DatasetParams, unet: UNetParams, width: int) -> nn.Module:
    from diffusers import UNet2DModel

    first = unet.channels[0]
    channels = tuple(max(round(width * wide / first / _WIDTH_UNIT), 1) * _WIDTH_UNIT for wide in unet.channels)
    settings: dict[str, Any] = {
        "down_block_types": tuple("AttnDownBlock2D" if attention else "DownBlock2D" for attention in unet.attention),
        "up_block_types": tuple("AttnUpBlock2D" if attention else "UpBlock2D" for attention in reversed(unet.attention)),
    }
    return UNet2DModel(
        sample_size=data.latent_size, in_channels=data.z_channels, out_channels=data.z_channels,
        block_out_channels=channels, layers_per_block=unet.num_layers, norm_num_groups=_WIDTH_UNIT,
        attention_head_dim=channels[-1] // unet.num_heads, num_class_embeds=len(data.params.class_names) + 1, **settings)
