"""A VAE whose file carries the attention names of before 2023 goes through the commands as the one with today's names."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from workspace import Workspace, forget_accelerator

import sample_ddpm_class_cond
import train_ddpm_cond
from dataset.decoding import decode_image
from tools import evaluate

WEIGHTS = "diffusion_pytorch_model.safetensors"
LEGACY = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def save_vaes(root: Path) -> None:
    """One VAE with attention, 32 px to 4 x 8 x 8, under today's names in `new` and under the former ones in `legacy`."""
    torch.manual_seed(0)
    AutoencoderKL(
        in_channels=1, out_channels=1, down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3, block_out_channels=(8, 8, 8), norm_num_groups=4, sample_size=32,
    ).save_pretrained(root / "new")
    renamed = {}
    for name, tensor in load_file(root / "new" / WEIGHTS).items():
        for new, old in LEGACY.items():
            name = name.replace(f".attentions.0.{new}.", f".attentions.0.{old}.")
        renamed[name] = tensor
    (root / "legacy").mkdir()
    (root / "legacy/config.json").write_bytes((root / "new/config.json").read_bytes())
    save_file(renamed, root / "legacy" / WEIGHTS)
    assert sum(".query." in name for name in renamed) == 4  # weight and bias of the encoder's and the decoder's layer


def read_pixels(folder: Path) -> np.ndarray:
    return np.stack([decode_image(path) for path in sorted((folder / "images").iterdir())])


def test_a_legacy_named_vae_trains_samples_and_evaluates(
    workspace: Workspace, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    save_vaes(tmp_path)
    shown = {}
    for name in ("new", "legacy"):
        arguments = workspace.arguments(
            f"autoencoder_params.pretrained={tmp_path / name}", f"train_params.task_name={tmp_path / name}_run",
            f"dataset_params.directory_latents={tmp_path / name}_latents", "train_params.max_steps=2",
            f"dataset_params.directory_inception_features={tmp_path / name}_features", "evaluation_params.encoders=[vae]",
            "evaluation_params.judge_path=null", "evaluation_params.max_pairs=4", "evaluation_params.repeats=2",
            "evaluation_params.bootstrap_repeats=4",
        )
        capfd.readouterr()
        train_ddpm_cond.main(arguments)
        forget_accelerator()
        images = ["--per-class", "8", "--no-metrics", "--output", str(tmp_path / f"{name}_images")]
        sample_ddpm_class_cond.main([*arguments, *images])
        forget_accelerator()
        evaluate.main([*arguments, "--synthetic", str(tmp_path / f"{name}_images"), "--output",
                       str(tmp_path / f"{name}_evaluation")])
        shown[name] = capfd.readouterr()
    made = [read_pixels(tmp_path / f"{name}_images") for name in shown]
    assert made[0].shape == (16, 32, 32) and np.array_equal(*made)
    rows = [json.loads((tmp_path / f"{name}_evaluation/evaluation.json").read_text(encoding="utf-8"))["rows"]
            for name in shown]
    values = [{(row["metric"].partition("@")[0], row["class"], row["comparison"]): row["value"] for row in each
               if row["value"] is not None} for each in rows]
    assert values[0] == values[1]
    assert sum(metric == "KD[vae" for metric, _, _ in values[0]) > 1  # read by the VAE's own encoder
    assert "deprecat" not in "".join(shown["legacy"]).lower()
