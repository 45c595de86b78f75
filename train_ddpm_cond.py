"""Train the class-conditional latent diffusion model that a config describes.

    python train_ddpm_cond.py --config config/demo.yaml [--set section.key=value ...] [--dry-run]

    accelerate launch train_ddpm_cond.py --config config/embryo.yaml      # several GPUs

Running the same command again goes on exactly where the run stopped.
"""

import argparse
import copy
import sys
from collections.abc import Sequence
from contextlib import closing, nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs

from config.errors import UserError
from config.load import config_to_yaml, load_config
from config.schema import Config
from dataset.order import SampleOrder, draw_step
from models.ema import ExponentialMovingAverage
from tools.diffusion import estimate
from tools.diffusion.conditions import null_levels
from tools.diffusion.data import open_images
from tools.diffusion.latent_source import open_training_data
from tools.diffusion.training import (
    DiffusionLoss,
    Meters,
    TrainState,
    latent_shape,
    lr_factor,
    make_optimizer,
    make_unet,
    read_batch,
    refuse_divergence,
    require_selectable,
    timestep_draws,
    train_step,
)
from tools.diffusion.validation import Validator
from tools.evaluation.encoders.published_weights import list_downloads
from tools.runtime import checkpoints
from tools.runtime.command import Interrupted, add_config, deferred_signals, run_command
from tools.runtime.machine import choose_device
from tools.runtime.processes import open_accelerator, ranks_of, unwrap
from tools.runtime.progress import Pace, Progress
from tools.runtime.run_directory import RunDirectory, owned
from tools.runtime.tracking import Tracker, WandbMirror


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_config(parser)
    parser.add_argument("--dry-run", action="store_true", help="print the resolved config, then what the run will take")
    arguments = parser.parse_args(argv)
    config = load_config(arguments.config, arguments.set)
    if arguments.dry_run:
        device = choose_device()
        records = open_images(config, None).records
        words = ["--config", arguments.config, *(word for text in arguments.set for word in ("--set", text))]
        print(config_to_yaml(config))
        print("WHAT THIS RUN WILL TAKE (estimates; nothing was started)")
        print(estimate.describe_run(config, records, device))
        missing = [*estimate.list_preparations(config, records, config_words=words), *list_downloads(config)]
        print("\n".join(["", "BEFORE TRAINING", *(missing or ["nothing is missing"])]))
        return
    train(config)


def train(config: Config) -> None:
    """Train until the configured number of steps, resuming where an earlier run of the same config stopped."""
    accelerator = make_accelerator(config)
    run = RunDirectory(Path(config.train_params.task_name))
    if not accelerator.is_main_process:
        run_training(config, accelerator, run)
        return
    with owned(run.root, "train_ddpm_cond.py"):
        run_training(config, accelerator, run)


