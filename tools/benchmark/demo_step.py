"""Training of the demo's small model: the training command itself, and diffusers' UNet2DModel of equal FLOPs."""

import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import nn

from config.load import load_config
from config.schema import Config, TableParams
from dataset.images import write_png
from dataset.order import StepDraws, generator, normal
from dataset.storage import read_json, write_text
from models.ema import ExponentialMovingAverage
from models.unet import count_parameters
from tools.benchmark import rivals
from tools.benchmark.findings import Findings, Ratio
from tools.benchmark.limit import MATMUL
from tools.benchmark.workers import BenchmarkSetup, Numbers, Repeat, interleave, timed
from tools.diffusion.conditions import join_view, null_levels
from tools.diffusion.estimate import count_step_flops
from tools.diffusion.networks import make_unet
from tools.diffusion.train_state import Meters, TrainState
from tools.diffusion.training import (
    Batch,
    DiffusionLoss,
    latent_shape,
    lr_factor,
    make_optimizer,
    open_draws,
    to_device,
    train_step,
)
from tools.runtime.processes import ranks_of
from tools.runtime.run_directory import RunDirectory

OURS, AROUND, PARTS, DIFFUSERS = "demo_step/ours", "demo_step/around", "demo_step/parts", "demo_step/diffusers"
_NUM_IMAGES = 64  # that are trained on; what they show does not matter to the time
_STEPS = 24  # in one repeat
_NAMES = {OURS: "ours, the training command", DIFFUSERS: "diffusers' UNet2DModel, AdamW only"}


def measure(setup: BenchmarkSetup) -> Findings:
    """Images a second of both, and what of a step is not the network's."""
    config = load_config(setup.demo_config)
    write_images(Path(setup.scratch), config.dataset_params.params)
    results = interleave([MATMUL, OURS, AROUND, PARTS, DIFFUSERS], setup, repeats=3 if setup.quick else 7)
    return conclude(results, config=setup.demo_config, batch=config.train_params.ldm_batch_size)


def conclude(results: dict[str, Numbers], *, config: str, batch: int) -> Findings:
    """The findings of the measured numbers of each variant."""
    ours, theirs, parts = results[OURS], results[DIFFUSERS], results[PARTS]
    rate = (ours["flops"] / ours["seconds"]) / (theirs["flops"] / theirs["seconds"])
    rest = results[AROUND]["seconds"] / ours["seconds"]
    found = Findings(f"3. training of the small model, {config}, batch {batch}")
    for name, label in _NAMES.items():
        seconds, flops = results[name]["seconds"], results[name]["flops"]
        found.lines.append(f"{label:<36}{batch / seconds:>8.1f} images/s{flops / 1e9:>8.1f} GFLOP a step"
                           f"{flops / seconds / 1e9:>8.0f} GFLOP/s")
    found.lines.append(f"matrix products at {results[MATMUL]['flops_per_second'] / 1e9:.0f} GFLOP/s; timed alone, the "
                       f"network's passes are {parts['network_seconds'] / ours['seconds']:.1%} of our step, clipping, "
                       f"optimizer and average {parts['update_seconds'] / ours['seconds']:.1%}, and the command with one "
                       f"convolution as its network, which is all else, {rest:.1%}")
    found.ratios = [
        Ratio("small model: FLOP/s against diffusers", rate, 1.3),
        Ratio("small model: share of a step in Python, draws and log", rest, 0.05, at_most=True, percent=True),
    ]
    found.numbers = {"variants": results, "images_per_second": batch / ours["seconds"], "parameters": parts["parameters"]}
    return found


