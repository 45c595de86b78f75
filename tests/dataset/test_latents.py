"""The latent cache: keyed by content, resumed to the same bytes, never trusted unchecked; and the image bank."""

import dataclasses
import errno
import json
import mmap
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from config.errors import UserError
from dataset.annotations import ImageRecord
from dataset.image_bank import ImageBank
from dataset.images import is_gray_batch
from dataset.latents import (
    LatentCache,
    build_latent_cache,
    cache_identity,
    describe_stale_caches,
    open_latent_cache,
)
from dataset.ranks import Ranks
from dataset.storage import hash_file, hash_json
from dataset.symmetries import apply_symmetry

SYMMETRIES = ("identity", "mirror")
TRANSFORM = {"image_size": 8, "fit": "pad"}


class PixelFiles:
    """Images stored as raw float32 files; counts what it decodes."""

    def __init__(self, folder: Path, count: int = 23, channels: int = 1) -> None:
        self.shape = (channels, 8, 8)
        self.reads = 0
        self.records: list[ImageRecord] = []
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(0)
        for i in range(count):
            path = folder / f"{i}.raw"
            path.write_bytes(rng.uniform(-1, 1, self.shape).astype(np.float32).tobytes())
            self.records.append(ImageRecord(f"image{i}", path, i % 2, f"patient{i // 2}", "train"))

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        self.reads += 1
        data = np.frombuffer(self.records[index].path.read_bytes(), dtype=np.float32).copy()
        return torch.from_numpy(data).view(self.shape), self.records[index].label


