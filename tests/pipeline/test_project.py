"""A project is opened once: a command reads its table once, hashes each image file once and its VAE once."""

import importlib
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from workspace import Workspace, forget_accelerator

import sample_ddpm_class_cond
import train_ddpm_cond
from config.errors import UserError
from dataset.annotations import read_records
from dataset.storage import hash_file
from models.autoencoder import hash_autoencoder
from tools import evaluate
from tools.diffusion.project import Project


@dataclass
class Reads:
    """How often each table, each file and each VAE was read."""

    tables: Counter[str] = field(default_factory=Counter)
    files: Counter[str] = field(default_factory=Counter)
    vaes: Counter[str] = field(default_factory=Counter)

    def images_below(self, folder: Path) -> Counter[str]:
        return Counter({path: count for path, count in self.files.items() if Path(path).is_relative_to(folder)})


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    """Counts from here on, in whatever module the functions that read are imported."""
    importlib.import_module("dataset.Embryo_loader")  # which a config names, so that it may not be there yet
    found = Reads()

    def count(function: Callable[..., Any], counter: Counter[str]) -> None:
        def counting(first: object, *rest: Any, **named: Any) -> Any:
            counter[str(first)] += 1
            return function(first, *rest, **named)

        for module in list(sys.modules.values()):
            if getattr(module, "__dict__", {}).get(function.__name__) is function:
                monkeypatch.setattr(module, function.__name__, counting)

    count(read_records, found.tables)
    count(hash_file, found.files)
    count(hash_autoencoder, found.vaes)
    return found


def check(reads: Reads, workspace: Workspace, *, num_images: int) -> None:
    assert reads.tables[str(workspace.phantoms / "annotations.csv")] == 1
    assert max(reads.tables.values()) == 1  # that of the synthetic images too
    images = reads.images_below(workspace.phantoms)
    assert len(images) >= num_images and set(images.values()) == {1}
    assert dict(reads.vaes) == {str(workspace.root / "vae"): 1}


def test_a_training_reads_everything_once(workspace: Workspace, reads: Reads) -> None:
    fresh = f"dataset_params.directory_latents={workspace.root / 'counted_latents'}"
    train_ddpm_cond.main(workspace.arguments(workspace.task("counted"), fresh, "train_params.max_steps=1"))
    check(reads, workspace, num_images=138)


@pytest.mark.usefixtures("reference")
def test_sampling_and_its_evaluation_read_everything_once(workspace: Workspace, reads: Reads, tmp_path: Path) -> None:
    arguments = workspace.arguments("evaluation_params.judge_path=null")
    sample_ddpm_class_cond.main([*arguments, "--per-class", "12", "--output", str(tmp_path / "made")])
    check(reads, workspace, num_images=170)
    assert set(reads.images_below(tmp_path / "made" / "images").values()) == {1}
    forget_accelerator()
    for counter in (reads.tables, reads.files, reads.vaes):
        counter.clear()
    evaluate.main([*arguments, "--synthetic", str(tmp_path / "made"), "--output", str(tmp_path / "again")])
    check(reads, workspace, num_images=170)
    assert set(reads.images_below(tmp_path / "made" / "images").values()) == {1}


def test_a_split_is_the_records_of_its_name(workspace: Workspace) -> None:
    project = Project.open(workspace.config())
    train = project.images("train")
    assert [record for record in project.records if record.split == "train"] == train.records
    rows = [row for row, record in enumerate(project.records) if record.split == "train"]
    assert len(train) == len(rows) and (train[3][0] == project.all_images[rows[3]][0]).all()
    assert project.has_split("val") and train[3][1] == train.records[3].label


def test_a_split_without_images_is_refused_with_the_next_step(workspace: Workspace) -> None:
    table = "dataset_params.params.split_column=null"
    project = Project.open(workspace.config(table, "dataset_params.params.split_fractions={train: 0.7, test: 0.3}"))
    with pytest.raises(UserError, match=r"expected images in split 'val', found some in train, test only"):
        project.images("val")


def test_a_file_that_changed_is_hashed_anew(workspace: Workspace, reads: Reads, tmp_path: Path) -> None:
    project, path = Project.open(workspace.config()), tmp_path / "image"
    path.write_bytes(b"one")
    first = [project.hash_image(path), project.hash_image(path)]
    path.write_bytes(b"another")
    assert first[0] == first[1] != project.hash_image(path) and reads.files[str(path)] == 2
