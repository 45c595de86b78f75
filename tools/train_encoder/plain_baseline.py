"""What a plain baseline on untrained features reads from val, beside which a classifier's own reading is shown."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from config.schema import Config
from dataset.latents import LabelledImages
from dataset.storage import hash_json
from tools.diffusion.data import open_images, transform_identity
from tools.evaluation.accuracy import balanced_accuracy
from tools.evaluation.baseline import BaselineFeatures, fit_baseline
from tools.evaluation.encoders.encoder import Encoder, load_encoder
from tools.evaluation.encoders.untrained import UNTRAINED
from tools.evaluation.features import cached_features
from tools.evaluation.image_set import ImageSet
from tools.evaluation.image_sets import as_gray_if_all, read_set
from tools.runtime.machine import choose_device
from tools.runtime.progress import Progress


def baseline_accuracy(config: Config, labels_of: Callable[[LabelledImages], np.ndarray], *, seed: int) -> float | None:
    """Balanced accuracy on val of `fit_baseline` on the train split; None where the training images have one label.

    The features go into the cache that evaluations read.
    """
    quiet, splits = not config.logging_params.progress_bar, ("train", "val")
    data = [open_images(config, split) for split in splits]
    train, val = as_gray_if_all([read_set(split, images, quiet) for split, images in zip(splits, data, strict=True)])
    device = choose_device(precision="float32")
    candidates = []
    for name in UNTRAINED:
        encoder = load_encoder(name, weights_path=None, device=device)
        candidates.append(BaselineFeatures(name, *(_encode(config, encoder, images) for images in (train, val))))
    baseline = fit_baseline(candidates, labels_of(data[0]), train.groups, seed=seed)
    return None if baseline is None else balanced_accuracy(labels_of(data[1]), baseline.predicted)


def _encode(config: Config, encoder: Encoder, images: ImageSet) -> np.ndarray:
    transform_hash = hash_json({"transform": transform_identity(config), "channels": images.pixels.shape[-1]})
    with Progress(f"{encoder.name}, {images.name}", len(images), enabled=config.logging_params.progress_bar) as bar:
        return cached_features(
            Path(config.dataset_params.directory_inception_features), encoder=encoder, images=lambda: images.pixels,
            ids=images.ids, labels=images.labels, groups=images.groups, image_sha256=images.sha256,
            transform_hash=transform_hash, split=images.name, batch_size=config.evaluation_params.batch_size,
            progress=bar.update).values
