"""Train the class-conditional latent diffusion model that a config describes.

    python train_ddpm_cond.py --config config/demo.yaml [--set section.key=value ...] [--dry-run]

    accelerate launch train_ddpm_cond.py --config config/embryo.yaml      # several GPUs

Run the same command again to resume exactly where the run stopped.
"""

import argparse
import copy
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import nn

from config.errors import UserError
from config.load import config_to_yaml, load_config
from config.schema import Config, LaunchParams, TrainParams
from dataset.ranks import Ranks
from dataset.storage import hash_json
from models.ema import ExponentialMovingAverage
from tools.diffusion import estimate
from tools.diffusion.conditions import null_levels
from tools.diffusion.latent_source import open_training_data
from tools.diffusion.networks import hash_base, make_unet
from tools.diffusion.project import Project
from tools.diffusion.train_state import Meters, TrainState
from tools.diffusion.training import (
    DiffusionLoss,
    lr_factor,
    make_optimizer,
    open_draws,
    read_batch,
    require_selectable,
    train_step,
)
from tools.diffusion.validation import NullValidator, Validator
from tools.diffusion.warm_start import StartWeights, describe_scale, load_start, open_start, require_same_kind
from tools.evaluation.encoders.published_weights import list_downloads
from tools.runtime.command import add_config, run_command
from tools.runtime.loop import Loop
from tools.runtime.machine import choose_device
from tools.runtime.processes import open_accelerator, ranks_of
from tools.runtime.resume import Saving
from tools.runtime.run_directory import RunDirectory, open_run
from tools.runtime.tracking import open_tracker

_REMEDY = "start again with another task_name and a lower ldm_lr, more warmup_steps, or mixed_precision bf16 or no"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_config(parser)
    parser.add_argument("--dry-run", action="store_true", help="print the config and what the run will take, then stop")
    arguments = parser.parse_args(argv)
    config = load_config(arguments.config, arguments.set)
    if arguments.dry_run:
        device, project = choose_device(), Project.open(config)
        words = ["--config", arguments.config, *(word for text in arguments.set for word in ("--set", text))]
        print(config_to_yaml(config))
        print("WHAT THIS RUN WILL TAKE (estimates; nothing was started)")
        print(estimate.describe_run(config.dataset_params, config.unet_params, config.train_params,
                                    project.every_image.records, device))
        missing = estimate.list_preparations(project, project.records, config_words=words,
                                             selection_metric=config.train_params.selection_metric)
        missing += list_downloads(config.evaluation_params, config.dataset_params.lpips_path)
        print("\n".join(["", "BEFORE TRAINING", *(missing or ["nothing is missing"])]))
        return
    train(config)


def train(config: Config) -> None:
    """Train for the configured number of steps; resume where an earlier run of the same config stopped."""
    accelerator = make_accelerator(config.train_params, config.launch_params, config.dataset_params.condition_types)
    ranks = ranks_of(accelerator)
    with open_run(Path(config.train_params.task_name), ranks, "train_ddpm_cond.py") as run:
        run_training(config, accelerator, ranks, run)


