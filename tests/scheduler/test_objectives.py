"""epsilon, v and x0: conversions that invert each other, a perfect prediction that costs nothing, and loss weights."""

import numpy as np
import pytest
import torch

from scheduler.linear_noise_scheduler import NoiseSchedule, make_flow_schedule, make_noise_schedule
from scheduler.objectives import epsilon_from_x0, loss_weights, make_target, predict_x0

TYPES = ("epsilon", "v", "x0")
SCHEDULE = make_noise_schedule("scaled_linear", num_timesteps=1000, beta_start=0.0015, beta_end=0.0195)


def draw() -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(3)
    x_0, noise = torch.randn(6, 4, 5, 5, generator=rng), torch.randn(6, 4, 5, 5, generator=rng)
    timesteps = torch.tensor([0, 1, 100, 500, 900, 999])
    a, s = SCHEDULE.signal_level(timesteps), SCHEDULE.noise_level(timesteps)
    return {"x_0": x_0, "noise": noise, "x_t": SCHEDULE.add_noise(x_0, noise, timesteps), "a": a, "s": s}


@pytest.mark.parametrize("prediction_type", TYPES)
def test_the_target_leads_back_to_x0_and_epsilon(prediction_type: str) -> None:
    d = draw()
    levels = {"signal_level": d["a"], "noise_level": d["s"]}
    target = make_target(prediction_type, x_0=d["x_0"], noise=d["noise"], **levels)
    x_0 = predict_x0(prediction_type, prediction=target, x_t=d["x_t"], **levels)
    torch.testing.assert_close(x_0, d["x_0"], atol=2e-4, rtol=0)  # epsilon divides by a signal level of 0.013 at t = 999
    epsilon = epsilon_from_x0(x_0, x_t=d["x_t"], **levels)
    torch.testing.assert_close(epsilon, d["noise"], atol=2e-5, rtol=0)


@pytest.mark.parametrize("source", TYPES)
@pytest.mark.parametrize("goal", TYPES)
def test_predictions_convert_into_each_other(source: str, goal: str) -> None:
    d = draw()
    levels = {"signal_level": d["a"], "noise_level": d["s"]}
    prediction = make_target(source, x_0=d["x_0"], noise=d["noise"], **levels)
    x_0 = predict_x0(source, prediction=prediction, x_t=d["x_t"], **levels)
    epsilon = epsilon_from_x0(x_0, x_t=d["x_t"], **levels)
    converted = make_target(goal, x_0=x_0, noise=epsilon, **levels)
    wanted = make_target(goal, x_0=d["x_0"], noise=d["noise"], **levels)
    torch.testing.assert_close(converted, wanted, atol=2e-4, rtol=0)


def test_targets_are_their_definitions() -> None:
    d = draw()
    levels = {"signal_level": d["a"], "noise_level": d["s"]}
    make = {t: make_target(t, x_0=d["x_0"], noise=d["noise"], **levels) for t in TYPES}
    assert make["epsilon"] is d["noise"] and make["x0"] is d["x_0"]
    # v is the velocity of x_t along the angle of the schedule: d x_t / d phi with a = cos phi, s = sin phi.
    phi, step = torch.atan2(d["s"], d["a"]).double(), 1e-6

    def at(angle: torch.Tensor) -> torch.Tensor:
        return angle.cos() * d["x_0"] + angle.sin() * d["noise"]

    torch.testing.assert_close(make["v"].double(), (at(phi + step) - at(phi - step)) / (2 * step), atol=1e-5, rtol=0)


@pytest.mark.parametrize("prediction_type", TYPES)
def test_a_perfect_prediction_of_x0_has_no_loss(prediction_type: str) -> None:
    """The network's own parametrisation of the truth equals the target: weighted squared error zero to rounding."""
    d = draw()
    levels = {"signal_level": d["a"], "noise_level": d["s"]}
    epsilon = epsilon_from_x0(d["x_0"], x_t=d["x_t"], **levels)
    perfect = make_target(prediction_type, x_0=d["x_0"], noise=epsilon, **levels)
    target = make_target(prediction_type, x_0=d["x_0"], noise=d["noise"], **levels)
    assert (perfect - target).square().mean() < 1e-10


