"""A blinded pack for readers: choose, prepare and order images, and write them as one page with a separate key.

reader_page.html is the page, tools.reader_study.answers reads the answers.
"""

import base64
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from config.errors import UserError, name_some
from config.schema import TableParams
from dataset.annotations import ImageRecord
from dataset.images import from_uint8, is_gray, to_uint8
from dataset.latents import LabelledImages
from dataset.order import generator
from dataset.patient_note import NOTE_NAME, warn_where_git_takes
from dataset.storage import hash_bytes, hash_file, hash_json, write_json, write_text
from models.autoencoder import LatentCodec
from tools.diffusion.generation import count_per_class
from tools.diffusion.project import Project
from tools.evaluation.image_set import count_labels
from tools.evaluation.image_sets import open_synthetic, refuse_real_images
from tools.evaluation.openings import open_test_set
from tools.reader_study.answers import CONFIDENCE_SCALE, REAL, ROUND_TRIP, SCHEMA, SYNTHETIC, TASKS, KeyItem

PAGE_NAME = "reader_study.html"
KEY_NAME = "key.json"
DEFAULT_DEFECTS = (
    "blurred, detail is missing",
    "repeated or grid-like texture",
    "outline broken or doubled (zona, membrane)",
    "structure that anatomy does not allow",
    "structure that should be there is missing",
    "unnatural size or shape",
    "unnatural light, contrast or background",
)
_TEMPLATE = Path(__file__).with_name("reader_page.html")
_PLACE = "__PACK__"
_MAX_REPEATS = 0.5
_FIRST_UNTIL, _AGAIN_FROM = 3 / 8, 5 / 8  # of the pack: at least a quarter of it is between two showings
_PATIENT_NOTE = "This folder shows patients' images: give it to the named readers only, and delete it by the same rules.\n"
_KEY_NOTE = "The key tells what each image is and names patients' images: no reader may see it, and it must not change.\n"


@dataclass(frozen=True)
class PackRequest:
    """The content of a pack."""

    num_real: int
    num_synthetic: int
    num_round_trip: int = 0
    repeats: float = 0.1
    seed: int = 0
    task: str = "both"
    readers: tuple[str, ...] = ("R1", "R2", "R3")
    defects: tuple[str, ...] = DEFAULT_DEFECTS

    def check(self) -> None:
        """Raise a UserError for the first invalid value."""
        for name, value, least in (("real", self.num_real, 1), ("synthetic", self.num_synthetic, 1),
                                   ("round-trip", self.num_round_trip, 0)):
            if value < least:
                raise UserError(f"--num-{name}: expected {least} or more, found {value}; ask for more images")
        if not 0 <= self.repeats <= _MAX_REPEATS:
            raise UserError(f"--repeats: expected a fraction from 0 to {_MAX_REPEATS:g}, found {self.repeats:g}; try 0.1")
        if self.task not in TASKS:
            raise UserError(f"--task: expected one of {', '.join(TASKS)}, found {self.task!r}; choose one of them")
        for name, texts in (("readers", self.readers), ("defect", self.defects)):
            bad = [repr(text) for text, count in Counter(texts).items() if count > 1 or text != text.strip() or not text]
            if bad:
                raise UserError(f"--{name}: expected different names without spaces around them, found {name_some(bad)}; "
                                "rename them")
        if not self.readers:
            raise UserError("--readers: expected a name for each reader, found none; codes such as R1 R2 will do")


@dataclass(frozen=True)
class Pack:
    """A pack before it is written: the page's content, the key, notes for its maker, and which opening of the test set it
    is, if it shows that."""

    page: dict[str, Any]
    key: dict[str, Any]
    notes: list[str]
    opening: int | None


def write_pack(project: Project, split: str, synthetic: Path, output: Path, key_folder: Path, request: PackRequest, *,
               device: torch.device) -> tuple[Pack, str]:
    """Write the page into `output` and the key into `key_folder`: the pack and the sha256 of the key's file.

    Raises:
        UserError: a folder is in use or would put the key into the pack; images cannot be used or are too few.
    """
    _check_folders(output, key_folder)
    pack = build_pack(project, split, synthetic, request, device=device)
    write_json(key_folder / KEY_NAME, pack.key)
    write_text(key_folder / "KEEP_SEALED.txt", _KEY_NOTE)
    key_sha256 = hash_file(key_folder / KEY_NAME)
    write_text(output / NOTE_NAME, _PATIENT_NOTE)
    write_text(output / PAGE_NAME, render_page({"key_sha256": key_sha256, **pack.page}))
    return pack, key_sha256