def write_images(folder: Path, params: TableParams) -> None:
    """A table with all columns that the config reads, and noise for images, most for training, the rest for validation."""
    conditions, num_classes = params.conditions, len(params.class_names)
    lines = [",".join([params.image_column, params.label_column, "SPLIT", *conditions])]
    rng = generator(0, "benchmark")
    for index in range(_NUM_IMAGES + num_classes):
        shape = params.image_size, params.image_size, params.im_channels
        write_png(folder / "demo_step" / f"{index}.png", rng.integers(0, 256, shape, dtype=np.uint8))
        levels = [str(condition.levels[index % len(condition.levels)]) for condition in conditions.values()]
        lines.append(",".join([f"{index}.png", str(index % num_classes), "train" if index < _NUM_IMAGES else "val",
                               *levels]))
    write_text(folder / "demo_step.csv", "\n".join(lines) + "\n")


class Training:
    """The training step on made-up latents, on this process's part of the batch."""

    def __init__(self, config: Config, *, cpu: bool = True) -> None:
        self.config = config
        unused = DistributedDataParallelKwargs(
            find_unused_parameters="context_class" in config.dataset_params.condition_types)
        self.accelerator = Accelerator(cpu=cpu, mixed_precision=config.train_params.mixed_precision,
                                       kwargs_handlers=[unused])
        self.device = self.accelerator.device
        params = config.train_params
        network = make_unet(config).to(self.device)
        self.num_parameters = count_parameters(network)
        average = ExponentialMovingAverage(network, params.ema_decay)
        if params.compile_mode != "off":
            network.compile(mode=params.compile_mode)
        model, optimizer = self.accelerator.prepare(network, make_optimizer(network, config.train_params))
        self.state = TrainState(model, average, optimizer, Meters(self.device))
        self._nulls = null_levels(config.dataset_params.params)
        self._loss_of = DiffusionLoss(config.diffusion_params, null_label=config.num_classes, null_levels=self._nulls,
                                      device=self.device)
        self._labels = torch.arange(_NUM_IMAGES) % config.num_classes
        self._latents = normal(generator(0, "benchmark"), (_NUM_IMAGES, *latent_shape(config.dataset_params)))
        ranks = ranks_of(self.accelerator)
        self._draw = open_draws(params, config.dataset_params, config.diffusion_params, self._labels.numpy(), ranks=ranks)
        self._local_batch = params.ldm_batch_size // ranks.count

    def step(self) -> None:
        """Draw, train, and read the meters as often as the log does."""
        params, step = self.config.train_params, self.state.step
        lr = params.ldm_lr * lr_factor(params.lr_schedule, fraction=0.5, step=step, warmup_steps=params.warmup_steps)
        train_step(self.state, self._draw(step), self._read, loss_of=self._loss_of, accelerator=self.accelerator,
                   params=params, dropout=self.config.unet_params.dropout, lr=lr)
        self.state.step += 1
        if self.state.step % self.config.logging_params.interval_steps == 0:
            self.state.meters.read(self.accelerator)

    def step_network(self) -> None:
        """The network's forward and backward pass on one batch, without anything around them."""
        rows = torch.arange(self._local_batch) % _NUM_IMAGES
        batch = self._batch(rows, torch.zeros_like(rows))
        timesteps = torch.full((len(rows),), 500, device=self.device)
        self._loss_of(self.state.model, batch, noise=batch.latents, timesteps=timesteps).backward()

    def update(self) -> None:
        """What changes weights and average, with the gradients that the last pass left."""
        self.accelerator.clip_grad_norm_(self.state.model.parameters(), 1.0)
        self.state.optimizer.step()
        self.state.ema.update(self.accelerator.unwrap_model(self.state.model))
        self.state.optimizer.zero_grad(set_to_none=True)

    def _read(self, part: StepDraws) -> Batch:
        return self._batch(part.positions, part.views)

    def _batch(self, rows: torch.Tensor, views: torch.Tensor) -> Batch:
        levels = torch.zeros(len(rows), len(self._nulls), dtype=torch.int64)
        conditions = join_view(levels, views, sees_view=self.config.dataset_params.symmetry_conditioning)
        return Batch(to_device(self._latents[rows], self.device), to_device(self._labels[rows], self.device),
                     None if conditions is None else to_device(conditions, self.device))


