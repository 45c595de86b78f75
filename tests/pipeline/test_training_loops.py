"""One law for all trainings: a signal saves after the step and says how to resume, a kill changes no weight, and a loss
that is not finite ends with exit code 3."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from workspace import Workspace, forget_accelerator

import train_ddpm_cond
from models.classifier import WEIGHTS_FILE
from tools import train_gan
from tools.diffusion.gan_training import WEIGHTS_NAME
from tools.runtime.checkpoints import list_resume_checkpoints
from tools.runtime.command import run_command
from tools.runtime.loop import Loop
from tools.train_encoder import __main__ as train_encoder
from tools.train_encoder import learned_classifier
from tools.train_vae import __main__ as train_vae

NUM_STEPS = 16
EXPLODE = "1e30"  # a rate after whose first step nothing is finite


class Training:
    """A command in one folder: what it takes, where it puts its states, and the weights that it ends with."""

    def __init__(self, kind: str, workspace: Workspace, folder: Path) -> None:
        self.kind, self._workspace, self._folder = kind, workspace, folder
        self.states = folder / {"unet": "checkpoints"}.get(kind, "training_state")
        self.weights = folder / {"unet": "checkpoints/ddpm_ckpt.safetensors", "gan": WEIGHTS_NAME, "encoder": WEIGHTS_FILE,
                                 "vae": "diffusion_pytorch_model.safetensors"}[kind]

    def main(self, *, explode: bool = False) -> None:
        """Run the command to its end."""
        forget_accelerator()
        main: Callable[[list[str]], object] = {"unet": train_ddpm_cond.main, "vae": train_vae.main, "gan": train_gan.main,
                                               "encoder": train_encoder.main}[self.kind]
        folder, vae = self._folder, "autoencoder_params.training"
        overrides = {
            "unet": (f"train_params.task_name={folder}", f"train_params.max_steps={NUM_STEPS}", "unet_params.dropout=0.2",
                     "train_params.checkpoint_interval_steps=3", "train_params.ldm_validate_epochs=100"),
            "vae": (f"{vae}.output={folder}", f"{vae}.max_steps={NUM_STEPS}", f"{vae}.max_minutes=null",
                    f"{vae}.adversarial_start=0.25"),
            "gan": (f"gan_params.output={folder}", f"gan_params.max_steps={NUM_STEPS}", "gan_params.width=8",
                    "gan_params.batch_size=8", "train_params.checkpoint_interval_steps=3"),
            "encoder": (f"evaluation_params.classifier_path={folder}",),
        }[self.kind]
        rate = {"unet": "train_params.ldm_lr", "vae": f"{vae}.lr", "gan": "gan_params.lr"}.get(self.kind)
        exploding = (f"{rate}={EXPLODE}",) if explode and rate else ()
        main([*self._workspace.arguments(*overrides, *exploding), *(["--epochs", "4"] if self.kind == "encoder" else [])])

    def end(self, *, explode: bool = False) -> object:
        """Its exit code."""
        with pytest.raises(SystemExit) as ending:
            run_command(lambda: self.main(explode=explode))
        return ending.value.code


KINDS = pytest.mark.parametrize("kind", ["unet", "vae", "gan", "encoder"])


@pytest.fixture
def make(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Training]:
    """A function of kind and name. Those that save by the clock save after each step."""
    for command in (train_vae, train_encoder):
        monkeypatch.setattr(command, "_SECONDS_BETWEEN_STATES", 0.0)
    return lambda kind, name: Training(kind, workspace, tmp_path / name / "same")  # files may hold the folder's name


class Killed(BaseException):
    """Stands for a kill: nothing of ours catches it."""


@KINDS
def test_a_signal_saves_after_the_step_and_after_a_kill_too_the_weights_are_those_of_an_unbroken_training(
    make: Callable[[str, str], Training], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    whole, broken = make(kind, "whole"), make(kind, "broken")
    whole.main()
    end_step = Loop.end_step

    def disturb(loop: Loop, note: str | None) -> None:
        end_step(loop, note)
        if loop.state.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        if loop.state.step == 11:
            raise Killed

    monkeypatch.setattr(Loop, "end_step", disturb)
    capsys.readouterr()
    assert broken.end() == 128 + signal.SIGTERM
    assert capsys.readouterr().err.endswith("saved at step 5; run the same command to resume\n")
    assert list_resume_checkpoints(broken.states)[0].name == "resume-00000005.safetensors"
    assert not broken.weights.exists()
    with pytest.raises(Killed):
        broken.main()
    assert "resuming at step 5" in capsys.readouterr().out
    monkeypatch.undo()
    broken.main()
    assert "resuming at step " in capsys.readouterr().out
    tensors = [load_file(training.weights) for training in (whole, broken)]
    assert tensors[0].keys() == tensors[1].keys()
    assert all(torch.equal(tensor, tensors[1][name]) for name, tensor in tensors[0].items())


@KINDS
def test_a_loss_that_is_not_finite_ends_with_exit_code_3_and_what_to_change(
    make: Callable[[str, str], Training], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    monkeypatch.setattr(learned_classifier, "_PEAK_LR", float(EXPLODE) if kind == "encoder" else 0.0)
    training = make(kind, "wild")
    assert training.end(explode=True) == 3
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("error: step ")
    assert "loss or gradient was not finite 10 times in a row; the last checkpoint is intact" in told
    assert any(change in told for change in ("lower ldm_lr", "lower lr", "lower gan_params.lr", "another train_params.seed"))
    assert not training.weights.exists()
