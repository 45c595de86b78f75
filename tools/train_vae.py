"""Train a small AutoencoderKL, or fine-tune an AutoencoderKL or AutoencoderTiny, on the training images.

Loss: L1 + KL + LPIPS (where weights are given) + a patch discriminator and its features, for texture. AutoencoderTiny has
no posterior: no KL and no noise. A VAE of 3 channels sees gray images repeated, and its output is averaged. The settings are
`autoencoder_params.training`; the result is a diffusers folder that `autoencoder_params.pretrained` then names.
"""

import argparse
import dataclasses
import inspect
import json
import math
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, AutoencoderTiny
from safetensors.torch import save as format_safetensors
from torch import nn

from config.errors import UserError
from config.load import load_config
from config.schema import AutoencoderTrainingParams, Config, effect_of
from dataset.image_bank import ImageBank
from dataset.latents import LabelledImages
from dataset.order import SampleOrder, generator, normal
from dataset.patient_note import write_patient_note
from dataset.storage import hash_file, hash_json, read_json, write_bytes, write_json
from dataset.symmetries import apply_symmetry
from models.autoencoder import TRAINING_RECORD, adapt_channels, hash_autoencoder
from models.discriminator import PatchDiscriminator, discriminator_loss, extract_grain, generator_loss, texture_loss
from models.ema import ExponentialMovingAverage
from models.unet import count_parameters
from tools.diffusion.data import find_autoencoder, has_split, open_codec, open_images, transform_identity
from tools.diffusion.trained_images import TRAINED_KEY, list_trained_images, read_trained_images
from tools.diffusion.training import MOST_BAD_STEPS, lr_factor
from tools.evaluation.encoders.config_weights import hash_weights
from tools.evaluation.lpips_distance import PerceptualEmbedding, load_perceptual
from tools.runtime.checkpoints import TrainingState
from tools.runtime.command import Interrupted, deferred_signals, run_command
from tools.runtime.machine import choose_device
from tools.runtime.progress import Progress
from tools.runtime.run_directory import owned

_CHECKPOINT_SECONDS = 60.0
_EMA_DECAY = 0.999
_ADAM_BETAS = (0.5, 0.99)  # the low first beta steadies adversarial training (Radford 2016)
_CLIP_NORM = 1.0
_JOINING_STEPS = 200  # over which the discriminator learns before its word has full weight
_LEAST_GRAIN = 1e-3  # an eighth of a gray level; blank images have none
_GRAIN_IMAGES = 256  # images at most that the grain's strength is measured on
_STATE_FOLDER = "training_state"
_FINE_TUNABLE = (AutoencoderKL, AutoencoderTiny)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.train_vae", description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True, help="YAML config")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a config key")
    arguments = parser.parse_args(argv)
    train_vae(load_config(arguments.config, arguments.set))


def train_vae(config: Config) -> Path:
    """Train until max_steps or max_minutes, validate on held-out images, save; returns the folder."""
    output = Path(config.autoencoder_params.training.output)
    images = open_images(config, "train")
    identity = _identity(config, images)
    if (output / TRAINING_RECORD).exists():
        if read_json(output / TRAINING_RECORD).get("made_from") != _made_from(identity, config):
            raise UserError(f"{output} holds a finished VAE of other settings, limits, images or LPIPS weights; remove it "
                            "or name another autoencoder_params.training.output")
        print(f"{output} holds a finished VAE; name another autoencoder_params.training.output to train again")
        return output
    with owned(output, "tools.train_vae", key="autoencoder_params.training.output"):
        _train_and_save(config, images, output, identity)
    return output


