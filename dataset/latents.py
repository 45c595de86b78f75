"""The latent cache: posterior mean and std of every image and allowed symmetry, float16, read as memory maps.

It is keyed by content (VAE, preprocessing, file bytes, labels, conditions), never by name. It derives from patients'
images: protect it like them. The caller passes the encoder as a function.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from config.errors import UserError
from dataset.annotations import ImageRecord
from dataset.images import is_gray_batch
from dataset.patient_note import write_patient_note
from dataset.prefetch import read_ahead
from dataset.ranks import ALONE, Ranks
from dataset.row_file import RowFile, open_rows
from dataset.storage import hash_file, hash_json, locked, make_folder, move_file, read_json, write_json
from dataset.symmetries import apply_symmetry

SCHEMA = 1
_ARRAYS = ("mean.npy", "std.npy")
_FLUSH_BATCHES = 8  # batches between the points at which a killed run can resume

_PROGRESS = "progress*.json"

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


def cache_identity(images: LabelledImages, *, sha256: Sequence[str], transform: dict[str, Any], vae_sha256: str,
                   symmetries: Sequence[str]) -> dict[str, Any]:
    """Everything that determines the content of a cache; the key is its hash. `sha256` are the hashes of the image files."""
    files = [[record.image_id, digest, record.label, *([list(record.conditions)] if record.conditions else [])]
             for record, digest in zip(images.records, sha256, strict=True)]
    return {
        "schema": SCHEMA,
        "vae_sha256": vae_sha256,
        "transform": transform,
        "symmetries": list(symmetries),
        "images_sha256": hash_json(files),
    }


def open_latent_cache(folder: Path, *, split: str, identity: dict[str, Any]) -> LatentCache | None:
    """The finished cache of exactly this content, its arrays checked against their checksums; None if there is none.

    Raises:
        UserError: it is damaged.
    """
    path = _cache_folder(folder, split, identity)
    if not (path / "index.json").exists():
        return None
    index = read_json(path / "index.json")
    for name in _ARRAYS:
        if not (path / name).is_file() or hash_file(path / name) != index["sha256"][name]:
            raise UserError(f"{path / name}: does not match its checksum in index.json; remove {path} to rebuild it")
    mean, std = (open_rows(path / name) for name in _ARRAYS)
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
    report: Report | None = None, ranks: Ranks = ALONE,
) -> LatentCache:
    """Encode every image in every view and write the cache; a killed run resumes at its last flushed batches.

    `encode` maps float32 images (b, c, H, W) in [-1, 1] to raw posterior (mean, std); `report(done, total)` is called
    with the number of images. Batches always hold the same images, so a resumed cache equals an uninterrupted one. Several
    processes can share the work: all call this, each writes its own rows, and the bytes are those of a single process.

    Raises:
        UserError: latents that are not finite in float16, an image that cannot be read, a disk that is full or not
            writable, or another command that builds the same cache.
    """
    path = _cache_folder(folder, split, identity)
    if ranks.is_first:
        make_folder(path)
    lock = locked(path / ".lock", purpose="the build of a latent cache", refusal=lambda holder: (
        f"{path} is being written by {holder}; wait for it, then run the same command again"))
    with lock if ranks.is_first else nullcontext():
        ranks.agree(True)  # from now on no other command can finish or alter the cache
        if open_latent_cache(folder, split=split, identity=identity) is None:
            _encode_rows(path, images, identity=identity, encode=encode, batch_size=batch_size, report=report, ranks=ranks)
            if ranks.is_first:
                _finish(path, images, split=split, identity=identity)
        ranks.agree(True)
        if ranks.is_first:
            with suppress(OSError):  # Windows removes no open file
                (path / ".lock").unlink()
    cache = open_latent_cache(folder, split=split, identity=identity)
    assert cache is not None
    return cache


def _encode_rows(
    path: Path, images: LabelledImages, *, identity: dict[str, Any], encode: Encode, batch_size: int,
    report: Report | None, ranks: Ranks,
) -> None:
    """Encode this process's contiguous part of the batches that are left; returns when all processes are done."""
    symmetries, total = identity["symmetries"], len(images)
    if ranks.is_first:
        write_patient_note(path, "The latents in this folder")
        _merge_progress(path, identity, total)
    ranks.agree(True)
    before = _read_progress(path / "progress.json", identity, total)
    missing = [start for start in range(0, total, batch_size) if not before.done[start:start + batch_size].all()]
    mine = ranks.part(missing)
    progress = before if ranks.count == 1 else _Progress(np.zeros(total, dtype=bool), gray=True)
    arrays: list[RowFile] = []
    positions = [i for start in mine for i in range(start, min(start + batch_size, total))]
    upcoming = read_ahead(lambda i: images[i][0], positions)
    with ExitStack() as files:
        for number, start in enumerate(mine):
            stop = min(start + batch_size, total)
            pixels = torch.stack(list(islice(upcoming, stop - start)))
            views = [encode(apply_symmetry(pixels, name)) for name in symmetries]
            moments = [torch.stack([view[i] for view in views], dim=1).cpu().half().numpy() for i in (0, 1)]
            if not all(np.isfinite(values).all() for values in moments):
                raise UserError(
                    f"image {images.records[start].image_id} or one of the {stop - start - 1} after it: the VAE's latents "
                    "are not finite in float16; the VAE does not suit these images"
                )
            if not arrays:
                shape = (total, *moments[0].shape[1:])
                arrays = [files.enter_context(RowFile(path / f"{name}.partial", shape)) for name in _ARRAYS]
            for array, values in zip(arrays, moments, strict=True):
                array.write(start, values)
            progress.done[start:stop] = True
            progress.gray = progress.gray and is_gray_batch(pixels)
            if number % _FLUSH_BATCHES == _FLUSH_BATCHES - 1 or start == mine[-1]:
                for array in arrays:
                    array.flush()
                own = "progress.json" if ranks.count == 1 else f"progress-{ranks.rank}.json"
                write_json(path / own, progress.to_json(identity))
            if report is not None:
                report(total - min(total, (len(mine) - number - 1) * batch_size * ranks.count), total)
    ranks.agree(True)


