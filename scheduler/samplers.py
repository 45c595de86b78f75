"""Samplers: pure functions from noise and a denoiser to clean latents.

A denoiser takes (x_t, t) and returns its estimate of x_0 for the whole batch at one integer timestep; guidance and
prediction type are already inside it. ddpm, ddim, euler and heun are written here; dpm-solver++ and unipc are diffusers'.
SAMPLERS lists all of them: to add one, write a function and an entry there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from scheduler.linear_noise_scheduler import ForwardProcess, NoiseSchedule
from scheduler.objectives import epsilon_from_x0

Denoiser = Callable[[torch.Tensor, int], torch.Tensor]
DrawNoise = Callable[[], torch.Tensor]


def trailing_timesteps(num_timesteps: int, num_steps: int) -> list[int]:
    """`num_steps` timesteps from T - 1 downwards, evenly spaced. Source: Lin 2024, table 2 ("trailing")."""
    return [int(t) for t in np.round(num_timesteps - np.arange(num_steps) * num_timesteps / num_steps) - 1]


def quadratic_timesteps(num_timesteps: int, num_steps: int) -> list[int]:
    """`num_steps` different timesteps from T - 1 to 0, dense where there is little noise.

    Every sampler ends with one jump from its last timestep to E[x_0 | x_t], which removes detail finer than the noise
    left there. Spaced evenly, 20 of 1000 steps of the paper's schedule end at t = 49, where the noise is 0.3. Of detail
    with a standard deviation of 0.2 only 55% remain; with this spacing, all of it (measured on Gaussians).

    Source: Song 2021 (DDIM), appendix D.3, quadratic sub-sequence.
    """
    if num_steps == 1:
        return [num_timesteps - 1]
    even = np.arange(num_steps) / (num_steps - 1)
    wanted = np.rint((num_timesteps - 1) * even**2).astype(int)
    timesteps = [0]
    for timestep in wanted[1:]:
        timesteps.append(max(int(timestep), timesteps[-1] + 1))
    return timesteps[::-1]


def heun_timesteps(num_timesteps: int, num_steps: int) -> list[int]:
    """The timesteps of trailing steps that are each evaluated at both ends, except the last one."""
    timesteps = trailing_timesteps(num_timesteps, num_steps)
    return [*(timestep for step in pairwise(timesteps) for timestep in step), timesteps[-1]]


def sample_ddpm(
    denoiser: Denoiser, x_T: torch.Tensor, *, schedule: NoiseSchedule, num_steps: int, draw_noise: DrawNoise
) -> torch.Tensor:
    """Ancestral sampling with the posterior variance, over all timesteps or a trailing subset of them.

    Source: Ho 2020, eq. 6 and 7; on a subset the betas are those between the timesteps kept (Nichol & Dhariwal 2021).
    """
    x = x_T
    timesteps = trailing_timesteps(schedule.num_timesteps, num_steps)
    for timestep, previous in zip(timesteps, [*timesteps[1:], None], strict=True):
        abar = schedule.alphas_cumprod[timestep]
        abar_previous = 1.0 if previous is None else schedule.alphas_cumprod[previous]
        alpha = abar / abar_previous
        x_0 = denoiser(x, timestep)
        x0_weight = np.sqrt(abar_previous) * (1 - alpha) / (1 - abar)
        xt_weight = np.sqrt(alpha) * (1 - abar_previous) / (1 - abar)
        x = float(x0_weight) * x_0 + float(xt_weight) * x
        if previous is not None:
            variance = (1 - abar_previous) / (1 - abar) * (1 - alpha)
            x = x + float(np.sqrt(variance)) * draw_noise()
    return x


def sample_ddim(
    denoiser: Denoiser, x_T: torch.Tensor, *, schedule: ForwardProcess, num_steps: int
) -> torch.Tensor:
    """Deterministic DDIM (eta = 0). Source: Song 2021, eq. 12."""
    x = x_T
    timesteps = trailing_timesteps(schedule.num_timesteps, num_steps)
    for timestep, previous in zip(timesteps, [*timesteps[1:], None], strict=True):
        at = torch.full((1,), timestep, device=x.device)
        x_0 = denoiser(x, timestep)
        if previous is None:
            return x_0
        epsilon = epsilon_from_x0(
            x_0, x_t=x, signal_level=schedule.signal_level(at), noise_level=schedule.noise_level(at)
        )
        to = torch.full((1,), previous, device=x.device)
        x = schedule.signal_level(to) * x_0 + schedule.noise_level(to) * epsilon
    raise ValueError("num_steps must be at least 1")


def sample_straight(
    denoiser: Denoiser, x_T: torch.Tensor, *, schedule: ForwardProcess, num_steps: int, corrected: bool
) -> torch.Tensor:
    """Follow the probability flow in the coordinates in which it is a rectified flow: Euler's steps, or Heun's.

    With y = x / (a + s) and t = s / (a + s) any forward process reads y = (1 - t) x_0 + t noise, whose velocity is
    (y - E[x_0]) / t. Euler's method in them is ddim. Heun's averages the velocities at both ends of a step (`corrected`),
    two evaluations each, and ends with one of Euler's, since nothing can be evaluated at t = 0.

    Source: Liu 2023, section 2.2; Karras 2022, algorithm 1, for the last step.
    """
    timesteps = trailing_timesteps(schedule.num_timesteps, num_steps)
    scales = schedule.signal_levels + schedule.noise_levels
    times = schedule.noise_levels / scales

    def velocity(y: torch.Tensor, timestep: int) -> torch.Tensor:
        return (y - denoiser(y * float(scales[timestep]), timestep)) / float(times[timestep])

    y = x_T / float(scales[timesteps[0]])
    for timestep, following in pairwise(timesteps):
        step = float(times[following] - times[timestep])
        slope = velocity(y, timestep)
        if corrected:
            slope = (slope + velocity(y + step * slope, following)) / 2
        y = y + step * slope
    return denoiser(y * float(scales[timesteps[-1]]), timesteps[-1])


def _make_solver(sampler: str, betas: np.ndarray) -> Any:
    """diffusers' solver of order 2 in the data prediction."""
    # Imported here: the library takes seconds to start, and training does not need it without these samplers.
    from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler

    if sampler == "dpm-solver++":  # Lu 2022, algorithm 2
        return DPMSolverMultistepScheduler(trained_betas=betas, num_train_timesteps=len(betas), solver_order=2,
                                           prediction_type="sample", algorithm_type="dpmsolver++")
    # Zhao 2023
    return UniPCMultistepScheduler(trained_betas=betas, num_train_timesteps=len(betas), solver_order=2,
                                   prediction_type="sample")


