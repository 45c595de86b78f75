"""The report as two HTML pages that need nothing but themselves: one for internal use, which shows real images, and one to
share, which shows none, no path and no id. Images come first, then the pairs nearest to copies, the summary, the numbers,
and the rest folded.

The numbers are rows, their meaning is verdict.py's; the parts of a page are made by report_pictures.py, report_numbers.py
and report_details.py. No clock, no host: equal evaluations give equal bytes.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from markupsafe import Markup

from dataset.storage import hash_json, write_json, write_text
from tools.evaluation.evaluation_report import EvaluationReport, ReportDetails
from tools.evaluation.report.details import list_details
from tools.evaluation.report.exhibits import Exhibits
from tools.evaluation.report.markup import capitalise, document, join, listed, show_tone
from tools.evaluation.report.numbers import show_numbers
from tools.evaluation.report.pictures import show_classes, show_nearest
from tools.evaluation.rows import Row
from tools.evaluation.summary import SummaryLine, summarise_report
from tools.evaluation.sweep_curves import SweepRecord

INTERNAL_NAME, SHAREABLE_NAME = "report_internal.html", "report_shareable.html"
PSEUDONYMS_NAME = "salted_ids.json"
_LEFT_OUT = "left out of the shareable report: see the internal one"
_PATH = re.compile(r"(?<![\w/.<])(?:[A-Za-z]:[\\/]|file:/+|~?/|\\\\|\.{1,2}/)[^\s\"'<>,;:)]+|[\w.-]+(?:/[\w.-]+)+\.\w+")
# Reasons that hold numbers only; any other may quote a message about a user's files or patients.
_PLAIN_REASON = re.compile(r"not computed: (\d+ images|a (?:class|level) has no image|one side has one group)\b")
_NOTICE = Markup("This page shows patients' images and names them. Keep it where the images are kept; do not send or "
                 "publish it.")
_ALWAYS = (
    "No number here looks for single structures, such as polar bodies, pronuclei or cells. Missing or misplaced ones, and "
    "shapes that no real oocyte or embryo has, can go unnoticed: look at the images.",
    "A test that finds no copies does not make images private or anonymous.",
    "Every number holds for this encoder, this number of images and this split of the patients.",
    "Not for clinical use.",
)


def write_pages(report: EvaluationReport, folder: Path, *, internal_folder: Path) -> None:
    """Write the shareable page to `folder`; the internal page, and which pseudonym is whose, to `internal_folder`."""
    exhibits = report.details.shown
    write_text(folder / SHAREABLE_NAME, render_page(_make_shareable(report, exhibits), internal=False))
    write_text(internal_folder / INTERNAL_NAME, render_page(report, internal=True))
    shown = sorted({name for pair in exhibits.pairs for name in (pair.image_id, pair.nearest_id, pair.second_id)})
    write_json(internal_folder / PSEUDONYMS_NAME, {
        "salt": exhibits.salt, "salted_ids": {_pseudonym(exhibits.salt)(name): name for name in shown}})


def render_page(report: EvaluationReport, *, internal: bool) -> str:
    """One page as text. A shareable page wants a report whose texts are clean already."""
    exhibits = report.details.shown
    name = str if internal else _pseudonym(exhibits.salt)
    folded = join(Markup('<details><summary>{}</summary><div class="body">{}</div></details>').format(title, body)
                  for title, body in list_details(report, internal=internal, name=name))
    num_classes = len(report.provenance.get("class_names", exhibits.class_names))
    sections = {
        "images": ("Images", show_classes(exhibits, internal=internal)),
        "nearest": ("Nearest to training images", show_nearest(exhibits, internal=internal)),
        "summary": ("Summary", _show_summary(summarise_report(report)) + _show_facts(report)),
        "numbers": ("Numbers", show_numbers(report.rows, num_classes=num_classes)),
        "limits": ("Limits", listed(capitalise(text) for text in (*report.warnings, *_ALWAYS))),
        "details": ("Details", folded),
    }
    title = f"Evaluation of synthetic images: {'internal report' if internal else 'shareable report'}"
    return document(title, header=_show_header(report, internal=internal), sections=sections,
                    footer="Made by BlastDiffusion from evaluation.json, which holds every number of this page.")


def _show_header(report: EvaluationReport, *, internal: bool) -> Markup:
    lead = Markup('<p class="lead">{}</p>').format(_describe_sets(report))
    if not internal:
        return lead
    return lead + Markup('<p class="notice"><strong>Patient data.</strong> {}</p>').format(_NOTICE)


def _describe_sets(report: EvaluationReport) -> str:
    counts, split = report.provenance.get("num_images", {}), report.provenance.get("real_split", "held-out")
    if not {"synthetic", split, "train"} <= set(counts):
        return "Synthetic images against held-out real ones."
    classes = ", ".join(map(str, report.provenance.get("class_names", [])))
    return (f"{counts['synthetic']:,} synthetic images against {counts[split]:,} real images of the {split} split, not "
            f"trained on; {counts['train']:,} training images. Classes: {classes}.")


def _show_summary(lines: Sequence[SummaryLine]) -> Markup:
    """The five lines: what was asked, how it turned out as a word with a sign, and why."""
    one = Markup('<div><dt>{}</dt><dd>{}</dd><dd class="words">{}</dd></div>')
    return Markup('<dl class="summary">{}</dl>').format(join(
        one.format(capitalise(line.aspect.value), show_tone(line.tone), line.text) for line in lines))


def _show_facts(report: EvaluationReport) -> Markup:
    comparable = dict.fromkeys(row.metric for row in report.rows if row.literature_comparable and row.value is not None)
    facts = [f"comparable with published numbers: {', '.join(comparable) or 'none'}"]
    opening = report.provenance.get("test_set_opening")
    if opening is not None:
        facts.append(f"opening {opening} of this test set" + ("" if opening == 1 else ": chosen after looks, it flatters"))
    checkpoint = report.provenance.get("checkpoint_sha256")
    if checkpoint:
        facts.append(f"checkpoint {str(checkpoint)[:12]}")
    return Markup('<ul class="facts">{}</ul>').format(join(Markup("<li>{}</li>").format(fact) for fact in facts))


# What may be shared


def _make_shareable(report: EvaluationReport, exhibits: Exhibits) -> EvaluationReport:
    """The report without texts that name a path, an image or a patient."""
    def clean(text: str) -> str:
        words = set(re.split(r"[\s,;:()'\"]+", text))
        named = any(len(name) > 2 and (name in words or (" " in name and name in text)) for name in exhibits.private_names)
        return _LEFT_OUT if named else _PATH.sub("(path)", text)

    def clean_row(row: Row) -> Row:
        if row.value is None and not _PLAIN_REASON.match(row.note):
            return replace(row, note=f"not computed; the reason is {_LEFT_OUT}")
        return replace(row, note=clean(row.note))

    return EvaluationReport(
        provenance=_clean_values(report.provenance, clean), rows=[clean_row(row) for row in report.rows],
        warnings=[clean(text) for text in report.warnings], details=ReportDetails(
            exhibits=exhibits, study=[clean(text) for text in report.details.study],
            morphometry=report.details.morphometry,  # shown under our own names and the classes'
            sweep=_clean_sweep(report.details.sweep, clean)))


def _clean_sweep(sweep: SweepRecord | None, clean: Callable[[str], str]) -> SweepRecord | None:
    if sweep is None:
        return None
    points = [replace(point, name=clean(point.name), checkpoint=clean(point.checkpoint), sampler=clean(point.sampler),
                      refusal=None if point.refusal is None else clean(point.refusal),
                      decided_by=None if point.decided_by is None else clean(point.decided_by)) for point in sweep.points]
    return replace(sweep, rule=clean(sweep.rule), chosen=clean(sweep.chosen), points=tuple(points),
                   features=tuple(map(clean, sweep.features)))


def _clean_values(value: Any, clean: Callable[[str], str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _clean_values(item, clean) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean_values(item, clean) for item in value]
    return clean(value) if isinstance(value, str) else value


def _pseudonym(salt: str) -> Callable[[str], str]:
    """Names under which a shareable page lists images; without the salt they cannot be linked to a table."""
    return lambda name: f"id-{hash_json({'salt': salt, 'id': name})[:12]}"
