"""How well a VAE restores held-out images."""

import dataclasses
from pathlib import Path

import numpy as np
import torch

from config.schema import Config
from tools.diffusion.data import has_split, open_codec, open_images
from tools.runtime.progress import Progress


def measure_psnr(config: Config, folder: Path, device: torch.device) -> float:
    """PSNR in dB of the VAE's round trip over the images of `measured_split`."""
    params = dataclasses.replace(config.autoencoder_params, pretrained=str(folder), subfolder=None)
    codec = open_codec(dataclasses.replace(config, autoencoder_params=params), device=device)
    images = open_images(config, measured_split(config))
    errors: list[float] = []
    with Progress("round trip", len(images), enabled=config.logging_params.progress_bar) as progress:
        for start in range(0, len(images), params.batch_size):
            pixels = torch.stack([images[i][0] for i in range(start, min(start + params.batch_size, len(images)))])
            restored = codec.round_trip(pixels).cpu()
            errors += (restored - pixels).square().mean(dim=(1, 2, 3)).tolist()
            progress.update(len(errors))
    return round(float(np.mean([10 * np.log10(4 / max(error, 1e-12)) for error in errors])), 3)


def measured_split(config: Config) -> str:
    return "val" if has_split(config, "val") else "train"


def compare_psnr(before: float | None, after: float) -> str:
    """What the last line says of a fine-tuned VAE."""
    if before is None:
        return ""
    if after < before:
        return (f", WORSE than the {before:.2f} dB before fine-tuning: compare both with tools.check_vae before you use it, "
                "or lower autoencoder_params.training.lr or raise max_minutes")
    return f" ({before:.2f} dB before fine-tuning)"
