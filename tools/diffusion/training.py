"""The training step and the validation of the UNet: pure in everything but the networks that they update."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from config.errors import UserError
from config.schema import Config, DiffusionParams
from dataset.annotations import ImageRecord
from dataset.order import StepDraws, TimestepDraws, generator, normal
from models.autoencoder import LatentCodec, LatentStatistics
from models.ema import ExponentialMovingAverage
from models.unet import UNet, UNetShape
from scheduler.guidance import drop_conditions, drop_labels
from scheduler.linear_noise_scheduler import ForwardProcess, make_flow_schedule, make_noise_schedule
from scheduler.objectives import loss_weights, make_target
from tools.diffusion.conditions import condition_shapes, join_view
from tools.diffusion.latent_source import LatentSource
from tools.runtime import checkpoints
from tools.runtime.command import Diverged
from tools.runtime.processes import unwrap

_SKIPPING_DEVICES = ("cpu", "cuda")  # whose fused kernels read `found_inf`; Apple's do not
MOST_BAD_STEPS = 10  # non-finite steps in a row after which a run has diverged


class Meters:
    """Sums of loss and gradient norm since the last reading, and the count of skipped steps, on the training's device.

    A training step writes them without waiting for the device; only reading waits.
    """

    _SUMS = ("loss", "grad_norm", "count")

    def __init__(self, device: torch.device) -> None:
        dtype = torch.float32 if device.type == "mps" else torch.float64  # that device has no double precision
        self._sums = torch.zeros(len(self._SUMS), dtype=dtype, device=device)
        self._skips = torch.zeros(3, dtype=torch.int64, device=device)  # in all, in a row, most in a row since a reading

    def add(self, *, loss: torch.Tensor, grad_norm: torch.Tensor, applied: torch.Tensor) -> None:
        """Add a step's float () loss and norm, which count where they are finite; bool () `applied` is false if skipped."""
        values = torch.stack([loss, grad_norm, torch.ones_like(loss)]).to(self._sums.dtype)
        self._sums += torch.where(torch.isfinite(values).all(), values, 0.0)
        skipped = (~applied).long()
        total, in_a_row, longest = self._skips.unbind()
        in_a_row = (in_a_row + skipped) * skipped
        self._skips = torch.stack([total + skipped, in_a_row, torch.maximum(longest, in_a_row)])

    def read(self, accelerator: Accelerator) -> dict[str, float | int | None]:
        """Means since the last reading, over all processes, None where no step was finite; and the skipped steps so far."""
        sums = self._sums.clone()
        if accelerator.num_processes > 1:
            sums = accelerator.reduce(sums.float(), reduction="sum")
        loss, grad_norm, count = sums.tolist()
        self._sums.zero_()
        self._skips[2] = self._skips[1]
        return {"loss": loss / count if count else None, "grad_norm": grad_norm / count if count else None,
                "skipped_steps": int(self._skips[0])}

    def longest_row(self) -> int:
        """The most steps in a row that were skipped since the last reading."""
        return int(self._skips[2])

    def to_values(self) -> dict[str, Any]:
        """Everything, as plain values."""
        skipped, in_a_row, _ = self._skips.tolist()
        return {"meters": dict(zip(self._SUMS, self._sums.tolist(), strict=True)), "skipped_steps": skipped,
                "skipped_in_a_row": in_a_row}

    def restore(self, values: dict[str, Any]) -> None:
        """Put back what `to_values` gave."""
        sums, in_a_row = values["meters"], values["skipped_in_a_row"]
        self._sums.copy_(torch.tensor([sums.get(name, 0.0) for name in self._SUMS], dtype=torch.float64))
        self._skips.copy_(torch.tensor([values["skipped_steps"], in_a_row, in_a_row]))


