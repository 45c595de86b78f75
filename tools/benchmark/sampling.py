"""Drawing labelled images with the demo's model: what of the time is the network's, and what guidance and steps cost."""

import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from config.load import load_config
from config.schema import SampleParams
from models.autoencoder import LatentStatistics
from tools.benchmark.findings import Findings, Ratio
from tools.benchmark.workers import BenchmarkSetup, Numbers, Repeat, interleave
from tools.diffusion import generation, samples
from tools.diffusion.networks import make_unet
from tools.diffusion.project import Project
from tools.diffusion.training import latent_shape, make_schedule

OVERLAPPED, IN_TURN, PASSES = "sampling/overlapped", "sampling/in_turn", "sampling/passes"
_BATCH = 64
_FEW = 8  # images that are drawn with a thousand steps too
_SAMPLER = "ddim"  # one evaluation a step, with any schedule
_NEVER = (0.9995, 0.9996)  # an interval between two timesteps: guidance is asked for and never applies


def measure(setup: BenchmarkSetup) -> Findings:
    """Images a second of the whole command's work, the network's share, and costs in forward passes."""
    results = interleave([OVERLAPPED, IN_TURN], setup, repeats=1 if setup.quick else 3)
    passes = interleave([PASSES], setup, repeats=1 if setup.quick else 3)[PASSES]
    found = conclude(results, passes, count=num_images(setup), config=setup.demo_config)
    folders = [Path(setup.scratch) / f"sampling_{name}" / samples.IMAGE_FOLDER for name in ("overlapped", "in_turn")]
    found.expect_equal("files written behind and in turn", count_differing(*folders), tolerance=0)
    return found


def conclude(results: dict[str, Numbers], passes: Numbers, *, count: int, config: str) -> Findings:
    """The findings of the seconds of `count` images, and of the costs of guidance and steps."""
    overlapped, in_turn = results[OVERLAPPED], results[IN_TURN]
    found = Findings(f"4. sampling of {count} images with the model of {config}, 20 steps")
    for name, result in (("written while the next batch is drawn", overlapped), ("one after the other", in_turn)):
        found.lines.append(f"{name:<44}{count / result['seconds']:>8.1f} images/s, 1,000 images in "
                           f"{1000 * result['seconds'] / count:.0f} s")
    found.lines.append(f"rows through the network: {passes['guided_rows']:.2f} a step with guidance, "
                       f"{passes['outside_rows']:.2f} outside its interval")
    found.ratios = [
        Ratio("sampling: share of the wall clock in the network", overlapped["network_seconds"] / overlapped["seconds"], 0.9,
              percent=True),
        Ratio("sampling: speed with overlap against without", in_turn["seconds"] / overlapped["seconds"], 1.0),
        Ratio("sampling: guidance inside its interval, in passes", passes["guided"] / passes["plain"], 2.05, at_most=True),
        Ratio("sampling: guidance outside its interval, in rows a step", passes["outside_rows"], 1.0, at_most=True),
        Ratio("sampling: 20 steps against 1000", passes["thousand"] / passes["few"], 45.0),
    ]
    found.numbers = {"variants": results, "passes": passes, "num_images": count}
    return found


def num_images(setup: BenchmarkSetup) -> int:
    """How many are drawn; the network's share hardly depends on it."""
    return 2 * _BATCH if setup.quick else 1000


def count_differing(first: Path, second: Path) -> int:
    """Files that are not in both folders with the same bytes."""
    names = {path.name for folder in (first, second) for path in folder.iterdir()}
    return sum(not all((folder / name).is_file() for folder in (first, second))
               or (first / name).read_bytes() != (second / name).read_bytes() for name in names)