@pytest.mark.parametrize("gamma", [1.0, 5.0])
@pytest.mark.parametrize("prediction_type", TYPES)
def test_min_snr_weights_equal_the_formula(prediction_type: str, gamma: float) -> None:
    weights = loss_weights(SCHEDULE, prediction_type, weighting="min_snr", min_snr_gamma=gamma)
    snr = SCHEDULE.alphas_cumprod / (1 - SCHEDULE.alphas_cumprod)
    formula = {"epsilon": np.minimum(1, gamma / snr), "v": np.minimum(snr, gamma) / (snr + 1),
               "x0": np.minimum(snr, gamma)}[prediction_type]
    assert weights.dtype == np.float64 and weights.shape == (1000,)
    np.testing.assert_allclose(weights, formula / formula.mean(), rtol=1e-12)
    assert weights.mean() == pytest.approx(1.0, abs=1e-12)


def test_min_snr_weighs_the_error_of_x0_alike_whatever_is_predicted() -> None:
    """One error of x0 costs the same through each prediction type, up to the scale that brings the mean to 1."""
    d = draw()
    timesteps = [0, 1, 100, 500, 900, 999]
    off = d["x_0"] + 0.1
    ratios = []
    for prediction_type in TYPES:
        levels = {"signal_level": d["a"].double(), "noise_level": d["s"].double()}
        weights = loss_weights(SCHEDULE, prediction_type, weighting="min_snr", min_snr_gamma=5.0)[timesteps]
        x_t = levels["signal_level"] * d["x_0"] + levels["noise_level"] * d["noise"]
        wrong = make_target(prediction_type, x_0=off, noise=epsilon_from_x0(off, x_t=x_t, **levels), **levels)
        right = make_target(prediction_type, x_0=d["x_0"], noise=d["noise"], **levels)
        ratios.append(weights * (wrong - right).double().square().mean(dim=(1, 2, 3)).numpy())
    for cost in ratios[1:]:
        np.testing.assert_allclose(cost / cost[0], ratios[0] / ratios[0][0], rtol=1e-4)


def test_uniform_weights_are_one_and_unknown_names_are_errors() -> None:
    assert (loss_weights(SCHEDULE, "v", weighting="uniform", min_snr_gamma=5.0) == 1).all()
    one = torch.ones(1)
    with pytest.raises(ValueError, match="weighting 'p2'"):
        loss_weights(SCHEDULE, "v", weighting="p2", min_snr_gamma=5.0)
    with pytest.raises(ValueError, match="prediction_type 'score'"):
        make_target("score", x_0=one, noise=one, signal_level=one, noise_level=one)
    with pytest.raises(ValueError, match="prediction_type 'score'"):
        predict_x0("score", prediction=one, x_t=one, signal_level=one, noise_level=one)


def test_weights_follow_any_schedule_of_the_class() -> None:
    schedule = NoiseSchedule(betas=np.array([0.5, 0.5]), alphas_cumprod=np.array([0.5, 0.25]))  # SNR 1 and 1/3
    weights = loss_weights(schedule, "x0", weighting="min_snr", min_snr_gamma=0.5)
    np.testing.assert_allclose(weights, np.array([0.5, 1 / 3]) / (5 / 12))


def test_velocity_is_the_derivative_of_the_straight_path_and_leads_back() -> None:
    d, schedule = draw(), make_flow_schedule(1000)
    timesteps = torch.tensor([0, 1, 100, 500, 900, 999])
    levels = {"signal_level": schedule.signal_level(timesteps), "noise_level": schedule.noise_level(timesteps)}
    x_t = schedule.add_noise(d["x_0"], d["noise"], timesteps)
    target = make_target("velocity", x_0=d["x_0"], noise=d["noise"], **levels)
    earlier = schedule.add_noise(d["x_0"], d["noise"], timesteps.clamp_min(1) - 1)
    moved = (x_t - earlier)[1:] * 1000  # over one thousandth of the time
    torch.testing.assert_close(target[1:], moved, atol=2e-3, rtol=0)
    x_0 = predict_x0("velocity", prediction=target, x_t=x_t, **levels)
    torch.testing.assert_close(x_0, d["x_0"], atol=1e-5, rtol=0)  # finite at pure noise too, unlike epsilon's
    assert (loss_weights(schedule, "velocity", weighting="uniform", min_snr_gamma=5.0) == 1).all()
    with pytest.raises(ValueError, match="weighting 'min_snr'"):
        loss_weights(schedule, "velocity", weighting="min_snr", min_snr_gamma=5.0)
