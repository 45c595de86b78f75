"""Train a small in-domain classifier on the real training split: the encoder of distances, or the judge of classes.

The two roles are trained separately, from different seeds, so that the one that judges the class of synthetic images is
not the one whose features measure their distance. With --condition the judge reads the levels of that further condition
instead of the class; it lies beside the class's, in <evaluation_params.judge_path>_<condition>, where evaluations find it.

    python -m tools.train_encoder --config config/phantoms_two_conditions.yaml --role judge --condition FOCAL_PLANE
"""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from config.errors import UserError, nearest_name
from config.load import load_config
from config.schema import Config
from dataset.image_bank import ImageBank
from dataset.latents import LabelledImages
from dataset.patient_note import write_patient_note
from dataset.storage import hash_bytes, hash_file, hash_json, write_bytes, write_json
from models.classifier import Classifier
from tools.evaluation.accuracy import balanced_accuracy
from tools.runtime.classifier_training import (
    ClassifierRecipe,
    UnfinishedTraining,
    class_probabilities,
    classifier_shape,
    count_classifier_steps,
    train_classifier,
)
from tools.runtime.command import run_command
from tools.runtime.conditions import condition_levels
from tools.runtime.data import has_split, open_images, transform_identity
from tools.runtime.judges import CLASSIFIER_RECORD, find_condition_judge
from tools.runtime.run_directory import owned
from tools.runtime.trained_images import TRAINED_KEY, list_trained_images

_ROLES = {"encoder": ("classifier_path", 1), "judge": ("judge_path", 2)}  # config key, and what is added to the seed
_STATE_FOLDER = "training_state"


@dataclass(frozen=True)
class _Subject:
    """What a classifier is to tell apart: the classes or, by its name and column, the levels of a further condition."""

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
        """What the record and the identity of a classifier say of it; nothing of the classes, as ever."""
        return {} if self.condition is None else {"condition": self.condition, "levels": list(self.names)}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.train_encoder", description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True, help="YAML config")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a config key")
    parser.add_argument("--role", choices=tuple(_ROLES), default="encoder",
                        help="encoder: written to evaluation_params.classifier_path; judge: to judge_path")
    parser.add_argument("--condition", metavar="NAME",
                        help="of dataset_params.params.conditions: the judge of its levels, written to <judge_path>_NAME")
    parser.add_argument("--epochs", type=int, default=30, help="passes over the training split (default 30)")
    arguments = parser.parse_args(argv)
    if arguments.epochs < 1:
        raise UserError(f"--epochs: expected 1 or more, found {arguments.epochs}")
    if arguments.condition is not None and arguments.role != "judge":
        raise UserError("--condition: expected with --role judge; the encoder of distances is trained on the class")
    train_encoder(load_config(arguments.config, arguments.set), role=arguments.role, epochs=arguments.epochs,
                  condition=arguments.condition)


def train_encoder(config: Config, *, role: str, epochs: int, condition: str | None = None) -> Path:
    """Train, report on the validation split, write the folder; does nothing where it was made from the same data."""
    key, seed_offset = _ROLES[role]
    subject, path = _find_subject(config, condition), getattr(config.evaluation_params, key)
    if path is not None and condition is not None:
        path = find_condition_judge(config, condition)
    if path is None:
        raise UserError(f"evaluation_params.{key}: give the folder that the {role} is written to")
    output, images = Path(path), open_images(config, "train")
    labels = subject.labels(images)
    _warn_of_absent_levels(subject, labels)
    identity = hash_json({
        "role": role, "epochs": epochs, "seed": config.train_params.seed, "transform": transform_identity(config),
        "symmetries": list(config.dataset_params.plain_symmetries), **subject.record(),
        "images": [[hash_file(record.path), label] for record, label in zip(images.records, labels.tolist(), strict=True)],
    })
    if _read_identity(output) == identity:
        print(f"{output} holds the {subject.title(role)} of these images already")
        return output
    with owned(output, "tools.train_encoder", key=f"evaluation_params.{key}"):
        _train_and_save(config, images, output, subject, role=role, identity=identity,
                        seed=config.train_params.seed + seed_offset, epochs=epochs)
    return output


