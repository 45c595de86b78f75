"""The score of a plain baseline on untrained features on val, to compare a classifier's score with."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from dataset.latents import LabelledImages
from dataset.storage import hash_json
from tools.diffusion.project import Project
from tools.evaluation.accuracy import balanced_accuracy
from tools.evaluation.baseline import BaselineFeatures, fit_baseline
from tools.evaluation.encoders.encoder import Encoder, load_encoder
from tools.evaluation.encoders.untrained import UNTRAINED
from tools.evaluation.features import cached_features
from tools.evaluation.image_set import ImageSet
from tools.evaluation.image_sets import as_gray_if_all, read_set
from tools.runtime.machine import choose_device
from tools.runtime.progress import Progress


def baseline_accuracy(
    project: Project, labels_of: Callable[[LabelledImages], np.ndarray], *, seed: int, batch_size: int, progress_bar: bool
) -> float | None:
    """Balanced accuracy on val of `fit_baseline` on the train split; None if the training images have only one label.

    The features go into the cache that evaluations read.
    """
    splits = ("train", "val")
    data = [project.images(split) for split in splits]
    train, val = as_gray_if_all([read_set(split, images, not progress_bar, hash_image=project.hash_image)
                                 for split, images in zip(splits, data, strict=True)])
    device = choose_device(precision="float32")
    candidates = []
    for name in UNTRAINED:
        encoder = load_encoder(name, weights_path=None, device=device)
        candidates.append(BaselineFeatures(name, *(
            _encode(project, encoder, images, batch_size, progress_bar) for images in (train, val))))
    baseline = fit_baseline(candidates, labels_of(data[0]), train.groups, seed=seed)
    return None if baseline is None else balanced_accuracy(labels_of(data[1]), baseline.predicted)


def _encode(project: Project, encoder: Encoder, images: ImageSet, batch_size: int, progress_bar: bool) -> np.ndarray:
    transform_hash = hash_json({"transform": project.transform, "channels": images.pixels.shape[-1]})
    with Progress(f"{encoder.name}, {images.name}", len(images), enabled=progress_bar) as bar:
        return cached_features(
            Path(project.data.directory_inception_features), encoder=encoder, images=lambda: images.pixels,
            ids=images.ids, labels=images.labels, groups=images.groups, image_sha256=images.sha256,
            transform_hash=transform_hash, split=images.name, batch_size=batch_size,
            progress=bar.update).values
