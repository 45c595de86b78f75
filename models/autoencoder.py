"""LatentCodec: a pretrained, frozen diffusers autoencoder between images and standardised latents.

This module loads it, adapts its channels and scales the latents; caching and training are elsewhere.
"""

import functools
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from config.errors import UserError
from models.vae_loading import STEM, load_vae
from models.weight_files import (
    CONFIG_FILE,
    PIPELINE_FILE,
    WeightFiles,
    describe_missing,
    fetch_model,
    find_weight_files,
)

TRAINING_RECORD = "training.json"  # in the folder of a VAE that train_vae made
_ENCODER_PARTS = ("encoder", "quant_conv")
_ENCODER_WIDTHS = ("encoder_block_out_channels", "down_block_out_channels", "block_out_channels")  # the first found counts
_ROUNDING = 1e-6  # a standard deviation below this fraction of the mean is rounding of float64 sums
_SUPPORTED = ("AutoencoderKL", "AutoencoderTiny", "AsymmetricAutoencoderKL", "AutoencoderDC", "VQModel")


@dataclass(frozen=True)
class LatentStatistics:
    """Per-channel mean and standard deviation of the raw latents of the training images, and whether all are gray.

    `signal_shares` is the fraction of each channel's variance that comes from the posterior means; the rest is the
    posterior's noise. A VAE does not use channels that it does not need: they are almost pure noise.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    gray: bool
    signal_shares: tuple[float, ...] = ()

    @classmethod
    def measure(cls, moments: Iterator[tuple[torch.Tensor, torch.Tensor]], *, gray: bool) -> "LatentStatistics":
        """Statistics of latents drawn from posteriors, given as (mean, std) batches of shape (B, C, h, w).

        The variance of a draw is that of the posterior means plus the mean posterior variance. float64.
        """
        count, total, squares, own = 0, 0.0, 0.0, 0.0
        for mean, std in moments:
            mean, std = mean.cpu().double(), std.cpu().double()  # some devices have no float64
            count += mean.numel() // mean.shape[1]
            total = total + mean.sum(dim=(0, 2, 3))
            squares = squares + (mean.square() + std.square()).sum(dim=(0, 2, 3))
            own = own + std.square().sum(dim=(0, 2, 3))
        mean = total / count
        std = (squares / count - mean.square()).clamp_min(0).sqrt()
        if not torch.isfinite(std).all() or (std <= _ROUNDING * mean.abs()).any():
            raise UserError(
                f"the VAE's latents have standard deviations {[round(v, 6) for v in std.tolist()]}: expected finite "
                "values above 0 in every channel; the VAE does not encode these images: train or choose another"
            )
        shares = (1 - own / count / std.square()).clamp(0, 1)
        return cls(mean=tuple(mean.tolist()), std=tuple(std.tolist()), gray=gray, signal_shares=tuple(shares.tolist()))

    def scaled_by(self, scale: float, shift: float) -> "LatentStatistics":
        """Statistics by which every channel becomes (z - shift) * scale."""
        return replace(self, mean=(shift,) * len(self.mean), std=(1 / scale,) * len(self.std))

    def unscaled(self) -> "LatentStatistics":
        """Statistics that leave latents as the VAE gives them."""
        return replace(self, mean=(0.0,) * len(self.mean), std=(1.0,) * len(self.std))


class LatentCodec:
    """Images in [-1, 1] <-> latents of zero mean and unit variance per channel.

    Always float32, frozen and outside autocast: half precision in a VAE's decoder overflows on some weights, and its
    rounding would enter every latent. Its weights are stored channels-last, which makes convolutions faster.
    """

    def __init__(self, vae: nn.Module, *, im_channels: int, statistics: LatentStatistics | None) -> None:
        self.vae = vae.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.vae_channels = int(vae.config.in_channels)
        self.im_channels = im_channels
        self.statistics = statistics
        if self.vae_channels not in (im_channels, 3):
            raise UserError(
                f"the VAE takes {self.vae_channels}-channel images, dataset_params.params.im_channels is "
                f"{im_channels}; choose a VAE of 3 channels or of as many as the images have"
            )

    @property
    def device(self) -> torch.device:
        return next(self.vae.parameters()).device

    def to(self, device: torch.device | str) -> "LatentCodec":
        self.vae.to(device)
        return self

    @torch.inference_mode()
    def encode(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Posterior mean and standard deviation, raw (not standardised), float32 (B, C, h, w), of images (B, c, H, W).

        Autoencoders without a posterior have a standard deviation of zero.
        """
        images = adapt_channels(images.to(self.device, torch.float32), self.vae_channels)
        with torch.autocast(self.device.type, enabled=False):
            output = self.vae.encode(images.contiguous())
        if hasattr(output, "latent_dist"):
            return output.latent_dist.mean, output.latent_dist.std
        latents = output.latents if hasattr(output, "latents") else output.latent
        return latents, torch.zeros_like(latents)

    @torch.inference_mode()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Images float32 (B, im_channels, H, W) in [-1, 1] of standardised latents (B, C, h, w).

        Gray data sets come out gray: the channels are averaged.
        """
        images = self._decode_raw(self.destandardise(latents.to(self.device, torch.float32)))
        if self._statistics().gray:
            images = images.mean(dim=1, keepdim=True).expand(-1, self.im_channels, -1, -1)
        return images

    @torch.inference_mode()
    def round_trip(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, im_channels, H, W) in [-1, 1] through encoder (posterior mean) and decoder: the VAE's ceiling."""
        mean, _ = self.encode(images)
        return self._decode_raw(mean)

    def _decode_raw(self, raw: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self.device.type, enabled=False):
            images = self.vae.decode(raw).sample.clamp(-1, 1)
        return adapt_channels(images, self.im_channels)

    def standardise(self, raw: torch.Tensor) -> torch.Tensor:
        """Raw latents (B, C, h, w) -> zero mean, unit variance per channel over the training images."""
        mean, std = self._scale(raw)
        return (raw - mean) / std

    def destandardise(self, latents: torch.Tensor) -> torch.Tensor:
        """The inverse of `standardise`."""
        mean, std = self._scale(latents)
        return latents * std + mean

    def _scale(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        statistics = self._statistics()
        if latents.shape[1] != len(statistics.mean):
            raise UserError(f"the latents have {latents.shape[1]} channels, the statistics {len(statistics.mean)}")
        mean, std = (latents.new_tensor(values).view(1, -1, 1, 1) for values in (statistics.mean, statistics.std))
        return mean, std

    def _statistics(self) -> LatentStatistics:
        if self.statistics is None:
            raise ValueError("the latent statistics have not been measured yet")
        return self.statistics


def adapt_channels(images: torch.Tensor, channels: int) -> torch.Tensor:
    """Images (B, c, H, W) as (B, channels, H, W): gray is repeated; where c differs, colour is averaged to gray first."""
    if images.shape[1] == channels:
        return images
    return images.mean(dim=1, keepdim=True).expand(-1, channels, -1, -1)


def resolve_autoencoder(pretrained: str, subfolder: str | None = None) -> Path:
    """The local folder of a diffusers autoencoder: a folder as it is, a hub id from the cache or by download.

    Raises:
        UserError: neither a folder nor obtainable from the hub, or without config or weights in safetensors.
    """
    folder, key = Path(pretrained), "autoencoder_params.pretrained"
    hub_id = None if folder.is_dir() else pretrained
    if hub_id is not None:
        folder = _download(hub_id, subfolder)
    folder = folder / subfolder if subfolder else folder
    if not (folder / CONFIG_FILE).is_file():
        if (folder / PIPELINE_FILE).is_file():
            raise UserError(f"{key}: {folder} has no {CONFIG_FILE}; expected a folder of one autoencoder, found a whole "
                            "pipeline; set autoencoder_params.subfolder: vae")
        raise UserError(
            f"{key}: {folder} has no {CONFIG_FILE}; expected a folder that diffusers' save_pretrained wrote with "
            "safetensors (a folder inside it, such as vae, is autoencoder_params.subfolder)"
        )
    if find_weight_files(folder, STEM) is None:
        loader = f"diffusers.{read_autoencoder_config(folder)['_class_name']}"
        missing = describe_missing(folder, STEM, loader=loader, hub_id=hub_id)
        raise UserError(f"{key}: {missing}; expected a folder that diffusers' save_pretrained wrote with safetensors")
    return folder


def list_autoencoder_files(folder: Path) -> list[Path]:
    """The files of the autoencoder: its config and its weights, in one file or in shards with an index.

    Raises:
        UserError: no weights, or an index whose shards are not all there.
    """
    return [folder / CONFIG_FILE, *_find_weights(folder).files]


def hash_autoencoder(folder: Path) -> str:
    """SHA-256 over the config's class and shape and the weights: what determines every latent."""
    digest = hashlib.sha256(json.dumps(read_autoencoder_config(folder), sort_keys=True).encode())
    for path in _find_weights(folder).tensors:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def read_autoencoder_config(folder: Path) -> dict[str, Any]:
    """The diffusers config without the keys about the software that wrote it."""
    path = folder / CONFIG_FILE
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(config, dict) or config.get("_class_name") not in _SUPPORTED:
        found = config.get("_class_name") if isinstance(config, dict) else None
        raise UserError(f"{path}: expected one of {', '.join(_SUPPORTED)}, found {found!r}")
    return {key: value for key, value in config.items() if key not in ("_diffusers_version", "_name_or_path")}


def read_latent_layout(folder: Path) -> tuple[int | None, int | None]:
    """Channels of the latents and the factor that divides a side in pixels; None if the folder's config lacks it."""
    config = read_autoencoder_config(folder)
    widths = next((config[key] for key in _ENCODER_WIDTHS if config.get(key)), None)
    # Each level of the encoder but the last halves the side, in all supported classes.
    return config.get("latent_channels"), 2 ** (len(widths) - 1) if widths else None


def read_latent_scale(folder: Path) -> tuple[float, float]:
    """The scaling_factor and shift_factor by which pretrained diffusion models take the raw latents: (z - shift) * scale."""
    config = read_autoencoder_config(folder)
    default = 1.0 if config["_class_name"] == "AutoencoderTiny" else 0.18215  # diffusers' own defaults
    return float(config.get("scaling_factor") or default), float(config.get("shift_factor") or 0.0)


def load_codec(
    folder: Path, *, im_channels: int, statistics: LatentStatistics | None = None, decoder_only: bool = False
) -> LatentCodec:
    """Load an autoencoder folder as diffusers' `from_pretrained` does; with `decoder_only` no encoder is kept or needed.

    Raises:
        UserError: weights and config do not fit, or the VAE does not fit the images' channels.
    """
    config, weights = read_autoencoder_config(folder), _find_weights(folder)
    if weights.variant is not None:
        _say_once(f"{folder}: has no plain {STEM}.safetensors; reading its {weights.variant} variant, {weights.head.name}")
    vae, missing = load_vae(folder, config, weights)
    if decoder_only:
        missing = [name for name in missing if name.partition(".")[0] not in _ENCODER_PARTS]
        for part in _ENCODER_PARTS:
            if getattr(vae, part, None) is not None:
                setattr(vae, part, None)
    if missing:
        raise UserError(f"{weights.head}: lacks {missing[0]} and {len(missing) - 1} more that its config.json requires")
    return LatentCodec(vae, im_channels=im_channels, statistics=statistics)


def _find_weights(folder: Path) -> WeightFiles:
    weights = find_weight_files(folder, STEM)
    if weights is None:
        raise UserError(f"{folder}: has no {STEM}.safetensors; expected a folder that diffusers' save_pretrained wrote")
    return weights


@functools.cache
def _say_once(line: str) -> None:
    print(line, flush=True)


def _download(hub_id: str, subfolder: str | None) -> Path:
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return fetch_model(hub_id, STEM, subfolder=subfolder)
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise UserError(
            f"autoencoder_params.pretrained: {hub_id!r} is neither a local folder nor obtainable from the hub "
            f"({type(error).__name__}); give the path of a diffusers VAE folder, or make one with "
            "`python -m tools.train_vae`"
        ) from error