def build_pack(project: Project, split: str, synthetic: Path, request: PackRequest, *, device: torch.device) -> Pack:
    """Choose, prepare and order the images of a pack.

    Real images are of the split. All arms have its class prior, in which every group weighs the same,
    so that the class does not reveal the arm.
    """
    request.check()
    notes: list[str] = []
    real_images, made_images = project.images(split), open_synthetic(project.data, synthetic)
    refuse_real_images(made_images.records, project.every_image.records, hash_image=project.hash_image)
    arms = _choose_images(project.table, split, real_images.records, made_images.records, request, notes)
    codec = project.open_codec(device=device) if request.num_round_trip else None
    images = [_Image(arm, record, _prepare(source, position, codec if arm == ROUND_TRIP else None))
              for arm, source, positions in ((REAL, real_images, arms[REAL]), (ROUND_TRIP, real_images, arms[ROUND_TRIP]),
                                             (SYNTHETIC, made_images, arms[SYNTHETIC]))
              for position in positions for record in [source.records[position]]]
    encoded = [_encode(pixels) for pixels in _alike(images)]
    _note_resized(images, project.table.image_size, notes)
    _refuse_equal_pixels(images, encoded)
    # Not part of the key, which its seed reproduces wherever the images are.
    opening = open_test_set(Path(project.data.directory_inception_features), split,
                            real_sha256=project.hash_images(real_images), synthetic_sha256=project.hash_images(made_images))
    items, shown = [], []
    for place, (index, showing) in enumerate(order_showings([image.arm for image in images], request)):
        image = images[index]
        code = generator(request.seed, "reader item", place).bytes(8).hex()
        items.append(KeyItem(code, image.arm, image.record.label, image.group, image.record.image_id, showing))
        shown.append({"item": code, "png": base64.b64encode(encoded[index]).decode("ascii")})
    public = {"schema": SCHEMA, "task": request.task, "scale": list(CONFIDENCE_SCALE),
              "class_names": list(project.table.class_names), "defects": list(request.defects),
              "readers": list(request.readers)}
    pack_sha256 = hash_json({**public, "items": [[one["item"], hash_bytes(one["png"].encode())] for one in shown]})
    provenance = {
        "real_split": split, "transform": project.transform,
        "vae_sha256": project.vae_sha256 if request.num_round_trip else None,
        "file_sha256": {arm: hash_json([project.hash_image(image.record.path) for image in images if image.arm == arm])
                        for arm in arms},
        "notes": notes,
    }
    key = {**public, "seed": request.seed, "pack_sha256": pack_sha256, "provenance": provenance,
           "items": [asdict(item) for item in items]}
    return Pack(page={**public, "pack_sha256": pack_sha256, "items": shown}, key=key, notes=notes,
                opening=opening)


def class_prior(records: Sequence[ImageRecord], num_classes: int) -> list[int]:
    """Weight of each class in millionths of a group: each group is divided over the classes of its images."""
    sizes = Counter(record.group for record in records)
    weights = [0.0] * num_classes
    for record in records:
        weights[record.label] += 1 / sizes[record.group]
    return [round(1e6 * weight) for weight in weights]


def choose_by_group(
    records: Sequence[ImageRecord], counts: Sequence[int], used: Counter[str], *, rng: np.random.Generator
) -> list[int]:
    """Positions of counts[c] images of each class c at random, from the least used groups first; counts up `used`.

    Each class must have at least as many images as requested.
    """
    rank = rng.permutation(len(records))
    chosen: list[int] = []
    for label in sorted(range(len(counts)), key=lambda label: counts[label]):
        left = [position for position, record in enumerate(records) if record.label == label]
        for _ in range(counts[label]):
            best = min(left, key=lambda position: (used[records[position].group], rank[position]))
            left.remove(best)
            used[records[best].group] += 1
            chosen.append(best)
    return chosen


def order_showings(arms: Sequence[str], request: PackRequest) -> list[tuple[int, int]]:
    """(image, showing) for every position of the pack: random; a repeated image comes again at least a quarter later.

    Each arm has its part of the repeats, so that a repeat does not reveal the arm.
    """
    rng = generator(request.seed, "reader order")
    names = sorted(set(arms))
    shares = count_per_class(int(request.repeats * len(arms)), [arms.count(name) for name in names])
    again = np.concatenate([rng.permutation([i for i, arm in enumerate(arms) if arm == name])[:share]
                            for name, share in zip(names, shares, strict=True)]).astype(int)
    total = len(arms) + len(again)
    early = rng.permutation(int(_FIRST_UNTIL * total))[: len(again)]
    start = int(np.ceil(_AGAIN_FROM * total))
    late = start + rng.permutation(total - start)[: len(again)]
    places: dict[int, tuple[int, int]] = {}
    for first, second, image in zip(early, late, again, strict=True):  # half the images repeated just fit
        places[int(first)], places[int(second)] = (int(image), 1), (int(image), 2)
    once = [image for image in range(len(arms)) if (image, 1) not in places.values()]
    free = [place for place in range(total) if place not in places]
    for place, image in zip(free, rng.permutation(once), strict=True):
        places[place] = (int(image), 1)
    return [places[place] for place in sorted(places)]


def render_page(page: dict[str, Any]) -> str:
    """The page with its data inside; nothing in a name can end the script block or become markup."""
    data = json.dumps(page, ensure_ascii=True)
    for sign in "<>&":
        data = data.replace(sign, f"\\u{ord(sign):04x}")
    template = _TEMPLATE.read_text(encoding="utf-8")
    assert template.count(_PLACE) == 1
    return template.replace(_PLACE, data)


