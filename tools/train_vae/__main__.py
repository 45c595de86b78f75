"""Train a small AutoencoderKL, or fine-tune an AutoencoderKL or AutoencoderTiny, on the training images.

Loss: L1 + KL + LPIPS (if weights are given) + a patch discriminator and its features, for texture. AutoencoderTiny has
no posterior: no KL and no noise. A VAE of 3 channels gets gray images repeated, and its output is averaged. The settings are
`autoencoder_params.training`; the result is a diffusers folder for `autoencoder_params.pretrained`.
"""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderTiny

from config.errors import UserError
from config.load import load_config
from config.schema import Config, effect_of
from dataset.image_bank import ImageBank
from dataset.order import SampleOrder, generator
from dataset.patient_note import write_patient_note
from dataset.storage import hash_json, read_json, write_json
from dataset.symmetries import apply_symmetry
from models.autoencoder import TRAINING_RECORD
from models.unet import count_parameters
from tools.diffusion.project import Project
from tools.diffusion.trained_images import TRAINED_KEY, read_trained_images, shorten_hashes
from tools.evaluation.encoders.config_weights import hash_weights
from tools.runtime.command import add_config, run_command
from tools.runtime.loop import Loop
from tools.runtime.resume import STATE_FOLDER, Saving
from tools.runtime.run_directory import owned
from tools.train_vae.psnr import compare_psnr, measure_psnr, measured_split
from tools.train_vae.trainer import VaeTrainer, measure_grain

_SECONDS_BETWEEN_STATES = 60.0
_GRAIN_IMAGES = 256  # images at most to measure the strength of the grain
_OUTPUT_KEY = "autoencoder_params.training.output"
_REMEDY = f"start again with another {_OUTPUT_KEY} and a lower lr"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.train_vae", description=__doc__.splitlines()[0])
    add_config(parser)
    arguments = parser.parse_args(argv)
    train_vae(load_config(arguments.config, arguments.set))


def train_vae(config: Config) -> Path:
    """Train until max_steps or max_minutes, validate on held-out images, save; returns the folder."""
    output = Path(config.autoencoder_params.training.output)
    project, seed = Project.open(config), config.train_params.seed
    identity = training_identity(project, seed)
    if (output / TRAINING_RECORD).exists():
        if read_json(output / TRAINING_RECORD).get("made_from") != _made_from(identity, project):
            raise UserError(f"{output} holds a finished VAE of other settings, limits, images or LPIPS weights; remove it "
                            f"or set another {_OUTPUT_KEY}")
        print(f"{output} holds a finished VAE; set another {_OUTPUT_KEY} to train again")
        return output
    with owned(output, "tools.train_vae", key=_OUTPUT_KEY):
        _train_and_save(project, seed, output, identity, progress_bar=config.logging_params.progress_bar)
    return output


def training_identity(project: Project, seed: int) -> str:
    """Hash of everything that each training step depends on."""
    params, pretrained = project.autoencoder.training, project.autoencoder.pretrained
    if params.fine_tune and Path(pretrained) == Path(params.output) and not Path(pretrained).is_dir():
        raise UserError("autoencoder_params.training.fine_tune: expected weights to start from, but the config's "
                        f"autoencoder_params.pretrained is the folder {params.output} that this command will write; name "
                        "a local folder or a hub id with --set autoencoder_params.pretrained=START")
    lasting = {key: value for key, value in vars(params).items()
               if effect_of(f"autoencoder_params.training.{key}") != "later"}
    lasting["lr"] = params.peak_lr
    perceptual = {}
    if params.perceptual_weight > 0:
        assert project.data.lpips_path is not None
        perceptual = {"perceptual": hash_weights(project.data.lpips_path)}
    images = project.trained_images("train")
    return hash_json({
        **perceptual, "training": lasting, "transform": project.transform,
        "symmetries": list(project.data.symmetries),
        "images": [[project.hash_image(record.path), record.label] for record in images.records],
        "start": [project.vae_sha256 if params.fine_tune else None, seed],
    })