def run_training(config: Config, accelerator: Accelerator, run: RunDirectory) -> None:
    """The whole of a run, on each process."""
    params, device = config.train_params, accelerator.device
    records = open_images(config, None).records
    has_val = require_selectable(config, records)
    if accelerator.is_main_process:
        run.check_resumable(config)
    data = open_training_data(config, device, has_val=has_val, ranks=ranks_of(accelerator))
    steps_per_epoch, num_steps = estimate.count_steps(config, len(data.train.labels))
    order = SampleOrder(data.train.labels, seed=params.seed, balance=params.balanced_sampling)

    network = make_unet(config).to(device)
    averaged = copy.deepcopy(network).eval().requires_grad_(False)
    average = ExponentialMovingAverage(network, params.ema_decay, params.ema_relative_length)
    if params.compile_mode != "off":
        network.compile(mode=params.compile_mode)
    model, optimizer = accelerator.prepare(network, make_optimizer(network, config))
    state = TrainState(model, average, optimizer, Meters(device))
    resume(state, run, config, accelerator, data_identity=data.identity)
    if state.step >= num_steps:
        accelerator.print(f"{run.root}: all {num_steps} steps are done; best weights in "
                          f"{run.weights(config)}")
        return
    if accelerator.is_main_process:
        run.write_config(config)

    unknown = null_levels(config)
    loss_of = DiffusionLoss(config.diffusion_params, null_label=config.num_classes, null_levels=unknown, device=device,
                            statistics=data.codec.statistics)
    validator = Validator(config, run, data, averaged, loss_of, device)
    tracker = start_tracker(config, run, accelerator, step=state.step)
    share = params.ldm_batch_size // accelerator.num_processes
    mine = slice(accelerator.process_index * share, (accelerator.process_index + 1) * share)
    sees_view = config.dataset_params.symmetry_conditioning
    timesteps = timestep_draws(config.diffusion_params)
    validation_interval = params.ldm_validate_epochs * steps_per_epoch
    shown = ""

    with nullcontext() if tracker is None else closing(tracker), deferred_signals() as stop, \
            Pace(params.ldm_batch_size, None if tracker is None else run.timing) as pace, \
            Progress("training", num_steps, unit="steps", initial=state.step,
                     enabled=config.logging_params.progress_bar and tracker is not None) as bar:
        while state.step < num_steps:
            step = state.step
            draws = draw_step(order, step, batch_size=params.ldm_batch_size, num_views=len(config.dataset_params.symmetries),
                              latent_shape=latent_shape(config), timesteps=timesteps, num_conditions=len(unknown))
            lr = params.ldm_lr * lr_factor(params.lr_schedule, share=step / num_steps, step=step,
                                           warmup_steps=params.warmup_steps)
            train_step(state, draws.slice(mine.start, mine.stop),
                       lambda part: read_batch(data.train, data.codec, part, device, sees_view=sees_view),
                       loss_of=loss_of, accelerator=accelerator, config=config, lr=lr)
            rate = pace.add_step()
            seconds_left = (num_steps - state.step) * params.ldm_batch_size / rate
            bar.update(state.step, f"{shown}{rate:.0f} images/s, {seconds_left:.0f} s left")

            last = state.step == num_steps
            reading = state.step % config.logging_params.interval_steps == 0 or last
            if reading or device.type == "cpu":  # reading has the host wait for a GPU
                refuse_divergence(state)
            if reading:
                row = {"step": state.step, "epoch": step // steps_per_epoch, "lr": lr, **state.meters.read(accelerator)}
                shown = "" if row["loss"] is None else f"loss {row['loss']:.4f}, "
                if tracker is not None:
                    tracker.log(row, timings={"images_per_second": rate})
            if tracker is not None and (state.step % validation_interval == 0 or last):
                bar.say(validator.validate(state, tracker))
            asking = reading or device.type == "cpu" or accelerator.num_processes == 1
            stopping = asking and agree_to_stop(accelerator, bool(stop))
            if tracker is not None and (state.step % params.checkpoint_interval_steps == 0 or last or stopping):
                save(state, run, config, accelerator, tracker, data_identity=data.identity)
            if stopping and not last:
                accelerator.wait_for_everyone()  # a process that ends has its launcher end the one that saves
                raise Interrupted(stop.signal_number or 15, f"saved at step {state.step}; run the same command to go on")
    if tracker is not None:
        print(f"trained to step {state.step} in {pace.minutes:.1f} min ({rate:.0f} images/s); best weights "
              f"(step {state.best_step}) in {run.weights(config)}")


def make_accelerator(config: Config) -> Accelerator:
    """The accelerator for this machine.

    Raises:
        UserError: a precision that the device lacks, or a batch that cannot be split over the processes.
    """
    train = config.train_params
    on_cpu = not torch.cuda.is_available() and not torch.backends.mps.is_available()
    if train.mixed_precision == "fp16" and on_cpu:
        raise UserError("train_params.mixed_precision: fp16 needs a GPU, this machine has none; choose bf16 or no")
    # With one context token cross-attention needs no queries and keys, so these parameters get no gradient.
    unused = DistributedDataParallelKwargs(find_unused_parameters="context_class" in config.dataset_params.condition_types)
    accelerator = open_accelerator(config, unused, trains=True)
    pieces = accelerator.num_processes * train.gradient_accumulation_steps
    if train.ldm_batch_size % pieces:
        raise UserError(f"train_params.ldm_batch_size {train.ldm_batch_size} cannot be split over "
                        f"{accelerator.num_processes} processes x {train.gradient_accumulation_steps} micro-steps; choose "
                        f"a multiple of {pieces}")
    return accelerator


def start_tracker(config: Config, run: RunDirectory, accelerator: Accelerator, *, step: int) -> Tracker | None:
    """The log, on the main process only."""
    if not accelerator.is_main_process:
        return None
    return Tracker(run.metrics, WandbMirror(config, folder=run.root, name=run.root.name), step=step)


def resume(state: TrainState, run: RunDirectory, config: Config, accelerator: Accelerator, *, data_identity: str) -> None:
    """Put the newest intact resume checkpoint into `state`, where there is one.

    Raises:
        UserError: resuming is switched off, or the images, labels or VAE are not those of the run.
    """
    found = checkpoints.read_newest_checkpoint(run.checkpoints)
    if found is None:
        return
    if not config.train_params.resume_training:
        raise UserError(f"{run.root} holds a run and train_params.resume_training is false; set it to true to go on, or "
                        "give another task_name to start anew")
    tensors, values, warnings = found
    if values["data_identity"] != data_identity:
        raise UserError(f"{run.root} was trained on other images, labels or another VAE than the config's paths hold now; "
                        "restore them to go on, or give another train_params.task_name to start anew")
    if accelerator.is_main_process:
        for warning in warnings:
            print(f"warning: {warning}", file=sys.stderr)
        print(f"going on at step {values['step']}")
    state.restore(unwrap(accelerator, state.model), accelerator.scaler, tensors, values)


def save(
    state: TrainState, run: RunDirectory, config: Config, accelerator: Accelerator, tracker: Tracker, *, data_identity: str
) -> None:
    """Write the resume checkpoint of this step and remove older ones."""
    tracker.sync_to_disk()
    tensors, values = state.to_checkpoint(unwrap(accelerator, state.model), accelerator.scaler)
    values["data_identity"] = data_identity
    checkpoints.write_checkpoint(checkpoints.resume_path(run.checkpoints, state.step), tensors, values)
    checkpoints.prune_resume_checkpoints(run.checkpoints, config.train_params.keep_last_checkpoints)


def agree_to_stop(accelerator: Accelerator, stop: bool) -> bool:
    """Whether any process was asked to stop; all of them then stop after the same step."""
    if accelerator.num_processes == 1:
        return stop
    return bool(accelerator.reduce(torch.tensor(float(stop), device=accelerator.device), reduction="sum") > 0)


if __name__ == "__main__":
    run_command(main)