@dataclass(frozen=True)
class _Image:
    arm: str
    record: ImageRecord
    pixels: np.ndarray  # uint8 (H, W, C)

    @property
    def group(self) -> str:
        """A synthetic image is a separate group."""
        return f"synthetic {self.record.image_id}" if self.arm == SYNTHETIC else self.record.group


def _choose_images(
    table: TableParams, split: str, real: Sequence[ImageRecord], made: Sequence[ImageRecord], request: PackRequest,
    notes: list[str],
) -> dict[str, list[int]]:
    """Positions of the images of each arm; round trips come from other images, and from other groups if there are enough."""
    names = table.class_names
    used: Counter[str] = Counter()
    prior = class_prior(real, len(names))
    chosen: dict[str, list[int]] = {}
    left = list(range(len(real)))
    for arm, total in ((REAL, request.num_real), (ROUND_TRIP, request.num_round_trip), (SYNTHETIC, request.num_synthetic)):
        counts = count_per_class(total, prior)
        places = left if arm != SYNTHETIC else list(range(len(made)))
        pool = [(made if arm == SYNTHETIC else real)[place] for place in places]
        have = count_labels(np.array([record.label for record in pool], dtype=np.int64), len(names))
        short = [f"{name}: {wanted} wanted, {found} there" for name, wanted, found in
                 zip(names, counts, have, strict=True) if wanted > found]
        if short:
            source = "--synthetic" if arm == SYNTHETIC else f"the {split} split"
            raise UserError(f"--num-{arm.replace('_', '-')} {total}: expected enough images of each class at the class "
                            f"prior of the held-out groups, found too few in {source} ({'; '.join(short)}); ask for "
                            "fewer, or add images")
        rng = generator(request.seed, f"reader images {arm}")
        picked = choose_by_group(pool, counts, Counter() if arm == SYNTHETIC else used, rng=rng)
        chosen[arm] = [places[place] for place in picked]
        left = [place for place in left if arm == SYNTHETIC or place not in chosen[arm]]
    again = sum(count > 1 for count in used.values())
    if again:
        notes.append(f"{again} of {len(used)} groups give more than one image: the held-out split has too few groups "
                     "for one image each")
    if table.group_column is None:
        notes.append("no group_column is set, so several images may show one patient")
    return chosen


def _prepare(images: LabelledImages, position: int, codec: LatentCodec | None) -> np.ndarray:
    """One image as uint8 (H, W, C), prepared like all others; with a codec, through the VAE and back."""
    pixels = to_uint8(images[position][0])
    if codec is not None:
        pixels = to_uint8(codec.round_trip(torch.from_numpy(from_uint8(pixels))[None])[0])
    return pixels.transpose(1, 2, 0)


def _alike(images: Sequence[_Image]) -> list[np.ndarray]:
    """One channel for all if only the VAE adds colour to any image, otherwise three for all."""
    if all(is_gray(image.pixels) for image in images if image.arm != ROUND_TRIP):
        return [np.rint(image.pixels.mean(axis=2)).astype(np.uint8) for image in images]
    return [image.pixels for image in images]


def _encode(pixels: np.ndarray) -> bytes:
    """A PNG without compression and without text, so that its length depends on the image's size alone."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="PNG", compress_level=0)
    return buffer.getvalue()


def _note_resized(images: Sequence[_Image], size_px: int, notes: list[str]) -> None:
    """Readers see interpolation: note it if synthetic images are resized."""
    sizes = set()
    for image in images:
        if image.arm == SYNTHETIC:
            with Image.open(image.record.path) as file:
                sizes.add(file.size)
    others = sorted(f"{width} x {height}" for width, height in sizes - {(size_px, size_px)})
    if others:
        notes.append(f"synthetic images of {name_some(others)} px are resized to {size_px}: readers may tell them by the "
                     "interpolation; set image_size to the size at which they are made")


def _refuse_equal_pixels(images: Sequence[_Image], encoded: Sequence[bytes]) -> None:
    first: dict[bytes, _Image] = {}
    for image, data in zip(images, encoded, strict=True):
        other = first.setdefault(data, image)
        if other is not image:
            raise UserError(f"expected different images, found equal pixels in {other.record.image_id} ({other.arm}) and "
                            f"{image.record.image_id} ({image.arm}); remove one of them")


def _check_folders(output: Path, key_folder: Path) -> None:
    key, pack = (Path(str(folder.resolve()).casefold()) for folder in (key_folder, output))  # as some file systems see them
    if key.is_relative_to(pack):
        raise UserError(f"--key {key_folder}: expected a folder outside the pack, found one inside {output}; readers get "
                        "the whole pack, so choose another folder")
    for option, folder in (("--output", output), ("--key", key_folder)):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{option} {folder}: expected a new or empty folder, found files there; a pack that is "
                            "being read must not change, so choose another folder")
        warn_where_git_takes(folder)
