"""Speed and memory, measured in one run against what a user would pick instead and against the hardware's limit.

Each variant runs in a process of its own, so that its peak memory is its own; repeats of all variants alternate and
medians are compared. Ours allocate memory as our commands do, the rivals as a plain script. Only results that should be
equal and are not fail the command, never its speed.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from config.errors import UserError
from config.load import load_config
from config.paths import as_path
from dataset.storage import write_json
from tools.benchmark import demo_step, gpu_step, latent_cache, limit, paper_step, processes, reading, sampling, start_up
from tools.benchmark.findings import Findings, draw_picture
from tools.benchmark.workers import BenchmarkSetup, serve
from tools.diffusion.estimate import count_steps, estimate_memory
from tools.runtime.command import keep_freed_buffers, run_command

_SUBJECTS = ("paper_step", "latent_cache", "demo_step", "sampling", "reading", "start_up", "gpu_step",
             "processes")
_VARIANTS = {**paper_step.VARIANTS, **latent_cache.VARIANTS, **demo_step.VARIANTS, **sampling.VARIANTS,
             **reading.VARIANTS, **processes.VARIANTS, **gpu_step.VARIANTS, **limit.VARIANTS}
_PLAIN_SCRIPTS = (paper_step.DIFFUSERS, demo_step.DIFFUSERS, limit.MATMUL)
_ANSWER_IMAGES = 900


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.benchmark", description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=as_path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--picture", type=as_path, default=Path("runs/benchmark.png"), metavar="FILE",
                        help="where the plot goes (default runs/benchmark.png)")
    parser.add_argument("--quick", action="store_true", help="fewer repeats and images: about 5 minutes instead of 20")
    parser.add_argument("--only", nargs="+", choices=_SUBJECTS, default=_SUBJECTS, metavar="SUBJECT",
                        help=f"some of {', '.join(_SUBJECTS)}")
    parser.add_argument("--config", default="config/embryo.yaml", help="whose UNet (default config/embryo.yaml)")
    parser.add_argument("--demo-config", default="config/demo.yaml", help="the small model (default config/demo.yaml)")
    parser.add_argument("--worker", choices=_VARIANTS, help=argparse.SUPPRESS)  # the child process
    parser.add_argument("--setup", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.worker:
        if arguments.worker not in _PLAIN_SCRIPTS:
            keep_freed_buffers()
        serve(_VARIANTS[arguments.worker], BenchmarkSetup(**arguments.setup))
        return
    findings: dict[str, Findings] = {}
    with tempfile.TemporaryDirectory() as scratch:
        setup = BenchmarkSetup(arguments.config, arguments.demo_config, scratch, quick=arguments.quick)
        for name, found in measure_all(setup, arguments.only):
            findings[name] = found
            if arguments.json:  # after each, so that what breaks later costs nothing that was measured
                write_json(arguments.json, {"torch": torch.__version__, "threads": torch.get_num_threads(),
                                            "quick": arguments.quick,
                                            "findings": {name: found.to_json() for name, found in findings.items()}})
    print(answer(setup, findings), end="\n\n")
    print("\n\n".join(found.describe() for found in findings.values()))
    series = findings["reading"].numbers["series"] if "reading" in findings else ()
    draw_picture(arguments.picture, list(findings.values()), encoding=series)
    print(f"\npicture in {arguments.picture}")
    unequal = [line for found in findings.values() for line in found.unequal]
    if unequal:
        raise UserError("; ".join(unequal))


def measure_all(setup: BenchmarkSetup, subjects: Sequence[str]) -> Iterator[tuple[str, Findings]]:
    """(subject, findings) in the order of the subjects, each as it is measured."""
    measure: dict[str, Callable[[], Findings]] = {
        "paper_step": lambda: paper_step.measure(setup),
        "latent_cache": lambda: latent_cache.measure(setup),
        "demo_step": lambda: demo_step.measure(setup),
        "sampling": lambda: sampling.measure(setup),
        "reading": lambda: reading.measure(setup),
        "start_up": lambda: start_up.measure(setup),
        "gpu_step": lambda: gpu_step.measure(setup),
        "processes": lambda: processes.measure(setup, parameters=_estimate_memory(setup.paper_config)[0]),
    }
    for name in _SUBJECTS:
        if name in subjects:
            started = time.monotonic()
            found = measure[name]()
            print(f"measured {name} in {time.monotonic() - started:.0f} s", file=sys.stderr)
            yield name, found


def answer(setup: BenchmarkSetup, findings: dict[str, Findings]) -> str:
    """What a user wants to know first: how long and how much memory this config takes on this machine."""
    if not {"paper_step", "latent_cache"} <= findings.keys():
        return "only a part was measured, so the time of a whole training is not told"
    config = load_config(setup.paper_config)
    batch, views = config.train_params.ldm_batch_size, len(config.dataset_params.symmetries)
    _, steps = count_steps(config.train_params, _ANSWER_IMAGES)
    step, encode = findings["paper_step"].numbers["seconds"], findings["latent_cache"].numbers["encode_seconds"]
    encoding, training = _ANSWER_IMAGES * views * encode / 3600, steps * batch * step / 3600
    memory = max(_estimate_memory(setup.paper_config)[1], findings["latent_cache"].numbers["peak_bytes"])
    text = (f"{_ANSWER_IMAGES} training images at {config.dataset_params.params.image_size} px, {setup.paper_config}, this "
            f"machine's CPU ({torch.get_num_threads()} threads): {encoding + training:.1f} hours ({encoding:.1f} to encode "
            f"{views} orientations once, {training:.1f} for {steps:,} steps of {batch}, each as long as {batch} steps at "
            f"batch 1), about {memory / 2**30:.1f} GiB of memory")
    on_gpu = gpu_step.seconds_per_step(findings["gpu_step"], batch) if "gpu_step" in findings else None
    if on_gpu is not None:
        text += f"; on its GPU {steps * on_gpu / 3600:.1f} hours of training, encoding not measured"
    return text


def _estimate_memory(path: str) -> tuple[int, int]:
    config = load_config(path)
    return estimate_memory(config.dataset_params, config.unet_params, config.train_params)


if __name__ == "__main__":
    run_command(main, keep_freed_memory=False, on_device=False)  # what a plain process would take
