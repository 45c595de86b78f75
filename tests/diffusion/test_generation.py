"""Generation: an image is a function of its request, whatever the batch that it is drawn in."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from config.schema import Config, SampleParams
from dataset.order import generator, normal
from scheduler.guidance import guided_prediction
from scheduler.samplers import SAMPLERS
from tools.diffusion.generation import (
    Denoising,
    ImageRequest,
    count_per_class,
    draw_latents,
    list_requests,
    split_into_batches,
)
from tools.diffusion.networks import make_unet
from tools.diffusion.training import latent_shape, make_schedule

REQUESTS = list_requests([5, 4])


@pytest.fixture
def denoising(make_config: Callable[..., Config]) -> Denoising:
    """A network that is not trained but answers to noise, time and label."""
    config = make_config()
    network = make_unet(config)
    rng = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in network.parameters():  # a fresh network is zero where blocks end, so labels do not act yet
            if parameter.ndim > 1 and not parameter.any():
                parameter.normal_(std=0.05, generator=rng)
        network.class_embedding.weight.normal_(std=1.0, generator=rng)
    return Denoising(network=network, schedule=make_schedule(config.diffusion_params), prediction_type="v", null_label=2,
                     latent_shape=latent_shape(config.dataset_params), device=torch.device("cpu"))


def draw(denoising: Denoising, requests: list[ImageRequest], *, seed: int = 0, batch_size: int = 9,
         **params: object) -> torch.Tensor:
    settings = replace(SampleParams(num_steps=4), **params)
    parts = split_into_batches(requests, batch_size)
    return torch.cat([draw_latents(denoising, part, params=settings, seed=seed, batch_size=batch_size) for part in parts])


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_latents_do_not_depend_on_the_batch(denoising: Denoising, sampler: str, guidance_scale: float) -> None:
    whole = draw(denoising, REQUESTS, sampler=sampler, guidance_scale=guidance_scale)
    assert whole.shape == (9, 4, 8, 8)
    for batch_size in (1, 3, 8):
        again = draw(denoising, REQUESTS, batch_size=batch_size, sampler=sampler, guidance_scale=guidance_scale)
        assert (again - whole).abs().max() < 1e-4
    backwards = draw(denoising, REQUESTS[::-1], batch_size=3, sampler=sampler, guidance_scale=guidance_scale).flip(0)
    assert (backwards - whole).abs().max() < 1e-4


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_equal_calls_are_equal_and_seeds_indices_and_classes_differ(denoising: Denoising, sampler: str) -> None:
    whole = draw(denoising, REQUESTS, sampler=sampler)
    assert torch.equal(draw(denoising, REQUESTS, sampler=sampler), whole)
    other = draw(denoising, REQUESTS, seed=1, sampler=sampler)
    assert ((other - whole).flatten(1).norm(dim=1) > 1).all()
    distances = torch.cdist(whole.flatten(1), whole.flatten(1)) + 100 * torch.eye(9)
    assert distances.min() > 1


def test_a_flip_keeps_the_noise_and_changes_the_label(denoising: Denoising) -> None:
    plain = draw(denoising, [ImageRequest(0, 3), ImageRequest(1, 3)])
    same = draw(denoising, [ImageRequest(0, 3, noise_label=0), ImageRequest(1, 3, noise_label=1)])
    assert torch.equal(same, plain)
    flipped = draw(denoising, [ImageRequest(1, 3, noise_label=0)])
    assert (flipped[0] - plain[0]).norm() > 0.1 and (flipped[0] - plain[1]).norm() > 0.1
    # A network that does not look at the label draws the same image from the same noise.
    blind = replace(denoising, network=Silent())
    pair = draw(blind, [ImageRequest(0, 3), ImageRequest(1, 3, noise_label=0), ImageRequest(1, 3)])
    assert torch.equal(pair[0], pair[1]) and not torch.equal(pair[0], pair[2])


def test_ddpm_draws_noise_at_each_step_from_the_requests_own_stream(denoising: Denoising) -> None:
    zero = replace(denoising, network=Silent(), prediction_type="epsilon", latent_shape=(1, 2, 2))
    (request,) = [ImageRequest(label=1, index=7)]
    stream = generator(3, "sample", 1, 7)
    first, second = normal(stream, (1, 2, 2)), normal(stream, (1, 2, 2))
    drawn = draw(zero, [request], seed=3, batch_size=1, sampler="ddpm", num_steps=2)
    abar = denoising.schedule.alphas_cumprod
    # With epsilon = 0 the posterior mean is x / sqrt(alpha): two steps, noise between them.
    alpha = abar[999] / abar[499]
    between = first / alpha**0.5 + ((1 - abar[499]) / (1 - abar[999]) * (1 - alpha)) ** 0.5 * second
    torch.testing.assert_close(drawn[0], (between / abar[499] ** 0.5).float(), rtol=1e-4, atol=1e-4)


class Silent(torch.nn.Module):
    """Predicts zero."""

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        assert len(x) == len(timesteps) == len(labels)
        return torch.zeros_like(x)


def test_guidance_changes_images_and_a_scale_of_one_is_conditional(denoising: Denoising) -> None:
    plain = draw(denoising, REQUESTS)
    guided = draw(denoising, REQUESTS, guidance_scale=3.0)
    assert ((guided - plain).flatten(1).norm(dim=1) > 0.1).all()
    nowhere = draw(denoising, REQUESTS, guidance_scale=3.0, guidance_interval=(0.5, 0.5))
    assert torch.equal(nowhere, plain)
    x = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    timesteps, labels, null = torch.full((3,), 400), torch.tensor([0, 1, 0]), torch.full((3,), 2)
    network = denoising.network.eval()
    with torch.inference_mode():
        conditional, free = network(x, timesteps, labels), network(x, timesteps, null)
        for scale, expected in ((1.0, conditional), (0.0, free), (2.0, 2 * conditional - free)):
            found = guided_prediction(network, x, timesteps, labels, null_label=2, guidance_scale=scale)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_requests_are_shared_out_by_largest_remainder() -> None:
    assert count_per_class(10, [95, 43]) == [7, 3]
    assert count_per_class(5, [1, 1]) == [3, 2]
    assert count_per_class(7, [1, 1, 1, 1]) == [2, 2, 2, 1]
    for total in range(1, 40):
        counts = count_per_class(total, [5, 17, 3])
        assert sum(counts) == total
        assert all(abs(count - total * share / 25) < 1 for count, share in zip(counts, (5, 17, 3), strict=True))
    assert list_requests([1, 2]) == [ImageRequest(0, 0), ImageRequest(1, 0), ImageRequest(1, 1)]
    assert [len(batch) for batch in split_into_batches(REQUESTS, 4)] == [4, 4, 1]
