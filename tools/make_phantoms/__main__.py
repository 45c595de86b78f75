"""Write a set of phantom oocyte images with its table of labels, patients, splits and true parameters.

This module writes the files and makes the splits; tools.make_phantoms.phantoms draws the phantoms.
"""

import argparse
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from config.errors import UserError
from config.paths import as_path
from dataset import storage
from dataset.delimited import format_csv
from tools.make_phantoms import phantoms
from tools.runtime.command import run_command

SPLIT_SHARES = {"train": 0.70, "val": 0.15, "test": 0.15}
IMAGE_FORMATS = ("png", "jpg", "tiff", "bmp")
MIN_IMAGES = phantoms.IMAGES_PER_BLOCK  # four patients: the fewest that fill three splits with some choice
SIZES_PX = (16, 2048)
MAX_FOCAL_PLANES = 9

_TABLE, _SUMMARY, _UNFINISHED = "annotations.csv", "phantoms.json", "phantoms.unfinished.json"
_SPLIT_PURPOSE = 101  # address of the generator that orders patients for the split; different from those of the phantoms


@dataclass(frozen=True)
class PhantomRequest:
    """The settings of a set; equal requests give equal files.

    With several `focal_planes` each of the `num_images` oocytes is taken once at every plane. `tint_microscope` is how
    strongly the microscope, and with it the exposure, depends on the class: 0 not at all, 1 fully, None one microscope.
    """

    num_images: int = 2000
    image_size: int = 64
    difficulty: str = "clear"
    seed: int = 1111
    format: str = "png"
    focal_planes: int = 1
    tint_microscope: float | None = None
    isotropic_light: bool = False

    def check(self) -> None:
        """Raise a UserError for the first invalid value."""
        low, high = SIZES_PX
        if self.num_images < MIN_IMAGES:
            raise UserError(
                f"--num-images: expected {MIN_IMAGES} or more (four patients, so that each split gets one), "
                f"found {self.num_images}; ask for more images"
            )
        if not low <= self.image_size <= high:
            raise UserError(f"--image-size: expected {low} to {high} pixels, found {self.image_size}; choose another")
        if self.difficulty not in phantoms.DIFFICULTIES:
            raise UserError(
                f"--difficulty: expected one of {', '.join(phantoms.DIFFICULTIES)}, "
                f"found {self.difficulty!r}; choose one of them"
            )
        if self.seed < 0:
            raise UserError(f"--seed: expected 0 or more, found {self.seed}; choose another seed")
        if self.format not in IMAGE_FORMATS:
            raise UserError(
                f"--format: expected one of {', '.join(IMAGE_FORMATS)}, found {self.format!r}; choose one of them"
            )
        if not 1 <= self.focal_planes <= MAX_FOCAL_PLANES:
            raise UserError(f"--focal-planes: expected 1 to {MAX_FOCAL_PLANES}, found {self.focal_planes}; choose another")
        if self.tint_microscope is not None and not 0 <= self.tint_microscope <= 1:
            raise UserError(f"--tint-microscope: expected a fraction from 0 to 1, found {self.tint_microscope}; 0 is "
                            "independent of the class")

    def content(self) -> dict[str, Any]:
        """The values that decide the files' content; those of newer options only if they are used."""
        later = ("focal_planes", "tint_microscope", "isotropic_light")
        return {field.name: getattr(self, field.name) for field in fields(self)
                if field.name not in later or getattr(self, field.name) != field.default}

    def key(self) -> str:
        """Hash of everything that decides the files' content."""
        return storage.hash_json({"recipe": phantoms.RECIPE_VERSION, **self.content()})


@dataclass(frozen=True)
class _Picture:
    """One image of a set: its oocyte, and what the table says about how it was taken."""

    parameters: phantoms.PhantomParameters
    plane: int
    microscope: int


