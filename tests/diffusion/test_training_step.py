"""The training step: micro-steps add up, what is not finite changes nothing, and rates follow their schedule."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch.utils._python_dispatch import TorchDispatchMode

from config.schema import Config
from dataset.order import SampleOrder, StepDraws, TimestepDraws, draw_step
from models.autoencoder import LatentStatistics
from models.ema import ExponentialMovingAverage
from tools.diffusion import training
from tools.diffusion.networks import make_unet
from tools.diffusion.train_state import Meters, TrainState
from tools.diffusion.training import (
    Batch,
    DiffusionLoss,
    latent_shape,
    lr_factor,
    make_optimizer,
    train_step,
    validation_loss,
    weigh_channels,
)
from tools.runtime.loop import MOST_SKIPPED

LABELS = torch.tensor([0] * 20 + [1] * 12)


class Trainer:
    """One training on fixed latents of 32 images, some of which may be bad."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.accelerator = Accelerator(mixed_precision=config.train_params.mixed_precision, cpu=True)
        network = make_unet(config)
        with torch.no_grad():  # a fresh network predicts zero and most of it has no gradient
            network.conv_out.weight.normal_(std=0.05, generator=torch.Generator().manual_seed(3))
        average = ExponentialMovingAverage(network, 0.99)
        model, optimizer = self.accelerator.prepare(network, make_optimizer(network, config.train_params))
        self.state = TrainState(model, average, optimizer, Meters(self.accelerator.device))
        self.loss_of = DiffusionLoss(config.diffusion_params, null_label=config.num_classes, device=torch.device("cpu"))
        self.order = SampleOrder(LABELS.tolist(), seed=1)
        rng = torch.Generator().manual_seed(2)
        self.latents = torch.randn(len(LABELS), *latent_shape(config.dataset_params), generator=rng)
        self.gradients: list[torch.Tensor] = []

    def step(self, *, bad: float | None = None) -> tuple[float, float]:
        """One step; what it adds to the sums of loss and gradient norm, if anything."""
        before = self.state.meters.to_values()["meters"]
        draws = draw_step(self.order, self.state.step, batch_size=self.config.train_params.ldm_batch_size, num_views=1,
                          latent_shape=latent_shape(self.config.dataset_params), timesteps=TimestepDraws(1000))

        def read(part: StepDraws) -> Batch:
            latents = self.latents[part.positions].clone()
            if bad is not None:
                latents[-1, 0, 0, 0] = bad
            return Batch(latents, LABELS[part.positions])

        train_step(self.state, draws, read, loss_of=self.loss_of, accelerator=self.accelerator,
                   params=self.config.train_params, dropout=self.config.unet_params.dropout,
                   lr=0.003)
        self.state.step += 1
        after = self.state.meters.to_values()["meters"]
        return after["loss"] - before["loss"], after["grad_norm"] - before["grad_norm"]

    def skipped(self) -> tuple[int, int]:
        """Skipped steps in all and in a row."""
        values = self.state.meters.to_values()
        return values["skipped_steps"], values["skipped_in_a_row"]

    def snapshot(self) -> dict[str, torch.Tensor]:
        tensors, _ = self.state.to_checkpoint()
        return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def capture_gradients(trainer: Trainer) -> list[torch.Tensor]:
    """Gradients as the optimizer sees them in the first step."""
    seen: list[torch.Tensor] = []
    handle = trainer.state.optimizer.optimizer.register_step_pre_hook(
        lambda optimizer, *_: seen.extend(p.grad.clone() for p in optimizer.param_groups[0]["params"]))
    trainer.step()
    handle.remove()
    return seen


@pytest.mark.parametrize("micro_steps", [2, 4])
def test_micro_steps_add_up_to_the_whole_batch(make_config: Callable[..., Config], micro_steps: int) -> None:
    whole = capture_gradients(Trainer(make_config()))
    parts = capture_gradients(Trainer(make_config(train_params={"gradient_accumulation_steps": micro_steps})))
    scale = torch.cat([gradient.flatten() for gradient in whole]).norm()
    difference = torch.cat([(a - b).flatten() for a, b in zip(whole, parts, strict=True)]).norm()
    assert scale > 0
    assert difference < 1e-5 * scale


