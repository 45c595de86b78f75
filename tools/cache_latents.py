"""Encode the training and validation images once, ahead of training; a killed run goes on where it stopped.

    python -m tools.cache_latents --config config/demo.yaml [--set section.key=value ...]

    accelerate launch -m tools.cache_latents --config config/embryo.yaml      # several GPUs, the same files
"""

import argparse
from collections.abc import Sequence

from config.load import load_config
from tools.diffusion.project import Project
from tools.runtime.command import add_config, run_command
from tools.runtime.processes import open_ranks


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.cache_latents", description=__doc__.splitlines()[0])
    add_config(parser)
    arguments = parser.parse_args(argv)
    config = load_config(arguments.config, arguments.set)
    ranks, device = open_ranks(config.launch_params)
    project = Project.open(config)
    for split in ("train", "val"):
        if project.has_split(split):
            cache = project.prepare_latents(split, device=device, ranks=ranks)
            shape = " x ".join(map(str, cache.mean.shape[2:]))
            if ranks.is_first:
                print(f"{split}: {len(cache)} images x {len(cache.symmetries)} views of {shape} latents, "
                      f"key {cache.key[:16]}")


if __name__ == "__main__":
    run_command(main)
