"""Training of the demo's small model: ours as the training command runs it, and diffusers' UNet2DModel of equal FLOPs."""

import torch
from accelerate import Accelerator
from torch import nn

from config.load import load_config
from config.schema import Config
from dataset.order import SampleOrder, StepDraws, draw_step, generator, normal
from models.ema import ExponentialMovingAverage
from models.unet import count_parameters
from tools.benchmarks import rivals
from tools.benchmarks.findings import Findings, Ratio
from tools.benchmarks.limit import MATMUL
from tools.benchmarks.workers import Repeat, Setup, interleave, timed
from tools.runtime.estimate import count_step_flops
from tools.runtime.training import (
    Batch,
    DiffusionLoss,
    Meters,
    TrainState,
    latent_shape,
    lr_factor,
    make_optimizer,
    make_unet,
    timestep_draws,
    to_device,
    train_step,
)

OURS, DIFFUSERS = "demo_step/ours", "demo_step/diffusers"
_NUM_IMAGES = 256  # latents that are trained on; their values do not matter to the time
_STEPS = 12  # in one repeat


def measure(setup: Setup) -> Findings:
    """Images a second of both, and what of a step is not the network's."""
    results = interleave([MATMUL, OURS, DIFFUSERS], setup, repeats=3 if setup.quick else 7)
    matmul_rate = results[MATMUL]["flops_per_second"]
    ours, theirs = results[OURS], results[DIFFUSERS]
    config = load_config(setup.demo_config)
    batch = config.train_params.ldm_batch_size
    rate = (ours["flops"] / ours["seconds"]) / (theirs["flops"] / theirs["seconds"])
    rest = ours["around_seconds"] / ours["seconds"]
    found = Findings(f"3. training of the small model, {setup.demo_config}, batch {batch}")
    for name, result in (("ours, the whole training step", ours), ("diffusers' UNet2DModel, AdamW only", theirs)):
        found.lines.append(f"{name:<36}{batch / result['seconds']:>8.1f} images/s{result['flops'] / 1e9:>8.1f} GFLOP a step"
                           f"{result['flops'] / result['seconds'] / 1e9:>8.0f} GFLOP/s")
    found.lines.append(f"matrix products at {matmul_rate / 1e9:.0f} GFLOP/s; timed alone, the network's passes are "
                       f"{ours['network_seconds'] / ours['seconds']:.1%} of our step, optimizer, clipping and average "
                       f"{ours['update_seconds'] / ours['seconds']:.1%}, and the same step around a network of one "
                       f"convolution, which is all else, {rest:.1%}")
    found.ratios = [
        Ratio("small model: images/s at equal FLOPs against diffusers", rate, 1.3),
        Ratio("small model: share of a step in Python, draws and log", rest, 0.05, at_most=True, percent=True),
    ]
    found.numbers = {"variants": results, "images_per_second": batch / ours["seconds"], "parameters": ours["parameters"]}
    return found


