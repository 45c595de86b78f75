"""The training step and the validation of the UNet: pure functions, except that they update the networks."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from config.errors import UserError
from config.schema import DatasetParams, DiffusionParams, TrainParams
from dataset.annotations import ImageRecord
from dataset.order import SampleOrder, StepDraws, TimestepDraws, draw_step, generator, normal
from dataset.ranks import ALONE, Ranks
from models.autoencoder import LatentCodec, LatentStatistics
from models.trained_part import trained_parameters
from scheduler.guidance import drop_conditions, drop_labels
from scheduler.linear_noise_scheduler import ForwardProcess, make_flow_schedule, make_noise_schedule
from scheduler.objectives import loss_weights, make_target
from tools.diffusion.conditions import join_view, null_levels
from tools.diffusion.latent_source import LatentSource
from tools.diffusion.train_state import TrainState
from tools.runtime.processes import unwrap

_SKIPPING_DEVICES = ("cpu", "cuda")  # their fused kernels read `found_inf`; Apple's do not


@dataclass(frozen=True)
class Batch:
    """Standardised latents float32 (B, C, h, w) with int64 (B,) labels, on the training device.

    conditions: int64 (B, K), the network's further conditions; None if it takes none.
    """

    latents: torch.Tensor
    labels: torch.Tensor
    conditions: torch.Tensor | None = None

    def drop(self, draws: StepDraws, *, probability: float, null_label: int, null_levels: Sequence[int]) -> "Batch":
        """The batch with labels and conditions replaced by their nulls according to the draws."""
        device = self.labels.device
        uniforms = to_device(draws.drop_uniforms, device)
        labels = drop_labels(self.labels, uniforms, probability=probability, null_label=null_label)
        conditions = None if self.conditions is None else drop_conditions(
            self.conditions, uniforms, to_device(draws.condition_uniforms, device), probability=probability,
            null_levels=null_levels)
        return Batch(self.latents, labels, conditions)


def latent_shape(data: DatasetParams) -> tuple[int, int, int]:
    """Channels, height and width of the latents."""
    return data.z_channels, data.latent_size, data.latent_size


def make_schedule(params: DiffusionParams) -> ForwardProcess:
    """The config's forward process."""
    if params.schedule == "rectified_flow":
        return make_flow_schedule(params.num_timesteps)
    return make_noise_schedule(params.schedule, num_timesteps=params.num_timesteps, beta_start=params.beta_start,
                               beta_end=params.beta_end)


def timestep_draws(params: DiffusionParams) -> TimestepDraws:
    """How training samples timesteps."""
    return TimestepDraws(params.num_timesteps, params.timestep_sampling, params.logit_mean, params.logit_std)


def open_draws(
    params: TrainParams, data: DatasetParams, diffusion: DiffusionParams, labels: np.ndarray, *, ranks: Ranks = ALONE
) -> Callable[[int], StepDraws]:
    """A function of the step, from 0: the draws of this process's part of the batch. Labels: int64 (N,)."""
    order = SampleOrder(labels, seed=params.seed, balance=params.balanced_sampling)
    timesteps, num_conditions = timestep_draws(diffusion), len(null_levels(data.params))
    rows = params.ldm_batch_size // ranks.count

    def draw(step: int) -> StepDraws:
        whole = draw_step(order, step, batch_size=params.ldm_batch_size, num_views=len(data.symmetries),
                          latent_shape=latent_shape(data), timesteps=timesteps, num_conditions=num_conditions)
        return whole.slice(ranks.rank * rows, (ranks.rank + 1) * rows)

    return draw


