"""Train the baseline GAN on the training images; running the command again resumes where it stopped.

What it is: `gan_params`. Its images are made by `python -m tools.sample_gan` and evaluated by `python -m tools.evaluate`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from config.load import load_config
from config.schema import Config, GanParams, TableParams
from dataset.images import write_png
from dataset.patient_note import write_patient_note
from dataset.storage import make_folder
from models.unet import count_parameters
from tools.diffusion.gan_training import (
    LOSSES,
    WEIGHTS_NAME,
    GanTrainer,
    draw_gan_images,
    load_generator,
    training_identity,
)
from tools.diffusion.generation import list_requests
from tools.diffusion.project import Project
from tools.diffusion.trained_images import shorten_hashes
from tools.runtime.command import add_config, run_command
from tools.runtime.image_grid import label_grid
from tools.runtime.loop import Loop
from tools.runtime.machine import choose_device
from tools.runtime.resume import STATE_FOLDER, Saving
from tools.runtime.run_directory import RunDirectory, owned
from tools.runtime.tracking import Tracker

_LOG_NAME, _PREVIEW_NAME = "metrics.jsonl", "preview.png"
_PREVIEW_IMAGES = 8  # a class
_REMEDY = "start anew under another gan_params.output with a lower gan_params.lr or a higher r1_weight"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.train_gan", description=__doc__.splitlines()[0])
    add_config(parser)
    arguments = parser.parse_args(argv)
    config = load_config(arguments.config, arguments.set)
    with owned(Path(config.gan_params.output), "tools.train_gan", key="gan_params.output"):
        train_gan(config)


def train_gan(config: Config) -> None:
    """Train until gan_params.max_steps and write the averaged generator."""
    params = config.gan_params
    output, device = Path(params.output), choose_device(precision="float32")
    project = Project.open(config)
    images = project.images("train")
    trainer = GanTrainer(config, images, device)
    state, weights = trainer.state, output / WEIGHTS_NAME
    identity = training_identity(params, project, seed=config.train_params.seed)
    saving = Saving(output / STATE_FOLDER, identity, key="gan_params.output",
                    every_steps=config.train_params.checkpoint_interval_steps)
    make_folder(output)
    write_patient_note(output, "The weights in this folder")
    state.resume(saving)
    if state.step >= params.max_steps:
        print(f"{output}: {state.step} of {params.max_steps} steps are done; weights in {weights}")
        return
    print(f"training a GAN of {count_parameters(trainer.generator) / 1e6:.2f} M parameters (discriminator "
          f"{count_parameters(trainer.critic) / 1e6:.2f} M) on {len(images)} images")
    tracker = Tracker(output / _LOG_NAME, step=state.step)
    with Loop(state, params.max_steps, title="GAN", images_per_step=params.batch_size, remedy=_REMEDY, saving=saving,
              tracker=tracker, timing=RunDirectory(output).timing, show=config.logging_params.progress_bar) as loop:
        for step in loop.steps():
            losses = trainer.train_step(step)
            loop.end_step(losses and f"critic {losses['critic_loss']:.3f} generator {losses['generator_loss']:.3f}")
            if loop.is_due(config.logging_params.interval_steps):
                tracker.log({"step": state.step, **(losses or dict.fromkeys(LOSSES))})
            if loop.is_last:  # before the state: a run that has all its steps has its weights
                trainer.write_weights(weights, state.step, shorten_hashes(project.hash_images(images)))
    _write_preview(project.table, params, output, device, seed=config.train_params.seed, step=state.step)
    print(f"trained to step {state.step} ({loop.pace.rate:.0f} images/s); weights in {weights}")


def _write_preview(
    table: TableParams, gan: GanParams, output: Path, device: torch.device, *, seed: int, step: int
) -> None:
    """A few images of each class from the written weights."""
    network, _ = load_generator(table, gan, output / WEIGHTS_NAME, device)
    names = table.class_names
    requests = list_requests([_PREVIEW_IMAGES] * len(names))
    pixels = draw_gan_images(network, requests, seed=seed, device=device)
    rows = pixels.reshape(len(names), _PREVIEW_IMAGES, *pixels.shape[1:])
    grid = label_grid(list(zip(names, rows, strict=True)), num_columns=_PREVIEW_IMAGES, title=f"step {step:,}")
    write_png(output / _PREVIEW_NAME, grid, text={"Synthetic": "GAN preview"})


if __name__ == "__main__":
    run_command(main)
