"""The autoencoder's training: it learns, what it saves is read, and it goes on where it stopped."""

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, VQModel
from safetensors.torch import load_file
from workspace import Workspace, save_autoencoder, save_tiny_autoencoder

from config.errors import UserError
from dataset.image_bank import ImageBank
from dataset.order import generator, normal
from models.autoencoder import load_codec
from tools.diffusion.project import Project
from tools.runtime.checkpoints import list_resume_checkpoints
from tools.runtime.command import run_command
from tools.train_vae import __main__ as train_vae
from tools.train_vae.trainer import VaeTrainer

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
    pixels = ImageBank(Project.open(workspace.config()).images("val")).batch(range(30))
    gray = pixels.mean(dim=(2, 3), keepdim=True).sub(pixels).square().mean(dim=(1, 2, 3))
    gray_psnr = float((10 * (4 / gray).log10()).mean())
    assert record["psnr_db"] > gray_psnr + 1.0
    restored = load_codec(trained, im_channels=1).round_trip(pixels)
    psnr = float((10 * (4 / (restored - pixels).square().mean(dim=(1, 2, 3))).log10()).mean())
    assert psnr == pytest.approx(record["psnr_db"], abs=0.01)


def test_a_vae_that_is_still_to_be_trained_is_named_with_its_command(workspace: Workspace, tmp_path: Path) -> None:
    folder = tmp_path / "my_vae"
    with pytest.raises(UserError, match=rf"found no folder {folder}; run `python -m tools.train_vae` with the same config"):
        _ = Project.open(workspace.config(f"autoencoder_params.pretrained={folder}", output(folder))).vae_folder


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
    assert "run the same command to resume" in capsys.readouterr().err
    (state,) = list_resume_checkpoints(folder / "training_state")
    stopped = int(state.stem.removeprefix("resume-"))
    assert 0 < stopped < 400
    assert not (folder / WEIGHTS).exists()

    with pytest.raises(UserError, match="belongs to a training with other settings or images"):
        train_vae.main([*arguments, "--set", "autoencoder_params.training.lr=0.001"])
    train_vae.main([*arguments, "--set", f"autoencoder_params.training.max_steps={stopped + 5}"])
    assert f"resuming at step {stopped}" in capsys.readouterr().out
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


def fine_tuning(start: Path, result: Path, *overrides: str) -> tuple[str, ...]:
    return (f"autoencoder_params.pretrained={start}", "autoencoder_params.training.fine_tune=true", output(result),
            "autoencoder_params.training.max_minutes=null", *overrides)


