"""The plan of a study of utility: who is tested in which fold, whether each fold trains a VAE of its own, and each fold's
table and configs. Runs nothing."""

import csv
import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from config.errors import UserError
from config.load import config_to_dict, config_to_yaml, load_config
from config.schema import Config
from dataset.annotations import ImageRecord
from dataset.splits import draw_splits
from dataset.storage import hash_file, hash_json, write_text
from models.autoencoder import TRAINING_RECORD, hash_autoencoder
from tools.evaluation.utility import deal_folds
from tools.runtime.classifier_training import classifier_shape
from tools.runtime.data import find_autoencoder, open_images
from tools.runtime.utility_arms import list_arms

REFIT_CHOICES = ("auto", "always", "never")
_VAL_SHARE = 0.15  # of a fold's training groups, for the choice of the generator's weights
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
class Study:
    """All labelled images, the fold that tests each, and whether each fold trains its own VAE."""

    config: Config
    request: StudyRequest
    records: list[ImageRecord]
    folds: np.ndarray  # int64 (N,)
    refit_vae: bool

    @property
    def labels(self) -> np.ndarray:
        return np.array([record.label for record in self.records], dtype=np.int64)

    @property
    def groups(self) -> list[str]:
        return [record.group for record in self.records]

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


def plan_study(config: Config, request: StudyRequest) -> Study:
    """Deal the folds and decide about the VAE.

    Raises:
        UserError: a request or a data set that cannot be studied.
    """
    if request.num_seeds < 1 or request.epochs < 1:
        raise UserError(f"--seeds and --epochs: expected 1 or more, found {request.num_seeds} and {request.epochs}")
    if config.sample_params.guide_checkpoint is not None:
        raise UserError("sample_params.guide_checkpoint: expected none, as one network would guide all folds, also where it "
                        "was trained on the tested images; set it to null")
    if not request.ratios or len(set(request.ratios)) < len(request.ratios) or not all(
            np.isfinite(ratio) and ratio > 0 for ratio in request.ratios):
        raise UserError(f"--synthetic-ratio: expected different numbers above 0, found {list(request.ratios)}")
    classifier_shape(config)  # refuses images that are too small before any hour is spent
    records = list(open_images(config, None).records)
    folds = deal_folds([record.group for record in records], [record.label for record in records],
                       class_names=config.dataset_params.params.class_names, num_folds=request.num_folds,
                       seed=config.train_params.seed)
    study = Study(config, request, records, folds, _decide_refit(config, request.refit_vae))
    for fold in range(request.num_folds):
        study.list_splits(fold)
    if not study.refit_vae:
        find_autoencoder(config)
    return study


def describe_vae(study: Study) -> str:
    """One sentence: whose VAE the folds use."""
    own = study.config.autoencoder_params.pretrained
    if study.refit_vae:
        return "The VAE is trained anew in each fold, on its training groups only."
    if _is_own(study.config):
        return (f"The VAE {own} is kept in all folds although it was trained on these images: tested images have shaped it, "
                "and every arm with synthetic images or round trips is flattered; --refit-vae always avoids that.")
    return (f"The VAE {own} is kept in all folds, as one that was not trained on these images; if it was, give "
            "--refit-vae always.")


def write_fold(study: Study, fold: int, folder: Path) -> Config:
    """The fold's table and configs; returns the one of its generator."""
    table = study.config.dataset_params.params
    names = [_name_below(record.path, Path(table.root_dir)) for record in study.records]
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow([*_COLUMNS, *table.conditions])
    for name, record, split in zip(names, study.records, study.list_splits(fold), strict=True):
        levels = [condition.levels[index]
                  for condition, index in zip(table.conditions.values(), record.conditions, strict=True)]
        rows.writerow([name, record.label, record.group, split, *levels])
    write_text(folder / "annotations.csv", text.getvalue())
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


def _decide_refit(config: Config, choice: str) -> bool:
    if choice not in REFIT_CHOICES:
        raise UserError(f"--refit-vae: expected one of {', '.join(REFIT_CHOICES)}, found {choice!r}")
    vae = Path(config.autoencoder_params.pretrained)
    if choice == "auto" and not _is_own(config) and (vae / TRAINING_RECORD).is_file():
        raise UserError(f"autoencoder_params.pretrained: {vae} was made by train_vae, on which images is not recorded; give "
                        "--refit-vae always, or --refit-vae never where it has seen none of these")
    refit = choice == "always" or (choice == "auto" and _is_own(config))
    if refit and config.autoencoder_params.training.fine_tune and _is_own(config):
        raise UserError("autoencoder_params.pretrained is the fine-tuned VAE itself, which has seen every image; name the "
                        "weights that fine-tuning starts from in autoencoder_params.pretrained, and give --refit-vae always")
    return refit


def _is_own(config: Config) -> bool:
    """Whether the config's VAE is the one that train_vae writes for it."""
    vae = config.autoencoder_params
    return Path(vae.pretrained).resolve() == Path(vae.training.output).resolve()


def describe_settings(study: Study) -> dict[str, Any]:
    """All that the predictions depend on, but for the seeds, of which more can be added."""
    config = config_to_dict(study.config)
    request = study.request
    training = {key: value for key, value in config["train_params"].items()
                if key not in ("task_name", "resume_training", "checkpoint_interval_steps", "keep_last_checkpoints")}
    table = {key: config["dataset_params"]["params"][key] for key in ("im_channels", "image_size", "fit", "class_names",
                                                                      "conditions", "extra")}
    data = {key: value for key, value in config["dataset_params"].items()
            if key not in ("params", "directory_latents", "directory_inception_features", "lpips_path")}
    sample = {key: value for key, value in config["sample_params"].items()
              if key not in ("output", "batch_size", "num_images", "per_class")}
    if study.refit_vae:
        vae = {key: value for key, value in config["autoencoder_params"]["training"].items() if key != "output"}
        vae["start"] = config["autoencoder_params"]["pretrained"] if vae["fine_tune"] else None
    else:
        vae = {"sha256": hash_autoencoder(find_autoencoder(study.config))}
    return {
        "folds": request.num_folds, "synthetic_ratio": list(request.ratios), "epochs": request.epochs,
        "vae": vae,
        "images_sha256": hash_json([[hash_file(record.path), record.label, record.group, list(record.conditions), int(fold)]
                                    for record, fold in zip(study.records, study.folds, strict=True)]),
        "table": table, "dataset_params": data, "train_params": training, "unet_params": config["unet_params"],
        "diffusion_params": config["diffusion_params"], "sample_params": sample,
    }


def _name_below(path: Path, root: Path) -> str:
    try:
        return path.relative_to(root).as_posix()
    except ValueError as error:
        raise UserError(f"{path}: expected every image below dataset_params.params.root_dir {root}; move it") from error
