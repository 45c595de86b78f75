"""The noise schedule, in float64, and the forward process."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from config.errors import UserError

_COSINE_OFFSET = 0.008  # Nichol & Dhariwal 2021, section 3.2
_COSINE_LARGEST_BETA = 0.999  # the same


class ForwardProcess:
    """x_t = a_t x_0 + s_t noise at T discrete timesteps; index 0 is the least noise. Subclasses give the two levels."""

    signal_levels: np.ndarray  # (T,) float64, a_t
    noise_levels: np.ndarray  # (T,) float64, s_t

    @property
    def num_timesteps(self) -> int:
        return len(self.signal_levels)

    def signal_level(self, timesteps: torch.Tensor) -> torch.Tensor:
        """a_t for int64 (B,) timesteps, as float32 (B, 1, 1, 1) on their device."""
        return self._gather(self.signal_levels, timesteps)

    def noise_level(self, timesteps: torch.Tensor) -> torch.Tensor:
        """s_t for int64 (B,) timesteps, as float32 (B, 1, 1, 1) on their device."""
        return self._gather(self.noise_levels, timesteps)

    def add_noise(self, x_0: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """x_t of float32 (B, C, h, w) latents and unit normal noise at int64 (B,) timesteps. Source: Ho 2020, eq. 4."""
        return self.signal_level(timesteps) * x_0 + self.noise_level(timesteps) * noise

    @staticmethod
    def _gather(values: np.ndarray, timesteps: torch.Tensor) -> torch.Tensor:
        table = torch.from_numpy(values.astype(np.float32)).to(timesteps.device)
        return table[timesteps].view(-1, 1, 1, 1)


@dataclass(frozen=True)
class NoiseSchedule(ForwardProcess):
    """Noise variances of the forward process q(x_t | x_0) = N(sqrt(abar_t) x_0, (1 - abar_t) I).

    betas, alphas_cumprod: (T,) float64, index t = 0 is the least noise.
    Source: Ho 2020, eq. 4.
    """

    betas: np.ndarray
    alphas_cumprod: np.ndarray

    @cached_property
    def signal_levels(self) -> np.ndarray:
        return np.sqrt(self.alphas_cumprod)

    @cached_property
    def noise_levels(self) -> np.ndarray:
        return np.sqrt(1.0 - self.alphas_cumprod)


@dataclass(frozen=True)
class FlowSchedule(ForwardProcess):
    """The straight path from a latent to noise, x_t = (1 - t) x_0 + t noise, at t = 1/T, 2/T, ..., 1.

    The last timestep is noise alone. Source: Liu 2023 (rectified flow), eq. 1, with noise at t = 1.
    """

    times: np.ndarray  # (T,) float64

    @cached_property
    def signal_levels(self) -> np.ndarray:
        return 1.0 - self.times

    @property
    def noise_levels(self) -> np.ndarray:
        return self.times


def make_flow_schedule(num_timesteps: int) -> FlowSchedule:
    """The straight path at `num_timesteps` evenly spaced times."""
    return FlowSchedule(np.arange(1, num_timesteps + 1, dtype=np.float64) / num_timesteps)


def make_noise_schedule(schedule: str, *, num_timesteps: int, beta_start: float, beta_end: float) -> NoiseSchedule:
    """Build a schedule that preserves variance: `linear` (Ho 2020), `scaled_linear` (linear in sqrt(beta); Rombach 2022)
    or `cosine` (Nichol & Dhariwal 2021, eq. 17; the betas given are ignored).

    Raises:
        UserError: an unknown schedule.
    """
    if schedule == "linear":
        betas = np.linspace(beta_start, beta_end, num_timesteps, dtype=np.float64)
    elif schedule == "scaled_linear":
        betas = np.linspace(beta_start**0.5, beta_end**0.5, num_timesteps, dtype=np.float64) ** 2
    elif schedule == "cosine":
        time = np.arange(num_timesteps + 1, dtype=np.float64) / num_timesteps
        alpha_bar = np.cos((time + _COSINE_OFFSET) / (1 + _COSINE_OFFSET) * np.pi / 2) ** 2
        betas = np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], _COSINE_LARGEST_BETA)
    else:
        raise UserError(f"schedule: expected linear, scaled_linear or cosine, found {schedule!r}")
    return NoiseSchedule(betas=betas, alphas_cumprod=np.cumprod(1.0 - betas))