def _made_from(identity: str, project: Project) -> str:
    """Hash of everything that a finished VAE depends on."""
    params = project.autoencoder.training
    return hash_json([identity, params.max_minutes, params.max_steps])


def _train_and_save(project: Project, seed: int, output: Path, identity: str, *, progress_bar: bool) -> None:
    params, images = project.autoencoder.training, project.trained_images("train")
    bank = ImageBank(images)
    order = SampleOrder([record.label for record in images.records], seed=seed)
    grain_std = measure_grain(bank, order.positions(0, min(len(images), _GRAIN_IMAGES)))
    trainer = VaeTrainer(project, grain_std=grain_std, seed=seed)
    state = trainer.state
    print(f"training a VAE of {count_parameters(trainer.vae) / 1e6:.2f} M parameters on {len(images)} images, "
          f"at most {params.max_steps} steps" + (f" or {params.max_minutes:g} minutes" if params.max_minutes else ""))
    write_patient_note(output, "The weights in this folder")
    before = _measure_before(project, trainer, progress_bar=progress_bar) if params.fine_tune else None
    saving = Saving(output / STATE_FOLDER, identity, key=_OUTPUT_KEY, every_seconds=_SECONDS_BETWEEN_STATES, at_end=False)
    state.resume(saving)
    with Loop(state, params.max_steps, title="training the VAE", images_per_step=params.batch_size, remedy=_REMEDY,
              saving=saving, max_minutes=params.max_minutes, show=progress_bar) as loop:
        for step in loop.steps():
            pixels = _read_batch(project, bank, order, step)
            loop.end_step(trainer.train_step(pixels, step=step, fraction=loop.fraction, seed=order.seed))
    trainer.finish(output)
    psnr = measure_psnr(project.with_vae(output), trainer.device, progress_bar=progress_bar)
    write_json(output / TRAINING_RECORD, {
        "made_from": _made_from(identity, project), "steps": state.step, "seconds": round(loop.elapsed), "psnr_db": psnr,
        **({} if before is None else {"psnr_db_before": before}),
        "training_images": len(images), TRAINED_KEY: _all_trained_images(project),
        "loss_weights_sha256": trainer.loss_weights_sha256,
        "note": "derived from its training images: where they are patients', share it by the same rules",
    })
    shutil.rmtree(output / STATE_FOLDER, ignore_errors=True)
    print(f"saved {output}: {state.step} steps, round trip PSNR {psnr:.2f} dB on the {measured_split(project)} images"
          f"{compare_psnr(before, psnr)}; use it with autoencoder_params.pretrained: {output}")


def _measure_before(project: Project, trainer: VaeTrainer, *, progress_bar: bool) -> float:
    """PSNR in dB before fine-tuning, which is printed."""
    before = measure_psnr(project, trainer.device, progress_bar=progress_bar)
    print(f"before fine-tuning: round trip PSNR {before:.2f} dB on the {measured_split(project)} images")
    if isinstance(trainer.vae, AutoencoderTiny):
        print("AutoencoderTiny has no posterior: autoencoder_params.training.kl_weight is not used")
    return before


def _read_batch(project: Project, bank: ImageBank, order: SampleOrder, step: int) -> torch.Tensor:
    """The step's images float32 (B, C, H, W) in [-1, 1], each in one of the views that the optics allow."""
    size, symmetries = project.autoencoder.training.batch_size, project.data.symmetries
    views = generator(order.seed, "vae view", step).integers(len(symmetries), size=size)
    return torch.stack([apply_symmetry(image, symmetries[view])
                        for image, view in zip(bank.batch(order.positions(step * size, size)), views, strict=True)])


def _all_trained_images(project: Project) -> list[str]:
    """The images of this training and, if it started from another VAE's weights, those of that VAE as far as known."""
    trained = set(shorten_hashes(project.hash_images(project.trained_images("train"))))
    if project.autoencoder.training.fine_tune:
        trained.update(read_trained_images(project.vae_folder / TRAINING_RECORD) or ())
    return sorted(trained)


if __name__ == "__main__":
    run_command(main)