def test_gradients_are_clipped_to_the_norm_and_reported_before(make_config: Callable[..., Config]) -> None:
    free = Trainer(make_config(train_params={"clip_grad_norm": 0}))
    loss, norm = free.step()
    trainer = Trainer(make_config(train_params={"clip_grad_norm": norm / 2}))
    gradients = capture_gradients(trainer)
    assert torch.cat([gradient.flatten() for gradient in gradients]).norm() == pytest.approx(norm / 2, rel=1e-4)
    assert Trainer(make_config(train_params={"clip_grad_norm": norm / 2})).step() == (loss, norm)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(make_config: Callable[..., Config], bad: float) -> None:
    trainer = Trainer(make_config(train_params={"gradient_accumulation_steps": 2}))
    trainer.step()
    before, updates = trainer.snapshot(), trainer.state.ema.num_updates
    assert trainer.step(bad=bad) == (0, 0)
    after = trainer.snapshot()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    state = trainer.state
    assert (state.step, *trainer.skipped(), state.ema.num_updates) == (2, 1, 1, updates)
    trainer.step()
    assert (state.step, *trainer.skipped()) == (3, 1, 0)
    moved = trainer.snapshot()
    assert any(not torch.equal(after[name], moved[name]) for name in after)
    assert all(torch.isfinite(tensor).all() for tensor in moved.values())


