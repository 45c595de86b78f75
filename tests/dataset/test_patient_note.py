"""The note on patients' data, and the warning where git would take them."""

import shutil
import subprocess
from pathlib import Path

import pytest

from dataset import patient_note

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git checkout with the repository's own .gitignore; nothing was looked at in it yet."""
    if shutil.which("git") is None:
        pytest.skip("needs git")
    monkeypatch.setattr(patient_note, "_looked_at", set())
    folder = tmp_path / "checkout"
    subprocess.run(["git", "init", "--quiet", str(folder)], check=True, capture_output=True)
    shutil.copyfile(ROOT / ".gitignore", folder / ".gitignore")
    return folder


def warnings(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_a_folder_that_git_would_take_is_said_once(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        patient_note.write_patient_note(checkout / "bd_run", "The weights")
        patient_note.write_patient_note(checkout / "bd_run/samples/internal", "The near-copies")
    [line] = warnings(capsys)
    assert line.startswith(f"warning: {checkout / 'bd_run'} is inside the git checkout {checkout}, which does not ignore it")
    patient_note.warn_where_git_takes(checkout / "another")  # not there yet
    assert len(warnings(capsys)) == 1


@pytest.mark.parametrize("name", ["runs/a", "runs/latents/train-0", "demo/run", "wandb", "data/mhsma64", "mine/a"])
def test_a_folder_that_git_ignores_is_not_warned_of(
    checkout: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    with (checkout / ".gitignore").open("a", encoding="utf-8") as file:
        file.write("mine/\n")
    patient_note.warn_where_git_takes(checkout / name)
    patient_note.write_patient_note(checkout / name, "The weights")
    assert warnings(capsys) == []


def test_nothing_is_said_outside_a_checkout_beyond_a_link_or_without_git(
    checkout: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    patient_note.warn_where_git_takes(checkout.parent / "run")
    (checkout.parent / "scratch").mkdir()
    (checkout / "linked").symlink_to(checkout.parent / "scratch")
    patient_note.warn_where_git_takes(checkout / "linked/run")
    monkeypatch.setenv("PATH", str(checkout))
    patient_note.warn_where_git_takes(checkout / "run")
    assert warnings(capsys) == []