@dataclass
class TrainState:
    """All that changes during training and is needed to go on: tensors in the modules, plain values here."""

    model: nn.Module
    ema: ExponentialMovingAverage
    optimizer: torch.optim.Optimizer
    meters: Meters
    step: int = 0
    best_loss: float | None = None
    best_step: int | None = None

    _PLAIN = ("step", "best_loss", "best_step")

    def to_checkpoint(self, unwrapped: nn.Module, scaler: Any | None) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Tensors and plain values of a resume checkpoint."""
        tensors = checkpoints.prefix_tensors(unwrapped.state_dict(), "model")
        tensors |= checkpoints.prefix_tensors(self.ema.state_dict(), "ema")
        tensors |= checkpoints.pack_optimizer(self.optimizer)
        values = {name: getattr(self, name) for name in self._PLAIN}
        values["ema_updates"] = self.ema.num_updates
        values |= self.meters.to_values()
        values["scaler"] = None if scaler is None else {k: v for k, v in scaler.state_dict().items() if v is not None}
        return tensors, values

    def restore(self, unwrapped: nn.Module, scaler: Any | None, tensors: dict[str, torch.Tensor],
                values: dict[str, Any]) -> None:
        """Put back what `to_checkpoint` gave."""
        unwrapped.load_state_dict(checkpoints.select_tensors(tensors, "model"))
        self.ema.load_state_dict(checkpoints.select_tensors(tensors, "ema"), values["ema_updates"])
        checkpoints.unpack_optimizer(self.optimizer, tensors)
        for name in self._PLAIN:
            setattr(self, name, values[name])
        self.meters.restore(values)
        if scaler is not None and values["scaler"]:
            scaler.load_state_dict(values["scaler"])


@dataclass(frozen=True)
class Batch:
    """Standardised latents float32 (B, C, h, w) with int64 (B,) labels, on the training device.

    conditions: int64 (B, K), the network's further conditions; None where it takes none.
    """

    latents: torch.Tensor
    labels: torch.Tensor
    conditions: torch.Tensor | None = None

    def drop(self, draws: StepDraws, *, probability: float, null_label: int, null_levels: Sequence[int]) -> "Batch":
        """The batch with labels and conditions replaced by their nulls where the draws say so."""
        device = self.labels.device
        uniforms = to_device(draws.drop_uniforms, device)
        labels = drop_labels(self.labels, uniforms, probability=probability, null_label=null_label)
        conditions = None if self.conditions is None else drop_conditions(
            self.conditions, uniforms, to_device(draws.condition_uniforms, device), probability=probability,
            null_levels=null_levels)
        return Batch(self.latents, labels, conditions)


def make_unet(config: Config) -> UNet:
    """The config's UNet with weights drawn from train_params.seed, in channels-last memory order."""
    torch.manual_seed(config.train_params.seed)
    return UNet(unet_shape(config)).to(memory_format=torch.channels_last)


def unet_shape(config: Config) -> UNetShape:
    """What of the config determines the network's parameters."""
    unet = config.unet_params
    return UNetShape(
        latent_channels=config.dataset_params.z_channels, num_classes=config.num_classes, channels=unet.channels,
        num_layers=unet.num_layers, attention=unet.attention, num_heads=unet.num_heads,
        time_embedding_dim=unet.time_embedding_dim, context_dim=unet.context_dim, norm_groups=unet.norm_groups,
        dropout=unet.dropout, condition_types=config.dataset_params.condition_types, conditions=condition_shapes(config),
    )


def latent_shape(config: Config) -> tuple[int, int, int]:
    """Channels, height and width of the latents."""
    data = config.dataset_params
    return data.z_channels, data.latent_size, data.latent_size


def make_schedule(params: DiffusionParams) -> ForwardProcess:
    """The config's forward process."""
    if params.schedule == "rectified_flow":
        return make_flow_schedule(params.num_timesteps)
    return make_noise_schedule(params.schedule, num_timesteps=params.num_timesteps, beta_start=params.beta_start,
                               beta_end=params.beta_end)


def timestep_draws(params: DiffusionParams) -> TimestepDraws:
    """How training draws timesteps."""
    return TimestepDraws(params.num_timesteps, params.timestep_sampling, params.logit_mean, params.logit_std)


