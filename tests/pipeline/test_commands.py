"""How commands end: exit codes, one line for a user's mistake, and the list of commands."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from workspace import Workspace

import train_ddpm_cond
from tools import cache_latents
from tools.runtime.command import run_command

REPOSITORY = Path(__file__).parents[2]


def run_script(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], cwd=REPOSITORY, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True,
                          capture_output=True, timeout=120, check=False)


def fail_in_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Train as a command does; the one line on stderr, the exit code being 2."""
    with pytest.raises(SystemExit) as ending:
        run_command(lambda: train_ddpm_cond.main(arguments))
    assert ending.value.code == 2
    first, _, message = capsys.readouterr().err.rpartition("\nerror: ")
    assert re.fullmatch(r"BlastDiffusion \S+, torch \S+, CPU with \d+ threads?, precision float32, 1 process", first)
    message = f"error: {message}"
    assert message.count("\n") == 1 and message.endswith("\n")
    return message


def test_a_bad_config_is_one_line_and_exit_code_2(workspace: Workspace) -> None:
    done = run_script("train_ddpm_cond.py", *workspace.arguments("train_params.ldm_lrr=1"))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "train_params.ldm_lrr: unknown key; did you mean train_params.ldm_lr?" in done.stderr


def test_a_missing_table_is_one_line(workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = fail_in_one_line(workspace.arguments(f"train_params.task_name={tmp_path}",
                                                   "dataset_params.params.csv_file=absent.csv"), capsys)
    assert "absent.csv" in message


def test_a_truncated_image_is_one_line_that_names_it(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for path in (workspace.phantoms / "images").iterdir():
        shutil.copy(path, images)
    table = (workspace.phantoms / "annotations.csv").read_text(encoding="utf-8").splitlines()
    name = next(line.split(",")[0] for line in table if ",train," in line)
    victim = next(path for path in images.iterdir() if path.name.startswith(name))
    data = victim.read_bytes()
    victim.write_bytes(data[: len(data) // 2])
    message = fail_in_one_line(workspace.arguments(
        f"train_params.task_name={tmp_path / 'run'}", f"dataset_params.params.root_dir={images}",
        f"dataset_params.directory_latents={tmp_path / 'latents'}"), capsys)
    assert victim.name in message


def test_a_message_of_several_lines_becomes_one(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    message = fail_in_one_line(workspace.arguments('dataset_params.target="a\nb.C"'), capsys)
    assert "cannot be imported" in message


def test_latents_of_another_size_are_refused_with_both_sizes(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for load in ("true", "false"):
        message = fail_in_one_line(workspace.arguments(
            f"train_params.task_name={tmp_path}", "dataset_params.latent_size=16", f"dataset_params.load_latents={load}",
            f"dataset_params.directory_latents={tmp_path / 'latents'}"), capsys)
        assert "expected z_channels: 4 and latent_size: 8 for the VAE in" in message
        assert "found z_channels: 4 and latent_size: 16; set both keys as expected" in message
    assert not (tmp_path / "latents").exists()  # nothing was encoded first
    message = fail_in_one_line(workspace.arguments(f"train_params.task_name={tmp_path}", "dataset_params.z_channels=3"),
                               capsys)
    assert "expected z_channels: 4 and latent_size: 8" in message and "found z_channels: 3 and" in message


def test_latents_are_cached_once(workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = workspace.arguments(f"dataset_params.directory_latents={tmp_path}")
    cache_latents.main(arguments)
    first = capsys.readouterr().out
    assert "train: 138 images x 2 views of 4 x 8 x 8 latents" in first
    assert "val: 30 images x 1 views" in first
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")}
    cache_latents.main(arguments)
    assert capsys.readouterr().out == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")} == before
    cache_latents.main([*arguments, "--set", "dataset_params.symmetries=[identity]"])
    assert "does not fit (symmetries differ): building a new one" in capsys.readouterr().out


def test_the_list_of_commands_names_modules_that_exist() -> None:
    done = run_script("-m", "tools")
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        if line.strip().startswith("python -m tools."):
            name, _, purpose = line.strip().removeprefix("python -m tools.").partition(" ")
            assert any((REPOSITORY / "tools" / place).is_file() for place in (f"{name}.py", f"{name}/__main__.py"))
            assert purpose.strip()
