"""Features of a set of images and their cache on disk, keyed by content: one .npz for each encoder and split. Owns the
file format and the key; encoders.py makes the numbers."""

import json
import logging
import platform
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import __version__ as pillow_version

from config.errors import UserError, name_some
from dataset.patient_note import write_patient_note
from dataset.ranks import ALONE, Ranks
from dataset.storage import atomic_path, hash_json
from tools.evaluation.encoders.encoder import Encoder
from tools.evaluation.image_set import CHUNK_IMAGES, ReadOnDemand

NOTE = (
    "Derived from patients' images: feature vectors can reveal who is in the data. Treat this file like the images, "
    "do not publish it."
)
_SCHEMA = 1
_BROKEN = (zipfile.BadZipFile, zlib.error, ValueError, KeyError, EOFError, OSError)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Features:
    """Feature vectors of N images: values (N, D) float32, labels (N,) int64, one id and one group an image.

    `key` is the hash of everything that the values depend on.
    """

    values: np.ndarray
    ids: list[str]
    labels: np.ndarray
    groups: list[str]
    key: str

    def select(self, rows: np.ndarray) -> "Features":
        """The images at `rows` (a mask or indices), for a number per class from the same encoding."""
        rows = np.flatnonzero(rows) if np.asarray(rows).dtype == bool else np.asarray(rows, dtype=np.int64)
        return Features(
            values=self.values[rows],
            ids=[self.ids[row] for row in rows],
            labels=self.labels[rows],
            groups=[self.groups[row] for row in rows],
            key=hash_json({"of": self.key, "rows": rows.tolist()}),
        )


def cached_features(
    folder: Path,
    *,
    encoder: Encoder,
    images: Callable[[], Iterable[np.ndarray]],
    ids: Sequence[str],
    labels: Sequence[int] | np.ndarray,
    groups: Sequence[str],
    image_sha256: Sequence[str],
    transform_hash: str,
    split: str,
    batch_size: int = 32,
    progress: Callable[[int], None] | None = None,
    ranks: Ranks = ALONE,
) -> Features:
    """Features of the listed images, from `folder` where they are there and current, else encoded and stored.

    `images` is called on a miss only and yields uint8 images (H, W, C) of one size in the order of `ids` (an array
    (N, H, W, C) does). The key covers encoder, weights, preset, transform, image bytes, ids, labels and groups; the
    first fields that differ from the stored file are logged. `progress` gets the count of images done. Processes that share
    the encoding all call this and get the same; the first one reads and writes the file.

    Raises:
        UserError: lists of different lengths, images that do not match them, or a disk that cannot be written.
    """
    ids, groups = [str(item) for item in ids], [str(item) for item in groups]
    labels = np.asarray(labels, dtype=np.int64)
    lengths = {"ids": len(ids), "labels": len(labels), "groups": len(groups), "image_sha256": len(image_sha256)}
    if len(set(lengths.values())) != 1 or not ids:
        raise UserError(f"features of {split}: expected one entry an image in each list, found {lengths}")
    fields = {
        "schema": _SCHEMA,
        "split": split,
        "encoder": encoder.name,
        "dimension": encoder.dimension,
        "weights_sha256": encoder.weights_sha256,
        "preset": encoder.preset,
        "transform_hash": transform_hash,
        "images": hash_json(list(image_sha256)),
        "ids": hash_json(ids),
        "labels": hash_json(labels.tolist()),
        "groups": hash_json(groups),
    }
    path = Path(folder) / f"{encoder.name}_{split}.npz"
    key = hash_json(fields)
    values = _read(path, fields) if ranks.is_first else None
    if ranks.agree(values is None):  # which the others always say
        values = encode_images(encoder, images(), count=len(ids), split=split, batch_size=batch_size, progress=progress,
                               ranks=ranks)
        if ranks.is_first:
            meta = {**fields, "key": key, "note": NOTE, "dtype": "float32", "device": _device_of(encoder), **_versions()}
            _write(path, meta, values=values, ids=ids, labels=labels, groups=groups, image_sha256=list(image_sha256))
    else:
        values = ranks.join(np.zeros((len(ids), encoder.dimension), dtype=np.float32) if values is None else values)
    return Features(values=values, ids=ids, labels=labels, groups=groups, key=key)


