"""Running a study of utility: folds, a generator for each, classifiers for each arm and seed, stored as they are made.

Every fold has a table and a config of its own; the VAE, the latent statistics, the generator, the choice of its weights
and the classifiers see its training groups only (the VAE where it is refitted). The statistics are not made here.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from config.errors import UserError
from config.schema import Config, TrainParams
from dataset.image_bank import ImageBank
from dataset.images import load_image, write_png
from dataset.latents import LabelledImages
from dataset.order import generator
from dataset.patient_note import write_patient_note
from dataset.storage import hash_file, hash_json, read_json, write_json
from tools.augmentation_study.arms import build_arms
from tools.augmentation_study.folds import UtilityStudy, describe_settings, write_fold
from tools.diffusion.generation import latents_to_pixels
from tools.diffusion.project import Project
from tools.diffusion.samples import IMAGE_FOLDER, MANIFEST_NAME, read_manifest
from tools.diffusion.trained_model import load_trained_model
from tools.evaluation.classifier_training import (
    ClassifierRecipe,
    class_probabilities,
    classifier_shape,
    count_classifier_steps,
    train_classifier,
)
from tools.runtime.machine import choose_device
from tools.runtime.run_directory import RunDirectory
from tools.runtime.stages import Stage, our_command, run_stages

STUDY_NAME = "study.json"
_FIRST_SEED = 1000  # added to train_params.seed: no classifier starts like the encoder, the judge or the generator


def run_utility_study(study: UtilityStudy, folder: Path) -> dict[str, np.ndarray]:
    """Make what is missing in `folder`; class probabilities (S, N, C) of each arm, each image predicted by the classifiers
    of the fold that tests it.

    Raises:
        UserError: the folder holds another study, or a stage failed.
        Interrupted: a signal asked for a stop; the same command goes on.
    """
    settings = describe_settings(study)
    _check_same_study(folder / STUDY_NAME, settings)
    write_patient_note(folder, "Tables, weights, latents, round trips and predictions in this folder")
    write_json(folder / STUDY_NAME, settings)
    identity = hash_json(settings)
    shape = (study.request.num_seeds, len(study.records), study.config.num_classes)
    pooled = {arm: np.full(shape, np.nan) for arm in study.request.arms}
    for fold in range(study.request.num_folds):
        tested = np.flatnonzero(study.folds == fold)
        for (arm, seed), probabilities in _run_fold(study, fold, folder / f"fold_{fold + 1}", identity).items():
            pooled[arm][seed, tested] = probabilities
    return pooled


def _run_fold(study: UtilityStudy, fold: int, folder: Path, identity: str) -> dict[tuple[str, int], np.ndarray]:
    """Predictions of the fold's tested images by arm and seed."""
    config = write_fold(study, fold, folder)
    generated = _generate(study, config, folder, identity=identity, title=f"fold {fold + 1} of {study.request.num_folds}")
    key = hash_json([identity, fold, generated])
    paths = {(arm, seed): folder / "predictions" / f"{_as_file_name(arm)}_seed{seed}.json"
             for seed in range(study.request.num_seeds) for arm in study.request.arms}
    found = {address: _read_predictions(path, key) for address, path in paths.items()}
    missing = [address for address, probabilities in found.items() if probabilities is None]
    if missing:
        trainer = _FoldTrainer(study, config, fold, folder)
        for number, (arm, seed) in enumerate(missing, start=1):
            title = f"fold {fold + 1}, classifier {number} of {len(missing)}"
            probabilities = trainer.predict(arm, seed, title=title)
            if not np.isfinite(probabilities).all():
                raise UserError(f"{title} ({arm}): its training diverged; look at the images in {folder}")
            write_json(paths[arm, seed], {"key": key, "arm": arm, "seed": seed, "images": trainer.test_names,
                                          "probabilities": probabilities.tolist()})
            found[arm, seed] = probabilities
    return {address: probabilities for address, probabilities in found.items() if probabilities is not None}


def _generate(study: UtilityStudy, config: Config, folder: Path, *, identity: str, title: str) -> dict[str, str]:
    """VAE, generator, synthetic images and round trips, each made unless it is there; hashes of what they are."""
    record, synthetic = folder / "generated.json", folder / "synthetic"
    if record.is_file():
        made = read_json(record)
        if made.get("study") == identity and made["manifest_sha256"] == _hash_if_there(synthetic / MANIFEST_NAME):
            return made
    round_trips = folder / "round_trips"
    if round_trips.is_dir():
        shutil.rmtree(round_trips)
    stages = [("VAE", "tools.train_vae", "vae.yaml", ())] if study.refit_vae else []
    stages += [("generator", "train_ddpm_cond.py", "config.yaml", ()),
               ("synthetic images", "sample_ddpm_class_cond.py", "config.yaml", ("--no-metrics",))]
    run_stages([Stage(f"{title}: {name}", our_command(script, "--config", str(folder / file), *further))
                for name, script, file, further in stages])
    _write_round_trips(config, round_trips)
    made = {"study": identity, "manifest_sha256": hash_file(synthetic / MANIFEST_NAME),
            "checkpoint_sha256": hash_file(_checkpoint(config.train_params)), "vae_sha256": Project.open(config).vae_sha256}
    write_json(record, made)
    return made


