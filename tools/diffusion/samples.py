"""A folder of synthetic images: file names, the marks inside the PNGs, grids, the manifest, and writing them."""

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from config.errors import UserError, name_some
from config.schema import MANIFEST_COLUMNS, SampleParams
from dataset.decoding import decode_image, read_png_text
from dataset.delimited import format_csv
from dataset.images import write_png
from dataset.patient_note import write_patient_note
from dataset.storage import hash_file, make_folder, move_file, write_text
from models.autoencoder import LatentCodec
from tools.diffusion.generation import (
    Denoising,
    ImageRequest,
    draw_images,
    draw_latents,
    latents_to_pixels,
)
from tools.diffusion.trained_images import write_samples_record
from tools.runtime.background import InOrder
from tools.runtime.image_grid import label_grid

MANIFEST_NAME = "manifest.csv"
IMAGE_FOLDER = "images"
REJECTED_FOLDER = Path("internal") / "rejected"  # near-copies of training images, which show patients
TRAINED_RECORD = Path("internal") / "trained_images.json"  # hashes of the files that the generator was trained on
_GRID_IMAGES = 36
_GRID_COLUMNS = 6
CONDITION_GRID_COLUMNS = 8
_WITHHELD_VALUE = 225


def read_manifest(folder: Path) -> list[dict[str, str]]:
    """The rows of the table of the images below `folder`, which must be there."""
    with (folder / MANIFEST_NAME).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


class SampleWriter:
    """Writes the images of one request list; a rerun finds which are done by the marks inside the files."""

    def __init__(
        self, output: Path, requests: Sequence[ImageRequest], *, params: SampleParams, class_names: Sequence[str],
        checkpoint_sha256: str, condition_levels: Mapping[str, Sequence[str]] | None = None,
        trained_images: Sequence[str] | None = None,
    ) -> None:
        self.output = output
        self._trained_images = trained_images
        self.requests = requests
        self.class_names = class_names
        self.condition_levels = dict(condition_levels or {})
        self._rejected: Counter[int] | None = None
        self._common = {
            "seed": str(params.seed), "sampler": params.sampler, "steps": str(params.num_steps),
            "guidance_scale": f"{params.guidance_scale:g}", "checkpoint_sha256": checkpoint_sha256,
        }
        # The interval alters the pixels too; the mark distinguishes it, not a column.
        self._marks = {**self._common, "guidance_interval": str(list(params.guidance_interval))}
        if params.guide_checkpoint is not None:
            self._marks["guide_sha256"] = hash_file(Path(params.guide_checkpoint))

    def path(self, request: ImageRequest) -> Path:
        return self.output / IMAGE_FOLDER / f"class{request.label}_{request.index:06d}.png"

    def check_folder(self, replacements: Sequence[ImageRequest] = ()) -> None:
        """Refuse a folder that holds other images, and remove an older manifest before images change.

        `replacements` are requests that may be generated instead of near-copies.

        Raises:
            UserError: the folder has images that this request does not name.
        """
        wanted = {self.path(request).name for request in (*self.requests, *replacements)}
        others = sorted(path.name for path in (self.output / IMAGE_FOLDER).glob("*") if path.name not in wanted
                        and not path.name.startswith("."))
        if others:
            raise UserError(f"{self.output / IMAGE_FOLDER} holds images that were not asked for now: {name_some(others)}; "
                            "give another --output, or remove them")
        if any(not self.is_written([request]) for request in self.requests):
            (self.output / MANIFEST_NAME).unlink(missing_ok=True)

    def is_written(self, batch: Sequence[ImageRequest]) -> bool:
        """Whether all images of the batch are complete and carry the marks of this request."""
        return all(self._carries_marks(request) for request in batch)

    def write_batch(self, batch: Sequence[ImageRequest], pixels: np.ndarray) -> None:
        """Write uint8 images (B, H, W, c)."""
        for request, image in zip(batch, pixels, strict=True):
            write_png(self.path(request), image, text=self._text(request))

    def read_batch(self, batch: Sequence[ImageRequest]) -> np.ndarray:
        """The written images, uint8 (B, H, W, c)."""
        pixels = np.stack([decode_image(self.path(request)) for request in batch])
        return pixels[..., None] if pixels.ndim == 3 else pixels

    def restore_rejected(self) -> None:
        """Move images that an earlier call rejected back, so that they need not be generated and rejected again."""
        make_folder(self.output / IMAGE_FOLDER)
        for path in sorted((self.output / REJECTED_FOLDER).glob("*.png")):
            move_file(path, self.output / IMAGE_FOLDER / path.name)

    def reject(self, accepted: Sequence[ImageRequest], rejected: Sequence[ImageRequest]) -> None:
        """Keep the accepted requests; move the images of the others out and count them in the manifest."""
        self.requests = accepted
        self._rejected = Counter(request.label for request in rejected)
        folder = self.output / REJECTED_FOLDER
        make_folder(folder)
        write_patient_note(folder, "The near-copies of training images in this folder")
        (self.output / MANIFEST_NAME).unlink(missing_ok=True)  # an older one may name images that are moved now
        for request in rejected:
            move_file(self.path(request), folder / self.path(request).name)

    def write_grids(self) -> None:
        """One picture per class of its first images, uncurated."""
        for label, name in enumerate(self.class_names):
            its = [request for request in self.requests if request.label == label]
            first = self.read_batch(its[:_GRID_IMAGES])
            grid = label_grid([("", first)], num_columns=_GRID_COLUMNS,
                              title=f"{name}: synthetic, the first {len(first):,} of {len(its):,}")
            write_png(self.output / f"grid_class{label}.png", grid, text={"Synthetic": f"BlastDiffusion, class {name}"})

    def write_condition_grid(
        self, pixels: np.ndarray, *, label: int, condition: str, levels: Sequence[str], num_columns: int,
        withheld: np.ndarray | None = None,
    ) -> None:
        """One picture of a class, a row per level of a condition: uint8 images (rows x columns, H, W, c), row by row.

        Images `withheld`, bool (rows x columns,), are near-copies of training images and left gray; None if there was no
        search for them. The text inside the file says which.
        """
        safe, name = re.sub(r"\W", "_", condition), self.class_names[label]
        note = "not tested for near-copies of training images"
        if withheld is not None:
            pixels = np.where(withheld[:, None, None, None], np.uint8(_WITHHELD_VALUE), pixels)
            note = f"{int(withheld.sum())} near-copies of training images left gray"
        rows = zip(levels, pixels.reshape(len(levels), num_columns, *pixels.shape[1:]), strict=True)
        write_png(self.output / f"grid_class{label}_{safe}.png",
                  label_grid(list(rows), num_columns=num_columns, title=f"{name}: synthetic, a row per {condition}"),
                  text={"Synthetic": f"BlastDiffusion, class {name}, a row per level of {condition}; {note}"})

    def write_manifest(self) -> None:
        """The table of all images, which is itself a table of annotations; written last. Conditions have columns.

        rejected_copies is the number of near-copies of the class that were replaced, empty if there was no search for them.
        """
        columns = [*MANIFEST_COLUMNS, *self.condition_levels]
        lines: list[list[object]] = [columns]
        for request in self.requests:
            row = {"IMAGE_NAME": self.path(request).name, "label": request.label,
                   "class_name": self.class_names[request.label], **self._common, **self._levels(request),
                   "rejected_copies": "" if self._rejected is None else self._rejected[request.label]}
            lines.append([row[column] for column in columns])
        if self._trained_images is not None:
            write_samples_record(self.output / TRAINED_RECORD, checkpoint_sha256=self._common["checkpoint_sha256"],
                                 trained=self._trained_images)
        write_text(self.output / MANIFEST_NAME, format_csv(lines))

    def _levels(self, request: ImageRequest) -> dict[str, str]:
        """The level of each condition by its name."""
        pairs = zip(self.condition_levels.items(), request.conditions, strict=True)
        return {name: levels[level] for (name, levels), level in pairs}

    def _text(self, request: ImageRequest) -> dict[str, str]:
        conditions = {"conditions": json.dumps(self._levels(request))} if self.condition_levels else {}
        return {"Synthetic": "generated by BlastDiffusion, shows no patient", "label": str(request.label),
                "index": str(request.index), **conditions, **self._marks}

    def _carries_marks(self, request: ImageRequest) -> bool:
        if not self.path(request).exists():
            return False
        try:
            return read_png_text(self.path(request)) == self._text(request)
        except UserError:
            return False  # damaged: it is generated again


