"""The held-out images, the classifier and the distance by which all VAEs of a comparison are measured alike."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from config.errors import UserError
from config.schema import Config
from dataset.images import to_uint8
from dataset.order import generator
from dataset.storage import read_json
from models.autoencoder import TRAINING_RECORD, load_codec, resolve_autoencoder
from models.classifier import Classifier
from tools.check_vae.round_trip import Ceiling, VaeCost, VaeMeasurement, measure_round_trip
from tools.diffusion.project import Project
from tools.evaluation.descriptors import describe_image
from tools.evaluation.distances import SMALLEST_FRECHET_SET
from tools.evaluation.encoders.encoder import Encoder, load_encoder
from tools.evaluation.encoders.published_weights import explain_missing, fetch_published
from tools.evaluation.encoders.untrained import UNTRAINED
from tools.evaluation.frechet import frechet_distance
from tools.evaluation.judges import load_judge
from tools.evaluation.lpips_distance import PerceptualEmbedding, load_perceptual
from tools.inspection.class_scores import judge_scores, network_features
from tools.inspection.pixels import read_pixels
from tools.inspection.readout import GroupedLabels, fit_and_score
from tools.runtime.progress import Progress


class VaeTrial:
    """Reads the images once; `measure` is then called for each VAE. `notes` says what could not be measured and why.

    Choosing looks at the val images, and at the test images only where there are none of val.

    The class is read by the judge of the config where there is one, else by a logistic regression on the real training
    images: on squeezenet1_1's features where its weights are given, else on levels, edges and detail.

    Raises:
        UserError: no image outside the training split, or a fault in the data.
    """

    def __init__(self, config: Config, *, device: torch.device) -> None:
        self.config, self.device, self.notes = config, device, []
        images = Project.open(config).all_images
        splits = np.array([record.split for record in images.records])
        self.split = next((split for split in ("val", "test") if (splits == split).any()), "")
        if not self.split:
            raise UserError("check_vae: expected images outside the training split, which the VAE may have learnt, found "
                            "none; give val or test rows, or split_fractions")
        if self.split == "test":
            self.notes.append("there are no val images, so that the VAE is chosen on the test images: what is measured on "
                              "these later is a little too good")
        held, train = splits == self.split, splits == "train"
        pixels = read_pixels(images, title="reading", progress_bar=config.logging_params.progress_bar)
        self._held, self._train = pixels[held], pixels[train]
        labels = np.array([record.label for record in images.records])
        self._train_labels = labels[train]
        self._grouped: GroupedLabels | None = None
        self._judge: Classifier | None = load_judge(config.evaluation_params.judge_path, config.dataset_params.params)
        try:
            groups = np.array([record.group for record in images.records])[held]
            self._grouped = GroupedLabels(labels[held], groups, seed=0)
            how = "the judge" if self._judge is not None else "a logistic regression on the training images"
            self.notes.append(f"the class was read by {how}")
        except UserError as error:
            self.notes.append(f"the class was not read on the {self.split} images: {error}")
        self._perceptual: PerceptualEmbedding | None = None
        failures = fetch_published(config.evaluation_params, config.dataset_params.lpips_path, encoders=(),
                                   progress_bar=config.logging_params.progress_bar)
        try:
            self._perceptual = load_perceptual(config.dataset_params.lpips_path, device=device)
        except UserError as error:
            self.notes.append(f"LPIPS was not measured: {explain_missing(error, failures)}")
        self._held_features: np.ndarray | None = None
        self._compared = self._prepare_distances()
        if config.evaluation_params.squeezenet_path is None:
            self.notes.append("FD, precision and recall were not measured: name evaluation_params.squeezenet_path")
        elif len(self._held) < SMALLEST_FRECHET_SET:
            self.notes.append(f"FD, precision and recall were not measured: they want {SMALLEST_FRECHET_SET} images")
        else:
            self._held_features = self._encode(self._held)

    @property
    def num_images(self) -> int:
        return len(self._held)

    def measure(self, folder: str) -> VaeMeasurement:
        """All measures of the VAE in a local folder or of a hub id; its latents may have another shape than the config's.

        Raises:
            UserError: neither a folder nor obtainable from the hub, or not a VAE of these images.
        """
        resolved = self._resolve(folder)
        codec = load_codec(resolved, im_channels=self.config.dataset_params.params.im_channels)
        codec.to(self.device)
        restored, size = np.empty_like(self._held), self.config.autoencoder_params.batch_size
        latents, _ = codec.encode(torch.from_numpy(self._held[:1]))  # and what a first call takes besides
        started = time.perf_counter()
        with Progress(f"round trip {folder}", len(restored), enabled=self.config.logging_params.progress_bar) as bar:
            for start in range(0, len(restored), size):
                batch = codec.round_trip(torch.from_numpy(self._held[start:start + size]))
                restored[start:start + size] = batch.cpu().numpy()
                bar.update(min(start + size, len(restored)))
        milliseconds = 1000 * (time.perf_counter() - started) / len(restored)
        cost = VaeCost(sum(weights.numel() for weights in codec.vae.parameters()), tuple(latents.shape[1:]), milliseconds,
                       _training_seconds(resolved))
        measured = measure_round_trip(folder, self._held, restored, grouped=self._grouped,
                                      scores=self._read_class(restored), lpips=self._mean_lpips(restored),
                                      ceiling=self._measure_ceiling(restored))
        return replace(measured, cost=cost, distances=self._measure_distances(restored))

    def _resolve(self, folder: str) -> Path:
        own = self.config.autoencoder_params
        if folder == own.pretrained or Path(folder).is_dir():
            return resolve_autoencoder(folder, own.subfolder if folder == own.pretrained else None)
        try:
            return resolve_autoencoder(folder)
        except UserError as error:
            reason = str(error).removeprefix("autoencoder_params.pretrained: ")
            raise UserError(f"--vae {folder}: expected a local folder that diffusers' save_pretrained wrote, or an id on "
                            f"the hub; {reason}") from error

    def measure_training_images(self) -> Ceiling | None:
        """As many training images in place of round trips: the scale to read a VAE's ceiling by."""
        training = self._draw_training_images()
        return None if training is None else self._measure_ceiling(training)

    def _draw_training_images(self) -> np.ndarray | None:
        """As many as there are held-out images, where there are so many."""
        if len(self._train) < len(self._held):
            return None
        chosen = generator(0, "training images beside round trips").permutation(len(self._train))[:len(self._held)]
        return self._train[chosen]

    def _prepare_distances(self) -> list[tuple[Encoder, np.ndarray, float]]:
        """Published and untrained encoders, each with its features of the held-out images and the Fréchet distance of as
        many training images; none where there are too few images for one."""
        training = self._draw_training_images()
        if training is None or len(self._held) < SMALLEST_FRECHET_SET:
            return []
        params = self.config.evaluation_params
        encoders = [load_encoder(name, weights_path=None, device=self.device) for name in UNTRAINED]
        if params.squeezenet_path is not None:
            encoders.insert(0, load_encoder("squeezenet1_1", weights_path=params.squeezenet_path, device=self.device,
                                            preset=params.squeezenet_preset))
        compared = []
        for encoder in encoders:
            held, others = (encoder.encode(to_uint8(images).transpose(0, 2, 3, 1), batch_size=params.batch_size)
                            for images in (self._held, training))
            compared.append((encoder, held, frechet_distance(held, others)))
        return compared

    def _measure_distances(self, restored: np.ndarray) -> dict[str, float]:
        """Of the round trips, over that of training images, by encoder."""
        pixels, size = to_uint8(restored).transpose(0, 2, 3, 1), self.config.evaluation_params.batch_size
        return {encoder.name: frechet_distance(held, encoder.encode(pixels, batch_size=size)) / real
                for encoder, held, real in self._compared if real > 0}

    def _measure_ceiling(self, others: np.ndarray) -> Ceiling | None:
        if self._held_features is None:
            return None
        return Ceiling.between(self._held_features, self._encode(others))

    def _encode(self, images: np.ndarray) -> np.ndarray | None:
        return next(iter(network_features(self.config.evaluation_params, images, device=self.device).values()), None)

    def _read_class(self, restored: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        if self._grouped is None:
            return None
        classes = self._grouped.classes
        if self._judge is not None:
            real, after = (judge_scores(self._judge, x, device=self.device)[:, classes] for x in (self._held, restored))
            return real, after
        train, real, after = (self._describe(images) for images in (self._train, self._held, restored))
        scores = fit_and_score(train, self._train_labels, np.concatenate([real, after]), classes)
        return scores[:len(real)], scores[len(real):]

    def _describe(self, images: np.ndarray) -> np.ndarray:
        by_network = self._encode(images)
        return describe_image(images) if by_network is None else by_network

    def _mean_lpips(self, restored: np.ndarray) -> float | None:
        if self._perceptual is None or restored.shape[-1] < 32:
            return None
        real, after = (to_uint8(images).transpose(0, 2, 3, 1) for images in (self._held, restored))
        return float(self._perceptual.pairwise(real, after, np.repeat(np.arange(len(real))[:, None], 2, axis=1)).mean())


def _training_seconds(folder: Path) -> float | None:
    record = folder / TRAINING_RECORD
    return read_json(record).get("seconds") if record.is_file() else None
