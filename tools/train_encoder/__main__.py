"""Train a small classifier on the real training images: the encoder for distances, or the judge of classes.

It trains until the val images are read no better and keeps the weights that read them best.
The two roles are trained separately, from different seeds: the classifier that judges the class of synthetic images is not
the one whose features measure their distance. With --condition the judge reads the levels of that condition instead of the
class. It is saved beside the class judge, in <evaluation_params.judge_path>_<condition>, where evaluations find it.

    python -m tools.train_encoder --config config/phantoms_two_conditions.yaml --role judge --condition FOCAL_PLANE
"""

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from config.errors import UserError, nearest_name
from config.load import load_config
from config.schema import Config, TableParams
from dataset.image_bank import ImageBank
from dataset.latents import LabelledImages
from dataset.patient_note import write_patient_note
from dataset.storage import hash_bytes, hash_file, hash_json, write_bytes, write_json
from models.classifier import Classifier
from tools.diffusion.conditions import condition_levels
from tools.diffusion.project import Project
from tools.diffusion.trained_images import TRAINED_KEY, shorten_hashes
from tools.evaluation.accuracy import balanced_accuracy
from tools.evaluation.classifier_training import class_probabilities
from tools.evaluation.judges import CHOSEN_KEY, CLASSIFIER_RECORD, find_condition_judge
from tools.runtime.command import add_config, run_command
from tools.runtime.resume import STATE_FOLDER, Saving
from tools.runtime.run_directory import owned
from tools.train_encoder.learned_classifier import (
    BATCH_SIZE,
    Ending,
    LearnedClassifier,
    LearningRecipe,
    count_steps,
    learn_classifier,
    learning_shape,
)
from tools.train_encoder.plain_baseline import baseline_accuracy
from tools.train_encoder.stopping_images import StoppingImages, choose_stopping_images

_ROLES = {"encoder": ("classifier_path", 1), "judge": ("judge_path", 2)}  # config key, and offset of the seed
_SECONDS_BETWEEN_STATES = 30.0
_METHOD = 2  # raised when the same images and options give other weights


@dataclass(frozen=True)
class _Bounds:
    """The limits of a training that does not settle earlier."""

    epochs: int
    max_minutes: float


@dataclass(frozen=True)
class _Subject:
    """What a classifier distinguishes: the classes or, by its name and column, the levels of a further condition."""

    names: tuple[str, ...]
    condition: str | None = None
    column: int = 0

    def labels(self, images: LabelledImages) -> np.ndarray:
        """int64 (N,)."""
        return np.array([record.label if self.condition is None else record.conditions[self.column]
                         for record in images.records], dtype=np.int64)

    def title(self, role: str) -> str:
        return role if self.condition is None else f"{role} of {self.condition}"

    def record(self) -> dict[str, object]:
        """The entries of a classifier's record and identity; for the classes there are none, as in older versions."""
        return {} if self.condition is None else {"condition": self.condition, "levels": list(self.names)}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.train_encoder", description=__doc__.splitlines()[0])
    add_config(parser)
    parser.add_argument("--role", choices=tuple(_ROLES), default="encoder",
                        help="encoder: written to evaluation_params.classifier_path; judge: to judge_path")
    parser.add_argument("--condition", metavar="NAME",
                        help="of dataset_params.params.conditions: the judge of its levels, written to <judge_path>_NAME")
    parser.add_argument("--epochs", type=int, default=400,
                        help="most passes over the training split (default 400); it ends earlier when val is read no better")
    parser.add_argument("--max-minutes", type=float, default=5.0, metavar="MINUTES",
                        help="most minutes (default 5); if they end the training, the result depends on the machine")
    arguments = parser.parse_args(argv)
    if arguments.epochs < 1:
        raise UserError(f"--epochs: expected 1 or more, found {arguments.epochs}")
    if not arguments.max_minutes > 0:
        raise UserError(f"--max-minutes: expected a number above 0, found {arguments.max_minutes:g}")
    if arguments.condition is not None and arguments.role != "judge":
        raise UserError("--condition: expected with --role judge; the encoder of distances is trained on the class")
    train_encoder(load_config(arguments.config, arguments.set), role=arguments.role,
                  bounds=_Bounds(arguments.epochs, arguments.max_minutes), condition=arguments.condition)


