"""What a study of utility will take and what it can show, before it starts. Estimates, said to be such."""

import time
from collections.abc import Callable

import numpy as np
import torch

from dataset.image_bank import ImageBank
from tools.augmentation_study.folds import UtilityStudy
from tools.augmentation_study.utility import smallest_detectable_gain
from tools.diffusion import estimate
from tools.diffusion.project import Project
from tools.evaluation.classifier_training import (
    ClassifierRecipe,
    class_probabilities,
    classifier_shape,
    count_classifier_steps,
    train_classifier,
)
from tools.runtime.machine import choose_device

_CORRELATIONS = (0.5, 0.8)  # of two arms' AUCs; two assumptions, since it is only known after a study
_TIMED_STEPS = (1, 4)  # of a classifier; the difference leaves out what comes once
_TIMED_IMAGES = 8


def describe_plan(study: UtilityStudy, *, auc: float) -> str:
    """The lines that --dry-run prints; measures short timings, which takes some seconds."""
    return "\n".join([*_describe_folds(study), study.vae_use, *study.warnings, *_describe_gain(study, auc=auc),
                      *_describe_time(study)])


def _describe_folds(study: UtilityStudy) -> list[str]:
    names = study.config.dataset_params.params.class_names
    lines = [f"{len(study.records):,} images of {len(set(study.groups)):,} groups; groups stay whole"]
    for fold in range(study.request.num_folds):
        splits = study.list_splits(fold)
        parts = []
        for split in ("train", "val", "test"):
            inside = [record for record, of in zip(study.records, splits, strict=True) if of == split]
            counts = np.bincount([record.label for record in inside], minlength=len(names))
            classes = ", ".join(f"{name} {count:,}" for name, count in zip(names, counts, strict=True))
            parts.append(f"{split}: {classes} ({len({record.group for record in inside}):,} groups)")
        lines.append(f"fold {fold + 1}  " + "; ".join(parts))
    return lines


def _describe_gain(study: UtilityStudy, *, auc: float) -> list[str]:
    num_classes = study.config.num_classes
    by_group = [len({record.group for record in study.records if record.label == label}) for label in range(num_classes)]
    by_image = np.bincount(study.labels, minlength=num_classes).tolist()
    lines = [f"smallest gain over an AUROC of {auc:g} seen with a power of 80% (two-sided 5%), if the arms' AUROCs "
             "correlate by " + " or ".join(f"{value:g}" for value in _CORRELATIONS) + ":"]
    counted = [("each group counted once", by_group)]
    if by_group != by_image:
        counted.append(("each image counted as independent", by_image))
    for words, sizes in counted:
        gains = [smallest_detectable_gain(auc, sizes, correlation=value) for value in _CORRELATIONS]
        lines.append(f"  {words} ({', '.join(f'{size:,}' for size in sizes)} by class): "
                     + " or ".join("none" if gain is None else f"{gain:.3f}" for gain in gains))
    if len(counted) > 1:
        lines.append("  the truth lies between the two")
    lines.append("  by (z_0.975 + z_0.8) sqrt(V1 + V2 - 2 r sqrt(V1 V2)), V of Hanley and McNeil 1982, pairs as in theirs "
                 "of 1983; the noise of training comes on top")
    return lines


def _describe_time(study: UtilityStudy) -> list[str]:
    config, request = study.config, study.request
    device = choose_device()
    rate = estimate.measure_training_rate(config.train_params.mixed_precision, device)
    per_step, per_prediction = _time_classifier(study)
    per_round_trip = _time_round_trip(study, device)
    views = len(config.dataset_params.symmetries)
    classifiers = generators = sampling = coding = 0.0
    for fold in range(request.num_folds):
        splits = study.list_splits(fold)
        num_train, num_synthetic = splits.count("train"), round(max(request.ratios) * splits.count("train"))
        steps = count_classifier_steps(request.epochs, num_train)
        classifiers += len(request.arms) * request.num_seeds * (steps * per_step + splits.count("test") * per_prediction)
        flops = estimate.count_step_flops(config.dataset_params, config.unet_params, config.train_params.ldm_batch_size)
        generators += estimate.expected_seconds(flops * estimate.count_steps(config.train_params, num_train)[1], rate)
        flops = estimate.count_sampling_flops(config.dataset_params, config.unet_params, config.sample_params, num_synthetic,
                                              num_timesteps=config.diffusion_params.num_timesteps)
        sampling += estimate.expected_seconds(flops, rate)
        # A round trip is an encoding and a decoding; each is taken for half of it.
        coding += per_round_trip * ((views * num_train + splits.count("val") + num_synthetic) / 2 + num_train)
    minutes = config.autoencoder_params.training.max_minutes if study.refit_vae else None
    vae = request.num_folds * (minutes or 0.0) * 60
    parts = [f"VAEs at most {estimate.format_duration(vae)}"] if minutes else []
    parts += [f"generators {estimate.format_duration(generators)}", f"drawing {estimate.format_duration(sampling)}"]
    parts += [f"encoding and decoding {estimate.format_duration(coding)}"] if per_round_trip else []
    parts += [f"{request.num_folds * len(request.arms) * request.num_seeds} classifiers "
              f"{estimate.format_duration(classifiers)}"]
    left_out = "validation and start-up" if per_round_trip else "encoding, decoding (no VAE yet), validation and start-up"
    if study.refit_vae and not minutes:
        left_out = f"{request.num_folds} VAEs of {config.autoencoder_params.training.max_steps} steps, {left_out}"
    total = vae + generators + sampling + coding + classifiers
    return [f"time  about {estimate.format_duration(total)} on this {device.type} ({', '.join(parts)}), from short timings, "
            f"without {left_out}"]


def _time_classifier(study: UtilityStudy) -> tuple[float, float]:
    """Seconds of an optimizer step and of a prediction."""
    images = Project.open(study.config).all_images
    bank, labels, shape = ImageBank(images), study.labels, classifier_shape(study.config.dataset_params.params)

    def train(num_steps: int) -> None:
        recipe = ClassifierRecipe(seed=0, num_steps=num_steps, symmetries=study.config.dataset_params.symmetries)
        train_classifier(shape, bank.batch, labels, recipe, title="timing", show_progress=False)

    train(_TIMED_STEPS[1])  # reads all images that are timed below, once, as a training does
    few, more = (_time(lambda steps=steps: train(steps)) for steps in _TIMED_STEPS)
    network = train_classifier(shape, bank.batch, labels, ClassifierRecipe(0, 1, ("identity",)), title="timing",
                               show_progress=False)
    count = min(_TIMED_IMAGES, len(images))
    predicting = _time(lambda: class_probabilities(network, bank.batch, count)) / count
    return max(more - few, 0.0) / (_TIMED_STEPS[1] - _TIMED_STEPS[0]), predicting


def _time_round_trip(study: UtilityStudy, device: torch.device) -> float:
    """Seconds of an image's round trip; 0 where the VAE is still to be trained."""
    if study.refit_vae:
        return 0.0
    project = Project.open(study.config)
    codec, images = project.open_codec(device=device), project.all_images
    pixels = torch.stack([images[place][0] for place in range(min(_TIMED_IMAGES, len(images)))])
    codec.round_trip(pixels[:1])
    return _time(lambda: codec.round_trip(pixels).cpu()) / len(pixels)


def _time(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
