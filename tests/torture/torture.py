"""Kill small real runs at random instants and at chosen writes, run them again, and compare with an unbroken run.

Every trial is a command in a process of its own on a copy of a prepared folder: caching, training, checkpoint writing,
sampling or evaluation. It is killed by SIGKILL, or its disk is full from some write on, or a checkpoint is damaged; then
the same command runs again and its results must equal the unbroken run's byte for byte. Nothing in the product knows of
this: writes are seen by a library that is preloaded into the command (torture_shim.c: needs a C compiler and Linux).

    make torture          # or: PYTHONPATH=. python tests/torture/torture.py --kills 20
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from config.errors import UserError
from config.paths import as_path
from dataset.decoding import decode_image
from dataset.order import generator
from dataset.storage import hash_file, read_json, write_json, write_text
from tools.runtime.checkpoints import list_resume_checkpoints, read_checkpoint
from tools.runtime.command import EXIT_USER_ERROR, run_command
from tools.runtime.progress import Progress

_REPOSITORY = Path(__file__).parents[2]
_SHIM = Path(__file__).with_name("torture_shim.c")
_CONFIG, _RUN = "config.yaml", "run"
_CALLS = ("write", "fsync", "rename")
_LIMIT_S = 300  # a command that takes longer hangs
_TRAIN = ("train_ddpm_cond.py",)
_SAMPLE = ("sample_ddpm_class_cond.py",)


@dataclass(frozen=True)
class Phase:
    """A command to be killed: what was prepared before it, and which files must come out equal."""

    name: str
    command: tuple[str, ...]
    overrides: tuple[str, ...]
    results: tuple[str, ...]  # patterns below the working folder
    watched: tuple[str, ...] = ()  # the folder in which calls are counted; the whole working folder where empty


_EVERY_STEP = ("train_params.checkpoint_interval_steps=1", "train_params.keep_last_checkpoints=3")
PHASES = (
    Phase("caching", ("-m", "tools.cache_latents"), ("autoencoder_params.batch_size=8",), ("latents/**/*",)),
    Phase("training", _TRAIN, (), (f"{_RUN}/**/*",)),
    Phase("checkpoint write", _TRAIN, _EVERY_STEP, (f"{_RUN}/**/*",), (_RUN, "checkpoints")),
    Phase("sampling", (*_SAMPLE, "--no-metrics"), (), (f"{_RUN}/samples/**/*",)),
    Phase("evaluation", _SAMPLE, (), (f"{_RUN}/samples/**/*",)),
)
_CLASSIFIER = Phase("classifier", ("-m", "tools.train_encoder", "--role", "encoder", "--epochs", "3"), (), ())
# What is run through before a phase.
_BEFORE = {"caching": (), "training": ("caching",), "checkpoint write": ("caching",), "sampling": ("caching", "training"),
           "evaluation": ("caching", "training", "sampling", "classifier")}
_UNLIKE = ("*.xlsx", "timing.json", ".lock", "*.tmp")  # workbooks hold the time of their writing, timings a clock


@dataclass(frozen=True)
class Reference:
    """An unbroken run of a phase: its prepared folder, the hashes of its results, its seconds and its counted calls."""

    prepared: Path
    hashes: dict[str, str]
    seconds: float
    calls: tuple[int, int, int]


@dataclass(frozen=True)
class Trial:
    """One fault: `act` is "kill" or "full", at a call of a kind or, where `call` is None, after some seconds."""

    phase: Phase
    act: str
    call: int | None
    at: float

    def describe(self) -> str:
        where = f"after {self.at:.2f} s" if self.call is None else f"at {_CALLS[self.call]} {self.at:.0f}"
        return f"{self.phase.name}: {'killed' if self.act == 'kill' else 'disk full'} {where}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="tests/torture/torture.py", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, metavar="N", help="killed runs a phase (default 20)")
    parser.add_argument("--full-disks", type=int, default=2, metavar="N", help="runs a phase whose disk fills (default 2)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of instants and calls")
    parser.add_argument("--phase", action="append", choices=[phase.name for phase in PHASES], help="only these phases")
    parser.add_argument("--json", type=as_path, metavar="FILE", help="write the outcome of every trial there")
    arguments = parser.parse_args(argv)
    phases = [phase for phase in PHASES if not arguments.phase or phase.name in arguments.phase]
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder).resolve())
        outcomes = []
        num_trials = len(phases) * (arguments.kills + arguments.full_disks)
        with Progress("running", num_trials, unit="trials", enabled=True) as bar:
            for phase in phases:
                reference = bench.make_reference(phase)
                for trial in draw_trials(phase, reference, seed=arguments.seed, num_kills=arguments.kills,
                                         num_full=arguments.full_disks):
                    outcomes.append({"phase": phase.name, "fault": trial.describe(), **bench.run_trial(trial, reference)})
                    bar.update(len(outcomes))
        damages = bench.run_damages() if "checkpoint write" in {phase.name for phase in phases} else []
    report(phases, outcomes, damages)
    if arguments.json:
        write_json(arguments.json, {"seed": arguments.seed, "trials": outcomes, "damages": damages})
    failed = [f"{outcome['fault']}: {outcome['failure']}" for outcome in [*outcomes, *damages] if outcome["failure"]]
    if failed:
        raise UserError(f"{len(failed)} of {len(outcomes) + len(damages)} trials failed, such as {failed[0]}")


def draw_trials(phase: Phase, reference: Reference, *, seed: int, num_kills: int, num_full: int) -> Iterator[Trial]:
    """Half of the kills at random instants of the unbroken run's duration, half at a random call of each kind in turn."""
    rng = generator(seed, f"torture {phase.name}")
    kinds = [call for call in range(len(_CALLS)) if reference.calls[call]]
    for number in range(num_kills):
        if number % 2 == 0 or not kinds:
            yield Trial(phase, "kill", None, float(rng.uniform(0.0, reference.seconds)))
        else:
            call = kinds[number // 2 % len(kinds)]
            yield Trial(phase, "kill", call, int(rng.integers(1, reference.calls[call] + 1)))
    for number in range(num_full):
        call = kinds[number % len(kinds)]
        yield Trial(phase, "full", call, int(rng.integers(1, reference.calls[call] + 1)))


class Bench:
    """The scratch folder in which references are made and trials run; every trial's folder has the same path."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.work = root / "work"  # equal for all runs, because a checkpoint records its config
        self.library = _build_shim(root)
        self._prepared: dict[str, Path] = {}

    def make_reference(self, phase: Phase) -> Reference:
        """Prepare what the phase needs and run it unbroken, counting its calls."""
        prepared = self._prepare(phase)
        _place(prepared, self.work)
        started = time.monotonic()
        finished, calls = self._run(phase, None)
        seconds = time.monotonic() - started
        if finished.returncode != 0:
            raise UserError(f"{phase.name}: the unbroken run failed: {finished.stderr.strip()[-300:]}")
        return Reference(prepared, _hash_results(self.work, phase), seconds, calls)

    def run_trial(self, trial: Trial, reference: Reference) -> dict[str, str | None]:
        """One fault and the rerun; "failure" is None where all is as it should be."""
        _place(reference.prepared, self.work)
        broken, _ = self._run(trial.phase, trial)
        outcome = "ended before the fault" if broken.returncode == 0 else f"exit code {broken.returncode}"
        failure = _judge_ending(trial, broken) or _find_partial_file(self.work)
        if failure is None:
            rerun, _ = self._run(trial.phase, None)
            if rerun.returncode != 0:
                failure = f"the rerun ended with {rerun.returncode}: {rerun.stderr.strip()[-300:]}"
            else:
                failure = _compare(reference.hashes, _hash_results(self.work, trial.phase))
        return {"outcome": outcome, "failure": failure}

    def run_damages(self) -> list[dict[str, str | None]]:
        """A flipped bit in, and the loss of the end of, the newest resume checkpoint of an interrupted training."""
        phase = next(phase for phase in PHASES if phase.name == "checkpoint write")
        reference = self.make_reference(phase)
        outcomes: list[dict[str, str | None]] = []
        for name in ("a flipped bit", "a missing end"):
            _place(reference.prepared, self.work)
            at = reference.calls[2] * 3 // 4  # late enough for two checkpoints
            self._run(phase, Trial(phase, "kill", 2, at))
            newest = list_resume_checkpoints(self.work / _RUN / "checkpoints")[0]
            data = bytearray(newest.read_bytes())
            if name == "a flipped bit":
                data[len(data) * 3 // 4] ^= 1
            else:
                del data[len(data) * 3 // 4:]
            newest.write_bytes(data)
            rerun, _ = self._run(phase, None)
            failure = None
            if rerun.returncode != 0 or newest.name not in rerun.stderr:
                failure = f"exit code {rerun.returncode}, the damage was not named: {rerun.stderr.strip()[-300:]}"
            failure = failure or _compare(reference.hashes, _hash_results(self.work, phase))
            outcomes.append({"fault": f"training: {name} in {newest.name}", "outcome": "the one before was used",
                             "failure": failure})
        return outcomes

    def _prepare(self, phase: Phase) -> Path:
        """The folder as it is before the phase; earlier phases' folders are made once."""
        names = ("", *_BEFORE[phase.name])
        for position, name in enumerate(names):
            key = "/".join(names[1:position + 1])
            if key in self._prepared:
                continue
            if name:
                _place(self._prepared["/".join(names[1:position])], self.work)
                finished, _ = self._run(next(step for step in (*PHASES, _CLASSIFIER) if step.name == name), None)
            else:
                finished = self._write_ground()
            if finished.returncode != 0:
                raise UserError(f"preparing {phase.name}: {finished.stderr.strip()[-300:]}")
            self._prepared[key] = self.root / f"prepared{len(self._prepared)}"
            shutil.copytree(self.work, self._prepared[key])
        return self._prepared["/".join(names[1:])]

    def _write_ground(self) -> subprocess.CompletedProcess[str]:
        """Phantoms and config."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()
        write_text(self.work / _CONFIG, yaml.safe_dump(small_config()))
        phantoms = ("--output", "phantoms", "--num-images", "120", "--image-size", "32")
        return self._call(("-m", "tools.make_phantoms", *phantoms), {})

    def _run(self, phase: Phase, trial: Trial | None) -> tuple[subprocess.CompletedProcess[str], tuple[int, int, int]]:
        """The phase's command with its fault; also the calls that it made."""
        counts = self.root / "counts"
        counts.write_bytes(bytes(8 * len(_CALLS)))
        watched = self.work.joinpath(*phase.watched)
        variables = {"LD_PRELOAD": str(self.library), "TORTURE_ROOT": str(watched), "TORTURE_COUNTS": str(counts)}
        if trial is not None and trial.call is not None:
            variables |= {"TORTURE_ACT": trial.act, "TORTURE_CALL": str(trial.call), "TORTURE_AT": f"{trial.at:.0f}"}
        overrides = [word for text in phase.overrides for word in ("--set", text)]
        kill_after = trial.at if trial is not None and trial.call is None else None
        finished = self._call((*phase.command, "--config", _CONFIG, *overrides), variables, kill_after=kill_after)
        calls = np.frombuffer(counts.read_bytes(), dtype=np.uint64)
        return finished, (int(calls[0]), int(calls[1]), int(calls[2]))

    def _call(
        self, command: Sequence[str], variables: dict[str, str], *, kill_after: float | None = None
    ) -> subprocess.CompletedProcess[str]:
        if command[0].endswith(".py"):
            command = (str(_REPOSITORY / command[0]), *command[1:])
        environment = {**os.environ, "PYTHONPATH": str(_REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1",
                       **variables}
        with subprocess.Popen([sys.executable, *command], cwd=self.work, env=environment, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            try:
                output, errors = process.communicate(timeout=_LIMIT_S if kill_after is None else kill_after)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                output, errors = process.communicate()
        return subprocess.CompletedProcess(command, process.returncode, output, errors)


def small_config() -> dict[str, object]:
    """A run of seconds: 32 px phantoms, the shipped VAE, twelve steps, three validations; paths relative to its folder."""
    return {
        "dataset_params": {
            "params": {"csv_file": "phantoms/annotations.csv", "root_dir": "phantoms/images", "im_channels": 1,
                       "image_size": 32, "label_column": "blastocyst", "class_names": ["arrested", "blastocyst"],
                       "group_column": "PATIENT_ID", "split_column": "SPLIT"},
            "z_channels": 8, "latent_size": 8, "directory_latents": "latents", "directory_inception_features": "features",
        },
        "train_params": {"task_name": _RUN, "ldm_batch_size": 24, "num_samples": 2, "ldm_validate_epochs": 1,
                         "max_steps": 12, "warmup_steps": 2, "checkpoint_interval_steps": 4, "validation_draws": 1},
        "autoencoder_params": {"pretrained": str(_REPOSITORY / "models/pretrained/phantom_vae")},
        "unet_params": {"channels": [16, 32], "attention": [False, True], "num_layers": 1, "num_heads": 2,
                        "time_embedding_dim": 32, "norm_groups": 8},
        "sample_params": {"num_steps": 3, "num_images": 24, "batch_size": 8},
        "evaluation_params": {"encoders": ["classifier"], "classifier_path": "encoder", "max_pairs": 60, "repeats": 4,
                              "bootstrap_repeats": 20},
        "logging_params": {"wandb_mode": "disabled", "interval_steps": 2, "progress_bar": False},
    }


def report(phases: Sequence[Phase], outcomes: Sequence[dict[str, str | None]],
           damages: Sequence[dict[str, str | None]]) -> None:
    """The table for the screen: trials, faults that took effect and failures a phase."""
    print(f"{'phase':<20}{'trials':>8}{'broken':>8}{'equal':>8}")
    for phase in phases:
        mine = [outcome for outcome in outcomes if outcome["phase"] == phase.name]
        broken = sum(outcome["outcome"] != "ended before the fault" for outcome in mine)
        print(f"{phase.name:<20}{len(mine):>8}{broken:>8}{sum(outcome['failure'] is None for outcome in mine):>8}")
    for outcome in damages:
        print(f"{outcome['fault']}: {outcome['failure'] or outcome['outcome']}")


def _build_shim(folder: Path) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        raise UserError("make torture needs Linux (on Windows: WSL 2) and a C compiler (cc) for the library that sees the "
                        "writes; install gcc")
    library = folder / "shim.so"
    built = subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(_SHIM), "-ldl"],
                           capture_output=True, text=True, check=False)
    if built.returncode != 0:
        raise UserError(f"{_SHIM}: could not be compiled: {built.stderr.strip()[-300:]}")
    return library


def _place(prepared: Path, work: Path) -> None:
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(prepared, work)


def _hash_results(work: Path, phase: Phase) -> dict[str, str]:
    """Hash of every result by name; the log of a command's scratch and workbooks are left out."""
    files = sorted({path for pattern in phase.results for path in work.glob(pattern) if path.is_file()})
    return {path.relative_to(work).as_posix(): hash_file(path) for path in files
            if not any(path.match(pattern) for pattern in _UNLIKE)}


def _compare(expected: dict[str, str], found: dict[str, str]) -> str | None:
    different = [name for name in sorted({*expected, *found}) if expected.get(name) != found.get(name)]
    return f"differs from the unbroken run: {', '.join(different[:5])}" if different else None


def _judge_ending(trial: Trial, broken: subprocess.CompletedProcess[str]) -> str | None:
    """A full disk has to end in one line and exit code 2 (or be harmless); a kill in a kill or in the regular end."""
    if trial.act == "kill":
        expected = broken.returncode in (0, -signal.SIGKILL)
        return None if expected else f"ended with {broken.returncode}: {broken.stderr.strip()[-300:]}"
    if broken.returncode == 0:
        return None
    lines = [line for line in broken.stderr.strip().splitlines() if line.startswith("error: ")]
    if broken.returncode != EXIT_USER_ERROR or len(lines) != 1 or "Traceback" in broken.stderr:
        return f"a full disk ended with {broken.returncode}: {broken.stderr.strip()[-300:]}"
    return None


def _find_partial_file(work: Path) -> str | None:
    """The first file with a final name that is not whole, checked by its kind."""
    for path in sorted(work.rglob("*")):
        if not path.is_file() or path.name.startswith(".") or path.suffix in (".partial", ".tmp"):
            continue
        try:
            if path.suffix == ".safetensors" and path.is_relative_to(work / _RUN):
                read_checkpoint(path)
            elif path.suffix == ".png":
                decode_image(path)
            elif path.suffix == ".json":
                read_json(path)
            elif path.suffix in (".npy", ".npz"):
                np.load(path, allow_pickle=False)
            elif path.suffix == ".jsonl":
                for line in path.read_text(encoding="utf-8").split("\n")[:-1]:  # rows are appended, the last may be cut
                    json.loads(line)
        except (UserError, ValueError, OSError) as error:
            return f"partial file {path.relative_to(work)}: {error}"
    return None


if __name__ == "__main__":
    run_command(main, on_device=False)