def run_training(config: Config, accelerator: Accelerator, ranks: Ranks, run: RunDirectory) -> None:
    """The whole run, on each process."""
    params, device, log_interval = config.train_params, accelerator.device, config.logging_params.interval_steps
    project = Project.open(config)
    has_val = require_selectable(params.selection_metric, project.records)
    run.check_resumable(config)
    data = open_training_data(project, device, has_val=has_val, for_pretrained=config.unet_params.pretrained is not None,
                              ranks=ranks)
    steps_per_epoch, num_steps = estimate.count_steps(params, len(data.train.labels))

    start, record, base_sha256 = *open_start(params, run), hash_base(config.unet_params)
    state, averaged = start_state(config, accelerator, start, project=project, tell=accelerator.print)
    identity = data.identity if base_sha256 is None else hash_json([data.identity, base_sha256])
    saving = Saving(run.checkpoints, identity, key="train_params.task_name",
                    depends_on="images, labels, VAE or pretrained UNet", every_steps=params.checkpoint_interval_steps,
                    keep=params.keep_last_checkpoints)
    state.resume(saving, tell=ranks.is_first)
    if state.step >= num_steps:
        accelerator.print(f"{run.root}: all {num_steps} steps are done; best weights in {run.weights(config.train_params)}")
        return
    run.write_config(config)
    if start is not None and data.codec.statistics is not None:
        accelerator.print(describe_scale(start, data.codec.statistics))

    loss_of = DiffusionLoss(config.diffusion_params, null_label=config.num_classes, null_levels=null_levels(project.table),
                            device=device, statistics=data.codec.statistics)
    validator = NullValidator() if not run.writes else Validator(
        config, project, run, data, averaged, loss_of=loss_of, device=device, record=record, base_sha256=base_sha256)
    tracker = open_tracker(config, run, step=state.step)
    draw = open_draws(params, project.data, config.diffusion_params, data.train.labels, ranks=ranks)
    read = partial(read_batch, data.train, data.codec, device=device, sees_view=project.data.symmetry_conditioning)
    reading_interval = 1 if device.type == "cpu" else log_interval  # reading makes the host wait for a GPU
    shown = ""
    with Loop(state, num_steps, title="training", images_per_step=params.ldm_batch_size, remedy=_REMEDY, saving=saving,
              tracker=tracker, timing=run.timing, ranks=ranks, show=config.logging_params.progress_bar,
              stop_interval=1 if ranks.count == 1 else reading_interval) as loop:
        for step in loop.steps():
            lr = params.ldm_lr * lr_factor(params.lr_schedule, fraction=step / num_steps, step=step,
                                           warmup_steps=params.warmup_steps)
            train_step(state, draw(step), read, loss_of=loss_of, accelerator=accelerator, params=params,
                       dropout=config.unet_params.dropout, lr=lr)
            loop.end_step(shown)
            if loop.is_due(reading_interval):
                loop.refuse_divergence(state.meters.longest_row())
            if loop.is_due(log_interval):
                row = {"step": state.step, "epoch": step // steps_per_epoch, "lr": lr, **state.meters.read(accelerator)}
                shown = "" if row["loss"] is None else f"loss {row['loss']:.4f}"
                tracker.log(row, timings={"images_per_second": loop.pace.rate})
            if loop.is_due(params.ldm_validate_epochs * steps_per_epoch):
                loop.bar.say(validator.validate(state, tracker))
    accelerator.print(f"trained to step {state.step} in {loop.pace.minutes:.1f} min ({loop.pace.rate:.0f} images/s); best "
                      f"weights (step {state.best_step}) in {run.weights(config.train_params)}")


def start_state(
    config: Config, accelerator: Accelerator, start: StartWeights | None, *, project: Project, tell: Callable[[str], None]
) -> tuple[TrainState, nn.Module]:
    """The state before the first step, and a second network for the averaged weights; says what `start` gave."""
    params, device = config.train_params, accelerator.device
    network = make_unet(config)
    if start is not None:
        require_same_kind(start, project.data, config.unet_params, config.diffusion_params, vae_sha256=project.vae_sha256,
                          other_vae=params.start_from_other_vae)
        for line in load_start(network, start, project.data, other_vae=params.start_from_other_vae):
            tell(line)
    network = network.to(device)
    frozen = {id(weight): weight for weight in network.parameters() if not weight.requires_grad}
    averaged = copy.deepcopy(network, frozen).eval().requires_grad_(False)  # which shares what is not trained
    average = ExponentialMovingAverage(network, params.ema_decay, params.ema_relative_length)
    if params.compile_mode != "off":
        network.compile(mode=params.compile_mode)
    model, optimizer = accelerator.prepare(network, make_optimizer(network, params))
    return TrainState(model, average, optimizer, Meters(device), accelerator.scaler), averaged


def make_accelerator(train: TrainParams, launch: LaunchParams, condition_types: Sequence[str]) -> Accelerator:
    """The accelerator for this machine.

    Raises:
        UserError: the device lacks the precision, or the batch cannot be split over the processes.
    """
    on_cpu = not torch.cuda.is_available() and not torch.backends.mps.is_available()
    if train.mixed_precision == "fp16" and on_cpu:
        raise UserError("train_params.mixed_precision: fp16 needs a GPU, but this machine has none; choose bf16 or no")
    # With one context token cross-attention needs no queries and keys, so these parameters get no gradient.
    unused = DistributedDataParallelKwargs(find_unused_parameters="context_class" in condition_types)
    accelerator = open_accelerator(launch, unused, train=train)
    pieces = accelerator.num_processes * train.gradient_accumulation_steps
    if train.ldm_batch_size % pieces:
        raise UserError(f"train_params.ldm_batch_size {train.ldm_batch_size} cannot be split over "
                        f"{accelerator.num_processes} processes x {train.gradient_accumulation_steps} micro-steps; choose "
                        f"a multiple of {pieces}")
    return accelerator


if __name__ == "__main__":
    run_command(main)