def _identity(config: Config, images: LabelledImages) -> str:
    """Hash of all that each step of the training depends on."""
    params, pretrained = config.autoencoder_params.training, config.autoencoder_params.pretrained
    if params.fine_tune and Path(pretrained) == Path(params.output) and not Path(pretrained).is_dir():
        raise UserError("autoencoder_params.training.fine_tune: expected weights to start from, but the config's "
                        f"autoencoder_params.pretrained is the folder {params.output} that this command is to write; name "
                        "them, a local folder or a hub id, by --set autoencoder_params.pretrained=START")
    lasting = {key: value for key, value in vars(params).items()
               if effect_of(f"autoencoder_params.training.{key}") != "later"}
    lasting["lr"] = params.peak_lr
    perceptual = {}
    if params.perceptual_weight > 0:
        assert config.dataset_params.lpips_path is not None
        perceptual = {"perceptual": hash_weights(config.dataset_params.lpips_path)}
    return hash_json({
        **perceptual, "training": lasting, "transform": transform_identity(config),
        "symmetries": list(config.dataset_params.symmetries),
        "images": [[hash_file(record.path), record.label] for record in images.records],
        "start": [hash_autoencoder(find_autoencoder(config)) if params.fine_tune else None, config.train_params.seed],
    })


def _made_from(identity: str, config: Config) -> str:
    """Hash of all that a finished VAE depends on."""
    params = config.autoencoder_params.training
    return hash_json([identity, params.max_minutes, params.max_steps])


def _train_and_save(config: Config, images: LabelledImages, output: Path, identity: str) -> None:
    params = config.autoencoder_params.training
    bank = ImageBank(images)
    order = SampleOrder([record.label for record in images.records], seed=config.train_params.seed)
    trainer = _VaeTrainer(config, params, grain_std=measure_grain(bank, order.positions(0, min(len(images), _GRAIN_IMAGES))))
    print(f"training a VAE of {count_parameters(trainer.vae) / 1e6:.2f} M parameters on {len(images)} images, "
          f"at most {params.max_steps} steps" + (f" or {params.max_minutes:g} minutes" if params.max_minutes else ""))
    write_patient_note(output, "The weights in this folder")
    before = None
    if params.fine_tune:
        before = measure_round_trip(config, find_autoencoder(config), trainer.device)
        print(f"before fine-tuning: round trip PSNR {before:.2f} dB on the {_measured_split(config)} images")
        if isinstance(trainer.vae, AutoencoderTiny):
            print("AutoencoderTiny has no posterior: autoencoder_params.training.kl_weight is not used")
    step, seconds = trainer.resume(output / _STATE_FOLDER, identity)
    symmetries = config.dataset_params.symmetries
    limit = 60 * (params.max_minutes or math.inf)
    started = last_saved = time.monotonic()
    with deferred_signals() as stop, Progress("training the VAE", params.max_steps, unit="steps", initial=step,
                                              enabled=config.logging_params.progress_bar) as progress:
        while step < params.max_steps and (elapsed := seconds + time.monotonic() - started) < limit:
            pixels = bank.batch(order.positions(step * params.batch_size, params.batch_size))
            views = generator(order.seed, "vae view", step).integers(len(symmetries), size=params.batch_size)
            pixels = torch.stack([apply_symmetry(image, symmetries[view])
                                  for image, view in zip(pixels, views, strict=True)])
            share = max(step / params.max_steps, elapsed / limit)
            note = trainer.train_step(pixels, step=step, share=share, seed=order.seed)
            step += 1
            left = min(limit - elapsed, elapsed / step * (params.max_steps - step))
            progress.update(step, f"{note}, {max(left, 0) / 60:.1f} min left")
            if stop or time.monotonic() - last_saved > _CHECKPOINT_SECONDS:
                last_saved = time.monotonic()
                trainer.save_state(output / _STATE_FOLDER, identity, step, seconds + last_saved - started)
            if stop:
                raise Interrupted(stop.signal_number, f"saved at step {step}; run the same command to go on")
    trainer.finish(output)
    psnr = measure_round_trip(config, output, trainer.device)
    write_json(output / TRAINING_RECORD, {
        "made_from": _made_from(identity, config), "steps": step,
        "seconds": round(seconds + time.monotonic() - started), "psnr_db": psnr,
        **({} if before is None else {"psnr_db_before": before}),
        "training_images": len(images), TRAINED_KEY: _all_trained_images(config, images),
        "loss_weights_sha256": trainer.loss_weights_sha256,
        "note": "derived from its training images: where they are patients', share it by the same rules",
    })
    shutil.rmtree(output / _STATE_FOLDER, ignore_errors=True)
    print(f"saved {output}: {step} steps, round trip PSNR {psnr:.2f} dB on the {_measured_split(config)} images"
          f"{_compare(before, psnr)}; use it with autoencoder_params.pretrained: {output}")


