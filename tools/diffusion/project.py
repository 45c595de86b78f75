"""A project, opened once per process: the labelled images, the hashes of their files, the VAE and the latent caches."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from config.errors import UserError
from config.schema import AutoencoderParams, Config, DatasetParams
from dataset.annotations import ImageRecord
from dataset.latents import (
    LabelledImages,
    LatentCache,
    build_latent_cache,
    cache_identity,
    describe_stale_caches,
    open_latent_cache,
)
from dataset.ranks import ALONE, Ranks
from dataset.storage import hash_file
from models.autoencoder import (
    LatentCodec,
    LatentStatistics,
    hash_autoencoder,
    load_codec,
    read_latent_layout,
    resolve_autoencoder,
)
from tools.runtime.progress import Progress

# Keys of dataset_params.params that are no argument of `target`, or (the last four) only where they say something.
_NOT_OF_THE_DATA_SET = ("extra", "um_per_px", "unlabelled", "conditions", "covariate_columns", "missing_labels",
                        "unlabelled_values")


class Project:
    """The data of a config. Each part is read when it is first asked for, then kept.

    A fault of the table, an image or the VAE is a UserError at the first request.
    """

    def __init__(self, data: DatasetParams, autoencoder: AutoencoderParams, *, progress_bar: bool) -> None:
        self.data, self.table, self.autoencoder = data, data.params, autoencoder
        self._progress_bar = progress_bar
        self._hashes: dict[tuple[Path, int, int], str] = {}

    @classmethod
    def open(cls, config: Config) -> "Project":
        return cls(config.dataset_params, config.autoencoder_params, progress_bar=config.logging_params.progress_bar)

    @cached_property
    def every_image(self) -> LabelledImages:
        """The images of all splits, those without a label among them, which have the label after the last class."""
        return open_images(self.data)

    @cached_property
    def all_images(self) -> LabelledImages:
        """The images of all splits that have a label."""
        return self._select(lambda record: self._has_label(record))

    @property
    def records(self) -> Sequence[ImageRecord]:
        """The rows of all splits that have a label."""
        return self.all_images.records

    def images(self, split: str) -> LabelledImages:
        """The images of one split that have a label.

        Raises:
            UserError: the split has no images.
        """
        if not self.has_split(split):
            return open_images(self.data, split)  # which says what is missing
        return self._select(lambda record: record.split == split and self._has_label(record))

    def trained_images(self, split: str) -> LabelledImages:
        """What the VAE and the UNet learn from (train) or are validated on (val). To train belong, at its end, the images
        without a label; those of other splits are used nowhere."""
        if split != "train" or not self.num_unlabelled:
            return self.images(split)
        return self._select(lambda record: record.split == split, key=lambda record: not self._has_label(record))

    @property
    def num_unlabelled(self) -> int:
        """Training images without a label."""
        return sum(record.split == "train" and not self._has_label(record) for record in self.every_image.records)

    def has_split(self, split: str) -> bool:
        """Whether any image with a label belongs to this split."""
        return any(record.split == split for record in self.records)

    def _has_label(self, record: ImageRecord) -> bool:
        return record.label < len(self.table.class_names)

    def _select(self, chosen: Callable[[ImageRecord], bool], *, key: Callable[[ImageRecord], Any] | None = None
                ) -> LabelledImages:
        """The chosen rows, in the order of the rows or sorted by `key`; all rows as they are where all are chosen."""
        records = self.every_image.records
        rows = [row for row, record in enumerate(records) if chosen(record)]
        if key is not None:
            rows.sort(key=lambda row: key(records[row]))
        return self.every_image if rows == list(range(len(records))) else _SomeImages(self.every_image, rows)

    def hash_image(self, path: Path) -> str:
        """sha256 of a file, read again only if its size or time has changed."""
        found = path.stat()
        key = path, found.st_size, found.st_mtime_ns
        if key not in self._hashes:
            self._hashes[key] = hash_file(path)
        return self._hashes[key]

    def hash_images(self, images: LabelledImages) -> list[str]:
        """sha256 of each image's file, in the order of the records."""
        return [self.hash_image(record.path) for record in images.records]

    @property
    def transform(self) -> dict[str, Any]:
        """The config values that determine the pixels of a prepared image."""
        table = self.table
        return {"target": self.data.target, "im_channels": table.im_channels, "image_size": table.image_size,
                "fit": table.fit, "extra": dict(table.extra)}

    @cached_property
    def vae_folder(self) -> Path:
        """The local folder of the VAE, checked against the latents that the config declares.

        Raises:
            UserError: it is not available, or its latents have another shape than z_channels and latent_size declare.
        """
        params = self.autoencoder
        if Path(params.pretrained) == Path(params.training.output) and not Path(params.pretrained).is_dir():
            raise UserError(f"autoencoder_params.pretrained: expected the VAE that tools.train_vae writes, found no folder "
                            f"{params.pretrained}; run `python -m tools.train_vae` with the same config first")
        folder = resolve_autoencoder(params.pretrained, params.subfolder)
        _check_latent_layout(self.data, folder)
        return folder

    @cached_property
    def vae_sha256(self) -> str:
        """The hash of what determines every latent: the VAE's shape and weights."""
        return hash_autoencoder(self.vae_folder)

    def with_vae(self, folder: Path) -> "Project":
        """The same data with another VAE."""
        autoencoder = replace(self.autoencoder, pretrained=str(folder), subfolder=None)
        other = Project(self.data, autoencoder, progress_bar=self._progress_bar)
        other._hashes = self._hashes
        if "every_image" in self.__dict__:
            other.every_image = self.every_image
        return other

    def open_codec(
        self, *, statistics: LatentStatistics | None = None, decoder_only: bool = False, device: torch.device | str = "cpu"
    ) -> LatentCodec:
        """The codec of the VAE on a device."""
        codec = load_codec(self.vae_folder, im_channels=self.table.im_channels, statistics=statistics,
                           decoder_only=decoder_only)
        return codec.to(device)

    def latents_identity(self, split: str) -> dict[str, Any]:
        """All that determines the latents of a split: VAE, preprocessing, views, file bytes and labels."""
        images = self.trained_images(split)
        symmetries = self.data.symmetries if split == "train" else ("identity",)
        return cache_identity(images, sha256=self.hash_images(images), transform=self.transform, symmetries=symmetries,
                              vae_sha256=self.vae_sha256)

    def prepare_latents(self, split: str, *, device: torch.device | str = "cpu", ranks: Ranks = ALONE) -> LatentCache:
        """Open the split's latent cache. If none fits, say which stale one does not, and build it with a progress bar.

        Validation and test hold the identity view only. Processes that share the work all call this.

        Raises:
            UserError: a damaged cache, an image that cannot be read, latents of another size than declared.
        """
        images, identity = self.trained_images(split), self.latents_identity(split)
        folder = Path(self.data.directory_latents)
        cache = open_latent_cache(folder, split=split, identity=identity)
        if not ranks.agree(cache is not None):
            for line in describe_stale_caches(folder, split=split, identity=identity) if ranks.is_first else ():
                print(f"{line}: building a new one")
            codec = self.open_codec(device=device)
            with Progress(f"encoding {split}", len(images), enabled=self._progress_bar and ranks.is_first) as progress:
                cache = build_latent_cache(
                    folder, images, split=split, identity=identity, encode=codec.encode,
                    batch_size=self.autoencoder.batch_size, report=progress.report, ranks=ranks,
                )
        assert cache is not None
        _check_latent_shape(self.data, cache.mean.shape[2:])
        return cache


