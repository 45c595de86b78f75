"""Train the baseline GAN on the training images; running the command again goes on where it stopped.

What it is: `gan_params`. Its images are drawn by `python -m tools.sample_gan` and evaluated by `python -m tools.evaluate`.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from config.load import load_config
from config.schema import Config
from dataset.images import write_png
from dataset.patient_note import write_patient_note
from dataset.storage import make_folder
from models.unet import count_parameters
from tools.diffusion.data import open_images
from tools.diffusion.gan_training import WEIGHTS_NAME, GanTrainer, draw_gan_images, load_generator, training_identity
from tools.diffusion.generation import list_requests
from tools.diffusion.trained_images import list_trained_images
from tools.runtime.command import Interrupted, add_config, deferred_signals, run_command
from tools.runtime.image_grid import label_grid
from tools.runtime.machine import choose_device
from tools.runtime.progress import Pace, Progress
from tools.runtime.run_directory import RunDirectory, owned
from tools.runtime.tracking import cut_log

_STATE_FOLDER, _LOG_NAME, _PREVIEW_NAME = "training_state", "metrics.jsonl", "preview.png"
_PREVIEW_IMAGES = 8  # a class


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.train_gan", description=__doc__.splitlines()[0])
    add_config(parser)
    arguments = parser.parse_args(argv)
    train_gan(load_config(arguments.config, arguments.set))


def train_gan(config: Config) -> None:
    """Train until gan_params.max_steps and write the averaged generator."""
    with owned(Path(config.gan_params.output), "tools.train_gan", key="gan_params.output"):
        _train(config)


def _train(config: Config) -> None:
    params = config.gan_params
    output, device = Path(params.output), choose_device(precision="float32")
    images = open_images(config, "train")
    trainer = GanTrainer(config, images, device)
    identity = training_identity(config, images)
    make_folder(output)
    write_patient_note(output, "The weights in this folder")
    done = trainer.state.resume(output / _STATE_FOLDER, identity=identity, key="gan_params.output")
    step = 0 if done is None else int(done["step"])
    if step >= params.max_steps:
        print(f"{output}: {step} of {params.max_steps} steps are done; weights in {output / WEIGHTS_NAME}")
        return
    print(f"training a GAN of {count_parameters(trainer.generator) / 1e6:.2f} M parameters (discriminator "
          f"{count_parameters(trainer.critic) / 1e6:.2f} M) on {len(images)} images" + (f" from step {step}" * bool(step)))
    cut_log(output / _LOG_NAME, step)
    with (output / _LOG_NAME).open("a", encoding="utf-8") as log, deferred_signals() as stop, \
            Pace(params.batch_size, RunDirectory(output).timing) as pace, \
            Progress("GAN", params.max_steps, unit="steps", initial=step, enabled=config.logging_params.progress_bar) as bar:
        while step < params.max_steps:
            losses = trainer.train_step(step)
            step += 1
            rate = pace.add_step()
            bar.update(step, f"critic {losses['critic_loss']:.3f} generator {losses['generator_loss']:.3f}")
            last = step == params.max_steps
            if step % config.logging_params.interval_steps == 0 or last:
                log.write(json.dumps({"step": step, **losses}) + "\n")
                log.flush()
            if last:  # before the state: a run that has all its steps has its weights
                trainer.write_weights(output / WEIGHTS_NAME, step, list_trained_images(images))
            if step % config.train_params.checkpoint_interval_steps == 0 or last or stop:
                trainer.state.save(output / _STATE_FOLDER, step, {"identity": identity})
            if stop and not last:
                raise Interrupted(stop.signal_number or 15, f"saved at step {step}; run the same command to go on")
    network, _ = load_generator(config, output / WEIGHTS_NAME, device)
    requests = list_requests([_PREVIEW_IMAGES] * config.num_classes)
    pixels = draw_gan_images(network, requests, seed=config.train_params.seed, device=device)
    names = config.dataset_params.params.class_names
    rows = pixels.reshape(len(names), _PREVIEW_IMAGES, *pixels.shape[1:])
    grid = label_grid(list(zip(names, rows, strict=True)), num_columns=_PREVIEW_IMAGES, title=f"step {step:,}")
    write_png(output / _PREVIEW_NAME, grid, text={"Synthetic": "GAN preview"})
    print(f"trained to step {step} ({rate:.0f} images/s); weights in {output / WEIGHTS_NAME}")


if __name__ == "__main__":
    run_command(main)
