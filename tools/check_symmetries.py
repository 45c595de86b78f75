"""Test which flips and turns the training images obey, and recommend those as the augmentation."""

import argparse
from collections.abc import Sequence

from config.load import load_config
from tools.inspection.symmetries import format_measurement
from tools.inspection.symmetry_sample import UNGROUPED, measure_training_symmetries
from tools.runtime.command import add_config, run_command


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.check_symmetries", description=__doc__)
    add_config(parser, "YAML config; up to 1,000 of its training images are tested")
    arguments = parser.parse_args(argv)
    config = load_config(arguments.config, arguments.set)
    measured = measure_training_symmetries(config.dataset_params, progress_bar=config.logging_params.progress_bar)
    print(format_measurement(measured))
    if config.dataset_params.params.group_column is None and measured.num_groups == measured.num_images:
        print(f"note: {UNGROUPED}")
    print(f"your config has [{', '.join(config.dataset_params.symmetries)}]")


if __name__ == "__main__":
    run_command(main, on_device=False)