def sample_with_solver(
    denoiser: Denoiser, x_T: torch.Tensor, *, schedule: NoiseSchedule, timesteps: Sequence[int], sampler: str
) -> torch.Tensor:
    """dpm-solver++ or unipc through diffusers, fed with x_0, so that guidance and prediction type stay here."""
    solver = _make_solver(sampler, schedule.betas)
    abar = schedule.alphas_cumprod[list(timesteps)]
    # Not by set_timesteps, which has no quadratic spacing.
    solver.num_inference_steps = len(timesteps)
    solver.timesteps = torch.tensor(list(timesteps), device=x_T.device)
    solver.sigmas = torch.tensor([*np.sqrt((1 - abar) / abar), 0.0], dtype=torch.float32)
    x = x_T
    for timestep in timesteps:
        x = solver.step(denoiser(x, timestep), timestep, x, return_dict=False)[0]
    return x


def _at_quadratic_timesteps(
    denoiser: Denoiser, x_T: torch.Tensor, *, schedule: NoiseSchedule, num_steps: int, sampler: str
) -> torch.Tensor:
    timesteps = quadratic_timesteps(schedule.num_timesteps, num_steps)
    return sample_with_solver(denoiser, x_T, schedule=schedule, timesteps=timesteps, sampler=sampler)


@dataclass(frozen=True)
class Sampler:
    """A sampler of the reverse process.

    run: (denoiser, x_T, *, schedule, num_steps) -> x_0, and `draw_noise` too if it `draws_noise`: fresh unit normal noise
        of the shape of x_T at each call.
    evaluations: (num_timesteps, num_steps) -> the timestep of every evaluation of the denoiser, in order.
    needs_betas: it runs only on a NoiseSchedule, not on a rectified flow.
    """

    run: Callable[..., torch.Tensor]
    evaluations: Callable[[int, int], list[int]] = trailing_timesteps
    needs_betas: bool = False
    draws_noise: bool = False


SAMPLERS = {
    "ddpm": Sampler(sample_ddpm, needs_betas=True, draws_noise=True),
    "ddim": Sampler(sample_ddim),
    "dpm-solver++": Sampler(partial(_at_quadratic_timesteps, sampler="dpm-solver++"), quadratic_timesteps, needs_betas=True),
    "unipc": Sampler(partial(_at_quadratic_timesteps, sampler="unipc"), quadratic_timesteps, needs_betas=True),
    "euler": Sampler(partial(sample_straight, corrected=False)),
    "heun": Sampler(partial(sample_straight, corrected=True), heun_timesteps),
}


def evaluated_timesteps(sampler: str, num_timesteps: int, num_steps: int) -> list[int]:
    """The timestep of every evaluation of the denoiser, in order."""
    return SAMPLERS[sampler].evaluations(num_timesteps, num_steps)


def sample(
    sampler: str, denoiser: Denoiser, x_T: torch.Tensor, *, schedule: ForwardProcess, num_steps: int,
    draw_noise: DrawNoise,
) -> torch.Tensor:
    """Run the named sampler from unit normal noise x_T (B, C, h, w) to x_0.

    `draw_noise` gives fresh unit normal noise of the same shape, once for each step of ddpm but the last; the other
    samplers are deterministic and never call it.
    """
    chosen = SAMPLERS.get(sampler)
    if chosen is None:
        raise ValueError(f"sampler {sampler!r}")
    if chosen.needs_betas and not isinstance(schedule, NoiseSchedule):
        raise ValueError(f"sampler {sampler!r} needs a schedule of betas")
    noise = {"draw_noise": draw_noise} if chosen.draws_noise else {}
    return chosen.run(denoiser, x_T, schedule=schedule, num_steps=num_steps, **noise)
