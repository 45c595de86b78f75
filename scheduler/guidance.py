"""Classifier-free guidance: dropping labels in training, and combining two predictions when sampling."""

from collections.abc import Callable, Sequence

import torch

Network = Callable[..., torch.Tensor]  # (x_t, timesteps, labels) or (x_t, timesteps, labels, conditions)


def drop_labels(
    labels: torch.Tensor, uniforms: torch.Tensor, *, probability: float, null_label: int
) -> torch.Tensor:
    """Replace int64 (B,) labels by `null_label` where uniform (B,) draws are below `probability`. Source: Ho &
    Salimans 2022, algorithm 1."""
    return torch.where(uniforms < probability, torch.full_like(labels, null_label), labels)


def drop_conditions(
    conditions: torch.Tensor, uniforms: torch.Tensor, own_uniforms: torch.Tensor, *, probability: float,
    null_levels: Sequence[int],
) -> torch.Tensor:
    """Replace levels of int64 (B, K) conditions by their nulls: whole rows together with their labels, and single levels.

    A row loses everything if its `uniforms` (B,) draw, which `drop_labels` reads too, is below `probability`: that is the
    unconditional half of guidance. In other rows a condition is dropped alone if its `own_uniforms`
    (B, len(null_levels)) draw is below it, so that its null also means "this one is unknown" with a known class.
    Columns after `null_levels` have no null and stay.
    """
    known, rest = conditions[:, :len(null_levels)], conditions[:, len(null_levels):]
    nulls = torch.tensor(list(null_levels), dtype=torch.int64, device=conditions.device).expand_as(known)
    dropped = (uniforms[:, None] < probability) | (own_uniforms < probability)
    return torch.cat([torch.where(dropped, nulls, known), rest], dim=1)


def guided_prediction(
    network: Network, x_t: torch.Tensor, timesteps: torch.Tensor, labels: torch.Tensor, *, null_label: int,
    guidance_scale: float, conditions: torch.Tensor | None = None, null_conditions: torch.Tensor | None = None,
) -> torch.Tensor:
    """uncond + w (cond - uncond) with both halves in one call of the network; w = 1 is one plain conditional call.

    x_t: (B, C, h, w); timesteps, labels: int64 (B,); conditions and their replacement in the unconditional half,
    null_conditions: int64 (B, K) each. Source: Ho & Salimans 2022, eq. 6, with w = 1 + their w.
    """
    further = () if conditions is None else (conditions,)
    if guidance_scale == 1.0:
        return network(x_t, timesteps, labels, *further)
    if conditions is not None and null_conditions is not None:
        further = (torch.cat([conditions, null_conditions]),)
    both = network(
        torch.cat([x_t, x_t]),
        torch.cat([timesteps, timesteps]),
        torch.cat([labels, torch.full_like(labels, null_label)]),
        *further,
    )
    conditional, unconditional = both.chunk(2)
    return unconditional + guidance_scale * (conditional - unconditional)


def autoguided_prediction(
    network: Network, guide: Network, x_t: torch.Tensor, timesteps: torch.Tensor, labels: torch.Tensor, *,
    guidance_scale: float, conditions: torch.Tensor | None = None,
) -> torch.Tensor:
    """guide + w (network - guide), both with the class: away from the errors of a weaker model, not towards the class.

    Arguments as those of `guided_prediction`; w = 1 is one plain call. Source: Karras 2024 (autoguidance), eq. 1.
    """
    further = () if conditions is None else (conditions,)
    prediction = network(x_t, timesteps, labels, *further)
    if guidance_scale == 1.0:
        return prediction
    weaker = guide(x_t, timesteps, labels, *further)
    return weaker + guidance_scale * (prediction - weaker)


def scale_at(timestep: int, *, num_timesteps: int, guidance_scale: float, interval: tuple[float, float]) -> float:
    """The guidance scale inside `interval` of the time axis t / (T - 1), 1 outside it. Source: Kynkäänniemi 2024."""
    position = timestep / (num_timesteps - 1)
    return guidance_scale if interval[0] <= position <= interval[1] else 1.0
