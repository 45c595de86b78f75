"""The report as two HTML pages that need nothing but themselves: one for internal use, which shows real images, and one to
share, which shows none, no path and no id. Owns what stands on a page and in which order.

The numbers are rows, their meaning is verdict.py's, pictures and plots are exhibits.py's and plots.py's. No clock, no host:
equal evaluations give equal bytes.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from dataset.storage import hash_json, write_json, write_text
from tools.evaluation.aspects import Aspect, Tone
from tools.evaluation.exhibits import Exhibits
from tools.evaluation.headlines import Headline, choose_headlines
from tools.evaluation.image_set import ImageSet
from tools.evaluation.markup import cell, heading, line, note, table
from tools.evaluation.morphometry_record import MorphometryRecord
from tools.evaluation.plots import draw_interval
from tools.evaluation.report_pictures import show_classes, show_copies, show_features, show_flips, show_missed
from tools.evaluation.report_results import show_morphometry, show_sweep
from tools.evaluation.rows import (
    COMPARISONS,
    CONDITION_ACCURACY,
    CONDITION_CONFUSION,
    CONFUSION,
    OVERALL,
    EvaluationReport,
    Row,
    format_value,
)
from tools.evaluation.sweep_curves import SweepRecord
from tools.evaluation.verdict import QUESTIONS, write_verdict

INTERNAL_NAME, SHAREABLE_NAME = "report_internal.html", "report_shareable.html"
PSEUDONYMS_NAME = "salted_ids.json"
_TEMPLATE = Path(__file__).with_name("report_page.html")
_TONES = {Tone.HOLDS: "holds", Tone.CAUTION: "caution", Tone.FAILS: "fails", Tone.UNKNOWN: "unknown",
          Tone.STUDIED: "unknown"}
_OFF_SCALE = ("between_classes",)  # so far apart that nothing else would be seen beside it
_DARK_SHARE = 0.55  # above it white ink reads better
_LEFT_OUT = "left out of the shareable report: see the internal one"
_PATH = re.compile(r"(?<![\w/.<])(?:[A-Za-z]:[\\/]|file:/+|~?/|\\\\|\.{1,2}/)[^\s\"'<>,;:)]+|[\w.-]+(?:/[\w.-]+)+\.\w+")
# Reasons that hold numbers only; any other may quote a message about a user's files or patients.
_PLAIN_REASON = re.compile(r"not computed: (\d+ images|a (?:class|level) has no image|one side has one group)\b")
_BESIDE = {"real_real": ("total", "ceiling", "balanced", "blurred", "noised"), "floor": ("model_gap",),
           "real_pairs": ("cross", "diversity"), "real_nearest": ("nearest",), "held_out": ("synthetic", "round_trip"),
           "copies_control": ("copies",)}
_FAMILIES = {
    "FID": "Fréchet distance of Inception features. 0 for equal sets; depends on n.",
    "FD[": "Fréchet distance of an encoder's features. 0 for equal sets; depends on n, so compare within this table only.",
    "KID": "Kernel distance of Inception features. Unbiased: values a little under 0 are valid.",
    "KD[": "Kernel distance of an encoder's features. Unbiased: values a little under 0 are valid.",
    "p of": "Permutation test of the kernel distance: small where the sets differ.",
    "precision": "Share of synthetic images among real ones. Even real images do not reach 1.",
    "recall": "Share of real images among synthetic ones.",
    "density": "How densely real images lie around synthetic ones; may pass 1.",
    "coverage": "Share of real images with a synthetic one in their neighbourhood.",
    "two-sample": "How well a linear model tells the two sets apart: 0.5 not at all.",
    "SSIM": "Similarity of pairs. More is not better: cross should equal real pairs.",
    "LPIPS": "Perceptual distance of pairs. Less is not better: cross should equal real pairs.",
    "class": "What a separately trained classifier reads from images it has not seen.",
    "condition": "What a classifier that was trained on the levels of this condition reads from images it has not seen.",
    "ratio of": "1: as well read from synthetic images as from held-out real ones.",
    "judged": "Confusion matrix: share of a class that is judged as another.",
    "near-copies": "Share of images under the threshold tau of the ratio r; the control should equal its level.",
}
_ALWAYS = (
    "A test that finds no copies does not make images private or anonymous.",
    "Every number holds for this encoder, this number of images and this split of the patients.",
    "Not for clinical use.",
)


def write_pages(report: EvaluationReport, folder: Path, *, internal_folder: Path) -> None:
    """Write the shareable page to `folder`; the internal page, and which pseudonym is whose, to `internal_folder`."""
    exhibits: Exhibits = report.details["exhibits"]
    write_text(folder / SHAREABLE_NAME, render_page(_make_shareable(report, exhibits), internal=False))
    write_text(internal_folder / INTERNAL_NAME, render_page(report, internal=True))
    shown = sorted({name for pair in exhibits.pairs for name in (pair.image_id, pair.nearest_id, pair.second_id)})
    write_json(internal_folder / PSEUDONYMS_NAME, {
        "salt": exhibits.salt, "salted_ids": {_pseudonym(exhibits.salt)(name): name for name in shown}})


def render_page(report: EvaluationReport, *, internal: bool) -> str:
    """One page as text. A shareable page wants a report whose texts are clean already."""
    exhibits: Exhibits = report.details["exhibits"]
    title = f"Evaluation of synthetic images: {'internal report' if internal else 'shareable report'}"
    parts = [f"<h1>{escape(title)}</h1>", *_front_page(report, internal=internal), "<h2>Details</h2>"]
    parts += [f"<details><summary>{escape(section)}</summary><div class=\"body\">{body}</div></details>"
              for section, body in _sections(report, exhibits, internal=internal)]
    parts.append("<footer>Made by BlastDiffusion from evaluation.json, which holds every number of this page.</footer>")
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(title=escape(title), content="\n".join(parts))


# The front page


def _front_page(report: EvaluationReport, *, internal: bool) -> Iterator[str]:
    yield f"<p class=\"lead\">{escape(_describe_sets(report))}</p>"
    yield f"<ul class=\"facts\">{''.join(f'<li>{escape(fact)}</li>' for fact in _list_facts(report))}</ul>"
    if internal:
        yield ("<p class=\"notice\"><strong>Patient data.</strong> This page shows patients' images and names them. Keep it "
               "where the images are kept; do not send or publish it.</p>")
    yield "<h2>Verdict</h2>"
    yield _show_verdict(report.rows, report.details.get("study", []))
    headlines = choose_headlines(report.rows)
    if headlines:
        yield "<h2>Headline numbers</h2>"
        yield _show_headlines(headlines)
    yield "<h2>Limits</h2>"
    yield ("<ul class=\"warnings\">"
           + "".join(f"<li>{escape(_capitalise(text))}</li>" for text in (*report.warnings, *_ALWAYS)) + "</ul>")


def _describe_sets(report: EvaluationReport) -> str:
    counts, split = report.provenance.get("num_images", {}), report.provenance.get("real_split", "held-out")
    if not {"synthetic", split, "train"} <= set(counts):
        return "Synthetic images against held-out real ones."
    classes = ", ".join(map(str, report.provenance.get("class_names", [])))
    return (f"{counts['synthetic']:,} synthetic images against {counts[split]:,} real images of the {split} split, not "
            f"trained on; {counts['train']:,} training images. Classes: {classes}.")


def _list_facts(report: EvaluationReport) -> list[str]:
    comparable = dict.fromkeys(row.metric for row in report.rows if row.literature_comparable and row.value is not None)
    facts = [f"comparable with published numbers: {', '.join(comparable) or 'none'}"]
    opening = report.provenance.get("test_set_opening")
    if opening is not None:
        facts.append(f"opening {opening} of this test set" + ("" if opening == 1 else ": chosen after looks, it flatters"))
    checkpoint = report.provenance.get("checkpoint_sha256")
    if checkpoint:
        facts.append(f"checkpoint {str(checkpoint)[:12]}")
    return facts


def _show_verdict(rows: Sequence[Row], study: Sequence[str]) -> str:
    sentences, parts = write_verdict(rows, study=study), []
    for aspect in Aspect:
        of_question = "".join(
            f"<p><span class=\"tone tone-{_TONES[one.tone]}\">{escape(one.tone.value)}</span>"
            f"<span>{escape(one.text)}</span></p>" for one in sentences if one.aspect is aspect)
        parts.append(f"<dt>{escape(QUESTIONS[aspect])}</dt><dd>{of_question}</dd>")
    return f"<dl class=\"verdict\">{''.join(parts)}</dl>"


def _show_headlines(headlines: Sequence[Headline]) -> str:
    lines = []
    for one in headlines:
        same = [row for other in headlines if other.row.metric == one.row.metric for row in (other.row, other.beside)]
        limits = _limits([row for row in same if row is not None])
        beside = "" if one.beside is None else f"{one.beside_title} {format_value(one.beside)}"
        lines.append(line(_capitalise(one.title), cell(format_value(one.row), "number"), _bar(one.row, one.beside, limits),
                          cell(beside, "beside"), cell(f"{_capitalise(one.reading)}.", "text")))
    return table(("Measure", "Value", "Interval", "Read beside", "How to read it"), lines, numbers=("Value",),
                 kind="front", caption=f"Distances: <code>{escape(headlines[0].row.metric)}</code>. In brackets and as a "
                 "line: the 95% interval. Brown tick: the value to read it beside.")


# The details


def _sections(report: EvaluationReport, exhibits: Exhibits, *, internal: bool) -> Iterator[tuple[str, str]]:
    yield ("Provenance: what was compared, hashes and counts", _show_provenance(report.provenance))
    yield ("All numbers with reference rows and intervals", _show_metrics(report))
    title = "Images of each class, uncurated" + (": real, VAE round trip, synthetic" if internal else "")
    yield (title, show_classes(exhibits, internal=internal))
    flips: ImageSet | None = report.details.get("flips")
    if internal and flips is not None:  # no test for copies was made of them, so they are not for sharing
        yield ("The same noise under every label", show_flips(flips, exhibits.class_names))
    if exhibits.ratios:
        named = str if internal else _pseudonym(exhibits.salt)
        yield ("Copies: the nearest training images, and how innocents fare",
                       show_copies(exhibits, name=named, internal=internal))
    else:
        yield ("Copies", "<p>Copies were not tested.</p>")
    if exhibits.features:
        yield ("Feature space: distance against n, joint principal axes", show_features(exhibits))
        yield ("What the model misses", show_missed(exhibits, internal=internal))
    confusion = _show_confusion(report, CONFUSION)
    if confusion:
        yield ("Confusion matrix of the class", confusion)
    for condition in _list_conditions(report):
        yield (f"Confusion matrix of {condition}", _show_confusion(report, CONDITION_CONFUSION, f"[{condition}]"))
    morphometry: MorphometryRecord | None = report.details.get("morphometry")
    if morphometry is not None:
        yield ("Morphometry: measured oocytes, real against synthetic", show_morphometry(morphometry))
    sweep: SweepRecord | None = report.details.get("sweep")
    if sweep is not None:
        yield ("Sweep: metrics against checkpoint, sampler, steps and guidance", show_sweep(sweep))


def _show_provenance(provenance: Mapping[str, Any]) -> str:
    return table(("Field", "Value"), [line(key, cell(value, "id")) for key, value in _flatten(provenance)])


def _flatten(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{above}{key}, ")
        else:
            yield f"{above}{key}".replace("_", " "), ", ".join(map(str, value)) if isinstance(value, list | tuple) else value


def _show_metrics(report: EvaluationReport) -> str:
    """A table for each metric, every comparison and class of it on one scale."""
    parts = []
    for metric in dict.fromkeys(row.metric for row in report.rows):
        if metric.startswith((CONFUSION, CONDITION_CONFUSION)):
            continue  # the confusion matrices show them
        rows = [row for row in report.rows if row.metric == metric]
        limits = _limits([row for row in rows if row.comparison not in _OFF_SCALE])
        lines = [line(row.class_name, cell(row.comparison.replace("_", " ")), cell(format_value(row), "number"),
                      _bar(row, _find_beside(report, row), limits), cell(_count(row.n_real), "number"),
                      cell(_count(row.n_synthetic), "number"), cell(row.note, "text")) for row in rows]
        meaning = next((text for prefix, text in _FAMILIES.items() if metric.startswith(prefix)), "")
        badge = " Comparable with published numbers." if any(row.literature_comparable for row in rows) else ""
        parts += [heading(metric), note(meaning + badge),
                  table(("Class", "Comparison", "Value", "Interval", "n real", "n synthetic", "Note"), lines,
                        numbers=("Value", "n real", "n synthetic"))]
    used = {row.comparison for row in report.rows}
    meanings = [line(name.replace("_", " "), cell(text)) for name, text in COMPARISONS.items() if name in used]
    return "".join([*parts, heading("What the comparisons compare"), table(("Comparison", "Meaning"), meanings)])


def _list_conditions(report: EvaluationReport) -> list[str]:
    """The further conditions that were judged."""
    return [row.metric.removeprefix(f"{CONDITION_ACCURACY}[").removesuffix("]") for row in report.rows
            if row.metric.startswith(CONDITION_ACCURACY) and row.comparison == "held_out"]


def _show_confusion(report: EvaluationReport, before: str, after: str = "") -> str:
    """A matrix for real, restored and synthetic images, of rows whose metric is a level between `before` and `after`; none
    where there are none."""
    parts = []
    cells = {(row.comparison, row.class_name, row.metric.removeprefix(before).removesuffix(after)): row
             for row in report.rows if row.metric.startswith(before) and row.metric.endswith(after)}
    for comparison in dict.fromkeys(key[0] for key in cells):
        names = list(dict.fromkeys(key[1] for key in cells if key[0] == comparison))
        lines = []
        for name in names:
            of_class = [cells[comparison, name, other] for other in names]
            count = of_class[0].n_real or of_class[0].n_synthetic
            lines.append(line(name, *(_shade(row.value) for row in of_class), cell(_count(count), "number")))
        matrix = table(("Label", *names, "n"), lines, numbers=("n",), kind="narrow")
        parts.append(f"<div>{heading(_capitalise(COMPARISONS[comparison]))}{matrix}</div>")
    about = note("Rows: the label. Columns: what the image was judged as, in shares of the row.")
    return f"{about}<div class=\"matrices\">{''.join(parts)}</div>" if parts else ""


def _shade(share: float | None) -> str:
    """A cell of a confusion matrix, the darker the more."""
    if share is None:
        return cell("none", "heat")
    ink = "#fff" if share > _DARK_SHARE else "#1f2933"
    return f"<td class=\"heat\" style=\"background:rgba(27,94,140,{0.06 + 0.94 * share:.2f});color:{ink}\">{share:.2f}</td>"


def _find_beside(report: EvaluationReport, row: Row) -> Row | None:
    """The real reference that a row is read beside."""
    name = next((beside for beside, readers in _BESIDE.items() if row.comparison in readers), None)
    return None if name is None else report.find(row.metric, name, row.class_name) or report.find(row.metric, name, OVERALL)


def _bar(row: Row, beside: Row | None, limits: tuple[float, float]) -> str:
    if row.value is None or row.comparison in _OFF_SCALE:
        return "<td></td>"
    return f"<td>{draw_interval(row.value, row.interval, None if beside is None else beside.value, limits)}</td>"


def _limits(rows: Sequence[Row]) -> tuple[float, float]:
    """The scale that holds all values and intervals, and 0."""
    numbers = [number for row in rows if row.value is not None for number in (row.value, *(row.interval or ()))]
    return min(0.0, *numbers) if numbers else 0.0, max(0.0, *numbers) if numbers else 1.0


def _count(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def _capitalise(text: str) -> str:
    return text[:1].upper() + text[1:]


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
        warnings=[clean(text) for text in report.warnings], details={
            "exhibits": exhibits, "study": [clean(text) for text in report.details.get("study", [])],
            "morphometry": report.details.get("morphometry"),  # shown under our own names and the classes'
            "sweep": _clean_sweep(report.details.get("sweep"), clean)})


def _clean_sweep(sweep: SweepRecord | None, clean: Callable[[str], str]) -> SweepRecord | None:
    if sweep is None:
        return None
    points = [replace(point, name=clean(point.name), checkpoint=clean(point.checkpoint), sampler=clean(point.sampler),
                      refusal=None if point.refusal is None else clean(point.refusal)) for point in sweep.points]
    return SweepRecord(rule=clean(sweep.rule), chosen=clean(sweep.chosen), points=tuple(points))


def _clean_values(value: Any, clean: Callable[[str], str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _clean_values(item, clean) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean_values(item, clean) for item in value]
    return clean(value) if isinstance(value, str) else value


def _pseudonym(salt: str) -> Callable[[str], str]:
    """Names under which a shareable page lists images; without the salt they cannot be linked to a table."""
    return lambda name: f"id-{hash_json({'salt': salt, 'id': name})[:12]}"