class OneConvolution(nn.Module):
    """Next to nothing in place of the network, so that a step takes the time of all that lies around it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return self.conv(x)


def prepare_ours(setup: BenchmarkSetup) -> Repeat:
    """The training command from its first step to its last, from a latent cache that is there."""
    return _prepare_command(setup, _load_command(), "ours")


def prepare_around(setup: BenchmarkSetup) -> Repeat:
    """The same with next to no network."""
    command = _load_command()
    vars(command)["make_unet"] = lambda config: OneConvolution(config.dataset_params.z_channels)
    return _prepare_command(setup, command, "around")


def prepare_parts(setup: BenchmarkSetup) -> Repeat:
    """The network's passes alone and the update alone, in turn."""
    training = Training(load_config(setup.demo_config))
    training.step()

    def repeat() -> Numbers:
        network = update = 0.0
        for _ in range(_STEPS):
            network += timed(training.step_network)
            update += timed(training.update)
        return {"network_seconds": network / _STEPS, "update_seconds": update / _STEPS,
                "parameters": training.num_parameters}

    return repeat


def prepare_diffusers(setup: BenchmarkSetup) -> Repeat:
    """A plain loop: prediction, loss, AdamW; no average, no clipping, no log."""
    config = load_config(setup.demo_config)
    batch = config.train_params.ldm_batch_size
    wanted = count_step_flops(config.dataset_params, config.unet_params, batch)
    network, flops = rivals.unconditional_unet(config.dataset_params, config.unet_params, flops=wanted, batch_size=batch,
                                               seed=config.train_params.seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.train_params.ldm_lr)
    x = normal(generator(0, "benchmark"), (batch, *latent_shape(config.dataset_params)))
    timesteps = torch.full((batch,), 500)

    def steps() -> None:
        for _ in range(_STEPS):
            (rivals.run_plain(network, x, timesteps) - x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    steps()
    return lambda: {"seconds": timed(steps) / _STEPS, "flops": flops}


def _load_command() -> ModuleType:
    """The training command, on the CPU. No file of the libraries imports a command; here one is what is measured."""
    os.environ["ACCELERATE_USE_CPU"] = "true"
    return importlib.import_module("train_ddpm_cond")


def _prepare_command(setup: BenchmarkSetup, command: ModuleType, name: str) -> Repeat:
    folder, runs = Path(setup.scratch) / "demo_step_runs", 0

    def train(steps: int) -> float:
        """Seconds a step by the command's own clock, which runs from the first step to the last."""
        nonlocal runs
        runs += 1
        config = load_config(setup.demo_config, [*_overrides(setup), f"train_params.max_steps={steps}",
                                                 f"train_params.task_name={folder / name / str(runs)}"])
        command.train(config)
        timing = read_json(RunDirectory(Path(config.train_params.task_name)).timing)
        return config.train_params.ldm_batch_size / timing["images_per_second"]

    train(1)  # makes the cache
    config = load_config(setup.demo_config)
    flops = count_step_flops(config.dataset_params, config.unet_params, config.train_params.ldm_batch_size)
    return lambda: {"seconds": train(_STEPS), "flops": flops}


def _overrides(setup: BenchmarkSetup) -> Sequence[str]:
    """The made-up images in place of the config's, and next to no validation at the end."""
    folder = Path(setup.scratch)
    return (
        f"dataset_params.params.csv_file={folder / 'demo_step.csv'}",
        f"dataset_params.params.root_dir={folder / 'demo_step'}", "dataset_params.params.split_column=SPLIT",
        "dataset_params.params.split_fractions=null", "dataset_params.params.group_column=null",
        "dataset_params.params.covariate_columns=[]", f"dataset_params.directory_latents={folder / 'demo_step_latents'}",
        "train_params.epochs=1000", "train_params.ldm_validate_epochs=1000", "train_params.validation_draws=1",
        "train_params.num_samples=1", "sample_params.num_steps=2", "logging_params.wandb_mode=disabled",
    )


VARIANTS = {OURS: prepare_ours, AROUND: prepare_around, PARTS: prepare_parts, DIFFUSERS: prepare_diffusers}
