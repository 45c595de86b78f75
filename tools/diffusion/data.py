"""From a config to data: the labelled images, the VAE's codec and the latent caches. The one place that joins them."""

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from config.errors import UserError
from config.schema import Config
from dataset.latents import (
    LabelledImages,
    LatentCache,
    build_latent_cache,
    cache_identity,
    describe_stale_caches,
    open_latent_cache,
)
from dataset.ranks import ALONE, Ranks
from models.autoencoder import (
    LatentCodec,
    LatentStatistics,
    hash_autoencoder,
    load_codec,
    read_latent_layout,
    resolve_autoencoder,
)
from tools.runtime.progress import Progress

# Keys of dataset_params.params that are no argument of `target`, or (the last three) only where they say something.
_NOT_OF_THE_DATA_SET = ("extra", "um_per_px", "conditions", "covariate_columns", "missing_labels")


def open_images(config: Config, split: str | None) -> LabelledImages:
    """The data set that `dataset_params.target` names, for one split or for all.

    Raises:
        UserError: the target cannot be imported or does not meet the contract, or the data have a fault.
    """
    module_name, _, class_name = config.dataset_params.target.rpartition(".")
    try:
        target = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"dataset_params.target: {config.dataset_params.target!r} cannot be imported ({error})") from error
    table = config.dataset_params.params
    arguments: dict[str, Any] = {name: getattr(table, name) for name in table.__dataclass_fields__
                                 if name not in _NOT_OF_THE_DATA_SET}
    if table.conditions:
        arguments["conditions"] = {name: condition.levels for name, condition in table.conditions.items()}
    if table.covariate_columns:
        arguments["covariate_columns"] = table.covariate_columns
    if table.missing_labels:
        arguments["missing_labels"] = table.missing_labels
    try:
        images = target(**arguments, **table.extra, split=split)
    except TypeError as error:
        raise UserError(
            f"dataset_params.target: {config.dataset_params.target} does not accept the arguments of "
            f"dataset.Embryo_loader.Embryo_loader ({error})"
        ) from error
    for name in ("records", "class_names", "__len__", "__getitem__"):
        if not hasattr(images, name):
            raise UserError(f"dataset_params.target: {config.dataset_params.target} lacks {name}, which the contract in "
                            "dataset/Embryo_loader.py asks for")
    return images


def has_split(config: Config, split: str) -> bool:
    """Whether any image belongs to this split."""
    return any(record.split == split for record in open_images(config, None).records)


def find_autoencoder(config: Config) -> Path:
    """The local folder of the config's VAE, checked against the latents that the config declares.

    Raises:
        UserError: it cannot be had, or its latents have another shape than z_channels and latent_size declare.
    """
    params = config.autoencoder_params
    if Path(params.pretrained) == Path(params.training.output) and not Path(params.pretrained).is_dir():
        raise UserError(f"autoencoder_params.pretrained: expected the VAE that tools.train_vae writes, found no folder "
                        f"{params.pretrained}; run `python -m tools.train_vae` with the same config first")
    folder = resolve_autoencoder(params.pretrained, params.subfolder)
    _check_latent_layout(config, folder)
    return folder


def open_codec(
    config: Config, *, statistics: LatentStatistics | None = None, decoder_only: bool = False,
    device: torch.device | str = "cpu",
) -> LatentCodec:
    """The codec of the config's VAE on a device."""
    codec = load_codec(find_autoencoder(config), im_channels=config.dataset_params.params.im_channels,
                       statistics=statistics, decoder_only=decoder_only)
    return codec.to(device)


def prepare_latents(
    config: Config, split: str, *, device: torch.device | str = "cpu", ranks: Ranks = ALONE
) -> LatentCache:
    """Open the split's latent cache, building it with a progress bar where none fits; says which stale one does not.

    Validation and test hold the identity view only. Processes that share the work all call this.

    Raises:
        UserError: a damaged cache, an image that cannot be read, latents of another size than declared.
    """
    images = open_images(config, split)
    folder = Path(config.dataset_params.directory_latents)
    identity = latents_identity(config, images, split)
    cache = open_latent_cache(folder, split=split, identity=identity)
    if not ranks.agree(cache is not None):
        for line in describe_stale_caches(folder, split=split, identity=identity) if ranks.is_first else ():
            print(f"{line}: building a new one")
        codec = open_codec(config, device=device)
        with Progress(f"encoding {split}", len(images),
                      enabled=config.logging_params.progress_bar and ranks.is_first) as progress:
            cache = build_latent_cache(
                folder, images, split=split, identity=identity, encode=codec.encode,
                batch_size=config.autoencoder_params.batch_size, report=progress.report, ranks=ranks,
            )
    assert cache is not None
    _check_latent_shape(config, cache.mean.shape[2:])
    return cache


def latents_identity(config: Config, images: LabelledImages, split: str) -> dict[str, Any]:
    """All that determines the latents of a split: VAE, preprocessing, views, file bytes and labels."""
    symmetries = config.dataset_params.symmetries if split == "train" else ("identity",)
    return cache_identity(images, transform=transform_identity(config), symmetries=symmetries,
                          vae_sha256=hash_autoencoder(find_autoencoder(config)))


def transform_identity(config: Config) -> dict[str, Any]:
    """What of the config determines the pixels of a prepared image."""
    table = config.dataset_params.params
    return {"target": config.dataset_params.target, "im_channels": table.im_channels, "image_size": table.image_size,
            "fit": table.fit, "extra": dict(table.extra)}


def with_table(config: Config, **changes: Any) -> Config:
    """The config with other `dataset_params.params` values, to read a further table by the same rules."""
    table = replace(config.dataset_params.params, **changes)
    return replace(config, dataset_params=replace(config.dataset_params, params=table))


def _check_latent_layout(config: Config, folder: Path) -> None:
    """Refuse a z_channels or latent_size that the VAE's own config contradicts, before anything is encoded."""
    data = config.dataset_params
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


def _check_latent_shape(config: Config, shape: tuple[int, ...]) -> None:
    data = config.dataset_params
    expected = (data.z_channels, data.latent_size, data.latent_size)
    if tuple(shape) != expected:
        raise UserError(
            f"the VAE turns {data.params.image_size} px images into latents {'x'.join(map(str, shape))}, the config "
            f"declares z_channels x latent_size x latent_size = {'x'.join(map(str, expected))}"
        )