def _finish(path: Path, images: LabelledImages, *, split: str, identity: dict[str, Any]) -> None:
    """Give the arrays their final names and write the index, which completes the cache."""
    _merge_progress(path, identity, len(images))
    progress = _read_progress(path / "progress.json", identity, len(images))
    for name in _ARRAYS:
        partial = path / f"{name}.partial"
        if partial.exists():
            move_file(partial, path / name)
    if not progress.done.all():
        raise UserError(f"{path}: was removed or altered while its latents were written; run the same command again")
    conditions = [list(record.conditions) for record in images.records]
    write_json(path / "index.json", {
        **({"conditions": conditions} if any(conditions) else {}),
        "identity": identity,
        "split": split,
        "gray": progress.gray,
        "labels": [record.label for record in images.records],
        "image_ids": [record.image_id for record in images.records],
        "groups": [record.group for record in images.records],
        "sha256": {name: hash_file(path / name) for name in _ARRAYS},
    })
    (path / "progress.json").unlink(missing_ok=True)


def _cache_folder(folder: Path, split: str, identity: dict[str, Any]) -> Path:
    return folder / f"{split}-{hash_json(identity)[:16]}"


@dataclass
class _Progress:
    """Which images are written, bool (N,), and whether all of those are gray."""

    done: np.ndarray
    gray: bool

    def to_json(self, identity: dict[str, Any]) -> dict[str, Any]:
        edges = np.flatnonzero(np.diff(self.done, prepend=False, append=False))
        return {"identity": identity, "done": edges.reshape(-1, 2).tolist(), "gray": self.gray}


def _read_progress(path: Path, identity: dict[str, Any], total: int) -> _Progress:
    """The progress that a killed build left; nothing done if there is no usable record of it."""
    progress = _Progress(np.zeros(total, dtype=bool), gray=True)
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return progress
    folder = path.parent
    complete = all(_is_whole_array(folder / f"{name}.partial") or _is_whole_array(folder / name) for name in _ARRAYS)
    if state["identity"] != identity or not complete:
        return progress
    spans = [[0, state["done"]]] if isinstance(state["done"], int) else state["done"]  # version 0.1 built from the front
    for start, stop in spans:
        progress.done[start:stop] = True
    progress.gray = state["gray"]
    return progress


def _merge_progress(path: Path, identity: dict[str, Any], total: int) -> None:
    """Collect the progress of all processes in progress.json, so that any number of them can resume."""
    merged, files = _Progress(np.zeros(total, dtype=bool), gray=True), sorted(path.glob(_PROGRESS))
    for file in files:
        part = _read_progress(file, identity, total)
        merged = _Progress(merged.done | part.done, gray=merged.gray and part.gray)
    write_json(path / "progress.json", merged.to_json(identity))
    for file in files:
        if file.name != "progress.json":
            file.unlink()


def _is_whole_array(path: Path) -> bool:
    try:
        open_rows(path)
    except (OSError, ValueError, EOFError):
        return False
    return True
