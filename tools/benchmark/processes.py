"""Training in one process and in two, and what the measured sizes say about eight GPUs, which is computed, not measured."""

import socket
import statistics

from config.load import load_config
from dataset.order import SampleOrder, draw_step
from tools.benchmark.demo_step import Training
from tools.benchmark.findings import Findings, Ratio
from tools.benchmark.workers import BenchmarkSetup, Repeat, medians, started, timed
from tools.diffusion.estimate import count_step_flops
from tools.diffusion.training import latent_shape, timestep_draws

TRAINING = "processes/training"
_STEPS = 12  # in one repeat
_GPUS = 8
# (what it is called, FLOP/s that a training step reaches on it, bytes/s of its links): assumed, stated beside the result.
_ASSUMED = (
    ("30 TFLOP/s attained, links of 12 GB/s", 30e12, 12e9),
    ("150 TFLOP/s attained, links of 200 GB/s", 150e12, 200e9),
)


def measure(setup: BenchmarkSetup, *, parameters: float) -> Findings:
    """Images a second of one and of two processes of one thread each; `parameters` of the paper's network."""
    alone, pair = measure_scaling(setup, repeats=2 if setup.quick else 5)
    found = conclude(alone, pair, config=setup.demo_config, batch=load_config(setup.demo_config).train_params.ldm_batch_size)
    found.lines += describe_on_paper(setup, parameters=parameters)
    return found


def conclude(alone: float, pair: float, *, config: str, batch: int) -> Findings:
    """The findings of the seconds of a step in one process and in two."""
    found = Findings(f"8. several processes, {config}, batch {batch} in all, a thread each")
    found.lines.append(f"one process {batch / alone:.1f} images/s, two {batch / pair:.1f} images/s")
    found.ratios = [Ratio("two processes: images/s against one", alone / pair, 1.6)]
    found.numbers = {"one_seconds": alone, "two_seconds": pair}
    return found


def measure_scaling(setup: BenchmarkSetup, *, repeats: int) -> tuple[float, float]:
    """Median seconds a step of one process and of two that share the batch, measured in turn."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    single = {"OMP_NUM_THREADS": "1"}
    group = [{**single, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
              "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)} for rank in range(2)]
    seconds: tuple[list[float], list[float]] = ([], [])
    with started([TRAINING], setup, [single]) as alone, started([TRAINING] * 2, setup, group) as pair:
        for _ in range(repeats):
            for kept, workers in zip(seconds, (alone, pair), strict=True):
                for worker in workers:
                    worker.ask()
                kept.append(medians([worker.answer() for worker in workers])["seconds"])
    return statistics.median(seconds[0]), statistics.median(seconds[1])


def describe_on_paper(setup: BenchmarkSetup, *, parameters: float) -> list[str]:
    """Eight GPUs by the counted operations, the gradient's size and the measured time of drawing a global batch."""
    config = load_config(setup.paper_config)
    batch = config.train_params.ldm_batch_size
    order = SampleOrder([index % config.num_classes for index in range(900)], seed=0)
    draws = statistics.median(timed(lambda: draw_step(
        order, 0, batch_size=batch, num_views=len(config.dataset_params.symmetries),
        latent_shape=latent_shape(config.dataset_params),
        timesteps=timestep_draws(config.diffusion_params))) for _ in range(9))
    flops, gradient = count_step_flops(config.dataset_params, config.unet_params, 1), 4 * parameters
    lines = [f"on paper, {setup.paper_config}: {flops / 1e9:.0f} GFLOP an image (counted), gradients of "
             f"{gradient / 1e6:.0f} MB, {1e3 * draws:.1f} ms to draw a batch of {batch} on the host (measured)"]
    for name, rate, link in _ASSUMED:
        alone = batch * flops / rate + draws
        parts = {"arithmetic": batch / _GPUS * flops / rate,
                 "exchange of gradients": 2 * (_GPUS - 1) / _GPUS * gradient / link,  # a ring's all-reduce
                 "drawing the batch, which every process does whole": draws}
        bottleneck = max((name for name in parts if name != "arithmetic"), key=lambda name: parts[name])
        lines.append(f"{_GPUS} GPUs at an assumed {name}: {alone / sum(parts.values()):.1f} times one GPU; arithmetic "
                     f"{1e3 * parts['arithmetic']:.1f} ms, then {bottleneck} {1e3 * parts[bottleneck]:.1f} ms")
    return lines


def prepare_training(setup: BenchmarkSetup) -> Repeat:
    """This process's part of the training."""
    training = Training(load_config(setup.demo_config))
    training.step()

    def train() -> None:
        for _ in range(_STEPS):
            training.step()

    return lambda: {"seconds": timed(train) / _STEPS}


VARIANTS = {TRAINING: prepare_training}
