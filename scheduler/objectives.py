"""What the network predicts (epsilon, v, x0 or velocity): its target, its loss weight, and the way back to x0 and epsilon.

With x_t = a x_0 + s epsilon (a^2 + s^2 = 1), v = a epsilon - s x_0. On the straight path (a + s = 1) the velocity
d x_t / d s is epsilon - x_0.
Source: Salimans & Ho 2022, section 4 and appendix D; Liu 2023 (rectified flow), eq. 1. All tensors are float (B, C, h, w);
`signal_level` is a and `noise_level` is s, broadcastable to them.
"""

import numpy as np
import torch

from scheduler.linear_noise_scheduler import ForwardProcess, NoiseSchedule

PREDICTION_TYPES = ("epsilon", "v", "x0", "velocity")


def make_target(
    prediction_type: str, *, x_0: torch.Tensor, noise: torch.Tensor, signal_level: torch.Tensor,
    noise_level: torch.Tensor,
) -> torch.Tensor:
    """What a perfect network of this prediction type would return."""
    if prediction_type == "epsilon":
        return noise
    if prediction_type == "x0":
        return x_0
    if prediction_type == "v":
        return signal_level * noise - noise_level * x_0
    if prediction_type == "velocity":
        return noise - x_0
    raise ValueError(f"prediction_type {prediction_type!r}")


def predict_x0(
    prediction_type: str, *, prediction: torch.Tensor, x_t: torch.Tensor, signal_level: torch.Tensor,
    noise_level: torch.Tensor,
) -> torch.Tensor:
    """The clean latent that a prediction at x_t implies."""
    if prediction_type == "epsilon":
        return (x_t - noise_level * prediction) / signal_level
    if prediction_type == "x0":
        return prediction
    if prediction_type == "v":
        return signal_level * x_t - noise_level * prediction
    if prediction_type == "velocity":
        return (x_t - noise_level * prediction) / (signal_level + noise_level)
    raise ValueError(f"prediction_type {prediction_type!r}")


def epsilon_from_x0(
    x_0: torch.Tensor, *, x_t: torch.Tensor, signal_level: torch.Tensor, noise_level: torch.Tensor
) -> torch.Tensor:
    """The noise that x_t holds if its clean latent is x_0."""
    return (x_t - signal_level * x_0) / noise_level


def loss_weights(schedule: ForwardProcess, prediction_type: str, *, weighting: str, min_snr_gamma: float) -> np.ndarray:
    """Weight of the squared error at each timestep, (T,) float64, scaled to a mean of 1.

    `uniform` weighs the network's target evenly. `min_snr` weighs the error of x0 by min(SNR, gamma), converted
    to the predicted target: divided by SNR for epsilon, by SNR + 1 for v. Source: Hang 2023, eq. 8 and appendix.
    """
    if weighting == "uniform":
        return np.ones(schedule.num_timesteps)
    if weighting != "min_snr" or not isinstance(schedule, NoiseSchedule):
        raise ValueError(f"weighting {weighting!r}")
    snr = schedule.alphas_cumprod / (1.0 - schedule.alphas_cumprod)
    divisor = {"epsilon": snr, "v": snr + 1.0, "x0": np.ones_like(snr)}[prediction_type]
    weights = np.minimum(snr, min_snr_gamma) / divisor
    return weights / weights.mean()
