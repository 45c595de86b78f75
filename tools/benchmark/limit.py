"""The hardware's limit: the rate of matrix products, measured in turn with what is held against it."""

import torch

from tools.benchmark.workers import BenchmarkSetup, Repeat
from tools.diffusion.estimate import measure_matmul_rate

MATMUL = "limit/matmul"
_SIDES = (1024, 2048, 4096)


def prepare_matmul(_setup: BenchmarkSetup) -> Repeat:
    """FLOP/s of float32 matrix products on all threads, at the size that runs fastest."""
    device = torch.device("cpu")
    side = max(_SIDES, key=lambda side: measure_matmul_rate(device, side=side))
    return lambda: {"flops_per_second": measure_matmul_rate(device, seconds=1.0, side=side)}


VARIANTS = {MATMUL: prepare_matmul}
