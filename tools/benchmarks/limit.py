"""The hardware's limit: the rate of matrix products, measured in turn with what is held against it."""

import torch

from tools.benchmarks.workers import Repeat, Setup
from tools.runtime.estimate import measure_matmul_rate

MATMUL = "limit/matmul"


def prepare_matmul(_setup: Setup) -> Repeat:
    """FLOP/s of float32 matrix products on all threads."""
    device = torch.device("cpu")
    measure_matmul_rate(device)
    return lambda: {"flops_per_second": measure_matmul_rate(device, seconds=1.0)}


VARIANTS = {MATMUL: prepare_matmul}
