"""A VAE without a posterior from the cache to the report: no noise of its own, all of every channel is signal."""

import json
from pathlib import Path

import numpy as np
import torch
from workspace import Workspace, forget_accelerator, save_tiny_autoencoder

import sample_ddpm_class_cond
import train_ddpm_cond
from dataset.decoding import decode_image
from tools.diffusion.data import prepare_latents
from tools.runtime.checkpoints import read_checkpoint


def test_latents_without_a_posterior_are_cached_learnt_drawn_and_evaluated(classifiers: Workspace, tmp_path: Path) -> None:
    save_tiny_autoencoder(tmp_path / "tiny", seed=2, latent_channels=16)
    keys = (f"autoencoder_params.pretrained={tmp_path / 'tiny'}", "dataset_params.z_channels=16", "train_params.max_steps=3",
            f"dataset_params.directory_latents={tmp_path / 'latents'}")
    weights = {}
    for weighting in ("signal", "uniform"):
        overrides = (*keys, f"diffusion_params.channel_weighting={weighting}",
                     f"train_params.task_name={tmp_path / weighting}")
        train_ddpm_cond.main(classifiers.arguments(*overrides))
        forget_accelerator()
        weights[weighting], values = read_checkpoint(tmp_path / weighting / "checkpoints/ddpm_ckpt.safetensors")
        assert values["latent_statistics"]["signal_shares"] == [1.0] * 16
    assert all(torch.equal(tensor, weights["uniform"][name]) for name, tensor in weights["signal"].items())
    cache = prepare_latents(classifiers.config(*keys), "train")
    assert cache.mean.shape[2:] == (16, 8, 8) and not np.any(cache.std) and np.any(cache.mean)

    output = tmp_path / "samples"
    sample_ddpm_class_cond.main([*classifiers.arguments(*overrides), "--output", str(output), "--per-class", "12"])
    images = [decode_image(path) for path in sorted((output / "images").glob("*.png"))]
    assert len(images) == 24 and all(image.shape[:2] == (32, 32) for image in images)
    evaluation = json.loads((output / "evaluation.json").read_text(encoding="utf-8"))
    assert any(row["comparison"] == "ceiling" and row["value"] is not None for row in evaluation["rows"])
