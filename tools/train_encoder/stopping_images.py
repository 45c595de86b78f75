"""The images that a classifier learns from, and the others that stop its training: never those that it will judge."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from config.errors import UserError
from dataset.image_bank import ImageBank
from dataset.latents import LabelledImages
from tools.diffusion.project import Project
from tools.train_encoder.learned_classifier import LabelledPixels

_MOST_FOLDS = 6  # a sixth of the training groups is held out if there is no val split to stop on
VAL, TRAINING_GROUPS = "val", "a sixth of the training groups"


@dataclass(frozen=True)
class StoppingImages:
    """The images to learn from and those to stop on, with the files of the latter; `chosen_on` describes these."""

    learned: LabelledPixels
    held_out: LabelledPixels
    held_out_paths: list[Path]
    chosen_on: str


def choose_stopping_images(
    project: Project, labels_of: Callable[[LabelledImages], np.ndarray], *, real_split: str, seed: int
) -> StoppingImages:
    """Stop on val if it has every label of the training images and evaluations do not read it; else on held-out groups.

    Evaluations read `real_split`.

    Raises:
        UserError: there is neither such a val split nor a label in two training groups.
    """
    images = project.images("train")
    labels, bank = labels_of(images), ImageBank(images)
    if real_split != "val" and project.has_split("val"):
        val = project.images("val")
        of_val = labels_of(val)
        if set(labels.tolist()) <= set(of_val.tolist()):
            known = np.flatnonzero(np.isin(of_val, labels))
            return StoppingImages(LabelledPixels(bank.batch, labels), _pixels(ImageBank(val), of_val, known),
                                  [val.records[row].path for row in known], VAL)
    held = hold_out_groups(labels, [record.group for record in images.records], seed=seed)
    kept = np.setdiff1d(np.arange(len(labels)), held)
    return StoppingImages(_pixels(bank, labels, kept), _pixels(bank, labels, held),
                          [images.records[row].path for row in held], TRAINING_GROUPS)


def hold_out_groups(labels: np.ndarray, groups: Sequence[str], *, seed: int) -> np.ndarray:
    """Positions of about a sixth of the images, in whole groups, in proportion to the labels if possible.

    A label that is in only one group stays in training.

    Raises:
        UserError: every label is in only one group.
    """
    names = np.asarray(groups)
    reach = {label: np.unique(names[labels == label]) for label in np.unique(labels)}
    alone = np.isin(names, [its[0] for its in reach.values() if len(its) == 1])
    free = np.flatnonzero(~alone)
    folds = min([_MOST_FOLDS, *(len(its) for its in reach.values() if len(its) > 1)])
    if not len(free) or folds < 2 or len(np.unique(names[free])) < folds:
        raise UserError("training a classifier: expected a val split with every class, or training images of a class in two "
                        "groups (patients, embryos) or more, found neither; add groups, or rows of val")
    folder = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    parts = [free[held] for _, held in folder.split(free, labels[free], names[free]) if len(held)]
    return min(parts, key=lambda held: (_num_missing(labels, np.delete(labels, held)), _num_missing(labels, labels[held])))


def _num_missing(labels: np.ndarray, part: np.ndarray) -> int:
    return len(set(labels.tolist()) - set(part.tolist()))


def _pixels(bank: ImageBank, labels: np.ndarray, rows: np.ndarray) -> LabelledPixels:
    return LabelledPixels(lambda positions: bank.batch(rows[positions]), labels[rows])
