"""The folder of a release: which files it holds, each written anew from what is allowed in it, and then searched.

An allow list: nothing is copied but pixels of images that carry our mark, numbers, and texts that pass the search of
leaks.py. The folder appears under its name only after the search has found nothing.
"""

import base64
import binascii
import html
import io
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from openpyxl import load_workbook
from PIL import Image

from config.errors import UserError, name_some
from config.load import load_config
from config.schema import SPLITS, Config, TableParams
from dataset.decoding import decode_image, read_png_text
from dataset.delimited import format_csv
from dataset.images import write_png
from dataset.latents import LabelledImages
from dataset.storage import disk_errors, hash_file, make_folder, read_json, write_json, write_text
from tools.diffusion.project import Project
from tools.diffusion.samples import IMAGE_FOLDER, MANIFEST_COLUMNS, MANIFEST_NAME, read_manifest
from tools.evaluation.evaluation_report import EvaluationReport
from tools.evaluation.report import report
from tools.evaluation.rows import COMPARISONS
from tools.release import model_card
from tools.release.cleaning import clean_config, clean_evaluation
from tools.release.leaks import Secrets, gather_secrets, is_copy, real_pixel_keys
from tools.runtime.image_grid import label_grid
from tools.runtime.progress import Progress
from tools.runtime.run_directory import RunDirectory

FORMAT = 1
RECORD_NAME = "release.json"
REPORT_NAME = "report_shareable.html"
_MARK = "Synthetic"
_MARK_NAMES = (_MARK, "index", "conditions", "guidance_interval", *MANIFEST_COLUMNS[1:])
_IMAGE_NAME = re.compile(r"class\d+_\d{6}\.png")
_DATA_IMAGE = re.compile(r"data:image/[\w.+-]+;base64,([A-Za-z0-9+/=\s]+)")
_GRID_IMAGES, _GRID_COLUMNS = 36, 6


@dataclass(frozen=True)
class ReleaseRequest:
    """What is asked for: the run, its samples (None: where its config says), the folder to make, and two consents."""

    run: Path
    output: Path
    samples: Path | None = None
    without_data: bool = False
    replace: bool = False


def build_release(request: ReleaseRequest) -> dict[str, Any]:
    """Write the folder and return its record (release.json).

    Raises:
        UserError: a run without samples, images without our mark, a folder that may not be replaced, a data set that is
            not at hand, or something real in what was about to be released.
    """
    run = RunDirectory(request.run)
    if not run.config.is_file():
        raise UserError(f"{request.run}: expected the folder of a run, found no config.yaml in it; give <task_name>")
    config = load_config(run.config)
    samples = request.samples or run.samples(config.sample_params)
    _check_output(request)
    images = _open_data(Project.open(config), request)
    rows = _read_rows(samples, config.dataset_params.params)
    own_words = _own_words(config.dataset_params.params, clean_config(config))
    secrets = gather_secrets(config, [] if images is None else images.records, own_words=own_words)
    make_folder(request.output.parent)
    draft = request.output.parent / f".{request.output.name}.{os.getpid()}.draft"
    shutil.rmtree(draft, ignore_errors=True)
    make_folder(draft)
    try:
        _write_files(draft, config=config, run=run, samples=samples, rows=rows, secrets=secrets,
                     with_data=images is not None)
        names = sorted(path.relative_to(draft).as_posix() for path in draft.rglob("*") if path.is_file())
        _check_texts(draft, names, secrets)
        _check_pixels(draft, names, real_pixel_keys(images, show_progress=config.logging_params.progress_bar),
                      show_progress=config.logging_params.progress_bar)
        record = {
            "format": FORMAT, "compared_with_data_set": images is not None, "images": len(rows),
            "names_searched": len(secrets.names), "names_too_common_to_search": secrets.num_common,
            "sha256": {name: hash_file(draft / name) for name in names},
        }
        write_json(draft / RECORD_NAME, record)
        with disk_errors(request.output):
            if request.output.exists():
                shutil.rmtree(request.output)
            draft.rename(request.output)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return record


# What is read


def _check_output(request: ReleaseRequest) -> None:
    output = request.output
    if not output.exists():
        return
    if not output.is_dir():
        raise UserError(f"--output {output}: expected a folder, found a file; choose another path")
    found = sorted(path.relative_to(output).as_posix() for path in output.rglob("*") if not path.is_dir())
    if not found:
        return
    if not request.replace:
        raise UserError(f"--output {output}: expected no folder or an empty one, found {len(found)} files; choose another, "
                        "or give --force to replace an earlier release")
    listed = read_json(output / RECORD_NAME).get("sha256", {}) if RECORD_NAME in found else {}
    foreign = [name for name in found if name != RECORD_NAME and name not in listed]
    if foreign:
        raise UserError(f"--output {output}: --force replaces only what this command wrote, found other files "
                        f"({name_some(foreign)}); choose another folder")