def write_phantoms(output: Path, request: PhantomRequest) -> tuple[dict[str, Any], bool]:
    """Write images/, then annotations.csv, then phantoms.json under `output`: the summary, and whether it was made now.

    A folder that already holds exactly this set is left alone (False). A folder left by a killed run of the same request is
    written again.

    Raises:
        UserError: the request is invalid, or the folder holds something else.
    """
    request.check()
    output = Path(output)
    finished = _find_finished(output, request)
    if finished is not None:
        return finished, False

    storage.write_json(output / _UNFINISHED, {"key": request.key()})
    drawn = [
        phantoms.draw_parameters(seed=request.seed, index=index, difficulty=request.difficulty)
        for index in range(request.num_images)
    ]
    splits = split_patients(labels=[p.label for p in drawn], patients=[p.patient for p in drawn], seed=request.seed)
    pictures = [[_take(parameters, plane, request) for plane in range(request.focal_planes)] for parameters in drawn]
    for picture in (picture for stack in pictures for picture in stack):
        image = phantoms.render_phantom(picture.parameters, size_px=request.image_size, exposure=picture.plane)
        _, data = cv2.imencode(f".{request.format}", image)
        storage.write_bytes(_image_path(output, request, picture.parameters.index, picture.plane), data.tobytes())

    table = _format_table(pictures, splits, request)
    storage.write_text(output / _TABLE, table)
    bayes = phantoms.bayes_rate(request.difficulty)
    summary = {
        "key": request.key(),
        "recipe": phantoms.RECIPE_VERSION,
        **request.content(),
        "um_per_px": phantoms.FIELD_UM / request.image_size,
        "class_names": list(phantoms.CLASS_NAMES),
        "num_patients": len({p.patient for p in drawn}),
        "counts": _count(drawn, splits),
        "bayes": {"balanced_accuracy": bayes.balanced_accuracy, "auc": bayes.auc},
        "table_sha256": storage.hash_bytes(table.encode("utf-8")),
    }
    storage.write_json(output / _SUMMARY, summary)
    (output / _UNFINISHED).unlink()
    return summary, True


def split_patients(*, labels: Sequence[int], patients: Sequence[int], seed: int) -> list[str]:
    """Give each image the split of its patient, every class near 70/15/15, no patient in two splits.

    In a random order from the seed, each patient goes to the split where it reduces the distance to the wanted counts
    most; the first three go to three different splits, so that none stays empty.

    Raises:
        ValueError: there are fewer than three patients.
    """
    names = sorted(set(patients))
    if len(names) < len(SPLIT_SHARES):
        raise ValueError(f"expected {len(SPLIT_SHARES)} patients or more, found {len(names)}")
    columns = np.zeros((len(names), max(labels) + 1))  # images by patient and class
    rows = np.searchsorted(names, patients)
    np.add.at(columns, (rows, np.asarray(labels)), 1.0)
    shares = np.array(list(SPLIT_SHARES.values()))
    wanted = shares[:, None] * columns.sum(axis=0)  # (splits, classes)
    scale = np.maximum(wanted, 1.0)
    filled = np.zeros_like(wanted)
    chosen = np.zeros(len(names), dtype=int)
    order = np.random.default_rng([seed, _SPLIT_PURPOSE]).permutation(len(names))
    for place, patient in enumerate(order):
        gap = wanted - filled
        gain = ((gap**2 - (gap - columns[patient]) ** 2) / scale).sum(axis=1)
        if place < len(shares):
            gain[filled.sum(axis=1) > 0] = -np.inf
        chosen[patient] = int(np.argmax(gain))
        filled[chosen[patient]] += columns[patient]
    split_names = list(SPLIT_SHARES)
    return [split_names[chosen[row]] for row in rows]


