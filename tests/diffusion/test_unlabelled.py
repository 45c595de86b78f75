"""Images without a label teach the null label and no class."""

from collections.abc import Callable

import pytest
import torch
from accelerate import Accelerator

from config.schema import Config
from dataset.order import SampleOrder, StepDraws, TimestepDraws, draw_step
from models.ema import ExponentialMovingAverage
from tools.diffusion.generation import Denoising, ImageRequest, draw_latents
from tools.diffusion.networks import make_unet
from tools.diffusion.train_state import Meters, TrainState
from tools.diffusion.training import Batch, DiffusionLoss, latent_shape, make_optimizer, make_schedule, train_step

PLANTED, NUM_STEPS = 3.0, 250
LABELS = torch.tensor([0] * 16 + [1] * 16 + [2] * 64)  # of two classes; 2 is the null label


@pytest.fixture(scope="module")
def denoising(make_config: Callable[..., Config]) -> Denoising:
    """Trained on latents whose channel 0 shows the class, and channel 1 that an image has no label."""
    config = make_config(train_params={"ldm_batch_size": 32, "label_dropout": 0.1})
    accelerator, shape = Accelerator(cpu=True), latent_shape(config.dataset_params)
    latents = 0.3 * torch.randn(len(LABELS), *shape, generator=torch.Generator().manual_seed(1))
    latents[:, 0] += torch.where(torch.arange(len(LABELS)) % 2 == 0, -1.0, 1.0)[:, None, None]
    latents[:32, 0] = latents[:32, 0].abs() * torch.where(LABELS[:32] == 0, -1.0, 1.0)[:, None, None]
    latents[LABELS == 2, 1] += PLANTED
    network = make_unet(config)
    model, optimizer = accelerator.prepare(network, make_optimizer(network, config.train_params))
    state = TrainState(model, ExponentialMovingAverage(network, 0.9), optimizer, Meters(accelerator.device))
    loss_of = DiffusionLoss(config.diffusion_params, null_label=config.num_classes, device=torch.device("cpu"))
    order = SampleOrder(LABELS.tolist(), seed=1)

    def read(part: StepDraws) -> Batch:
        return Batch(latents[part.positions], LABELS[part.positions])

    for step in range(NUM_STEPS):
        draws = draw_step(order, step, batch_size=32, num_views=1, latent_shape=shape, timesteps=TimestepDraws(1000))
        train_step(state, draws, read, loss_of=loss_of, accelerator=accelerator, params=config.train_params, dropout=0.0,
                   lr=0.003)
        state.step += 1
    network.load_state_dict(state.ema.state_dict())
    return Denoising(network, make_schedule(config.diffusion_params), config.diffusion_params.prediction_type,
                     null_label=config.num_classes, latent_shape=shape, device=torch.device("cpu"))


@pytest.mark.parametrize("label", [0, 1, 2])
def test_what_only_unlabelled_images_show_appears_without_a_class_and_not_with_one(
    denoising: Denoising, make_config: Callable[..., Config], label: int
) -> None:
    params = make_config(sample_params={"num_steps": 10, "sampler": "ddim"}).sample_params
    latents = draw_latents(denoising, [ImageRequest(label, index) for index in range(24)], params=params, seed=1,
                           batch_size=24)
    planted = (latents[:, 1].mean(dim=(1, 2)) > PLANTED / 2).float().mean()
    if label == 2:
        assert planted > 0.7
    else:
        assert planted < 0.1
        assert ((latents[:, 0].mean(dim=(1, 2)) > 0) == bool(label)).float().mean() > 0.9
