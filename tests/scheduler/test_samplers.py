"""Samplers: ddpm and ddim equal diffusers', the solvers meet closed forms at their order, all recover a known x0."""

import warnings

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler

from scheduler.linear_noise_scheduler import NoiseSchedule, make_noise_schedule
from scheduler.objectives import epsilon_from_x0, make_target, predict_x0
from scheduler.samplers import Denoiser, sample, trailing_timesteps

SAMPLERS = ("ddpm", "ddim", "dpm-solver++", "unipc")
SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}
THEIR_PREDICTIONS = {"epsilon": "epsilon", "v": "v_prediction", "x0": "sample"}
BETAS = {"beta_start": 0.0015, "beta_end": 0.0195}


def schedule_of(name: str, num_timesteps: int = 1000) -> NoiseSchedule:
    return make_noise_schedule(name, num_timesteps=num_timesteps, **BETAS)


def start(seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(seed))


def refuse_noise() -> torch.Tensor:
    raise AssertionError("a deterministic sampler asked for noise")


def network_of(prediction_type: str, schedule: NoiseSchedule) -> Denoiser:
    """A network that is wrong in a smooth, nonlinear way: it predicts from x_0 = 0.8 tanh(x_t) + 0.1."""
    def network(x_t: torch.Tensor, timestep: int) -> torch.Tensor:
        levels = levels_at(schedule, timestep)
        x_0 = 0.8 * torch.tanh(x_t) + 0.1
        return make_target(prediction_type, x_0=x_0, noise=epsilon_from_x0(x_0, x_t=x_t, **levels), **levels)

    return network


def levels_at(schedule: NoiseSchedule, timestep: int) -> dict[str, torch.Tensor]:
    at = torch.tensor([timestep])
    return {"signal_level": schedule.signal_level(at), "noise_level": schedule.noise_level(at)}


def denoiser_of(prediction_type: str, schedule: NoiseSchedule) -> Denoiser:
    network = network_of(prediction_type, schedule)
    return lambda x, t: predict_x0(prediction_type, prediction=network(x, t), x_t=x, **levels_at(schedule, t))


@pytest.mark.parametrize("num_steps", [1, 10, 40, 1000])
@pytest.mark.parametrize("prediction_type", THEIR_PREDICTIONS)
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_ddpm_and_ddim_equal_diffusers(sampler: str, name: str, prediction_type: str, num_steps: int) -> None:
    """The steps divide 1000, since diffusers' ddim leaves its own grid where they do not."""
    schedule = schedule_of(name)
    common = {"beta_schedule": SCHEDULES[name], **BETAS, "timestep_spacing": "trailing", "clip_sample": False,
              "prediction_type": THEIR_PREDICTIONS[prediction_type]}
    theirs = DDPMScheduler(1000, **common) if sampler == "ddpm" else DDIMScheduler(1000, set_alpha_to_one=True, **common)
    if name == "cosine":  # their product of 1000 factors in float32 is 6e-5 off at its end; test_schedule holds it to 1e-5
        theirs.alphas_cumprod = torch.from_numpy(schedule.alphas_cumprod)
    theirs.set_timesteps(num_steps)
    assert theirs.timesteps.tolist() == trailing_timesteps(1000, num_steps)
    network, x = network_of(prediction_type, schedule), start()
    their_noise, our_noise = torch.Generator().manual_seed(7), torch.Generator().manual_seed(7)
    for timestep in theirs.timesteps:
        extra = {"generator": their_noise} if sampler == "ddpm" else {}
        x = theirs.step(network(x, int(timestep)), timestep, x, **extra).prev_sample
    ours = sample(sampler, denoiser_of(prediction_type, schedule), start(), schedule=schedule, num_steps=num_steps,
                  draw_noise=lambda: torch.randn(2, 3, 4, 4, generator=our_noise))
    torch.testing.assert_close(ours, x, atol=1e-5, rtol=0)


@pytest.mark.parametrize("num_steps", [5, 40])
def test_ddpm_on_a_subset_has_the_respaced_posterior_variance(num_steps: int) -> None:
    """With x_0 held at zero, two draws that differ by unit noise at one step end apart by that step's deviation."""
    schedule = schedule_of("scaled_linear")
    theirs = DDPMScheduler(1000, beta_schedule="scaled_linear", **BETAS, timestep_spacing="trailing")
    theirs.set_timesteps(num_steps)
    timesteps = trailing_timesteps(1000, num_steps)
    seen: list[torch.Tensor] = []

    def denoiser(x: torch.Tensor, _: int) -> torch.Tensor:
        seen.append(x.clone())
        return torch.zeros_like(x)

    zero = torch.zeros(1, 1, 1, 1)
    draws = iter([torch.ones(1, 1, 1, 1)] * (num_steps - 1))
    sample("ddpm", denoiser, zero, schedule=schedule, num_steps=num_steps, draw_noise=lambda: next(draws))
    assert next(draws, None) is None  # once for each step but the last
    for place, timestep in enumerate(timesteps[:-1]):
        abar, before = schedule.alphas_cumprod[timestep], schedule.alphas_cumprod[timesteps[place + 1]]
        carried = np.sqrt(abar / before) * (1 - before) / (1 - abar) * seen[place].item()
        deviation = seen[place + 1].item() - carried
        assert deviation**2 == pytest.approx(theirs._get_variance(timestep).item(), abs=1e-5)


