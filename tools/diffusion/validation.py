"""Validation during training: the held-out loss of the averaged weights, the preview picture, and the best weights."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from config.load import config_to_dict
from config.schema import Config
from dataset.images import write_png
from models.autoencoder import LatentCodec
from scheduler.samplers import evaluated_timesteps
from tools.diffusion import generation
from tools.diffusion.conditions import ConditionPrior, condition_levels, null_levels
from tools.diffusion.latent_source import LatentSource, TrainingData
from tools.diffusion.networks import BASE_KEY
from tools.diffusion.project import Project
from tools.diffusion.train_state import TrainState
from tools.diffusion.trained_images import TRAINED_KEY, shorten_hashes
from tools.diffusion.training import (
    Batch,
    DiffusionLoss,
    latent_shape,
    make_schedule,
    validation_batches,
    validation_loss,
)
from tools.diffusion.warm_start import START_KEY, StartRecord
from tools.runtime import checkpoints
from tools.runtime.command import Diverged
from tools.runtime.image_grid import label_grid
from tools.runtime.progress import Progress
from tools.runtime.run_directory import RunDirectory
from tools.runtime.tracking import Tracker


class Validator:
    """Measures the averaged weights on held-out latents, generates the preview and keeps the best weights."""

    def __init__(self, config: Config, project: Project, run: RunDirectory, data: TrainingData, averaged: torch.nn.Module,
                 *, loss_of: DiffusionLoss, device: torch.device, record: StartRecord | None = None,
                 base_sha256: str | None = None) -> None:
        self.config, self.run, self.data, self.averaged = config, run, data, averaged
        self.loss_of, self.device = loss_of, device
        counts = Counter(data.train.labels.tolist())
        self.class_counts = [counts[label] for label in range(config.num_classes)]
        self.condition_prior = ConditionPrior.measure(data.train.labels, data.train.conditions,
                                                      num_classes=config.num_classes)
        self.autoencoder_sha256 = project.vae_sha256
        own = shorten_hashes(project.hash_images(project.trained_images("train")))
        self.trained_images = own if record is None else sorted({*own, *record.trained_images})
        self.base_sha256 = base_sha256
        self.start = None if record is None else {"sha256": record.sha256, "step": record.step}

    def validate(self, state: TrainState, tracker: Tracker) -> str:
        """Log the held-out loss, write the preview, and keep these weights if they are the best so far.

        Returns the result in one line.

        Raises:
            Diverged: the loss is not finite.
        """
        self.averaged.load_state_dict(state.ema.state_dict(), strict=False)
        row: dict[str, Any] = {"step": state.step}
        loss: float | None = None
        if self.data.val is not None:
            loss = row["ema_validation_loss"] = self._measure_loss(self.data.val)
            if not math.isfinite(loss):  # no later loss would be lower
                raise Diverged(f"step {state.step}: the validation loss is not finite; start again with another task_name "
                               "and a lower ldm_lr, more warmup_steps, or mixed_precision bf16 or no")
        by_loss = self.config.train_params.selection_metric == "ema_validation_loss"
        if not by_loss or state.best_loss is None or (loss is not None and loss < state.best_loss):
            state.best_loss, state.best_step = loss, state.step
            self._write_best(state)
        row["best_step"] = state.best_step
        tracker.log(row)
        preview = self._write_preview(state, tracker)
        measured = "" if loss is None else f"validation loss {loss:.4f}, "
        best = "the best so far" if state.best_step == state.step else f"the best is step {state.best_step}'s"
        return f"step {state.step}: {measured}{best}; preview {preview}"

    def _measure_loss(self, val: LatentSource) -> float:
        batches = validation_batches(val, self.data.codec, train=self.config.train_params, data=self.config.dataset_params,
                                     num_timesteps=self.config.diffusion_params.num_timesteps, device=self.device)
        total = len(val.labels) * self.config.train_params.validation_draws
        with Progress("validating", total, enabled=self.config.logging_params.progress_bar, passing=True) as bar:
            return validation_loss(self.averaged, _tell(batches, bar), loss_of=self.loss_of)

    def _write_best(self, state: TrainState) -> None:
        assert self.data.codec.statistics is not None
        values = {
            "step": state.step, "ema_validation_loss": state.best_loss, "config": config_to_dict(self.config),
            "latent_statistics": vars(self.data.codec.statistics), "class_counts": self.class_counts,
            "autoencoder_sha256": self.autoencoder_sha256, TRAINED_KEY: self.trained_images,
        }
        if self.start is not None:
            values[START_KEY] = self.start
        if self.base_sha256 is not None:
            values[BASE_KEY] = self.base_sha256
        if self.config.dataset_params.params.conditions:
            values["condition_levels"] = condition_levels(self.config.dataset_params.params)
            values["condition_counts"] = self.condition_prior.to_values()
        checkpoints.write_checkpoint(self.run.weights(self.config.train_params), state.ema.state_dict(), values)

    def _write_preview(self, state: TrainState, tracker: Tracker) -> Path | str:
        train, sample = self.config.train_params, self.config.sample_params
        if sample.guide_checkpoint is not None:  # guides are for the finished model
            sample = replace(sample, guide_checkpoint=None, guidance_scale=1.0)
        counts = generation.count_per_class(train.num_samples, [1] * self.config.num_classes)
        denoising = generation.Denoising(
            network=self.averaged, schedule=make_schedule(self.config.diffusion_params),
            prediction_type=self.config.diffusion_params.prediction_type, null_label=self.config.num_classes,
            latent_shape=latent_shape(self.config.dataset_params), device=self.device,
            null_levels=null_levels(self.config.dataset_params.params),
            sees_view=self.config.dataset_params.symmetry_conditioning,
        )
        requests = generation.draw_conditions(generation.list_requests(counts), self.condition_prior, seed=train.seed)
        codec: LatentCodec = self.data.codec
        evaluations = evaluated_timesteps(sample.sampler, self.config.diffusion_params.num_timesteps, sample.num_steps)
        with Progress(f"drawing {len(requests)} images", len(evaluations), unit="steps",
                      enabled=self.config.logging_params.progress_bar, passing=True) as bar:
            try:
                pixels = generation.draw_images(denoising, codec, requests, params=sample, seed=train.seed,
                                                batch_size=len(requests), report=bar.update)
            except Diverged:  # another sampler may do better
                return "none, its values are not finite"
        labels = np.array([request.label for request in requests])
        names = self.config.dataset_params.params.class_names
        grid = label_grid([(name, pixels[labels == label]) for label, name in enumerate(names)], num_columns=max(counts),
                          title=f"step {state.step:,}")
        path = self.run.previews / f"step_{state.step:08d}.png"
        write_png(path, grid, text={"Synthetic": "BlastDiffusion preview"})
        tracker.log_synthetic_image("preview", grid.squeeze(-1) if grid.shape[-1] == 1 else grid, step=state.step)
        return path


class NullValidator(Validator):
    """Measures and writes nothing, for all processes except the first."""

    def __init__(self) -> None:
        """Nothing is needed."""

    def validate(self, state: TrainState, tracker: Tracker) -> str:  # noqa: ARG002 - as the other's
        """Nothing came out."""
        return ""


def _tell(batches: Iterator[tuple[Batch, torch.Tensor, torch.Tensor]], bar: Progress) -> Iterator[
        tuple[Batch, torch.Tensor, torch.Tensor]]:
    """The same batches; the bar is updated after each."""
    done = 0
    for batch, noise, timesteps in batches:
        yield batch, noise, timesteps
        done += len(batch.labels)
        bar.update(done)
