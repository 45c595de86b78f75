"""Classifier-free guidance: dropping labels in training, and combining two predictions when sampling."""

from collections.abc import Callable

import torch

Network = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def drop_labels(
    labels: torch.Tensor, uniforms: torch.Tensor, *, probability: float, null_label: int
) -> torch.Tensor:
    """Replace int64 (B,) labels by `null_label` where uniform (B,) draws lie below `probability`. Source: Ho &
    Salimans 2022, algorithm 1."""
    return torch.where(uniforms < probability, torch.full_like(labels, null_label), labels)


def guided_prediction(
    network: Network, x_t: torch.Tensor, timesteps: torch.Tensor, labels: torch.Tensor, *, null_label: int,
    guidance_scale: float,
) -> torch.Tensor:
    """uncond + w (cond - uncond) with both halves in one call of the network; w = 1 is one plain conditional call.

    x_t: (B, C, h, w); timesteps, labels: int64 (B,). Source: Ho & Salimans 2022, eq. 6, with w = 1 + their w.
    """
    if guidance_scale == 1.0:
        return network(x_t, timesteps, labels)
    both = network(
        torch.cat([x_t, x_t]),
        torch.cat([timesteps, timesteps]),
        torch.cat([labels, torch.full_like(labels, null_label)]),
    )
    conditional, unconditional = both.chunk(2)
    return unconditional + guidance_scale * (conditional - unconditional)


def scale_at(timestep: int, *, num_timesteps: int, guidance_scale: float, interval: tuple[float, float]) -> float:
    """The guidance scale inside `interval` of the time axis t / (T - 1), 1 outside it. Source: Kynkäänniemi 2024."""
    position = timestep / (num_timesteps - 1)
    return guidance_scale if interval[0] <= position <= interval[1] else 1.0
