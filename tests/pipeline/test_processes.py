"""Several processes compute what one computes, share the encoding, and end when one of them dies."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from gradient_probe import keep_first_gradient
from workspace import Workspace, forget_accelerator, read_rows

import sample_ddpm_class_cond
import train_ddpm_cond
from config.schema import SYMMETRIES
from tools import cache_latents
from tools.runtime import checkpoints

REPOSITORY = Path(__file__).parents[2]
PROBE = Path(__file__).with_name("gradient_probe.py")
LAUNCHER = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
            "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0")
needs_proc = pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the launched processes in /proc")
FIRST, LAST = 4, 24  # the steps that all share, and 20 more
LEARNING = ("train_params.lr_schedule=constant", "logging_params.interval_steps=1", "train_params.ldm_validate_epochs=10")


def launch(*command: str) -> subprocess.Popen[str]:
    """Start a script in two processes, which with their launcher are one process group."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "ACCELERATE_USE_CPU": "true"}
    return subprocess.Popen([sys.executable, *LAUNCHER, *command], cwd=REPOSITORY, env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)


def list_workers(launcher: subprocess.Popen[str]) -> list[int]:
    """Process ids of the launched processes that are there, in the order of their ranks."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text(encoding="ascii").split()
    ranks = {}
    for child in map(int, children):
        with suppress(OSError):  # it ends just now
            variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
            ranks |= {int(text[5:]): child for text in variables if text.startswith(b"RANK=")}
    return [ranks[rank] for rank in sorted(ranks)]


def wait_until(reached: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait for something that the launched processes do."""
    deadline = time.monotonic() + 200
    while not reached():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)


def end(launcher: subprocess.Popen[str]) -> None:
    """End what a failed test left; the launcher ends its processes."""
    for worker in list_workers(launcher) if launcher.poll() is None else ():
        os.kill(worker, signal.SIGCONT)
    launcher.terminate()
    launcher.communicate()


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
    assert "resuming at step 4" in output and output.count("trained to step") == 1, complaints[-2000:]


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


@pytest.fixture(scope="module")
def evaluated(classifiers: Workspace, reference: Path) -> Path:
    """Images that one process drew and evaluated."""
    assert reference.is_dir()
    folder = classifiers.root / "by_one"
    sample_ddpm_class_cond.main([*classifiers.arguments(*in_batches(folder)), "--output", str(folder)])
    return folder


def in_batches(folder: Path) -> tuple[str, ...]:
    """Several batches, the last not full, to draw and to encode; features in the folder, so that they are encoded anew."""
    return ("sample_params.num_images=34", "sample_params.batch_size=4", "evaluation_params.batch_size=16",
            f"dataset_params.directory_inception_features={folder / 'features'}")


def assert_the_same_evaluation(folder: Path, other: Path) -> None:
    features = sorted(path.name for path in (folder / "features").glob("*.npz"))
    encoders = ("classifier", "untrained_conv", "untrained_texture")
    parts = ("synthetic", "test", "test_round_trip", "train", "train_round_trip")
    assert features == sorted(f"{encoder}_{part}.npz" for encoder in encoders for part in parts)
    for name in ("evaluation.json", "report_shareable.html", "internal/nearest_pairs.csv",
                 *(f"features/{name}" for name in features)):
        assert (folder / name).read_bytes() == (other / name).read_bytes(), name


@needs_proc
def test_two_processes_draw_and_evaluate_as_one_and_the_second_leaves_when_all_is_encoded(
    classifiers: Workspace, evaluated: Path, tmp_path: Path
) -> None:
    process = launch("sample_ddpm_class_cond.py", *classifiers.arguments(*in_batches(tmp_path)), "--output",
                     str(tmp_path))
    try:
        wait_until(lambda: (tmp_path / "evaluation.json").exists(), process)
        first = list_workers(process)[0]
        os.kill(first, signal.SIGSTOP)  # as if what comes then took for ever
        wait_until(lambda: list_workers(process) == [first], process)
        os.kill(first, signal.SIGCONT)
        output, complaints = process.communicate(timeout=200)
    finally:
        end(process)
    assert process.returncode == 0, complaints[-2000:]
    assert output.count(f"written to {tmp_path}") == 1 and output.count("34 synthetic images in") == 1
    images = read_images(tmp_path)
    assert len(images) == 34 and images == read_images(evaluated)
    assert (tmp_path / "manifest.csv").read_bytes() == (evaluated / "manifest.csv").read_bytes()
    assert_the_same_evaluation(tmp_path, evaluated)


def test_two_processes_evaluate_a_folder_as_one(classifiers: Workspace, evaluated: Path, tmp_path: Path) -> None:
    process = launch("-m", "tools.evaluate", *classifiers.arguments(*in_batches(tmp_path)), "--synthetic", str(evaluated),
                     "--output", str(tmp_path))
    output, complaints = process.communicate(timeout=200)
    assert process.returncode == 0, complaints[-2000:]
    assert output.count(f"written to {tmp_path}") == 1
    assert_the_same_evaluation(tmp_path, evaluated)


def kill_and_wait(process: subprocess.Popen[str], *, rank: int) -> None:
    """Kill one process of two: within a minute the other one and the launcher have ended, and it is said which one died."""
    workers = list_workers(process)
    os.kill(workers[rank], signal.SIGKILL)
    _, complaints = process.communicate(timeout=60)  # or it raises
    assert process.returncode != 0
    root_cause = complaints.rpartition("Root Cause")[2]
    assert f"rank      : {rank} " in root_cause and f"Signal 9 (SIGKILL) received by PID {workers[rank]}" in root_cause
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)


