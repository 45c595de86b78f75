"""A class-conditional GAN on pixels, the non-diffusion baseline: a residual generator, a projection discriminator, losses.

tools/diffusion/gan_training.py trains it.
"""

import torch
import torch.nn.functional as F
from torch import nn

from models.blocks import ResidualBlock
from models.layers import Upsample

LATENT_DIM = 128
_FIRST_SIDE = 4
_MOST_WIDTH = 256
_NORM_GROUPS = 8
_SLOPE = 0.2  # of the leaky rectifiers; Radford 2016


class Generator(nn.Module):
    """Noise and class -> image: a learned map of 4 x 4, doubled level by level, modulated by noise and class in each block.

    `widths` are those of the levels from 4 px up; the image's side is 4 * 2 ** (levels - 1). Group normalisation, so that an
    image does not depend on its batch.
    """

    def __init__(self, *, im_channels: int, num_classes: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.class_embedding = nn.Embedding(num_classes, LATENT_DIM)
        self.mapping = nn.Sequential(nn.Linear(2 * LATENT_DIM, LATENT_DIM), nn.SiLU(), nn.Linear(LATENT_DIM, LATENT_DIM))
        self.first = nn.Linear(LATENT_DIM, widths[0] * _FIRST_SIDE**2)
        self.blocks, self.ups = nn.ModuleList(), nn.ModuleList()
        for index, width in enumerate(widths):
            before = widths[max(index - 1, 0)]
            self.ups.append(Upsample(before, width) if index else nn.Identity())
            self.blocks.append(ResidualBlock(width, width, embedding_dim=LATENT_DIM, norm_groups=_NORM_GROUPS, dropout=0.0))
        self.head = nn.Sequential(nn.GroupNorm(_NORM_GROUPS, widths[-1]), nn.SiLU(),
                                  nn.Conv2d(widths[-1], im_channels, 3, padding=1), nn.Tanh())
        _keep_variance(self)

    def forward(self, noise: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Images (B, C, H, H) in [-1, 1] of unit normal noise (B, 128) and int64 (B,) labels."""
        embedding = self.mapping(torch.cat([noise, self.class_embedding(labels)], dim=1))  # (B, 128)
        x = self.first(embedding).view(len(noise), -1, _FIRST_SIDE, _FIRST_SIDE)  # (B, widths[0], 4, 4)
        for up, block in zip(self.ups, self.blocks, strict=True):
            x = block(up(x), embedding)  # (B, width, side, side)
        return self.head(x)  # (B, C, H, H)


class ProjectionDiscriminator(nn.Module):
    """Image and class -> logit: residual blocks that halve the side down to 4 px, then psi(h) + <embedding of the class, h>.

    Without normalisation: the penalty on its gradient keeps it smooth. Source: Miyato & Koyama 2018, eq. 3.
    """

    def __init__(self, *, im_channels: int, num_classes: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        widths = widths[::-1]
        self.stem = nn.Conv2d(im_channels, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList(_DownBlock(widths[max(i - 1, 0)], widths[i], halve=i > 0) for i in range(len(widths)))
        self.last = nn.Conv2d(widths[-1] + 1, widths[-1], 3, padding=1)
        self.psi = nn.Linear(widths[-1], 1)
        self.class_embedding = nn.Embedding(num_classes, widths[-1])
        _keep_variance(self)

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Logits (B,), above 0 for real, of images (B, C, H, H) in [-1, 1] and int64 (B,) labels."""
        x = self.stem(images)  # (B, width, H, H)
        for block in self.blocks:
            x = block(x)
        x = self.last(F.leaky_relu(torch.cat([x, _spread(x)], dim=1), _SLOPE))  # (B, width, 4, 4)
        pooled = F.leaky_relu(x, _SLOPE).mean(dim=(2, 3))  # (B, widths[-1])
        return self.psi(pooled).squeeze(1) + (self.class_embedding(labels) * pooled).sum(dim=1)


class _DownBlock(nn.Module):
    """Two convolutions with a residual connection, then half the side. Source: Mescheder 2018, appendix D (ResNet)."""

    def __init__(self, in_channels: int, out_channels: int, *, halve: bool) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.conv_out = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        same = in_channels == out_channels
        self.skip = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.halve = halve

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.conv_out(F.leaky_relu(self.conv_in(F.leaky_relu(x, _SLOPE)), _SLOPE))
        x = (self.skip(x) + hidden) / 2**0.5  # keeps the variance
        return F.avg_pool2d(x, 2) if self.halve else x


def _spread(x: torch.Tensor) -> torch.Tensor:
    """(B, 1, H, W): how much the features (B, C, H, W) differ over the batch, which reveals a generator that repeats
    itself: the standard deviation, averaged over channels and positions. Source: Karras 2018, section 3.
    """
    spread = (x.var(dim=0, unbiased=False) + 1e-8).sqrt().mean()
    return spread.expand(len(x), 1, *x.shape[2:])


def _keep_variance(network: nn.Module) -> None:
    """Draw weights so that signals keep their size from layer to layer (He 2015), biases 0; layers at 0 stay so."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            if module.weight.any():
                nn.init.kaiming_normal_(module.weight, a=_SLOPE)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def critic_loss(real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
    """Logistic loss of the discriminator. Source: Goodfellow 2014, eq. 1."""
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def deception_loss(fake_logits: torch.Tensor) -> torch.Tensor:
    """Non-saturating loss of the generator. Source: Goodfellow 2014, section 3."""
    return F.softplus(-fake_logits).mean()


def gradient_penalty(real_logits: torch.Tensor, real_images: torch.Tensor) -> torch.Tensor:
    """Half the mean squared norm of the discriminator's gradient at real images. Source: Mescheder 2018, eq. 9 (R1).

    `real_images` (B, ...) must require a gradient and have led to `real_logits` (B,).
    """
    (gradient,) = torch.autograd.grad(real_logits.sum(), real_images, create_graph=True)
    return 0.5 * gradient.square().flatten(1).sum(dim=1).mean()


def level_widths(image_size: int, *, width: int) -> tuple[int, ...]:
    """Widths from 4 px up to the image's side: `width` at the finest level, doubling towards 4 px up to 256.

    Raises:
        ValueError: a side that is not 4 times a power of two.
    """
    levels = (image_size // _FIRST_SIDE).bit_length()
    if levels < 1 or _FIRST_SIDE * 2 ** (levels - 1) != image_size:
        raise ValueError(f"image_size {image_size}")
    return tuple(min(width * 2 ** (levels - 1 - index), _MOST_WIDTH) for index in range(levels))
