"""The noise schedule against diffusers and against what its definition says."""

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from config.errors import UserError
from scheduler.linear_noise_scheduler import make_flow_schedule, make_noise_schedule

DIFFUSERS_NAMES = {"linear": "linear", "scaled_linear": "scaled_linear", "cosine": "squaredcos_cap_v2"}


@pytest.mark.parametrize("num_timesteps", [2, 50, 1000])
@pytest.mark.parametrize("schedule", DIFFUSERS_NAMES)
def test_schedule_equals_diffusers(schedule: str, num_timesteps: int) -> None:
    ours = make_noise_schedule(schedule, num_timesteps=num_timesteps, beta_start=0.0015, beta_end=0.0195)
    theirs = DDPMScheduler(num_timesteps, beta_schedule=DIFFUSERS_NAMES[schedule], beta_start=0.0015, beta_end=0.0195)
    np.testing.assert_allclose(ours.betas, theirs.betas.numpy(), atol=1e-6)
    np.testing.assert_allclose(ours.alphas_cumprod, theirs.alphas_cumprod.numpy(), atol=1e-5)


@pytest.mark.parametrize("schedule", DIFFUSERS_NAMES)
def test_schedule_is_float64_and_loses_signal_at_every_step(schedule: str) -> None:
    made = make_noise_schedule(schedule, num_timesteps=1000, beta_start=0.0015, beta_end=0.0195)
    assert made.betas.dtype == made.alphas_cumprod.dtype == np.float64 and made.num_timesteps == 1000
    assert (np.diff(made.alphas_cumprod) < 0).all() and 0 < made.alphas_cumprod[-1] < made.alphas_cumprod[0] < 1
    assert ((made.betas > 0) & (made.betas <= 0.999)).all()


def test_levels_and_forward_process_follow_the_closed_form() -> None:
    schedule = make_noise_schedule("scaled_linear", num_timesteps=1000, beta_start=0.0015, beta_end=0.0195)
    timesteps = torch.tensor([0, 17, 500, 999])
    a, s = schedule.signal_level(timesteps), schedule.noise_level(timesteps)
    assert a.shape == s.shape == (4, 1, 1, 1) and a.dtype == torch.float32
    torch.testing.assert_close(a.square() + s.square(), torch.ones(4, 1, 1, 1))
    rng = torch.Generator().manual_seed(0)
    x_0, noise = torch.randn(4, 3, 5, 5, generator=rng), torch.randn(4, 3, 5, 5, generator=rng)
    theirs = DDPMScheduler(1000, beta_schedule="scaled_linear", beta_start=0.0015, beta_end=0.0195)
    torch.testing.assert_close(
        schedule.add_noise(x_0, noise, timesteps), theirs.add_noise(x_0, noise, timesteps), atol=1e-5, rtol=0
    )


def test_an_unknown_schedule_is_refused() -> None:
    with pytest.raises(UserError, match="expected linear, scaled_linear or cosine, found 'sigmoid'"):
        make_noise_schedule("sigmoid", num_timesteps=10, beta_start=0.1, beta_end=0.2)


def test_the_straight_path_goes_from_the_latent_to_noise_at_constant_speed() -> None:
    schedule = make_flow_schedule(1000)
    timesteps = torch.tensor([0, 249, 499, 999])
    rng = torch.Generator().manual_seed(0)
    x_0, noise = torch.randn(4, 3, 5, 5, generator=rng), torch.randn(4, 3, 5, 5, generator=rng)
    x_t = schedule.add_noise(x_0, noise, timesteps)
    time = torch.tensor([0.001, 0.25, 0.5, 1.0]).view(-1, 1, 1, 1)
    torch.testing.assert_close(x_t, torch.lerp(x_0, noise, time))
    assert torch.equal(x_t[-1], noise[-1]) and schedule.num_timesteps == 1000
