"""Measure which flips and turns the images obey, and recommend those as the augmentation."""

import argparse
from collections.abc import Sequence

from config.load import load_config
from tools.inspection.pixels import read_pixels
from tools.inspection.symmetries import format_measurement, measure_symmetries
from tools.runtime.command import run_command
from tools.runtime.data import open_images


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.check_symmetries", description=__doc__)
    parser.add_argument("--config", required=True, help="YAML config; its training images are measured")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a config key")
    arguments = parser.parse_args(argv)
    config = load_config(arguments.config, arguments.set)
    images = open_images(config, "train")
    pixels = read_pixels(images, title="reading train", progress_bar=config.logging_params.progress_bar)
    print(format_measurement(measure_symmetries(pixels, groups=[record.group for record in images.records])))
    print(f"the config has [{', '.join(config.dataset_params.symmetries)}]")


if __name__ == "__main__":
    run_command(main)
