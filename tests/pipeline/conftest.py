"""One workspace, one trained run and one pair of classifiers for all pipeline tests; each of them is made once."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from offline_project import OfflineProject, run_offline_project
from workspace import Workspace, forget_accelerator, write_workspace

import train_ddpm_cond
from tools.train_encoder import __main__ as train_encoder


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Networks this small lose time to threads, and processes started by tests are to compute the same bits."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return write_workspace(tmp_path_factory.mktemp("workspace"))


@pytest.fixture(scope="session")
def reference(workspace: Workspace) -> Path:
    """The folder of a run that was never interrupted."""
    train_ddpm_cond.main(workspace.arguments())
    forget_accelerator()
    return workspace.run("reference")


@pytest.fixture(scope="session")
def classifiers(workspace: Workspace) -> Workspace:
    """The workspace with its encoder and its judge trained."""
    for role in ("encoder", "judge"):
        train_encoder.main([*workspace.arguments(), "--role", role, "--epochs", "12"])
    return workspace


@pytest.fixture(scope="session")
def offline_project(tmp_path_factory: pytest.TempPathFactory) -> OfflineProject:
    """A workspace of its own through which the whole pipeline went, without a network."""
    return run_offline_project(write_workspace(tmp_path_factory.mktemp("offline")))


@pytest.fixture(autouse=True)
def _fresh_accelerator() -> Iterator[None]:
    """accelerate keeps one state for the process, and a command expects to be the first."""
    forget_accelerator()
    yield
    forget_accelerator()