class _SomeImages:
    """The images at some rows of a data set."""

    def __init__(self, images: LabelledImages, rows: Sequence[int]) -> None:
        self.records = [images.records[row] for row in rows]
        self._images, self._rows = images, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self._images[self._rows[index]]


def open_images(data: DatasetParams, split: str | None = None) -> LabelledImages:
    """The data set that `dataset_params.target` names, for one split or for all.

    Raises:
        UserError: the target cannot be imported or does not meet the contract, or the data are faulty.
    """
    module_name, _, class_name = data.target.rpartition(".")
    try:
        target = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"dataset_params.target: {data.target!r} cannot be imported ({error})") from error
    table = data.params
    arguments: dict[str, Any] = {name: getattr(table, name) for name in table.__dataclass_fields__
                                 if name not in _NOT_OF_THE_DATA_SET}
    if table.conditions:
        arguments["conditions"] = {name: condition.levels for name, condition in table.conditions.items()}
    if table.covariate_columns:
        arguments["covariate_columns"] = table.covariate_columns
    if table.missing_labels:
        arguments["missing_labels"] = table.missing_labels
    if table.unlabelled == "train":
        arguments["unlabelled_values"] = table.unlabelled_values
    try:
        images = target(**arguments, **table.extra, split=split)
    except TypeError as error:
        raise UserError(
            f"dataset_params.target: {data.target} does not accept the arguments of "
            f"dataset.Embryo_loader.Embryo_loader ({error})"
        ) from error
    for name in ("records", "class_names", "__len__", "__getitem__"):
        if not hasattr(images, name):
            raise UserError(f"dataset_params.target: {data.target} lacks {name}, which the contract in "
                            "dataset/Embryo_loader.py asks for")
    return images


def _check_latent_layout(data: DatasetParams, folder: Path) -> None:
    """Refuse a z_channels or latent_size that the VAE's own config contradicts, before anything is encoded."""
    channels, factor = read_latent_layout(folder)
    side = None if factor is None else data.params.image_size // factor
    expected = {"z_channels": channels or data.z_channels, "latent_size": side or data.latent_size}
    found = {key: getattr(data, key) for key in expected}
    if found != expected:
        raise UserError(
            f"dataset_params: expected {_name_values(expected)} for the VAE in {folder} and images of "
            f"{data.params.image_size} px, found {_name_values(found)}; set both keys as expected, or name another "
            "autoencoder_params.pretrained"
        )


def _name_values(values: dict[str, int]) -> str:
    return " and ".join(f"{key}: {value}" for key, value in values.items())


def _check_latent_shape(data: DatasetParams, shape: tuple[int, ...]) -> None:
    expected = (data.z_channels, data.latent_size, data.latent_size)
    if tuple(shape) != expected:
        raise UserError(
            f"the VAE turns {data.params.image_size} px images into latents {'x'.join(map(str, shape))}, the config "
            f"declares z_channels x latent_size x latent_size = {'x'.join(map(str, expected))}"
        )