def train_encoder(config: Config, *, role: str, bounds: _Bounds, condition: str | None = None) -> Path:
    """Train, report on the validation split, write the folder; nothing is done if it was made from the same data."""
    key, seed_offset = _ROLES[role]
    subject, path = _find_subject(config.dataset_params.params, condition), getattr(config.evaluation_params, key)
    if path is not None and condition is not None:
        path = find_condition_judge(config.evaluation_params.judge_path, condition)
    if path is None:
        raise UserError(f"evaluation_params.{key}: set the folder for the {role}")
    output, project = Path(path), Project.open(config)
    images = project.images("train")
    labels = subject.labels(images)
    _warn_of_absent_levels(subject, labels)
    parts = choose_stopping_images(project, subject.labels, real_split=config.evaluation_params.real_split,
                                   seed=config.train_params.seed)
    identity = hash_json({
        "method": _METHOD, "role": role, **asdict(bounds), "seed": config.train_params.seed,
        "transform": project.transform, "symmetries": list(config.dataset_params.plain_symmetries),
        **subject.record(), "images": _hash_images(project, [record.path for record in images.records], labels),
        CHOSEN_KEY: parts.chosen_on, "held_out": _hash_images(project, parts.held_out_paths, parts.held_out.labels),
    })
    if _read_identity(output) == identity:
        print(f"{output} already holds the {subject.title(role)} of these images")
        return output
    with owned(output, "tools.train_encoder", key=f"evaluation_params.{key}"):
        saving = Saving(output / STATE_FOLDER, identity, key=f"evaluation_params.{key}",
                        every_seconds=_SECONDS_BETWEEN_STATES, at_end=False)
        learned = _fit(project, parts, saving, subject, seed=config.train_params.seed + seed_offset, bounds=bounds,
                       title=subject.title(role), progress_bar=config.logging_params.progress_bar)
        read_plainly = partial(baseline_accuracy, project, subject.labels, seed=config.train_params.seed,
                               batch_size=config.evaluation_params.batch_size,
                               progress_bar=config.logging_params.progress_bar)
        _save(project, output, subject, learned, role=role, identity=identity, bounds=bounds, chosen_on=parts.chosen_on,
              read_plainly=read_plainly)
    return output


def _find_subject(table: TableParams, condition: str | None) -> _Subject:
    if condition is None and len(table.class_names) < 2:
        raise UserError("dataset_params.params.class_names: expected two classes or more, found one; a classifier has no "
                        "class to read")
    if condition is None:
        return _Subject(table.class_names)
    levels = condition_levels(table)
    if condition not in levels:
        near = nearest_name(condition, levels)
        next_step = f"did you mean {near}?" if near else f"those there are {', '.join(levels) or 'none'}"
        raise UserError(f"--condition: expected a name of dataset_params.params.conditions, found {condition!r}; "
                        f"{next_step}")
    return _Subject(levels[condition], condition, list(levels).index(condition))


def _warn_of_absent_levels(subject: _Subject, labels: np.ndarray) -> None:
    absent = [name for level, name in enumerate(subject.names) if not (labels == level).any()]
    if absent:
        print(f"warning: no training image has {subject.condition or 'class'} {', '.join(absent)}: the judge will "
              "never name it", file=sys.stderr)