class HostReads(TorchDispatchMode):
    """Counts the operations that give a tensor's value to the host, each of which waits for a GPU to finish."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if operation in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            self.count += 1
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize("bad", [None, math.nan])
def test_nothing_in_a_step_is_read_by_the_host(make_config: Callable[..., Config], bad: float | None) -> None:
    trainer = Trainer(make_config(train_params={"gradient_accumulation_steps": 2}))
    draws = draw_step(trainer.order, 0, batch_size=trainer.config.train_params.ldm_batch_size, num_views=1,
                      latent_shape=latent_shape(trainer.config.dataset_params), timesteps=TimestepDraws(1000))
    latents = trainer.latents if bad is None else torch.full_like(trainer.latents, bad)
    with HostReads() as reads:
        train_step(trainer.state, draws, lambda part: Batch(latents[part.positions], LABELS[part.positions]),
                   loss_of=trainer.loss_of, accelerator=trainer.accelerator, params=trainer.config.train_params,
                   dropout=0.0, lr=0.003)
    assert reads.count == 0
    with HostReads() as reads:
        trainer.state.meters.read(trainer.accelerator)
    assert reads.count > 0
    assert trainer.skipped() == ((0, 0) if bad is None else (1, 1))


@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_a_compiled_network_learns_the_same_under_the_same_names(make_config: Callable[..., Config]) -> None:
    """By the backend that traces both passes and generates no code, which would take a minute."""
    plain, compiled = Trainer(make_config()), Trainer(make_config())
    compiled.accelerator.unwrap_model(compiled.state.model).compile(backend="aot_eager")
    for _ in range(3):
        assert compiled.step() == pytest.approx(plain.step(), rel=1e-4)
    assert compiled.snapshot().keys() == plain.snapshot().keys()


def test_bad_steps_in_a_row_are_counted_until_a_good_one(make_config: Callable[..., Config]) -> None:
    trainer = Trainer(make_config())
    for _ in range(MOST_SKIPPED - 1):
        trainer.step(bad=math.nan)
    assert trainer.state.meters.longest_row() == MOST_SKIPPED - 1
    trainer.state.meters.read(trainer.accelerator)
    trainer.step()
    trainer.step(bad=math.nan)
    assert trainer.skipped() == (MOST_SKIPPED, 1)


def test_the_state_goes_through_a_checkpoint_unchanged(make_config: Callable[..., Config]) -> None:
    config = make_config()
    trainer, other = Trainer(config), Trainer(config)
    for _ in range(3):
        trainer.step()
    tensors, values = trainer.state.to_checkpoint()
    other.state.restore({name: tensor.clone() for name, tensor in tensors.items()}, values)
    assert other.step() == trainer.step()
    first, second = trainer.snapshot(), other.snapshot()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert other.state.meters.to_values() == trainer.state.meters.to_values()


def test_the_loss_of_a_perfect_network_is_zero_and_of_a_silent_one_the_power_of_the_target(
    make_config: Callable[..., Config]
) -> None:
    generator = torch.Generator().manual_seed(0)
    batch = Batch(torch.randn(16, 4, 8, 8, generator=generator), torch.zeros(16, dtype=torch.int64))
    noise, timesteps = torch.randn(16, 4, 8, 8, generator=generator), torch.arange(0, 960, 60)
    for prediction_type in ("epsilon", "v", "x0", "velocity"):
        keys: dict[str, Any] = {"diffusion_params": {"prediction_type": prediction_type}}
        if prediction_type == "velocity":
            keys["diffusion_params"]["schedule"], keys["sample_params"] = "rectified_flow", {"sampler": "euler"}
        params = make_config(**keys).diffusion_params
        loss_of = DiffusionLoss(params, null_label=2, device=torch.device("cpu"))
        a, s = loss_of.schedule.signal_level(timesteps), loss_of.schedule.noise_level(timesteps)
        target = {"epsilon": noise, "v": a * noise - s * batch.latents, "x0": batch.latents,
                  "velocity": noise - batch.latents}[prediction_type]

        class Perfect(torch.nn.Module):
            def forward(self, x_t: torch.Tensor, t: torch.Tensor, labels: torch.Tensor,
                        answer: torch.Tensor = target) -> torch.Tensor:
                assert x_t.shape == answer.shape and len(t) == len(labels)
                return answer

        assert loss_of(Perfect(), batch, noise=noise, timesteps=timesteps) == 0
        silent = loss_of.per_image(lambda x, *_: torch.zeros_like(x), batch, noise=noise, timesteps=timesteps)
        torch.testing.assert_close(silent, target.square().mean(dim=(1, 2, 3)))


def test_a_channel_weighs_as_much_as_it_holds_signal(make_config: Callable[..., Config]) -> None:
    torch.testing.assert_close(weigh_channels([0.9, 0.0, 0.3]), torch.tensor([2.25, 0.0, 0.75]))
    generator = torch.Generator().manual_seed(0)
    batch = Batch(torch.randn(3, 4, 8, 8, generator=generator), torch.zeros(3, dtype=torch.int64))
    noise, timesteps = torch.randn(3, 4, 8, 8, generator=generator), torch.tensor([10, 400, 900])
    statistics = LatentStatistics(mean=(0.0,) * 4, std=(1.0,) * 4, gray=True, signal_shares=(1.0, 0.0, 0.5, 0.5))

    def losses(**changes: str) -> torch.Tensor:
        params = make_config(diffusion_params={"prediction_type": "epsilon", **changes}).diffusion_params
        loss_of = DiffusionLoss(params, null_label=2, device=torch.device("cpu"), statistics=statistics)
        return loss_of.per_image(lambda x, *_: torch.zeros_like(x), batch, noise=noise, timesteps=timesteps)

    powers = noise.square().mean(dim=(2, 3))
    torch.testing.assert_close(losses(channel_weighting="signal"), (2 * powers[:, 0] + powers[:, 2] + powers[:, 3]) / 4)
    torch.testing.assert_close(losses(), powers.mean(dim=1))


def test_validation_weighs_images_not_batches(make_config: Callable[..., Config]) -> None:
    loss_of = DiffusionLoss(make_config().diffusion_params, null_label=2, device=torch.device("cpu"))
    network = make_unet(make_config()).eval()
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 5, 4, 8, 8, generator=generator)
    labels, timesteps = torch.tensor([0, 1, 0, 1, 0]), torch.tensor([1, 200, 500, 800, 999])

    def cut(*sizes: int) -> list[tuple[Batch, torch.Tensor, torch.Tensor]]:
        parts = [torch.split(values, list(sizes)) for values in (latents, labels, noise, timesteps)]
        return [(Batch(x, y), n, t) for x, y, n, t in zip(*parts, strict=True)]

    whole = validation_loss(network, iter(cut(5)), loss_of=loss_of)
    assert validation_loss(network, iter(cut(4, 1)), loss_of=loss_of) == pytest.approx(whole, rel=1e-6)


def test_meters_leave_out_what_is_not_finite() -> None:
    meters, accelerator = Meters(torch.device("cpu")), Accelerator(cpu=True)
    for loss in (1.0, math.nan, 3.0):
        meters.add(loss=torch.tensor(loss), grad_norm=torch.tensor(1.0), applied=torch.tensor(math.isfinite(loss)))
    assert meters.read(accelerator) == {"loss": 2.0, "grad_norm": 1.0, "skipped_steps": 1}
    assert meters.read(accelerator) == {"loss": None, "grad_norm": None, "skipped_steps": 1}


def test_the_longest_row_of_skipped_steps_is_kept_until_it_is_read() -> None:
    """On a GPU the meters are read every few steps, after good ones perhaps."""
    meters, accelerator = Meters(torch.device("cpu")), Accelerator(cpu=True)

    def add(*applied: bool) -> None:
        for step in applied:
            meters.add(loss=torch.tensor(1.0), grad_norm=torch.tensor(1.0), applied=torch.tensor(step))

    add(*[False] * MOST_SKIPPED, True)
    assert meters.longest_row() == MOST_SKIPPED
    meters.read(accelerator)
    add(True, False)
    assert meters.longest_row() == 1
    meters.read(accelerator)
    assert meters.longest_row() == 1  # it may go on
    add(False)
    assert meters.longest_row() == 2


def test_rates_rise_linearly_and_fall_as_named() -> None:
    assert [lr_factor("constant", fraction=0.5, step=step, warmup_steps=4) for step in range(5)] == [0.25, 0.5, 0.75, 1, 1]
    assert lr_factor("linear", fraction=0.25, step=9, warmup_steps=0) == 0.75
    assert lr_factor("cosine", fraction=0.5, step=9, warmup_steps=0) == pytest.approx(0.5)
    for schedule in ("linear", "cosine"):
        assert lr_factor(schedule, fraction=0.0, step=0, warmup_steps=0) == 1
        assert lr_factor(schedule, fraction=1.0, step=9, warmup_steps=0) == pytest.approx(0, abs=1e-12)
        assert lr_factor(schedule, fraction=1.5, step=9, warmup_steps=0) == pytest.approx(0, abs=1e-12)


def test_the_seed_decides_the_initial_weights(make_config: Callable[..., Config]) -> None:
    config = make_config()
    first, again = make_unet(config).state_dict(), make_unet(config).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = make_unet(replace(config, train_params=replace(config.train_params, seed=9))).state_dict()
    assert not torch.equal(first["conv_in.weight"], other["conv_in.weight"])


def test_where_no_kernel_skips_the_host_does(make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    """Apple's fused AdamW applies a step that is not finite; simulated by a CPU that is not trusted to skip it."""
    assert "mps" not in training._SKIPPING_DEVICES
    assert Trainer(make_config()).state.optimizer.optimizer.defaults["fused"]
    monkeypatch.setattr(training, "_SKIPPING_DEVICES", ())
    trainer = Trainer(make_config())
    assert not trainer.state.optimizer.optimizer.defaults["fused"]
    trainer.step()
    before = trainer.snapshot()
    trainer.step(bad=math.nan)
    assert trainer.skipped() == (1, 1)
    after = trainer.snapshot()
    assert all(torch.equal(after[name], before[name]) for name in before)
    trainer.step()
    assert trainer.skipped() == (1, 0)
    assert any(not torch.equal(value, before[name]) for name, value in trainer.snapshot().items())
