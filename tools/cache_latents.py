"""Encode the training and validation images once, ahead of training; a killed run goes on where it stopped."""

import argparse
from collections.abc import Sequence

import torch

from config.load import load_config
from tools.runtime.command import run_command
from tools.runtime.data import has_split, prepare_latents


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.cache_latents", description=__doc__)
    parser.add_argument("--config", required=True, help="YAML config")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a config key")
    arguments = parser.parse_args(argv)
    config = load_config(arguments.config, arguments.set)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for split in ("train", "val"):
        if has_split(config, split):
            cache = prepare_latents(config, split, device=device)
            shape = " x ".join(map(str, cache.mean.shape[2:]))
            print(f"{split}: {len(cache)} images x {len(cache.symmetries)} views of {shape} latents, key {cache.key[:16]}")


if __name__ == "__main__":
    run_command(main)