def _find_subject(config: Config, condition: str | None) -> _Subject:
    if condition is None:
        return _Subject(config.dataset_params.params.class_names)
    levels = condition_levels(config)
    if condition not in levels:
        near = nearest_name(condition, levels)
        next_step = f"did you mean {near}?" if near else f"those there are {', '.join(levels) or 'none'}"
        raise UserError(f"--condition: expected a name of dataset_params.params.conditions, found {condition!r}; "
                        f"{next_step}")
    return _Subject(levels[condition], condition, list(levels).index(condition))


def _warn_of_absent_levels(subject: _Subject, labels: np.ndarray) -> None:
    absent = [name for level, name in enumerate(subject.names) if not (labels == level).any()]
    if absent:
        print(f"warning: no training image has {subject.condition} {', '.join(absent)}, which the judge will never name",
              file=sys.stderr)


def _train_and_save(
    config: Config, images: LabelledImages, output: Path, subject: _Subject, *, role: str, identity: str, seed: int,
    epochs: int,
) -> None:
    state = UnfinishedTraining(output / _STATE_FOLDER, identity)
    network = _fit(config, images, state, subject, seed=seed, epochs=epochs, title=subject.title(role))
    files = network.to_files()
    scores = {split: _score(network, open_images(config, split), subject) for split in ("train", "val")
              if has_split(config, split)}
    write_patient_note(output, "The weights in this folder")
    for name, data in files.items():
        write_bytes(output / name, data)
    write_json(output / CLASSIFIER_RECORD, {
        "identity": identity, "role": role, **subject.record(), "epochs": epochs,
        "class_names": list(config.dataset_params.params.class_names), "training_images": len(images),
        TRAINED_KEY: list_trained_images(images), "scores": scores,
        "files_sha256": {name: hash_bytes(data) for name, data in files.items()},
        "note": "derived from its training images: where they are patients', share it by the same rules",
    })
    for split, score in scores.items():
        area = "not computed, a label is absent" if score["auc"] is None else f"{score['auc']:.3f}"
        print(f"{subject.title(role)} on {split}: balanced accuracy {score['balanced_accuracy']:.3f}, AUC {area}")
    shutil.rmtree(output / _STATE_FOLDER, ignore_errors=True)
    print(f"saved {output}")


def _fit(
    config: Config, images: LabelledImages, state: UnfinishedTraining, subject: _Subject, *, seed: int, epochs: int,
    title: str,
) -> Classifier:
    recipe = ClassifierRecipe(seed=seed, num_steps=count_classifier_steps(epochs, len(images)),
                              symmetries=config.dataset_params.plain_symmetries)
    shape = replace(classifier_shape(config), num_classes=len(subject.names))
    return train_classifier(shape, ImageBank(images).batch, subject.labels(images), recipe, title=title,
                            show_progress=config.logging_params.progress_bar, state=state)


def _score(network: Classifier, images: LabelledImages, subject: _Subject) -> dict[str, float | None]:
    labels = subject.labels(images)
    probabilities = class_probabilities(network, ImageBank(images).batch, len(images))
    correct = balanced_accuracy(labels, probabilities.argmax(axis=1))
    if len(np.unique(labels)) < probabilities.shape[1]:
        return {"balanced_accuracy": correct, "auc": None}  # a label has no image here
    area = (roc_auc_score(labels, probabilities[:, 1]) if probabilities.shape[1] == 2
            else roc_auc_score(labels, probabilities, multi_class="ovr"))
    return {"balanced_accuracy": correct, "auc": float(area)}


def _read_identity(output: Path) -> str | None:
    """What a finished folder was trained from; None where it is not finished or not whole."""
    try:
        record = json.loads((output / CLASSIFIER_RECORD).read_text(encoding="utf-8"))
        whole = all(hash_file(output / name) == digest for name, digest in record["files_sha256"].items())
        return record["identity"] if whole else None
    except (OSError, ValueError, KeyError):
        return None


if __name__ == "__main__":
    run_command(main)
