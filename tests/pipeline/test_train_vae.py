"""The autoencoder's training: it learns, what it saves is read, and it goes on where it stopped."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from workspace import Workspace

from config.errors import UserError
from dataset.image_bank import ImageBank
from models.autoencoder import load_codec
from tools import train_vae
from tools.runtime.checkpoints import list_resume_checkpoints
from tools.runtime.command import run_command
from tools.runtime.data import find_autoencoder, open_images

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def trained(workspace: Workspace) -> Path:
    """A VAE after sixty steps."""
    train_vae.main(workspace.arguments())
    return workspace.root / "trained_vae"


def output(folder: Path) -> str:
    return f"autoencoder_params.training.output={folder}"


def test_sixty_steps_restore_images_better_than_a_gray_surface(workspace: Workspace, trained: Path) -> None:
    record = json.loads((trained / "training.json").read_text(encoding="utf-8"))
    assert record["steps"] == 60
    pixels = ImageBank(open_images(workspace.config(), "val")).batch(range(30))
    gray = pixels.mean(dim=(2, 3), keepdim=True).sub(pixels).square().mean(dim=(1, 2, 3))
    gray_psnr = float((10 * (4 / gray).log10()).mean())
    assert record["psnr_db"] > gray_psnr + 1.0
    restored = load_codec(trained, im_channels=1).round_trip(pixels)
    psnr = float((10 * (4 / (restored - pixels).square().mean(dim=(1, 2, 3))).log10()).mean())
    assert psnr == pytest.approx(record["psnr_db"], abs=0.01)


def test_a_vae_that_is_still_to_be_trained_is_named_with_its_command(workspace: Workspace, tmp_path: Path) -> None:
    folder = tmp_path / "my_vae"
    with pytest.raises(UserError, match=rf"found no folder {folder}; run `python -m tools.train_vae` with the same config"):
        find_autoencoder(workspace.config(f"autoencoder_params.pretrained={folder}", output(folder)))


def test_the_folder_is_whole_and_holds_half_precision(trained: Path) -> None:
    assert sorted(path.name for path in trained.iterdir()) == ["PATIENT_DATA.txt", "config.json", WEIGHTS, "training.json"]
    assert {tensor.dtype for tensor in load_file(trained / WEIGHTS).values()} == {torch.float16}
    assert json.loads((trained / "config.json").read_text(encoding="utf-8"))["_class_name"] == "AutoencoderKL"
    assert "patients" in json.loads((trained / "training.json").read_text(encoding="utf-8"))["note"]


def test_a_finished_folder_is_left_alone(
    workspace: Workspace, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (trained / WEIGHTS).stat().st_mtime_ns
    train_vae.main(workspace.arguments())
    assert "holds a finished VAE" in capsys.readouterr().out
    assert (trained / WEIGHTS).stat().st_mtime_ns == before


def test_a_finished_folder_of_other_settings_is_refused(workspace: Workspace, trained: Path) -> None:
    assert trained.is_dir()
    for key in ("autoencoder_params.training.max_steps=61", "autoencoder_params.training.lr=0.004", "train_params.seed=6"):
        with pytest.raises(UserError, match="holds a finished VAE of other settings, limits, images or LPIPS weights;"):
            train_vae.main(workspace.arguments(key))


def test_a_training_that_diverges_ends(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="was not finite 10 times in a row"):
        train_vae.main(workspace.arguments(output(tmp_path / "vae"), "autoencoder_params.training.lr=1e30"))
    assert not (tmp_path / "vae/training.json").exists()


def test_an_interrupted_training_goes_on(workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "vae"
    arguments = workspace.arguments(output(folder), "autoencoder_params.training.max_steps=400")
    started = threading.Event()
    handler = signal.getsignal(signal.SIGINT)

    def send() -> None:
        while signal.getsignal(signal.SIGINT) is handler:  # until the training has taken over the signals
            time.sleep(0.002)
        started.set()
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGTERM)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    with pytest.raises(SystemExit) as ending:
        run_command(lambda: train_vae.main(arguments))
    sender.join()
    assert ending.value.code == 143
    assert "run the same command to go on" in capsys.readouterr().err
    (state,) = list_resume_checkpoints(folder / "training_state")
    stopped = int(state.stem.removeprefix("resume-"))
    assert 0 < stopped < 400
    assert not (folder / WEIGHTS).exists()

    with pytest.raises(UserError, match="belongs to a training with other settings or images"):
        train_vae.main([*arguments, "--set", "autoencoder_params.training.lr=0.001"])
    train_vae.main([*arguments, "--set", f"autoencoder_params.training.max_steps={stopped + 5}"])
    assert f"going on at step {stopped}" in capsys.readouterr().out
    assert json.loads((folder / "training.json").read_text(encoding="utf-8"))["steps"] == stopped + 5
    assert not (folder / "training_state").exists()


def test_without_a_limit_in_minutes_a_training_can_be_repeated(workspace: Workspace, tmp_path: Path) -> None:
    steps = ("autoencoder_params.training.max_minutes=null", "autoencoder_params.training.max_steps=8",
             "autoencoder_params.training.adversarial_start=0.25")
    for name in ("first", "second"):
        train_vae.main(workspace.arguments(*steps, output(tmp_path / name)))
    assert (tmp_path / "first" / WEIGHTS).read_bytes() == (tmp_path / "second" / WEIGHTS).read_bytes()


def test_fine_tuning_starts_from_the_pretrained_weights(workspace: Workspace, trained: Path, tmp_path: Path) -> None:
    overrides = (f"autoencoder_params.pretrained={trained}", "autoencoder_params.training.fine_tune=true",
                 "autoencoder_params.training.max_steps=2", output(tmp_path / "tuned"))
    train_vae.main(workspace.arguments(*overrides))
    before, after = load_file(trained / WEIGHTS), load_file(tmp_path / "tuned" / WEIGHTS)
    assert before.keys() == after.keys()
    distance = max(float((before[name].float() - after[name].float()).abs().max()) for name in before)
    assert 0 < distance < 0.02  # two steps at the beginning of the warm-up


def test_what_cannot_be_trained_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"training\.channels: 2 levels halve the image 1 times, .* is 4; expected 3 levels"):
        train_vae.main(workspace.arguments(output(tmp_path / "vae"), "autoencoder_params.training.channels=[8,16]"))
    with pytest.raises(UserError, match=r"perceptual_weight needs dataset_params\.lpips_path"):
        train_vae.main(workspace.arguments("autoencoder_params.training.perceptual_weight=0.1"))
    with pytest.raises(UserError, match=r"the VAE takes 1 channels, the images have 3|takes 1-channel images.* is 3"):
        train_vae.main(workspace.arguments(output(tmp_path / "vae"), "autoencoder_params.training.fine_tune=true",
                                           "dataset_params.params.im_channels=3"))
    with pytest.raises(UserError, match=r"expected weights to start from, .*name them, .*pretrained=START"):
        train_vae.main(workspace.arguments(output(tmp_path / "vae"), "autoencoder_params.training.fine_tune=true",
                                           f"autoencoder_params.pretrained={tmp_path / 'vae'}"))
    assert not (tmp_path / "vae").exists()
