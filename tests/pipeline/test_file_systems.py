"""File systems that lack something: real commands write there, and what is missing costs at most a sentence."""

import errno
import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from workspace import Workspace, forget_accelerator

import train_ddpm_cond
from dataset import patient_note, storage
from tools.runtime import checkpoints

REPOSITORY = Path(__file__).parents[2]
LACKS = ("flock=ENOSYS", "chmod=EPERM", "fallocate=EOPNOTSUPP")  # Lustre and NFS; CIFS and WSL's drives; NFSv3 and 9p


def is_trained(run: Path) -> bool:
    return checkpoints.read_checkpoint(checkpoints.resume_path(run / "checkpoints", 2))[1]["step"] == 2


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's filter is Linux's")
def test_a_training_is_written_where_the_kernel_refuses_calls(workspace: Workspace, shared: Path, tmp_path: Path) -> None:
    arguments = workspace.arguments(f"train_params.task_name={tmp_path / 'run'}", "train_params.max_steps=2",
                                    f"dataset_params.directory_latents={tmp_path / 'latents'}")
    done = subprocess.run([sys.executable, str(shared / "cases/without_syscalls.py"), *LACKS, "--", sys.executable,
                           "train_ddpm_cond.py", *arguments], cwd=REPOSITORY, env={**os.environ, "OMP_NUM_THREADS": "1"},
                          text=True, capture_output=True, timeout=240, check=False)
    if "no seccomp here" in done.stderr:
        pytest.skip("this kernel takes no filter")
    assert done.returncode == 0 and is_trained(tmp_path / "run"), done.stderr
    warnings = [line for line in done.stderr.splitlines() if line.startswith("warning")]
    assert len(warnings) == 1 and "has no locks (Function not implemented)" in warnings[0]


@pytest.mark.parametrize(("owner", "name", "code"), [
    (fcntl, "flock", errno.ENOSYS), (os, "chmod", errno.EPERM), (os, "posix_fallocate", errno.EOPNOTSUPP),
    (os, "posix_fallocate", errno.EBADF), (os, "fsync", errno.EINVAL),
])
def test_a_training_is_written_where_a_call_is_refused(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], owner: object,
    name: str, code: int
) -> None:
    def refuse(*_arguments: object, **_more: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(owner, name, refuse)
    monkeypatch.setattr(storage, "_told_devices", set())
    train_ddpm_cond.main(workspace.arguments(f"train_params.task_name={tmp_path / 'run'}", "train_params.max_steps=2",
                                             f"dataset_params.directory_latents={tmp_path / 'latents'}"))
    assert is_trained(tmp_path / "run")
    assert capsys.readouterr().err.count("warning") == (name == "flock")


def test_a_training_into_a_checkout_warns_in_one_line_and_one_into_an_ignored_folder_does_not(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if shutil.which("git") is None:
        pytest.skip("needs git")
    monkeypatch.setattr(patient_note, "_looked_at", set())
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True, capture_output=True)
    (tmp_path / ".gitignore").write_text("runs\n", encoding="utf-8")
    for name, num_warnings in (("runs/ignored", 0), ("taken", 1)):
        monkeypatch.setenv("PLACE", str(tmp_path))
        train_ddpm_cond.main(workspace.arguments(f"train_params.task_name=$PLACE/{name}", "train_params.max_steps=2",
                                                 f"dataset_params.directory_latents=$PLACE/{name}/latents"))
        forget_accelerator()
        assert is_trained(tmp_path / name)
        told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning")]
        assert len(told) == num_warnings and all(f"{tmp_path / name} is inside the git checkout" in line for line in told)
