"""Samplers: ddpm and ddim equal diffusers', the solvers meet closed forms at their order, all recover a known x0."""

import warnings
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler

from config.errors import UserError
from config.load import build_config
from scheduler.linear_noise_scheduler import ForwardProcess, NoiseSchedule, make_flow_schedule, make_noise_schedule
from scheduler.objectives import epsilon_from_x0, make_target, predict_x0
from scheduler.samplers import (
    SAMPLERS,
    Denoiser,
    Sampler,
    evaluated_timesteps,
    quadratic_timesteps,
    sample,
    sample_with_solver,
    trailing_timesteps,
)

SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}
THEIR_PREDICTIONS = {"epsilon": "epsilon", "v": "v_prediction", "x0": "sample"}
BETAS = {"beta_start": 0.0015, "beta_end": 0.0195}
LevelsAt = Callable[[NoiseSchedule, int], dict[str, torch.Tensor]]


def schedule_of(name: str, num_timesteps: int = 1000) -> NoiseSchedule:
    return make_noise_schedule(name, num_timesteps=num_timesteps, **BETAS)


def start(seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(seed))


def refuse_noise() -> torch.Tensor:
    raise AssertionError("a deterministic sampler asked for noise")


def levels_at(schedule: NoiseSchedule, timestep: int) -> dict[str, torch.Tensor]:
    at = torch.tensor([timestep])
    return {"signal_level": schedule.signal_level(at), "noise_level": schedule.noise_level(at)}


def exact_levels_at(schedule: NoiseSchedule, timestep: int) -> dict[str, torch.Tensor]:
    """The same in float64."""
    abar = torch.tensor(schedule.alphas_cumprod[timestep], dtype=torch.float64)
    return {"signal_level": abar.sqrt(), "noise_level": (1 - abar).sqrt()}


def network_of(prediction_type: str, schedule: NoiseSchedule, levels_at: LevelsAt) -> Denoiser:
    """A network that is wrong in a smooth, nonlinear way: it predicts from x_0 = 0.8 tanh(x_t) + 0.1."""
    def network(x_t: torch.Tensor, timestep: int) -> torch.Tensor:
        levels = levels_at(schedule, timestep)
        x_0 = 0.8 * torch.tanh(x_t) + 0.1
        return make_target(prediction_type, x_0=x_0, noise=epsilon_from_x0(x_0, x_t=x_t, **levels), **levels)

    return network


def denoiser_of(prediction_type: str, schedule: NoiseSchedule, levels_at: LevelsAt = levels_at) -> Denoiser:
    network = network_of(prediction_type, schedule, levels_at)
    return lambda x, t: predict_x0(prediction_type, prediction=network(x, t), x_t=x, **levels_at(schedule, t))


