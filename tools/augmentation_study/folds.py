"""The plan of a study of utility: who is tested in which fold, whose VAE a fold uses, and each fold's table and configs.
Runs nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from config.errors import UserError, name_some
from config.load import config_to_identity, config_to_yaml, load_config
from config.schema import AutoencoderParams, Config, effect_of
from dataset.annotations import ImageRecord
from dataset.delimited import format_csv
from dataset.splits import draw_splits
from dataset.storage import hash_file, hash_json, write_text
from models.autoencoder import TRAINING_RECORD
from tools.augmentation_study.arms import list_arms
from tools.augmentation_study.utility import deal_folds
from tools.diffusion.generation import count_per_class
from tools.diffusion.project import Project
from tools.diffusion.trained_images import count_trained, read_trained_images
from tools.evaluation.classifier_training import classifier_shape
from tools.evaluation.encoders.config_weights import hash_weights
from tools.evaluation.resampling import FEW_GROUPS, FEWEST_GROUPS

REFIT_CHOICES = ("auto", "always", "never")
_VAL_SHARE = 0.15  # of a fold's training groups, for the choice of the generator's weights
_ARMS_VERSION = 2  # raised where the arms or their classifiers change, so that no study mixes two kinds
_COLUMNS = ("STUDY_IMAGE", "STUDY_LABEL", "STUDY_GROUP", "STUDY_SPLIT")


@dataclass(frozen=True)
class StudyRequest:
    """What a study is asked for. The first ratio is the headline's."""

    num_folds: int = 5
    num_seeds: int = 5
    ratios: tuple[float, ...] = (1.0,)
    epochs: int = 30  # passes of the control over the real training images; all arms take as many steps
    refit_vae: str = "auto"

    @property
    def arms(self) -> list[str]:
        return list_arms(self.ratios)


@dataclass(frozen=True)
class UtilityStudy:
    """All labelled images, the hash and the fold that tests each, and whose VAE the folds use."""

    config: Config
    request: StudyRequest
    records: list[ImageRecord]
    sha256: list[str]
    folds: np.ndarray  # int64 (N,)
    refit_vae: bool
    vae_use: str  # a sentence: whose VAE, and whether it has seen tested images

    @property
    def labels(self) -> np.ndarray:
        return np.array([record.label for record in self.records], dtype=np.int64)

    @property
    def groups(self) -> list[str]:
        return [record.group for record in self.records]

    @property
    def warnings(self) -> list[str]:
        """What is known before anything runs to make the study say less."""
        thin = self._name_classes_under(FEW_GROUPS)
        if not thin:
            return []
        return [f"Few groups of class {name_some(thin)}: with fewer than {FEW_GROUPS} of a class intervals are too narrow."]

    def check_groups(self) -> None:
        """Refuse classes of so few groups that no interval holds."""
        thin = self._name_classes_under(FEWEST_GROUPS)
        if thin:
            raise UserError(f"expected {FEWEST_GROUPS} groups (patients, embryos) of each class or more, since no interval "
                            f"holds with fewer; found {name_some(thin)}")

    def _name_classes_under(self, least: int) -> list[str]:
        names = self.config.dataset_params.params.class_names
        counts = [len({record.group for record in self.records if record.label == label}) for label in range(len(names))]
        return [f"{name!r} ({count})" for name, count in zip(names, counts, strict=True) if count < least]

    def list_splits(self, fold: int) -> list[str]:
        """train, val or test of each image in this fold."""
        names = self.config.dataset_params.params.class_names
        inside: dict[str, set[int]] = {}
        for record, of_record in zip(self.records, self.folds, strict=True):
            if of_record != fold:
                inside.setdefault(record.group, set()).add(record.label)
        dealt = draw_splits(inside, fractions={"train": 1 - _VAL_SHARE, "val": _VAL_SHARE},
                            seed=self.config.train_params.seed, purpose=f"utility fold {fold}")
        missing = [name for label, name in enumerate(names)
                   if not any(dealt[group] == "train" for group, present in inside.items() if label in present)]
        if missing:
            raise UserError(f"fold {fold + 1}: class {missing[0]!r} has no group left to train on; give fewer --folds, "
                            "or add groups of the class")
        return [dealt.get(record.group, "test") for record in self.records]


