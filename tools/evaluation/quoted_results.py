"""Results of other commands that the reports of an evaluation quote: their options, reading them, and what does not fit."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from config.errors import UserError
from config.paths import as_path
from dataset.storage import hash_file, hash_json, read_json
from tools.diffusion.trained_images import count_trained
from tools.evaluation.evaluation_report import EvaluationReport
from tools.evaluation.morphometry_record import MorphometryRecord, read_morphometry
from tools.evaluation.sweep_curves import SweepRecord, read_sweep


@dataclass(frozen=True)
class QuotedStudy:
    """Its verdict and warnings in sentences, and the first digits of its images' sha256."""

    sentences: Sequence[str]
    images: Sequence[str]


@dataclass(frozen=True)
class QuotedResults:
    """An augmentation study, measured oocytes, a sweep: each where its file was given."""

    study: QuotedStudy | None = None
    morphometry: MorphometryRecord | None = None
    sweep: SweepRecord | None = None
    provenance: tuple[tuple[str, str], ...] = ()

    def add_to(self, report: EvaluationReport) -> None:
        """Keep them with their hashes, and warn where they are of other images or weights than the evaluation."""
        report.provenance.update(self.provenance)
        sentences = [] if self.study is None else list(self.study.sentences)
        details = report.details
        details.study, details.morphometry, details.sweep = sentences, self.morphometry, self.sweep
        measured = {} if self.morphometry is None else self.morphometry.images_sha256
        own = report.provenance["images_sha256"]
        of = {"synthetic": "synthetic", "real": report.provenance["real_split"], "train": "train"}
        others = [name for name, here in of.items() if name in measured and measured[name] != own[here]]
        if others:
            report.warn(f"the morphometry shown was made of other images ({', '.join(others)}) than this evaluation; run "
                        "python -m tools.morphometry on these")
        held_out = details.held_out_sha256
        if self.study is not None and count_trained(held_out, self.study.images) < len(set(held_out)):
            report.warn("the augmentation study quoted was made of other images than this evaluation's held-out ones")
        checkpoint = report.provenance["checkpoint_sha256"]
        if self.sweep is not None and checkpoint not in (None, *(point.checkpoint_sha256 for point in self.sweep.points)):
            report.warn("the sweep shown was made of other weights than these images")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that name files to quote."""
    parser.add_argument("--augmentation-study", type=as_path, metavar="FILE",
                        help="augmentation_study.json, whose verdict the reports quote")
    parser.add_argument("--morphometry", type=as_path, metavar="FILE",
                        help="morphometry.json, whose measurements the reports show")
    parser.add_argument("--sweep", type=as_path, metavar="FILE", help="sweep.json, whose curves the reports show")


def read_quoted(arguments: argparse.Namespace, class_names: Sequence[str]) -> QuotedResults:
    """Read the files that the options name.

    Raises:
        UserError: no such file, one of another kind, or measurements of other classes.
    """
    provenance = []
    study = None
    if arguments.augmentation_study is not None:
        study = _read_study(arguments.augmentation_study, class_names)
        provenance.append(("augmentation_study_sha256", hash_file(arguments.augmentation_study)))
    morphometry = sweep = None
    if arguments.morphometry is not None:
        morphometry = read_morphometry(arguments.morphometry)
        if morphometry.class_names != tuple(class_names):
            raise UserError(f"{arguments.morphometry}: expected measurements of the classes {', '.join(class_names)}, found "
                            f"{', '.join(morphometry.class_names)}; give a morphometry made with this config")
        provenance.append(("morphometry_sha256", hash_file(arguments.morphometry)))
    if arguments.sweep is not None:
        sweep = read_sweep(arguments.sweep)
        provenance.append(("sweep_sha256", hash_json(sweep.to_dict())))  # the file is completed after its last evaluation
    return QuotedResults(study, morphometry, sweep, tuple(provenance))


def _read_study(path: Path, class_names: Sequence[str]) -> QuotedStudy:
    stored = read_json(path)
    stored = stored if isinstance(stored, dict) else {}
    verdict, warnings, images, provenance = (stored.get(key) for key in ("verdict", "warnings", "images", "provenance"))
    classes = provenance.get("classes") if isinstance(provenance, dict) else None
    if not verdict or not all(isinstance(texts, list) and all(isinstance(text, str) for text in texts)
                              for texts in (verdict, warnings, images, classes)):
        raise UserError(f"{path}: expected the augmentation_study.json that a study of this release wrote, with verdict, "
                        "warnings, images and classes; found none in it; give that file, or run the study's command again")
    if classes != list(class_names):
        raise UserError(f"{path}: expected a study of the classes {', '.join(class_names)}, found {', '.join(classes)}; "
                        "give one made with this config")
    return QuotedStudy([*verdict, *warnings], images)
