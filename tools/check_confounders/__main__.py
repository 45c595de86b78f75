"""Predict the label from metadata alone and from the background alone, and warn if they rival the whole image."""

import argparse
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from config.errors import UserError
from config.load import load_config
from config.paths import as_path
from config.schema import TableParams
from dataset.annotations import ImageRecord
from dataset.storage import write_json
from tools.check_confounders.confounders import format_report, measure_confounders
from tools.diffusion.project import Project
from tools.evaluation.judges import load_judge, was_chosen_on
from tools.inspection.class_scores import judge_scores, network_features
from tools.inspection.pixels import read_pixels
from tools.inspection.readout import GroupedLabels, Interval, summarise
from tools.inspection.symmetry_sample import UNGROUPED
from tools.runtime.command import add_config, run_command
from tools.runtime.machine import choose_device


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.check_confounders", description=__doc__)
    add_config(parser, "YAML config; the images of all splits are read")
    parser.add_argument("--output", type=as_path, metavar="DIR", help="folder for confounders.json; default none")
    parser.add_argument("--disc", type=float, metavar="SIDES", help="diameter of the central disc that holds the embryo, in "
                        "sides of the frame, such as 0.7; the background is all outside it. Default: found from the edges")
    arguments = parser.parse_args(argv)
    if arguments.disc is not None and not arguments.disc > 0:
        raise UserError(f"--disc: expected a diameter above 0, in sides of the frame, found {arguments.disc:g}; try 0.8")
    config = load_config(arguments.config, arguments.set)
    device = choose_device()
    images = Project.open(config).all_images
    pixels = read_pixels(images, title="reading", progress_bar=config.logging_params.progress_bar)
    columns = config.dataset_params.params.covariate_columns
    report = measure_confounders(
        pixels,
        labels=np.array([record.label for record in images.records]),
        groups=[record.group for record in images.records],
        covariates={name: [record.covariates[place] for record in images.records] for place, name in enumerate(columns)},
        whole_features=network_features(config.evaluation_params, pixels, device=device),
        judged=_judge(config.evaluation_params.judge_path, config.dataset_params.params, images.records, pixels, device),
        disc=arguments.disc,
    )
    if config.dataset_params.params.group_column is None and report.num_groups == report.num_images:
        report = replace(report, notes=(*report.notes, UNGROUPED))
    print(format_report(report))
    if arguments.output is not None:
        write_json(arguments.output / "confounders.json", report.to_json())
        print(f"written to {arguments.output}: confounders.json")


def _judge(
    judge_path: str | None, table: TableParams, records: Sequence[ImageRecord], pixels: np.ndarray, device: torch.device
) -> Interval | None:
    """The judge's AUC on images that it neither learned from nor was chosen on, if they have both classes.

    Without a test split these are the val images, on which it was chosen.
    """
    judge = load_judge(judge_path, table)
    splits = np.array([record.split for record in records])
    held = splits != "train"
    if was_chosen_on(judge_path, "val") and (splits == "test").any():
        held = splits == "test"
    if judge is None or not held.any():
        return None
    labels = np.array([record.label for record in records])[held]
    groups = np.array([record.group for record in records])[held]
    try:
        grouped = GroupedLabels(labels, groups, seed=0)
    except UserError:
        return None
    scores = judge_scores(judge, pixels[held], device=device)
    return summarise(grouped.resampled_auc(scores[:, grouped.classes]))


if __name__ == "__main__":
    run_command(main)