def _all_trained_images(config: Config, images: LabelledImages) -> list[str]:
    """Those of this training and, where it went on from another VAE's weights, those of that one as far as known."""
    trained = set(list_trained_images(images))
    if config.autoencoder_params.training.fine_tune:
        trained.update(read_trained_images(find_autoencoder(config) / TRAINING_RECORD) or ())
    return sorted(trained)


def measure_round_trip(config: Config, folder: Path, device: torch.device) -> float:
    """PSNR in dB of the VAE's round trip over the images of `_measured_split`."""
    params = dataclasses.replace(config.autoencoder_params, pretrained=str(folder), subfolder=None)
    codec = open_codec(dataclasses.replace(config, autoencoder_params=params), device=device)
    images = open_images(config, _measured_split(config))
    errors: list[float] = []
    with Progress("round trip", len(images), enabled=config.logging_params.progress_bar) as progress:
        for start in range(0, len(images), params.batch_size):
            pixels = torch.stack([images[i][0] for i in range(start, min(start + params.batch_size, len(images)))])
            restored = codec.round_trip(pixels).cpu()
            errors += (restored - pixels).square().mean(dim=(1, 2, 3)).tolist()
            progress.update(len(errors))
    return round(float(np.mean([10 * np.log10(4 / max(error, 1e-12)) for error in errors])), 3)


def _measured_split(config: Config) -> str:
    return "val" if has_split(config, "val") else "train"


def _compare(before: float | None, after: float) -> str:
    """What the last line says of a fine-tuned VAE."""
    if before is None:
        return ""
    if after < before:
        return (f", WORSE than the {before:.2f} dB before fine-tuning: compare both with tools.check_vae before you use it, "
                "or lower autoencoder_params.training.lr or raise max_minutes")
    return f" ({before:.2f} dB before fine-tuning)"


def measure_grain(bank: ImageBank, positions: Sequence[int]) -> float:
    """Standard deviation of the grain over these images, on their scale of [-1, 1]; never 0."""
    variances = [float(extract_grain(bank.batch([position])).double().square().mean()) for position in positions]
    return max(float(np.sqrt(np.mean(variances))), _LEAST_GRAIN)


