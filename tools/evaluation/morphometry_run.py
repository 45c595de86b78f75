"""From a config and a folder of synthetic images to measured oocytes on disk: tables, comparisons, overlay pictures."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from config.errors import UserError
from config.schema import Config, SampleParams, TableParams
from dataset.delimited import format_csv
from dataset.images import write_png
from dataset.patient_note import write_patient_note
from dataset.storage import hash_json, write_json, write_text
from tools.diffusion.conditions import read_fixed_levels
from tools.diffusion.generation import ImageRequest, draw_conditions, draw_images, split_into_batches
from tools.diffusion.project import Project
from tools.diffusion.trained_model import TrainedModel, load_trained_model
from tools.evaluation.assess import INTERNAL_FOLDER
from tools.evaluation.image_set import ImageSet
from tools.evaluation.image_sets import open_synthetic, read_set, refuse_real_images
from tools.evaluation.manual_measurements import ManualTable, compare_with_manual, read_manual
from tools.evaluation.morphometry import LENGTHS, MEASURES, Abstention, Measurement, measure_oocyte
from tools.evaluation.morphometry_comparison import Agreement, MeasuredSet, morphometry_rows
from tools.evaluation.morphometry_pictures import tile_overlays
from tools.evaluation.openings import open_test_set
from tools.evaluation.rows import OVERALL, Row
from tools.runtime.progress import Progress
from tools.runtime.run_directory import RunDirectory

SCHEMA = 1
_OVERLAYS_PER_CLASS = 8


def run_morphometry(
    config: Config, synthetic: Path, output: Path, *, manual: Path | None = None, num_flips: int = 0,
    checkpoint: Path | None = None, device: torch.device,
) -> list[Row]:
    """Measure real and synthetic images and class flips, write everything to `output`, print the table.

    Raises:
        UserError: images, a table or a checkpoint that cannot be used, or no image could be measured.
    """
    project = Project.open(config)
    quiet, table = not config.logging_params.progress_bar, config.dataset_params.params
    split = config.evaluation_params.real_split
    listed = {"real": project.images(split), "train": project.images("train")}
    made = open_synthetic(project.data, synthetic)
    refuse_real_images(made.records, project.every_image.records, hash_image=project.hash_image)
    by_hand = None
    if manual is not None:
        known = [record.image_id for images in listed.values() for record in images.records]
        by_hand = read_manual(manual, known, um_per_px=table.um_per_px)
    pixels = {"synthetic": read_set("synthetic", made, quiet, hash_image=project.hash_image),
              **{name: read_set(name, images, quiet, hash_image=project.hash_image) for name, images in listed.items()}}
    if num_flips > 0:
        weights = checkpoint or RunDirectory(Path(config.train_params.task_name)).weights(config.train_params)
        model = load_trained_model(config, project, weights, device)
        pixels["class_flips"] = draw_flips(model, table, config.sample_params, num_flips, progress_bar=not quiet)
    measured = {name: measure_set(images, quiet) for name, images in pixels.items()}
    if not any(images.measured().any() for images in measured.values()):
        reasons = ", ".join(f"{name}: {_format_reasons(images)}" for name, images in measured.items())
        raise UserError(f"no oocyte could be measured ({reasons}); what is asked of an image stands in docs/morphometry.md")
    rows = morphometry_rows(
        synthetic=measured["synthetic"], real=measured["real"], train=measured["train"], flips=measured.get("class_flips"),
        class_names=table.class_names, um_per_px=table.um_per_px, repeats=config.evaluation_params.bootstrap_repeats,
    )
    agreement = None
    if by_hand is not None:
        results = {image_id: result for name in listed
                   for image_id, result in zip(measured[name].ids, measured[name].results, strict=True)}
        agreement = compare_with_manual(by_hand, results, um_per_px=table.um_per_px)
    opening = open_test_set(Path(project.data.directory_inception_features), split, real_sha256=pixels["real"].sha256,
                            synthetic_sha256=pixels["synthetic"].sha256)
    _write_measurements(output, measured, pixels, table, of_patients=listed)
    write_json(output / "morphometry.json", {
        "provenance": {"schema": SCHEMA, "real_split": split, "um_per_px": table.um_per_px,
                       "transform": project.transform, "class_names": list(table.class_names),
                       "images_sha256": {name: hash_json(images.sha256) for name, images in pixels.items()},
                       "num_images": {name: len(images) for name, images in pixels.items()}, "num_flips": num_flips,
                       **({} if opening is None else {"test_set_opening": opening})},
        "not_measured": {name: images.reasons() for name, images in measured.items()},
        "rows": [row.to_dict() for row in rows],
        "agreement_with_manual": None if agreement is None else _describe(agreement, by_hand),
    })
    print(format_morphometry(rows, measured, table.class_names, table.um_per_px))
    if agreement is not None and by_hand is not None:
        print(_format_agreement(agreement, by_hand))
    if opening is not None:
        print(f"opening {opening} of this test set")
    print(f"written to {output}: morphometry.json, measurements and overlays of synthetic images; those of real ones in "
          f"{INTERNAL_FOLDER}/")
    return rows


def _write_measurements(
    output: Path, measured: Mapping[str, MeasuredSet], pixels: Mapping[str, ImageSet], table: TableParams, *,
    of_patients: Collection[str],
) -> None:
    """Tables and overlays of each set; those of patients go to the internal folder."""
    write_patient_note(output / INTERNAL_FOLDER, "The pictures and measurements of real images in this folder")
    for name, images in measured.items():
        folder = output / INTERNAL_FOLDER if name in of_patients else output
        write_text(folder / f"measurements_{name}.csv", _format_measurements(images, table.class_names, table.um_per_px))
        _write_overlays(folder / f"overlays_{name}.png", pixels[name], images, shows_patients=name in of_patients)


def measure_set(images: ImageSet, quiet: bool) -> MeasuredSet:
    """Measure every image of a set."""
    results, done = [], 0
    with Progress(f"measuring {images.name}", len(images), enabled=not quiet) as bar:
        for chunk in images.chunks():
            for picture in chunk:
                results.append(measure_oocyte(picture))
                done += 1
                bar.update(done)
    return MeasuredSet(images.name, results, images.labels, images.ids, images.groups)


def draw_flips(
    model: TrainedModel, table: TableParams, params: SampleParams, num_flips: int, *, progress_bar: bool
) -> ImageSet:
    """`num_flips` noises of the first class, each drawn once with every label; the group is the noise.

    Further conditions are drawn at the first class's prior and stay with the noise.

    Raises:
        UserError: a level asked for that no training image has.
    """
    first = draw_conditions([ImageRequest(0, index) for index in range(num_flips)], model.condition_prior, seed=params.seed,
                            fixed=read_fixed_levels(table, params.conditions, model.condition_prior))
    requests = [replace(request, label=label, noise_label=0) for request in first for label in range(len(model.class_names))]
    parts: list[np.ndarray] = []
    with Progress("drawing class flips", len(requests), enabled=progress_bar) as bar:
        for batch in split_into_batches(requests, params.batch_size):
            parts.append(draw_images(model.denoising, model.codec, batch, params=params, seed=params.seed,
                                     batch_size=params.batch_size))
            bar.update(sum(map(len, parts)))
    names = [f"flip_{request.index:06d}_class{request.label}" for request in requests]
    images = np.concatenate(parts)
    return ImageSet("class_flips", images, np.array([request.label for request in requests], dtype=np.int64), names,
                    [f"noise_{request.index:06d}" for request in requests],
                    [hash_json({"name": name, "sum": int(image.sum())}) for name, image in zip(names, images, strict=True)])


def format_morphometry(
    rows: Sequence[Row], measured: dict[str, MeasuredSet], class_names: Sequence[str], um_per_px: float | None
) -> str:
    """The table for the screen: how many were measured and why not, means, synthetic against real, class differences."""
    found = {(row.key.about, row.class_name, row.comparison): row for row in rows}
    lines = []
    for name, images in measured.items():
        lines.append(f"{name}: {int(images.measured().sum())} of {len(images.ids)} measured"
                     + (f"; not measured: {_format_reasons(images)}" if images.reasons() else ""))
    lines += ["", f"{'mean (deviation)':<26}{'class':<16}{'held-out real':>18}{'synthetic':>18}  g, synthetic minus real"]
    for measure in MEASURES:
        unit = "" if measure not in LENGTHS else ", um" if um_per_px else ", px"
        for class_name in class_names:
            cells = []
            for comparison in ("held_out", "synthetic"):
                mean, spread = (found.get((f"{kind} {measure}{unit}", class_name, comparison))
                                for kind in ("mean", "deviation"))
                cells.append("-" if mean is None or spread is None or mean.value is None or spread.value is None
                             else f"{mean.value:.4g} ({spread.value:.3g})")
            lines.append(f"{measure + unit:<26}{class_name:<16}{cells[0]:>18}{cells[1]:>18}  "
                         + _format_row(found.get((f"g[{measure}]", class_name, "total"))))
    comparisons = [c for c in ("real_classes", "synthetic_classes", "class_flips")
                   if ("g[outer_diameter]", OVERALL, c) in found]
    title = f"g, {class_names[-1]} minus {class_names[0]}"
    lines += ["", f"{title:<36}" + "".join(f"{name:>28}" for name in comparisons)]
    for measure in MEASURES:
        lines.append(f"{measure:<36}" + "".join(
            f"{_format_row(found.get((f'g[{measure}]', OVERALL, comparison))):>28}" for comparison in comparisons))
    return "\n".join(lines)


def _format_row(row: Row | None) -> str:
    if row is None or row.value is None:
        return "-"
    return f"{row.value:.2f}" + (f" [{row.interval[0]:.2f}, {row.interval[1]:.2f}]" if row.interval else "")


def _format_reasons(images: MeasuredSet) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in images.reasons().items())


def _format_agreement(agreement: dict[str, Agreement], manual: ManualTable) -> str:
    lines = ["", f"{'automatic minus by hand':<28}{'n':>5}{'bias':>10}   95% limits of agreement"]
    for measure, found in agreement.items():
        name = f"{measure}, {manual.units[measure]}" if manual.units[measure] else measure
        limits = "-" if found.limits is None else f"{found.limits[0]:.3g} to {found.limits[1]:.3g}"
        lines.append(f"{name:<28}{found.n:>5}{found.bias:>10.3g}   {limits}")
    return "\n".join(lines)


def _describe(agreement: dict[str, Agreement], manual: ManualTable | None) -> dict[str, Any]:
    assert manual is not None
    return {measure: {**asdict(found), "unit": manual.units[measure]} for measure, found in agreement.items()}


def _format_measurements(images: MeasuredSet, class_names: Sequence[str], um_per_px: float | None) -> str:
    """One line an image as CSV text; what is not measured has a reason instead of numbers."""
    unit = "um" if um_per_px else "px"
    names = [f"{name}_{unit}" if name in LENGTHS else name for name in MEASURES]
    lines = [["IMAGE_NAME", "class_name", *names, "reason", "detail"]]
    for image_id, label, result in zip(images.ids, images.labels, images.results, strict=True):
        if isinstance(result, Abstention):
            cells = [*[""] * len(MEASURES), result.reason, result.detail]
        else:
            cells = [*[f"{value:.6g}" for value in result.values(um_per_px).values()], "", ""]
        lines.append([image_id, class_names[label], *cells])
    return format_csv(lines)


def _write_overlays(path: Path, images: ImageSet, measured: MeasuredSet, *, shows_patients: bool) -> None:
    """The first images of each class with their boundaries, not chosen."""
    first = np.concatenate([np.flatnonzero(images.labels == label)[:_OVERLAYS_PER_CLASS]
                            for label in np.unique(images.labels)])
    results: list[Measurement | Abstention] = [measured.results[index] for index in first]
    picture = tile_overlays(list(images.select(first).in_memory()), results)
    note = "shows real images: internal use only" if shows_patients else "synthetic images"
    write_png(path, picture, text={"Note": note})
