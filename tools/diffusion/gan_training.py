"""The baseline GAN's training step, weights and sampling. The loop over steps is tools/train_gan.py's.

Like all training here every draw is addressed by the step, so that a resumed training equals an unbroken one on a CPU.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from config.errors import UserError
from config.load import config_to_dict, config_to_identity
from config.schema import Config, GanParams, SampleParams, TableParams, effect_of
from dataset.augmentation import NUM_UNIFORMS, augment
from dataset.image_bank import ImageBank
from dataset.images import to_uint8
from dataset.latents import LabelledImages
from dataset.order import SampleOrder, generator, normal
from dataset.storage import hash_json
from dataset.symmetries import apply_symmetry
from models.ema import ExponentialMovingAverage
from models.gan import (
    LATENT_DIM,
    Generator,
    ProjectionDiscriminator,
    critic_loss,
    deception_loss,
    gradient_penalty,
    level_widths,
)
from tools.diffusion.generation import ImageRequest
from tools.diffusion.project import Project
from tools.diffusion.trained_images import TRAINED_KEY
from tools.runtime.checkpoints import read_checkpoint, write_checkpoint
from tools.runtime.command import Diverged
from tools.runtime.loop import descend
from tools.runtime.resume import ResumeState

WEIGHTS_NAME = "generator.safetensors"
LOSSES = ("critic_loss", "generator_loss")
METHOD = 2  # raised when the same keys train another GAN
_ADAM_BETAS = (0.0, 0.99)  # Mescheder 2018, appendix D
_CONTRAST_IMAGES = 256  # at most, from which the images' contrast is taken
_PENALTY_INTERVAL_STEPS = 8  # a lazy penalty, weighted up by as much; Karras 2020 (StyleGAN2), section 3.1


def network_widths(table: TableParams, gan: GanParams) -> tuple[int, ...]:
    """Widths of both networks' levels.

    Raises:
        UserError: a side that no chain of doublings from 4 px reaches.
    """
    size = table.image_size
    try:
        return level_widths(size, width=gan.width)
    except ValueError as error:
        raise UserError(f"dataset_params.params.image_size: the GAN draws 4 px times a power of two, such as 64 or 128, "
                        f"found {size}") from error


def make_generator(table: TableParams, gan: GanParams, *, seed: int) -> Generator:
    """The generator with weights drawn from a seed."""
    torch.manual_seed(seed)
    network = Generator(im_channels=table.im_channels, num_classes=len(table.class_names), widths=network_widths(table, gan))
    return network.to(memory_format=torch.channels_last)  # a tenth faster on a CPU


def training_identity(gan: GanParams, project: Project, *, seed: int) -> str:
    """Hash of all that the steps depend on but their number."""
    params = {key: value for key, value in config_to_identity(gan).items()
              if effect_of(f"gan_params.{key}") == "result"}
    return hash_json({
        "method": METHOD, "gan_params": params, "seed": seed, "transform": project.transform,
        "symmetries": list(project.data.plain_symmetries),
        "images": [[project.hash_image(record.path), record.label] for record in project.images("train").records],
    })


def measure_contrast(bank: ImageBank, num_images: int) -> float:
    """Standard deviation of the pixels of images spread evenly over the set: how far augmentation may change brightness.

    The 0.5 of Zhao 2020 is about that of photographs. Where images are many times fainter, as MHSMA's, brightness drowns
    what they show, and the discriminator lets the generator draw one image for all.
    """
    positions = np.linspace(0, num_images - 1, min(num_images, _CONTRAST_IMAGES)).round().astype(int)
    return float(bank.batch(positions).std())


class GanTrainer:
    """Both networks with their optimizers and the generator's average; `state` is what a resumed training needs of them."""

    def __init__(self, config: Config, images: LabelledImages, device: torch.device) -> None:
        self.config, self.params, self.device = config, config.gan_params, device
        table = config.dataset_params.params
        self.generator = make_generator(table, config.gan_params, seed=config.train_params.seed).to(device)
        critic = ProjectionDiscriminator(im_channels=table.im_channels, num_classes=config.num_classes,
                                         widths=network_widths(table, config.gan_params))
        self.critic = critic.to(device, memory_format=torch.channels_last)
        self.ema = ExponentialMovingAverage(self.generator, self.params.ema_decay)
        self.optimizers = {name: torch.optim.Adam(network.parameters(), lr=self.params.lr, betas=_ADAM_BETAS, fused=True)
                           for name, network in (("generator", self.generator), ("critic", self.critic))}
        self.state = ResumeState({"generator": self.generator, "critic": self.critic}, self.ema,
                                 {f"of_{name}": optimizer for name, optimizer in self.optimizers.items()})
        self.bank = ImageBank(images)
        self.brightness = measure_contrast(self.bank, len(images))
        self.order = SampleOrder([record.label for record in images.records], seed=config.train_params.seed)
        self.labels = torch.from_numpy(self.order.labels)
        self.class_counts = np.bincount(self.order.labels, minlength=config.num_classes).tolist()

    def train_step(self, step: int) -> dict[str, float] | None:
        """One step of the discriminator and one of the generator; returns both losses, without the penalty.

        None where a loss or its gradient is not finite: that network, and what follows, is left as it is.
        """
        real, labels = self._draw_real(step)
        of_critic = self._train_critic(real, labels, step)
        if of_critic is None:
            return None
        self.critic.requires_grad_(False)
        fake = self.generator(self._noise(step, 1), labels)
        deception = deception_loss(self.critic(self._augment(fake, step, 2), labels))
        finite = descend(self.optimizers["generator"], deception)
        self.critic.requires_grad_(True)
        if not finite:
            return None
        self.ema.update(self.generator)
        return dict(zip(LOSSES, (of_critic, float(deception.detach())), strict=True))

    def _train_critic(self, real: torch.Tensor, labels: torch.Tensor, step: int) -> float | None:
        with torch.no_grad():
            fake = self.generator(self._noise(step, 0), labels)
        penalised = self.params.r1_weight > 0 and step % _PENALTY_INTERVAL_STEPS == 0
        real.requires_grad_(penalised)
        real_logits = self.critic(self._augment(real, step, 0), labels)
        loss = critic_loss(real_logits, self.critic(self._augment(fake, step, 1), labels))
        total = loss
        if penalised:
            total = loss + self.params.r1_weight * _PENALTY_INTERVAL_STEPS * gradient_penalty(real_logits, real)
        return float(loss.detach()) if descend(self.optimizers["critic"], total) else None

    def _draw_real(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The step's real images, each in one of the views that the optics allow, and their labels."""
        size, symmetries = self.params.batch_size, self.config.dataset_params.plain_symmetries
        positions = self.order.positions(step * size, size)
        views = generator(self.order.seed, "gan view", step).integers(len(symmetries), size=size)
        pixels = torch.stack([apply_symmetry(image, symmetries[view])
                              for image, view in zip(self.bank.batch(positions), views, strict=True)])
        return pixels.to(self.device), self.labels[positions].to(self.device)

    def _noise(self, step: int, part: int) -> torch.Tensor:
        rng = generator(self.order.seed, "gan noise", step, part)
        return normal(rng, (self.params.batch_size, LATENT_DIM)).to(self.device)

    def _augment(self, images: torch.Tensor, step: int, part: int) -> torch.Tensor:
        if not self.params.augment:
            return images
        rng = generator(self.order.seed, "gan augmentation", step, part)
        uniforms = torch.from_numpy(rng.random((len(images), NUM_UNIFORMS), dtype=np.float32))
        return augment(images, uniforms, brightness=self.brightness)

    def write_weights(self, path: Path, step: int, trained_images: Sequence[str]) -> None:
        """Write the averaged generator with what drawing from it needs."""
        write_checkpoint(path, self.ema.state_dict(), {
            "kind": "gan", "step": step, "class_counts": self.class_counts,
            TRAINED_KEY: list(trained_images), "config": config_to_dict(self.config)})


def load_generator(
    table: TableParams, gan: GanParams, path: Path, device: torch.device
) -> tuple[Generator, dict[str, Any]]:
    """The averaged generator and what was written with it: class_counts, the training images per class, and others.

    Raises:
        UserError: no such file, a damaged one, or one of other classes, channels, size or width than the config's.
    """
    tensors, values = read_checkpoint(path)
    network = make_generator(table, gan, seed=0)
    shapes = {name: tuple(tensor.shape) for name, tensor in network.named_parameters()}
    if values.get("kind") != "gan" or shapes != {name: tuple(tensor.shape) for name, tensor in tensors.items()}:
        raise UserError(f"{path}: expected a GAN of {len(table.class_names)} classes at dataset_params.params.image_size "
                        f"{table.image_size} and gan_params.width {gan.width}, found "
                        "another; give the config that it was trained with")
    trained, named = values["config"]["dataset_params"]["params"]["class_names"], table.class_names
    if list(trained) != list(named):
        raise UserError(f"{path} was trained on the classes {list(trained)}, the config names {list(named)}")
    network.load_state_dict(tensors, strict=False)  # the averages are of all parameters, checked above
    return network.to(device).eval().requires_grad_(False), values


def describe_samples(params: SampleParams) -> SampleParams:
    """Sampling parameters as the manifest of a GAN's images tells them: one pass, no guidance."""
    return replace(params, sampler="gan", num_steps=1, guidance_scale=1.0, guidance_interval=(0.0, 1.0),
                   guide_checkpoint=None)


@torch.inference_mode()
def draw_gan_images(
    network: Generator, requests: Sequence[ImageRequest], *, seed: int, device: torch.device
) -> np.ndarray:
    """uint8 images (B, H, W, C); the noise of image i of class c is a function of (seed, c, i).

    Raises:
        Diverged: the generator's values are not finite.
    """
    noise = torch.stack([normal(generator(seed, "gan sample", *request.noise_address), (LATENT_DIM,))
                         for request in requests])
    labels = torch.tensor([request.label for request in requests], device=device)
    images = network(noise.to(device), labels).cpu()
    if not torch.isfinite(images).all():
        raise Diverged("the GAN draws values that are not finite: its training has diverged; start anew under another "
                       "gan_params.output with a lower gan_params.lr or a higher r1_weight")
    return to_uint8(images.permute(0, 2, 3, 1))
