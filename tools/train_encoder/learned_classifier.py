"""Train a classifier until it reads held-out images no better. The caller chooses the images; the only file written here is
the state of an unfinished training."""

import math
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from config.schema import SYMMETRIES
from dataset.order import SampleOrder, generator
from dataset.patient_note import write_patient_note
from dataset.symmetries import apply_symmetry
from models.classifier import Classifier, ClassifierConfig
from models.ema import ExponentialMovingAverage
from tools.evaluation.classifier_training import ReadPixels
from tools.runtime.command import Diverged
from tools.runtime.loop import Loop, descend
from tools.runtime.machine import choose_device
from tools.runtime.resume import OtherTraining, ResumeState, Saving

BATCH_SIZE = 32
_PEAK_LR, _WARMUP_STEPS, _FULL_LR_STEPS = 2e-3, 60, 400  # then it falls with the square root of the steps
_WEIGHT_DECAY = 0.05
_EMA_LENGTH = 0.1  # of the steps so far, because the end of the training is not known
_LABEL_SMOOTHING = 0.1
_STRONG_SHARE = 0.5  # of the images; the others only get the config's symmetries and small shifts
_LARGEST_SHIFT, _LARGEST_STRONG_SHIFT = 1 / 16, 1 / 10  # of the side: oocytes are never exactly in the middle
_LARGEST_ZOOM = 0.2  # of the logarithm
_BRIGHTNESS_STD, _CONTRAST_STD = 0.1, 0.15  # exposure differs between microscopes
_FEWEST_STEPS_BETWEEN, _IMAGES_PER_STEP = 50, 32  # of evaluations; many held-out images are read less often
_LEAST_GAIN = 0.003  # nats; a smaller gain does not prolong the training
_PATIENCE_STEPS, _PATIENCE_SHARE = 600, 0.5  # steps without a gain, and as a fraction of the steps at the last gain
_CALIBRATED_ON, _PREDICTED_AT_ONCE = 256, 256  # images
_REMEDY = "look at the images with tools.check_dataset, or choose another train_params.seed"


@dataclass(frozen=True)
class LabelledPixels:
    """Positions int64 (B,) -> images float32 (B, C, H, W) in [-1, 1], and the labels int64 (N,) of all positions."""

    read: ReadPixels
    labels: np.ndarray


@dataclass(frozen=True)
class LearningRecipe:
    """The start and the limits of a training. `symmetries` are the views that count as real images."""

    seed: int
    symmetries: tuple[str, ...]
    max_steps: int
    max_minutes: float


class Ending(Enum):
    """Why a training ended."""

    SETTLED = "held-out images were read no better"
    STEPS = "the largest number of epochs was reached"
    MINUTES = "the largest number of minutes was reached"


@dataclass
class _Best:
    """The best weights so far. `gain_loss` and `gain_step` belong to the last gain that counted."""

    weights: dict[str, torch.Tensor]
    loss: float = math.inf
    step: int = 0
    gain_loss: float = math.inf
    gain_step: int = 0

    def state_dict(self) -> dict[str, torch.Tensor]:
        return self.weights

    def load_state_dict(self, state_dict: dict[str, torch.Tensor]) -> None:
        self.weights = state_dict

    def offer(self, step: int, loss: float, weights: dict[str, torch.Tensor]) -> None:
        if loss < self.loss:
            self.loss, self.step = loss, step
            self.weights = {name: value.detach().clone() for name, value in weights.items()}
        if loss < self.gain_loss - _LEAST_GAIN:
            self.gain_loss, self.gain_step = loss, step

    def has_settled(self, step: int) -> bool:
        return step - self.gain_step >= max(_PATIENCE_STEPS, _PATIENCE_SHARE * self.gain_step)


@dataclass
class _State(ResumeState):
    """What a resumed training needs, including the best weights so far."""

    best: _Best = field(default_factory=lambda: _Best({}))

    def to_values(self) -> dict[str, Any]:
        return {"best": {name: str(getattr(self.best, name)) for name in _BEST_VALUES}}  # as text: JSON has no infinity

    def restore_values(self, values: dict[str, Any]) -> None:
        for name, kind in _BEST_VALUES.items():
            setattr(self.best, name, kind(values["best"][name]))

    def save(self, saving: Saving) -> None:
        write_patient_note(saving.folder, "The weights in this folder")
        super().save(saving)


_BEST_VALUES = {"loss": float, "step": int, "gain_loss": float, "gain_step": int}


@dataclass(frozen=True)
class LearnedClassifier:
    """A classifier on the CPU in eval mode, its number of steps, and the step whose weights it has."""

    network: Classifier
    ending: Ending
    steps: int
    chosen_step: int


