"""The latent cache: posterior mean and std of every image and allowed symmetry, float16, read as memory maps.

It is keyed by content (VAE, preprocessing, file bytes, labels, conditions), never by name. It derives from patients'
images and is to be kept like them. Encoding is handed in as a function, so nothing here knows the VAE.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from config.errors import UserError
from dataset.annotations import ImageRecord
from dataset.patient_note import write_patient_note
from dataset.storage import hash_file, hash_json, make_folder, read_json, write_json
from dataset.symmetries import apply_symmetry

SCHEMA = 1
_ARRAYS = ("mean.npy", "std.npy")
_FLUSH_BATCHES = 8  # batches between the points from which a killed run goes on
_GRAY_TOLERANCE = 2 * 2 / 255  # two of 255 gray levels, on the range [-1, 1]

Encode = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
Report = Callable[[int, int], None]


class LabelledImages(Protocol):
    """What a data set must offer (see dataset.Embryo_loader for the whole contract)."""

    records: list[ImageRecord]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]: ...


@dataclass(frozen=True)
class LatentCache:
    """Raw posterior moments of N images in V views, in the order of the data set's records.

    mean, std: memory-mapped float16 (N, V, C, h, w); labels: int64 (N,); conditions: int64 (N, K), levels of the further
    conditions; gray: whether all images are gray.
    """

    mean: np.ndarray
    std: np.ndarray
    labels: np.ndarray
    conditions: np.ndarray
    symmetries: tuple[str, ...]
    gray: bool
    key: str

    def __len__(self) -> int:
        return len(self.labels)

    def draw(self, positions: torch.Tensor, views: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Raw latents mean + std * noise, float32 (B, C, h, w), for int64 (B,) positions and views."""
        rows, columns = positions.numpy(), views.numpy()
        mean = torch.from_numpy(self.mean[rows, columns].astype(np.float32))
        std = torch.from_numpy(self.std[rows, columns].astype(np.float32))
        return mean + std * noise

    def moments(self, batch_size: int = 256) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield (mean, std) float32 (b, C, h, w) over all images and views."""
        for start in range(0, len(self), batch_size):
            mean, std = (torch.from_numpy(array[start:start + batch_size].astype(np.float32)).flatten(0, 1)
                         for array in (self.mean, self.std))
            yield mean, std


def stack_conditions(conditions: Sequence[Sequence[int]]) -> np.ndarray:
    """Levels of N records as int64 (N, K); K is 0 where there are no further conditions."""
    return np.array(conditions, dtype=np.int64).reshape(len(conditions), -1)


def is_gray_batch(pixels: torch.Tensor) -> bool:
    """Whether the channels of all images (B, C, H, W) in [-1, 1] are equal, but for the rounding of JPEG."""
    return bool((pixels.amax(dim=1) - pixels.amin(dim=1)).max() <= _GRAY_TOLERANCE)


def cache_identity(images: LabelledImages, *, transform: dict[str, Any], vae_sha256: str,
                   symmetries: Sequence[str]) -> dict[str, Any]:
    """All that determines the content of a cache; the key is its hash. Reads every file's bytes, decodes none."""
    files = [[record.image_id, hash_file(record.path), record.label,
              *([list(record.conditions)] if record.conditions else [])] for record in images.records]
    return {
        "schema": SCHEMA,
        "vae_sha256": vae_sha256,
        "transform": transform,
        "symmetries": list(symmetries),
        "images_sha256": hash_json(files),
    }


def open_latent_cache(folder: Path, *, split: str, identity: dict[str, Any]) -> LatentCache | None:
    """The finished cache of exactly this content, its arrays checked against their checksums; None where there is none.

    Raises:
        UserError: it is there but damaged.
    """
    path = _cache_folder(folder, split, identity)
    if not (path / "index.json").exists():
        return None
    index = read_json(path / "index.json")
    for name in _ARRAYS:
        if not (path / name).is_file() or hash_file(path / name) != index["sha256"][name]:
            raise UserError(f"{path / name}: does not match its checksum in index.json; remove {path} to build it anew")
    mean, std = (np.load(path / name, mmap_mode="r", allow_pickle=False) for name in _ARRAYS)
    return LatentCache(mean=mean, std=std, labels=np.array(index["labels"], dtype=np.int64),
                       conditions=stack_conditions(index.get("conditions", [[] for _ in index["labels"]])),
                       symmetries=tuple(identity["symmetries"]), gray=index["gray"], key=hash_json(identity))


