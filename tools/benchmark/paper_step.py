"""A training step of the paper's UNet at batch 1: ours, the same with all attention maps formed, and diffusers'.

Forming all maps also means that attention to a single context token, whose map is all ones, is computed.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from config.load import load_config
from config.schema import Config
from dataset.order import generator, normal
from models.unet import count_parameters
from tools.benchmark import rivals
from tools.benchmark.findings import Findings, Ratio
from tools.benchmark.limit import MATMUL
from tools.benchmark.operators import Operator, find_operators, measure_operator
from tools.benchmark.workers import BenchmarkSetup, Numbers, Repeat, interleave, timed
from tools.diffusion.estimate import BACKWARD_FACTOR, count_step_flops
from tools.diffusion.networks import make_unet
from tools.diffusion.training import latent_shape, make_optimizer

OURS, MATERIALISED, DIFFUSERS = "paper_step/ours", "paper_step/materialised", "paper_step/diffusers"
_TOLERANCE = 1e-5  # largest difference of the two outputs, whose values are of order 1


def measure(setup: BenchmarkSetup) -> Findings:
    """Seconds, memory and rates of the three, and the rate of matrix products between them."""
    results = interleave([MATMUL, OURS, MATERIALISED, DIFFUSERS], setup, repeats=1 if setup.quick else 3)
    config = load_config(setup.paper_config)
    operators = [(operator, measure_operator(operator, torch.device("cpu"), torch.float32))
                 for operator in find_operators(config.dataset_params, config.unet_params, 1)]
    found = conclude(results, operators, config=setup.paper_config)
    folder = Path(setup.scratch)
    outputs = [np.load(folder / f"paper_step_{name}.npy", allow_pickle=False) for name in ("ours", "materialised")]
    found.expect_equal("outputs of ours and of materialised attention", float(np.abs(outputs[0] - outputs[1]).max()),
                       tolerance=_TOLERANCE)
    return found


def conclude(results: dict[str, Numbers], operators: Sequence[tuple[Operator, float]], *, config: str) -> Findings:
    """The findings of the measured numbers of each variant and of the FLOP/s that each operator reaches by itself."""
    matmul_rate = results[MATMUL]["flops_per_second"]
    ours, materialised, theirs = (results[name] for name in (OURS, MATERIALISED, DIFFUSERS))
    flops = ours["flops"]
    found = Findings(f"1. training step at batch 1, {config}, {ours['parameters'] / 1e6:.1f} M parameters, "
                     f"{torch.get_num_threads()} threads")
    for name, result in (("ours", ours), ("all attention maps formed", materialised),
                         ("diffusers' UNet2DConditionModel", theirs)):
        count = result["flops"]
        found.lines.append(f"{name:<34}{result['seconds']:>8.2f} s{result['peak_bytes'] / 2**30:>8.2f} GiB"
                           f"{count / 1e9:>8.0f} GFLOP{count / result['seconds'] / 1e9:>8.0f} GFLOP/s")
    bound = materialised["seconds"] * matmul_rate / flops
    found.lines.append(f"matrix products at {matmul_rate / 1e9:.0f} GFLOP/s: at all of it ours were {bound:.1f} times as "
                       "fast as with the maps formed")
    seconds = sum(BACKWARD_FACTOR * operator.kind_flops / rate for operator, rate in operators)
    for operator, rate in operators:
        found.lines.append(f"{operator.kind:<14} the heaviest alone, forward and backward: {rate / 1e9:.0f} GFLOP/s "
                           f"({rate / matmul_rate:.0%}); the kind is {BACKWARD_FACTOR * operator.kind_flops / flops:.0%} of "
                           "a step's FLOPs")
    found.lines.append(f"a step, had all operators their kind's rate, without norms, activations, update: {seconds:.2f} s")
    found.ratios = [
        Ratio("paper's step: speed against all attention maps formed", materialised["seconds"] / ours["seconds"], 6.0),
        Ratio("paper's step: peak memory against it", ours["peak_bytes"] / materialised["peak_bytes"], 0.45, at_most=True),
        Ratio("paper's step: FLOP/s against diffusers",
              (flops / ours["seconds"]) / (theirs["flops"] / theirs["seconds"]), 1.15),
        Ratio("paper's step: share of the matrix-product rate", flops / ours["seconds"] / matmul_rate, 0.6, percent=True),
    ]
    found.numbers = {"seconds": ours["seconds"], "seconds_of_operators": seconds, "peak_bytes": ours["peak_bytes"],
                     "flops": flops, "bound": bound, "parameters": ours["parameters"],
                     "matmul_flops": matmul_rate, "variants": results}
    return found


def prepare_ours(setup: BenchmarkSetup) -> Repeat:
    """Ours as it is."""
    return _prepare_unet(setup, "ours")


def prepare_materialised(setup: BenchmarkSetup) -> Repeat:
    """The same weights, all attention maps formed."""
    rivals.materialise_attention()
    return _prepare_unet(setup, "materialised")


def prepare_diffusers(setup: BenchmarkSetup) -> Repeat:
    """diffusers' network of equal channels, layers and attention levels, as a plain script would train it."""
    config = load_config(setup.paper_config)
    with torch.device("meta"):
        shell = rivals.conditional_unet(config.dataset_params, config.unet_params)
    flops = rivals.count_rival_flops(lambda x, t: rivals.run_conditional(shell, x, t), config.dataset_params, 1)
    torch.manual_seed(config.train_params.seed)
    network = rivals.conditional_unet(config.dataset_params, config.unet_params)
    step = _make_step(torch.optim.AdamW(network.parameters()), config,
                      lambda x, t: rivals.run_conditional(network, x, t))
    step()
    return lambda: {"seconds": timed(step), "flops": flops, "parameters": count_parameters(network)}


def _prepare_unet(setup: BenchmarkSetup, name: str) -> Repeat:
    config = load_config(setup.paper_config)
    network = make_unet(config)
    for parameter in network.parameters():  # the zero-initialised layers would hide any difference
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    labels, conditions = torch.tensor([1]), torch.zeros(1, len(network.shape.conditions), dtype=torch.int64)
    step = _make_step(make_optimizer(network, config.train_params), config, lambda x, t: network(x, t, labels, conditions))
    np.save(Path(setup.scratch) / f"paper_step_{name}.npy", step().numpy())
    flops = count_step_flops(config.dataset_params, config.unet_params, 1)  # in this process attention may be another
    return lambda: {"seconds": timed(step), "flops": flops, "parameters": count_parameters(network)}


def _make_step(
    optimizer: torch.optim.Optimizer, config: Config, run: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
) -> Callable[[], torch.Tensor]:
    """A whole optimizer step at batch 1 that returns the prediction it started from."""
    x, timesteps = normal(generator(0, "benchmark"), (1, *latent_shape(config.dataset_params))), torch.tensor([500])

    def step() -> torch.Tensor:
        output = run(x, timesteps)
        (output - x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return output.detach()

    return step


VARIANTS = {OURS: prepare_ours, MATERIALISED: prepare_materialised, DIFFUSERS: prepare_diffusers}
