"""Audit whether the trained model's denoising loss tells the patients it was trained on from others."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from config.errors import UserError
from config.load import config_to_yaml, load_config
from config.paths import as_path
from config.schema import Config
from dataset.storage import hash_file, write_json, write_text
from tools.diffusion.project import Project
from tools.diffusion.trained_model import load_trained_model
from tools.membership_audit.attack import MembershipAudit, audit_membership
from tools.membership_audit.losses import denoising_losses, is_canary, plant_canaries
from tools.runtime.command import add_config, run_command
from tools.runtime.machine import choose_device
from tools.runtime.run_directory import RunDirectory
from tools.runtime.stages import Stage, our_command, run_stages


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.membership_audit", description=__doc__)
    add_config(parser, "YAML config of the trained run")
    parser.add_argument("--checkpoint", type=as_path, help="weights; default <task_name>/checkpoints/<ldm_ckpt_name>")
    parser.add_argument("--output", type=as_path, metavar="DIR", help="where the numbers go; default <task_name>/membership")
    parser.add_argument("--plant-canaries", type=int, metavar="K",
                        help="positive control: train another run with K held-out images planted, and audit that one")
    parser.add_argument("--repeats", type=int, default=50, metavar="R", help="times that each canary is trained on an epoch")
    arguments = parser.parse_args(argv)
    config = load_config(arguments.config, arguments.set)
    output = arguments.output or Path(config.train_params.task_name) / "membership"
    if arguments.plant_canaries is None:
        audits = audit(config, arguments.checkpoint)
    else:
        if arguments.checkpoint is not None:
            raise UserError("--checkpoint names weights that exist; --plant-canaries trains its own: give one of the two")
        config = plant_canaries(config, output / "canaries", count=arguments.plant_canaries, repeats=arguments.repeats)
        path = output / "canaries" / "config.yaml"
        write_text(path, config_to_yaml(config))
        run_stages([Stage("training with canaries", our_command("train_ddpm_cond.py", "--config", str(path)))])
        audits = audit(config, None)
    name = "membership.json" if arguments.plant_canaries is None else "membership_canaries.json"
    checkpoint = arguments.checkpoint or RunDirectory(Path(config.train_params.task_name)).weights(config.train_params)
    write_json(output / name, {"checkpoint_sha256": hash_file(checkpoint), "real_split": config.evaluation_params.real_split,
                               **{who: found.to_dict() for who, found in audits.items()}})
    for who, found in audits.items():
        one, five = found.true_positive_rates
        print(f"{who} ({found.num_members} groups against {found.num_held_out}): {found.verdict}; true positives {one:.3f} "
              f"at 1% false ones, {five:.3f} at 5%")
    print(f"written to {output / name}")


def audit(config: Config, checkpoint: Path | None) -> dict[str, MembershipAudit]:
    """Members and, where some are planted, canaries, each against the held-out groups."""
    device, project = choose_device(), Project.open(config)
    run = RunDirectory(Path(config.train_params.task_name))
    model = load_trained_model(config, project, checkpoint or run.weights(config.train_params), device)
    trained, held_out = (
        denoising_losses(project, config.diffusion_params, model, split, device, seed=config.train_params.seed)
        for split in ("train", config.evaluation_params.real_split))
    others = (held_out.values, [record.group for record in held_out.records])
    canary = np.array([is_canary(record) for record in trained.records])
    audits = {"members": audit_membership(*trained.select(~canary), *others)}
    if canary.any():
        audits["canaries"] = audit_membership(*trained.select(canary), *others)
    return audits


if __name__ == "__main__":
    run_command(main)
