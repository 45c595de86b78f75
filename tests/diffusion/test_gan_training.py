"""The GAN's training step does what its formulas say: who learns from what, when the penalty counts, what is drawn from."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from config.errors import UserError
from config.schema import Config
from dataset.annotations import ImageRecord
from dataset.augmentation import NUM_UNIFORMS, augment
from dataset.image_bank import ImageBank
from dataset.images import to_uint8
from dataset.order import generator, normal
from dataset.symmetries import apply_symmetry
from models.gan import LATENT_DIM, Generator, critic_loss, deception_loss, gradient_penalty
from tools.diffusion.gan_training import GanTrainer, draw_gan_images, load_generator, measure_contrast
from tools.diffusion.generation import ImageRequest
from tools.runtime.checkpoints import read_checkpoint
from tools.runtime.command import Diverged

MakeConfig = Callable[..., Config]

SEED, BATCH, CPU = 7, 8, torch.device("cpu")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small lose time to threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class LevelImages:
    """Two dozen images of 16 px: the ones of class 0 dark, those of class 1 bright, each of a level of its own.

    A light corner breaks every symmetry, so that level and corner say which image and which view is seen.
    """

    def __init__(self) -> None:
        self.records = [ImageRecord(f"{index}", Path(f"{index}.png"), index % 2, f"{index}", "train") for index in range(24)]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        label = self.records[index].label
        image = torch.full((1, 16, 16), (0.1 if label else -0.8) + 0.03 * (index // 2))
        image[0, :3, :6] = 0.9
        return image, label


def find_image(image: torch.Tensor) -> int:
    """The position of the image whose level this one has."""
    level = float(image.median())
    base, label = (0.1, 1) if level > 0 else (-0.8, 0)
    return 2 * round((level - base) / 0.03) + label


@pytest.fixture
def make_trainer(make_config: MakeConfig) -> Callable[..., GanTrainer]:
    """A function: a trainer of the same first weights whatever the keys of gan_params, which are given."""
    def make(symmetries: Sequence[str] = ("identity", "mirror"), **params: object) -> GanTrainer:
        return GanTrainer(config_of(make_config, symmetries, params), LevelImages(), CPU)

    return make


def config_of(make_config: MakeConfig, symmetries: Sequence[str], params: dict[str, object]) -> Config:
    table = {"csv_file": "table.csv", "root_dir": "images", "im_channels": 1, "image_size": 16}
    data = {"params": table, "symmetries": list(symmetries), "symmetry_conditioning": False}
    return make_config(dataset_params=data, train_params={"seed": SEED},
                       gan_params={"width": 8, "batch_size": BATCH, "lr": 0.002, **params})


def noise_of(step: int, part: int) -> torch.Tensor:
    return normal(generator(SEED, "gan noise", step, part), (BATCH, LATENT_DIM))


def augmented(images: torch.Tensor, step: int, part: int) -> torch.Tensor:
    rng = generator(SEED, "gan augmentation", step, part)
    uniforms = torch.from_numpy(rng.random((BATCH, NUM_UNIFORMS), dtype=np.float32))
    contrast = torch.stack([image for image, _ in map(LevelImages().__getitem__, range(24))]).std()
    return augment(images, uniforms, brightness=float(contrast))


def unchanged(images: torch.Tensor, _step: int, _part: int) -> torch.Tensor:
    return images


def critic_gradient(trainer: GanTrainer) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter in trainer.critic.named_parameters()
            if parameter.grad is not None}


def test_an_epoch_s_steps_hold_every_image_once_with_its_label_in_the_allowed_views(
    make_trainer: Callable[..., GanTrainer]
) -> None:
    trainer, images = make_trainer(symmetries=["identity", "rotate_180"]), LevelImages()
    seen, views = [], []
    for step in range(3, 6):  # the second epoch
        pixels, labels = trainer._draw_real(step)
        for image, label in zip(pixels, labels.tolist(), strict=True):
            position = find_image(image)
            original, expected = images[position]
            assert label == expected
            seen.append(position)
            views.append([torch.equal(image, apply_symmetry(original, name)) for name in ("identity", "rotate_180")])
    assert sorted(seen) == list(range(24))
    assert all(sum(view) == 1 for view in views) and [True, False] in views and [False, True] in views


@pytest.mark.parametrize("with_augmentation", [True, False])
def test_a_step_s_losses_are_those_of_its_own_draws_and_the_generator_s_falls(
    make_trainer: Callable[..., GanTrainer], with_augmentation: bool
) -> None:
    trainer, step = make_trainer(augment=with_augmentation, r1_weight=0.0), 2
    change = augmented if with_augmentation else unchanged
    real, labels = trainer._draw_real(step)
    critic, network = copy.deepcopy(trainer.critic), copy.deepcopy(trainer.generator)
    losses = trainer.train_step(step)
    with torch.no_grad():
        of_real = critic(change(real, step, 0), labels)
        of_fake = critic(change(network(noise_of(step, 0), labels), step, 1), labels)
        assert losses["critic_loss"] == pytest.approx(float(critic_loss(of_real, of_fake)), rel=1e-5)
        # The generator is judged by the critic of after its step, on noise and augmentation of its own.
        before, after = (float(deception_loss(trainer.critic(change(each(noise_of(step, 1), labels), step, 2), labels)))
                         for each in (network, trainer.generator))
    assert losses["generator_loss"] == pytest.approx(before, rel=1e-5)
    assert after < before - 1e-4


def test_each_network_s_step_moves_that_network_alone_by_the_gradient_of_this_step(
    make_trainer: Callable[..., GanTrainer]
) -> None:
    trainer = make_trainer(augment=False)
    network = copy.deepcopy(trainer.generator)
    trainer._train_critic(*trainer._draw_real(0), 0)
    first = network.state_dict()
    assert all(torch.equal(tensor, first[name]) for name, tensor in trainer.generator.state_dict().items())
    critic = copy.deepcopy(trainer.critic)
    trainer.train_step(1)
    assert all(parameter.requires_grad for parameter in trainer.critic.parameters())
    real, labels = trainer._draw_real(1)
    critic.zero_grad()
    critic_loss(critic(real, labels), critic(network(noise_of(1, 0), labels).detach(), labels)).backward()
    moved = trainer.critic.state_dict()
    gradients = critic_gradient(trainer)
    for name, parameter in critic.named_parameters():  # neither step 0's nor the generator's step's part is left in them
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-7)
        assert not torch.equal(moved[name], parameter)


def test_the_critic_learns_to_tell_real_images_from_drawn_ones_and_which_class_they_are(
    make_trainer: Callable[..., GanTrainer]
) -> None:
    trainer = make_trainer(augment=False)
    for step in range(60):
        trainer._train_critic(*trainer._draw_real(step), step)
    images = LevelImages()
    real = torch.stack([images[index][0] for index in range(24)])
    labels = torch.tensor([record.label for record in images.records])
    noise = torch.randn(24, LATENT_DIM, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        of_real, of_fake = trainer.critic(real, labels), trainer.critic(trainer.generator(noise, labels), labels)
        of_mislabelled = trainer.critic(real, 1 - labels)
    assert of_real.min() > of_fake.max() and of_real.mean() > 0 > of_fake.mean()
    assert (of_real > of_mislabelled).float().mean() > 0.9


@pytest.mark.parametrize("with_augmentation", [True, False])
def test_the_penalty_counts_eightfold_at_every_eighth_step_and_at_no_other(
    make_trainer: Callable[..., GanTrainer], with_augmentation: bool
) -> None:
    change, weight = augmented if with_augmentation else unchanged, 100.0  # a new critic's gradient is small
    for step in (0, 1, 4, 7, 8, 9):
        with_penalty, without = (make_trainer(r1_weight=each, augment=with_augmentation) for each in (weight, 0.0))
        critic = copy.deepcopy(with_penalty.critic)
        losses = [trainer.train_step(step)["critic_loss"] for trainer in (with_penalty, without)]
        assert losses[0] == losses[1]  # the penalty is no part of the loss that is shown
        gradients, plain = critic_gradient(with_penalty), critic_gradient(without)
        if step % 8:
            assert gradients.keys() == plain.keys() and all(torch.equal(gradients[name], plain[name]) for name in plain)
            continue
        real, labels = with_penalty._draw_real(step)
        real.requires_grad_()
        penalty = gradient_penalty(critic(change(real, step, 0), labels), real)
        parameters = dict(critic.named_parameters())
        of_penalty = torch.autograd.grad(8 * weight * penalty, list(parameters.values()), materialize_grads=True)
        assert max(float(value.abs().max()) for value in of_penalty) > 0.01
        for name, value in zip(parameters, of_penalty, strict=True):
            torch.testing.assert_close(gradients[name] - plain[name], value, rtol=1e-3, atol=1e-5)


def test_what_is_written_and_drawn_from_is_the_average_of_the_generator(
    make_trainer: Callable[..., GanTrainer], tmp_path: Path
) -> None:
    trainer = make_trainer()
    start = {name: value.detach().clone() for name, value in trainer.generator.named_parameters()}
    trainer.train_step(0)
    raw = dict(trainer.generator.named_parameters())
    path = tmp_path / "generator.safetensors"
    trainer.write_weights(path, 1, ["ab"])
    tensors, values = read_checkpoint(path)
    assert tensors.keys() == raw.keys() and values["step"] == 1
    for name, tensor in tensors.items():  # after one update an average weighs the start with 2/11, see models/ema.py
        torch.testing.assert_close(tensor, (2 * start[name] + 9 * raw[name].detach()) / 11, rtol=1e-5, atol=1e-6)
    assert any((tensor - raw[name]).abs().max() > 1e-4 for name, tensor in tensors.items())
    loaded, values = load_generator(trainer.config.dataset_params.params, trainer.params, path, CPU)
    assert values["class_counts"] == [12, 12] and values["trained_images"] == ["ab"]
    assert all(torch.equal(value, tensors[name]) for name, value in loaded.named_parameters())

    data = trainer.config.dataset_params
    swapped = replace(data, params=replace(data.params, class_names=tuple(reversed(data.params.class_names))))
    with pytest.raises(UserError, match=r"generator\.safetensors was trained on the classes"):
        load_generator(swapped.params, trainer.params, path, CPU)


def test_a_generator_that_diverged_draws_no_image() -> None:
    network = Generator(im_channels=1, num_classes=2, widths=(16, 8)).eval()
    with torch.no_grad():
        network.first.weight.fill_(float("nan"))
    with pytest.raises(Diverged, match="the GAN draws values that are not finite"):
        draw_gan_images(network, [ImageRequest(0, 0)], seed=0, device=CPU)


def test_an_image_is_the_generator_s_of_the_noise_at_its_address_and_its_label() -> None:
    torch.manual_seed(3)
    network = Generator(im_channels=1, num_classes=2, widths=(32, 16, 8)).eval()
    requests = [ImageRequest(0, 0), ImageRequest(1, 0), ImageRequest(1, 5), ImageRequest(1, 0, noise_label=0)]
    drawn = draw_gan_images(network, requests, seed=11, device=CPU)
    addresses = [(0, 0), (1, 0), (1, 5), (0, 0)]
    noise = torch.stack([normal(generator(11, "gan sample", *address), (LATENT_DIM,)) for address in addresses])
    with torch.no_grad():
        expected = to_uint8(network(noise, torch.tensor([0, 1, 1, 1])).permute(0, 2, 3, 1))
    assert drawn.dtype == np.uint8 and drawn.shape == (4, 16, 16, 1) and np.array_equal(drawn, expected)
    apart = [np.abs(expected[i].astype(int) - expected[j]).max() for i in range(4) for j in range(i)]
    assert min(apart) > 2  # else a wrong address would not be noticed


@pytest.mark.parametrize("bad", ["critic", "generator"])
def test_a_step_that_is_not_finite_moves_nothing(make_trainer: Callable[..., GanTrainer], bad: str) -> None:
    trainer = make_trainer()
    assert trainer.train_step(0) is not None
    network = trainer.critic.psi if bad == "critic" else next(trainer.generator.children())
    before = next(network.parameters()).detach().clone()
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    tensors = {name: value.clone() for name, value in trainer.state.to_checkpoint()[0].items()}
    updates = trainer.ema.num_updates
    assert trainer.train_step(4) is None and trainer.ema.num_updates == updates
    for name, value in trainer.state.to_checkpoint()[0].items():
        assert torch.equal(value.nan_to_num(), tensors[name].nan_to_num()), name
    with torch.no_grad():
        next(network.parameters()).copy_(before)
    assert trainer.train_step(5) is not None


def test_brightness_is_changed_by_no_more_than_the_images_differ_in_it() -> None:
    """A contrast that is a tenth gives a change that is a tenth; images far apart in the set are seen."""
    for factor in (1.0, 0.1):
        images = [torch.full((1, 8, 8), factor * level) for level in (-1.0, 1.0) for _ in range(400)]
        bank = ImageBank([(image, 0) for image in images])
        assert measure_contrast(bank, len(images)) == pytest.approx(factor, rel=1e-2)