def plan_study(config: Config, request: StudyRequest) -> UtilityStudy:
    """Deal the folds and decide about the VAE.

    Raises:
        UserError: a request or a data set that cannot be studied.
    """
    if request.num_seeds < 2:
        raise UserError(f"--seeds: expected 2 or more, found {request.num_seeds}; one does not show the noise of training")
    if request.epochs < 1:
        raise UserError(f"--epochs: expected 1 or more, found {request.epochs}")
    if config.sample_params.guide_checkpoint is not None:
        raise UserError("sample_params.guide_checkpoint: expected none, as one network would guide all folds, also where it "
                        "was trained on the tested images; set it to null")
    if not request.ratios or len(set(request.ratios)) < len(request.ratios) or not all(
            np.isfinite(ratio) and ratio > 0 for ratio in request.ratios):
        raise UserError(f"--synthetic-ratio: expected different numbers above 0, found {list(request.ratios)}")
    classifier_shape(config.dataset_params.params)  # refuses images that are too small before any hour is spent
    project = Project.open(config)
    records = list(project.records)
    digests = [hash_file(record.path) for record in records]
    _refuse_shared_pictures(records, digests)
    folds = deal_folds([record.group for record in records], [record.label for record in records],
                       class_names=config.dataset_params.params.class_names, num_folds=request.num_folds,
                       seed=config.train_params.seed)
    study = UtilityStudy(config, request, records, digests, folds, *_choose_vae(project, request.refit_vae, digests))
    study.check_groups()
    for fold in range(request.num_folds):
        _check_ratios(study, fold)
    return study


def _refuse_shared_pictures(records: Sequence[ImageRecord], digests: Sequence[str]) -> None:
    """The same file in two groups would be trained on in one fold and tested in another."""
    first: dict[str, ImageRecord] = {}
    for record, digest in zip(records, digests, strict=True):
        other = first.setdefault(digest, record)
        if other.group != record.group:
            raise UserError(f"{record.path} is the same file as {other.path} of another group, so one would be tested after "
                            "training on the other; python -m tools.check_dataset names all such pictures; take one of "
                            "each out")


def _check_ratios(study: UtilityStudy, fold: int) -> None:
    """Refuse ratios that leave a class without synthetic images before any hour is spent."""
    labels = [record.label for record, split in zip(study.records, study.list_splits(fold), strict=True) if split == "train"]
    counts = np.bincount(labels, minlength=study.config.num_classes).tolist()
    for ratio in study.request.ratios:
        if min(count_per_class(round(ratio * len(labels)), counts)) < 1:
            raise UserError(f"--synthetic-ratio {ratio:g}: fold {fold + 1} would have a class without a synthetic image; "
                            "give a larger one")


def write_fold(study: UtilityStudy, fold: int, folder: Path) -> Config:
    """The fold's table and configs; returns the one of its generator."""
    table = study.config.dataset_params.params
    names = [_name_below(record.path, Path(table.root_dir)) for record in study.records]
    lines: list[list[object]] = [[*_COLUMNS, *table.conditions]]
    groups = study.groups
    if table.group_column is None:  # each image is one; file names that differ by case would be refused as groups
        groups = [str(number) for number in range(len(groups))]
    for name, record, group, split in zip(names, study.records, groups, study.list_splits(fold), strict=True):
        levels = [condition.levels[index]
                  for condition, index in zip(table.conditions.values(), record.conditions, strict=True)]
        lines.append([name, record.label, group, split, *levels])
    write_text(folder / "annotations.csv", format_csv(lines))
    image, label, group, split_column = _COLUMNS
    table = replace(table, csv_file=str(folder / "annotations.csv"), image_column=image, label_column=label,
                    group_column=group, split_column=split_column, split_fractions=None, val_from_train=0.0,
                    covariate_columns=())
    data = replace(study.config.dataset_params, params=table, directory_latents=str(folder / "latents"),
                   directory_inception_features=str(folder / "features"))
    num_train = study.list_splits(fold).count("train")
    vae = study.config.autoencoder_params
    training = replace(vae.training, output=str(folder / "vae"))
    config = replace(
        study.config, dataset_params=data,
        train_params=replace(study.config.train_params, task_name=str(folder / "run"), resume_training=True),
        sample_params=replace(study.config.sample_params, per_class=None, output=str(folder / "synthetic"),
                              num_images=round(max(study.request.ratios) * num_train)),
        autoencoder_params=replace(vae, training=training),
        logging_params=replace(study.config.logging_params, wandb_mode="disabled"),
    )
    write_text(folder / "vae.yaml", config_to_yaml(config))
    if study.refit_vae:
        config = replace(config, autoencoder_params=replace(config.autoencoder_params, pretrained=training.output,
                                                            subfolder=None))
    write_text(folder / "config.yaml", config_to_yaml(config))
    return load_config(folder / "config.yaml")


