"""Disks that are full or read-only and folders that go away: one line with the path, and what was good stays good."""

import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import wandb
from workspace import Workspace, forget_accelerator

import sample_ddpm_class_cond
import train_ddpm_cond
from config.errors import UserError
from config.load import config_to_dict
from tools import cache_latents, evaluate, sample_gan, sweep, train_gan
from tools.runtime import checkpoints
from tools.runtime.run_directory import owned
from tools.runtime.tracking import Tracker, WandbMirror
from tools.study import __main__ as study
from tools.train_encoder import __main__ as train_encoder

FULL = r"{}.*: could not be written \(No space left on device\): .*[\d,]+ bytes free; free space or choose another folder"


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """A memory file system on a folder, where this process may mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("a small or read-only file system needs the right to mount one")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, *, leave_bytes: int) -> Path:
    """Fill a small file system but for so many bytes."""
    filler = folder / "filler"
    filler.write_bytes(bytes(max(shutil.disk_usage(folder).free - leave_bytes, 0)))
    return filler


def test_a_run_whose_disk_fills_keeps_its_last_checkpoint_and_goes_on(workspace: Workspace, tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=8m"):
        run = tmp_path / "disk" / "run"
        settings = (f"train_params.task_name={run}", "train_params.checkpoint_interval_steps=1")
        train_ddpm_cond.main(workspace.arguments(*settings, "train_params.max_steps=2"))
        forget_accelerator()
        before = checkpoints.list_resume_checkpoints(run / "checkpoints")
        filler = fill(tmp_path / "disk", leave_bytes=100_000)  # less than a checkpoint
        with pytest.raises(UserError, match=FULL.format("resume-00000003")):
            train_ddpm_cond.main(workspace.arguments(*settings, "train_params.max_steps=4"))
        forget_accelerator()
        assert checkpoints.list_resume_checkpoints(run / "checkpoints") == before
        assert checkpoints.read_checkpoint(before[0])[1]["step"] == 2
        filler.unlink()
        train_ddpm_cond.main(workspace.arguments(*settings, "train_params.max_steps=4"))
        assert checkpoints.read_checkpoint(checkpoints.resume_path(run / "checkpoints", 4))[1]["step"] == 4


def test_a_disk_too_small_for_the_latents_is_one_line_before_any_is_encoded(workspace: Workspace, tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=128k"), pytest.raises(UserError, match=FULL.format(r"(mean|std)\.npy\.partial")):
        cache_latents.main(workspace.arguments(f"dataset_params.directory_latents={tmp_path / 'disk'}"))


def test_images_that_do_not_fit_are_one_line(workspace: Workspace, reference: Path, tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=16k"), pytest.raises(UserError, match=FULL.format(r"\.png")):
        sample_ddpm_class_cond.main([*workspace.arguments(), "--no-metrics", "--output", str(tmp_path / "disk")])
    assert reference.is_dir()


@pytest.mark.parametrize("command", ["train", "sample", "evaluate", "cache", "encoder"])
def test_a_read_only_folder_is_one_line(workspace: Workspace, reference: Path, tmp_path: Path, command: str) -> None:
    disk = tmp_path / "disk"
    commands: dict[str, Callable[[], None]] = {
        "train": lambda: train_ddpm_cond.main(workspace.arguments(f"train_params.task_name={disk}")),
        "sample": lambda: sample_ddpm_class_cond.main([*workspace.arguments(), "--output", str(disk)]),
        "evaluate": lambda: evaluate.main([*workspace.arguments(), "--synthetic", str(tmp_path), "--output", str(disk)]),
        "cache": lambda: cache_latents.main(workspace.arguments(f"dataset_params.directory_latents={disk}")),
        "encoder": lambda: train_encoder.main(workspace.arguments(f"evaluation_params.classifier_path={disk}")),
    }
    with mounted(disk, "ro"), pytest.raises(UserError, match=f"{disk}.*Read-only file system"):
        commands[command]()
    assert reference.is_dir()


def test_a_run_whose_folder_goes_away_is_one_line(workspace: Workspace, tmp_path: Path) -> None:
    run = tmp_path / "run"

    def remove() -> None:
        deadline = time.monotonic() + 90
        while not checkpoints.list_resume_checkpoints(run / "checkpoints") and time.monotonic() < deadline:
            time.sleep(0.005)
        run.rename(tmp_path / "moved")

    remover = threading.Thread(target=remove, daemon=True)
    remover.start()
    with pytest.raises(UserError, match=r"metrics\.jsonl: could not be written \(No such file or directory\)"):
        train_ddpm_cond.main(workspace.arguments(f"train_params.task_name={run}", "train_params.max_steps=100000",
                                                 "train_params.checkpoint_interval_steps=5"))
    remover.join()
    assert checkpoints.read_newest_checkpoint(tmp_path / "moved" / "checkpoints") is not None


WANDB_FULL = r"warning: wandb is not logging \(OSError: \[Errno 28\] No space left on device: '{}'\); the run continues .*\n"


def test_a_full_disk_of_wandb_alone_is_one_warning_and_the_log_is_complete(
    workspace: Workspace, reference: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    with mounted(run / "wandb", "size=256k"):
        fill(run / "wandb", leave_bytes=0)
        capfd.readouterr()
        train_ddpm_cond.main(workspace.arguments(f"train_params.task_name={run}", "logging_params.wandb_mode=offline"))
        assert re.fullmatch(WANDB_FULL.format(run / "wandb"), capfd.readouterr().err)
    assert (run / "metrics.jsonl").read_bytes() == (reference / "metrics.jsonl").read_bytes()


def test_a_disk_of_wandb_that_fills_in_the_middle_is_one_warning(
    workspace: Workspace, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = workspace.config("logging_params.wandb_mode=offline")
    with mounted(tmp_path / "wandb", "size=4m"):
        mirror = WandbMirror(config.logging_params, config_to_dict(config), folder=tmp_path, name="test")
        tracker = Tracker(tmp_path / "metrics.jsonl", mirror, step=0)
        for step in range(1, 41):
            if step == 20:
                assert list((tmp_path / "wandb").glob("offline-run-*")) and capfd.readouterr().err == ""
                fill(tmp_path / "wandb", leave_bytes=0)
            tracker.log({"step": step, "loss": 0.1})
        tracker.close()
        assert re.fullmatch(WANDB_FULL.format(tmp_path / "wandb"), capfd.readouterr().err)
        wandb.teardown()  # its service, before its disk goes
    lines = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 41))


@pytest.mark.parametrize("command", ["sample", "evaluate", "sweep", "sample_gan", "train_gan", "study"])
def test_a_second_command_on_the_same_output_says_who_holds_it(
    workspace: Workspace, reference: Path, tmp_path: Path, command: str
) -> None:
    arguments = [*workspace.arguments(), "--output", str(tmp_path)]
    key = {"train_gan": "gan_params.output", "study": "output"}.get(command, "--output")
    refusal = pytest.raises(UserError, match=rf"{tmp_path} is in use by the first \(process {os.getpid()}\).* {key}$")
    with owned(tmp_path, "the first"), refusal:
        if command == "sample":
            sample_ddpm_class_cond.main(arguments)
        elif command == "evaluate":
            evaluate.main([*arguments, "--synthetic", str(reference)])
        elif command == "sweep":
            sweep.main(arguments)
        elif command == "sample_gan":
            sample_gan.main(arguments)
        elif command == "train_gan":
            train_gan.main(workspace.arguments(f"gan_params.output={tmp_path}"))
        else:
            declared = tmp_path / "study.yaml"
            declared.write_text(json.dumps({"base": str(workspace.config_path), "output": str(tmp_path), "screen_minutes": 1,
                                            "final_minutes": 1, "seeds": [1], "arms": {"first": {}, "second": {}}}))
            study.main(["--config", str(declared)])
