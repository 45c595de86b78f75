"""A run that starts from another's weights: the same at step 0, exact on resume, and its ancestry is known to refusals."""

from pathlib import Path

import pytest
import torch
from workspace import Workspace, forget_accelerator

import train_ddpm_cond
from config.errors import UserError
from tools.diffusion.trained_images import TRAINED_KEY
from tools.diffusion.warm_start import START_KEY
from tools.runtime.checkpoints import read_checkpoint, resume_path, select_tensors
from tools.runtime.run_directory import RunDirectory

NO_STEP = ("train_params.ldm_lr=1e-30", "train_params.warmup_steps=0", "train_params.max_steps=1")


def train(workspace: Workspace, name: str, *overrides: str) -> Path:
    train_ddpm_cond.main(workspace.arguments(workspace.task(name), *overrides))
    forget_accelerator()
    return workspace.run(name)


def weights(workspace: Workspace, run: Path) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    return read_checkpoint(RunDirectory(run).weights(workspace.config().train_params))


def test_it_begins_with_the_averaged_weights_of_its_source(
    workspace: Workspace, reference: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(workspace, "warm", f"train_params.start_from={reference}", *NO_STEP)
    source, of_source = weights(workspace, reference)
    started, values = weights(workspace, run)
    assert all(torch.equal(started[name], tensor) for name, tensor in source.items())
    (state,) = RunDirectory(run).checkpoints.glob("resume-*")
    assert all(torch.equal(select_tensors(read_checkpoint(state)[0], "model")[name], tensor)
               for name, tensor in source.items())
    assert values[START_KEY]["step"] == of_source["step"] and len(values[START_KEY]["sha256"]) == 64
    shown = capsys.readouterr().out
    assert "classes: taken over arrested, blastocyst" in shown and "standard deviations by factors of 1 to 1" in shown


def test_a_stopped_run_resumes_bit_for_bit_without_its_source(workspace: Workspace, reference: Path, tmp_path: Path) -> None:
    source = tmp_path / "source.safetensors"
    source.write_bytes(RunDirectory(reference).weights(workspace.config().train_params).read_bytes())
    given = (f"train_params.start_from={source}", "train_params.epochs=100", "train_params.lr_schedule=constant")
    whole = train(workspace, "warm_whole", *given, "train_params.max_steps=8")
    train(workspace, "warm_parts", *given, "train_params.max_steps=4")
    source.unlink()
    parts = train(workspace, "warm_parts", *given, "train_params.max_steps=8")
    expected, found = (read_checkpoint(resume_path(RunDirectory(run).checkpoints, 8))[0] for run in (whole, parts))
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    (_, of_whole), (_, of_parts) = weights(workspace, whole), weights(workspace, parts)
    assert of_parts[START_KEY] == of_whole[START_KEY] and of_parts[TRAINED_KEY] == of_whole[TRAINED_KEY]


def test_another_start_in_the_same_folder_is_refused(workspace: Workspace, reference: Path) -> None:
    train(workspace, "warm_other", f"train_params.start_from={reference}", *NO_STEP)
    other = RunDirectory(workspace.run("warm_other")).weights(workspace.config().train_params)
    with pytest.raises(UserError, match="began with other weights than"):
        train(workspace, "warm_other", f"train_params.start_from={other}", *NO_STEP)
    with pytest.raises(UserError, match=r"began from nothing; remove train_params\.start_from"):
        train(workspace, "reference", f"train_params.start_from={other}")


def test_the_images_of_the_source_are_known_as_trained_on(workspace: Workspace, reference: Path) -> None:
    """On another split of the same images, so that some of the source's are held out here."""
    split = ("dataset_params.params.split_column=null", "dataset_params.params.split_seed=3")
    run = train(workspace, "warm_split", f"train_params.start_from={reference}", *split, *NO_STEP)
    of_source, own = (set(weights(workspace, folder)[1][TRAINED_KEY]) for folder in (reference, run))
    assert of_source < own
