"""From a config and a folder of synthetic images to an evaluation on disk: it gathers what the protocol compares."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from threadpoolctl import threadpool_limits

from config.errors import UserError
from config.load import config_to_dict
from config.schema import Config, EvaluationParams, TableParams
from dataset.annotations import ImageRecord
from dataset.images import write_png
from dataset.latents import LabelledImages
from dataset.patient_note import write_patient_note
from dataset.ranks import ALONE, Ranks
from dataset.storage import hash_json
from dataset.tables import defuse_cell, write_table
from models.autoencoder import TRAINING_RECORD
from models.classifier import Classifier
from tools.diffusion.project import Project
from tools.diffusion.samples import MANIFEST_NAME, TRAINED_RECORD, read_manifest
from tools.diffusion.trained_images import read_samples_record, read_trained_images, refuse_trained_images
from tools.evaluation import protocol
from tools.evaluation.encoders.config_weights import list_encoders, open_encoder
from tools.evaluation.encoders.encoder import Encoder
from tools.evaluation.encoders.feature_kinds import kind_of
from tools.evaluation.encoders.published_weights import explain_missing, fetch_published
from tools.evaluation.evaluation_report import EvaluationReport, TableRow
from tools.evaluation.evaluation_sets import EvaluationSets, EvaluationSettings
from tools.evaluation.image_set import ImageSet
from tools.evaluation.image_sets import as_gray_if_all, open_synthetic, read_set, refuse_real_images, round_trip
from tools.evaluation.judges import (
    CLASSIFIER_RECORD,
    find_condition_judge,
    load_condition_judges,
    require_judge,
    was_chosen_on,
    with_levels,
)
from tools.evaluation.lpips_distance import PerceptualEmbedding, load_perceptual
from tools.evaluation.metric_keys import LPIPS, OFFICIAL, Family, MetricKey
from tools.evaluation.openings import open_test_set
from tools.evaluation.quoted_results import QuotedResults
from tools.evaluation.rejection import sort_out_copies
from tools.evaluation.report import page as report_page
from tools.evaluation.report import report
from tools.evaluation.rows import OVERALL, Row
from tools.evaluation.side_by_side import compare_side_by_side
from tools.runtime.progress import Progress
from tools.runtime.tracking import WandbMirror

SCHEMA = 1
METHOD = 2  # raised where equal images get other numbers, so that no study mixes two kinds
INTERNAL_FOLDER = "internal"
PICTURE_NAME = "real_and_synthetic.png"
PAIRS_NAME = "nearest_pairs.csv"
REJECTED_NAME = "rejected.csv"


def assess(
    config: Config, project: Project, synthetic: Path, output: Path, *, device: torch.device, reject_copies: bool = False,
    quoted: QuotedResults | None = None, flips: ImageSet | None = None, ranks: Ranks = ALONE,
) -> None:
    """Evaluate the images below `synthetic`; write evaluation.json, .xlsx and the reports to `output`, print the table.

    With `reject_copies` near-copies of training images are listed in rejected.csv and left out of every number. The reports
    show `quoted` results of other commands; the internal one shows class `flips` from the same noise.

    Processes that share the encoding of images all call this. The first one computes the numbers and writes; the others
    are done when all images are encoded.

    Raises:
        UserError: images, weights or settings that cannot be used.
    """
    evaluation = evaluate_folder(config, project, synthetic, device=device, picture=output / INTERNAL_FOLDER / PICTURE_NAME,
                                 reject_copies=reject_copies, ranks=ranks)
    if not ranks.is_first:
        return
    (quoted or QuotedResults()).add_to(evaluation)
    report.write(evaluation, output)
    evaluation.details.flips = flips
    report_page.write_pages(evaluation, output, internal_folder=output / INTERNAL_FOLDER)
    _write_table(output / INTERNAL_FOLDER / PAIRS_NAME, evaluation.details.copy_pairs)
    if reject_copies:
        _write_table(output / REJECTED_NAME, evaluation.details.rejected)
    mirror = WandbMirror(config.logging_params, config_to_dict(config), folder=output,
                         name=f"{Path(config.train_params.task_name).name}-evaluation")
    mirror.log(report.scalars(evaluation), step=0)
    mirror.finish()
    print(report.format_table(evaluation))
    print(f"written to {output}: evaluation.json, evaluation.xlsx, {report_page.SHAREABLE_NAME} and, with real images, "
          f"{INTERNAL_FOLDER}/{report_page.INTERNAL_NAME} and {PICTURE_NAME}")


def evaluate_folder(
    config: Config, project: Project, synthetic: Path, *, device: torch.device, picture: Path | None = None,
    reject_copies: bool = False, ranks: Ranks = ALONE,
) -> EvaluationReport:
    """All rows for a folder that holds manifest.csv and images/, or one folder per class.

    `picture` is where real and synthetic images are put side by side. With `reject_copies` everything is computed
    without the images that the test for copies flags, and details.rejected lists them. Processes that share the
    encoding all call this; only the report of the first one has rows.
    """
    params, quiet = config.evaluation_params, not (config.logging_params.progress_bar and ranks.is_first)
    conditions, unjudged = load_condition_judges(params.judge_path, project.table, synthetic)
    judged_names = [condition.name for condition in conditions]
    synthetic_images = open_synthetic(project.data, synthetic, conditions=judged_names)
    sets = _read_sets(project, params, synthetic, synthetic_images, judged_names, device=device, quiet=quiet, ranks=ranks)
    rejection = sort_out_copies(sets, ranks) if reject_copies else None
    sets = sets if rejection is None else rejection.kept
    if picture is not None and ranks.is_first:
        write_patient_note(picture.parent, "The pictures of real images in this folder")
        write_png(picture, compare_side_by_side(sets.real, sets.synthetic, class_names=sets.class_names),
                  text={"Note": "shows real images: internal use only"})
    result = _open_report(project, params.real_split, synthetic, sets, ranks)
    _warn_of_files(synthetic_images.records, project.table.image_size, result)
    failures = fetch_published(params, project.data.lpips_path, ranks=ranks,
                               progress_bar=config.logging_params.progress_bar)
    encoders = _load_encoders(params, project.vae_folder, device, result, failures=failures, ranks=ranks)
    perceptual = _load_perceptual(project.data.lpips_path, device, result, failures)
    judge = _load_judge(params, project.table, result)
    for reason in unjudged:
        result.warn(reason)
    _check_independence(project.vae_folder, encoders, result)
    result.provenance["encoders"] = {e.name: {"weights_sha256": e.weights_sha256, "preset": e.preset,
                                              "kind": kind_of(e.name).value} for e in encoders}
    with threadpool_limits(limits=1, user_api="blas"):  # matrices of a few hundred rows: a second thread triples the time
        protocol.evaluate(sets, encoders=encoders, perceptual=perceptual, judge=judge, conditions=conditions,
                          settings=_make_settings(project, params, sets.synthetic.pixels.shape[-1]), report=result,
                          say=(lambda _: None) if quiet else lambda text: print(f"evaluating: {text}", flush=True),
                          open_bar=lambda title, total: Progress(title, total, enabled=not quiet), ranks=ranks)
    if not ranks.is_first:
        return result
    replaced = _count_replaced(synthetic)
    if replaced:
        result.warn(f"{replaced} near-copies of training images were replaced when these images were drawn")
    if rejection is not None:
        rejection.describe(result)
    return result


def _read_sets(
    project: Project, params: EvaluationParams, synthetic: Path, synthetic_images: LabelledImages,
    judged_names: Sequence[str], *, device: torch.device, quiet: bool, ranks: Ranks,
) -> EvaluationSets:
    """Real and synthetic images and the round trips of the real ones.

    Raises:
        UserError: real images among the synthetic ones, or images that something was trained on among the held-out ones.
    """
    opened = {"synthetic": synthetic_images, params.real_split: project.images(params.real_split),
              "trained" if project.num_unlabelled else "train": project.trained_images("train")}
    refuse_real_images(synthetic_images.records, project.every_image.records, hash_image=project.hash_image)
    codec, batch_size = project.open_codec(device=device), project.autoencoder.batch_size
    made, real, trained = as_gray_if_all([read_set(name, images, quiet, ranks, hash_image=project.hash_image)
                                          for name, images in opened.items()])
    restored, labelled = round_trip(codec, trained, batch_size, quiet, ranks), project.images("train").records
    train, train_round_trip = trained, restored
    if project.num_unlabelled:
        train, train_round_trip = (replace(images.select(np.arange(len(labelled))), name=name)
                                   for images, name in ((trained, "train"), (restored, "train_round_trip")))
    refuse_trained_images(real.sha256, _list_trainings(params, synthetic, project.vae_folder, judged_names),
                          split=params.real_split)
    made = with_levels(made, synthetic_images.records, judged_names)
    real = with_levels(real, opened[params.real_split].records, project.table.conditions)
    train = with_levels(train, labelled, project.table.conditions)
    return EvaluationSets(
        synthetic=made, real=real, train=train, real_round_trip=round_trip(codec, real, batch_size, quiet, ranks),
        train_round_trip=train_round_trip, class_names=project.table.class_names,
        trained=trained if project.num_unlabelled else None,
        trained_round_trip=restored if project.num_unlabelled else None,
    )


def _open_report(
    project: Project, split: str, synthetic: Path, sets: EvaluationSets, ranks: Ranks
) -> EvaluationReport:
    """A report without rows, which says what is compared; the first process enters it as an opening of the test set."""
    made, real, train = sets.synthetic, sets.real, sets.train
    result = EvaluationReport(provenance={
        "schema": SCHEMA, "method": METHOD, "real_split": split, "vae_sha256": project.vae_sha256,
        "checkpoint_sha256": _read_checkpoint_hash(synthetic), "transform": project.transform,
        "images_sha256": {s.name: hash_json(s.sha256) for s in (made, real, train)},
        "num_images": {**{s.name: len(s) for s in (made, real, train)},
                       **({} if sets.trained is None else {"unlabelled": len(sets.trained) - len(train)})},
        "class_names": list(sets.class_names),
    })
    result.details.held_out_sha256 = real.sha256
    if ranks.is_first:
        opening = open_test_set(Path(project.data.directory_inception_features), split, real_sha256=real.sha256,
                                synthetic_sha256=made.sha256)
        if opening is not None:
            result.provenance["test_set_opening"] = opening
    if project.table.group_column is None and len(set(real.groups)) == len(real):
        result.warn("patients are unknown (group_column: null): images of one patient can be trained on and compared with, "
                    "so every number here may be too good and every interval too narrow")
    return result


def _make_settings(project: Project, params: EvaluationParams, num_channels: int) -> EvaluationSettings:
    transform_hash = hash_json({"transform": project.transform, "channels": num_channels})
    return EvaluationSettings(
        feature_folder=Path(project.data.directory_inception_features), transform_hash=transform_hash,
        round_trip_hash=hash_json({"transform": transform_hash, "vae": project.vae_sha256}), batch_size=params.batch_size,
        max_pairs=params.max_pairs, frechet_repeats=params.repeats, bootstrap_repeats=params.bootstrap_repeats,
    )


def _warn_of_files(records: Sequence[ImageRecord], size_px: int, result: EvaluationReport) -> None:
    """Warn of synthetic files whose resizing or compression would count against, or for, the generator."""
    others, jpeg = [], 0
    for record in records:
        with Image.open(record.path) as image:  # reads the header only
            jpeg += image.format == "JPEG"
            if image.size != (size_px, size_px):
                others.append(image.size)
    if others:
        width, height = others[0]
        result.warn(f"{len(others)} of {len(records)} synthetic images are not {size_px} x {size_px} px (such as {width} x "
                    f"{height}) and were resized, which moves every distance; draw them at dataset_params.params.image_size")
    if jpeg:
        result.warn(f"{jpeg} of {len(records)} synthetic images are JPEG files, whose compression moves every distance; "
                    "save them as PNG")


def _write_table(path: Path, rows: Sequence[TableRow]) -> None:
    """A table to look at, in which no name of a file becomes a formula."""
    lines = [list(rows[0]) if rows else ["IMAGE_NAME", "label", "r"], *(row.values() for row in rows)]
    write_table(path, [[defuse_cell(cell) if isinstance(cell, str) else str(cell) for cell in line] for line in lines])


def _load_encoders(
    params: EvaluationParams, vae_folder: Path, device: torch.device, result: EvaluationReport, *, failures: dict[str, str],
    ranks: Ranks,
) -> list[Encoder]:
    """The encoders that every process can open; each other one leaves a row that says what it wants."""
    encoders = []
    for name in list_encoders(params.encoders):
        encoder, reason = None, "another process could not open its weights"
        try:
            encoder = open_encoder(params, name, vae_folder=vae_folder, device=device)
        except UserError as error:
            reason = explain_missing(error, failures)
        if ranks.agree(encoder is not None) and encoder is not None:
            encoders.append(encoder)
            continue
        space = OFFICIAL if name == "inception" else name
        result.rows += [Row(MetricKey(family, space), OVERALL, "total", None, note=f"not computed: {reason}")
                        for family in (Family.FRECHET, Family.KERNEL)]
    return encoders


def _load_perceptual(
    lpips_path: str | None, device: torch.device, result: EvaluationReport, failures: dict[str, str]
) -> PerceptualEmbedding | None:
    try:
        return load_perceptual(lpips_path, device=device)
    except UserError as error:
        note = f"not computed: {explain_missing(error, failures)}"
        result.rows.append(Row(LPIPS, OVERALL, "cross", None, note=note))
        return None


def _load_judge(params: EvaluationParams, table: TableParams, result: EvaluationReport) -> Classifier | None:
    if len(table.class_names) == 1:
        return None
    if params.judge_path is None:
        result.warn("the class of synthetic images was not judged: train a classifier with python -m tools.train_encoder "
                    "and give evaluation_params.judge_path")
    if was_chosen_on(params.judge_path, params.real_split):
        result.warn(f"the judge's weights were chosen on the {params.real_split} images, which it reads a "
                    "little better than others: its numbers on them are a little too good")
    return require_judge(params.judge_path, table)


def _list_trainings(
    params: EvaluationParams, synthetic: Path, vae_folder: Path, judged_names: Sequence[str]
) -> dict[str, list[str] | None]:
    """What each network behind the numbers was trained on, by its name."""
    folders = [params.judge_path, *(find_condition_judge(params.judge_path, name) for name in judged_names)]
    folders += [params.classifier_path] if "classifier" in params.encoders else []
    trained = {f"the classifier in {folder}": read_trained_images(Path(folder) / CLASSIFIER_RECORD)
               for folder in folders if folder is not None}
    trained[f"the VAE in {vae_folder}"] = read_trained_images(vae_folder / TRAINING_RECORD)
    trained[f"the generator of {synthetic}"] = read_samples_record(
        synthetic / TRAINED_RECORD, checkpoint_sha256=_read_checkpoint_hash(synthetic))
    return trained


def _check_independence(vae_folder: Path, encoders: Sequence[Encoder], result: EvaluationReport) -> None:
    """Warn where an encoder's weights served as a loss of the VAE: its distances then flatter."""
    record = vae_folder / TRAINING_RECORD
    if not record.is_file():
        return
    used = set(json.loads(record.read_text(encoding="utf-8")).get("loss_weights_sha256", []))
    for encoder in encoders:
        if encoder.weights_sha256 in used:
            result.warn(f"{encoder.name}: its weights served as a loss of the VAE, so its distances flatter these images; "
                        "judge them by another encoder")


def _read_checkpoint_hash(folder: Path) -> str | None:
    """The checkpoint that the manifest names, if all rows name one."""
    named = _read_columns(folder, "checkpoint_sha256")
    return named.pop()[0] if len(named) == 1 else None


def _count_replaced(folder: Path) -> int:
    """How many near-copies the sampling replaced, which the manifest says for each class."""
    return sum(int(count) for _, count in _read_columns(folder, "label", "rejected_copies") if count)


def _read_columns(folder: Path, *columns: str) -> set[tuple[str | None, ...]]:
    """The different combinations of cells in these columns; none without a manifest."""
    rows = read_manifest(folder) if (folder / MANIFEST_NAME).is_file() else []
    return {tuple(row.get(column) for column in columns) for row in rows}
