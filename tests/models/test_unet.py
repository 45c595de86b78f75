"""The UNet: its size, what it is at the start, what its conditions do, and that the batch does not matter."""

import dataclasses

import pytest
import torch
from torch import nn

from models.blocks import ResidualBlock
from models.discriminator import PatchDiscriminator, discriminator_loss, extract_grain, generator_loss, texture_loss
from models.layers import CrossAttention, Downsample, OrdinalEmbedding, TimeEmbedding, Upsample
from models.unet import ConditionShape, UNet, UNetShape, count_parameters

TINY = UNetShape(
    latent_channels=4, num_classes=3, channels=(8, 16), num_layers=2, attention=(False, True), num_heads=2,
    time_embedding_dim=16, context_dim=12, norm_groups=4, dropout=0.0, condition_types=("class",),
)
CONDITIONS = [("class",), ("context_class",), ("class", "context_class")]


def tiny_unet(*, perturb: bool = True, **changes: object) -> UNet:
    """A tiny network in eval mode, with weights off their zero initialisation where asked."""
    torch.manual_seed(0)
    network = UNet(dataclasses.replace(TINY, **changes)).eval()
    if perturb:
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def inputs(batch: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(1)
    return torch.randn(batch, 4, 8, 8, generator=rng), torch.arange(batch) * 200, torch.arange(batch) % 4


@pytest.mark.parametrize(("condition_types", "millions"), [
    (("class",), 59.06), (("context_class",), 67.64), (("class", "context_class"), 67.64),
])
def test_size_of_the_network_of_the_paper(condition_types: tuple[str, ...], millions: float) -> None:
    """With cross-attention it lies at the 65 M of the paper's network; `class` alone needs none and is smaller."""
    shape = UNetShape(latent_channels=4, num_classes=2, channels=(256, 320, 384, 512), num_layers=2, attention=(True,) * 4,
                      num_heads=8, time_embedding_dim=512, context_dim=512, norm_groups=32, dropout=0.0,
                      condition_types=condition_types)
    with torch.device("meta"):
        count = count_parameters(UNet(shape))
    assert count / 1e6 == pytest.approx(millions, abs=0.01)


@pytest.mark.parametrize("condition_types", CONDITIONS)
def test_output_is_zero_at_the_start(condition_types: tuple[str, ...]) -> None:
    output = tiny_unet(perturb=False, condition_types=condition_types)(*inputs())
    assert output.shape == (4, 4, 8, 8) and not output.any()


@pytest.mark.parametrize("condition_types", CONDITIONS)
def test_rows_do_not_depend_on_the_batch_they_are_in(condition_types: tuple[str, ...]) -> None:
    network = tiny_unet(condition_types=condition_types)
    x, timesteps, labels = inputs()
    with torch.no_grad():
        together = network(x, timesteps, labels)
        for i in range(4):
            alone = network(x[i:i + 1], timesteps[i:i + 1], labels[i:i + 1])
            torch.testing.assert_close(together[i:i + 1], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("condition_types", CONDITIONS)
def test_label_timestep_and_latents_each_change_the_output(condition_types: tuple[str, ...]) -> None:
    network = tiny_unet(condition_types=condition_types)
    x, timesteps, _ = (value[:1] for value in inputs())
    with torch.no_grad():
        by_label = [network(x, timesteps, torch.tensor([label])) for label in range(4)]  # the last is the null label
        for i in range(4):
            for j in range(i):
                assert (by_label[i] - by_label[j]).abs().max() > 1e-4
        assert (network(x, timesteps + 500, torch.tensor([0])) - by_label[0]).abs().max() > 1e-4
        assert (network(x + 0.1, timesteps, torch.tensor([0])) - by_label[0]).abs().max() > 1e-4


@pytest.mark.parametrize("condition_types", CONDITIONS)
def test_every_parameter_takes_part_in_training(condition_types: tuple[str, ...]) -> None:
    """Of a cross-attention onto one token, queries, keys and norm have no effect: a softmax over one key is 1."""
    network = tiny_unet(condition_types=condition_types).train()
    network(*inputs()).square().sum().backward()
    idle = {name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()}
    assert all("cross_attention.to_q" in name or "cross_attention.to_k" in name or "cross_attention.norm" in name
               for name in idle)
    assert bool(idle) == ("context_class" in condition_types)


def test_the_null_label_is_a_row_of_its_own() -> None:
    network = tiny_unet(perturb=False, condition_types=("class", "context_class"))
    assert network.null_label == 3
    for table in (network.class_embedding, network.context_embedding):
        assert isinstance(table, nn.Embedding) and table.num_embeddings == 4
        assert all(not torch.equal(table.weight[3], table.weight[label]) for label in range(3))
        assert table.weight.std().item() == pytest.approx(0.5, rel=0.3)  # as loud as the time embedding
    with pytest.raises(IndexError):
        network(*inputs()[:2], torch.tensor([0, 1, 2, 4]))


FURTHER = (ConditionShape(3), ConditionShape(4, ordinal=True), ConditionShape(2, has_null=False))
LEVELS = torch.tensor([[0, 1, 0], [2, 4, 1], [3, 0, 0], [1, 3, 1]])  # 3 and 4 are nulls


@pytest.mark.parametrize("condition_types", CONDITIONS)
def test_every_level_of_every_condition_changes_the_output(condition_types: tuple[str, ...]) -> None:
    network = tiny_unet(condition_types=condition_types, conditions=FURTHER)
    x, timesteps, labels = (value[:1] for value in inputs())
    with torch.no_grad():
        for column, num_rows in enumerate((4, 5, 2)):
            outputs = []
            for level in range(num_rows):
                levels = LEVELS[:1].clone()
                levels[0, column] = level
                outputs.append(network(x, timesteps, labels, levels))
            for i in range(num_rows):
                for j in range(i):
                    assert (outputs[i] - outputs[j]).abs().max() > 1e-4, (column, i, j)
        with pytest.raises(IndexError):
            network(x, timesteps, labels, torch.tensor([[0, 0, 2]]))  # the last condition has no null


@pytest.mark.parametrize("condition_types", CONDITIONS)
def test_conditions_do_not_depend_on_the_batch_and_all_their_parameters_train(condition_types: tuple[str, ...]) -> None:
    network = tiny_unet(condition_types=condition_types, conditions=FURTHER)
    x, timesteps, labels = inputs()
    together = network(x, timesteps, labels, LEVELS)
    for i in range(4):
        alone = network(x[i:i + 1], timesteps[i:i + 1], labels[i:i + 1], LEVELS[i:i + 1])
        torch.testing.assert_close(together[i:i + 1], alone, atol=1e-5, rtol=0)
    together.square().sum().backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle  # with several tokens queries and keys have work to do


def test_several_conditions_are_several_tokens_and_one_is_none_more_than_before() -> None:
    shapes: list[tuple[int, ...]] = []

    def watch(network: UNet) -> UNet:
        for module in network.modules():
            if isinstance(module, CrossAttention):
                module.register_forward_pre_hook(lambda _, arguments: shapes.append(tuple(arguments[1].shape)))
        return network

    watch(tiny_unet(condition_types=("context_class",), conditions=FURTHER))(*inputs(), LEVELS)
    assert set(shapes) == {(4, 4, 12)}
    shapes.clear()
    plain = watch(tiny_unet(condition_types=("context_class",)))
    assert torch.equal(plain(*inputs()), plain(*inputs(), torch.zeros(4, 0, dtype=torch.int64)))
    assert set(shapes) == {(4, 1, 12)}
    assert not [name for name in plain.state_dict() if "condition" in name]


def test_a_network_of_conditions_is_not_called_without_them() -> None:
    with pytest.raises(ValueError, match="zip"):
        tiny_unet(conditions=FURTHER)(*inputs())


def test_ordered_levels_are_a_walk_whose_steps_neighbours_share() -> None:
    torch.manual_seed(0)
    embedding = OrdinalEmbedding(5, 400, std=0.5)
    rows = embedding(torch.arange(6)).detach()
    torch.testing.assert_close(rows[3], rows[0] + embedding.steps[:3].sum(dim=0))
    distances = torch.cdist(rows[:5], rows[:5])
    for i in range(5):
        for j in range(5):
            assert distances[i, j] == pytest.approx(abs(i - j) ** 0.5 * 400**0.5 * 0.5, rel=0.15)  # a random walk
    assert rows.std(dim=1).min() > 0.4  # none is quieter than a row of a table
    assert torch.equal(rows[5], embedding.null[0].detach())
    embedding(torch.tensor([2])).sum().backward()
    assert embedding.steps.grad.any(dim=1).tolist() == [True, True, False, False]
    assert embedding.null.grad is None or not embedding.null.grad.any()


@pytest.mark.parametrize("channels", [(8,), (8, 16), (8, 8, 16)])
def test_any_number_of_levels_keeps_the_shape(channels: tuple[int, ...]) -> None:
    network = tiny_unet(channels=channels, attention=(True,) * len(channels), condition_types=("class", "context_class"))
    assert network(*inputs()).shape == (4, 4, 8, 8)


def test_bf16_autocast_reaches_the_layers() -> None:
    network = tiny_unet(condition_types=("class", "context_class"))
    seen: dict[str, torch.dtype] = {}

    def watch(name: str) -> None:
        network.get_submodule(name).register_forward_hook(lambda _, __, output: seen.update({name: output.dtype}))

    for name in ("conv_in", "middle_blocks.0.residual.conv_out", "middle_blocks.0.self_attention.to_qkv",
                 "middle_blocks.0.cross_attention.to_v", "conv_out"):
        watch(name)
    with torch.no_grad():
        exact = network(*inputs())
        assert set(seen.values()) == {torch.float32}
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = network(*inputs())
    assert len(seen) == 5 and set(seen.values()) == {torch.bfloat16}
    assert (rounded.float() - exact).abs().max() < 0.1 * exact.abs().max()


def test_dropout_acts_in_training_only() -> None:
    network = tiny_unet(dropout=0.5)
    with torch.no_grad():
        assert torch.equal(network(*inputs()), network(*inputs()))
        network.train()
        assert not torch.equal(network(*inputs()), network(*inputs()))


def test_a_fresh_residual_block_is_the_identity() -> None:
    torch.manual_seed(0)
    block = ResidualBlock(8, 8, embedding_dim=6, norm_groups=4, dropout=0.3)
    x, embedding = torch.randn(2, 8, 5, 5), torch.randn(2, 6)
    assert torch.equal(block(x, embedding), x)
    wider = ResidualBlock(8, 12, embedding_dim=6, norm_groups=4, dropout=0.0)
    assert torch.equal(wider(x, embedding), wider.skip(x))


def test_the_embedding_scales_and_shifts_the_second_norm() -> None:
    torch.manual_seed(0)
    block = ResidualBlock(8, 8, embedding_dim=6, norm_groups=4, dropout=0.0)
    nn.init.normal_(block.conv_out.weight)
    x, embedding = torch.randn(2, 8, 5, 5), torch.randn(2, 6)
    scale, shift = block.modulation(nn.functional.silu(embedding)).chunk(2, dim=1)
    hidden = block.norm_out(block.conv_in(nn.functional.silu(block.norm_in(x))))
    hidden = hidden * (1 + scale[:, :, None, None]) + shift[:, :, None, None]
    torch.testing.assert_close(block(x, embedding), x + block.conv_out(nn.functional.silu(hidden)))


def test_time_embedding_begins_with_the_sinusoids_of_the_timestep() -> None:
    embedding = TimeEmbedding(8)
    seen: list[torch.Tensor] = []
    embedding.mlp.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    embedding(torch.tensor([0, 7, 999]))
    timesteps = torch.tensor([0.0, 7.0, 999.0], dtype=torch.float64)
    periods = 10_000.0 ** (torch.arange(4, dtype=torch.float64) / 4)
    angles = timesteps[:, None] / periods
    torch.testing.assert_close(seen[0].double(), torch.cat([angles.cos(), angles.sin()], dim=1), atol=1e-4, rtol=0)


def test_resampling_halves_and_doubles() -> None:
    x = torch.randn(2, 4, 6, 6)
    assert Downsample(4, 5)(x).shape == (2, 5, 3, 3) and Upsample(4, 5)(x).shape == (2, 5, 12, 12)
    upsample = Upsample(1, 1)
    with torch.no_grad():
        upsample.conv.weight.zero_()[0, 0, 1, 1] = 1
        upsample.conv.bias.zero_()
    torch.testing.assert_close(upsample(x[:, :1]), x[:, :1].repeat_interleave(2, -1).repeat_interleave(2, -2))


def test_discriminator_judges_patches_and_its_losses_are_hinges() -> None:
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(1, width=8)
    logits, maps = discriminator(torch.randn(2, 1, 32, 32))
    assert logits.shape == (2, 1, 8, 8) and [tuple(one.shape[1:]) for one in maps] == [(8, 32, 32), (16, 16, 16), (32, 8, 8)]
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.0])
    assert discriminator_loss(real, fake).item() == pytest.approx(0.5 * ((0 + 0.5) / 2 + (0 + 1) / 2))
    assert generator_loss(fake).item() == pytest.approx(1.5)
    images = torch.randn(3, 1, 32, 32)
    torch.testing.assert_close(discriminator(images)[0][:1], discriminator(images[:1])[0], atol=1e-6, rtol=1e-5)


