"""Generate labelled images with a trained network, for preview, sampling and studies.

The noise of image i of class c is a function of (seed, c, i) alone, and batches always have the same members and the
same shape, so an image does not depend on the number of processes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from types import MappingProxyType

import numpy as np
import torch
from torch import nn

from config.errors import UserError
from config.schema import SampleParams
from dataset.images import to_uint8
from dataset.latents import stack_conditions
from dataset.order import generator, normal
from dataset.splits import apportion
from models.autoencoder import LatentCodec
from scheduler.guidance import autoguided_prediction, guided_prediction, scale_at
from scheduler.linear_noise_scheduler import ForwardProcess
from scheduler.objectives import predict_x0
from scheduler.samplers import sample
from tools.diffusion.conditions import ConditionPrior, join_view
from tools.runtime.command import Diverged


@dataclass(frozen=True)
class ImageRequest:
    """Image `index` (from 0) of class `label`, at these levels of the further conditions.

    The initial noise depends only on label and index, so that two requests can differ in one condition only. With
    `noise_label` it is the noise of that class, so that two requests can differ in the label only.
    """

    label: int
    index: int
    conditions: tuple[int, ...] = ()
    noise_label: int | None = None

    @property
    def noise_address(self) -> tuple[int, int]:
        """The class and the index that determine the noise."""
        return (self.label if self.noise_label is None else self.noise_label), self.index


@dataclass(frozen=True)
class Denoising:
    """A trained network with everything needed to run the reverse process.

    `null_levels` are the nulls of the further conditions; a network that sees the view gets the identity. `guide` is a
    weaker network with the same inputs, which then replaces the unconditional half of guidance.
    """

    network: nn.Module
    schedule: ForwardProcess
    prediction_type: str
    null_label: int
    latent_shape: tuple[int, int, int]
    device: torch.device
    null_levels: tuple[int, ...] = ()
    sees_view: bool = False
    guide: nn.Module | None = None

    def join_conditions(self, levels: Sequence[tuple[int, ...]]) -> torch.Tensor | None:
        """The network's conditions for rows of levels, in the identity view; None if it takes none."""
        identity = torch.zeros(len(levels), dtype=torch.int64)
        joined = join_view(torch.from_numpy(stack_conditions(levels)), identity, sees_view=self.sees_view)
        return None if joined is None else joined.to(self.device)


def count_per_class(total: int, class_counts: Sequence[int]) -> list[int]:
    """`total` images divided in proportion to `class_counts`, by largest remainders, ties to the lower class."""
    return list(apportion({c: total * count / sum(class_counts) for c, count in enumerate(class_counts)}, total).values())


def list_requests(counts: Sequence[int]) -> list[ImageRequest]:
    """The first counts[c] images of every class c, class by class."""
    return [ImageRequest(label, index) for label, count in enumerate(counts) for index in range(count)]


def draw_conditions(
    requests: Sequence[ImageRequest], prior: ConditionPrior, *, seed: int, fixed: Mapping[int, int] = MappingProxyType({})
) -> list[ImageRequest]:
    """The requests with levels drawn at the prior given their class; `fixed` sets levels by column."""
    return [replace(request, conditions=prior.draw(request.label, request.index, seed=seed, fixed=fixed))
            for request in requests]


def vary_condition(requests: Sequence[ImageRequest], column: int, levels: Sequence[int]) -> list[ImageRequest]:
    """Each request at each of these levels of one condition, level by level; the rest and the noise stay the same."""
    def at_level(request: ImageRequest, level: int) -> ImageRequest:
        return replace(request, conditions=(*request.conditions[:column], level, *request.conditions[column + 1:]))

    return [at_level(request, level) for level in levels for request in requests]


def split_into_batches(requests: Sequence[ImageRequest], batch_size: int) -> list[list[ImageRequest]]:
    """Batches of fixed membership; the last may be short and is padded when it is generated."""
    return [list(requests[start:start + batch_size]) for start in range(0, len(requests), batch_size)]


