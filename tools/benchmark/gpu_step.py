"""A training step of the paper's UNet on a GPU in bf16: rate, memory, and what each kind of operator could reach."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch

from config.errors import UserError
from config.load import load_config
from tools.benchmark.demo_step import Training
from tools.benchmark.findings import Findings, Ratio
from tools.benchmark.operators import Operator, find_operators, measure_operator, wait_for
from tools.benchmark.workers import BenchmarkSetup, Numbers, Repeat, interleave, timed
from tools.diffusion.estimate import count_step_flops, measure_matmul_rate
from tools.diffusion.networks import make_unet

MATMUL = "gpu_step/matmul"
_MODES = ("off", "default", "reduce-overhead")  # of train_params.compile_mode
_BATCHES = (1, 24, 48)
_MEMORY_BATCH = 24
_STEPS = 10  # in one repeat
_GIB = 2**30


def measure(setup: BenchmarkSetup) -> Findings:
    """Every way of compiling at every batch, each beside the rate of matrix products, and the heaviest operators."""
    if not torch.cuda.is_available():
        return Findings(f"7. training step on a GPU, bf16, {setup.paper_config}", ["not measured: no GPU is at hand"])
    config, device = load_config(setup.paper_config), torch.device("cuda")
    results: dict[str, Numbers] = {}
    failures: dict[str, str] = {}
    for mode, batch in itertools.product(_MODES, _BATCHES):  # one after the other: together they would not fit the GPU
        name = _name(mode, batch)
        try:
            measured = interleave([MATMUL, name], setup, repeats=1 if setup.quick else 3)
        except UserError as error:  # out of memory, or nothing there to compile with: the others can be measured
            failures[name] = str(error)
        else:
            results[name] = {**measured[name], "matmul_flops": measured[MATMUL]["flops_per_second"]}
    operators = [(operator, measure_operator(operator, device, torch.bfloat16))
                 for operator in find_operators(config.dataset_params, config.unet_params, _MEMORY_BATCH)]
    return conclude(results, failures, operators, device=torch.cuda.get_device_name(), config=setup.paper_config)


def conclude(results: dict[str, Numbers], failures: dict[str, str], operators: Sequence[tuple[Operator, float]], *,
             device: str, config: str) -> Findings:
    """The findings of each variant that could be measured, beside why others could not, and of operators by themselves."""
    found = Findings(f"7. training step on a GPU, bf16, {config}", [device])
    best: dict[int, Numbers] = {}  # the fastest way of compiling at each batch
    for mode, batch in itertools.product(_MODES, _BATCHES):
        name = _name(mode, batch)
        if name in failures:
            found.lines.append(f"batch {batch:>3}, compile_mode {mode:<16} not measured: {failures[name]}")
            continue
        numbers = results[name]
        rate = numbers["flops"] / numbers["seconds"]
        found.lines.append(f"batch {batch:>3}, compile_mode {mode:<16}{batch / numbers['seconds']:>8.1f} images/s"
                           f"{rate / 1e12:>8.1f} TFLOP/s ({_share(numbers):.1%} of {numbers['matmul_flops'] / 1e12:.0f})"
                           f"{numbers['bytes'] / _GIB:>8.1f} GiB")
        if batch not in best or numbers["seconds"] < best[batch]["seconds"]:
            best[batch] = numbers
    for operator, rate in operators:
        found.lines.append(f"{operator.kind:<14} the heaviest alone, forward and backward: {rate / 1e12:.1f} TFLOP/s")
    found.ratios = [Ratio(f"GPU: share of the matrix-product rate at batch {batch}", _share(numbers), 0.35, percent=True)
                    for batch, numbers in best.items() if batch >= _MEMORY_BATCH]
    if _MEMORY_BATCH in best:
        found.ratios.append(Ratio(f"GPU: GiB at batch {_MEMORY_BATCH}, compiled as is fastest",
                                  best[_MEMORY_BATCH]["bytes"] / _GIB, 24e9 / _GIB, at_most=True))
    found.numbers = {"device": device, "variants": results, "failures": failures,
                     "seconds": {str(batch): numbers["seconds"] for batch, numbers in best.items()}}
    return found


def seconds_per_step(found: Findings, batch: int) -> float | None:
    """Seconds of a step at that batch, compiled as is fastest, where that was measured."""
    return found.numbers.get("seconds", {}).get(str(batch))


def prepare(setup: BenchmarkSetup, *, mode: str, batch: int) -> Repeat:
    """Seconds of a step by the training's own code, and the memory that torch took of the GPU for it.

    Validation's copy of the network is there as in a training; the VAE's decoder and the CUDA context, together about half
    a GiB, are not counted.
    """
    config = load_config(setup.paper_config)
    params = replace(config.train_params, ldm_batch_size=batch, gradient_accumulation_steps=1, mixed_precision="bf16",
                     compile_mode=mode)
    training = Training(replace(config, train_params=params), cpu=False)
    copy_of_validation = make_unet(config).to(training.device)
    flops = count_step_flops(config.dataset_params, config.unet_params, batch)

    def steps(count: int) -> None:
        for _ in range(count):
            training.step()
        wait_for(training.device)

    def repeat() -> Numbers:
        seconds = timed(lambda: steps(_STEPS)) / _STEPS
        copy_of_validation.load_state_dict(training.state.ema.state_dict(), strict=False)
        return {"seconds": seconds, "bytes": _most_bytes(training.device), "flops": flops}

    steps(3)  # the first one compiles, the next record graphs
    return repeat


def prepare_matmul(_setup: BenchmarkSetup) -> Repeat:
    """FLOP/s of matrix products in bf16."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return lambda: {"flops_per_second": measure_matmul_rate(device, seconds=1.0, dtype=torch.bfloat16)}


def _share(numbers: Numbers) -> float:
    return numbers["flops"] / numbers["seconds"] / numbers["matmul_flops"]


def _most_bytes(device: torch.device) -> int:
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else 0


def _name(mode: str, batch: int) -> str:
    return f"gpu_step/{mode}_{batch}"


VARIANTS = {MATMUL: prepare_matmul, **{_name(mode, batch): partial(prepare, mode=mode, batch=batch)
                                       for mode, batch in itertools.product(_MODES, _BATCHES)}}
