"""The folded part of a report page: provenance, every row in a table, the confusion matrices and what other parts show."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from tools.evaluation.check_kinds import Scale, kind_of_check
from tools.evaluation.evaluation_report import EvaluationReport
from tools.evaluation.metric_keys import OF_JUDGE, OFFICIAL, Family, MetricKey
from tools.evaluation.report.headlines import Headline, choose_headlines
from tools.evaluation.report.markup import box, capitalise, cell, heading, join, line, note, show_tone, table
from tools.evaluation.report.pictures import (
    show_features,
    show_flips,
    show_further_pairs,
    show_missed,
    show_ratios,
    show_round_trips,
)
from tools.evaluation.report.plots import draw_interval
from tools.evaluation.report.results import show_morphometry, show_sweep
from tools.evaluation.rows import COMPARISONS, OVERALL, Row, format_value
from tools.evaluation.verdict import QUESTIONS, write_verdict

_OFF_SCALE = ("between_classes",)  # so far apart that nothing else would be seen beside it
_BESIDE = {"real_real": ("total", "ceiling", "balanced", "blurred", "noised"), "floor": ("model_gap",),
           "real_pairs": ("cross", "diversity"), "real_nearest": ("nearest",), "held_out": ("synthetic", "round_trip"),
           "copies_control": ("copies",), "authentic_real": ("authentic",), "direct_real": ("direct",)}
_MEANINGS = {
    Family.FRECHET: "Fréchet distance of an encoder's features. 0 for equal sets; depends on n, so compare within this "
                    "table only.",
    Family.KERNEL: "Kernel distance of an encoder's features. Unbiased: values a little under 0 are valid.",
    Family.KERNEL_P: "Permutation test of the kernel distance: small where the sets differ.",
    Family.PRECISION: "Share of synthetic images among real ones. Even real images do not reach 1.",
    Family.RECALL: "Share of real images among synthetic ones.",
    Family.DENSITY: "How densely real images lie around synthetic ones; may pass 1.",
    Family.COVERAGE: "Share of real images with a synthetic one in their neighbourhood.",
    Family.TWO_SAMPLE: "How well a linear model tells the two sets apart: 0.5 not at all.",
    Family.SSIM: "Similarity of pairs. More is not better: cross should equal real pairs.",
    Family.PERCEPTUAL: "Perceptual distance of pairs. Less is not better: cross should equal real pairs.",
    Family.AUTHENTICITY: "Share of images farther from the nearest training image than that image is from its own "
                         "neighbour.",
    Family.ADJUSTED_P: "Of a direct check, adjusted for all direct checks together: under 0.05 it is no chance.",
    Family.NEAR_COPIES: "Share of images under the threshold tau of the ratio r; the control should equal its level.",
}
_OFFICIAL_MEANINGS = {
    Family.FRECHET: "Fréchet distance of Inception features. 0 for equal sets; depends on n.",
    Family.KERNEL: "Kernel distance of Inception features. Unbiased: values a little under 0 are valid.",
}
_JUDGED = "What a separately trained classifier reads from images it has not seen."
_JUDGED_CONDITION = "What a classifier that was trained on the levels of this condition reads from images it has not seen."
_RATIO = "1: as well read from synthetic images as from held-out real ones."
_SCALES = {Scale.RATIO: "as a ratio to real images", Scale.DIFFERENCE: "as a difference from real images",
           Scale.FRACTION: "as a fraction of the images"}


def list_details(report: EvaluationReport, *, internal: bool, name: Callable[[str], str]) -> Iterator[tuple[str, Markup]]:
    """Titles and bodies of the folded sections; `name` gives what an image is called on this page."""
    exhibits = report.details.shown
    yield ("Every finding behind the summary", _show_verdict(report))
    headlines = choose_headlines(report.rows)
    if headlines:
        yield ("Headline numbers and how to read them", _show_headlines(headlines))
    yield ("Provenance: what was compared, hashes and counts", _show_provenance(report.provenance))
    yield ("All numbers with reference rows and intervals", _show_metrics(report))
    if internal:
        yield ("What the VAE alone does to real images", show_round_trips(exhibits))
    flips = report.details.flips
    if internal and flips is not None:  # no test for copies was made of them, so they are not for sharing
        yield ("The same noise under every label", show_flips(flips, exhibits.class_names))
    if exhibits.ratios:
        yield ("Copies: how near synthetic and held-out images come to training images",
               show_ratios(exhibits) + show_further_pairs(exhibits, name=name, internal=internal))
    else:
        yield ("Copies", Markup("<p>Copies were not tested.</p>"))
    if exhibits.features:
        yield ("Feature space: distance against n, joint principal axes", show_features(exhibits))
        yield ("What the model misses", show_missed(exhibits, internal=internal))
    confusion = _show_confusion(report, None)
    if confusion:
        yield ("Confusion matrix of the class", confusion)
    for condition in _list_conditions(report):
        yield (f"Confusion matrix of {condition}", _show_confusion(report, condition))
    morphometry = report.details.morphometry
    if morphometry is not None:
        yield ("Morphometry: measured oocytes, real against synthetic", show_morphometry(morphometry))
    sweep = report.details.sweep
    if sweep is not None:
        yield ("Sweep: metrics against checkpoint, sampler, steps and guidance", show_sweep(sweep))


def _show_verdict(report: EvaluationReport) -> Markup:
    """Every sentence of the verdict, by aspect."""
    sentences = write_verdict(report.rows, study=report.details.study)
    lines = [line(QUESTIONS[one.aspect], cell(show_tone(one.tone)), cell(one.text)) for one in sentences]
    return table(("Question", "Found", "In words"), lines, name="every finding")


def _show_headlines(headlines: Sequence[Headline]) -> Markup:
    lines = []
    for one in headlines:
        same = [row for other in headlines if other.row.metric == one.row.metric for row in (other.row, other.beside)]
        limits = _limits([row for row in same if row is not None])
        beside = "" if one.beside is None else f"{one.beside_title} {format_value(one.beside)}"
        lines.append(line(capitalise(one.title), cell(format_value(one.row), "number"), _bar(one.row, one.beside, limits),
                          cell(beside), cell(f"{capitalise(one.reading)}.", "text")))
    return table(("Measure", "Value", "Interval", "Read beside", "How to read it"), lines, numbers=("Value",),
                 caption=Markup("Distances: <code>{}</code>. In brackets and as a line: the 95% interval. Brown tick: the "
                                "value to read it beside.").format(headlines[0].row.metric), name="headline numbers")


def _show_provenance(provenance: Mapping[str, Any]) -> Markup:
    return table(("Field", "Value"), [line(key, cell(value, "id")) for key, value in _flatten(provenance)])


def _flatten(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{above}{key}, ")
        else:
            yield f"{above}{key}".replace("_", " "), ", ".join(map(str, value)) if isinstance(value, list | tuple) else value


def _show_metrics(report: EvaluationReport) -> Markup:
    """A table for each metric, every comparison and class of it on one scale."""
    parts = []
    for key in dict.fromkeys(row.key for row in report.rows):
        if key.family is Family.CONFUSION:
            continue  # the confusion matrices show them
        rows = [row for row in report.rows if row.key == key]
        limits = _limits([row for row in rows if row.comparison not in _OFF_SCALE])
        lines = [line(row.class_name, cell(row.comparison.replace("_", " ")), cell(format_value(row), "number"),
                      _bar(row, _find_beside(report, row), limits), cell(_count(row.n_real), "number"),
                      cell(_count(row.n_synthetic), "number"), cell(row.note, "text")) for row in rows]
        badge = " Comparable with published numbers." if any(row.literature_comparable for row in rows) else ""
        parts += [heading(key.name), note(_explain(key) + badge),
                  table(("Class", "Comparison", "Value", "Interval", "n real", "n synthetic", "Note"), lines,
                        numbers=("Value", "n real", "n synthetic"))]
    used = {row.comparison for row in report.rows}
    meanings = [line(name.replace("_", " "), cell(text)) for name, text in COMPARISONS.items() if name in used]
    return join([*parts, heading("What the comparisons compare"), table(("Comparison", "Meaning"), meanings)])


def _list_conditions(report: EvaluationReport) -> list[str]:
    """The further conditions that were judged."""
    return [row.key.condition for row in report.rows
            if row.key.family is Family.ACCURACY and row.key.condition is not None and row.comparison == "held_out"]


def _explain(key: MetricKey) -> str:
    """What a metric says, in a sentence or two."""
    kind = kind_of_check(key.about) if key.family is Family.CHECK else None
    if kind is not None:
        return f"A direct check, {_SCALES[kind.scale]}. Measure: {kind.measure}."
    if key.is_ratio:
        return _RATIO
    if key.family in OF_JUDGE:
        return _JUDGED if key.condition is None else _JUDGED_CONDITION
    return (_OFFICIAL_MEANINGS if key.about == OFFICIAL else {}).get(key.family) or _MEANINGS.get(key.family, "")


def _show_confusion(report: EvaluationReport, condition: str | None) -> Markup:
    """A matrix of the class or a condition for real, restored and synthetic images; none where there are no rows."""
    parts = []
    cells = {(row.comparison, row.class_name, row.key.about): row for row in report.rows
             if row.key.family is Family.CONFUSION and row.key.condition == condition}
    for comparison in dict.fromkeys(key[0] for key in cells):
        names = list(dict.fromkeys(key[1] for key in cells if key[0] == comparison))
        lines = []
        for name in names:
            of_class = [cells[comparison, name, other] for other in names]
            count = of_class[0].n_real or of_class[0].n_synthetic
            lines.append(line(name, *(_shade(row.value) for row in of_class), cell(_count(count), "number")))
        matrix = table(("Label", *names, "n"), lines, numbers=("n",), kind="narrow")
        parts.append(Markup("<div>{}{}</div>").format(heading(capitalise(COMPARISONS[comparison])), matrix))
    about = note("Rows: the label. Columns: what the image was judged as, in shares of the row.")
    return about + box("matrices", parts) if parts else Markup()


def _shade(share: float | None) -> Markup:
    """A cell of a confusion matrix, the darker the more."""
    if share is None:
        return cell("none", "heat")
    return Markup('<td class="heat" style="--share:{0:.2f}">{0:.2f}</td>').format(share)


def _find_beside(report: EvaluationReport, row: Row) -> Row | None:
    """The real reference that a row is read beside."""
    name = next((beside for beside, readers in _BESIDE.items() if row.comparison in readers), None)
    return None if name is None else report.find(row.metric, name, row.class_name) or report.find(row.metric, name, OVERALL)


def _bar(row: Row, beside: Row | None, limits: tuple[float, float]) -> Markup:
    if row.value is None or row.comparison in _OFF_SCALE:
        return cell("")
    return cell(draw_interval(row.value, row.interval, None if beside is None else beside.value, limits))


def _limits(rows: Sequence[Row]) -> tuple[float, float]:
    """The scale that holds all values and intervals, and 0."""
    numbers = [number for row in rows if row.value is not None for number in (row.value, *(row.interval or ()))]
    return min(0.0, *numbers) if numbers else 0.0, max(0.0, *numbers) if numbers else 1.0


def _count(number: int | None) -> str:
    return "" if number is None else f"{number:,}"