class _FoldTrainer:
    """The images of a fold in memory, and its classifiers."""

    def __init__(self, study: UtilityStudy, config: Config, fold: int, folder: Path) -> None:
        self._config, self._request, self._fold = config, study.request, fold
        project = Project.open(config)
        train, test = project.images("train"), project.images("test")
        self._labels = np.array([record.label for record in train.records], dtype=np.int64)
        synthetic, self._synthetic_labels = _read_synthetic(folder / "synthetic")
        table = config.dataset_params.params
        self._pool = ImageBank(_Pool(train, [*synthetic, *_list_round_trips(folder / "round_trips", len(train))],
                                     im_channels=table.im_channels, size_px=table.image_size, fit=table.fit))
        self._test, self._num_test = ImageBank(test), len(test)
        self._num_steps = count_classifier_steps(study.request.epochs, len(train))
        self.test_names = [record.image_id for record in test.records]

    def predict(self, name: str, seed: int, *, title: str) -> np.ndarray:
        """Class probabilities (N, C) of the tested images after training on the arm from this seed."""
        arms = build_arms(self._labels, self._synthetic_labels, self._request.ratios, num_classes=self._config.num_classes,
                          shuffle=generator(self._config.train_params.seed, "shuffled labels", self._fold, seed))
        arm = next(arm for arm in arms if arm.name == name)
        recipe = ClassifierRecipe(
            seed=self._config.train_params.seed + _FIRST_SEED + seed, num_steps=self._num_steps,
            symmetries=self._config.dataset_params.symmetries, balance=arm.balance, augment=arm.augment)
        network = train_classifier(
            classifier_shape(self._config.dataset_params.params), lambda places: self._pool.batch(arm.members[places]),
            arm.labels, recipe, title=title, show_progress=self._config.logging_params.progress_bar)
        return class_probabilities(network, self._test.batch, self._num_test)


class _Pool:
    """Real images followed by image files, as one data set. Labels are the arms' business."""

    def __init__(self, real: LabelledImages, files: Sequence[Path], *, im_channels: int, size_px: int, fit: str) -> None:
        self.records = real.records
        self._real, self._files = real, files
        self._geometry = {"im_channels": im_channels, "size_px": size_px, "fit": fit}

    def __len__(self) -> int:
        return len(self._real) + len(self._files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if index < len(self._real):
            return self._real[index]
        return torch.from_numpy(load_image(self._files[index - len(self._real)], **self._geometry)), -1


def _write_round_trips(config: Config, folder: Path) -> None:
    """The training images through the encoder (posterior mean) and back, by the path that synthetic images take."""
    device = choose_device()
    project = Project.open(config)
    statistics = load_trained_model(config, project, _checkpoint(config.train_params), torch.device("cpu")).codec.statistics
    codec = project.open_codec(statistics=statistics, device=device)
    images, size = project.images("train"), config.autoencoder_params.batch_size
    paths = _list_round_trips(folder, len(images))
    for start in range(0, len(images), size):
        places = range(start, min(start + size, len(images)))
        mean, _ = codec.encode(torch.stack([images[place][0] for place in places]))
        for place, pixels in zip(places, latents_to_pixels(codec, codec.standardise(mean)), strict=True):
            write_png(paths[place], pixels)


def _list_round_trips(folder: Path, count: int) -> list[Path]:
    return [folder / f"{place:06d}.png" for place in range(count)]


def _read_synthetic(folder: Path) -> tuple[list[Path], np.ndarray]:
    """Files and labels int64 (M,) of the synthetic images."""
    rows = read_manifest(folder)
    return ([folder / IMAGE_FOLDER / row["IMAGE_NAME"] for row in rows],
            np.array([int(row["label"]) for row in rows], dtype=np.int64))


def _read_predictions(path: Path, key: str) -> np.ndarray | None:
    if not path.is_file():
        return None
    stored = read_json(path)
    return np.array(stored["probabilities"], dtype=np.float64) if stored["key"] == key else None


def _check_same_study(path: Path, settings: dict[str, Any]) -> None:
    if not path.is_file():
        return
    old = read_json(path)
    differing = [name for name in settings if not isinstance(old, dict) or old.get(name) != settings[name]]
    if differing:
        raise UserError(f"{path.parent} holds a study with other {', '.join(differing)}; restore them to go on, or give "
                        "another --output")


def _checkpoint(train: TrainParams) -> Path:
    return RunDirectory(Path(train.task_name)).weights(train)


def _hash_if_there(path: Path) -> str | None:
    return hash_file(path) if path.is_file() else None


def _as_file_name(arm: str) -> str:
    return "".join(letter if letter.isalnum() or letter == "." else "_" for letter in arm)
