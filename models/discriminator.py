"""A patch discriminator: says of each patch of an image whether it is real. It serves the training of autoencoders."""

import torch
import torch.nn.functional as F
from torch import nn


class PatchDiscriminator(nn.Module):
    """Three strided convolutions and a head; each output value judges one patch of about 34 px.

    Source: Isola 2017 (PatchGAN); group instead of batch normalisation, so that images do not influence each other.
    """

    def __init__(self, im_channels: int, *, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(im_channels, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for factor in (1, 2):
            layers += [nn.Conv2d(width * factor, width * factor * 2, 4, stride=2, padding=1),
                       nn.GroupNorm(8, width * factor * 2), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(width * 4, 1, 3, padding=1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (B, 1, H / 8, W / 8), above 0 for real, of images (B, C, H, W) in [-1, 1]."""
        return self.layers(images)


def discriminator_loss(real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
    """Hinge loss of the discriminator. Source: Lim & Ye 2017, eq. 3."""
    return 0.5 * (F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean())


def generator_loss(fake_logits: torch.Tensor) -> torch.Tensor:
    """Hinge loss of the generator. Source: the same."""
    return -fake_logits.mean()
