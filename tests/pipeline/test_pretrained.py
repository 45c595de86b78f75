"""A pretrained UNet is fine-tuned, whole and by LoRA, stopped and resumed bit for bit, sampled and evaluated."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from workspace import Workspace, forget_accelerator

import sample_ddpm_class_cond
import train_ddpm_cond
from config.errors import UserError
from tools.diffusion.networks import BASE_KEY, hash_base, make_network
from tools.runtime.checkpoints import read_checkpoint, resume_path
from tools.runtime.run_directory import RunDirectory

COMMON = ("dataset_params.condition_types=[context_class]", "diffusion_params.beta_start=0.00085",
          "diffusion_params.beta_end=0.012", "diffusion_params.schedule=scaled_linear",
          "diffusion_params.prediction_type=epsilon", "train_params.epochs=100", "train_params.lr_schedule=constant",
          "evaluation_params.encoders=[vae]", "evaluation_params.judge_path=null")


def save_base(root: Path, *, seed: int) -> Path:
    torch.manual_seed(seed)
    UNet2DConditionModel(sample_size=8, block_out_channels=(8, 8, 16, 16), layers_per_block=1, norm_num_groups=4,
                         attention_head_dim=2, cross_attention_dim=16).save_pretrained(root / "unet")
    (root / "scheduler").mkdir(exist_ok=True)
    (root / "scheduler/scheduler_config.json").write_text(json.dumps({
        "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}), encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("sd"), seed=0)


def overrides(workspace: Workspace, base: Path, name: str, steps: int, *further: str) -> list[str]:
    return workspace.arguments(*COMMON, workspace.task(name), f"unet_params.pretrained={base}",
                               f"train_params.max_steps={steps}", *further)


@pytest.mark.parametrize("way", ["whole", "lora"])
def test_it_trains_resumes_samples_and_evaluates(workspace: Workspace, base: Path, way: str) -> None:
    further = ("unet_params.lora_rank=2", "unet_params.gradient_checkpointing=true") if way == "lora" else ()
    runs = {}
    for name, parts in ((f"{way}_unbroken", [8]), (f"{way}_broken", [4, 8])):
        for steps in parts:
            train_ddpm_cond.main(overrides(workspace, base, name, steps, *further))
            forget_accelerator()
        runs[name] = read_checkpoint(resume_path(RunDirectory(workspace.run(name)).checkpoints, 8))[0]
    unbroken, broken = runs.values()
    assert all(torch.equal(tensor, broken[name]) for name, tensor in unbroken.items())
    weights = RunDirectory(workspace.run(f"{way}_broken")).checkpoints / workspace.config().train_params.ldm_ckpt_name
    tensors, values = read_checkpoint(weights)
    assert values[BASE_KEY] == hash_base(workspace.config(*COMMON, f"unet_params.pretrained={base}").unet_params)
    assert values["latent_statistics"]["std"] == [1 / 0.18215] * 4 and values["latent_statistics"]["mean"] == [0.0] * 4
    size = sum(tensor.numel() for tensor in tensors.values())
    total = sum(p.numel() for p in UNet2DConditionModel.from_pretrained(base / "unet").parameters())
    assert size > total if way == "whole" else size < total / 4
    sample_ddpm_class_cond.main([*overrides(workspace, base, f"{way}_broken", 8, *further)])
    samples = workspace.run(f"{way}_broken") / "samples"
    assert len(list((samples / "images").iterdir())) == 36 and (samples / "evaluation.json").is_file()


def test_another_base_or_process_is_refused_by_name(workspace: Workspace, base: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"was trained with another process; set prediction_type: epsilon"):
        train_ddpm_cond.main(overrides(workspace, base, "wrong", 2, "diffusion_params.prediction_type=v"))
    forget_accelerator()
    with pytest.raises(UserError, match="latent_size: expected a multiple of 8 for the UNet"):
        make_network(workspace.config(*COMMON, "dataset_params.latent_size=4").dataset_params,
                     workspace.config(*COMMON, f"unet_params.pretrained={base}").unet_params)
    own = save_base(tmp_path / "sd", seed=0)
    train_ddpm_cond.main(overrides(workspace, own, "moved", 2))
    forget_accelerator()
    train_ddpm_cond.main(overrides(workspace, base, "moved", 3))  # the same weights in another place
    forget_accelerator()
    save_base(own, seed=4)
    with pytest.raises(UserError, match=r"started from another UNet than unet_params\.pretrained"):
        sample_ddpm_class_cond.main([*overrides(workspace, own, "moved", 3), "--no-metrics"])
    forget_accelerator()
    with pytest.raises(UserError, match="belongs to a training with other images, labels, VAE or pretrained UNet"):
        train_ddpm_cond.main(overrides(workspace, own, "moved", 4))


def test_a_dry_run_counts_what_is_trained(workspace: Workspace, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_ddpm_cond.main([*overrides(workspace, base, "dry", 2, "unet_params.lora_rank=2"), "--dry-run"])
    lora = capsys.readouterr().out
    train_ddpm_cond.main([*overrides(workspace, base, "dry", 2), "--dry-run"])
    whole = capsys.readouterr().out
    counts = [int(line.split()[-1].replace(",", "")) for text in (lora, whole) for line in text.splitlines()
              if line.startswith("parameters")]
    assert counts[0] < counts[1] / 4
