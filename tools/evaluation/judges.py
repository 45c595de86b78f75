"""Classifiers that judge the class and the further conditions of images: where each lies, which there are, and the levels of
a set's images for them. Trains none and computes no number."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from config.errors import UserError
from config.schema import Config
from dataset.annotations import ImageRecord
from dataset.storage import read_json
from dataset.tables import read_header
from models.classifier import Classifier
from tools.diffusion.conditions import condition_levels
from tools.diffusion.samples import MANIFEST_NAME
from tools.evaluation.fidelity import JudgedCondition
from tools.evaluation.image_set import ImageSet

CLASSIFIER_RECORD = "training.json"  # of how a classifier was trained, written last
CHOSEN_KEY = "chosen_on"  # in the record: the images that the weights were chosen on


def load_judge(config: Config) -> Classifier | None:
    """The classifier of `evaluation_params.judge_path`; None where none is named or none has been trained there yet.

    Raises:
        UserError: it is broken, or of other classes or images.
    """
    path = config.evaluation_params.judge_path
    if path is None or not Path(path).is_dir():
        return None
    judge, table = Classifier.from_folder(path), config.dataset_params.params
    key, remedy = f"evaluation_params.judge_path: {path}", "train it anew with python -m tools.train_encoder --role judge"
    found = (judge.config.num_classes, judge.config.im_channels, judge.config.image_size)
    wanted = (config.num_classes, table.im_channels, table.image_size)
    if found != wanted:
        raise UserError(f"{key}: expected a judge of (classes, channels, side) {wanted}, found {found}; {remedy}")
    record = Path(path) / CLASSIFIER_RECORD
    names = read_json(record).get("class_names") if record.is_file() else None  # not in release 0.1
    if names is not None and names != list(table.class_names):
        raise UserError(f"{key}: expected a judge of the classes {list(table.class_names)}, found one of {names}; {remedy}")
    return judge


def require_judge(config: Config) -> Classifier | None:
    """`load_judge`, but for one that is named and not there.

    Raises:
        UserError: there is no such folder, or the judge is broken, or of other classes or images.
    """
    path, judge = config.evaluation_params.judge_path, load_judge(config)
    if judge is None and path is not None:
        raise UserError(f"evaluation_params.judge_path: {path}: expected a trained classifier, found no folder; train "
                        "it (python -m tools.train_encoder --role judge), or give null to evaluate without")
    return judge


def was_chosen_on(folder: Path | str | None, split: str) -> bool:
    """Whether a classifier's weights were chosen on the images of this split, which it then reads a little too well."""
    record = None if folder is None else Path(folder) / CLASSIFIER_RECORD
    return record is not None and record.is_file() and read_json(record).get(CHOSEN_KEY) == split


def find_condition_judge(config: Config, condition: str) -> Path | None:
    """The folder of a condition's judge, beside the judge of the class: <judge_path>_<condition>; None without judge_path.

    Whatever is no letter, digit or underscore in the condition's name is an underscore there.
    """
    path = config.evaluation_params.judge_path
    if path is None:
        return None
    safe = re.sub(r"\W", "_", condition)
    return Path(path).with_name(f"{Path(path).name}_{safe}")


def load_condition_judges(config: Config, synthetic: Path) -> tuple[list[JudgedCondition], list[str]]:
    """The conditions that can be judged on the images below `synthetic`, and for each other one a line that says why not.

    Raises:
        UserError: a judge that is broken, or was trained on other levels.
    """
    manifest = synthetic / MANIFEST_NAME
    columns = read_header(manifest) if manifest.is_file() else []
    judged, reasons = [], []
    for name, levels in condition_levels(config).items():
        folder, why = find_condition_judge(config, name), f"{name} of synthetic images was not judged: "
        if name not in columns:
            reasons.append(f"{why}they have no {MANIFEST_NAME} with a column of this name")
        elif folder is None or not (folder / CLASSIFIER_RECORD).is_file():
            first = "give evaluation_params.judge_path and " if folder is None else ""
            option = f"'{name}'" if re.search(r"\W", name) else name
            reasons.append(f"{why}{first}train its judge with python -m tools.train_encoder --config CONFIG --role judge "
                           f"--condition {option}")
        else:
            _check_record(folder, name, levels)
            judged.append(JudgedCondition(name, levels, Classifier.from_folder(folder)))
    return judged, reasons


def with_levels(images: ImageSet, records: Sequence[ImageRecord], names: Iterable[str]) -> ImageSet:
    """The images with the levels of these conditions, which their records have in the same order."""
    return replace(images, conditions={name: np.array([record.conditions[column] for record in records], dtype=np.int64)
                                       for column, name in enumerate(names)})


def _check_record(folder: Path, condition: str, levels: Sequence[str]) -> None:
    record = read_json(folder / CLASSIFIER_RECORD)
    found = (record.get("condition"), record.get("levels")) if isinstance(record, dict) else (None, None)
    if found != (condition, list(levels)):
        raise UserError(f"{folder}: expected the judge of condition {condition!r} with the levels {list(levels)}, found a "
                        f"classifier of condition {found[0]!r} with the levels {found[1]}; train it anew with python -m "
                        "tools.train_encoder --role judge --condition, or give evaluation_params.judge_path elsewhere")