class Training:
    """The training step of the command on made-up latents, on this process's share of the batch.

    With another `network` than the config's it is the step around that one.
    """

    def __init__(self, config: Config, *, cpu: bool = True, network: nn.Module | None = None) -> None:
        self.config = config
        self.accelerator = Accelerator(cpu=cpu, mixed_precision=config.train_params.mixed_precision)
        self.device = self.accelerator.device
        params = config.train_params
        network = make_unet(config) if network is None else network
        network = network.to(self.device)
        self.num_parameters = count_parameters(network)
        average = ExponentialMovingAverage(network, params.ema_decay)
        if params.compile_mode != "off":
            network.compile(mode=params.compile_mode)
        model, optimizer = self.accelerator.prepare(network, make_optimizer(network, config))
        self.state = TrainState(model, average, optimizer, Meters(self.device))
        self._loss_of = DiffusionLoss(config.diffusion_params, null_label=config.num_classes, device=self.device)
        self._labels = torch.arange(_NUM_IMAGES) % config.num_classes
        self._order = SampleOrder(self._labels.tolist(), seed=params.seed)
        self._latents = normal(generator(0, "benchmark"), (_NUM_IMAGES, *latent_shape(config)))
        share = params.ldm_batch_size // self.accelerator.num_processes
        self._mine = slice(self.accelerator.process_index * share, (self.accelerator.process_index + 1) * share)

    def step(self) -> None:
        """Draw, train, and add to the meters that the log reads."""
        params, step = self.config.train_params, self.state.step
        draws = draw_step(self._order, step, batch_size=params.ldm_batch_size,
                          num_views=len(self.config.dataset_params.symmetries), latent_shape=latent_shape(self.config),
                          timesteps=timestep_draws(self.config.diffusion_params))
        lr = params.ldm_lr * lr_factor(params.lr_schedule, share=0.5, step=step, warmup_steps=params.warmup_steps)
        train_step(self.state, draws.slice(self._mine.start, self._mine.stop), self._read, loss_of=self._loss_of,
                   accelerator=self.accelerator, config=self.config, lr=lr)
        if self.state.step % self.config.logging_params.interval_steps == 0:
            self.state.meters.read(self.accelerator)

    def step_network(self) -> None:
        """The network's forward and backward pass on one batch, without anything around them."""
        rows = slice(0, self._mine.stop - self._mine.start)
        timesteps = torch.full((rows.stop,), 500)
        batch = Batch(self._latents[rows], self._labels[rows])
        self._loss_of(self.state.model, batch, noise=self._latents[rows], timesteps=timesteps).backward()

    def update(self) -> None:
        """What changes weights and average, with the gradients that the last pass left."""
        self.accelerator.clip_grad_norm_(self.state.model.parameters(), 1.0)
        self.state.optimizer.step()
        self.state.ema.update(self.accelerator.unwrap_model(self.state.model))

    def _read(self, part: StepDraws) -> Batch:
        return Batch(to_device(self._latents[part.positions], self.device),
                     to_device(self._labels[part.positions], self.device))


class OneConvolution(nn.Module):
    """Next to nothing in place of the network, so that a step takes the time of all that lies around it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


def prepare_ours(setup: Setup) -> Repeat:
    """The whole step, the network's passes alone, the update alone, and the step around next to no network, in turn."""
    config = load_config(setup.demo_config)
    training, around = Training(config), Training(config, network=OneConvolution(config.dataset_params.z_channels))
    flops = count_step_flops(config, config.train_params.ldm_batch_size)
    training.step()
    around.step()

    def repeat() -> dict[str, float]:
        seconds = {"seconds": 0.0, "network_seconds": 0.0, "update_seconds": 0.0, "around_seconds": 0.0}
        training.state.optimizer.zero_grad(set_to_none=True)
        for _ in range(_STEPS):
            seconds["seconds"] += timed(training.step)
            seconds["network_seconds"] += timed(training.step_network)
            seconds["update_seconds"] += timed(training.update)
            training.state.optimizer.zero_grad(set_to_none=True)
            seconds["around_seconds"] += timed(around.step)
        return {**{name: value / _STEPS for name, value in seconds.items()}, "flops": flops,
                "parameters": training.num_parameters}

    return repeat


def prepare_diffusers(setup: Setup) -> Repeat:
    """A plain loop: prediction, loss, AdamW; no average, no clipping, no log."""
    config = load_config(setup.demo_config)
    batch = config.train_params.ldm_batch_size
    wanted = count_step_flops(config, batch)
    network, flops = rivals.unconditional_unet(config, flops=wanted, batch_size=batch)
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.train_params.ldm_lr)
    x, timesteps = normal(generator(0, "benchmark"), (batch, *latent_shape(config))), torch.full((batch,), 500)

    def step() -> None:
        (rivals.run_plain(network, x, timesteps) - x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step()
    return lambda: {"seconds": sum(timed(step) for _ in range(_STEPS)) / _STEPS, "flops": flops}


VARIANTS = {OURS: prepare_ours, DIFFUSERS: prepare_diffusers}
