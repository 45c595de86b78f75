"""What the benchmark concludes from numbers that are given, by hand: which is divided by which, bounds, and the answer."""

from pathlib import Path

import pytest

from config.load import load_config
from tools.benchmark import __main__ as benchmark
from tools.benchmark import demo_step, gpu_step, latent_cache, limit, paper_step, processes, reading, sampling
from tools.benchmark.findings import Findings
from tools.benchmark.operators import Operator
from tools.benchmark.workers import BenchmarkSetup

ROOT = Path(__file__).parents[2]
GIB = 2.0**30


def ratios(found: Findings) -> list[tuple[float, float, bool]]:
    return [(ratio.value, ratio.target, ratio.at_most) for ratio in found.ratios]


def operator(kind: str, kind_flops: float) -> Operator:
    return Operator(kind, build=lambda: pytest.fail("not to be built"), shape=(), flops=1.0, kind_flops=kind_flops)


def test_the_papers_step() -> None:
    results = {limit.MATMUL: {"flops_per_second": 200.0},
               paper_step.OURS: {"seconds": 5.0, "flops": 600.0, "peak_bytes": 2 * GIB, "parameters": 1e6},
               paper_step.MATERIALISED: {"seconds": 20.0, "flops": 640.0, "peak_bytes": 5 * GIB, "parameters": 1e6},
               paper_step.DIFFUSERS: {"seconds": 10.0, "flops": 1000.0, "peak_bytes": 3 * GIB, "parameters": 2e6}}
    found = paper_step.conclude(results, [(operator("convolution", 100.0), 150.0), (operator("attention", 90.0), 135.0)],
                                config="c.yaml")
    assert ratios(found) == [(4.0, 6.0, False), (0.4, 0.45, True), (pytest.approx(1.2), 1.15, False), (0.6, 0.6, False)]
    assert found.numbers["bound"] == pytest.approx(20 * 200 / 600) and found.numbers["seconds"] == 5.0
    assert found.numbers["seconds_of_operators"] == pytest.approx(3 * 100 / 150 + 3 * 90 / 135)
    assert "5.00 s    2.00 GiB       0 GFLOP" in found.lines[0] and "(75%); the kind is 50% of" in found.lines[4]


def test_the_latent_cache() -> None:
    cached = {"encode_seconds": 8.0, "fixed_seconds": 3.0, "step_seconds": 4.0, "seconds": 4.5, "peak_bytes": 5.0}
    found = latent_cache.conclude(cached, {"seconds": 12.6, "step_seconds": 4.1, "peak_bytes": 7.0}, size=512)
    bound, first_bound = (8 + 4) / 4, 10 * 12 / (8 + 10 * 4)
    first = 10 * 12.6 / (8 + 10 * 4.5)
    assert ratios(found) == [(pytest.approx(2.8 / bound), 0.9, False), (pytest.approx(first), 3.3, False),
                             (pytest.approx(first / first_bound), 0.9, False)]
    assert found.numbers["bound"] == bound and found.numbers["first_bound"] == first_bound
    assert found.numbers["peak_bytes"] == 7.0
    assert "has paid after 1.0 epochs" in found.lines[3]  # 8 / (12.6 - 4.5)
    assert "has paid after 2.0 epochs" in found.lines[4]


def test_the_small_model() -> None:
    results = {limit.MATMUL: {"flops_per_second": 1e11}, demo_step.OURS: {"seconds": 0.2, "flops": 20.0},
               demo_step.AROUND: {"seconds": 0.008, "flops": 20.0}, demo_step.DIFFUSERS: {"seconds": 0.4, "flops": 25.0},
               demo_step.PARTS: {"network_seconds": 0.18, "update_seconds": 0.01, "parameters": 7.0}}
    found = demo_step.conclude(results, config="c.yaml", batch=16)
    assert ratios(found) == [(pytest.approx(100 / 62.5), 1.3, False), (pytest.approx(0.04), 0.05, True)]
    assert found.numbers["images_per_second"] == pytest.approx(80.0)
    assert "90.0% of our step, clipping, optimizer and average 5.0%" in found.lines[2]