def _open_data(project: Project, request: ReleaseRequest) -> LabelledImages | None:
    if request.without_data:
        return None
    try:
        return project.every_image
    except UserError as error:
        raise UserError(f"the data set of {request.run} cannot be read, so nothing can be compared with it ({error}); run "
                        "this where it can be read, or give --without-data, which the model card then says") from error


def _read_rows(samples: Path, table: TableParams) -> list[dict[str, str]]:
    """The rows of the table, with the columns that a release may have: the contract's and the config's conditions."""
    path = samples / MANIFEST_NAME
    if not path.is_file():
        raise UserError(f"{path}: expected the table of the synthetic images, found nothing there; draw them first with "
                        "python sample_ddpm_class_cond.py, or name their folder with --samples")
    rows = read_manifest(samples)
    lacking = [name for name in MANIFEST_COLUMNS if not rows or name not in rows[0]]
    if lacking:
        raise UserError(f"{path}: expected rows with the columns {', '.join(MANIFEST_COLUMNS)}, found no "
                        f"{name_some(lacking)}; draw the images anew")
    odd = [row["IMAGE_NAME"] for row in rows if not _IMAGE_NAME.fullmatch(row["IMAGE_NAME"] or "")]
    if odd:
        raise UserError(f"{path}: expected names such as class0_000000.png, found {name_some(odd)}; only images that "
                        "sample_ddpm_class_cond.py drew can be released")
    conditions = {name: condition.levels for name, condition in table.conditions.items()
                  if name in rows[0]}
    for name, levels in conditions.items():
        unknown = sorted({row[name] for row in rows} - set(levels))
        if unknown:
            raise UserError(f"{path}: expected in {name} one of {', '.join(levels)}, found {name_some(unknown)}; draw the "
                            "images anew")
    return [{name: row[name] for name in (*MANIFEST_COLUMNS, *conditions)} for row in rows]


def _read_marks(path: Path, row: Mapping[str, str]) -> dict[str, str]:
    """The marks inside an image, those that a release may carry; they have to agree with the manifest.

    Raises:
        UserError: no mark, or another image than the manifest names.
    """
    marks = read_png_text(path)
    if not marks.get(_MARK, "").startswith("generated by BlastDiffusion"):
        raise UserError(f"{path}: expected an image that is marked as synthetic inside, found no such mark; it may be a "
                        "real image, so nothing was released")
    differing = [name for name in MANIFEST_COLUMNS[1:] if name in marks and marks[name] != row[name]]
    if differing:
        raise UserError(f"{path}: differs from {MANIFEST_NAME} in {', '.join(differing)}; draw the images anew")
    return {name: marks[name] for name in _MARK_NAMES if name in marks}


# What is written


def _write_files(
    draft: Path, *, config: Config, run: RunDirectory, samples: Path, rows: Sequence[Mapping[str, str]], secrets: Secrets,
    with_data: bool,
) -> None:
    by_class: dict[str, list[np.ndarray]] = {}
    with Progress("writing", len(rows), enabled=config.logging_params.progress_bar) as bar:
        for number, row in enumerate(rows):
            source = samples / IMAGE_FOLDER / row["IMAGE_NAME"]
            marks = _read_marks(source, row)
            pixels = decode_image(source)
            write_png(draft / IMAGE_FOLDER / row["IMAGE_NAME"], pixels, text=marks)
            first = by_class.setdefault(row["label"], [])
            if len(first) < _GRID_IMAGES:
                first.append(pixels if pixels.ndim == 3 else pixels[..., None])
            bar.update(number + 1)
    for label, first in by_class.items():
        name = config.dataset_params.params.class_names[int(label)]
        grid = label_grid([("", np.stack(first))], num_columns=_GRID_COLUMNS,
                          title=f"{name}: synthetic, the first {len(first):,}")
        write_png(draft / f"grid_class{int(label)}.png", grid,
                  text={_MARK: "generated by BlastDiffusion, shows no patient"})
    _write_manifest(draft / MANIFEST_NAME, rows)
    write_text(draft / "config.yaml", yaml.safe_dump(clean_config(config), sort_keys=False, allow_unicode=True, width=120))
    evaluation = _read_evaluation(samples, rows, secrets)
    if evaluation is not None:
        report.write(evaluation, draft)
    if (samples / REPORT_NAME).is_file():
        write_text(draft / REPORT_NAME, (samples / REPORT_NAME).read_text(encoding="utf-8"))
    last = _read_last_log_row(run.metrics)
    facts = model_card.CardFacts(
        class_counts=Counter(row["class_name"] for row in rows),
        sampling={name: sorted({row[name] for row in rows}) for name in ("sampler", "steps", "guidance_scale", "seed")},
        steps=last.get("step"), best_step=last.get("best_step"), compared_with_data=with_data,
        num_common_names=secrets.num_common,
    )
    write_text(draft / "README.md", model_card.write_card(config, facts, evaluation))


