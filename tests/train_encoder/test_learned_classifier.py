"""Training until held-out images are read no better: when it ends, which weights it gives, what a stop changes (nothing)."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.classifier import Classifier, ClassifierConfig
from tools.runtime.command import Diverged, Interrupted
from tools.runtime.resume import Saving
from tools.train_encoder import learned_classifier
from tools.train_encoder.learned_classifier import (
    Ending,
    LabelledPixels,
    LearnedClassifier,
    LearningRecipe,
    augment,
    balanced_loss,
    calibrate,
    learn_classifier,
)

CPU = torch.device("cpu")
SHAPE = ClassifierConfig(im_channels=1, num_classes=2, image_size=32, widths=(8, 16), norm="batch", pooling="attention")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def make_images(count: int, *, seed: int, readable: bool = True) -> LabelledPixels:
    """Noise; where it is readable, images of class 1 have a dot somewhere. Three of four images are of class 0."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(count) % 4 == 0).astype(np.int64)
    pixels = rng.normal(0, 0.2, (count, 1, 32, 32)).astype(np.float32)
    for place in np.flatnonzero(labels) if readable else ():
        row, column = rng.integers(6, 24, 2)
        pixels[place, 0, row:row + 4, column:column + 4] += 1.0
    images = torch.from_numpy(pixels)
    return LabelledPixels(lambda positions: images[torch.as_tensor(positions)], labels)


def learn(images: LabelledPixels, held_out: LabelledPixels, *, max_steps: int, max_minutes: float = 60.0,
          saving: Saving | None = None) -> LearnedClassifier:
    recipe = LearningRecipe(seed=0, symmetries=("identity", "mirror"), max_steps=max_steps, max_minutes=max_minutes)
    return learn_classifier(SHAPE, images, held_out, recipe, title="test", show_progress=False, saving=saving)


def test_it_learns_a_small_thing_that_may_be_anywhere() -> None:
    learned, held_out = learn(make_images(160, seed=1), make_images(80, seed=2), max_steps=150), make_images(200, seed=3)
    with torch.no_grad():
        predicted = learned.network(held_out.read(np.arange(200))).argmax(dim=1).numpy()
    assert not learned.network.training
    assert min((predicted == held_out.labels)[held_out.labels == label].mean() for label in (0, 1)) > 0.9


def test_it_ends_where_there_is_nothing_to_learn_and_gives_the_weights_of_the_least_loss(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learned_classifier, "_FEWEST_STEPS_BETWEEN", 5)
    monkeypatch.setattr(learned_classifier, "_PATIENCE_STEPS", 40)
    losses: dict[int, float] = {}
    offer = learned_classifier._Best.offer

    def note(best: learned_classifier._Best, step: int, loss: float, weights: dict[str, torch.Tensor]) -> None:
        losses[step] = loss
        offer(best, step, loss, weights)

    monkeypatch.setattr(learned_classifier._Best, "offer", note)
    held_out = make_images(60, seed=2, readable=False)
    learned = learn(make_images(40, seed=1, readable=False), held_out, max_steps=400)
    assert learned.ending is Ending.SETTLED and learned.steps < 400 and learned.chosen_step < learned.steps
    assert losses[learned.chosen_step] == min(losses.values())
    assert balanced_loss(learned.network, held_out, CPU) == pytest.approx(min(losses.values()), rel=1e-6)


def test_a_gain_that_is_too_small_keeps_the_weights_and_not_the_patience() -> None:
    best = learned_classifier._Best({})
    best.offer(100, 1.0, {"w": torch.zeros(1)})
    best.offer(200, 0.998, {"w": torch.ones(1)})
    assert (best.step, best.gain_step) == (200, 100) and best.weights["w"] == 1
    assert not best.has_settled(699) and best.has_settled(700)
    best.offer(2000, 0.5, {"w": torch.ones(1)})
    assert not best.has_settled(2999) and best.has_settled(3000)  # a slow learner is waited for longer


@pytest.mark.parametrize(("max_steps", "max_minutes", "ending", "steps"), [
    (3, 60.0, Ending.STEPS, 3), (100, 1e-9, Ending.MINUTES, 1)])
def test_the_bounds_end_it_with_weights_that_were_evaluated(
    max_steps: int, max_minutes: float, ending: Ending, steps: int
) -> None:
    learned = learn(make_images(40, seed=1), make_images(20, seed=2), max_steps=max_steps, max_minutes=max_minutes)
    assert (learned.ending, learned.steps, learned.chosen_step) == (ending, steps, steps)


def test_a_loss_that_is_not_finite_ends_it_in_one_line() -> None:
    images = make_images(40, seed=1)
    broken = LabelledPixels(lambda positions: images.read(positions) * float("nan"), images.labels)
    with pytest.raises(Diverged, match="step 10: loss or gradient was not finite 10 times in a row; the same steps would"):
        learn(broken, images, max_steps=50)
    with pytest.raises(Diverged, match="the loss on held-out images was never finite"):
        learn(broken, images, max_steps=5)


