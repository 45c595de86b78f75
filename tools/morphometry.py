"""Measure the oocytes in real and synthetic images (zona, diameters, texture), or say why not, and compare them by class."""

import argparse
from collections.abc import Sequence

from config.errors import UserError
from config.load import load_config
from config.paths import as_path
from tools.evaluation.morphometry_run import run_morphometry
from tools.runtime.command import add_config, run_command
from tools.runtime.machine import choose_device


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.morphometry", description=__doc__)
    add_config(parser, "YAML config: the real images, um_per_px, the model for flips")
    parser.add_argument("--synthetic", required=True, type=as_path, metavar="DIR",
                        help="a folder with manifest.csv and images/, or one folder per class named like the class")
    parser.add_argument("--output", required=True, type=as_path, metavar="DIR", help="folder for tables and figures")
    parser.add_argument("--manual", type=as_path, metavar="CSV",
                        help="measurements by hand: IMAGE_NAME and columns such as outer_diameter_um or zona_thickness_px")
    parser.add_argument("--flips", type=int, default=0, metavar="N",
                        help="sample N noises with every label and compare the classes; default %(default)s")
    parser.add_argument("--checkpoint", type=as_path, metavar="P",
                        help="weights for the flips; default <task_name>/checkpoints/<ldm_ckpt_name>")
    arguments = parser.parse_args(argv)
    if arguments.flips < 0:
        raise UserError(f"--flips: expected 0 or more, found {arguments.flips}; give a number of noises")
    config = load_config(arguments.config, arguments.set)
    device = choose_device()
    run_morphometry(config, arguments.synthetic, arguments.output, manual=arguments.manual, num_flips=arguments.flips,
                    checkpoint=arguments.checkpoint, device=device)


if __name__ == "__main__":
    run_command(main)