def describe_stale_caches(folder: Path, *, split: str, identity: dict[str, Any]) -> list[str]:
    """One line for each finished cache of this split that does not fit, naming the fields that differ."""
    lines = []
    for path in sorted(folder.glob(f"{split}-*/index.json")):
        stored = read_json(path)["identity"]
        different = [name for name in identity if stored.get(name) != identity[name]]
        if different:
            lines.append(f"latent cache {path.parent} does not fit ({', '.join(different)} differ)")
    return lines


def build_latent_cache(
    folder: Path, images: LabelledImages, *, split: str, identity: dict[str, Any], encode: Encode, batch_size: int,
    report: Report | None = None,
) -> LatentCache:
    """Encode every image in every view and write the cache; a killed run goes on at its last flushed batch.

    `encode` maps float32 images (b, c, H, W) in [-1, 1] to raw posterior (mean, std); `report(done, total)` is called
    with the number of images. Batches always hold the same images, so a resumed cache equals an uninterrupted one.

    Raises:
        UserError: latents that are not finite in float16, or an image that cannot be read.
    """
    path = _cache_folder(folder, split, identity)
    make_folder(path)
    write_patient_note(path, "The latents in this folder")
    symmetries, total = identity["symmetries"], len(images)
    state = _read_progress(path, identity)
    arrays: list[np.memmap] | None = None
    done = state["done"]
    gray = state["gray"]
    for number, start in enumerate(range(done, total, batch_size)):
        stop = min(start + batch_size, total)
        pixels = torch.stack([images[i][0] for i in range(start, stop)])
        gray = gray and is_gray_batch(pixels)
        views = [encode(apply_symmetry(pixels, name)) for name in symmetries]
        moments = [torch.stack([view[i] for view in views], dim=1).cpu().half().numpy() for i in (0, 1)]
        if not all(np.isfinite(values).all() for values in moments):
            raise UserError(
                f"image {images.records[start].image_id} or one of the {stop - start - 1} after it: the VAE's latents "
                "are not finite in float16; the VAE does not suit these images"
            )
        if arrays is None:
            arrays = [_open_partial(path / f"{name}.partial", (total, *moments[0].shape[1:])) for name in _ARRAYS]
        for array, values in zip(arrays, moments, strict=True):
            array[start:stop] = values
        if number % _FLUSH_BATCHES == _FLUSH_BATCHES - 1 or stop == total:
            for array in arrays:
                array.flush()
            write_json(path / "progress.json", {"identity": identity, "done": stop, "gray": gray})
        if report is not None:
            report(stop, total)
    del arrays
    for name in _ARRAYS:
        partial = path / f"{name}.partial"
        if partial.exists():
            partial.replace(path / name)
    conditions = [list(record.conditions) for record in images.records]
    write_json(path / "index.json", {
        **({"conditions": conditions} if any(conditions) else {}),
        "identity": identity,
        "split": split,
        "gray": gray,
        "labels": [record.label for record in images.records],
        "image_ids": [record.image_id for record in images.records],
        "groups": [record.group for record in images.records],
        "sha256": {name: hash_file(path / name) for name in _ARRAYS},
    })
    (path / "progress.json").unlink(missing_ok=True)
    cache = open_latent_cache(folder, split=split, identity=identity)
    assert cache is not None
    return cache


def _cache_folder(folder: Path, split: str, identity: dict[str, Any]) -> Path:
    return folder / f"{split}-{hash_json(identity)[:16]}"


def _read_progress(path: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """Where a killed build stopped; from the start where there is no usable trace of one."""
    fresh = {"done": 0, "gray": True}
    try:
        state = json.loads((path / "progress.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return fresh
    complete = all(_is_whole_array(path / f"{name}.partial") or _is_whole_array(path / name) for name in _ARRAYS)
    return state if state["identity"] == identity and complete else fresh


def _is_whole_array(path: Path) -> bool:
    try:
        np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return False
    return True


def _open_partial(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """The array under construction: the one that a killed run left, or a new one."""
    if path.exists():
        try:
            array = np.lib.format.open_memmap(path, mode="r+")
            if array.shape == shape and array.dtype == np.float16:
                return array
        except ValueError:
            pass  # killed before its header was written
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
