"""The source of raw latents for training: the cache, or the VAE's encoder on the fly. Both use the same random addresses."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from dataset.image_bank import ImageBank
from dataset.images import is_gray_batch
from dataset.latents import LatentCache, stack_conditions
from dataset.ranks import ALONE, Ranks
from dataset.storage import hash_json
from dataset.symmetries import apply_symmetry
from models.autoencoder import LatentCodec, LatentStatistics, read_latent_scale
from tools.diffusion.project import Project

_STATISTICS_IMAGES = 512  # training images behind the latent statistics if there is no cache


class LatentSource(Protocol):
    """Labelled images as raw latents."""

    labels: np.ndarray  # (N,) int64
    conditions: np.ndarray  # (N, K) int64, levels of the further conditions
    key: str  # hash of all that determines the latents

    def draw(self, positions: torch.Tensor, views: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Raw latents posterior mean + std * noise, float32 (B, C, h, w), for int64 (B,) positions and views."""
        ...


@dataclass(frozen=True)
class TrainingData:
    """What training reads: latents to learn from, held-out latents if any, and the codec with its scale.

    `identity` is the hash of everything that the latents depend on, so that a run is not resumed on other images.
    """

    train: LatentSource
    val: LatentSource | None
    codec: LatentCodec
    identity: str


class EncodedLatents:
    """Latents encoded on request; decoded images stay in memory while they fit."""

    def __init__(self, project: Project, split: str, codec: LatentCodec) -> None:
        images = project.trained_images(split)
        self.key = hash_json(project.latents_identity(split))
        self.labels = np.array([record.label for record in images.records], dtype=np.int64)
        self.conditions = stack_conditions([record.conditions for record in images.records])
        self._bank = ImageBank(images)
        self._codec = codec
        self._symmetries = project.data.symmetries
        self._batch_size = project.autoencoder.batch_size

    def draw(self, positions: torch.Tensor, views: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        pixels = self._bank.batch(positions.tolist())
        pixels = torch.stack([apply_symmetry(image, self._symmetries[view])
                              for image, view in zip(pixels, views.tolist(), strict=True)])
        mean, std = (torch.cat(parts).cpu() for parts in zip(*self._encode(pixels), strict=True))
        return mean + std * noise

    def moments(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Posterior moments of images spread over the table, for the latent statistics."""
        count = min(_STATISTICS_IMAGES, len(self.labels))
        positions = [number * len(self.labels) // count for number in range(count)]  # the first may be of one class only
        for start in range(0, count, self._batch_size):
            yield from self._encode(self._bank.batch(positions[start:start + self._batch_size]))

    def all_gray(self) -> bool:
        """Whether every image is gray."""
        return all(is_gray_batch(self._bank.batch([position])) for position in range(len(self.labels)))

    def _encode(self, pixels: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for part in pixels.split(self._batch_size):
            yield self._codec.encode(part)


def open_training_data(
    project: Project, device: torch.device, *, has_val: bool, for_pretrained: bool = False, ranks: Ranks = ALONE
) -> TrainingData:
    """Caches (load_latents: True, the encoder's weights are not even read) or encoders on the fly.

    For a pretrained UNet latents come in the scale of the VAE's own factors. Processes that train together share the
    encoding of a cache that does not exist yet.
    """
    def scale(measured: LatentStatistics) -> LatentStatistics:  # measured anyway: a VAE that encodes nothing shows there
        if for_pretrained:
            return measured.scaled_by(*read_latent_scale(project.vae_folder))
        return measured if project.data.standardise_latents else measured.unscaled()

    train: LatentCache | EncodedLatents
    val: LatentCache | EncodedLatents | None
    if project.data.load_latents:
        train = project.prepare_latents("train", device=device, ranks=ranks)
        val = project.prepare_latents("val", device=device, ranks=ranks) if has_val else None
        statistics = scale(LatentStatistics.measure(train.moments(), gray=train.gray))
        codec = project.open_codec(statistics=statistics, decoder_only=True, device=device)
    else:
        codec = project.open_codec(device=device)
        train = EncodedLatents(project, "train", codec)
        val = EncodedLatents(project, "val", codec) if has_val else None
        codec.statistics = scale(LatentStatistics.measure(train.moments(), gray=train.all_gray()))
    return TrainingData(train, val, codec, identity=hash_json([train.key, None if val is None else val.key]))
