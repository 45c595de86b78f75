"""Estimates: steps are exact, sizes are those of the real tensors within a factor that is worth printing."""

import dataclasses
import itertools
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL

from config.schema import Config
from dataset.annotations import ImageRecord
from models.unet import count_parameters
from tools.diffusion import estimate
from tools.diffusion.estimate import count_steps, describe_run, list_preparations, measure_matmul_rate
from tools.diffusion.networks import make_unet
from tools.diffusion.project import Project

CPU = torch.device("cpu")


def make_records(train: int, val: int) -> list[ImageRecord]:
    return [ImageRecord(image_id=str(i), path=Path(f"{i}.png"), label=i % 2, group=str(i),
                        split="train" if i < train else "val") for i in range(train + val)]


@pytest.mark.parametrize(("images", "batch", "epochs", "max_steps", "expected"), [
    (138, 24, 2, None, (6, 12)), (144, 24, 2, None, (6, 12)), (145, 24, 2, None, (7, 14)), (5, 24, 3, None, (1, 3)),
    (138, 24, 100, 12, (6, 12)), (138, 24, 1, 12, (6, 6)),
])
def test_steps(make_config: Callable[..., Config], images: int, batch: int, epochs: int, max_steps: int | None,
               expected: tuple[int, int]) -> None:
    config = make_config(train_params={"ldm_batch_size": batch, "epochs": epochs, "max_steps": max_steps})
    assert count_steps(config.train_params, images) == expected


def describe(config: Config, records: list[ImageRecord]) -> str:
    return describe_run(config.dataset_params, config.unet_params, config.train_params, records, CPU)


def test_the_description_counts_what_there_is(make_config: Callable[..., Config]) -> None:
    config = make_config(train_params={"epochs": 3})
    text = describe(config, make_records(20, 6))
    assert f"{count_parameters(make_unet(config)):,}" in text
    assert "train: no_blastocyst 10, blastocyst 10; val: no_blastocyst 3, blastocyst 3" in text
    assert "9 (3 per epoch of 20 images)" in text


def test_conditions_and_views_that_are_inputs_are_counted(make_config: Callable[..., Config]) -> None:
    table = {"csv_file": "table.csv", "root_dir": "images", "image_size": 32, "conditions": {"PLANE": ["0", "1"]}}
    config = make_config(dataset_params={"params": table, "symmetry_conditioning": True})
    text = describe(config, make_records(20, 6))
    more = 32 * (3 + 2)  # planes and their null, and two views, as wide as the time embedding
    assert f"{count_parameters(make_unet(make_config())) + more:,}" in text


def test_memory_grows_with_the_micro_batch_and_not_with_accumulation(make_config: Callable[..., Config]) -> None:
    def megabytes(**train: int) -> int:
        found = re.search(r"memory for training +about (\d+) MiB",
                          describe(make_config(train_params=train), make_records(20, 0)))
        assert found
        return int(found[1])

    small, large = megabytes(ldm_batch_size=64), megabytes(ldm_batch_size=512)
    assert large > 4 * small
    assert megabytes(ldm_batch_size=512, gradient_accumulation_steps=8) == small


def prepare(config: Config, records: list[ImageRecord], name: str) -> list[str]:
    return list_preparations(Project.open(config), records, config_words=["--config", name],
                             selection_metric=config.train_params.selection_metric)


def test_what_is_missing_before_training_is_told_with_the_command(
    make_config: Callable[..., Config], tmp_path: Path
) -> None:
    def told(vae: Path | str, **params: str) -> str:
        table = {"csv_file": "table.csv", "root_dir": "images", "image_size": 32, **params}
        config = make_config(dataset_params={"params": table}, autoencoder_params={
            "pretrained": str(vae), "training": {"output": str(tmp_path / "my vae")}})
        records = [dataclasses.replace(record, group=str(number // 2 if params else number))
                   for number, record in enumerate(make_records(4, 2))]
        return "\n".join(prepare(config, records, "a b.yaml"))

    missing = told(tmp_path / "my vae")
    assert f"VAE: {tmp_path / 'my vae'} is not a local folder; run python -m tools.train_vae --config 'a b.yaml'" in missing
    assert "groups: patients are unknown (group_column: null)" in missing and "every number is then too good" in missing
    assert "if it is a hub id, it will be downloaded" in told("stabilityai/sd-vae-ft-mse", group_column="PATIENT")
    (tmp_path / "my vae").mkdir()
    assert "has no config.json" in told(tmp_path / "my vae")
    AutoencoderKL(block_out_channels=(8,), norm_num_groups=4).save_pretrained(tmp_path / "my vae")
    assert "z_channels" in told(tmp_path / "my vae", group_column="PATIENT")
    widths = {"block_out_channels": (8, 8, 8), "down_block_types": ("DownEncoderBlock2D",) * 3,
              "up_block_types": ("UpDecoderBlock2D",) * 3, "norm_num_groups": 4}
    AutoencoderKL(**widths, latent_channels=4).save_pretrained(tmp_path / "my vae")
    assert told(tmp_path / "my vae", group_column="PATIENT") == ""
    config = make_config(autoencoder_params={"pretrained": str(tmp_path / "my vae")})
    without = prepare(config, make_records(4, 0), "x.yaml")
    assert any("ema_validation_loss needs a val split" in line for line in without)
    start = make_config(autoencoder_params={"pretrained": "none", "training": {"output": "none", "fine_tune": True}})
    assert "pretrained=START, where START is the VAE to fine-tune" in prepare(
        start, make_records(4, 2), "x.yaml")[0]


def test_the_rate_is_of_products_and_their_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()
    monkeypatch.setattr(estimate.time, "perf_counter", lambda: next(clock) / 4)  # a product takes a quarter of a second
    assert measure_matmul_rate(CPU, seconds=1.0, side=64) == 4 * 2 * 64**3 / 1.0
    assert measure_matmul_rate(CPU, seconds=0.3, side=32) == 2 * 2 * 32**3 / 0.5
