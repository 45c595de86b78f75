"""How well a VAE restores held-out images."""

import numpy as np
import torch

from tools.diffusion.project import Project
from tools.runtime.progress import Progress


def measure_psnr(project: Project, device: torch.device, *, progress_bar: bool) -> float:
    """PSNR in dB of the VAE's round trip over the images of `measured_split`."""
    codec, batch_size = project.open_codec(device=device), project.autoencoder.batch_size
    images = project.images(measured_split(project))
    errors: list[float] = []
    with Progress("round trip", len(images), enabled=progress_bar) as progress:
        for start in range(0, len(images), batch_size):
            pixels = torch.stack([images[i][0] for i in range(start, min(start + batch_size, len(images)))])
            restored = codec.round_trip(pixels).cpu()
            errors += (restored - pixels).square().mean(dim=(1, 2, 3)).tolist()
            progress.update(len(errors))
    return round(float(np.mean([10 * np.log10(4 / max(error, 1e-12)) for error in errors])), 3)


def measured_split(project: Project) -> str:
    return "val" if project.has_split("val") else "train"


def compare_psnr(before: float | None, after: float) -> str:
    """The comparison for the last line of a fine-tuning."""
    if before is None:
        return ""
    if after < before:
        return (f", WORSE than the {before:.2f} dB before fine-tuning: compare both with tools.check_vae before you use it, "
                "or lower autoencoder_params.training.lr or raise max_minutes")
    return f" ({before:.2f} dB before fine-tuning)"
