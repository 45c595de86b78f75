"""Augmentation: the middle of every range changes nothing, each part does what it says, and gradients pass."""

import torch

from dataset.augmentation import NUM_UNIFORMS, augment

IMAGES = torch.rand(4, 2, 16, 16, generator=torch.Generator().manual_seed(0)) - 0.5
MIDDLE = torch.full((4, NUM_UNIFORMS), 0.5)
NONE = {"brightness": 0.0, "contrast": 0.0, "shift": 0.0, "cutout": 0.0}


def at(*columns: int, value: float) -> torch.Tensor:
    uniforms = MIDDLE.clone()
    uniforms[:, list(columns)] = value
    return uniforms


def test_the_middle_of_every_range_changes_nothing() -> None:
    torch.testing.assert_close(augment(IMAGES, MIDDLE, cutout=0.0), IMAGES)
    assert torch.equal(augment(IMAGES, torch.rand(4, NUM_UNIFORMS), **NONE), augment(IMAGES, MIDDLE, **NONE))


def test_brightness_moves_the_mean_and_contrast_the_spread_alone() -> None:
    brighter = augment(IMAGES, at(0, value=0.75), **{**NONE, "brightness": 0.4})
    torch.testing.assert_close(brighter, IMAGES + 0.2)
    steeper = augment(IMAGES, at(1, value=1.0), **{**NONE, "contrast": 0.5})
    torch.testing.assert_close(steeper.mean(dim=(1, 2, 3)), IMAGES.mean(dim=(1, 2, 3)))
    torch.testing.assert_close(steeper.std(dim=(1, 2, 3)), 1.5 * IMAGES.std(dim=(1, 2, 3)))


def test_shifts_reach_both_ends_and_fill_what_they_uncover() -> None:
    options = {**NONE, "shift": 0.25}  # four pixels
    moved = augment(IMAGES, at(2, 3, value=0.999), **options)
    torch.testing.assert_close(moved[..., 4:, 4:], IMAGES[..., :12, :12])
    assert not moved[..., :4, :].any() and not moved[..., :4].any()
    back = augment(IMAGES, at(2, 3, value=0.0), **options, fill=None)
    torch.testing.assert_close(back[..., :12, :12], IMAGES[..., 4:, 4:])
    torch.testing.assert_close(back[..., 12:, :12], IMAGES[..., -1:, 4:].expand(-1, -1, 4, -1))


def test_cutout_blanks_a_square_of_its_size() -> None:
    ones = torch.ones(4, 2, 16, 16)
    cut = augment(ones, MIDDLE, **{**NONE, "cutout": 0.5})
    assert ((cut == 0).sum(dim=(1, 2, 3)) == 2 * 64).all() and not cut[..., 4:12, 4:12].any()
    corner = augment(ones, at(4, 5, value=0.0), **{**NONE, "cutout": 0.5})
    assert ((corner == 0).sum(dim=(1, 2, 3)) == 2 * 16).all()  # most of it outside


def test_gradients_reach_every_pixel_that_is_seen() -> None:
    images = IMAGES.clone().requires_grad_()
    augment(images, MIDDLE, contrast=0.0).sum().backward()
    assert images.grad is not None
    assert torch.equal(images.grad[0, 0] != 0, augment(torch.ones(1, 2, 16, 16), MIDDLE[:1], contrast=0.0)[0, 0] != 0)
