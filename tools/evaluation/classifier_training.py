"""Training the small classifier on pixels by a fixed recipe, which all arms of a study share, and reading class
probabilities. Which images it sees, and with which labels, is for the caller; no file is written here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from config.schema import TableParams
from dataset.order import SampleOrder, generator
from dataset.symmetries import apply_symmetry
from models.classifier import Classifier, ClassifierConfig
from models.ema import ExponentialMovingAverage
from tools.diffusion.training import lr_factor
from tools.evaluation.inference import compute_logits
from tools.runtime.loop import Loop, descend
from tools.runtime.machine import choose_device
from tools.runtime.resume import ResumeState

BATCH_SIZE = 64
_PEAK_LR = 2e-3
_WEIGHT_DECAY = 0.02
_EMA_DECAY = 0.99
_LABEL_SMOOTHING = 0.05
_LARGEST_SHIFT = 1 / 16  # of the side: oocytes are never exactly in the middle
_BRIGHTNESS_STD, _CONTRAST_STD = 0.1, 0.1  # exposure differs between microscopes
_PREDICTED_AT_ONCE = 256

ReadPixels = Callable[[np.ndarray], torch.Tensor]


@dataclass(frozen=True)
class ClassifierRecipe:
    """How a classifier is trained. `balance` 1 shows all classes equally often, 0 as often as they come in the labels;
    without `augment` images are shown as they are."""

    seed: int
    num_steps: int
    symmetries: tuple[str, ...]
    balance: float = 1.0
    augment: bool = True


def classifier_shape(table: TableParams) -> ClassifierConfig:
    """The classifier of the table's images and classes."""
    return ClassifierConfig(im_channels=table.im_channels, num_classes=len(table.class_names), image_size=table.image_size)


def count_classifier_steps(epochs: int, num_images: int) -> int:
    """Optimizer steps of `epochs` passes over so many images."""
    return max(1, epochs * num_images // BATCH_SIZE)


def train_classifier(
    shape: ClassifierConfig, read_pixels: ReadPixels, labels: np.ndarray, recipe: ClassifierRecipe, *, title: str,
    show_progress: bool,
) -> Classifier:
    """The averaged weights after the recipe's steps, on the CPU in eval mode.

    Args:
        read_pixels: positions int64 (B,) into `labels` -> images float32 (B, C, H, W) in [-1, 1].
        labels: int64 (N,).

    Raises:
        Interrupted: a signal asked for a stop; nothing is kept.
        Diverged: loss or gradient is no longer finite.
    """
    device = choose_device(precision="float32")
    torch.manual_seed(recipe.seed)  # initial weights and dropout
    network = Classifier(shape).to(device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=_PEAK_LR, weight_decay=_WEIGHT_DECAY, fused=True)
    ema = ExponentialMovingAverage(network, _EMA_DECAY)
    order, steps = SampleOrder(labels, seed=recipe.seed, balance=recipe.balance), recipe.num_steps
    with Loop(ResumeState({"network": network}, ema, {"optimizer": optimizer}), steps, title=title,
              images_per_step=BATCH_SIZE, remedy="look at the images", show=show_progress) as loop:
        for step in loop.steps():
            positions = order.positions(step * BATCH_SIZE, BATCH_SIZE)
            pixels = read_pixels(positions)
            if recipe.augment:
                pixels = _augment(pixels, seed=recipe.seed, step=step, symmetries=recipe.symmetries)
            factor = lr_factor("cosine", fraction=step / steps, step=step, warmup_steps=20)
            optimizer.param_groups[0]["lr"] = _PEAK_LR * factor
            wanted = torch.from_numpy(labels[positions]).to(device)
            loss = F.cross_entropy(network(pixels.to(device)), wanted, label_smoothing=_LABEL_SMOOTHING)
            finite = descend(optimizer, loss)
            if finite:
                ema.update(network)
            loop.end_step(f"loss {loss.item():.3f}" if finite else None)
    network.load_state_dict(ema.state_dict(), strict=False)
    return network.cpu().eval()


def class_probabilities(network: Classifier, read_pixels: ReadPixels, num_images: int) -> np.ndarray:
    """Softmax float64 (N, num_classes) of images 0 to N - 1."""
    batches = (read_pixels(np.arange(start, min(start + _PREDICTED_AT_ONCE, num_images)))
               for start in range(0, num_images, _PREDICTED_AT_ONCE))
    return compute_logits(network, batches).softmax(dim=1).double().numpy()


def _augment(pixels: torch.Tensor, *, seed: int, step: int, symmetries: Sequence[str]) -> torch.Tensor:
    """Allowed symmetries, small shifts with the border repeated, and changes of exposure."""
    rng = generator(seed, "encoder augmentation", step)
    count, reach = len(pixels), max(1, round(pixels.shape[-1] * _LARGEST_SHIFT))
    views = rng.integers(len(symmetries), size=count)
    shifts = rng.integers(-reach, reach + 1, size=(count, 2))
    exposure = torch.from_numpy(rng.standard_normal((count, 2)).astype(np.float32))
    padded = F.pad(pixels, (reach,) * 4, mode="replicate")
    size = pixels.shape[-1]
    moved = torch.stack([
        apply_symmetry(image[:, reach + dy:reach + dy + size, reach + dx:reach + dx + size], symmetries[view])
        for image, view, (dy, dx) in zip(padded, views, shifts, strict=True)
    ])
    contrast = (1 + _CONTRAST_STD * exposure[:, 0]).view(-1, 1, 1, 1)
    return moved * contrast + (_BRIGHTNESS_STD * exposure[:, 1]).view(-1, 1, 1, 1)
