"""The commands that are run before training, on the workspace's phantoms and its untrained VAE."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from workspace import Workspace, save_autoencoder, save_tiny_autoencoder

from config.errors import UserError
from dataset.image_bank import ImageBank
from dataset.images import to_uint8
from models.autoencoder import load_codec
from tools import check_symmetries
from tools.check_confounders import __main__ as check_confounders
from tools.check_vae import __main__ as check_vae
from tools.diffusion.project import Project
from tools.evaluation.encoders.encoder import load_encoder
from tools.evaluation.frechet import frechet_distance
from tools.runtime.stages import Stage
from tools.train_vae import __main__ as train_vae


def test_symmetries_of_the_phantoms(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    check_symmetries.main(workspace.arguments())
    shown = capsys.readouterr().out
    assert "138 images of" in shown and "  symmetries: [identity, mirror]" in shown.splitlines()


def test_confounders_are_told_and_written(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    columns = "dataset_params.params.covariate_columns=[pvs_um, seed]"
    check_confounders.main([*workspace.arguments(columns), "--output", str(tmp_path)])
    shown = capsys.readouterr().out
    assert "warning: metadata alone, pvs_um (number)" in shown and "seed: has one value only" in shown
    written = json.loads((tmp_path / "confounders.json").read_text(encoding="utf-8"))
    assert written["num_images"] == 200 and any(source["rivals"] for source in written["sources"])


def test_an_untrained_vae_is_not_good_enough(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_autoencoder(tmp_path / "other", seed=1)
    folders = [str(workspace.root / "vae"), str(tmp_path / "other")]
    check_vae.main([*workspace.arguments(), *(word for folder in folders for word in ("--vae", folder)),
                    "--output", str(tmp_path)])
    shown = capsys.readouterr().out
    assert "30 val images" in shown and "no val images" not in shown and "no VAE is good enough; the least bad is" in shown
    assert "--fine-tune MINUTES" in shown and "LPIPS was not measured" in shown
    assert "FD, precision and recall were not measured: name evaluation_params.squeezenet_path" in shown
    written = json.loads((tmp_path / "vae.json").read_text(encoding="utf-8"))
    assert [vae["name"] for vae in written["vaes"]] == folders
    assert not any(vae["good_enough"] for vae in written["vaes"])
    assert written["vaes"][0]["auc_real"]["value"] > 0.9 > written["vaes"][0]["auc_restored"]["value"]


def test_vaes_of_several_kinds_and_latent_shapes_stand_in_one_table(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_tiny_autoencoder(tmp_path / "tiny16", seed=1, latent_channels=16)
    save_tiny_autoencoder(tmp_path / "tiny4", seed=1)
    save_autoencoder(tmp_path / "colour", seed=1, channels=3, latent_channels=6)
    check_vae.main([*workspace.arguments(), *(word for name in ("tiny16", "tiny4", "colour")
                                              for word in ("--vae", str(tmp_path / name))), "--output", str(tmp_path)])
    shown = capsys.readouterr().out
    rows = [line.split() for line in shown.splitlines() if "x8x8" in line]
    assert [(row[0], row[2]) for row in rows] == [("tiny16", "16x8x8"), ("tiny4", "4x8x8"), ("colour", "6x8x8")]
    vaes = json.loads((tmp_path / "vae.json").read_text(encoding="utf-8"))["vaes"]
    images = ImageBank(Project.open(workspace.config()).images("val")).batch(range(30))
    for vae in vaes:
        errors = load_codec(Path(vae["name"]), im_channels=1).round_trip(images).sub(images).square().mean(dim=(1, 2, 3))
        assert vae["psnr_db"] == pytest.approx(float((10 * (4 / errors).log10()).mean()), abs=1e-3)


def test_the_vae_that_is_fine_tuned_need_not_have_the_configs_latents(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_here(stages: list[Stage]) -> None:
        """The same command without the seconds of another process's start."""
        (stage,) = stages
        assert stage.command[1:3] == ["-m", "tools.train_vae"]
        train_vae.main(stage.command[3:])

    monkeypatch.setattr(check_vae, "run_stages", run_here)
    save_tiny_autoencoder(tmp_path / "tiny", seed=1, latent_channels=16)
    check_vae.main([*workspace.arguments("autoencoder_params.training.max_steps=3"), "--vae", str(tmp_path / "tiny"),
                    "--fine-tune", "0.5", "--output", str(tmp_path)])
    _, after = json.loads((tmp_path / "vae.json").read_text(encoding="utf-8"))["vaes"]
    assert after["name"] == str(tmp_path / "fine_tuned") and after["cost"]["latent_shape"] == [16, 8, 8]
    capsys.readouterr()
    check_vae.main([*workspace.arguments(), "--vae", str(tmp_path / "tiny")])
    command = next(line for line in capsys.readouterr().out.splitlines() if "tools.train_vae" in line)
    assert f"--set autoencoder_params.pretrained={tmp_path / 'tiny'} --set dataset_params.z_channels=16 --set" in command
    assert "latent_size" not in command and "subfolder" not in command


