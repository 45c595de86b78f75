"""The networks that ours is measured against: the same function, or the same cost. Costs are counted, never timed."""

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from config.load import load_config
from dataset.order import generator, normal
from models.layers import SelfAttention
from models.unet import count_parameters
from tools.benchmark import rivals
from tools.diffusion.estimate import count_step_flops
from tools.diffusion.networks import make_unet
from tools.diffusion.training import latent_shape

ROOT = Path(__file__).parents[2]


def test_materialised_attention_is_the_same_function() -> None:
    torch.manual_seed(0)
    block = SelfAttention(16, num_heads=4, norm_groups=4)
    torch.nn.init.normal_(block.to_out.weight, std=0.3)
    x = normal(generator(0, "test"), (2, 16, 8, 8))
    ours, theirs = block(x), rivals.materialised_self_attention(block, x)
    assert (ours - x).abs().max() > 0.01
    assert (ours - theirs).abs().max() < 1e-5


def test_the_rival_of_the_small_model_costs_as_much() -> None:
    config = load_config(str(ROOT / "config/demo.yaml"))
    wanted = count_step_flops(config.dataset_params, config.unet_params, 2)
    network, flops = rivals.unconditional_unet(config.dataset_params, config.unet_params, flops=wanted, batch_size=2, seed=1)
    assert flops == pytest.approx(wanted, rel=0.25)
    wider = rivals.unconditional_unet(config.dataset_params, config.unet_params, flops=4 * wanted, batch_size=2, seed=1)[1]
    assert wider == pytest.approx(4 * wanted, rel=0.25)
    assert network.down_blocks[-1].attentions[0].heads in (config.unet_params.num_heads, config.unet_params.num_heads - 1)
    x = normal(generator(0, "test"), (2, *latent_shape(config.dataset_params)))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        assert rivals.run_plain(network, x, torch.tensor([3, 4])).shape == x.shape
    assert counter.get_total_flops() * 3 == pytest.approx(flops, rel=0.1)  # attention is counted apart on the CPU


def test_the_rival_of_the_papers_model_has_its_channels_layers_and_levels() -> None:
    config = load_config(str(ROOT / "config/embryo.yaml"))
    with torch.device("meta"):
        network, ours = rivals.conditional_unet(config.dataset_params, config.unet_params), make_unet(config)
    assert tuple(network.config.block_out_channels) == config.unet_params.channels
    assert network.config.layers_per_block == config.unet_params.num_layers
    assert network.down_blocks[0].attentions[0].transformer_blocks[0].attn1.heads == config.unet_params.num_heads
    flops = rivals.count_rival_flops(lambda x, t: rivals.run_conditional(network, x, t), config.dataset_params, 1)
    # it has feed-forward layers and a third layer on the way up
    assert flops > count_step_flops(config.dataset_params, config.unet_params, 1)
    assert count_parameters(network) > count_parameters(ours)


def test_our_step_costs_the_operations_that_it_did() -> None:
    """A guard against regressions that no busy machine can blur: operations counted for the shipped configs."""
    for name, batch, flops in (("embryo", 1, 534.29e9), ("demo", 16, 19.94e9)):  # fewer would mean that some are not counted
        config = load_config(str(ROOT / f"config/{name}.yaml"))
        assert count_step_flops(config.dataset_params, config.unet_params, batch) == pytest.approx(flops, rel=1e-3)
