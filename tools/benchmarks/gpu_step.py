"""A training step of the paper's UNet on a GPU in bf16: rate, memory, and what each kind of operator could reach."""

from dataclasses import replace
from functools import partial

import torch

from config.load import load_config
from tools.benchmarks.demo_step import Training
from tools.benchmarks.findings import Findings, Ratio
from tools.benchmarks.operators import PASSES, find_operators, measure_operator, wait_for
from tools.benchmarks.workers import Numbers, Repeat, Setup, interleave, timed
from tools.runtime.estimate import count_step_flops, measure_matmul_rate

_MODES = ("off", "default", "reduce-overhead")  # of train_params.compile_mode
_BATCHES = (1, 24, 48)
_MEMORY_BATCH = 24
_STEPS = 10  # in one repeat
_MATMUL_SIDE = 8192  # large enough that launching a product costs nothing beside it
_GIB = 2**30


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
        share = PASSES * operator.kind_flops / count_step_flops(config, _MEMORY_BATCH)
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
        wait_for(training.device)

    steps(3)  # the first one compiles, the next record graphs
    return lambda: {"seconds": timed(lambda: steps(_STEPS)) / _STEPS, "bytes": _most_bytes(training.device)}


def _most_bytes(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def _name(mode: str, batch: int) -> str:
    return f"gpu_step/{mode}_{batch}"


VARIANTS = {_name(mode, batch): partial(prepare, mode=mode, batch=batch) for mode in _MODES for batch in _BATCHES}