def _write_manifest(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    columns = list(rows[0])
    write_text(path, format_csv([columns, *([row[column] for column in columns] for row in rows)]))


def _read_evaluation(samples: Path, rows: Sequence[Mapping[str, str]], secrets: Secrets) -> EvaluationReport | None:
    path = samples / "evaluation.json"
    if not path.is_file():
        return None
    evaluation = clean_evaluation(read_json(path), secrets)
    drawn_by, evaluated = {row["checkpoint_sha256"] for row in rows}, evaluation.provenance.get("checkpoint_sha256")
    if drawn_by != {evaluated} or evaluation.provenance.get("num_images", {}).get("synthetic") != len(rows):
        raise UserError(f"{path} is about other images than {samples / MANIFEST_NAME} lists; evaluate these anew with "
                        "python -m tools.evaluate")
    return evaluation


def _read_last_log_row(path: Path) -> dict[str, Any]:
    """The newest values of step and best_step in a run's log; empty where there is none."""
    if not path.is_file():
        return {}
    last: dict[str, Any] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        with_values = json.loads(line)
        last |= {key: int(with_values[key]) for key in ("step", "best_step") if with_values.get(key) is not None}
    return last


def _own_words(table: TableParams, cleaned: Mapping[str, Any]) -> set[str]:
    """Words that a release holds whoever trained the model: a patient of that name cannot be told from them."""
    levels = [text for name, condition in table.conditions.items() for text in (name, *condition.levels)]
    texts = [*MANIFEST_COLUMNS, *levels, *COMPARISONS, *COMPARISONS.values(), *SPLITS, *table.class_names,
             *model_card.FIXED_TEXT, yaml.safe_dump(dict(cleaned)), "image images class grid real manifest"]
    return {word for text in texts for word in (text, *re.findall(r"\w+", text))}


# What is checked afterwards


def _check_texts(draft: Path, names: Sequence[str], secrets: Secrets) -> None:
    for name in names:
        leak = secrets.find(f"{name}\n{_read_all_text(draft / name)}")
        if leak is not None:
            raise UserError(f"{name} would have held {leak}; nothing was released; remove it from the samples' folder, or "
                            "rename what collides with it")


def _read_all_text(path: Path) -> str:
    """The texts of a file as a person reads them, without what its format puts before their signs: O&#x27;Neil, P\\_7."""
    if path.suffix == ".png":
        return "\n".join(f"{key} {value}" for key, value in read_png_text(path).items())
    if path.suffix == ".xlsx":
        book = load_workbook(path)
        cells = [str(cell) for sheet in book for line in sheet.iter_rows(values_only=True) for cell in line]
        about = [str(value) for value in (book.properties.creator, book.properties.lastModifiedBy, book.properties.title)]
        return "\n".join([*cells, *about])
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".html":
        return f"{text}\n{html.unescape(text)}"
    if path.suffix == ".md":
        return f"{text}\n{model_card.unescape(text)}"
    if path.suffix == ".json":
        return "\n".join([text, *_texts_in(json.loads(text))])
    return text


def _texts_in(value: Any) -> Iterator[str]:
    """Every text of a JSON value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from (text for item in value.items() for part in item for text in _texts_in(part))
    elif isinstance(value, list):
        yield from (text for item in value for text in _texts_in(item))


def _check_pixels(draft: Path, names: Sequence[str], real_keys: frozenset[str], *, show_progress: bool) -> None:
    with Progress("comparing with real images", len(names), enabled=show_progress) as bar:
        for number, name in enumerate(names):
            for pixels in _images_in(draft / name):
                if is_copy(pixels, real_keys):
                    raise UserError(f"{name} is or holds a real image of the data set, pixel by pixel; nothing was "
                                    "released; look into how it came among the synthetic ones")
            bar.update(number + 1)


def _images_in(path: Path) -> Iterator[np.ndarray]:
    """The picture that a PNG is, or those inside an HTML page."""
    if path.suffix == ".png":
        yield decode_image(path)
    elif path.suffix == ".html":
        for encoded in _DATA_IMAGE.findall(path.read_text(encoding="utf-8")):
            try:
                with Image.open(io.BytesIO(base64.b64decode(encoded))) as image:
                    yield np.asarray(image.convert("L" if image.mode in ("1", "L", "LA") else "RGB"))
            except (OSError, binascii.Error) as error:
                raise UserError(f"{path.name}: a picture in it cannot be read, so it cannot be compared with the real ones; "
                                "make the report anew") from error
