"""Train a small in-domain classifier on the real training split: the encoder of distances, or the judge of classes.

The two roles are trained separately, from different seeds, so that the one that judges the class of synthetic images is
not the one whose features measure their distance.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from config.errors import UserError
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
from tools.runtime.data import has_split, open_images, transform_identity
from tools.runtime.run_directory import owned

_ROLES = {"encoder": ("classifier_path", 1), "judge": ("judge_path", 2)}  # config key, and what is added to the seed
_STATE_FOLDER = "training_state"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.train_encoder", description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True, help="YAML config")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a config key")
    parser.add_argument("--role", choices=tuple(_ROLES), default="encoder",
                        help="encoder: written to evaluation_params.classifier_path; judge: to judge_path")
    parser.add_argument("--epochs", type=int, default=30, help="passes over the training split (default 30)")
    arguments = parser.parse_args(argv)
    if arguments.epochs < 1:
        raise UserError(f"--epochs: expected 1 or more, found {arguments.epochs}")
    train_encoder(load_config(arguments.config, arguments.set), role=arguments.role, epochs=arguments.epochs)


def train_encoder(config: Config, *, role: str, epochs: int) -> Path:
    """Train, report on the validation split, write the folder; does nothing where it was made from the same data."""
    key, seed_offset = _ROLES[role]
    path = getattr(config.evaluation_params, key)
    if path is None:
        raise UserError(f"evaluation_params.{key}: give the folder that the {role} is written to")
    output, images = Path(path), open_images(config, "train")
    identity = hash_json({
        "role": role, "epochs": epochs, "seed": config.train_params.seed, "transform": transform_identity(config),
        "symmetries": list(config.dataset_params.plain_symmetries),
        "images": [[hash_file(record.path), record.label] for record in images.records],
    })
    if _read_identity(output) == identity:
        print(f"{output} holds the {role} of these images already")
        return output
    with owned(output, "tools.train_encoder", key=f"evaluation_params.{key}"):
        _train_and_save(config, images, output, role=role, identity=identity,
                        seed=config.train_params.seed + seed_offset, epochs=epochs)
    return output


def _train_and_save(
    config: Config, images: LabelledImages, output: Path, *, role: str, identity: str, seed: int, epochs: int
) -> None:
    state = UnfinishedTraining(output / _STATE_FOLDER, identity)
    network = _fit(config, images, state, seed=seed, epochs=epochs, title=role)
    files = network.to_files()
    scores = {split: _score(network, open_images(config, split)) for split in ("train", "val") if has_split(config, split)}
    write_patient_note(output, "The weights in this folder")
    for name, data in files.items():
        write_bytes(output / name, data)
    write_json(output / "training.json", {
        "identity": identity, "role": role, "epochs": epochs, "training_images": len(images), "scores": scores,
        "files_sha256": {name: hash_bytes(data) for name, data in files.items()},
        "note": "derived from its training images: where they are patients', share it by the same rules",
    })
    for split, score in scores.items():
        area = "not computed, a class is absent" if score["auc"] is None else f"{score['auc']:.3f}"
        print(f"{role} on {split}: balanced accuracy {score['balanced_accuracy']:.3f}, AUC {area}")
    shutil.rmtree(output / _STATE_FOLDER, ignore_errors=True)
    print(f"saved {output}")


def _fit(
    config: Config, images: LabelledImages, state: UnfinishedTraining, *, seed: int, epochs: int, title: str
) -> Classifier:
    recipe = ClassifierRecipe(seed=seed, num_steps=count_classifier_steps(epochs, len(images)),
                              symmetries=config.dataset_params.plain_symmetries)
    labels = np.array([record.label for record in images.records])
    return train_classifier(classifier_shape(config), ImageBank(images).batch, labels, recipe, title=title,
                            show_progress=config.logging_params.progress_bar, state=state)


def _score(network: Classifier, images: LabelledImages) -> dict[str, float | None]:
    labels = np.array([record.label for record in images.records])
    probabilities = class_probabilities(network, ImageBank(images).batch, len(images))
    correct = balanced_accuracy(labels, probabilities.argmax(axis=1))
    if len(np.unique(labels)) < probabilities.shape[1]:
        return {"balanced_accuracy": correct, "auc": None}  # a class has no image here
    area = (roc_auc_score(labels, probabilities[:, 1]) if probabilities.shape[1] == 2
            else roc_auc_score(labels, probabilities, multi_class="ovr"))
    return {"balanced_accuracy": correct, "auc": float(area)}


def _read_identity(output: Path) -> str | None:
    """What a finished folder was trained from; None where it is not finished or not whole."""
    try:
        record = json.loads((output / "training.json").read_text(encoding="utf-8"))
        whole = all(hash_file(output / name) == digest for name, digest in record["files_sha256"].items())
        return record["identity"] if whole else None
    except (OSError, ValueError, KeyError):
        return None


if __name__ == "__main__":
    run_command(main)
