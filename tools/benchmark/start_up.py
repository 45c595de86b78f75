"""How long a command takes to say anything: the dry run of the demo's config in a fresh process."""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from config.errors import UserError
from tools.benchmark.findings import Findings, Ratio
from tools.benchmark.workers import BenchmarkSetup

_TARGET_SECONDS = 5.0
_NUM_IMAGES = 2000  # as many as the demo has
_ROOT = Path(__file__).parents[2]


def measure(setup: BenchmarkSetup) -> Findings:
    """Seconds of the wall clock and of the processor, the median of several starts."""
    phantoms = Path(setup.scratch) / "phantoms"
    run_python("-m", "tools.make_phantoms", "--output", str(phantoms), "--num-images", str(_NUM_IMAGES),
               "--image-size", "64")
    starts = [run_python(
        "train_ddpm_cond.py", "--config", setup.demo_config, "--dry-run", "--set",
        f"dataset_params.params.csv_file={phantoms / 'annotations.csv'}", "--set",
        f"dataset_params.params.root_dir={phantoms / 'images'}") for _ in range(3 if setup.quick else 7)]
    wall, user = (statistics.median(values) for values in zip(*starts, strict=True))
    found = Findings(f"6. train_ddpm_cond.py --dry-run, {setup.demo_config}, {_NUM_IMAGES:,} images")
    found.lines.append(f"{wall:.2f} s of the wall clock, {user:.2f} s of the processor")
    found.ratios = [Ratio("start-up: seconds of a dry run", wall, _TARGET_SECONDS, at_most=True)]
    found.numbers = {"wall_seconds": wall, "user_seconds": user}
    return found


def run_python(*arguments: str) -> tuple[float, float]:
    """(wall, user) seconds of a Python process in the repository's root.

    Raises:
        UserError: it failed.
    """
    started = time.perf_counter()
    with subprocess.Popen([sys.executable, *arguments], cwd=_ROOT, stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        errors = process.stderr.read().decode(errors="replace")
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise UserError(f"{' '.join(arguments[:2])} failed: {' '.join(errors.strip().splitlines()[-1:])}")
    return time.perf_counter() - started, usage.ru_utime