class _VaeTrainer:
    """The networks, optimizers and averages of one training; every random draw is addressed by the step."""

    def __init__(self, config: Config, params: AutoencoderTrainingParams, *, grain_std: float) -> None:
        self.params = params
        self.adversarial_steps, self.skipped_in_a_row = 0, 0
        self.device = choose_device(precision="float32")
        torch.manual_seed(config.train_params.seed)
        channels = config.dataset_params.params.im_channels
        self.vae = _open_for_fine_tuning(config) if params.fine_tune else _fresh_vae(config, params)
        self.vae.to(self.device)
        self.last_layer = find_last_convolution(self.vae.decoder)
        self.discriminator = PatchDiscriminator(channels, grain_std=grain_std).to(self.device)
        self.ema = ExponentialMovingAverage(self.vae, _EMA_DECAY)
        self.vae_optimizer = torch.optim.AdamW(self.vae.parameters(), lr=params.peak_lr, betas=_ADAM_BETAS, weight_decay=0,
                                               fused=True)
        self.disc_optimizer = torch.optim.AdamW(self.discriminator.parameters(), lr=params.peak_lr, betas=_ADAM_BETAS,
                                                weight_decay=0, fused=True)
        self.state = TrainingState({"vae": self.vae, "discriminator": self.discriminator}, self.ema,
                                   {"vae_optimizer": self.vae_optimizer, "disc_optimizer": self.disc_optimizer})
        self.perceptual: PerceptualEmbedding | None = None
        if params.perceptual_weight > 0:
            assert config.dataset_params.lpips_path is not None
            self.perceptual = load_perceptual(config.dataset_params.lpips_path, device=self.device)

    @property
    def loss_weights_sha256(self) -> list[str]:
        """Hashes of pretrained weights that the loss used: an encoder of a headline number may not be among them."""
        return [] if self.perceptual is None else [self.perceptual.trunk_sha256, self.perceptual.head_sha256]

    def train_step(self, pixels: torch.Tensor, *, step: int, share: float, seed: int) -> str:
        """One step on images (B, C, H, W); `share` is the part of the training that has passed."""
        adversarial = self.params.adversarial_weight > 0 and share >= self.params.adversarial_start
        for optimizer, steps in ((self.vae_optimizer, step), (self.disc_optimizer, self.adversarial_steps)):
            factor = lr_factor("cosine", share=share, step=steps, warmup_steps=100)
            optimizer.param_groups[0]["lr"] = self.params.peak_lr * factor

        pixels = pixels.to(self.device)
        restored, penalty = self._restore(pixels, step=step, seed=seed)
        reconstruction = F.l1_loss(restored, pixels)
        if self.perceptual is not None:
            reconstruction = reconstruction + self.params.perceptual_weight * self.perceptual.loss(restored, pixels)
        loss = reconstruction + penalty
        if adversarial:
            self.discriminator.requires_grad_(False)
            logits, made_maps = self.discriminator(restored)
            with torch.no_grad():
                _, real_maps = self.discriminator(pixels)
            self.discriminator.requires_grad_(True)
            deception = generator_loss(logits)
            weight = _balance(reconstruction, deception, self.last_layer.weight)
            texture = (self.params.adversarial_weight * weight * deception
                       + self.params.texture_weight * texture_loss(made_maps, real_maps))
            loss = loss + min(self.adversarial_steps / _JOINING_STEPS, 1.0) * texture
        self.vae_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.vae.parameters(), _CLIP_NORM)
        if not torch.isfinite(norm):
            return self._skip(step)
        self.vae_optimizer.step()
        self.ema.update(self.vae)
        note = f"L1 {reconstruction.item():.4f}"
        if adversarial:
            logits, _ = self.discriminator(torch.cat([pixels, restored.detach()]))
            disc_loss = discriminator_loss(*logits.chunk(2))
            if not torch.isfinite(disc_loss):
                return self._skip(step)
            self.disc_optimizer.zero_grad(set_to_none=True)
            disc_loss.backward()
            self.disc_optimizer.step()
            self.adversarial_steps += 1
            note += f" discriminator {disc_loss.item():.3f}"
        self.skipped_in_a_row = 0
        return note

    def _restore(self, pixels: torch.Tensor, *, step: int, seed: int) -> tuple[torch.Tensor, torch.Tensor | float]:
        """Restored images like `pixels`, and the weighted KL divergence of a latent value, 0 without a posterior."""
        output = self.vae.encode(adapt_channels(pixels, self.vae.config.in_channels))
        latents, penalty = getattr(output, "latents", None), 0.0
        if latents is None:
            posterior = output.latent_dist
            noise = normal(generator(seed, "vae posterior", step), posterior.mean.shape).to(self.device)
            latents = posterior.mean + posterior.std * noise
            latent_values = posterior.mean[0].numel()  # the library sums the divergence over an image's latent values
            penalty = self.params.kl_weight * posterior.kl().mean() / latent_values
        return adapt_channels(self.vae.decode(latents).sample, pixels.shape[1]), penalty

    def _skip(self, step: int) -> str:
        """Leave the networks as they are, unless this has come too often."""
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row >= MOST_BAD_STEPS:
            raise UserError(f"step {step}: loss or gradient of the VAE or its discriminator was not finite {MOST_BAD_STEPS} "
                            "times in a row; name another autoencoder_params.training.output and lower lr")
        return "non-finite step skipped"

    def finish(self, output: Path) -> None:
        """Save the averaged weights in half precision, rounded once, as a diffusers folder."""
        self.vae.load_state_dict(self.ema.state_dict(), strict=True)
        weights = {name: tensor.contiguous() for name, tensor in self.vae.cpu().half().state_dict().items()}
        write_bytes(output / "diffusion_pytorch_model.safetensors", format_safetensors(weights, {"format": "pt"}))
        write_json(output / "config.json", _list_settings(self.vae))

    def save_state(self, folder: Path, identity: str, step: int, seconds: float) -> None:
        self.state.save(folder, step, {"identity": identity, "seconds": seconds,
                                       "adversarial_steps": self.adversarial_steps})

    def resume(self, folder: Path, identity: str) -> tuple[int, float]:
        """Steps and seconds done by an interrupted run of the same settings; (0, 0) where there is none."""
        values = self.state.resume(folder, identity=identity, key="autoencoder_params.training.output")
        if values is None:
            return 0, 0.0
        self.adversarial_steps = values["adversarial_steps"]
        print(f"going on at step {values['step']}")
        return values["step"], values["seconds"]