def requested_counts(params: SampleParams, class_counts: Sequence[int]) -> list[int]:
    """The number of images of each class; by default as many as there are training images, at their prior.

    Raises:
        UserError: a class is left without an image.
    """
    if params.per_class is not None:
        return [params.per_class] * len(class_counts)
    total = params.num_images or sum(class_counts)
    counts = count_per_class(total, class_counts)
    if min(counts) == 0:
        raise UserError(f"sample_params.num_images {total} leaves a class without an image at the class prior "
                        f"{list(class_counts)}; raise it, or give per_class")
    return counts


@torch.inference_mode()
def draw_latents(
    denoising: Denoising, requests: Sequence[ImageRequest], *, params: SampleParams, seed: int, batch_size: int,
    report: Callable[[int], None] = lambda _: None,
) -> torch.Tensor:
    """Standardised latents float32 (B, C, h, w) of the requests, B at most `batch_size`.

    `report` gets the count of denoisings done, out of the number that scheduler.samplers.evaluated_timesteps gives.
    """
    padded = [*requests, *[requests[-1]] * (batch_size - len(requests))]
    streams = [generator(seed, "sample", *request.noise_address) for request in padded]

    def draw_noise() -> torch.Tensor:
        noise = torch.stack([normal(stream, denoising.latent_shape) for stream in streams])
        return noise.to(denoising.device)

    labels = torch.tensor([request.label for request in padded], device=denoising.device)
    conditions = denoising.join_conditions([request.conditions for request in padded])
    null_conditions = denoising.join_conditions([denoising.null_levels] * len(padded))
    network = denoising.network.eval()
    interval = (params.guidance_interval[0], params.guidance_interval[1])
    counter = count(1)

    def denoiser(x_t: torch.Tensor, timestep: int) -> torch.Tensor:
        timesteps = torch.full((len(padded),), timestep, device=denoising.device)
        scale = scale_at(timestep, num_timesteps=denoising.schedule.num_timesteps,
                         guidance_scale=params.guidance_scale, interval=interval)
        if denoising.guide is not None:
            prediction = autoguided_prediction(network, denoising.guide.eval(), x_t, timesteps, labels, guidance_scale=scale,
                                               conditions=conditions)
        else:
            prediction = guided_prediction(network, x_t, timesteps, labels, null_label=denoising.null_label,
                                           guidance_scale=scale, conditions=conditions, null_conditions=null_conditions)
        report(next(counter))
        return predict_x0(denoising.prediction_type, prediction=prediction.float(), x_t=x_t,
                          signal_level=denoising.schedule.signal_level(timesteps),
                          noise_level=denoising.schedule.noise_level(timesteps))

    latents = sample(params.sampler, denoiser, draw_noise(), schedule=denoising.schedule, num_steps=params.num_steps,
                     draw_noise=draw_noise)
    return latents[: len(requests)]


def draw_images(
    denoising: Denoising, codec: LatentCodec, requests: Sequence[ImageRequest], *, params: SampleParams, seed: int,
    batch_size: int, report: Callable[[int], None] = lambda _: None,
) -> np.ndarray:
    """uint8 images (B, H, W, c) of the requests; c is 1 for gray data sets, else 3. `report` as in `draw_latents`.

    Raises:
        Diverged: as `latents_to_pixels`.
    """
    latents = draw_latents(denoising, requests, params=params, seed=seed, batch_size=batch_size, report=report)
    return latents_to_pixels(codec, latents)


def latents_to_pixels(codec: LatentCodec, latents: torch.Tensor) -> np.ndarray:
    """Decode standardised latents (B, C, h, w) to uint8 (B, H, W, c); c is 1 for gray data sets, else 3.

    Raises:
        Diverged: latents that are not finite.
    """
    if not torch.isfinite(latents).all():
        raise Diverged("the network generates values that are not finite: its training has diverged; start again with "
                       "another task_name and a lower ldm_lr, more warmup_steps, or mixed_precision bf16 or no")
    images = codec.decode(latents)
    if codec.statistics is not None and codec.statistics.gray:
        images = images[:, :1]
    return to_uint8(images.permute(0, 2, 3, 1))
