"""A patch discriminator for the training of autoencoders: it decides for each patch of an image whether it is real."""

import torch
import torch.nn.functional as F
from torch import nn

_BINOMIAL = (1.0, 4.0, 6.0, 4.0, 1.0)  # a Gaussian of sigma 1, nearly


class PatchDiscriminator(nn.Module):
    """Three convolutions and a head; each output value judges one patch of about 20 px.

    It sees the image and its grain: what a slight blur removes, divided by `grain_std`, the grain's standard deviation over
    real images. Sensor grain of one or two gray levels is 1% of an image's range: without the scaling it would go
    unnoticed. Source: Isola 2017 (PatchGAN); group instead of batch normalisation, so that images do not influence each
    other.
    """

    grain_std: torch.Tensor

    def __init__(self, im_channels: int, *, width: int = 32, grain_std: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("grain_std", torch.tensor(grain_std))
        layers: list[nn.Module] = [nn.Sequential(nn.Conv2d(2 * im_channels, width, 3, padding=1), nn.LeakyReLU(0.2))]
        for factor in (1, 2):
            layers.append(nn.Sequential(
                nn.Conv2d(width * factor, width * factor * 2, 4, stride=2, padding=1), nn.GroupNorm(8, width * factor * 2),
                nn.LeakyReLU(0.2)))
        self.layers = nn.ModuleList(layers)
        self.head = nn.Conv2d(width * 4, 1, 3, padding=1)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Logits (B, 1, H / 4, W / 4), above 0 for real, of images (B, C, H, W) in [-1, 1]; and the maps before them."""
        x = torch.cat([images, extract_grain(images) / self.grain_std], dim=1)  # (B, 2C, H, W)
        maps = []
        for layer in self.layers:
            x = layer(x)  # (B, width, H, W), (B, 2 width, H / 2, W / 2), (B, 4 width, H / 4, W / 4)
            maps.append(x)
        return self.head(x), maps


def extract_grain(images: torch.Tensor) -> torch.Tensor:
    """Images (B, C, H, W) less a slight blur of themselves: their finest texture, of the same shape."""
    channels = images.shape[1]
    row = images.new_tensor(_BINOMIAL) / sum(_BINOMIAL)
    kernel = torch.outer(row, row).expand(channels, 1, -1, -1)
    return images - F.conv2d(F.pad(images, (2, 2, 2, 2), mode="reflect"), kernel, groups=channels)


def discriminator_loss(real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
    """Hinge loss of the discriminator. Source: Lim & Ye 2017, eq. 3."""
    return 0.5 * (F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean())


def generator_loss(fake_logits: torch.Tensor) -> torch.Tensor:
    """Hinge loss of the generator. Source: the same."""
    return -fake_logits.mean()


def texture_loss(made: list[torch.Tensor], real: list[torch.Tensor]) -> torch.Tensor:
    """Distance of the mean and spread of each map of generated images from those of the real images that they restore.

    Maps (B, C, H, W). The place of a feature in the image does not matter: grain has to be similar, not identical. Source:
    Salimans 2016, section 3.1 (feature matching), here per image and with the standard deviation as well as the mean.
    """
    def distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return F.l1_loss(a.mean(dim=(2, 3)), b.mean(dim=(2, 3))) + F.l1_loss(a.std(dim=(2, 3)), b.std(dim=(2, 3)))

    return torch.stack([distance(a, b) for a, b in zip(made, real, strict=True)]).mean()
