"""Without a network everything runs, and nothing tries to reach one."""

import os
import shutil
import subprocess
import sys

import pytest
from offline_project import REPOSITORY, OfflineProject


def test_the_pipeline_runs_without_a_network_and_asks_for_none(offline_project: OfflineProject) -> None:
    assert offline_project.done.returncode == 0, offline_project.done.stderr
    assert offline_project.attempts == ()
    run = offline_project.workspace.run("reference")
    for name in ("checkpoints/ddpm_ckpt.safetensors", "samples/manifest.csv", "samples/evaluation.json"):
        assert (run / name).is_file()
    assert (offline_project.workspace.root / "evaluated_again/evaluation.json").is_file()


@pytest.mark.parametrize("code", ["import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)",
                                  "import urllib.request; urllib.request.urlopen('http://example.org', timeout=1)",
                                  "from models.autoencoder import resolve_autoencoder; resolve_autoencoder('a/b')"])
def test_the_guard_notices_who_asks(offline_project: OfflineProject, code: str) -> None:
    root = offline_project.workspace.root
    attempts = root / "noticed.txt"
    attempts.unlink(missing_ok=True)
    environment = {name: value for name, value in os.environ.items()
                   if name != "HF_HUB_OFFLINE" and "proxy" not in name.lower()}
    environment |= {"PYTHONPATH": os.pathsep.join((str(root / "guard"), str(REPOSITORY))), "ATTEMPTS": str(attempts)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120,
                          check=False)
    assert done.returncode == 1
    assert attempts.read_text(encoding="utf-8").strip()


@pytest.mark.skipif(shutil.which("unshare") is None, reason="no unshare on this machine")
def test_a_release_is_made_in_a_process_that_has_no_network_at_all(offline_project: OfflineProject) -> None:
    alone = ["unshare", "--net"] if os.getuid() == 0 else ["unshare", "--map-root-user", "--net"]
    if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine allows no network namespaces")
    workspace = offline_project.workspace
    done = subprocess.run([*alone, sys.executable, "-m", "tools.release", str(workspace.run("reference")), "--output",
                           str(workspace.root / "released")], cwd=REPOSITORY, capture_output=True, text=True, timeout=120,
                          check=False)
    assert done.returncode == 0, done.stderr
    assert (workspace.root / "released/README.md").is_file()
