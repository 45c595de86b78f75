"""Evaluate synthetic images that exist already, ours or another generator's, against the config's real images.

    python -m tools.evaluate --config config/demo.yaml --synthetic DIR --output DIR [--reject-copies]

    accelerate launch -m tools.evaluate --config ...      # several GPUs encode the images, the files are the same
"""

import argparse
from collections.abc import Sequence
from contextlib import nullcontext

from config.load import load_config
from config.paths import as_path
from tools.diffusion.project import Project
from tools.evaluation.assess import assess
from tools.evaluation.quoted_results import add_options, read_quoted
from tools.runtime.command import add_config, run_command
from tools.runtime.processes import open_ranks
from tools.runtime.run_directory import owned


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.evaluate", description=__doc__.splitlines()[0])
    add_config(parser, "YAML config: the real images, the VAE and the encoders")
    parser.add_argument("--synthetic", required=True, type=as_path, metavar="DIR",
                        help="a folder with manifest.csv and images/, or one folder per class named like the class")
    parser.add_argument("--output", required=True, type=as_path, metavar="DIR", help="where the evaluation goes")
    parser.add_argument("--reject-copies", action="store_true",
                        help="list near-copies of training images in rejected.csv and evaluate the others")
    add_options(parser)
    arguments = parser.parse_args(argv)
    config = load_config(arguments.config, arguments.set)
    quoted = read_quoted(arguments, config.dataset_params.params.class_names)
    ranks, device = open_ranks(config.launch_params)
    with owned(arguments.output, "tools.evaluate", key="--output") if ranks.is_first else nullcontext():
        assess(config, Project.open(config), arguments.synthetic, arguments.output, device=device,
               reject_copies=arguments.reject_copies, quoted=quoted, ranks=ranks)


if __name__ == "__main__":
    run_command(main)
