"""Propose a config from a table and a folder of images, and list what you must decide. It asks and guesses nothing.

    python -m tools.init TABLE IMAGES --output config/my.yaml [--label-column NAME] [--gpu-memory-gb N] [--vae VAE]

TABLE is one table, a folder with one table per split, or several tables; without one, IMAGES holds a folder per class.
The set-up is for this machine, or for a GPU of N GB. VAE is a pretrained autoencoder: a diffusers folder, or a hub id,
which is downloaded.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import yaml

from config.errors import UserError
from config.load import build_config
from config.paths import as_path, expand_path
from dataset.storage import write_text
from models.autoencoder import read_autoencoder_config, read_latent_layout, resolve_autoencoder
from tools.init.config_draft import draft_config
from tools.init.proposal import add_symmetries, propose
from tools.init.setup import PretrainedVae, choose_setup, find_gpu_memory_gb
from tools.inspection.symmetry_sample import measure_sound_rows
from tools.runtime.command import run_command


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.init", description=__doc__.splitlines()[0])
    parser.add_argument("table", nargs="*", type=as_path, metavar="TABLE",
                        help="table, tables, or a folder with one per split")
    parser.add_argument("images", type=as_path, metavar="IMAGES", help="folder of the images")
    parser.add_argument("--output", type=as_path, required=True, metavar="YAML", help="the config to write")
    parser.add_argument("--label-column", metavar="NAME", help="column of the labels, if it is not clear")
    parser.add_argument("--gpu-memory-gb", type=float, metavar="N", help="set up for a GPU with N GB of memory; 0 for a CPU")
    parser.add_argument("--vae", type=expand_path, metavar="VAE", help="pretrained autoencoder: diffusers folder or hub id")
    parser.add_argument("--force", action="store_true", help="overwrite an existing file")
    arguments = parser.parse_args(argv)
    output: Path = arguments.output
    if output.exists() and not arguments.force:
        raise UserError(f"{output}: exists already; give another --output, or --force to overwrite it")
    vae = None if arguments.vae is None else _read_vae(arguments.vae)
    proposal = propose(arguments.table, arguments.images, label_column=arguments.label_column)
    memory = find_gpu_memory_gb() if arguments.gpu_memory_gb is None else arguments.gpu_memory_gb or None
    splits = proposal.columns.splits
    num_test = splits.count("test") or round(len(splits) * (proposal.split_fractions or {}).get("test", 0))
    num_train = splits.count("train") or round(len(splits) * (proposal.split_fractions or {}).get("train", 0))
    setup = choose_setup(side_px=max(proposal.images.width, proposal.images.height), num_train=num_train, num_test=num_test,
                         gpu_memory_gb=memory, name=output.stem, vae=vae)
    draft = yaml.safe_load(draft_config(proposal, setup, name=output.stem))
    config = build_config(draft, source=str(output))  # a config that cannot be loaded is a bug
    proposal = add_symmetries(proposal, measure_sound_rows(
        config.dataset_params, progress_bar=config.logging_params.progress_bar))
    # The decision about patients comes before the VAE, all others after it.
    first = sum(decision.startswith("group_column") for decision in proposal.decisions[:1])
    decisions = (*proposal.decisions[:first], *setup.decisions, *proposal.decisions[first:])
    proposal = dataclasses.replace(proposal, decisions=decisions)
    text = draft_config(proposal, setup, name=output.stem)
    write_text(output, text)
    print(f"{output}: {len(splits):,} images, {len(proposal.columns.class_names)} classes, set up for {setup.why}\n")
    print("to decide before the first training:")
    for number, decision in enumerate(proposal.decisions, start=1):
        print(f"  {number}. {decision}")
    print(f"\nnext: python -m tools.check_dataset --config {output}")


def _read_vae(pretrained: str) -> PretrainedVae:
    """The VAE as its config describes it; a hub id is downloaded.

    Raises:
        UserError: it is not available, or its config does not give the shape of its latents.
    """
    try:
        folder = resolve_autoencoder(pretrained)
    except UserError as error:
        reason = str(error).removeprefix("autoencoder_params.pretrained: ")
        raise UserError(f"--vae: {reason}. Without --vae the config is for a VAE that train_vae trains") from error
    channels, downsampling = read_latent_layout(folder)
    if channels is None or downsampling is None:
        raise UserError(f"--vae: expected latent_channels and the widths of the levels in {folder / 'config.json'}, found "
                        "not both; set autoencoder_params.pretrained, z_channels and latent_size by hand")
    return PretrainedVae(pretrained, read_autoencoder_config(folder)["_class_name"], channels, downsampling)


if __name__ == "__main__":
    run_command(main, on_device=False)