def test_grain_is_what_a_slight_blur_takes_away() -> None:
    ramp = torch.linspace(-1, 1, 16).expand(1, 2, 16, 16)
    assert extract_grain(ramp)[..., 2:-2].abs().max() < 1e-6
    noise = torch.randn(4, 2, 64, 64)
    kept = 1 - 2 * (36 / 256) ** 1 + (70 / 256) ** 2  # of white noise: 1 - 2 k(0) + the sum of the squares of k
    assert extract_grain(noise).var().item() == pytest.approx(kept, rel=0.05)


def test_discriminator_sees_grain_on_its_own_scale() -> None:
    torch.manual_seed(0)
    plain, scaled = PatchDiscriminator(1, width=8), PatchDiscriminator(1, width=8, grain_std=0.01)
    scaled.load_state_dict(plain.state_dict() | {"grain_std": torch.tensor(0.01)})
    smooth = torch.zeros(1, 1, 32, 32)
    grainy = smooth + 0.01 * torch.randn(1, 1, 32, 32)
    shifts = [(network(grainy)[0] - network(smooth)[0]).abs().mean().item() for network in (plain, scaled)]
    assert shifts[1] > 5 * shifts[0]


def test_texture_loss_ignores_places_and_sees_strength() -> None:
    torch.manual_seed(0)
    maps = [torch.randn(2, 3, 16, 16), torch.randn(2, 5, 8, 8)]
    moved = [torch.roll(one, (3, 2), dims=(2, 3)) for one in maps]
    assert texture_loss(moved, maps).item() == pytest.approx(0, abs=1e-6)
    assert texture_loss([2 * one for one in maps], maps).item() > 0.9
