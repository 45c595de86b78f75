"""Time and memory of a training step of the paper's UNet, beside the same network with materialised attention maps.

Each variant runs in a process of its own, so that its peak memory is its own; both have the same weights and inputs,
and their outputs must agree.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from config.errors import UserError
from config.load import load_config
from dataset.order import generator, normal
from dataset.storage import write_json
from models.layers import CrossAttention, SelfAttention
from models.unet import count_parameters
from tools.runtime.command import run_command
from tools.runtime.estimate import count_step_flops, measure_matmul_rate
from tools.runtime.training import latent_shape, make_unet

_CONFIG = "config/embryo.yaml"
_VARIANTS = ("scaled_dot_product", "materialised")
_TOLERANCE = 1e-5  # largest difference of the two outputs, whose values are of order 1


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.benchmark", description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--quick", action="store_true", help="one counted step a variant instead of three")
    parser.add_argument("--config", default=_CONFIG, help=f"whose UNet (default {_CONFIG})")
    parser.add_argument("--variant", choices=_VARIANTS, help=argparse.SUPPRESS)  # the child process
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    steps = 1 if arguments.quick else 3
    if arguments.variant:
        measure_variant(arguments.config, arguments.variant, steps=steps, scratch=arguments.scratch)
        return
    figures = compare(arguments.config, quick=arguments.quick)
    print(format_figures(figures))
    if arguments.json:
        write_json(arguments.json, figures)
    if figures["largest_difference"] > _TOLERANCE:
        raise UserError(f"the two variants differ by {figures['largest_difference']:.2g}, more than {_TOLERANCE:g}")


def compare(config: str, *, quick: bool) -> dict[str, Any]:
    """Run both variants one after the other and put their figures side by side."""
    with tempfile.TemporaryDirectory() as folder:
        results = {}
        for variant in _VARIANTS:
            command = [sys.executable, "-m", "tools.benchmark", "--config", config, "--variant", variant,
                       "--scratch", folder, *(["--quick"] if quick else [])]
            finished = subprocess.run(command, capture_output=True, text=True, check=False)
            if finished.returncode != 0:
                raise UserError(f"the variant {variant} failed: {finished.stderr.strip().splitlines()[-1:]}")
            results[variant] = json.loads(finished.stdout.splitlines()[-1])
        outputs = [np.load(Path(folder) / f"{variant}.npy", allow_pickle=False) for variant in _VARIANTS]
    ours, theirs = (results[variant] for variant in _VARIANTS)
    rate = measure_matmul_rate(torch.device("cpu"), seconds=2.0)
    step_flops = count_step_flops(load_config(config), 1)
    return {
        "config": config, "parameters": ours["parameters"], "torch": torch.__version__,
        "threads": torch.get_num_threads(), "matmul_gflops": rate / 1e9, "step_gflop": step_flops / 1e9,
        "attained_share": step_flops / ours["seconds"] / rate,
        "largest_speed_ratio": theirs["seconds"] * rate / step_flops,  # were every operation as fast as a matrix product
        "variants": results, "largest_difference": float(np.abs(outputs[0] - outputs[1]).max()),
        "speed_ratio": theirs["seconds"] / ours["seconds"], "memory_ratio": ours["peak_bytes"] / theirs["peak_bytes"],
    }


def measure_variant(config_path: str, variant: str, *, steps: int, scratch: Path) -> None:
    """Train for one uncounted and `steps` counted steps at batch 1; print the figures, save the first output."""
    config = load_config(config_path)
    if variant == "materialised":
        SelfAttention.forward = materialised_self_attention
        CrossAttention.forward = CrossAttention.attend_to_all
    network = make_unet(config)
    for parameter in network.parameters():  # the zero-initialised layers would hide any difference
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    x = normal(generator(0, "benchmark"), (1, *latent_shape(config)))
    timesteps, labels = torch.tensor([500]), torch.tensor([1])
    conditions = torch.zeros(1, len(network.shape.conditions), dtype=torch.int64)
    seconds = []
    for step in range(steps + 1):
        started = time.perf_counter()
        output = network(x, timesteps, labels, conditions)
        (output - x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - started)
        if step == 0:
            np.save(scratch / f"{variant}.npy", output.detach().numpy())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
    print(json.dumps({"seconds": statistics.median(seconds[1:]), "peak_bytes": peak,
                      "parameters": count_parameters(network)}))


def materialised_self_attention(block: SelfAttention, x: torch.Tensor) -> torch.Tensor:
    """SelfAttention as torch.nn.MultiheadAttention computes it by default: the whole (B, heads, N, N) map is formed."""
    batch, channels, height, width = x.shape
    tokens = block.norm(x).flatten(2).permute(2, 0, 1)  # (N, B, C)
    attended, _ = F.multi_head_attention_forward(
        tokens, tokens, tokens, channels, block.num_heads, block.to_qkv.weight, block.to_qkv.bias, None, None, False, 0.0,
        block.to_out.weight, block.to_out.bias, training=block.training,
    )
    return x + attended.permute(1, 2, 0).reshape(batch, channels, height, width)


def format_figures(figures: dict[str, Any]) -> str:
    """The table for the screen."""
    lines = [
        f"training step at batch 1, {figures['config']}, {figures['parameters'] / 1e6:.1f} M parameters, "
        f"{figures['threads']} threads, matrix products at {figures['matmul_gflops']:.0f} GFLOP/s",
        f"{'attention':<22}{'seconds':>10}{'peak memory':>14}",
    ]
    for name, result in figures["variants"].items():
        lines.append(f"{name:<22}{result['seconds']:>10.2f}{result['peak_bytes'] / 2**30:>10.2f} GiB")
    lines.append(f"{figures['speed_ratio']:.1f} times faster, {figures['memory_ratio']:.2f} of the memory, outputs equal to "
                 f"{figures['largest_difference']:.1e}")
    lines.append(f"{figures['step_gflop']:.0f} GFLOP a step: ours runs at {figures['attained_share']:.0%} of the rate of "
                 f"matrix products; at all of it, {figures['largest_speed_ratio']:.1f} times as fast as the other")
    return "\n".join(lines)


if __name__ == "__main__":
    run_command(main, keep_freed_memory=False)  # what a plain process would take