def signal_at(images: LabelledPixels, batch: int) -> LabelledPixels:
    """The images; while the given batch of 32 is read, this process is asked to stop."""
    count = 0

    def read(positions: np.ndarray) -> torch.Tensor:
        nonlocal count
        count += 1
        if count == batch:
            os.kill(os.getpid(), signal.SIGTERM)
        return images.read(positions)

    return LabelledPixels(read, images.labels)


def test_a_stop_at_any_step_changes_no_weight_also_after_the_best_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Held-out labels are swapped: the first weights are the best, and only the saved state knows them after a stop."""
    monkeypatch.setattr(learned_classifier, "_FEWEST_STEPS_BETWEEN", 3)
    monkeypatch.setattr(learned_classifier, "_CALIBRATED_ON", 32)
    images, held_out = make_images(64, seed=1), make_images(40, seed=2)
    swapped = LabelledPixels(held_out.read, 1 - held_out.labels)
    unbroken = learn(images, swapped, max_steps=40)
    assert unbroken.chosen_step < 20
    saving, stops = Saving(tmp_path, "one", key="k", at_end=False), 0
    for batch in (30, 4, 2):
        with pytest.raises(Interrupted, match="saved at step"):
            learn(signal_at(images, batch), swapped, max_steps=40, saving=saving)
        stops += 1
    resumed = learn(images, swapped, max_steps=40, saving=saving)
    assert capsys.readouterr().out.count("resuming at step") == stops
    assert (resumed.steps, resumed.chosen_step, resumed.ending) == (40, unbroken.chosen_step, unbroken.ending)
    for name, value in unbroken.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[name]), name


def test_minutes_count_over_all_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, held_out = make_images(40, seed=1), make_images(20, seed=2)
    saving = Saving(tmp_path, "one", key="k", at_end=False)
    with pytest.raises(Interrupted):
        learn(signal_at(images, 2), held_out, max_steps=50, max_minutes=1.0, saving=saving)
    restore_values = learned_classifier._State.restore_values

    def restore_late(state: learned_classifier._State, values: dict[str, Any]) -> None:
        restore_values(state, values)
        state.seconds = 59.9999

    monkeypatch.setattr(learned_classifier._State, "restore_values", restore_late)
    learned = learn(images, held_out, max_steps=50, max_minutes=1.0, saving=saving)
    assert learned.ending is Ending.MINUTES and learned.steps < 50


def test_statistics_are_those_of_the_images_and_not_of_the_training() -> None:
    torch.manual_seed(0)
    network, images = Classifier(SHAPE), make_images(64, seed=1)
    calibrate(network, images.read, np.arange(64), CPU)
    with torch.no_grad():
        maps = network.stem(images.read(np.arange(64)))
    first = network.stages[0].norm1
    assert torch.allclose(first.running_mean, maps.mean(dim=(0, 2, 3)), atol=1e-5)
    assert torch.allclose(first.running_var, maps.var(dim=(0, 2, 3)), rtol=0.05)
    before = network(images.read(np.arange(3)))
    assert not network.training and torch.allclose(before[:1], network(images.read(np.arange(1))), atol=1e-5)


def test_rare_classes_weigh_as_much_in_the_loss() -> None:
    class Sure(Classifier):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tensor([2.0, 0.0]).expand(len(x), 2)

    right, wrong = -np.log(1 / (1 + np.exp(-2))), -np.log(1 / (1 + np.exp(2)))
    assert balanced_loss(Sure(SHAPE), make_images(100, seed=0), CPU) == pytest.approx((right + wrong) / 2)


def shown(make: Callable[[], torch.Tensor], **changes: object) -> torch.Tensor:
    return augment(make(), **{"seed": 0, "step": 0, "symmetries": ("identity",), **changes})


def test_views_depend_on_the_seed_and_the_step_alone() -> None:
    def noise() -> torch.Tensor:
        return torch.rand(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    assert torch.equal(shown(noise), shown(noise))
    assert not torch.equal(shown(noise), shown(noise, step=1)) and not torch.equal(shown(noise), shown(noise, seed=1))


def test_most_images_keep_a_direction_that_the_config_does_not_give_up() -> None:
    """Brighter on the left: of the images shown as they may be all keep it, of the others as many as not."""
    def left() -> torch.Tensor:
        return torch.linspace(1, -1, 32).expand(400, 1, 32, 32).clone()

    def keeps(images: torch.Tensor) -> float:
        return float((images[..., :16].mean(dim=(1, 2, 3)) > images[..., 16:].mean(dim=(1, 2, 3))).float().mean())

    assert 0.65 < keeps(shown(left)) < 0.85
    assert 0.4 < keeps(shown(left, symmetries=("identity", "mirror"))) < 0.6


def test_half_of_the_images_keep_their_finest_texture() -> None:
    def checkerboard() -> torch.Tensor:
        return (1.0 - 2.0 * ((torch.arange(32)[:, None] + torch.arange(32)) % 2)).expand(200, 1, 32, 32).clone()

    images = shown(checkerboard)[..., 8:24, 8:24]  # apart from repeated borders
    contrast = images.amax(dim=(1, 2, 3)) - images.amin(dim=(1, 2, 3))
    steps = (images[..., 1:] - images[..., :-1]).abs().amin(dim=(1, 2, 3))
    assert 0.35 < float((steps > 0.99 * contrast).float().mean()) < 0.7
