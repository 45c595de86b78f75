"""Several processes compute what one computes, share the encoding, and end when one of them dies."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from gradient_probe import keep_first_gradient
from workspace import Workspace, forget_accelerator, read_rows

import sample_ddpm_class_cond
import train_ddpm_cond
from tools import cache_latents
from tools.runtime import checkpoints

REPOSITORY = Path(__file__).parents[2]
PROBE = Path(__file__).with_name("gradient_probe.py")
LAUNCHER = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
            "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0")
FIRST, LAST = 4, 24  # the steps that all share, and 20 more
LEARNING = ("train_params.lr_schedule=constant", "logging_params.interval_steps=1", "train_params.ldm_validate_epochs=10")


def launch(*command: str) -> subprocess.Popen[str]:
    """Start a script in two processes."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "ACCELERATE_USE_CPU": "true"}
    return subprocess.Popen([sys.executable, *LAUNCHER, *command], cwd=REPOSITORY, env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def list_workers(launcher: subprocess.Popen[str]) -> list[int]:
    """Process ids of the launched processes, in the order of their ranks."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text(encoding="ascii").split()
    ranks = {}
    for child in map(int, children):
        variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        ranks |= {int(text[5:]): child for text in variables if text.startswith(b"RANK=")}
    return [ranks[rank] for rank in sorted(ranks)]


@pytest.fixture(scope="module")
def common_start(workspace: Workspace) -> Path:
    """A run of a few steps by one process: after them every layer has a gradient, at the start only the last one has."""
    train_ddpm_cond.main(workspace.arguments(workspace.task("start"), *LEARNING, f"train_params.max_steps={FIRST}"))
    forget_accelerator()
    run = workspace.run("start")
    (run / "config.yaml").unlink()  # it would refuse other micro-steps
    return run


def go_on(workspace: Workspace, start: Path, name: str, *overrides: str, num_processes: int) -> None:
    """Go on from the common start to the last step and save the first gradient."""
    run = workspace.run(name)
    shutil.copytree(start, run)
    gradient = run / "gradient.npy"
    arguments = workspace.arguments(workspace.task(name), *LEARNING, f"train_params.max_steps={LAST}", *overrides)
    if num_processes == 1:
        handle = keep_first_gradient(gradient)
        try:
            train_ddpm_cond.main(arguments)
        finally:
            handle.remove()
            forget_accelerator()
        return
    output, complaints = launch(str(PROBE), str(gradient), *arguments).communicate(timeout=200)
    assert "going on at step 4" in output and output.count("trained to step") == 1, complaints[-2000:]


def assert_the_same_training(run: Path, other: Path) -> None:
    gradients = [np.load(folder / "gradient.npy") for folder in (run, other)]
    assert np.count_nonzero(gradients[0]) > 0.9 * gradients[0].size
    assert np.linalg.norm(gradients[0] - gradients[1]) < 1e-5 * np.linalg.norm(gradients[1])

    losses = [[row["loss"] for row in read_rows(folder) if "loss" in row][FIRST:] for folder in (run, other)]
    assert len(losses[0]) == LAST - FIRST
    assert losses[0] != losses[1]  # sums in another order: they were not computed alike
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)

    paths = [checkpoints.resume_path(folder / "checkpoints", LAST) for folder in (run, other)]
    states = [checkpoints.read_checkpoint(path)[0] for path in paths]
    averages = [torch.cat([state[name].flatten() for name in sorted(state) if name.startswith("ema.")]).double()
                for state in states]
    assert (averages[0] - averages[1]).norm() < 1e-3 * averages[1].norm()


def read_files(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def watch_files(process: subprocess.Popen[str], folder: Path, pattern: str) -> set[str]:
    """Names of the files of this pattern that were there for a while, before the process ended."""
    names: set[str] = set()
    while process.poll() is None:
        names |= {path.name for path in folder.rglob(pattern)}
        time.sleep(0.002)
    return names


def read_images(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "images").iterdir())}


def test_two_processes_train_as_one_and_encode_together(workspace: Workspace, common_start: Path, tmp_path: Path) -> None:
    go_on(workspace, common_start, "one_process", num_processes=1)
    go_on(workspace, common_start, "two_processes", f"dataset_params.directory_latents={tmp_path}", num_processes=2)
    assert_the_same_training(workspace.run("two_processes"), workspace.run("one_process"))
    shared = read_files(tmp_path)
    assert {path.name for path in shared} == {"PATIENT_DATA.txt", "index.json", "mean.npy", "std.npy"}
    assert len(shared) == 2 * 4
    assert shared == {path: (workspace.root / "latents" / path).read_bytes() for path in shared}


def test_two_processes_cache_the_latents_of_one(workspace: Workspace, tmp_path: Path) -> None:
    def arguments(folder: str) -> list[str]:
        return workspace.arguments(f"dataset_params.directory_latents={tmp_path / folder}")

    cache_latents.main(arguments("one"))
    process = launch("-m", "tools.cache_latents", *arguments("two"))
    together = watch_files(process, tmp_path / "two", "progress-*.json")
    output, complaints = process.communicate(timeout=200)
    assert process.returncode == 0, complaints[-2000:]
    assert together == {"progress-0.json", "progress-1.json"}  # both encoded
    assert output.count("train: 138 images") == 1 and output.count("val: 30 images") == 1
    files = read_files(tmp_path / "two")
    assert len(files) == 2 * 4 and files == read_files(tmp_path / "one")


def test_eight_micro_steps_equal_four_in_each_of_two_processes(workspace: Workspace, common_start: Path) -> None:
    go_on(workspace, common_start, "one_by_eight", "train_params.gradient_accumulation_steps=8", num_processes=1)
    go_on(workspace, common_start, "two_by_four", "train_params.gradient_accumulation_steps=4", num_processes=2)
    assert_the_same_training(workspace.run("two_by_four"), workspace.run("one_by_eight"))


def test_two_processes_draw_the_files_of_one(workspace: Workspace, reference: Path, tmp_path: Path) -> None:
    overrides = ("sample_params.num_images=17", "sample_params.batch_size=4")  # the last batch is not full
    arguments = [*workspace.arguments(*overrides), "--no-metrics"]
    sample_ddpm_class_cond.main([*arguments, "--output", str(tmp_path / "one")])
    process = launch("sample_ddpm_class_cond.py", *arguments, "--output", str(tmp_path / "two"))
    output, complaints = process.communicate(timeout=200)
    assert process.returncode == 0, complaints[-2000:]
    assert output.count("17 synthetic images") == 1
    images = read_images(tmp_path / "one")
    assert len(images) == 17 and read_images(tmp_path / "two") == images
    assert (tmp_path / "two/manifest.csv").read_bytes() == (tmp_path / "one/manifest.csv").read_bytes()
    assert reference.is_dir()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the launched processes in /proc")
def test_a_process_that_dies_ends_the_others_and_one_alone_goes_on(workspace: Workspace) -> None:
    run = workspace.run("died")
    settings = (workspace.task(run.name), *LEARNING, "train_params.checkpoint_interval_steps=5")
    process = launch("train_ddpm_cond.py", *workspace.arguments(*settings, "train_params.max_steps=100000"))
    try:
        deadline = time.monotonic() + 300
        while not checkpoints.list_resume_checkpoints(run / "checkpoints"):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        workers = list_workers(process)
        os.kill(workers[1], signal.SIGKILL)
        _, complaints = process.communicate(timeout=60)  # or it raises
    finally:
        process.terminate()  # where the test failed; the launcher ends its processes
        process.communicate()
    assert process.returncode != 0
    assert "rank      : 1" in complaints and f"PID {workers[1]}" in complaints and "Signal 9" in complaints
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)

    newest = checkpoints.read_newest_checkpoint(run / "checkpoints")
    assert newest is not None
    step = newest[1]["step"]
    train_ddpm_cond.main(workspace.arguments(*settings, f"train_params.max_steps={step + 3}"))
    assert [row["step"] for row in read_rows(run) if "loss" in row] == list(range(1, step + 4))