def _choose_vae(project: Project, choice: str, digests: Sequence[str]) -> tuple[bool, str]:
    """Whether each fold trains its own VAE, and the sentence that says whose it is and what that one has seen."""
    if choice not in REFIT_CHOICES:
        raise UserError(f"--refit-vae: expected one of {', '.join(REFIT_CHOICES)}, found {choice!r}")
    params = project.autoencoder
    fine_tune, own, name = params.training.fine_tune, _is_own(params), params.pretrained
    refit = choice == "always" or (choice == "auto" and own)
    if refit and fine_tune and own:
        raise UserError("autoencoder_params.pretrained is the fine-tuned VAE itself, which has seen every image; name the "
                        "weights that fine-tuning starts from in autoencoder_params.pretrained, and give --refit-vae always")
    if refit and not fine_tune:
        return True, "The VAE is trained anew in each fold, on its training groups only."
    record = project.vae_folder / TRAINING_RECORD
    trained = read_trained_images(record)
    seen = 0 if trained is None else count_trained(digests, trained)
    if refit:
        if seen:
            raise UserError(f"autoencoder_params.pretrained: {name}, which fine-tuning would start from, was trained on "
                            f"{seen} of these images; name weights that have seen none of them, or set fine_tune to false")
        known = "which has seen none of these images" if trained is not None else (
            "taken for one that has seen none of these images, which is not recorded")
        return True, f"The VAE is fine-tuned anew in each fold, on its training groups only, from {name}, {known}."
    if seen or (own and trained is None):
        if choice == "auto":
            raise UserError(f"autoencoder_params.pretrained: {name} was trained on {seen} of these {len(digests)} images; "
                            "give --refit-vae always, or --refit-vae never and flattered arms")
        of = f"{seen} of these images" if seen else "these images"
        return False, (f"The VAE {name} is kept in all folds although it was trained on {of}: tested images have shaped it, "
                       "and every arm with synthetic images or round trips is flattered; --refit-vae always avoids that.")
    if trained is not None:
        return False, f"The VAE {name} is kept in all folds; by its record it was trained on none of these images."
    if choice == "auto" and record.is_file():
        raise UserError(f"autoencoder_params.pretrained: {name} was made by train_vae, on which images is not recorded; "
                        "give --refit-vae always, or --refit-vae never where it has seen none of these")
    return False, (f"The VAE {name} is kept in all folds, as one that was not trained on these images, which is not "
                   "recorded; if it was, give --refit-vae always.")


def _is_own(vae: AutoencoderParams) -> bool:
    """Whether the config's VAE is the one that train_vae writes for it."""
    return Path(vae.pretrained).resolve() == Path(vae.training.output).resolve()


def describe_settings(study: UtilityStudy) -> dict[str, Any]:
    """All that the predictions depend on, but for the seeds, of which more can be added."""
    config = config_to_identity(study.config)
    request = study.request
    training, data, sample = ({
        key: value for key, value in config[section].items() if effect_of(f"{section}.{key}") not in ("speed", "place")
    } for section in ("train_params", "dataset_params", "sample_params"))
    table = {key: config["dataset_params"]["params"][key] for key in ("im_channels", "image_size", "fit", "class_names",
                                                                      "conditions", "extra")}
    data.pop("params")
    for key in ("num_images", "per_class"):  # a fold sets them itself
        sample.pop(key)
    sample["guide_checkpoint"] = config["sample_params"]["guide_checkpoint"]  # by its path, as ever
    if study.refit_vae:
        vae = {key: value for key, value in config["autoencoder_params"]["training"].items()
               if effect_of(f"autoencoder_params.training.{key}") != "place"}
        vae["lr"] = study.config.autoencoder_params.training.peak_lr
        vae["start"] = Project.open(study.config).vae_sha256 if vae["fine_tune"] else None
        vae["perceptual"] = hash_weights(study.config.dataset_params.lpips_path) if vae["perceptual_weight"] else None
    else:
        vae = {"sha256": Project.open(study.config).vae_sha256}
    return {
        "folds": request.num_folds, "synthetic_ratio": list(request.ratios), "epochs": request.epochs,
        "arms": _ARMS_VERSION, "vae": vae,
        "images_sha256": hash_json([
            [digest, record.label, record.group, list(record.conditions), int(fold)]
            for digest, record, fold in zip(study.sha256, study.records, study.folds, strict=True)]),
        "table": table, "dataset_params": data, "train_params": training, "unet_params": config["unet_params"],
        "diffusion_params": config["diffusion_params"], "sample_params": sample,
    }


def _name_below(path: Path, root: Path) -> str:
    try:
        return path.relative_to(root).as_posix()
    except ValueError as error:
        raise UserError(f"{path}: expected every image below dataset_params.params.root_dir {root}; move it") from error
