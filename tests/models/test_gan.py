"""The GAN's parts: closed forms of its losses, the projection's meaning, and independence of the batch."""

import math

import pytest
import torch

from models.gan import (
    LATENT_DIM,
    Generator,
    ProjectionDiscriminator,
    _spread,
    critic_loss,
    deception_loss,
    gradient_penalty,
    level_widths,
)

WIDTHS = level_widths(16, width=8)


def test_widths_double_towards_four_pixels_up_to_a_limit() -> None:
    assert WIDTHS == (32, 16, 8)
    assert level_widths(128, width=32) == (256, 256, 256, 128, 64, 32)
    for size in (48, 65, 2):
        with pytest.raises(ValueError, match=f"image_size {size}"):
            level_widths(size, width=8)


@pytest.mark.parametrize("im_channels", [1, 3])
def test_an_image_depends_on_its_noise_and_class_and_not_on_its_batch(im_channels: int) -> None:
    torch.manual_seed(0)
    network = Generator(im_channels=im_channels, num_classes=3, widths=WIDTHS).eval()
    noise, labels = torch.randn(6, LATENT_DIM), torch.tensor([0, 1, 2, 0, 1, 2])
    with torch.inference_mode():
        images = network(noise, labels)
        assert images.shape == (6, im_channels, 16, 16) and images.abs().max() <= 1
        torch.testing.assert_close(network(noise[2:3], labels[2:3]), images[2:3], atol=1e-5, rtol=0)
        other = network(noise, labels.flip(0))
    assert ((other - images).flatten(1).norm(dim=1) > 1e-3).tolist() == [True, False, True] * 2
    assert (images[0] - images[3]).norm() > 1e-3


def test_the_classes_logits_differ_by_the_projection_alone() -> None:
    torch.manual_seed(0)
    critic = ProjectionDiscriminator(im_channels=1, num_classes=2, widths=WIDTHS)
    images = torch.randn(5, 1, 16, 16)
    with torch.no_grad():
        zero, one = (critic(images, torch.full((5,), label)) for label in (0, 1))
        assert zero.shape == (5,) and (zero - one).abs().min() > 0
        critic.class_embedding.weight[1] = critic.class_embedding.weight[0]
        assert torch.equal(critic(images, torch.ones(5, dtype=torch.int64)), zero)


def test_the_critic_sees_of_the_other_images_their_spread_alone() -> None:
    torch.manual_seed(0)
    critic = ProjectionDiscriminator(im_channels=1, num_classes=2, widths=WIDTHS)
    images, labels = torch.randn(4, 1, 16, 16), torch.zeros(4, dtype=torch.int64)
    with torch.no_grad():
        varied, repeated = critic(images, labels), critic(images[:1].expand(4, -1, -1, -1), labels)
        assert (varied[0] - repeated[0]).abs() > 1e-4
        critic.last.weight[:, -1] = 0  # what reads the spread
        torch.testing.assert_close(critic(images, labels)[:1], critic(images[:1], labels[:1]))


def test_the_spread_is_the_mean_deviation_over_the_batch() -> None:
    features = torch.tensor([[[[1.0]], [[10.0]]], [[[3.0]], [[4.0]]]])  # deviations 1 and 3
    torch.testing.assert_close(_spread(features), torch.full((2, 1, 1, 1), 2.0))
    features = torch.ones(3, 2, 4, 4, requires_grad=True)  # no deviation: the gradient is still finite
    _spread(features).sum().backward()
    assert features.grad.isfinite().all()


def test_new_networks_pass_on_what_they_are_given() -> None:
    """Images of other noise differ as much as their pixels do, and logits are of order one, at 4 levels as at 6."""
    for size in (32, 128):
        torch.manual_seed(0)
        widths = level_widths(size, width=8)
        network = Generator(im_channels=1, num_classes=2, widths=widths)
        critic = ProjectionDiscriminator(im_channels=1, num_classes=2, widths=widths)
        labels = torch.zeros(16, dtype=torch.int64)
        with torch.no_grad():
            images = network(torch.randn(16, LATENT_DIM), labels)
            assert images.std(dim=0).mean() > 0.5 * images.std()
            assert 0.2 < critic(torch.randn(16, 1, size, size), labels).square().mean().sqrt() < 20


def test_losses_are_their_closed_forms() -> None:
    real, fake = torch.tensor([0.0, 2.0]), torch.tensor([0.0, -1.0])
    expected = (math.log(2) + math.log1p(math.exp(-2))) / 2 + (math.log(2) + math.log1p(math.exp(-1))) / 2
    assert critic_loss(real, fake).item() == pytest.approx(expected)
    assert deception_loss(fake).item() == pytest.approx((math.log(2) + math.log1p(math.exp(1))) / 2)


def test_the_penalty_of_a_linear_critic_is_half_its_squared_norm() -> None:
    weight = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    images = torch.randn(7, 3, 4, 4).requires_grad_()
    penalty = gradient_penalty((images * weight).sum(dim=(1, 2, 3)), images)
    assert penalty.item() == pytest.approx(0.5 * float(weight.detach().square().sum()), rel=1e-5)
    penalty.backward()
    torch.testing.assert_close(weight.grad, weight.detach())