def encode(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A closed-form posterior: 2 x 2 blocks of the first channel as four latent channels."""
    mean = torch.nn.functional.pixel_unshuffle(images[:, :1], 2)
    return mean, 0.1 + mean.abs() / 4


def identify(images: PixelFiles, **changes: object) -> dict:
    sha256 = [hash_file(record.path) for record in images.records]
    arguments = {"sha256": sha256, "transform": TRANSFORM, "vae_sha256": "v", "symmetries": SYMMETRIES, **changes}
    return cache_identity(images, **arguments)


def build(folder: Path, images: PixelFiles, **changes: object) -> LatentCache:
    arguments = {"split": "train", "identity": identify(images), "encode": encode, "batch_size": 2, **changes}
    return build_latent_cache(folder, images, **arguments)


def read_tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def images(tmp_path: Path) -> PixelFiles:
    return PixelFiles(tmp_path / "images")


def test_cache_holds_the_moments_of_every_image_and_view(tmp_path: Path, images: PixelFiles) -> None:
    progress: list[tuple[int, int]] = []
    cache = build(tmp_path / "cache", images, report=lambda done, total: progress.append((done, total)))
    assert len(cache) == 23 and cache.symmetries == SYMMETRIES and progress[-1] == (23, 23)
    assert cache.labels.tolist() == [record.label for record in images.records]
    assert cache.mean.shape == (23, 2, 4, 4, 4) and isinstance(cache.mean, np.memmap) and cache.mean.dtype == np.float16
    for i in range(23):
        for v, name in enumerate(SYMMETRIES):
            mean, std = encode(apply_symmetry(images[i][0][None], name))
            assert torch.equal(torch.from_numpy(np.array(cache.mean[i, v])), mean[0].half())
            assert torch.equal(torch.from_numpy(np.array(cache.std[i, v])), std[0].half())
    folder = next((tmp_path / "cache").iterdir())
    assert "patients' images" in (folder / "PATIENT_DATA.txt").read_text()
    assert sorted(path.name for path in folder.iterdir()) == ["PATIENT_DATA.txt", "index.json", "mean.npy", "std.npy"]


def test_conditions_are_kept_and_are_part_of_the_identity_only_where_there_are_some(
    tmp_path: Path, images: PixelFiles
) -> None:
    plain = identify(images)
    files = [[r.image_id, hash_file(r.path), r.label] for r in images.records]
    assert plain["images_sha256"] == hash_json(files)  # as in version 0.1, so that its caches stay valid
    assert build(tmp_path / "plain", images).conditions.shape == (23, 0)
    index = json.loads(next((tmp_path / "plain").glob("*/index.json")).read_text())
    assert "conditions" not in index
    images.records = [dataclasses.replace(record, conditions=(i % 3, i % 2)) for i, record in enumerate(images.records)]
    cache = build(tmp_path / "cache", images)
    assert cache.conditions.tolist() == [[i % 3, i % 2] for i in range(23)] and cache.conditions.dtype == np.int64
    assert identify(images) != plain
    images.records[5] = dataclasses.replace(images.records[5], conditions=(0, 1))
    assert open_latent_cache(tmp_path / "cache", split="train", identity=identify(images)) is None


def test_draw_places_latents_within_the_posterior(tmp_path: Path, images: PixelFiles) -> None:
    cache = build(tmp_path / "cache", images)
    positions, views = torch.tensor([3, 0, 3]), torch.tensor([1, 0, 0])
    noise = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    drawn = cache.draw(positions, views, noise)
    assert drawn.dtype == torch.float32
    for row, (i, v) in enumerate(zip(positions.tolist(), views.tolist(), strict=True)):
        mean, std = (torch.from_numpy(np.array(a[i, v])).float() for a in (cache.mean, cache.std))
        torch.testing.assert_close(drawn[row], mean + std * noise[row])
    mean, std = (torch.cat(parts) for parts in zip(*cache.moments(batch_size=5), strict=True))
    assert mean.shape == std.shape == (46, 4, 4, 4)
    assert torch.equal(mean[7], torch.from_numpy(np.array(cache.mean[3, 1])).float())


def test_an_open_cache_decodes_no_image(tmp_path: Path, images: PixelFiles) -> None:
    built = build(tmp_path / "cache", images)
    images.reads = 0
    opened = open_latent_cache(tmp_path / "cache", split="train", identity=identify(images))
    assert opened is not None and images.reads == 0 and opened.key == built.key
    assert np.array_equal(opened.mean, built.mean) and np.array_equal(opened.std, built.std)
    assert not opened.mean.flags.writeable


def test_a_file_system_that_maps_no_files_holds_the_same_cache(
    tmp_path: Path, images: PixelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    mapped = build(tmp_path / "mapped", images)

    def refuse(*_arguments: object, **_more: object) -> None:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    monkeypatch.setattr(mmap, "mmap", refuse)
    read = build(tmp_path / "read", images)
    assert not isinstance(read.mean, np.memmap) and not read.mean.flags.writeable
    assert np.array_equal(read.mean, mapped.mean) and np.array_equal(read.std, mapped.std)
    assert read_tree(tmp_path / "read") == read_tree(tmp_path / "mapped")


@pytest.mark.parametrize("fails_at", [0, 3, 17, 20])  # of 24 calls; moments are flushed after the 8th batch
def test_a_resumed_build_equals_an_uninterrupted_one_byte_for_byte(
    tmp_path: Path, images: PixelFiles, fails_at: int
) -> None:
    calls = 0

    def failing(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal calls
        calls += 1
        if calls > fails_at:
            raise KeyboardInterrupt
        return encode(pixels)

    build(tmp_path / "whole", images)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "cut", images, encode=failing)
    assert open_latent_cache(tmp_path / "cut", split="train", identity=identify(images)) is None
    images.reads = 0
    build(tmp_path / "cut", images)
    assert read_tree(tmp_path / "cut") == read_tree(tmp_path / "whole")
    assert images.reads == (23 if fails_at < 16 else 23 - 16)


def build_together(folder: Path, images: PixelFiles, count: int, *, encode: Callable = encode, **changes: object) -> None:
    """Build with `count` threads in the place of processes; one that fails ends the others, as a launcher does."""
    barrier = threading.Barrier(count)
    votes: list[bool] = []

    def agree(value: bool) -> bool:
        votes.append(value)
        barrier.wait(timeout=30)
        result = all(votes[-count:])
        barrier.wait(timeout=30)
        return result

    def work(index: int) -> None:
        try:
            build(folder, images, ranks=Ranks(index, count, agree), encode=encode, **changes)
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(count) as pool:
        futures = [pool.submit(work, index) for index in range(count)]
        errors = [future.exception() for future in futures]
    for error in sorted(filter(None, errors), key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        raise error


@pytest.mark.parametrize("count", [2, 3, 5, 20])  # 12 batches: with 20 some have none
def test_processes_that_share_a_build_write_the_bytes_of_one(tmp_path: Path, images: PixelFiles, count: int) -> None:
    build(tmp_path / "whole", images)
    seen: list[tuple[int, tuple[bytes, ...]]] = []

    def noting(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append((threading.get_ident(), tuple(image.numpy().tobytes() for image in pixels)))
        return encode(pixels)

    build_together(tmp_path / "shared", images, count, encode=noting)
    assert read_tree(tmp_path / "shared") == read_tree(tmp_path / "whole")
    batches = [members for _, members in seen]
    assert len(batches) == len(set(batches)) == 2 * 12  # every batch in both views, none twice
    assert len({thread for thread, _ in seen}) > 1


@pytest.mark.parametrize(("first", "then"), [(3, 2), (2, 1), (1, 3), (4, 4)])
def test_a_shared_build_that_was_killed_goes_on_in_any_number_of_processes(
    tmp_path: Path, first: int, then: int
) -> None:
    images = PixelFiles(tmp_path / "images", count=95)
    build(tmp_path / "whole", images)
    last = images[len(images) - 1][0]

    def failing(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if torch.equal(pixels[-1], last):
            raise KeyboardInterrupt
        return encode(pixels)

    with pytest.raises(KeyboardInterrupt):
        build_together(tmp_path / "cut", images, first, encode=failing)
    images.reads = 0
    build_together(tmp_path / "cut", images, then)
    assert read_tree(tmp_path / "cut") == read_tree(tmp_path / "whole")
    assert 0 < images.reads < 95  # some of it was kept, none of it is missing


def test_a_second_build_of_the_same_cache_says_who_writes_it(tmp_path: Path, images: PixelFiles) -> None:
    def meanwhile(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with pytest.raises(UserError, match=rf"is being written by the build of a latent cache \(process {os.getpid()}\)"):
            build(tmp_path / "cache", images)
        build(tmp_path / "cache", images, split="val", batch_size=23)  # another one is nobody's business
        return encode(pixels)

    build(tmp_path / "whole", images)
    build(tmp_path / "whole", images, split="val", batch_size=23)
    build(tmp_path / "cache", images, encode=meanwhile, batch_size=23)
    assert read_tree(tmp_path / "cache") == read_tree(tmp_path / "whole")


def test_a_build_of_version_0_1_goes_on(tmp_path: Path, images: PixelFiles) -> None:
    build(tmp_path / "cache", images)
    whole = read_tree(tmp_path / "cache")
    folder = next((tmp_path / "cache").iterdir())
    (folder / "index.json").unlink()
    for name in ("mean.npy", "std.npy"):
        (folder / name).rename(folder / f"{name}.partial")
    (folder / "progress.json").write_text(json.dumps({"identity": identify(images), "done": 16, "gray": True}))
    images.reads = 0
    build(tmp_path / "cache", images)
    assert images.reads == 7 and read_tree(tmp_path / "cache") == whole


def test_a_folder_that_goes_away_during_the_build_is_one_line(tmp_path: Path, images: PixelFiles) -> None:
    def removing(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if torch.equal(pixels[0], images[20][0]):
            for path in (tmp_path / "cache").glob("*/*"):
                path.unlink()
        return encode(pixels)

    with pytest.raises(UserError, match="was removed or altered while its latents were written; run the same command again"):
        build(tmp_path / "cache", images, encode=removing)
    build(tmp_path / "cache", images)
    build(tmp_path / "whole", images)
    assert read_tree(tmp_path / "cache") == read_tree(tmp_path / "whole")


def test_a_partial_array_that_was_damaged_is_built_from_the_start(tmp_path: Path, images: PixelFiles) -> None:
    def failing(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if torch.equal(pixels[0], images[18][0]):
            raise KeyboardInterrupt
        return encode(pixels)

    build(tmp_path / "whole", images)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "cut", images, encode=failing)
    partial = next((tmp_path / "cut").rglob("std.npy.partial"))
    partial.write_bytes(partial.read_bytes()[:300])
    build(tmp_path / "cut", images)
    assert read_tree(tmp_path / "cut") == read_tree(tmp_path / "whole")


def test_a_build_killed_while_renaming_goes_on(tmp_path: Path, images: PixelFiles) -> None:
    build(tmp_path / "cache", images)
    whole = read_tree(tmp_path / "cache")
    folder = next((tmp_path / "cache").iterdir())
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").unlink()
    (folder / "std.npy").rename(folder / "std.npy.partial")
    (folder / "progress.json").write_text(json.dumps({"identity": index["identity"], "done": 23, "gray": index["gray"]}))
    images.reads = 0
    build(tmp_path / "cache", images)
    assert images.reads == 0 and read_tree(tmp_path / "cache") == whole


@pytest.mark.parametrize("field", ["vae_sha256", "transform", "symmetries", "pixels", "label"])
def test_whatever_determines_the_latents_is_part_of_the_key(tmp_path: Path, images: PixelFiles, field: str) -> None:
    build(tmp_path / "cache", images)
    original = identify(images)
    if field == "pixels":
        path = images.records[4].path
        path.write_bytes(path.read_bytes()[::-1])
        changed, name = identify(images), "images_sha256"
    elif field == "label":
        record = images.records[4]
        images.records[4] = ImageRecord(record.image_id, record.path, 1 - record.label, record.group, record.split)
        changed, name = identify(images), "images_sha256"
    else:
        other = {"vae_sha256": "w", "transform": {**TRANSFORM, "fit": "crop"}, "symmetries": ("identity",)}
        changed, name = identify(images, **{field: other[field]}), field
    assert [key for key in original if original[key] != changed[key]] == [name]
    folder = tmp_path / "cache"
    assert open_latent_cache(folder, split="train", identity=changed) is None
    assert open_latent_cache(folder, split="val", identity=original) is None
    lines = describe_stale_caches(folder, split="train", identity=changed)
    assert len(lines) == 1 and lines[0].startswith("latent cache ") and lines[0].endswith(f"does not fit ({name} differ)")
    assert describe_stale_caches(folder, split="train", identity=original) == []


def test_the_key_does_not_follow_names_of_folders(tmp_path: Path) -> None:
    here, there = PixelFiles(tmp_path / "a"), PixelFiles(tmp_path / "b")
    assert identify(here) == identify(there)


@pytest.mark.parametrize("name", ["mean.npy", "std.npy"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damage_is_found_and_named(tmp_path: Path, images: PixelFiles, name: str, damage: str) -> None:
    build(tmp_path / "cache", images)
    path = next((tmp_path / "cache").rglob(name))
    data = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(data[:-2])
    else:
        data[-1000] ^= 4
        path.write_bytes(data)
    with pytest.raises(UserError, match=rf"{name}: does not match its checksum in index.json; remove .* to rebuild it"):
        open_latent_cache(tmp_path / "cache", split="train", identity=identify(images))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e6])
@pytest.mark.parametrize("moment", [0, 1])
def test_latents_that_float16_cannot_hold_are_refused(tmp_path: Path, images: PixelFiles, bad: float, moment: int) -> None:
    def broken(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        moments = encode(pixels)
        if torch.equal(pixels[0], images[4][0]):
            moments[moment][0, 0, 0, 0] = bad
        return moments

    with pytest.raises(UserError, match=r"image image4 or one of the 1 after it: .* not finite in float16"):
        build(tmp_path / "cache", images, encode=broken)
    assert open_latent_cache(tmp_path / "cache", split="train", identity=identify(images)) is None


@pytest.mark.parametrize(("offset", "gray"), [(0.0, True), (0.015, True), (0.5, False)])
def test_gray_is_said_of_sets_whose_channels_agree(tmp_path: Path, offset: float, gray: bool) -> None:
    images = PixelFiles(tmp_path / "images", count=6, channels=3)
    for i, record in enumerate(images.records):
        pixels = np.random.default_rng(i).uniform(-1, 1, (1, 8, 8)).astype(np.float32).repeat(3, axis=0)
        if i == 4:
            pixels[0, 2, 2] += offset  # one pixel of one image is enough
        record.path.write_bytes(pixels.tobytes())
    assert build(tmp_path / "cache", images).gray is gray
    assert is_gray_batch(torch.stack([images[i][0] for i in range(6)])) is gray


def test_image_bank_reads_each_image_once_while_there_is_room(images: PixelFiles) -> None:
    roomy = ImageBank(images)
    for _ in range(3):
        batch = roomy.batch([2, 0, 2])
    assert images.reads == 2
    assert torch.equal(batch, torch.stack([images[i][0] for i in (2, 0, 2)]))
    images.reads = 0
    tight = ImageBank(images, limit_bytes=2 * 8 * 8 * 4)  # room for two
    for _ in range(3):
        batch = tight.batch([0, 1, 2])
    assert images.reads == 2 + 3
    assert torch.equal(batch[2], images[2][0])