def _fresh_vae(config: Config, params: AutoencoderTrainingParams) -> AutoencoderKL:
    data = config.dataset_params
    levels = len(params.channels)
    factor = data.params.image_size // data.latent_size
    if factor != 2 ** (levels - 1):
        raise UserError(
            f"autoencoder_params.training.channels: {levels} levels halve the image {levels - 1} times, but "
            f"params.image_size / latent_size is {factor}; expected {max(factor.bit_length(), 1)} levels"
        )
    return AutoencoderKL(
        in_channels=data.params.im_channels, out_channels=data.params.im_channels,
        down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=params.channels, layers_per_block=params.num_layers, latent_channels=data.z_channels,
        norm_num_groups=params.norm_groups, sample_size=data.params.image_size, mid_block_add_attention=False,
        scaling_factor=1.0,
    )


def _open_for_fine_tuning(config: Config) -> AutoencoderKL | AutoencoderTiny:
    vae = open_codec(config).vae
    if not isinstance(vae, _FINE_TUNABLE):
        raise UserError("autoencoder_params.training.fine_tune: expected one of "
                        f"{', '.join(kind.__name__ for kind in _FINE_TUNABLE)}, found {type(vae).__name__}; name another "
                        "autoencoder_params.pretrained, or use this one as it is")
    return vae.train().requires_grad_(True)


def find_last_convolution(decoder: nn.Module) -> nn.Conv2d:
    """The convolution that makes the image: both kinds of decoder register it last."""
    return [module for module in decoder.modules() if isinstance(module, nn.Conv2d)][-1]


def _balance(reconstruction: torch.Tensor, deception: torch.Tensor, last_layer: torch.Tensor) -> torch.Tensor:
    """Weight that makes both losses pull equally on the last layer. Source: Esser 2021 (VQGAN), eq. 7.

    At most 1: a discriminator that cannot tell has next to no gradient, and enlarging it would be enlarging noise.
    """
    gradients = [torch.autograd.grad(loss, last_layer, retain_graph=True)[0].norm() for loss in (reconstruction, deception)]
    return (gradients[0] / (gradients[1] + 1e-6)).clamp(0, 1).detach()


def _list_settings(vae: AutoencoderKL | AutoencoderTiny) -> dict[str, Any]:
    """The class and the arguments that build it.

    Left out are the library's version, so that equal trainings give equal bytes, and what the library stores beside the
    arguments and then warns of.
    """
    arguments = inspect.signature(type(vae).__init__).parameters
    return {key: value for key, value in json.loads(vae.to_json_string()).items()
            if key in arguments or key == "_class_name"}


if __name__ == "__main__":
    run_command(main)