class DiffusionLoss:
    """The weighted squared error of the network's prediction, for one schedule and objective.

    `statistics` are the latents' statistics; without them all channels weigh the same.
    """

    def __init__(self, params: DiffusionParams, *, null_label: int, device: torch.device,
                 null_levels: Sequence[int] = (), statistics: LatentStatistics | None = None) -> None:
        self.schedule = make_schedule(params)
        self.prediction_type = params.prediction_type
        self.null_label, self.null_levels = null_label, null_levels
        weights = loss_weights(self.schedule, params.prediction_type, weighting=params.loss_weighting,
                               min_snr_gamma=params.min_snr_gamma)
        self.weights = torch.from_numpy(weights).float().to(device)
        shares = () if statistics is None or params.channel_weighting == "uniform" else statistics.signal_shares
        self.channel_weights = weigh_channels(shares).to(device) if shares else None
        every = torch.arange(self.schedule.num_timesteps, device=device)
        self._signal, self._noise = self.schedule.signal_level(every), self.schedule.noise_level(every)  # (T, 1, 1, 1)

    def per_image(self, network: nn.Module, batch: Batch, *, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Mean squared error of each image, float32 (B,), of equal weight for all timesteps."""
        signal, level = self._signal[timesteps], self._noise[timesteps]
        x_t = signal * batch.latents + level * noise
        target = make_target(self.prediction_type, x_0=batch.latents, noise=noise, signal_level=signal, noise_level=level)
        further = () if batch.conditions is None else (batch.conditions,)
        prediction = network(x_t, timesteps, batch.labels, *further)
        errors = (prediction.float() - target).square().mean(dim=(2, 3))  # (B, C)
        return (errors if self.channel_weights is None else errors * self.channel_weights).mean(dim=1)

    def __call__(self, network: nn.Module, batch: Batch, *, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """The weighted mean over the batch, a scalar."""
        return (self.weights[timesteps] * self.per_image(network, batch, noise=noise, timesteps=timesteps)).mean()


def weigh_channels(signal_shares: Sequence[float]) -> torch.Tensor:
    """Weights float32 (C,) of mean 1, proportional to the signal in each latent channel.

    The noise of a VAE's posterior is drawn anew each time: no network can predict it, and the gradient of such a channel
    is noise. If a VAE uses all its channels, all weights are nearly 1.
    """
    shares = torch.tensor(signal_shares, dtype=torch.float64)
    return (shares / shares.mean().clamp_min(1e-12)).float()


def read_batch(
    source: LatentSource, codec: LatentCodec, draws: StepDraws, device: torch.device, *, sees_view: bool = False
) -> Batch:
    """The standardised latents that the draws select, with the view among their conditions if the network sees it."""
    raw = source.draw(draws.positions, draws.views, draws.posterior_noise)
    return _label_batch(source, codec.standardise(raw), positions=draws.positions, views=draws.views, device=device,
                        sees_view=sees_view)


def train_step(
    state: TrainState, draws: StepDraws, read: Callable[[StepDraws], Batch], *, loss_of: DiffusionLoss,
    accelerator: Accelerator, params: TrainParams, dropout: float, lr: float,
) -> None:
    """One optimizer step on this process's slice of the global batch, cut into the configured micro-steps.

    `read` maps StepDraws to a Batch; `dropout` is the network's. The mean loss over the slice and the gradient's norm
    before clipping go to the meters. A step whose loss or gradient is not finite leaves weights, average and optimizer
    untouched and is counted. All of this is decided on the device: the host does not wait and can prepare the
    next step.
    """
    device = accelerator.device
    micro_steps = params.gradient_accumulation_steps
    micro_size = len(draws.positions) // micro_steps
    state.model.train()
    state.optimizer.param_groups[0]["lr"] = lr
    total = torch.zeros((), device=device)
    for micro_step in range(micro_steps):
        part = draws.slice(micro_step * micro_size, (micro_step + 1) * micro_size)
        batch = read(part)
        batch = batch.drop(part, probability=params.label_dropout, null_label=loss_of.null_label,
                           null_levels=loss_of.null_levels)
        last = micro_step == micro_steps - 1
        if dropout > 0:
            _seed_dropout(params.seed, state.step, micro_step, accelerator.process_index)
        with _synchronised(accelerator, state.model, last), accelerator.autocast():
            loss = loss_of(state.model, batch, noise=to_device(part.noise, device),
                           timesteps=to_device(part.timesteps, device)) / micro_steps
        with _synchronised(accelerator, state.model, last):
            accelerator.backward(loss)
        total += loss.detach()
    norm = accelerator.clip_grad_norm_(state.model.parameters(), params.clip_grad_norm or math.inf)
    # The norm is of the gradient averaged over all processes, so that all of them apply the step or none does.
    finite = torch.isfinite(norm) & (torch.isfinite(total) | (accelerator.num_processes > 1))
    _apply(state.optimizer, finite, has_scaler=accelerator.scaler is not None)
    state.ema.update(unwrap(accelerator, state.model), finite)
    state.meters.add(loss=total, grad_norm=norm, applied=finite)
    state.optimizer.zero_grad(set_to_none=True)


def make_optimizer(network: nn.Module, train: TrainParams) -> torch.optim.AdamW:
    """AdamW in one pass over the parameters if that pass can skip a step on the device, else as the library chooses."""
    fused = next(network.parameters()).device.type in _SKIPPING_DEVICES
    return torch.optim.AdamW(trained_parameters(network).values(), lr=train.ldm_lr, betas=train.adam_betas,
                             weight_decay=train.weight_decay, fused=fused)


def _apply(optimizer: Any, finite: torch.Tensor, *, has_scaler: bool) -> None:
    """A step of the optimizer, which changes nothing if bool () `finite` is false.

    The fused kernels read `found_inf` for that, as they do for a gradient scaler; under fp16 the scaler sets it.
    Other kernels do not: there the host waits for the answer, as a scaler does.
    """
    if has_scaler:
        optimizer.step()
        return
    inner = optimizer.optimizer  # accelerate's wrapper does not forward attributes
    if not inner.defaults["fused"]:
        if bool(finite):
            optimizer.step()
        return
    inner.found_inf = (~finite).float()
    optimizer.step()
    del inner.found_inf


def require_selectable(selection_metric: str, records: Sequence[ImageRecord]) -> bool:
    """Whether there are validation images.

    Raises:
        UserError: there are none, but they are needed to choose the best weights.
    """
    has_val = any(record.split == "val" for record in records)
    if not has_val and selection_metric == "ema_validation_loss":
        raise UserError("train_params.selection_metric: ema_validation_loss needs a val split; name rows for it, set "
                        "dataset_params.params.val_from_train, or choose selection_metric: last")
    return has_val


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on that device, without the host waiting for a GPU's earlier work."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


@torch.no_grad()
def validation_loss(network: nn.Module, batches: Iterator[tuple[Batch, torch.Tensor, torch.Tensor]], *,
                    loss_of: DiffusionLoss) -> float:
    """Mean unweighted loss over (batch, noise, timesteps) triples, in float64."""
    network.eval()
    total, count = 0.0, 0
    for batch, noise, timesteps in batches:
        losses = loss_of.per_image(network, batch, noise=noise, timesteps=timesteps)
        total += float(losses.cpu().double().sum())  # some devices have no float64
        count += len(losses)
    return total / count


def validation_batches(
    source: LatentSource, codec: LatentCodec, *, train: TrainParams, data: DatasetParams, num_timesteps: int,
    device: torch.device,
) -> Iterator[tuple[Batch, torch.Tensor, torch.Tensor]]:
    """Every held-out image `validation_draws` times, unchanged, with fixed noise and fixed stratified timesteps."""
    count, shape = len(source.labels), latent_shape(data)
    for draw in range(train.validation_draws):
        rng = generator(train.seed, "validation", draw)
        fractions = (rng.permutation(count) + rng.random(count)) / count
        timesteps = torch.from_numpy((fractions * num_timesteps).astype("int64"))
        noise = normal(rng, (2, count, *shape))
        for start in range(0, count, train.ldm_batch_size):
            rows = torch.arange(start, min(start + train.ldm_batch_size, count))
            raw = source.draw(rows, torch.zeros_like(rows), noise[0][rows])
            batch = _label_batch(source, codec.standardise(raw), positions=rows, views=torch.zeros_like(rows),
                                 device=device, sees_view=data.symmetry_conditioning)
            yield batch, noise[1][rows].to(device), timesteps[rows].to(device)


def _label_batch(
    source: LatentSource, latents: torch.Tensor, *, positions: torch.Tensor, views: torch.Tensor, device: torch.device,
    sees_view: bool,
) -> Batch:
    """Standardised latents with the labels and conditions of the images that they come from."""
    conditions = join_view(torch.from_numpy(source.conditions)[positions], views, sees_view=sees_view)
    return Batch(to_device(latents, device), to_device(torch.from_numpy(source.labels)[positions], device),
                 None if conditions is None else to_device(conditions, device))


def lr_factor(schedule: str, *, fraction: float, step: int, warmup_steps: int) -> float:
    """Factor on the peak learning rate after `fraction` of the training: linear warm-up, then constant or a decay to 0."""
    warmup = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    fraction = min(max(fraction, 0.0), 1.0)
    decay = {"constant": 1.0, "linear": 1.0 - fraction, "cosine": 0.5 * (1.0 + math.cos(math.pi * fraction))}[schedule]
    return warmup * decay


def _seed_dropout(seed: int, step: int, micro_step: int, process: int) -> None:
    """Address the dropout masks by step like every other draw; the library takes them from its global generator."""
    torch.manual_seed(int(generator(seed, "dropout", step, micro_step, process).integers(2**63 - 1)))


def _synchronised(accelerator: Accelerator, model: nn.Module, last: bool) -> AbstractContextManager[None]:
    """Exchange gradients between processes only at the last micro-step."""
    return nullcontext() if last else accelerator.no_sync(model)
