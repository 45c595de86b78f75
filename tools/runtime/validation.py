"""Validation during training: the held-out loss of the averaged weights, the preview picture, and the best weights."""

from collections import Counter
from dataclasses import replace
from typing import Any

import torch

from config.load import config_to_dict
from config.schema import Config
from dataset.images import tile_images, write_png
from models.autoencoder import LatentCodec, hash_autoencoder
from tools.runtime import checkpoints, generation
from tools.runtime.conditions import ConditionPrior, condition_levels, null_levels
from tools.runtime.data import find_autoencoder
from tools.runtime.latent_source import TrainingData
from tools.runtime.run_directory import RunDirectory
from tools.runtime.tracking import Tracker
from tools.runtime.training import (
    DiffusionLoss,
    TrainState,
    latent_shape,
    make_schedule,
    validation_batches,
    validation_loss,
)


class Validator:
    """Measures the averaged weights on held-out latents, draws the preview and keeps the best weights."""

    def __init__(self, config: Config, run: RunDirectory, data: TrainingData, averaged: torch.nn.Module,
                 loss_of: DiffusionLoss, device: torch.device) -> None:
        self.config, self.run, self.data, self.averaged = config, run, data, averaged
        self.loss_of, self.device = loss_of, device
        counts = Counter(data.train.labels.tolist())
        self.class_counts = [counts[label] for label in range(config.num_classes)]
        self.condition_prior = ConditionPrior.measure(data.train.labels, data.train.conditions,
                                                      num_classes=config.num_classes)
        self.autoencoder_sha256 = hash_autoencoder(find_autoencoder(config))

    def validate(self, state: TrainState, tracker: Tracker) -> None:
        """Log the held-out loss, write the preview, and keep these weights if they are the best so far."""
        self.averaged.load_state_dict(state.ema.state_dict(), strict=False)
        row: dict[str, Any] = {"step": state.step}
        loss: float | None = None
        if self.data.val is not None:
            batches = validation_batches(self.data.val, self.data.codec, config=self.config, device=self.device)
            loss = row["ema_validation_loss"] = validation_loss(self.averaged, batches, loss_of=self.loss_of)
        by_loss = self.config.train_params.selection_metric == "ema_validation_loss"
        if not by_loss or state.best_loss is None or (loss is not None and loss < state.best_loss):
            state.best_loss, state.best_step = loss, state.step
            self._write_best(state)
        row["best_step"] = state.best_step
        tracker.log(row)
        self._write_preview(state, tracker)

    def _write_best(self, state: TrainState) -> None:
        assert self.data.codec.statistics is not None
        values = {
            "step": state.step, "ema_validation_loss": state.best_loss, "config": config_to_dict(self.config),
            "latent_statistics": vars(self.data.codec.statistics), "class_counts": self.class_counts,
            "autoencoder_sha256": self.autoencoder_sha256,
        }
        if self.config.dataset_params.params.conditions:
            values["condition_levels"] = condition_levels(self.config)
            values["condition_counts"] = self.condition_prior.to_values()
        path = self.run.checkpoints / self.config.train_params.ldm_ckpt_name
        checkpoints.write_checkpoint(path, state.ema.state_dict(), values)

    def _write_preview(self, state: TrainState, tracker: Tracker) -> None:
        train, sample = self.config.train_params, self.config.sample_params
        if sample.guide_checkpoint is not None:  # a guide belongs to the finished model
            sample = replace(sample, guide_checkpoint=None, guidance_scale=1.0)
        counts = generation.count_per_class(train.num_samples, [1] * self.config.num_classes)
        denoising = generation.Denoising(
            network=self.averaged, schedule=make_schedule(self.config.diffusion_params),
            prediction_type=self.config.diffusion_params.prediction_type, null_label=self.config.num_classes,
            latent_shape=latent_shape(self.config), device=self.device, null_levels=null_levels(self.config),
            sees_view=self.config.dataset_params.symmetry_conditioning,
        )
        requests = generation.draw_conditions(generation.list_requests(counts), self.condition_prior, seed=train.seed)
        codec: LatentCodec = self.data.codec
        pixels = generation.draw_images(denoising, codec, requests, params=sample, seed=train.seed, batch_size=len(requests))
        grid = tile_images(pixels, num_columns=max(counts))
        write_png(self.run.previews / f"step_{state.step:08d}.png", grid, text={"Synthetic": "BlastDiffusion preview"})
        tracker.log_synthetic_image("preview", grid.squeeze(-1) if grid.shape[-1] == 1 else grid, step=state.step)
