"""From folders of images to the sets that are compared: synthetic folders, refusal of real images among them, decoding.

What is computed of the sets is not known here.
"""

import csv
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from config.errors import UserError, name_some
from config.schema import DatasetParams
from dataset.annotations import ImageRecord
from dataset.image_folder import IMAGE_SUFFIXES, escape_name, refuse_odd_names
from dataset.images import is_gray, to_uint8
from dataset.latents import LabelledImages
from dataset.prefetch import read_ahead
from dataset.ranks import ALONE, Ranks
from dataset.storage import hash_file
from models.autoencoder import LatentCodec
from tools.diffusion.project import open_images
from tools.diffusion.samples import IMAGE_FOLDER, MANIFEST_NAME
from tools.evaluation.image_set import ImageSet, ReadOnDemand
from tools.runtime.progress import Progress

_HELD_BYTES = 1 << 29  # of decoded synthetic images; more are decoded whenever they are needed


def open_synthetic(data: DatasetParams, folder: Path, *, conditions: Sequence[str] = ()) -> LabelledImages:
    """Synthetic images as a data set, read by the same rules as the real ones.

    Levels are read of `conditions` only, of which the manifest has columns.

    Raises:
        UserError: neither a manifest nor a folder per class, or a fault in them.
    """
    plain = {"group_column": None, "split_column": None, "split_fractions": {"train": 1.0}, "val_from_train": 0.0,
             "conditions": {name: data.params.conditions[name] for name in conditions},
             "covariate_columns": ()}
    manifest = folder / MANIFEST_NAME
    if manifest.is_file():
        return _open_table(data, csv_file=str(manifest), root_dir=str(folder / IMAGE_FOLDER), **plain)
    return _open_class_folders(data, folder, plain)


def _open_table(data: DatasetParams, **values: object) -> LabelledImages:
    table = replace(data.params, image_column="IMAGE_NAME", label_column="label", **values)
    return open_images(replace(data, params=table))


def _open_class_folders(data: DatasetParams, folder: Path, plain: dict[str, object]) -> LabelledImages:
    """One folder per class, named like the class: listed into a table in a temporary folder and read like any other."""
    names = data.params.class_names
    missing = [name for name in names if not (folder / name).is_dir()]
    if missing:
        raise UserError(f"{folder}: expected {MANIFEST_NAME}, or one folder per class ({', '.join(names)}); found no "
                        f"{MANIFEST_NAME} and no folder {missing[0]}")
    with tempfile.TemporaryDirectory() as temporary:
        table = Path(temporary) / MANIFEST_NAME
        with table.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["IMAGE_NAME", "label"])
            for label, name in enumerate(names):
                files = sorted(path for path in (folder / name).iterdir() if not path.name.startswith("."))
                refuse_odd_names(folder / name, [path.name for path in files if path.suffix.lower() in IMAGE_SUFFIXES])
                writer.writerows([f"{name}/{path.name}", label] for path in files if path.suffix.lower() in IMAGE_SUFFIXES)
                others = [escape_name(path.name) for path in files if path.suffix.lower() not in IMAGE_SUFFIXES]
                if others:
                    print(f"warning: {folder / name}: left out {len(others)} that are no {', '.join(IMAGE_SUFFIXES)}: "
                          f"{name_some(others)}", file=sys.stderr)
        return _open_table(data, csv_file=str(table), root_dir=str(folder), **plain)


def refuse_real_images(
    made: Sequence[ImageRecord], real: Sequence[ImageRecord], *, hash_image: Callable[[Path], str] = hash_file
) -> None:
    """Refuse real files, of whatever split, given as synthetic ones: by place or, copied and renamed, by their bytes.

    As synthetic images they would look perfect. Only files of a size that both sides have are read.
    """
    places, sizes = {record.path.resolve() for record in real}, {record.path.stat().st_size for record in made}
    contents = {hash_image(record.path) for record in real if record.path.stat().st_size in sizes}
    copies = [record.image_id for record in made
              if record.path.resolve() in places or hash_image(record.path) in contents]
    if copies:
        raise UserError(f"expected synthetic images, found {len(copies)} that are real images of this data set: "
                        f"{name_some(copies)}; give the folder of the synthetic ones")


def read_set(
    name: str, images: LabelledImages, quiet: bool, ranks: Ranks = ALONE, *, hash_image: Callable[[Path], str] = hash_file
) -> ImageSet:
    """A data set as 8-bit images with the hash of each file; decoded into memory where it is small enough, else later.

    Processes that share the decoding all get all images.
    """
    def read(index: int) -> np.ndarray:
        return to_uint8(images[index][0].permute(1, 2, 0))

    shape = read(0).shape
    held = name != "synthetic" or len(images) * int(np.prod(shape)) <= _HELD_BYTES
    pixels: np.ndarray | ReadOnDemand
    if held:
        pixels, rows = np.zeros((len(images), *shape), dtype=np.uint8), ranks.rows(len(images))
        with Progress(f"reading {name}", len(rows), enabled=not quiet) as bar:
            for index, image in enumerate(read_ahead(read, rows)):
                pixels[rows[index]] = image
                bar.update(index + 1)
        pixels = ranks.join(pixels)
    else:
        pixels = ReadOnDemand(read, np.arange(len(images)), shape)
    return ImageSet(
        name=name, pixels=pixels, labels=np.array([record.label for record in images.records], dtype=np.int64),
        ids=[record.image_id for record in images.records], groups=[record.group for record in images.records],
        sha256=[hash_image(record.path) for record in images.records],
    )


def as_gray_if_all(sets: Sequence[ImageSet]) -> list[ImageSet]:
    """Keep one channel where every image of every set is gray, so that all are treated alike."""
    if all(is_gray(pixels) for s in sets for pixels in s.chunks()):
        return [s.with_pixels(s.name, _to_gray(s.pixels)) for s in sets]
    return list(sets)


def _to_gray(pixels: np.ndarray | ReadOnDemand) -> np.ndarray | ReadOnDemand:
    """One channel, the rounded mean of those that there are."""
    def gray(image: np.ndarray) -> np.ndarray:
        return np.rint(image.mean(axis=-1, keepdims=True)).astype(np.uint8)

    if isinstance(pixels, ReadOnDemand):
        return pixels.map(gray, (*pixels.shape[1:-1], 1))
    return np.stack([gray(image) for image in pixels])


def round_trip(codec: LatentCodec, images: ImageSet, batch_size: int, quiet: bool, ranks: Ranks = ALONE) -> ImageSet:
    """The images through the VAE's encoder (posterior mean) and decoder, rounded to 8 bits.

    Batches hold the same images whatever the number of processes that share them, which all get all images.
    """
    size, channels = batch_size, images.pixels.shape[-1]
    whole, rows = np.zeros(images.pixels.shape, dtype=np.uint8), ranks.rows(len(images), size)
    with Progress(f"round trip {images.name}", len(rows), enabled=not quiet) as bar:
        for start in range(rows.start, rows.stop, size):
            pixels = torch.from_numpy(images.pixels[start:start + size]).permute(0, 3, 1, 2).float() / 127.5 - 1
            restored = codec.round_trip(pixels.expand(-1, codec.im_channels, -1, -1))
            restored = restored.mean(dim=1, keepdim=True) if channels == 1 else restored
            whole[start:start + size] = to_uint8(restored.permute(0, 2, 3, 1))
            bar.update(min(start + size, rows.stop) - rows.start)
    return images.with_pixels(f"{images.name}_round_trip", ranks.join(whole))
