"""The commands that are run before training, on the workspace's phantoms and its untrained VAE."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file
from workspace import Workspace, save_autoencoder

from config.errors import UserError
from tools import check_confounders, check_symmetries, check_vae


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
                    "--fine-tune", "0.5", "--output", str(tmp_path)])
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
    with pytest.raises(UserError, match="expected a local folder that diffusers' save_pretrained wrote"):
        check_vae.main([*workspace.arguments(), "--vae", str(tmp_path / "absent")])
    with pytest.raises(UserError, match="expected images outside the training split"):
        check_vae.main(workspace.arguments("dataset_params.params.split_column=null",
                                           "dataset_params.params.split_fractions={train: 1.0}"))