def format_summary(summary: dict[str, Any]) -> str:
    """The lines that the command prints: counts by split and class, and the Bayes rate."""
    lines = [f"{'split':<6} " + " ".join(f"{name:>11}" for name in phantoms.CLASS_NAMES) + "  patients"]
    for split, counts in summary["counts"].items():
        numbers = " ".join(f"{counts[name]:>11}" for name in phantoms.CLASS_NAMES)
        lines.append(f"{split:<6} {numbers}  {counts['patients']:>8}")
    bayes = summary["bayes"]
    lines.append(
        f"Bayes rate from the true parameters ({summary['difficulty']}): "
        f"balanced accuracy {bayes['balanced_accuracy']:.4f}, AUC {bayes['auc']:.4f}"
    )
    if summary.get("tint_microscope") is not None:
        agreement = (1 + summary["tint_microscope"]) / 2
        lines.append(f"the microscope agrees with the class in {agreement:.0%} of all phantoms, which raises that rate")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Read the arguments, write the set, print its counts."""
    defaults = PhantomRequest()
    parser = argparse.ArgumentParser(
        prog="python -m tools.make_phantoms",
        description="Write phantom oocyte images with known class, anatomy and Bayes rate.",
    )
    parser.add_argument("--output", type=as_path, required=True, help="folder for images/, annotations.csv, phantoms.json")
    parser.add_argument("--num-images", type=int, default=defaults.num_images, help="default %(default)s")
    parser.add_argument("--image-size", type=int, default=defaults.image_size, help="pixels, default %(default)s")
    parser.add_argument(
        "--difficulty",
        default=defaults.difficulty,
        help="how visible the class is: clear, faint or shuffled (not at all); default %(default)s",
    )
    parser.add_argument("--seed", type=int, default=defaults.seed, help="default %(default)s")
    parser.add_argument("--format", default=defaults.format, help="png, jpg, tiff or bmp; default %(default)s")
    parser.add_argument("--focal-planes", type=int, default=defaults.focal_planes, metavar="N",
                        help="take every oocyte at N focal planes (column FOCAL_PLANE); default %(default)s")
    parser.add_argument("--tint-microscope", type=float, metavar="SHARE",
                        help="two microscopes of different exposure (column MICROSCOPE); they depend on the class: 0 not at "
                             "all, 1 fully; default one microscope")
    parser.add_argument("--isotropic-light", action="store_true", help="no relief contrast: all turns and flips look alike")
    values = vars(parser.parse_args(argv))
    output = values.pop("output")
    request = PhantomRequest(**values)
    summary, made = write_phantoms(output, request)
    if made:
        each = f", each at {request.focal_planes} focal planes," if request.focal_planes > 1 else ""
        print(f"wrote {summary['num_images']} phantoms{each} to {output}")
    else:
        print(f"{output} already holds these {summary['num_images']} phantoms: nothing to do")
    print(format_summary(summary))


def _find_finished(output: Path, request: PhantomRequest) -> dict[str, Any] | None:
    """The summary of a complete set of this request; None if the set may be written, a UserError if it may not."""
    if not output.exists():
        return None
    if not output.is_dir():
        raise UserError(f"--output {output}: expected a folder, found a file; choose another path")
    for name in (_SUMMARY, _UNFINISHED):
        if not (output / name).is_file():
            continue
        summary = storage.read_json(output / name)
        if not isinstance(summary, dict) or summary.get("key") != request.key():
            raise UserError(
                f"--output {output}: expected an empty folder or this same set, found phantoms made with other "
                "arguments; choose another folder or remove this one"
            )
        return summary if name == _SUMMARY and _is_complete(output, request, summary) else None
    if any(output.iterdir()):
        raise UserError(
            f"--output {output}: expected an empty folder, found other files and no {_SUMMARY}; choose another folder"
        )
    return None


def _is_complete(output: Path, request: PhantomRequest, summary: dict[str, Any]) -> bool:
    """Whether the table is unchanged and every image exists (their bytes are not read)."""
    table = output / _TABLE
    if not table.is_file() or storage.hash_file(table) != summary.get("table_sha256"):
        return False
    return all(_image_path(output, request, index, plane).is_file()
               for index in range(request.num_images) for plane in range(request.focal_planes))


def _take(drawn: phantoms.PhantomParameters, plane: int, request: PhantomRequest) -> _Picture:
    """An oocyte under the request's light and microscope, at one of its focal planes."""
    microscope = 0
    if request.isotropic_light:
        drawn = phantoms.under_isotropic_light(drawn)
    if request.tint_microscope is not None:
        microscope = phantoms.choose_microscope(drawn, share=request.tint_microscope)
        drawn = phantoms.under_microscope(drawn, microscope)
    if request.focal_planes > 1:
        drawn = phantoms.at_focal_plane(drawn, plane=plane, num_planes=request.focal_planes)
    return _Picture(drawn, plane, microscope)


def _image_name(request: PhantomRequest, index: int, plane: int) -> str:
    return f"phantom_{index:06d}" + (f"_plane{plane}" if request.focal_planes > 1 else "")


def _image_path(output: Path, request: PhantomRequest, index: int, plane: int) -> Path:
    return output / "images" / f"{_image_name(request, index, plane)}.{request.format}"


def _format_table(pictures: list[list[_Picture]], splits: list[str], request: PhantomRequest) -> str:
    """The table as CSV text; floats keep every digit, so that reading them back gives the same parameters."""
    taken = ["FOCAL_PLANE"] if request.focal_planes > 1 else []
    taken += ["MICROSCOPE"] if request.tint_microscope is not None else []
    lines: list[list[object]] = [
        ["IMAGE_NAME", "blastocyst", "PATIENT_ID", "SPLIT", "UM_PER_PX", *taken, *phantoms.parameter_names()]]
    um_per_px = phantoms.FIELD_UM / request.image_size
    for picture, split in ((picture, split) for stack, split in zip(pictures, splits, strict=True) for picture in stack):
        parameters = picture.parameters
        name, patient = _image_name(request, parameters.index, picture.plane), f"patient_{parameters.patient:04d}"
        said = {"FOCAL_PLANE": picture.plane, "MICROSCOPE": phantoms.MICROSCOPES[picture.microscope]}
        lines.append([name, parameters.label, patient, split, um_per_px, *(said[column] for column in taken),
                      *astuple(parameters)])
    return format_csv(lines)


def _count(drawn: list[phantoms.PhantomParameters], splits: list[str]) -> dict[str, dict[str, int]]:
    """Images by class, and patients, of each split."""
    counts = {}
    for split in SPLIT_SHARES:
        members = [p for p, own in zip(drawn, splits, strict=True) if own == split]
        by_class = {name: sum(p.label == label for p in members) for label, name in enumerate(phantoms.CLASS_NAMES)}
        counts[split] = {**by_class, "patients": len({p.patient for p in members})}
    return counts


if __name__ == "__main__":
    run_command(main, on_device=False)