class DiffusionLoss:
    """The weighted squared error of the network's prediction, for one schedule and objective.

    `statistics` are those of the latents; without them all channels weigh the same.
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

    The noise that a VAE's posterior adds is drawn anew each time: no network predicts it, and the gradient of such a channel
    is noise. Where a VAE uses all its channels all weights are 1, nearly.
    """
    shares = torch.tensor(signal_shares, dtype=torch.float64)
    return (shares / shares.mean().clamp_min(1e-12)).float()


def read_batch(
    source: LatentSource, codec: LatentCodec, draws: StepDraws, device: torch.device, *, sees_view: bool = False
) -> Batch:
    """The standardised latents that the draws ask for, with the view among their conditions where the network sees it."""
    raw = source.draw(draws.positions, draws.views, draws.posterior_noise)
    return _label_batch(source, codec.standardise(raw), positions=draws.positions, views=draws.views, device=device,
                        sees_view=sees_view)


def train_step(
    state: TrainState, draws: StepDraws, read: Callable[[StepDraws], Batch], *, loss_of: DiffusionLoss,
    accelerator: Accelerator, config: Config, lr: float,
) -> None:
    """One optimizer step on this process's slice of the global batch, cut into the configured micro-steps.

    `read` maps StepDraws to a Batch. The mean loss over the slice and the gradient's norm before clipping go to the meters.
    A step whose loss or gradient is not finite leaves weights, average and optimizer untouched and is counted. All of
    this is decided on the device, and the host waits for nothing: it can prepare the next step meanwhile.
    """
    train, device = config.train_params, accelerator.device
    micro_steps = train.gradient_accumulation_steps
    micro_size = len(draws.positions) // micro_steps
    state.model.train()
    state.optimizer.param_groups[0]["lr"] = lr
    total = torch.zeros((), device=device)
    for micro_step in range(micro_steps):
        part = draws.slice(micro_step * micro_size, (micro_step + 1) * micro_size)
        batch = read(part)
        batch = batch.drop(part, probability=train.label_dropout, null_label=loss_of.null_label,
                           null_levels=loss_of.null_levels)
        last = micro_step == micro_steps - 1
        _seed_dropout(config, state.step, micro_step, accelerator.process_index)
        with _synchronised(accelerator, state.model, last), accelerator.autocast():
            loss = loss_of(state.model, batch, noise=to_device(part.noise, device),
                           timesteps=to_device(part.timesteps, device)) / micro_steps
        with _synchronised(accelerator, state.model, last):
            accelerator.backward(loss)
        total += loss.detach()
    norm = accelerator.clip_grad_norm_(state.model.parameters(), train.clip_grad_norm or math.inf)
    # The norm is of the gradient averaged over all processes, so that all of them apply the step or none does.
    finite = torch.isfinite(norm) & (torch.isfinite(total) | (accelerator.num_processes > 1))
    _apply(state.optimizer, finite, has_scaler=accelerator.scaler is not None)
    state.ema.update(unwrap(accelerator, state.model), finite)
    state.meters.add(loss=total, grad_norm=norm, applied=finite)
    state.optimizer.zero_grad(set_to_none=True)
    state.step += 1


def make_optimizer(network: nn.Module, config: Config) -> torch.optim.AdamW:
    """AdamW in one pass over the parameters where that pass can skip a step on the device, else as the library chooses."""
    train = config.train_params
    fused = next(network.parameters()).device.type in _SKIPPING_DEVICES
    return torch.optim.AdamW(network.parameters(), lr=train.ldm_lr, betas=train.adam_betas,
                             weight_decay=train.weight_decay, fused=fused)


def _apply(optimizer: Any, finite: torch.Tensor, *, has_scaler: bool) -> None:
    """A step of the optimizer, which changes nothing where bool () `finite` is false.

    The fused kernels read `found_inf` for that: it is how a gradient scaler skips, and under fp16 the scaler sets it.
    Where they do not, the host waits for the answer, as a scaler does there.
    """
    if has_scaler:
        optimizer.step()
        return
    inner = optimizer.optimizer  # accelerate's wrapper does not pass attributes on
    if not inner.defaults["fused"]:
        if bool(finite):
            optimizer.step()
        return
    inner.found_inf = (~finite).float()
    optimizer.step()
    del inner.found_inf