def _save(
    project: Project, output: Path, subject: _Subject, learned: LearnedClassifier, *, role: str, identity: str,
    bounds: _Bounds, chosen_on: str, read_plainly: Callable[[], float],
) -> None:
    """Write the folder and print the scores; `read_plainly` gives the plain baseline's balanced accuracy on val."""
    files, images = learned.network.to_files(), project.images("train")
    scores = {split: _score(learned.network, project.images(split), subject) for split in ("train", "val")
              if project.has_split(split)}
    if "val" in scores:
        scores["val"]["baseline_balanced_accuracy"] = read_plainly()
    write_patient_note(output, "The weights in this folder")
    for name, data in files.items():
        write_bytes(output / name, data)
    write_json(output / CLASSIFIER_RECORD, {
        "identity": identity, "role": role, **subject.record(), **asdict(bounds),
        "class_names": list(project.table.class_names), "training_images": len(images),
        CHOSEN_KEY: chosen_on, "steps": learned.steps, "chosen_step": learned.chosen_step,
        "ended_by": learned.ending.name.lower(), TRAINED_KEY: shorten_hashes(project.hash_images(images)), "scores": scores,
        "files_sha256": {name: hash_bytes(data) for name, data in files.items()},
        "note": "derived from its training images: where they are patients', share it by the same rules",
    })
    for split, score in scores.items():
        area = "not computed, a label is absent" if score["auc"] is None else f"{score['auc']:.3f}"
        plain = score.get("baseline_balanced_accuracy")
        beside = "" if plain is None else f"; a plain baseline on untrained features: balanced accuracy {plain:.3f}"
        print(f"{subject.title(role)} on {split}: balanced accuracy {score['balanced_accuracy']:.3f}, AUC {area}{beside}")
        if plain is not None and plain > score["balanced_accuracy"]:
            print(f"warning: the {subject.title(role)} has not learned what a plain baseline reads; if evaluations find "
                  "the same on their images, they make no claim based on it. Use more training images, or more "
                  "minutes if these ended the training", file=sys.stderr)
    shutil.rmtree(output / STATE_FOLDER, ignore_errors=True)
    print(f"saved {output}")


def _fit(
    project: Project, parts: StoppingImages, saving: Saving, subject: _Subject, *, seed: int, bounds: _Bounds, title: str,
    progress_bar: bool,
) -> LearnedClassifier:
    table, num_images = project.table, len(parts.learned.labels)
    recipe = LearningRecipe(seed=seed, symmetries=project.data.plain_symmetries,
                            max_steps=count_steps(bounds.epochs, num_images), max_minutes=bounds.max_minutes)
    shape = learning_shape(table.im_channels, len(subject.names), table.image_size)
    learned = learn_classifier(shape, parts.learned, parts.held_out, recipe, title=title,
                               show_progress=progress_bar, saving=saving)
    print(f"{title}: ended after {learned.steps:,} steps ({learned.steps * BATCH_SIZE / num_images:.0f} epochs), because "
          f"{learned.ending.value}; it has the weights of step {learned.chosen_step:,}, chosen on {parts.chosen_on} "
          f"({len(parts.held_out.labels)} images)")
    if learned.ending is Ending.MINUTES:
        print(f"warning: --max-minutes {bounds.max_minutes:g} ended the training before it settled: another machine "
              "gives other weights; allow more minutes", file=sys.stderr)
    return learned


def _hash_images(project: Project, paths: Sequence[Path], labels: np.ndarray) -> list[list[object]]:
    return [[project.hash_image(path), label] for path, label in zip(paths, labels.tolist(), strict=True)]


def _score(network: Classifier, images: LabelledImages, subject: _Subject) -> dict[str, float | None]:
    labels = subject.labels(images)
    probabilities = class_probabilities(network, ImageBank(images).batch, len(images))
    correct = balanced_accuracy(labels, probabilities.argmax(axis=1))
    if len(np.unique(labels)) < probabilities.shape[1]:
        return {"balanced_accuracy": correct, "auc": None}  # a label without an image here
    area = (roc_auc_score(labels, probabilities[:, 1]) if probabilities.shape[1] == 2
            else roc_auc_score(labels, probabilities, multi_class="ovr"))
    return {"balanced_accuracy": correct, "auc": float(area)}


def _read_identity(output: Path) -> str | None:
    """What a finished folder was trained from; None if it is unfinished or incomplete."""
    try:
        record = json.loads((output / CLASSIFIER_RECORD).read_text(encoding="utf-8"))
        whole = all(hash_file(output / name) == digest for name, digest in record["files_sha256"].items())
        return record["identity"] if whole else None
    except (OSError, ValueError, KeyError):
        return None


if __name__ == "__main__":
    run_command(main)