def test_untrained_features_compare_vaes_where_no_weights_are_given(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_autoencoder(tmp_path / "other", seed=1)
    folders = [workspace.root / "vae", tmp_path / "other"]
    split = ("dataset_params.params.split_column=null",
             "dataset_params.params.split_fractions={train: 0.5, val: 0.4, test: 0.1}")
    check_vae.main([*workspace.arguments(*split), *(word for folder in folders for word in ("--vae", str(folder))),
                    "--output", str(tmp_path)])
    found = [vae["distances"]["untrained_conv"] for vae in
             json.loads((tmp_path / "vae.json").read_text(encoding="utf-8"))["vaes"]]
    held = Project.open(workspace.config(*split)).images("val")
    images = ImageBank(held).batch(range(len(held.records)))
    encoder = load_encoder("untrained_conv", weights_path=None)

    def encode(batch: torch.Tensor) -> np.ndarray:
        return encoder.encode(to_uint8(batch.numpy()).transpose(0, 2, 3, 1))

    distances = [frechet_distance(encode(images), encode(load_codec(folder, im_channels=1).round_trip(images)))
                 for folder in folders]
    assert found[0] / found[1] == pytest.approx(distances[0] / distances[1], rel=0.01)  # both over the training images'
    shown = capsys.readouterr().out
    assert min(found) > 2 and "(by untrained_conv features)" in shown and "times that of as many training images" in shown


def test_test_images_choose_a_vae_only_where_there_are_none_of_val(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    check_vae.main(workspace.arguments("dataset_params.params.split_column=null",
                                       "dataset_params.params.split_fractions={train: 0.8, test: 0.2}"))
    shown = capsys.readouterr().out
    assert " test images; octaves" in shown
    assert "note: there are no val images, so that the VAE is chosen on the test images" in shown


def test_fine_tuning_is_run_and_measured(workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(workspace.root / "vae", tmp_path / "vae")
    check_vae.main([*workspace.arguments("autoencoder_params.training.max_steps=40"), "--vae", str(tmp_path / "vae"),
                    "--fine-tune", "5", "--output", str(tmp_path)])
    before, after = json.loads((tmp_path / "vae.json").read_text(encoding="utf-8"))["vaes"]
    assert after["name"] == str(tmp_path / "fine_tuned") and after["psnr_db"] > before["psnr_db"] + 3
    seconds = json.loads((tmp_path / "fine_tuned/training.json").read_text(encoding="utf-8"))["seconds"]
    assert (before["cost"]["training_seconds"], after["cost"]["training_seconds"]) == (None, seconds)
    assert before["cost"]["num_parameters"] == after["cost"]["num_parameters"] == sum(
        weights.numel() for weights in load_file(tmp_path / "vae/diffusion_pytorch_model.safetensors").values())
    data = workspace.config().dataset_params
    assert after["cost"]["latent_shape"] == [data.z_channels, data.latent_size, data.latent_size]
    assert capsys.readouterr().out.count("rule: a VAE is good enough") == 2


def test_refusals(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--fine-tune: expected minutes above 0 and --output"):
        check_vae.main([*workspace.arguments(), "--fine-tune", "1"])
    with pytest.raises(UserError, match=r"--vae .*: expected a local folder .* or an id on the hub; .*nor obtainable"):
        check_vae.main([*workspace.arguments(), "--vae", str(tmp_path / "absent")])
    with pytest.raises(UserError, match="expected images outside the training split"):
        check_vae.main(workspace.arguments("dataset_params.params.split_column=null",
                                           "dataset_params.params.split_fractions={train: 1.0}"))
