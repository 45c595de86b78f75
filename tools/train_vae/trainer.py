"""The training step of the VAE and its patch discriminator."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from dataset.image_bank import ImageBank
from dataset.order import generator, normal
from models.autoencoder import adapt_channels
from models.discriminator import PatchDiscriminator, discriminator_loss, extract_grain, generator_loss, texture_loss
from models.ema import ExponentialMovingAverage
from tools.diffusion.project import Project
from tools.diffusion.training import lr_factor
from tools.evaluation.lpips_distance import PerceptualEmbedding, load_perceptual
from tools.runtime.loop import descend
from tools.runtime.machine import choose_device
from tools.runtime.resume import ResumeState
from tools.train_vae.networks import find_last_convolution, open_vae, write_vae

_EMA_DECAY = 0.999
_ADAM_BETAS = (0.5, 0.99)  # the low first beta steadies adversarial training (Radford 2016)
_CLIP_NORM = 1.0
_JOINING_STEPS = 200  # until the discriminator has full weight
_LEAST_GRAIN = 1e-3  # an eighth of a gray level; blank images have none


def measure_grain(bank: ImageBank, positions: Sequence[int]) -> float:
    """Standard deviation of the grain over these images, on their scale of [-1, 1]; never 0."""
    variances = [float(extract_grain(bank.batch([position])).double().square().mean()) for position in positions]
    return max(float(np.sqrt(np.mean(variances))), _LEAST_GRAIN)


@dataclass
class VaeState(ResumeState):
    """What a resumed training of a VAE needs. adversarial_steps: steps of the discriminator."""

    adversarial_steps: int = 0

    PLAIN: ClassVar[tuple[str, ...]] = ("adversarial_steps",)


class VaeTrainer:
    """The networks, optimizers and averages of one training; every random number is addressed by the step."""

    def __init__(self, project: Project, *, grain_std: float, seed: int) -> None:
        self.params = params = project.autoencoder.training
        self.device = choose_device(precision="float32")
        torch.manual_seed(seed)
        channels = project.table.im_channels
        self.vae = open_vae(project)
        self.vae.to(self.device)
        self.last_layer = find_last_convolution(self.vae.decoder)
        self.discriminator = PatchDiscriminator(channels, grain_std=grain_std).to(self.device)
        self.ema = ExponentialMovingAverage(self.vae, _EMA_DECAY)
        self.vae_optimizer = torch.optim.AdamW(self.vae.parameters(), lr=params.peak_lr, betas=_ADAM_BETAS, weight_decay=0,
                                               fused=True)
        self.disc_optimizer = torch.optim.AdamW(self.discriminator.parameters(), lr=params.peak_lr, betas=_ADAM_BETAS,
                                                weight_decay=0, fused=True)
        self.state = VaeState({"vae": self.vae, "discriminator": self.discriminator}, self.ema,
                              {"vae_optimizer": self.vae_optimizer, "disc_optimizer": self.disc_optimizer}, seconds=0.0)
        self.perceptual: PerceptualEmbedding | None = None
        if params.perceptual_weight > 0:
            assert project.data.lpips_path is not None
            self.perceptual = load_perceptual(project.data.lpips_path, device=self.device)

    @property
    def loss_weights_sha256(self) -> list[str]:
        """Hashes of pretrained weights that the loss used: the encoder of a headline number must not be among them."""
        return [] if self.perceptual is None else [self.perceptual.trunk_sha256, self.perceptual.head_sha256]

    def train_step(self, pixels: torch.Tensor, *, step: int, fraction: float, seed: int) -> str | None:
        """One step on images (B, C, H, W); `fraction` is the part of the training that has passed.

        Returns a note on the losses; None where a loss or its gradient was not finite, which leaves that network as it is.
        """
        adversarial = self.params.adversarial_weight > 0 and fraction >= self.params.adversarial_start
        for optimizer, steps in ((self.vae_optimizer, step), (self.disc_optimizer, self.state.adversarial_steps)):
            factor = lr_factor("cosine", fraction=fraction, step=steps, warmup_steps=100)
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
            loss = loss + min(self.state.adversarial_steps / _JOINING_STEPS, 1.0) * texture
        if not descend(self.vae_optimizer, loss, clip_norm=_CLIP_NORM):
            return None
        self.ema.update(self.vae)
        note = f"L1 {reconstruction.item():.4f}"
        if adversarial:
            logits, _ = self.discriminator(torch.cat([pixels, restored.detach()]))
            disc_loss = discriminator_loss(*logits.chunk(2))
            if not descend(self.disc_optimizer, disc_loss):
                return None
            self.state.adversarial_steps += 1
            note += f" discriminator {disc_loss.item():.3f}"
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

    def finish(self, output: Path) -> None:
        """Write the averaged weights; nothing can be trained after."""
        self.vae.load_state_dict(self.ema.state_dict(), strict=True)
        write_vae(output, self.vae)


def _balance(reconstruction: torch.Tensor, deception: torch.Tensor, last_layer: torch.Tensor) -> torch.Tensor:
    """Weight that gives both losses equal gradients on the last layer. Source: Esser 2021 (VQGAN), eq. 7.

    At most 1: a discriminator that sees no difference has almost no gradient, and scaling it up would scale up noise.
    """
    gradients = [torch.autograd.grad(loss, last_layer, retain_graph=True)[0].norm() for loss in (reconstruction, deception)]
    return (gradients[0] / (gradients[1] + 1e-6)).clamp(0, 1).detach()