def test_sampling() -> None:
    results = {sampling.OVERLAPPED: {"seconds": 50.0, "network_seconds": 46.0},
               sampling.IN_TURN: {"seconds": 60.0, "network_seconds": 47.0}}
    passes = {"plain": 2.0, "guided": 4.2, "guided_rows": 2.0, "outside_rows": 1.0, "few": 0.5, "thousand": 25.0}
    found = sampling.conclude(results, passes, count=1000, config="c.yaml")
    assert ratios(found) == [(0.92, 0.9, False), (1.2, 1.0, False), (2.1, 2.05, True), (1.0, 1.0, True), (50.0, 45.0, False)]


def test_reading() -> None:
    results = {reading.PLAIN: {"seconds": 3.4}, reading.AHEAD: {"seconds": 2.0}}
    encoders = {"classifier_network": 0.9, "classifier_encode": 1.0, "inception_network": 7.0, "inception_encode": 10.0}
    found = reading.conclude(results, encoders, {"peak_bytes": 1.5 * GIB, "seconds": 9.0}, [(1000, 2.0), (50000, 105.0)],
                             count=64)
    assert ratios(found) == [(1.7, 1.6, False), (0.9, 0.8, False), (0.7, 0.8, False), (pytest.approx(1.05), 1.1, True),
                             (1.5, 2.0, True)]


def test_a_gpus_step_where_one_way_of_compiling_fails() -> None:
    numbers = {"flops": 4e12, "matmul_flops": 1e13, "bytes": 20 * GIB}
    results = {f"gpu_step/{mode}_{batch}": {**numbers, "seconds": seconds}
               for mode, seconds in (("off", 1.0), ("default", 0.8)) for batch in (1, 24, 48)}
    results["gpu_step/default_24"]["bytes"] = 25 * GIB  # the fastest is not the leanest
    failures = {f"gpu_step/reduce-overhead_{batch}": "out of memory" for batch in (1, 24, 48)}
    found = gpu_step.conclude(results, failures, [(operator("attention", 9.0), 5e12)], device="some GPU", config="c.yaml")
    assert ratios(found) == [(pytest.approx(0.5), 0.35, False), (pytest.approx(0.5), 0.35, False),
                             (25.0, pytest.approx(24e9 / GIB), True)]
    assert [ratio.holds for ratio in found.ratios] == [True, True, False]
    assert sum("not measured: out of memory" in line for line in found.lines) == 3
    assert gpu_step.seconds_per_step(found, 24) == 0.8 and gpu_step.seconds_per_step(found, 5) is None


def test_two_processes() -> None:
    assert ratios(processes.conclude(0.9, 0.5, config="c.yaml", batch=16)) == [(pytest.approx(1.8), 1.6, False)]


def test_the_answer_counts_every_orientation_and_every_image_of_a_step() -> None:
    config = load_config(str(ROOT / "config/embryo.yaml"))
    setup = BenchmarkSetup(str(ROOT / "config/embryo.yaml"), str(ROOT / "config/demo.yaml"), "", quick=True)
    findings = {"paper_step": Findings("", numbers={"seconds": 3.6}),
                "latent_cache": Findings("", numbers={"encode_seconds": 8.0, "peak_bytes": 2.0**40})}
    text = benchmark.answer(setup, findings)
    views, batch = len(config.dataset_params.symmetries), config.train_params.ldm_batch_size
    steps = -(-900 // batch) * config.train_params.epochs
    encoding, training = 900 * views * 8 / 3600, steps * batch * 3.6 / 3600
    assert views == 2 and f"{encoding + training:.1f} hours ({encoding:.1f} to encode 2 orientations" in text
    assert f"{training:.1f} for {steps:,} steps of {batch}" in text and "about 1024.0 GiB" in text and "GPU" not in text
    on_gpu = Findings("", numbers={"seconds": {str(batch): 0.36}})
    with_gpu = benchmark.answer(setup, {**findings, "gpu_step": on_gpu})
    assert f"on its GPU {steps * 0.36 / 3600:.1f} hours of training" in with_gpu
    assert "not told" in benchmark.answer(setup, {"paper_step": findings["paper_step"]})