@needs_proc
@pytest.mark.parametrize("phase", ["caching", "sampling"])
def test_a_process_that_dies_while_work_is_shared_ends_the_other_and_one_alone_finishes(
    workspace: Workspace, reference: Path, tmp_path: Path, phase: str
) -> None:
    commands = {"caching": cache_latents.main, "sampling": sample_ddpm_class_cond.main}
    script = {"caching": ("-m", "tools.cache_latents"), "sampling": ("sample_ddpm_class_cond.py",)}
    pattern = {"caching": "progress-*.json", "sampling": "*.png"}

    def arguments(folder: Path) -> list[str]:
        if phase == "caching":  # slow enough to be killed in the middle
            return workspace.arguments(f"dataset_params.directory_latents={folder}", "autoencoder_params.batch_size=1",
                                       f"dataset_params.symmetries=[{','.join(SYMMETRIES)}]")
        return [*workspace.arguments("sample_params.num_images=80", "sample_params.batch_size=4",
                                     "sample_params.num_steps=25"), "--no-metrics", "--output", str(folder)]

    process = launch(*script[phase], *arguments(tmp_path / "killed"))
    try:
        wait_until(lambda: any((tmp_path / "killed").rglob(pattern[phase])), process)
        kill_and_wait(process, rank=0 if phase == "caching" else 1)
    finally:
        end(process)
    last = {"caching": "val-*/index.json", "sampling": "manifest.csv"}[phase]
    assert not any((tmp_path / "killed").glob(last))  # it was killed before its end
    for folder in ("killed", "whole"):
        commands[phase](arguments(tmp_path / folder))
    files = read_files(tmp_path / "killed")
    assert {path: files[path] for path in files if path.suffix != ".tmp"} == read_files(tmp_path / "whole")
    assert any((tmp_path / "whole").glob(last)) and reference.is_dir()


@needs_proc
def test_a_process_that_dies_ends_the_others_and_one_alone_goes_on(workspace: Workspace) -> None:
    run = workspace.run("died")
    settings = (workspace.task(run.name), *LEARNING, "train_params.checkpoint_interval_steps=5")
    process = launch("train_ddpm_cond.py", *workspace.arguments(*settings, "train_params.max_steps=100000"))
    try:
        wait_until(lambda: bool(checkpoints.list_resume_checkpoints(run / "checkpoints")), process)
        kill_and_wait(process, rank=1)
    finally:
        end(process)
    newest = checkpoints.read_newest_checkpoint(run / "checkpoints")
    assert newest is not None
    step = newest[1]["step"]
    train_ddpm_cond.main(workspace.arguments(*settings, f"train_params.max_steps={step + 3}"))
    assert [row["step"] for row in read_rows(run) if "loss" in row] == list(range(1, step + 4))


@needs_proc
def test_a_signal_to_launcher_and_processes_saves_after_the_step(workspace: Workspace) -> None:
    """As from a scheduler or by Ctrl-C: the launcher hears it too and passes it on, so that it comes twice."""
    run = workspace.run("signalled")
    settings = (workspace.task(run.name), *LEARNING, "train_params.checkpoint_interval_steps=100000")
    process = launch("train_ddpm_cond.py", *workspace.arguments(*settings, "train_params.max_steps=100000"))
    try:
        wait_until(lambda: (run / "metrics.jsonl").exists() and len(read_rows(run)) > 1, process)
        os.killpg(process.pid, signal.SIGTERM)
        _, complaints = process.communicate(timeout=100)
    finally:
        end(process)
    newest = checkpoints.read_newest_checkpoint(run / "checkpoints")
    assert newest is not None and f"saved at step {newest[1]['step']}; run the same command to resume" in complaints
    assert not newest[2] and [row["step"] for row in read_rows(run) if "loss" in row][-1] == newest[1]["step"]


@needs_proc
def test_a_process_that_hangs_is_named_and_the_other_one_ends(workspace: Workspace) -> None:
    run, seconds = workspace.run("hung"), 12
    arguments = workspace.arguments(workspace.task(run.name), *LEARNING, "train_params.max_steps=100000",
                                    f"launch_params.collective_minutes={seconds / 60}")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [subprocess.Popen(
        [sys.executable, "train_ddpm_cond.py", *arguments], cwd=REPOSITORY, text=True, stderr=subprocess.PIPE,
        env={**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
             "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}) for rank in range(2)]
    try:
        wait_until(lambda: (run / "metrics.jsonl").exists() and len(read_rows(run)) > 1, processes[0])
        os.kill(processes[1].pid, signal.SIGSTOP)
        stopped = time.monotonic()
        _, complaints = processes[0].communicate(timeout=5 * seconds)
        waited = time.monotonic() - stopped
    finally:
        for process in processes:
            process.kill()  # ends a stopped process too
            process.communicate()
    assert processes[0].returncode == 2 and seconds - 2 < waited < 4 * seconds
    assert re.search(rf"error: rank 1 \(pid {processes[1].pid} on \S+\) did not reach step \d+ of training within 0\.2 "
                     r"minutes: its process gives no sign of life", complaints), complaints[-2000:]