@pytest.mark.parametrize("num_timesteps", [2, 50, 97, 1000])
def test_trailing_timesteps_fall_from_the_last_and_are_even(num_timesteps: int) -> None:
    for num_steps in range(1, num_timesteps + 1):
        timesteps = trailing_timesteps(num_timesteps, num_steps)
        assert len(timesteps) == num_steps and timesteps[0] == num_timesteps - 1 and timesteps[-1] >= 0
        gaps = -np.diff([*timesteps, -1])
        assert gaps.min() >= 1 and np.abs(gaps - num_timesteps / num_steps).max() <= 1


@pytest.mark.parametrize("num_steps", [1, 2, 20, 61, 122, 1000])  # 61 and 122: diffusers' own spacing ends in t = -1
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_asks_for_exactly_the_trailing_timesteps(sampler: str, num_steps: int) -> None:
    asked: list[int] = []

    def denoiser(x: torch.Tensor, timestep: int) -> torch.Tensor:
        asked.append(timestep)
        return torch.zeros_like(x)

    sample(sampler, denoiser, start(), schedule=schedule_of("scaled_linear"), num_steps=num_steps, draw_noise=start)
    assert asked == trailing_timesteps(1000, num_steps)


@pytest.mark.parametrize(("sampler", "solver"), [
    ("dpm-solver++", DPMSolverMultistepScheduler), ("unipc", UniPCMultistepScheduler),
])
def test_solvers_equal_diffusers_own_loop(sampler: str, solver: type) -> None:
    schedule = schedule_of("scaled_linear")
    theirs = solver(trained_betas=schedule.betas, prediction_type="sample", solver_order=2, timestep_spacing="trailing")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # numpy's, of how diffusers reads a tensor
        theirs.set_timesteps(20)
    denoiser, x = denoiser_of("x0", schedule), start()
    for timestep in theirs.timesteps:
        x = theirs.step(denoiser(x, int(timestep)), timestep, x).prev_sample
    ours = sample(sampler, denoiser, start(), schedule=schedule, num_steps=20, draw_noise=refuse_noise)
    torch.testing.assert_close(ours, x, atol=1e-5, rtol=0)


@pytest.mark.parametrize("num_steps", [1, 3, 15, 61, 250])
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_perfect_denoiser_of_one_point_recovers_it(sampler: str, name: str, num_steps: int) -> None:
    point = start(5)
    result = sample(sampler, lambda _, __: point, start(), schedule=schedule_of(name), num_steps=num_steps,
                    draw_noise=lambda: start(num_steps))
    torch.testing.assert_close(result, point, atol=1e-5, rtol=0)
    assert result.dtype == torch.float32


MU, S = 0.3, 0.5  # of the Gaussian whose flow is known


def gaussian_errors(sampler: str, num_steps: int) -> tuple[float, float]:
    """Largest distance to the probability-flow ODE of x_0 ~ N(MU, S^2) under its exact denoiser, at t = 199 and at the end.

    x_t ~ N(a MU, a^2 S^2 + s^2), and the flow keeps every point's quantile; at the end that is x_0 = MU + quantile S.
    """
    schedule = schedule_of("scaled_linear")
    states: dict[int, torch.Tensor] = {}

    def moments(timestep: int) -> tuple[float, float]:
        abar = float(schedule.alphas_cumprod[timestep])
        return abar**0.5, abar * S**2 + 1 - abar

    def denoiser(x: torch.Tensor, timestep: int) -> torch.Tensor:
        states[timestep] = x
        a, variance = moments(timestep)
        return MU + a * S**2 / variance * (x - a * MU)

    x_T = start().double()
    end = sample(sampler, denoiser, x_T, schedule=schedule, num_steps=num_steps, draw_noise=refuse_noise)
    a, variance = moments(999)
    quantile = (x_T - a * MU) / variance**0.5
    a, variance = moments(199)
    inside = (states[199] - (a * MU + quantile * variance**0.5)).abs().max()
    return float(inside), float((end - (MU + quantile * S)).abs().max())


@pytest.mark.parametrize(("sampler", "lowest", "highest"), [
    ("ddim", 1.9, 2.1), ("dpm-solver++", 3.5, 4.5), ("unipc", 3.5, 9.0),
])
def test_solvers_meet_the_flow_of_a_gaussian_at_their_order(sampler: str, lowest: float, highest: float) -> None:
    """Twice the steps: half the error at order 1, a quarter at order 2; unipc's corrector gains one order more.

    Held at t = 199, which every grid here passes, before rounding (float32 levels, about 3e-6) counts.
    """
    errors = [gaussian_errors(sampler, num_steps)[0] for num_steps in (10, 20, 40)]
    assert all(lowest < errors[i] / errors[i + 1] < highest for i in range(2))
    assert gaussian_errors(sampler, 1000)[0] < {"ddim": 1e-3}.get(sampler, 1e-5)


@pytest.mark.parametrize("sampler", ["ddim", "dpm-solver++", "unipc"])
def test_the_jump_from_the_last_timestep_to_no_noise_is_of_first_order(sampler: str) -> None:
    """All samplers end in x_0 := E[x_0 | x_t] at t = T / steps - 1. This narrows a Gaussian whatever the solver before."""
    errors = [gaussian_errors(sampler, num_steps)[1] for num_steps in (125, 250, 500, 1000)]
    assert all(1.7 < errors[i] / errors[i + 1] < 2.2 for i in range(3))
    assert errors[-1] < 0.015


def test_unknown_samplers_are_errors() -> None:
    with pytest.raises(ValueError, match="sampler 'euler'"):
        sample("euler", lambda x, _: x, start(), schedule=schedule_of("linear"), num_steps=2, draw_noise=start)