class Stopwatch:
    """Seconds and rows that pass through a network while it is watched."""

    def __init__(self, network: nn.Module) -> None:
        self.seconds, self.rows, self._started = 0.0, 0, 0.0
        network.register_forward_pre_hook(self._begin)
        network.register_forward_hook(self._end)

    def reset(self) -> None:
        self.seconds, self.rows = 0.0, 0

    def _begin(self, _network: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self.rows += len(inputs[0])
        self._started = time.perf_counter()

    def _end(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._started


def prepare_overlapped(setup: BenchmarkSetup) -> Repeat:
    """What the command does."""
    return _prepare_drawing(setup, "overlapped")


def prepare_in_turn(setup: BenchmarkSetup) -> Repeat:
    """Draw, decode, write, then draw the next batch."""
    return _prepare_drawing(setup, "in_turn")


def prepare_passes(setup: BenchmarkSetup) -> Repeat:
    """Seconds of 20 steps on a batch: plain, guided, guided nowhere; and of 20 and 1000 steps on a few images."""
    denoising, params = _make_denoising(setup), SampleParams(sampler=_SAMPLER, num_steps=20, batch_size=16)
    watch = Stopwatch(denoising.network)

    def draw(count: int, **changes: object) -> tuple[float, float]:
        """(seconds, rows of the network an image and step)"""
        settings, requests = replace(params, **changes), generation.list_requests([count, 0])
        watch.reset()
        started = time.perf_counter()
        generation.draw_latents(denoising, requests, params=settings, seed=0, batch_size=count)
        return time.perf_counter() - started, watch.rows / count / settings.num_steps

    def repeat() -> Numbers:
        plain, _ = draw(16)
        guided, guided_rows = draw(16, guidance_scale=1.5)
        _, outside_rows = draw(16, guidance_scale=1.5, guidance_interval=_NEVER)
        few, _ = draw(_FEW)
        thousand, _ = draw(_FEW, num_steps=denoising.schedule.num_timesteps)
        return {"plain": plain, "guided": guided, "guided_rows": guided_rows, "outside_rows": outside_rows, "few": few,
                "thousand": thousand}

    draw(16)
    draw(_FEW)
    return repeat


def _prepare_drawing(setup: BenchmarkSetup, name: str) -> Repeat:
    config = load_config(setup.demo_config)
    denoising = _make_denoising(setup)
    watch = Stopwatch(denoising.network)
    channels = config.dataset_params.z_channels
    gray = config.dataset_params.params.im_channels == 1
    statistics = LatentStatistics(mean=(0.0,) * channels, std=(1.0,) * channels, gray=gray)
    codec = Project.open(config).open_codec(statistics=statistics, decoder_only=True)
    params = SampleParams(sampler=_SAMPLER, num_steps=20, batch_size=_BATCH)
    requests = generation.list_requests([num_images(setup), *[0] * (config.num_classes - 1)])
    batches = generation.split_into_batches(requests, _BATCH)
    writer = samples.SampleWriter(Path(setup.scratch) / f"sampling_{name}", requests, params=params,
                                  class_names=config.dataset_params.params.class_names, checkpoint_sha256="benchmark")
    draw = samples.draw_and_write if name == "overlapped" else samples.draw_and_write_in_turn

    def repeat() -> Numbers:
        watch.reset()
        started = time.perf_counter()
        draw(denoising, codec, writer, batches, params=params)
        return {"seconds": time.perf_counter() - started, "network_seconds": watch.seconds}

    draw(denoising, codec, writer, batches[:1], params=params)
    return repeat


def _make_denoising(setup: BenchmarkSetup) -> generation.Denoising:
    """The demo's network with weights that no block ignores."""
    config = load_config(setup.demo_config)
    network = make_unet(config)
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    return generation.Denoising(
        network=network.eval().requires_grad_(False), schedule=make_schedule(config.diffusion_params),
        prediction_type=config.diffusion_params.prediction_type, null_label=config.num_classes,
        latent_shape=latent_shape(config.dataset_params), device=torch.device("cpu"))


VARIANTS = {OVERLAPPED: prepare_overlapped, IN_TURN: prepare_in_turn, PASSES: prepare_passes}