@pytest.mark.parametrize("kind", ["AutoencoderTiny", "AutoencoderKL"])
def test_a_colour_vae_is_fine_tuned_on_gray_images(
    workspace: Workspace, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    start, result = tmp_path / "start", tmp_path / "tuned"
    if kind == "AutoencoderTiny":
        save_tiny_autoencoder(start, seed=0)
    else:
        save_autoencoder(start, seed=0, channels=3)
    train_vae.main(workspace.arguments(*fine_tuning(start, result, "autoencoder_params.training.max_steps=40")))
    shown = capsys.readouterr().out
    record = json.loads((result / "training.json").read_text(encoding="utf-8"))
    assert record["psnr_db"] > record["psnr_db_before"] + 3
    assert f"before fine-tuning: round trip PSNR {record['psnr_db_before']:.2f} dB on the val images" in shown
    assert f"({record['psnr_db_before']:.2f} dB before fine-tuning)" in shown and "WORSE" not in shown
    assert ("kl_weight is not used" in shown) == (kind == "AutoencoderTiny")
    before, after = load_file(start / WEIGHTS), load_file(result / WEIGHTS)
    assert before.keys() == after.keys() and {tensor.dtype for tensor in after.values()} == {torch.float16}
    moved = [name for name in before if not torch.equal(before[name].half(), after[name])]
    assert any(name.startswith("encoder.") for name in moved) and any(name.startswith("decoder.") for name in moved)
    caplog.clear()
    reference = {"AutoencoderTiny": AutoencoderTiny, "AutoencoderKL": AutoencoderKL}[kind].from_pretrained(result)
    assert reference.config.in_channels == 3 and "will be ignored" not in caplog.text


@torch.no_grad()
@pytest.mark.parametrize("kind", ["AutoencoderTiny", "AutoencoderKL"])
def test_training_sees_what_the_codec_gives_back(workspace: Workspace, tmp_path: Path, kind: str) -> None:
    if kind == "AutoencoderTiny":
        save_tiny_autoencoder(tmp_path / "vae", seed=0)
    else:
        save_autoencoder(tmp_path / "vae", seed=0, channels=3)
    config = workspace.config(*fine_tuning(tmp_path / "vae", tmp_path / "tuned"))
    trainer = VaeTrainer(Project.open(config), grain_std=0.1, seed=config.train_params.seed)
    assert trainer.last_layer is (trainer.vae.decoder.layers[-1] if kind == "AutoencoderTiny" else
                                  trainer.vae.decoder.conv_out)
    pixels = ImageBank(Project.open(config).images("val")).batch(range(4))
    codec = load_codec(tmp_path / "vae", im_channels=1)
    restored, penalty = trainer._restore(pixels, step=0, seed=0)
    again, _ = trainer._restore(pixels, step=1, seed=0)
    if kind == "AutoencoderTiny":
        assert penalty == 0 and torch.equal(restored, again)  # no posterior: nothing is drawn
    else:
        assert float(penalty) > 0 and not torch.equal(restored, again)
    mean, std = codec.encode(pixels)
    noise = normal(generator(0, "vae posterior", 0), mean.shape)
    torch.testing.assert_close(restored, codec.vae.decode(mean + std * noise).sample.mean(dim=1, keepdim=True), atol=1e-5,
                               rtol=0)  # not clamped: what leaves the range has a gradient


def test_a_killed_fine_tuning_goes_on_bit_for_bit(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_tiny_autoencoder(tmp_path / "start", seed=0)
    steps = ("autoencoder_params.training.max_steps=12", "autoencoder_params.training.adversarial_start=0.25")
    train_vae.main(workspace.arguments(*fine_tuning(tmp_path / "start", tmp_path / "whole", *steps)))
    train_step = VaeTrainer.train_step

    def killed(trainer: VaeTrainer, pixels: torch.Tensor, *, step: int, **rest: Any) -> str:
        if step == 7:
            raise RuntimeError("killed")
        return train_step(trainer, pixels, step=step, **rest)

    arguments = workspace.arguments(*fine_tuning(tmp_path / "start", tmp_path / "killed", *steps))
    with monkeypatch.context() as patch:
        patch.setattr(train_vae, "_SECONDS_BETWEEN_STATES", 0.0)
        patch.setattr(VaeTrainer, "train_step", killed)
        with pytest.raises(RuntimeError, match="killed"):
            train_vae.main(arguments)
    capsys.readouterr()
    train_vae.main(arguments)
    assert "resuming at step 7" in capsys.readouterr().out
    assert (tmp_path / "killed" / WEIGHTS).read_bytes() == (tmp_path / "whole" / WEIGHTS).read_bytes()


def test_a_fine_tuning_that_makes_the_vae_worse_says_so(
    workspace: Workspace, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_vae.main(workspace.arguments(*fine_tuning(trained, tmp_path / "tuned", "autoencoder_params.training.max_steps=4",
                                                    "autoencoder_params.training.lr=2.0")))
    record = json.loads((tmp_path / "tuned/training.json").read_text(encoding="utf-8"))
    assert record["psnr_db"] < record["psnr_db_before"]
    assert f"WORSE than the {record['psnr_db_before']:.2f} dB before fine-tuning" in capsys.readouterr().out


def test_without_a_rate_fine_tuning_takes_a_tenth_of_that_of_fresh_weights(workspace: Workspace) -> None:
    null = "autoencoder_params.training.lr=null"
    fresh = workspace.config(null)
    tuned = workspace.config(null, f"autoencoder_params.pretrained={workspace.root / 'vae'}",
                             "autoencoder_params.training.fine_tune=true")
    rates = [config.autoencoder_params.training.peak_lr for config in (fresh, tuned)]
    assert rates == [1e-3, 1e-4]
    same = workspace.config("autoencoder_params.training.lr=0.001")
    made = [train_vae.training_identity(Project.open(config), config.train_params.seed) for config in (fresh, same)]
    assert made[0] == made[1]  # what a VAE was trained by keeps its key
    trainer = VaeTrainer(Project.open(tuned), grain_std=0.1, seed=tuned.train_params.seed)
    assert trainer.vae_optimizer.defaults["lr"] == trainer.disc_optimizer.defaults["lr"] == 1e-4


def test_a_vae_of_another_kind_is_not_fine_tuned(workspace: Workspace, tmp_path: Path) -> None:
    VQModel(in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(8, 8, 8), norm_num_groups=4,
            down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
            num_vq_embeddings=16).save_pretrained(tmp_path / "vq")
    with pytest.raises(UserError, match="expected one of AutoencoderKL, AutoencoderTiny, found VQModel"):
        train_vae.main(workspace.arguments(*fine_tuning(tmp_path / "vq", tmp_path / "tuned")))


def test_what_cannot_be_trained_is_refused(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"training\.channels: 2 levels halve the image 1 times, .* is 4; expected 3 levels"):
        train_vae.main(workspace.arguments(output(tmp_path / "vae"), "autoencoder_params.training.channels=[8,16]"))
    with pytest.raises(UserError, match=r"perceptual_weight needs dataset_params\.lpips_path"):
        train_vae.main(workspace.arguments("autoencoder_params.training.perceptual_weight=0.1"))
    with pytest.raises(UserError, match=r"the VAE takes 1 channels, the images have 3|takes 1-channel images.* is 3"):
        train_vae.main(workspace.arguments(output(tmp_path / "vae"), "autoencoder_params.training.fine_tune=true",
                                           "dataset_params.params.im_channels=3"))
    with pytest.raises(UserError, match=r"expected weights to start from, .*; name .* hub id .*pretrained=START"):
        train_vae.main(workspace.arguments(output(tmp_path / "vae"), "autoencoder_params.training.fine_tune=true",
                                           f"autoencoder_params.pretrained={tmp_path / 'vae'}"))
    assert not (tmp_path / "vae").exists()