def draw_and_write(
    denoising: Denoising, codec: LatentCodec, writer: SampleWriter, batches: Sequence[Sequence[ImageRequest]], *,
    params: SampleParams, report: Callable[[int], None] = lambda _: None,
) -> None:
    """Generate batches. Another thread writes each while the next is generated; on a GPU it decodes them too.

    On a CPU the decoder would only take cores from the network: measured, 0.89 of the speed. Files are byte for byte
    those of `draw_and_write_in_turn`. `report` gets the count of images generated.
    """
    def finish(batch: Sequence[ImageRequest], latents: torch.Tensor) -> None:
        writer.write_batch(batch, latents_to_pixels(codec, latents))

    count = 0
    with InOrder() as behind:
        for batch in batches:
            latents = draw_latents(denoising, batch, params=params, seed=params.seed, batch_size=params.batch_size)
            if latents.device.type == "cpu":
                behind.add(partial(writer.write_batch, batch, latents_to_pixels(codec, latents)))
            else:
                behind.add(partial(finish, batch, latents))
            count += len(batch)
            report(count)


def draw_and_write_in_turn(
    denoising: Denoising, codec: LatentCodec, writer: SampleWriter, batches: Sequence[Sequence[ImageRequest]], *,
    params: SampleParams,
) -> None:
    """The same one after the other; a benchmark and a test compare `draw_and_write` with it."""
    for batch in batches:
        writer.write_batch(batch, draw_images(denoising, codec, batch, params=params, seed=params.seed,
                                              batch_size=params.batch_size))
