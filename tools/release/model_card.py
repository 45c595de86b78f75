"""The README.md of a release, a model card: what it is, how it was made, its numbers with n, and its limits."""

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from config.schema import Config, DatasetParams, TrainParams, UNetParams
from tools.evaluation.evaluation_report import EvaluationReport
from tools.evaluation.rows import COMPARISONS, OVERALL, Row
from tools.evaluation.summary import summarise_report

_SHOWN = ("total", "ceiling", "model_gap", "real_real", "floor", "cross", "real_pairs", "diversity", "held_out",
          "synthetic")
_ABOUT_COPIES = ("copies", "copies_control")  # comparisons

_USE = """## Intended use

Research, not clinical. The images are drawn by a model; they show no patient, and a label says what the model was asked
for, not what an embryo did. Do not diagnose, grade or select with them, and do not mix them unmarked with real images.
"""

_LIMITS = """## Limits

* The images can only show what the training images showed: one set of clinics, microscopes and patients.
* The VAE limits every image; the `ceiling` rows say by how much.
* Numbers hold for the image counts beside them. Fréchet distances depend on that count and are not comparable with
  published ones unless a row says so in evaluation.json (`literature_comparable`).
* "No copy was found" is a statement about the test that was made, not a proof of anonymity.
"""

_CITATION = """## Method and software

Method: Golfe et al., "BlastDiffusion", MIUA 2025, arXiv:2506.13843. Made with the independent implementation of the
same name (MIT licence, which covers the software and not these images).

## Licence of the images

To be chosen by the owner of the training images; until one is written here, none is given.
"""
_MARKDOWN = "\\`*_|[]"  # signs that Markdown acts upon; the backslash first, since it is what is put before them
FIXED_TEXT = (_USE, _LIMITS, _CITATION)


@dataclass(frozen=True)
class CardFacts:
    """What the card tells besides the evaluation."""

    class_counts: Mapping[str, int]
    sampling: Mapping[str, Sequence[str]]  # column of the manifest -> its different values
    steps: int | None
    best_step: int | None
    compared_with_data: bool
    num_common_names: int


def write_card(config: Config, facts: CardFacts, evaluation: EvaluationReport | None) -> str:
    """The card as Markdown."""
    total = sum(facts.class_counts.values())
    counts = ", ".join(f"{count} {_escape(name)}" for name, count in facts.class_counts.items())
    table = config.dataset_params.params
    parts = [
        "# Synthetic images\n",
        f"{total} synthetic microscopy images of {table.image_size} x {table.image_size} px, drawn by a class-conditional "
        f"latent diffusion model: {counts}. `manifest.csv` holds their labels and seeds; each PNG is marked as synthetic in "
        "its metadata. No real image is part of this folder.\n",
        _describe_summary(evaluation),
        _describe_training(config.dataset_params, config.train_params, config.unet_params, facts, evaluation,
                           prediction_type=config.diffusion_params.prediction_type),
        _describe_numbers(evaluation),
        _describe_copies(facts, evaluation),
        _USE, _LIMITS, _CITATION,
    ]
    return "\n".join(parts)


def copy_rows(evaluation: EvaluationReport | None) -> list[Row]:
    """The rows that say whether synthetic images are copies of training images."""
    rows = [] if evaluation is None else evaluation.rows
    return [row for row in rows if row.comparison in _ABOUT_COPIES]


def unescape(text: str) -> str:
    """The card as it reads once Markdown and HTML have acted on what `_escape` wrote."""
    return html.unescape(re.sub(rf"\\([{re.escape(_MARKDOWN)}])", r"\1", text))


def _describe_summary(evaluation: EvaluationReport | None) -> str:
    """The five lines of the evaluation."""
    if evaluation is None:
        return "## Summary\n\nThese images were not evaluated.\n"
    lines = [f"* **{line.aspect.value}** ({line.tone.value}): {_escape(line.text)}" for line in summarise_report(evaluation)]
    return "\n".join(["## Summary\n", *lines]) + "\n"