def require_selectable(config: Config, records: Sequence[ImageRecord]) -> bool:
    """Whether there are validation images.

    Raises:
        UserError: there are none, and the best weights are to be chosen by them.
    """
    has_val = any(record.split == "val" for record in records)
    if not has_val and config.train_params.selection_metric == "ema_validation_loss":
        raise UserError("train_params.selection_metric: ema_validation_loss needs a val split; name rows for it, set "
                        "dataset_params.params.val_from_train, or choose selection_metric: last")
    return has_val


def refuse_divergence(state: TrainState) -> None:
    """End a run that has stopped learning.

    Raises:
        Diverged: ten steps in a row were skipped.
    """
    if state.meters.longest_row() >= MOST_BAD_STEPS:
        raise Diverged(
            f"step {state.step}: loss or gradient was not finite {MOST_BAD_STEPS} times in a row; the last checkpoint is "
            "intact, but the same steps would diverge again: start anew under another task_name with a lower ldm_lr, more "
            "warmup_steps, or mixed_precision bf16 or no"
        )


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor there, without the host waiting for a GPU's earlier work."""
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
    source: LatentSource, codec: LatentCodec, *, config: Config, device: torch.device
) -> Iterator[tuple[Batch, torch.Tensor, torch.Tensor]]:
    """Every held-out image `validation_draws` times, as it is, with noise and stratified timesteps that never change."""
    train, count = config.train_params, len(source.labels)
    shape = latent_shape(config)
    for draw in range(train.validation_draws):
        rng = generator(train.seed, "validation", draw)
        fractions = (rng.permutation(count) + rng.random(count)) / count
        timesteps = torch.from_numpy((fractions * config.diffusion_params.num_timesteps).astype("int64"))
        noise = normal(rng, (2, count, *shape))
        for start in range(0, count, train.ldm_batch_size):
            rows = torch.arange(start, min(start + train.ldm_batch_size, count))
            raw = source.draw(rows, torch.zeros_like(rows), noise[0][rows])
            batch = _label_batch(source, codec.standardise(raw), positions=rows, views=torch.zeros_like(rows),
                                 device=device, sees_view=config.dataset_params.symmetry_conditioning)
            yield batch, noise[1][rows].to(device), timesteps[rows].to(device)


def _label_batch(
    source: LatentSource, latents: torch.Tensor, *, positions: torch.Tensor, views: torch.Tensor, device: torch.device,
    sees_view: bool,
) -> Batch:
    """Standardised latents with the labels and conditions of the images that they come from."""
    conditions = join_view(torch.from_numpy(source.conditions)[positions], views, sees_view=sees_view)
    return Batch(to_device(latents, device), to_device(torch.from_numpy(source.labels)[positions], device),
                 None if conditions is None else to_device(conditions, device))


def lr_factor(schedule: str, *, share: float, step: int, warmup_steps: int) -> float:
    """Factor on the peak learning rate after `share` of the training: linear warm-up, then constant or a decay to 0."""
    warmup = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    share = min(max(share, 0.0), 1.0)
    decay = {"constant": 1.0, "linear": 1.0 - share, "cosine": 0.5 * (1.0 + math.cos(math.pi * share))}[schedule]
    return warmup * decay


def _seed_dropout(config: Config, step: int, micro_step: int, process: int) -> None:
    """Address the masks of dropout, which the library draws from its global generator, like every other draw."""
    if config.unet_params.dropout > 0:
        rng = generator(config.train_params.seed, "dropout", step, micro_step, process)
        torch.manual_seed(int(rng.integers(2**63 - 1)))


def _synchronised(accelerator: Accelerator, model: nn.Module, last: bool) -> AbstractContextManager[None]:
    """Gradients are exchanged between processes at the last micro-step only."""
    return nullcontext() if last else accelerator.no_sync(model)
