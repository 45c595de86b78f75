"""A training step of the paper's UNet on a GPU in bf16: rate, memory, and what each kind of operator could reach."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from config.load import load_config
from config.schema import Config
from models.layers import SelfAttention
from models.unet import UNet
from tools.benchmarks.demo_step import Training
from tools.benchmarks.findings import Findings, Ratio
from tools.benchmarks.workers import Numbers, Repeat, Setup, interleave, timed
from tools.runtime.estimate import count_step_flops, measure_matmul_rate
from tools.runtime.training import latent_shape, unet_shape

_MODES = ("off", "default", "reduce-overhead")  # of train_params.compile_mode
_BATCHES = (1, 24, 48)
_MEMORY_BATCH = 24
_STEPS = 10  # in one repeat
_PASSES = 3  # a backward pass does the work of two forward ones
_MATMUL_SIDE = 8192  # large enough that launching a product costs nothing beside it
_GIB = 2**30


@dataclass(frozen=True)
class Operator:
    """The heaviest of its kind in one forward pass: how to build it, its input, its FLOPs, and the whole kind's FLOPs."""

    kind: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    flops: float
    kind_flops: float


class _Attention(nn.Module):
    """Attention of (B, heads, N, d) to itself."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(x, x, x)


def measure(setup: Setup) -> Findings:
    """Every way of compiling at every batch, beside the rate of matrix products and of the heaviest operators."""
    found = Findings(f"7. training step on a GPU, bf16, {setup.paper_config}")
    if not torch.cuda.is_available():
        found.lines.append("not measured: no GPU is at hand")
        return found
    config, device = load_config(setup.paper_config), torch.device("cuda")
    results: dict[str, Numbers] = {}
    for name in VARIANTS:  # one after the other: together they would not fit the GPU
        results |= interleave([name], setup, repeats=1 if setup.quick else 3)
    limit = measure_matmul_rate(device, seconds=2.0, dtype=torch.bfloat16, side=_MATMUL_SIDE)
    found.lines.append(f"{torch.cuda.get_device_name()}: matrix products of side {_MATMUL_SIDE} in bf16 at "
                       f"{limit / 1e12:.0f} TFLOP/s")
    best: dict[int, float] = {}
    for batch in _BATCHES:
        flops = count_step_flops(config, batch)
        for mode in _MODES:
            numbers = results[_name(mode, batch)]
            rate = flops / numbers["seconds"]
            best[batch] = max(best.get(batch, 0.0), rate / limit)
            found.lines.append(f"batch {batch:>3}, compile_mode {mode:<16}{batch / numbers['seconds']:>8.1f} images/s"
                               f"{rate / 1e12:>8.1f} TFLOP/s ({rate / limit:.1%}){numbers['bytes'] / _GIB:>8.1f} GiB")
    for operator in find_operators(config, _MEMORY_BATCH):
        rate = measure_operator(operator, device, torch.bfloat16)
        share = _PASSES * operator.kind_flops / count_step_flops(config, _MEMORY_BATCH)
        found.lines.append(f"{operator.kind:<14} alone, forward and backward: {rate / 1e12:.1f} TFLOP/s "
                           f"({rate / limit:.1%}), {share:.1%} of a step's FLOPs")
    memory = min(results[_name(mode, _MEMORY_BATCH)]["bytes"] for mode in _MODES) / _GIB
    found.ratios = [Ratio(f"GPU: share of the matrix-product rate at batch {batch}", best[batch], 0.35, percent=True)
                    for batch in _BATCHES if batch >= _MEMORY_BATCH]
    found.ratios.append(Ratio(f"GPU: GiB at batch {_MEMORY_BATCH}", memory, 24e9 / _GIB, at_most=True))
    found.numbers = {"device": torch.cuda.get_device_name(), "matmul_flops": limit, "variants": results}
    return found


def prepare(setup: Setup, *, mode: str, batch: int) -> Repeat:
    """Seconds of a step and the GPU's largest memory, by the training's own code."""
    config = load_config(setup.paper_config)
    params = replace(config.train_params, ldm_batch_size=batch, gradient_accumulation_steps=1, mixed_precision="bf16",
                     compile_mode=mode)
    training = Training(replace(config, train_params=params), cpu=False)

    def steps(count: int) -> None:
        for _ in range(count):
            training.step()
        _wait(training.device)

    steps(3)  # the first one compiles, the next record graphs
    return lambda: {"seconds": timed(lambda: steps(_STEPS)) / _STEPS, "bytes": _most_bytes(training.device)}


def find_operators(config: Config, batch: int) -> list[Operator]:
    """The heaviest convolution, linear layer and self-attention of the network."""
    seen: dict[str, list[Operator]] = {"convolution": [], "linear layer": [], "attention": []}

    def note(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        x = inputs[0]
        if isinstance(module, nn.Conv2d):
            flops = 2.0 * output.numel() * module.in_channels * module.kernel_size[0] * module.kernel_size[1]
            build = partial(nn.Conv2d, module.in_channels, module.out_channels, module.kernel_size, stride=module.stride,
                            padding=module.padding)
            seen["convolution"].append(Operator("convolution", build, tuple(x.shape), flops, 0))
        elif isinstance(module, nn.Linear):
            build = partial(nn.Linear, module.in_features, module.out_features)
            flops = 2.0 * x.numel() * module.out_features
            seen["linear layer"].append(Operator("linear layer", build, tuple(x.shape), flops, 0))
        elif isinstance(module, SelfAttention):
            size, channels_all = x.shape[2] * x.shape[3], x.shape[1]
            shape = batch, module.num_heads, size, channels_all // module.num_heads
            seen["attention"].append(Operator("attention", _Attention, shape, 4.0 * batch * size**2 * channels_all, 0))

    with torch.device("meta"):
        network = UNet(unet_shape(config))
        for module in network.modules():
            module.register_forward_hook(note)
        labels = torch.empty(batch, dtype=torch.int64)
        conditions = torch.empty(batch, len(network.shape.conditions), dtype=torch.int64)
        network(torch.empty(batch, *latent_shape(config)), labels, labels, conditions)
    return [replace(max(found, key=lambda operator: operator.flops), kind_flops=sum(operator.flops for operator in found))
            for found in seen.values() if found]


def measure_operator(operator: Operator, device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the operator's forward and backward pass by itself."""
    module = operator.build().to(device, dtype)
    x = torch.randn(operator.shape, device=device, dtype=dtype)
    if isinstance(module, nn.Conv2d):
        module, x = module.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    x.requires_grad_(True)
    gradient = torch.randn_like(module(x))

    def passes(count: int) -> None:
        for _ in range(count):
            module(x).backward(gradient)
        _wait(device)

    passes(2)
    return _STEPS * _PASSES * operator.flops / timed(lambda: passes(_STEPS))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _most_bytes(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def _name(mode: str, batch: int) -> str:
    return f"gpu_step/{mode}_{batch}"


VARIANTS = {_name(mode, batch): partial(prepare, mode=mode, batch=batch) for mode in _MODES for batch in _BATCHES}