def _describe_training(
    data: DatasetParams, train: TrainParams, unet: UNetParams, facts: CardFacts, evaluation: EvaluationReport | None, *,
    prediction_type: str,
) -> str:
    lines = ["## How it was made\n"]
    counts = {} if evaluation is None else evaluation.provenance.get("num_images", {})
    if counts.get("train"):
        without = f" and {counts['unlabelled']} images without a label" if counts.get("unlabelled") else ""
        lines.append(f"* Trained on {counts['train']} images{without}.")
    steps = "" if facts.steps is None else f" for {facts.steps} steps"
    best = "" if facts.best_step is None else f"; the averaged weights of step {facts.best_step} draw the images"
    shape = f"{data.z_channels} x {data.latent_size} x {data.latent_size}"
    lines.append(f"* UNet of {' - '.join(map(str, unet.channels))} channels on latents of {shape}, trained{steps} at batch "
                 f"{train.ldm_batch_size}, learning rate {train.ldm_lr:g}, label dropout {train.label_dropout:g}, "
                 f"prediction of {prediction_type}, seed {train.seed}{best}.")
    drawn = "; ".join(f"{name.replace('_', ' ')} {', '.join(values)}" for name, values in facts.sampling.items())
    lines.append(f"* Drawn with: {drawn}.")
    lines.append("* `config.yaml` holds every setting but paths, free text, and names of tables and of columns that are no "
                 "condition.")
    return "\n".join(lines) + "\n"


def _describe_numbers(evaluation: EvaluationReport | None) -> str:
    if evaluation is None:
        return "## Numbers\n\nThese images were not evaluated.\n"
    copies = copy_rows(evaluation)
    rows = [row for row in evaluation.rows if row.class_name == OVERALL and row.value is not None
            and row.comparison in _SHOWN and row not in copies]
    order = list(dict.fromkeys(row.metric for row in rows))
    rows.sort(key=lambda row: (order.index(row.metric), _SHOWN.index(row.comparison)))
    meanings = [f"* `{name}`: {COMPARISONS[name]}" for name in _SHOWN if any(row.comparison == name for row in rows)]
    split = {"test": "test", "val": "validation"}.get(str(evaluation.provenance.get("real_split")), "held-out")
    lines = ["## Numbers\n", f"Over all classes, against real images of the {split} split; every row, also by class, is "
             "in `evaluation.json`. An interval is that of its metric: a bootstrap's, or the range over subsamples.\n",
             *_format_rows(rows), "", *meanings]
    missing = dict.fromkeys((row.metric, row.note) for row in evaluation.rows
                            if row.value is None and row.class_name == OVERALL and row not in copies)
    lines += ["", *[f"* {_escape(metric)}: {_escape(note)}" for metric, note in missing]] if missing else []
    lines += ["", *[f"* Note: {_escape(text)}" for text in evaluation.warnings]] if evaluation.warnings else []
    return "\n".join(lines) + "\n"


def _describe_copies(facts: CardFacts, evaluation: EvaluationReport | None) -> str:
    lines = ["## Copies of training images\n"]
    rows = copy_rows(evaluation)
    if any(row.value is not None for row in rows):
        lines += [*_format_rows([row for row in rows if row.value is not None]), ""]
        lines += [f"* {_escape(row.metric)}: {_escape(row.note)}" for row in rows if row.note]
    else:
        lines.append("Copies were not tested by any measure that allows for small differences: there is no memorisation "
                     "audit of these images.")
        lines += [f"* {_escape(row.metric)}: {_escape(row.note)}" for row in rows if row.note]
    if facts.compared_with_data:
        lines.append("\nNo image equals a real one of the data set pixel by pixel, in any of its turns and mirrorings. The "
                     "texts hold no name of an image or a group of the data set."
                     + (f" {facts.num_common_names} names are plain short numbers or everyday words and could not be "
                        "searched for." if facts.num_common_names else ""))
    else:
        lines.append("\nThe data set was not at hand when this folder was made: its images and names were not compared.")
    return "\n".join(lines) + "\n"


def _format_rows(rows: Sequence[Row]) -> list[str]:
    lines = ["| metric | comparison | value | interval | n real | n synthetic |", "|---|---|---|---|---|---|"]
    for row in rows:
        interval = "" if row.interval is None else f"{row.interval[0]:.4g} to {row.interval[1]:.4g}"
        cells = (_escape(row.metric), row.comparison, f"{row.value:.4g}", interval, _count(row.n_real),
                 _count(row.n_synthetic))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _count(value: Any) -> str:
    return "" if value is None else str(value)


def _escape(text: str) -> str:
    """Text as text: nothing that Markdown, or HTML within it, would act upon."""
    for character in _MARKDOWN:
        text = text.replace(character, f"\\{character}")
    return " ".join(text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").split())