@pytest.mark.parametrize("num_steps", [1, 10, 40, 1000])
@pytest.mark.parametrize("prediction_type", THEIR_PREDICTIONS)
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_ddpm_and_ddim_equal_diffusers(sampler: str, name: str, prediction_type: str, num_steps: int) -> None:
    """In float64; the steps divide 1000, since diffusers' ddim leaves its own grid where they do not.

    Why float64: with epsilon the first x_0 is a difference over sqrt(abar_T), which is 0.005 here, so that float32 leaves
    5e-5 between two correct programs, and how much of it is seen depends on the CPU. The next test holds float32.
    """
    schedule = schedule_of(name)
    common = {"beta_schedule": SCHEDULES[name], **BETAS, "timestep_spacing": "trailing", "clip_sample": False,
              "prediction_type": THEIR_PREDICTIONS[prediction_type]}
    theirs = DDPMScheduler(1000, **common) if sampler == "ddpm" else DDIMScheduler(1000, set_alpha_to_one=True, **common)
    # Theirs is a product of 1000 factors in float32, up to 6e-5 off at its end; test_schedule compares the schedules.
    theirs.alphas_cumprod = torch.from_numpy(schedule.alphas_cumprod)
    theirs.one, theirs.final_alpha_cumprod = torch.ones((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    theirs.set_timesteps(num_steps)
    assert theirs.timesteps.tolist() == trailing_timesteps(1000, num_steps)
    network, x = network_of(prediction_type, schedule, exact_levels_at), start().double()
    their_noise, our_noise = torch.Generator().manual_seed(7), torch.Generator().manual_seed(7)
    for timestep in theirs.timesteps:
        extra = {"generator": their_noise} if sampler == "ddpm" else {}
        x = theirs.step(network(x, int(timestep)), timestep, x, **extra).prev_sample
    ours = sample(sampler, denoiser_of(prediction_type, schedule, exact_levels_at), start().double(), schedule=schedule,
                  num_steps=num_steps, draw_noise=lambda: torch.randn(2, 3, 4, 4, generator=our_noise, dtype=torch.float64))
    # Their ddpm adds noise of 1e-10 to the last step; our ddim has float32 levels, and divides by 0.04 at the least.
    torch.testing.assert_close(ours, x, atol=1e-9 if sampler == "ddpm" else 5e-6, rtol=0)


@pytest.mark.parametrize("prediction_type", THEIR_PREDICTIONS)
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_float32_is_off_by_its_rounding_only(sampler: str, name: str, prediction_type: str) -> None:
    """One step from pure noise, the worst conditioned one: x_0 known, the error as large as rounding makes it."""
    schedule, x = schedule_of(name), start()
    found = sample(sampler, denoiser_of(prediction_type, schedule), x, schedule=schedule, num_steps=1,
                   draw_noise=refuse_noise)
    signal = float(np.sqrt(schedule.alphas_cumprod[-1])) if prediction_type == "epsilon" else 1.0
    assert (found - (0.8 * torch.tanh(x) + 0.1)).abs().max() <= 2 * torch.finfo(torch.float32).eps * x.abs().max() / signal


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


@pytest.mark.parametrize("num_timesteps", [2, 50, 97, 1000])
def test_quadratic_timesteps_are_different_and_run_from_the_last_to_zero(num_timesteps: int) -> None:
    assert quadratic_timesteps(num_timesteps, 1) == [num_timesteps - 1]
    for num_steps in range(2, num_timesteps + 1):
        timesteps = quadratic_timesteps(num_timesteps, num_steps)
        assert len(timesteps) == num_steps and timesteps[0] == num_timesteps - 1 and timesteps[-1] == 0
        assert np.diff(timesteps).max() < 0


@pytest.mark.parametrize("num_steps", [1, 2, 20, 61, 122, 1000])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_asks_for_exactly_its_timesteps(sampler: str, num_steps: int) -> None:
    asked: list[int] = []

    def denoiser(x: torch.Tensor, timestep: int) -> torch.Tensor:
        asked.append(timestep)
        return torch.zeros_like(x)

    sample(sampler, denoiser, start(), schedule=schedule_of("scaled_linear"), num_steps=num_steps, draw_noise=start)
    spacing = quadratic_timesteps if sampler in ("dpm-solver++", "unipc") else trailing_timesteps
    expected = spacing(1000, num_steps)
    if sampler == "heun":  # each step asks at both of its ends, the last one at its beginning
        expected = [t for pair in pairwise(expected) for t in pair] + expected[-1:]
    assert asked == expected


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
    ours = sample_with_solver(denoiser, start(), schedule=schedule, timesteps=trailing_timesteps(1000, 20), sampler=sampler)
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


def gaussian_flow(sampler: str, num_steps: int, *, std: float, at: int) -> tuple[float, float]:
    """Against the probability-flow ODE of x_0 ~ N(MU, std^2) under its exact denoiser.

    x_t ~ N(a MU, a^2 std^2 + s^2), and the flow keeps every point's quantile. Returns the largest distance to it on
    arriving at timestep `at`, and the standard deviation of the samples over the true one.
    """
    schedule = schedule_of("scaled_linear")
    states: dict[int, torch.Tensor] = {}

    def moments(timestep: int) -> tuple[float, float]:
        abar = float(schedule.alphas_cumprod[timestep])
        return abar**0.5, abar * std**2 + 1 - abar

    def denoiser(x: torch.Tensor, timestep: int) -> torch.Tensor:
        states[timestep] = x
        a, variance = moments(timestep)
        return MU + a * std**2 / variance * (x - a * MU)

    x_T = start().double()
    end = sample(sampler, denoiser, x_T, schedule=schedule, num_steps=num_steps, draw_noise=refuse_noise)
    a, variance = moments(999)
    quantile = (x_T - a * MU) / variance**0.5
    a, variance = moments(at)
    error = (states[at] - (a * MU + quantile * variance**0.5)).abs().max()
    return float(error), float(end.std() / (std * quantile.std()))


@pytest.mark.parametrize(("sampler", "at", "lowest", "highest"), [
    ("ddim", 199, 1.9, 2.1), ("dpm-solver++", 0, 3.5, 5.0), ("unipc", 0, 3.5, 12.0),
])
def test_solvers_meet_the_flow_of_a_gaussian_at_their_order(sampler: str, at: int, lowest: float, highest: float) -> None:
    """Twice the steps: half the error at order 1, a quarter at order 2; unipc's corrector gains one order more.

    Held at t = 0 for the solvers, whose timesteps end there, and at t = 199, which every grid here passes, for ddim.
    """
    errors = [gaussian_flow(sampler, num_steps, std=S, at=at)[0] for num_steps in (10, 20, 40)]
    assert all(lowest < errors[i] / errors[i + 1] < highest for i in range(2)), errors


@pytest.mark.parametrize("std", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("sampler", ["dpm-solver++", "unipc"])
def test_twenty_steps_keep_the_spread_of_fine_detail(sampler: str, std: float) -> None:
    """Ending at t = 49, as evenly spaced steps do, 45% of the spread would be lost at a standard deviation of 0.2."""
    assert gaussian_flow(sampler, 20, std=std, at=0)[1] == pytest.approx(1, abs=0.02)


def test_unknown_samplers_are_errors() -> None:
    with pytest.raises(ValueError, match="sampler 'leapfrog'"):
        sample("leapfrog", lambda x, _: x, start(), schedule=schedule_of("linear"), num_steps=2, draw_noise=start)


@pytest.mark.parametrize("num_steps", [1, 7, 40])
@pytest.mark.parametrize("name", SCHEDULES)
def test_euler_is_ddim_under_every_schedule(name: str, num_steps: int) -> None:
    schedule = schedule_of(name)
    denoiser = denoiser_of("v", schedule)
    runs = [sample(sampler, denoiser, start(), schedule=schedule, num_steps=num_steps, draw_noise=refuse_noise)
            for sampler in ("euler", "ddim")]
    torch.testing.assert_close(*runs, atol=2e-5, rtol=0)


def flow_of_a_gaussian(sampler: str, num_steps: int, std: float) -> float:
    """Largest error on arriving at t = 0.2 along a rectified flow of x_0 ~ N(MU, std^2) under its exact denoiser.

    x_t ~ N((1 - t) MU, (1 - t)^2 std^2 + t^2), and the flow keeps every point's quantile.
    """
    schedule = make_flow_schedule(1000)
    states: dict[int, torch.Tensor] = {}

    def moments(time: float) -> tuple[float, float]:
        return (1 - time) * MU, (1 - time) ** 2 * std**2 + time**2

    def denoiser(x: torch.Tensor, timestep: int) -> torch.Tensor:
        states[timestep] = x  # heun comes twice, the second time with the corrected state
        time = float(schedule.times[timestep])
        mean, variance = moments(time)
        return MU + (1 - time) * std**2 / variance * (x - mean)

    noise = start().double()
    sample(sampler, denoiser, noise, schedule=schedule, num_steps=num_steps, draw_noise=refuse_noise)
    mean, variance = moments(0.2)
    return float((states[199] - (mean + noise * variance**0.5)).abs().max())


@pytest.mark.parametrize(("sampler", "lowest", "highest"), [("euler", 1.8, 2.2), ("heun", 3.5, 5.0)])
def test_euler_and_heun_meet_the_rectified_flow_of_a_gaussian_at_their_order(
    sampler: str, lowest: float, highest: float
) -> None:
    errors = [flow_of_a_gaussian(sampler, num_steps, S) for num_steps in (10, 20, 40)]
    assert all(lowest < errors[i] / errors[i + 1] < highest for i in range(2)), errors
    assert errors[-1] < 0.05


@pytest.mark.parametrize("sampler", ["euler", "heun", "ddim"])
def test_a_single_step_of_a_rectified_flow_ends_at_the_mean(sampler: str) -> None:
    """At t = 1 there is noise alone, so that the best guess is the mean; a one-point distribution is hit in any steps."""
    schedule = make_flow_schedule(100)
    point = start(3)
    for num_steps in (1, 4, 100):
        found = sample(sampler, lambda _, __: point, start(), schedule=schedule, num_steps=num_steps,
                       draw_noise=refuse_noise)
        torch.testing.assert_close(found, point, atol=1e-5, rtol=0)


@pytest.mark.parametrize("sampler", ["ddpm", "dpm-solver++", "unipc"])
def test_samplers_of_betas_refuse_a_flow(sampler: str) -> None:
    with pytest.raises(ValueError, match="needs a schedule of betas"):
        sample(sampler, lambda x, _: x, start(), schedule=make_flow_schedule(10), num_steps=2, draw_noise=start)


def test_a_sampler_is_one_entry_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The config accepts its name, for the processes that it runs, and sampling runs it."""
    def guess(denoiser: Denoiser, x_T: torch.Tensor, *, schedule: ForwardProcess, num_steps: int) -> torch.Tensor:
        return denoiser(x_T, trailing_timesteps(schedule.num_timesteps, num_steps)[0])

    def load(**diffusion: str) -> str:
        raw = {"dataset_params": {"params": {"csv_file": "table.csv", "root_dir": "images"}},
               "train_params": {"task_name": "run"}, "autoencoder_params": {"pretrained": "vae"},
               "diffusion_params": diffusion, "sample_params": {"sampler": "guess"}}
        return build_config(raw, source="test").sample_params.sampler

    with pytest.raises(UserError, match=r"sampler: expected ddpm \| ddim"):
        load()
    monkeypatch.setitem(SAMPLERS, "guess", Sampler(guess))
    flow = {"schedule": "rectified_flow", "prediction_type": "velocity"}
    assert load() == load(**flow) == "guess" and evaluated_timesteps("guess", 1000, 2) == [999, 499]
    made = sample("guess", lambda x, _: x + 1, start(), schedule=schedule_of("linear"), num_steps=2, draw_noise=refuse_noise)
    torch.testing.assert_close(made, start() + 1)
    monkeypatch.setitem(SAMPLERS, "guess", Sampler(guess, needs_betas=True))
    with pytest.raises(UserError, match="guess does not go with"):
        load(**flow)