def encode_images(
    encoder: Encoder,
    images: Iterable[np.ndarray],
    *,
    count: int,
    split: str,
    batch_size: int,
    progress: Callable[[int], None] | None = None,
    ranks: Ranks = ALONE,
) -> np.ndarray:
    """Features float32 (count, D) of uint8 images (H, W, C), of which few are held at a time.

    Batches hold the same images whatever the number of processes that share them, which all give the same array or
    ReadOnDemand and get all features.

    Raises:
        UserError: images of several sizes, another number than `count`, or a feature that is not finite.
    """
    values, rows = np.zeros((count, encoder.dimension), dtype=np.float32), ranks.rows(count, batch_size)
    done = rows.start
    for chunk in _chunks(images if ranks.count == 1 else _select(images, rows), batch_size):
        shapes = {image.shape for image in chunk}
        if len(shapes) != 1:
            raise UserError(f"features of {split}: expected images of one size, found {sorted(shapes)}; resize them")
        if done + len(chunk) > rows.stop:
            raise UserError(f"features of {split}: expected {count} images as listed, found more")
        values[done : done + len(chunk)] = encoder.encode(np.stack(chunk), batch_size=batch_size)
        done += len(chunk)
        if progress is not None:
            progress(min((done - rows.start) * ranks.count, count))
    if done != rows.stop:
        raise UserError(f"features of {split}: expected {count} images as listed, found {done}")
    values = ranks.join(values)
    broken = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(broken):
        raise UserError(f"features of {split}: {len(broken)} of {count} images have NaN or infinite features of encoder "
                        f"{encoder.name} (the first is image {broken[0]}); look at that image and at the encoder's weights")
    return values


def _select(images: Iterable[np.ndarray], rows: range) -> Iterable[np.ndarray]:
    return images.select(np.array(rows, dtype=np.int64)) if isinstance(images, ReadOnDemand) else np.asarray(images)[rows]


def _chunks(images: Iterable[np.ndarray], batch_size: int) -> Iterator[list[np.ndarray]]:
    """Whole batches, about as many images as may be held."""
    iterator, size = iter(images), max(CHUNK_IMAGES // batch_size, 1) * batch_size
    while chunk := list(islice(iterator, size)):
        yield chunk


def _read(path: Path, fields: dict[str, Any]) -> np.ndarray | None:
    """The stored values, or None with a line in the log that says why they cannot be used."""
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            meta = json.loads(str(stored["meta"]))
            values = stored["features"]
    except _BROKEN as error:
        logger.warning("%s: truncated or damaged (%s); computed anew", path, type(error).__name__)
        return None
    differing = [name for name, value in fields.items() if not isinstance(meta, dict) or meta.get(name) != value]
    if differing:
        logger.warning("%s: stale, differs in %s; computed anew", path, name_some(differing))
        return None
    if values.dtype != np.float32 or values.ndim != 2 or values.shape[1] != fields["dimension"]:
        logger.warning("%s: damaged, features of shape %s; computed anew", path, values.shape)
        return None
    return values


def _write(path: Path, meta: dict[str, Any], *, values: np.ndarray, **lists: Any) -> None:
    write_patient_note(path.parent, "The feature vectors in this folder")
    arrays = {name: np.asarray(value) for name, value in lists.items()}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, features=values, meta=np.asarray(json.dumps(meta, sort_keys=True)), **arrays)


def _device_of(encoder: Encoder) -> str:
    """Its kind without its number, which says nothing about the values."""
    return str(getattr(encoder, "device", "unknown")).partition(":")[0]


def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": str(torch.__version__),
        "torchvision": str(torchvision.__version__),
        "pillow": pillow_version,
    }