def learn_classifier(
    shape: ClassifierConfig, images: LabelledPixels, held_out: LabelledPixels, recipe: LearningRecipe, *, title: str,
    show_progress: bool, saving: Saving | None = None,
) -> LearnedClassifier:
    """Train until the loss on held-out images, in which classes weigh the same, has stopped falling; the best weights.

    Classes come equally often. The weights are averages over the last steps. With `saving` the training is saved on the way
    and resumes from the newest state of its identity, to equal weights. `max_minutes`, counted over all parts, is the only
    limit that depends on the machine.

    Raises:
        Interrupted: a signal asked for a stop; without `saving` nothing is kept.
        Diverged: loss or gradient is no longer finite.
    """
    run = _Run(shape, recipe)
    order = SampleOrder(images.labels, seed=recipe.seed, balance=1.0)
    between = max(_FEWEST_STEPS_BETWEEN, len(held_out.labels) // _IMAGES_PER_STEP)
    if saving is not None:
        _resume_or_discard(run.state, saving)
    ending = Ending.STEPS
    with Loop(run.state, recipe.max_steps, title=title, images_per_step=BATCH_SIZE, remedy=_REMEDY, saving=saving,
              max_minutes=recipe.max_minutes, show=show_progress) as loop:
        for step in loop.steps():
            loop.end_step(run.take_step(images, order, step))
            done, best = run.state.step, run.state.best
            if done % between == 0 or loop.is_last:
                run.evaluate(images, order, held_out)
            if done % between == 0 and best.has_settled(done):
                ending = Ending.SETTLED
                loop.is_last = True
            elif loop.is_last and done < recipe.max_steps:
                ending = Ending.MINUTES
    return LearnedClassifier(run.finish(), ending, run.state.step, run.state.best.step)


def _resume_or_discard(state: ResumeState, saving: Saving) -> None:
    """Resume, or remove the state of a training on other images: its later steps would look newer."""
    try:
        state.resume(saving)
    except OtherTraining:
        print(f"warning: {saving.folder} held the state of a training on other images or with other settings; it is "
              "discarded and training starts again", file=sys.stderr)
        shutil.rmtree(saving.folder, ignore_errors=True)


def learning_shape(im_channels: int, num_classes: int, image_size: int) -> ClassifierConfig:
    """The classifier of images of this size."""
    return ClassifierConfig(im_channels=im_channels, num_classes=num_classes, image_size=image_size, norm="batch",
                            pooling="attention", stem_width=16, trunk_size=16 if image_size <= 64 else 32)


def count_steps(epochs: int, num_images: int) -> int:
    """Optimizer steps of `epochs` passes over so many images."""
    return max(1, epochs * num_images // BATCH_SIZE)


class _Run:
    """The networks of a training; `state` is what is saved of them."""

    def __init__(self, shape: ClassifierConfig, recipe: LearningRecipe) -> None:
        self._recipe, self._device = recipe, choose_device(precision="float32")
        torch.manual_seed(recipe.seed)  # the initial weights
        self._network = Classifier(shape).to(self._device).train()
        self._averaged = Classifier(shape).to(self._device).eval()
        matrices = [weights for weights in self._network.parameters() if weights.ndim > 1]
        others = [weights for weights in self._network.parameters() if weights.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": _WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
        self._optimizer = torch.optim.AdamW(groups, lr=_PEAK_LR, fused=True)
        ema = ExponentialMovingAverage(self._network, decay=0.0, relative_length=_EMA_LENGTH)
        best = _Best({})
        self.state = _State({"network": self._network, "best": best}, ema, {"optimizer": self._optimizer}, seconds=0.0,
                            best=best)

    def take_step(self, images: LabelledPixels, order: SampleOrder, step: int) -> str | None:
        """Optimizer step `step`, from 0; its random numbers depend only on the seed and the step.

        Returns a note on the losses; None, and nothing moves, where loss or gradient is not finite.
        """
        positions = order.positions(step * BATCH_SIZE, BATCH_SIZE)
        pixels = augment(images.read(positions), seed=self._recipe.seed, step=step, symmetries=self._recipe.symmetries)
        torch.manual_seed(int(generator(self._recipe.seed, "learning dropout", step).integers(2**63 - 1)))
        for group in self._optimizer.param_groups:
            group["lr"] = _PEAK_LR * min((step + 1) / _WARMUP_STEPS, math.sqrt(_FULL_LR_STEPS / max(step, _FULL_LR_STEPS)))
        logits = self._network(pixels.to(self._device))
        wanted = torch.from_numpy(images.labels[positions]).to(self._device)
        loss = F.cross_entropy(logits, wanted, label_smoothing=_LABEL_SMOOTHING)
        if not descend(self._optimizer, loss):
            return None
        self.state.ema.update(self._network)
        best = self.state.best.loss
        return f"loss {loss.item():.3f}" + (f", held-out {best:.3f}" if math.isfinite(best) else "")

    def evaluate(self, images: LabelledPixels, order: SampleOrder, held_out: LabelledPixels) -> None:
        """Offer the averaged weights by their loss on held-out images."""
        self._averaged.load_state_dict(self.state.ema.state_dict(), strict=False)
        calibrate(self._averaged, images.read, order.positions(0, _CALIBRATED_ON), self._device)
        loss = balanced_loss(self._averaged, held_out, self._device)
        self.state.best.offer(self.state.step, loss, self._averaged.state_dict())

    def finish(self) -> Classifier:
        """The best weights.

        Raises:
            Diverged: none were finite.
        """
        if not self.state.best.weights:
            raise Diverged(f"the loss on held-out images was never finite; {_REMEDY}")
        self._averaged.load_state_dict(self.state.best.weights)
        return self._averaged.cpu().eval()


@torch.no_grad()
def calibrate(network: Classifier, read: ReadPixels, positions: np.ndarray, device: torch.device) -> None:
    """Measure the statistics of batch normalisations on these images; averaged weights have none.

    Source: Izmailov 2018, arXiv 1803.05407, section 3.2.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # all batches weigh the same
    network.train()
    for start in range(0, len(positions) if layers else 0, BATCH_SIZE):
        network.features(read(positions[start:start + BATCH_SIZE]).to(device))
    network.eval()


@torch.inference_mode()
def balanced_loss(network: Classifier, images: LabelledPixels, device: torch.device) -> float:
    """Mean over the classes of their images' mean cross-entropy, float64."""
    losses = []
    for start in range(0, len(images.labels), _PREDICTED_AT_ONCE):
        places = np.arange(start, min(start + _PREDICTED_AT_ONCE, len(images.labels)))
        wanted = torch.from_numpy(images.labels[places]).to(device)
        losses.append(F.cross_entropy(network(images.read(places).to(device)), wanted, reduction="none").double().cpu())
    loss = torch.cat(losses).numpy()
    return float(np.mean([loss[images.labels == label].mean() for label in np.unique(images.labels)]))


def augment(pixels: torch.Tensor, *, seed: int, step: int, symmetries: Sequence[str]) -> torch.Tensor:
    """Augment the images of a batch (B, C, S, S).

    Half of them only get the given symmetries, small shifts and changes of exposure, as in real images. The other half is
    also flipped, turned by any angle and zoomed. If the label depends on the direction, an image still has the right label
    more often than a wrong one.
    """
    rng, count, size = generator(seed, "learning views", step), len(pixels), pixels.shape[-1]
    strong = rng.random(count) < _STRONG_SHARE
    names = [(SYMMETRIES if hard else symmetries)[int(place * len(SYMMETRIES if hard else symmetries))]
             for place, hard in zip(rng.random(count), strong, strict=True)]
    turned = torch.stack([apply_symmetry(image, name) for image, name in zip(pixels, names, strict=True)])
    angles = rng.uniform(-np.pi, np.pi, count) * strong
    zooms = np.exp(rng.uniform(-_LARGEST_ZOOM, _LARGEST_ZOOM, count) * strong)
    reach = np.where(strong, _LARGEST_STRONG_SHIFT, _LARGEST_SHIFT)[:, None] * size
    shifts = rng.uniform(-1, 1, (count, 2)) * reach
    shifts = 2 / size * np.where(strong[:, None], shifts, np.rint(shifts))  # whole pixels keep the finest texture
    cosines, sines = np.cos(angles) * zooms, np.sin(angles) * zooms
    matrices = np.array([[cosines, -sines, shifts[:, 0]], [sines, cosines, shifts[:, 1]]], dtype=np.float32)
    grid = F.affine_grid(torch.from_numpy(matrices).permute(2, 0, 1), list(turned.shape), align_corners=False)
    moved = F.grid_sample(turned, grid, padding_mode="border", align_corners=False)
    exposure = torch.from_numpy(rng.standard_normal((count, 2)).astype(np.float32))
    contrast = (1 + _CONTRAST_STD * exposure[:, 0]).view(-1, 1, 1, 1)
    return moved * contrast + (_BRIGHTNESS_STD * exposure[:, 1]).view(-1, 1, 1, 1)
