"""Who owns a run directory and which config may go on in it."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from config.errors import UserError
from config.load import load_config
from config.schema import Config
from tools.runtime.run_directory import RunDirectory, owned


def test_the_config_that_is_recorded_is_the_one_that_is_read_back(
    tmp_path: Path, make_config: Callable[..., Config]
) -> None:
    run, config = RunDirectory(tmp_path / "run"), make_config()
    run.check_resumable(config)  # nothing there yet
    run.write_config(config)
    assert load_config(run.config) == config
    run.check_resumable(config)


@pytest.mark.parametrize(("section", "key", "value", "told"), [
    ("train_params", "ldm_lr", 0.1, r"train_params\.ldm_lr was 0\.003, is 0\.1"),
    ("train_params", "seed", 3, r"train_params\.seed was 1111, is 3"),
    ("dataset_params", "symmetry_conditioning", True, r"symmetry_conditioning was false, is true"),
    ("diffusion_params", "prediction_type", "epsilon", r'diffusion_params\.prediction_type was "v", is "epsilon"'),
    ("dataset_params", "symmetries", ["identity"], r'symmetries was \["identity", "mirror"\], is \["identity"\]'),
])
def test_what_changes_the_steps_is_refused(
    tmp_path: Path, make_config: Callable[..., Config], section: str, key: str, value: object, told: str
) -> None:
    run = RunDirectory(tmp_path)
    run.write_config(make_config())
    with pytest.raises(UserError, match=f"{told}; restore these keys to resume"):
        run.check_resumable(make_config(**{section: {key: value}}))


@pytest.mark.parametrize(("section", "values"), [
    ("train_params", {"epochs": 7, "num_samples": 9, "checkpoint_interval_steps": 3, "keep_last_checkpoints": 1}),
    ("train_params", {"max_steps": 17}), ("train_params", {"resume_training": False}),
    ("dataset_params", {"directory_latents": "elsewhere", "directory_inception_features": "there"}),
    ("dataset_params", {"params": {"csv_file": "table.csv", "root_dir": "images", "im_channels": 1, "image_size": 32,
                                   "um_per_px": 0.3, "covariate_columns": ["CLINIC"]}}),
    ("dataset_params", {"lpips_path": "weights.pth"}),
    ("dataset_params", {"params": {"csv_file": "moved.csv", "root_dir": "moved", "im_channels": 1, "image_size": 32}}),
    ("autoencoder_params", {"pretrained": "moved", "subfolder": "vae"}),
    ("autoencoder_params", {"batch_size": 3, "training": {"lr": 0.5}}),
    ("sample_params", {"num_steps": 5}),
    ("evaluation_params", {"max_pairs": 5, "encoders": ["vae"], "squeezenet_preset": "imagenet-min64"}),
    ("logging_params", {"wandb_mode": "offline"}),
])
def test_what_does_not_change_them_passes(
    tmp_path: Path, make_config: Callable[..., Config], section: str, values: dict[str, object]
) -> None:
    run = RunDirectory(tmp_path)
    run.write_config(make_config())
    run.check_resumable(make_config(**{section: values}))


def test_a_run_goes_on_under_software_that_has_more_keys(tmp_path: Path, make_config: Callable[..., Config]) -> None:
    run = RunDirectory(tmp_path)
    run.write_config(make_config())
    old = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    del old["dataset_params"]["params"]["conditions"], old["dataset_params"]["params"]["covariate_columns"]
    run.config.write_text(yaml.safe_dump(old), encoding="utf-8")
    run.check_resumable(make_config())
    old["train_params"]["no_more"] = 3
    run.config.write_text(yaml.safe_dump(old), encoding="utf-8")
    with pytest.raises(UserError, match=r"train_params\.no_more was 3, is null"):
        run.check_resumable(make_config())


def test_a_broken_record_is_refused(tmp_path: Path, make_config: Callable[..., Config]) -> None:
    (tmp_path / "config.yaml").write_text("a: [1", encoding="utf-8")
    with pytest.raises(UserError, match=r"config\.yaml: not valid YAML; restore it"):
        RunDirectory(tmp_path).check_resumable(make_config())


def test_one_owner_at_a_time_and_a_dead_one_leaves_no_lock(tmp_path: Path) -> None:
    refusal = pytest.raises(UserError, match=r"is in use by training \(process \d+\); wait for it")
    with owned(tmp_path / "run", "training"), refusal, owned(tmp_path / "run", "sampling"):
        pass
    dying = ("import os, sys\nfrom pathlib import Path\nfrom tools.runtime.run_directory import owned\n"
             "with owned(Path(sys.argv[1]), 'the dead'):\n    os._exit(9)\n")
    assert subprocess.run([sys.executable, "-c", dying, str(tmp_path / "run")], cwd=Path(__file__).parents[2],
                          timeout=60, check=False).returncode == 9
    with owned(tmp_path / "run", "training") as run:
        assert run.root == tmp_path / "run"


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    told = r"file/run: the folder cannot be made \(Not a directory\): a file is where a folder should be; remove it"
    with pytest.raises(UserError, match=told), owned(tmp_path / "file" / "run", "training"):
        pass
