"""The main numbers of a report as plots, each with its table: the three gaps, realism and variety, the class, copies and
the direct checks. All numbers are in the details; which ones the summary goes by is verdict.py's."""

from collections.abc import Sequence

from markupsafe import Markup

from tools.evaluation.aspects import Aspect
from tools.evaluation.check_kinds import CheckKind, Scale, kind_of_check, octave_words
from tools.evaluation.direct_checks import DIRECT, DIRECT_REAL, find_faults
from tools.evaluation.encoders.feature_kinds import FeatureKind
from tools.evaluation.evidence import EncoderRows, Evidence
from tools.evaluation.metric_keys import CLASS_ACCURACY, CLASS_AUC, CLASS_BASELINE, CLASS_GAIN, Family, MetricKey
from tools.evaluation.report.line_plot import Kind, Mark, PlotLine, draw_lines
from tools.evaluation.report.markup import box, capitalise, cell, heading, join, line, listed, note, table
from tools.evaluation.rows import OVERALL, Row, format_value

_GAPS = {"total": "Total: synthetic with real", "ceiling": "VAE: its round trip with real",
         "model_gap": "Model gap: synthetic with round trip"}
_GAP_KINDS = {"total": Kind.MADE, "ceiling": Kind.RESTORED, "model_gap": Kind.MADE}
_SCORES = {Family.PRECISION: "Precision: look like a real image", Family.RECALL: "Recall: real images the model can make",
           Family.COVERAGE: "Coverage: real images with a synthetic one near",
           Family.TWO_SAMPLE: "Two-sample AUC: 0.5 not separated, 1 always"}
_SHORT_SCORES = {Family.PRECISION: "Precision", Family.RECALL: "Recall", Family.COVERAGE: "Coverage",
                 Family.TWO_SAMPLE: "Two-sample AUC"}
_KIND_ORDER = (FeatureKind.PUBLISHED, FeatureKind.UNTRAINED, FeatureKind.IN_DOMAIN)
_KIND_NOTES = {
    FeatureKind.PUBLISHED: "published network",
    FeatureKind.UNTRAINED: "seeded random weights",
    FeatureKind.IN_DOMAIN: "trained on your images; decides nothing",
}
_JUDGED = {"held_out": ("held-out real images", Kind.REAL), "round_trip": ("their VAE round trips", Kind.RESTORED),
           "synthetic": ("synthetic images", Kind.MADE)}
_LEGEND = "Dot: synthetic images. Diamond: real images with real images. Line: 95% interval."


def show_numbers(rows: Sequence[Row], *, num_classes: int) -> Markup:
    """All plots for which there are rows, each under its heading."""
    known = Evidence(rows)
    encoders = sorted(known.encoders, key=lambda one: _KIND_ORDER.index(one.kind))
    parts = [_show_gaps(known, encoders), _show_scores(known, encoders), _show_class(known, num_classes),
             _show_copies(known), _show_checks(rows)]
    return join(parts) or note("There are no numbers: no features, judge or test for copies could be used.")


def _show_gaps(known: Evidence, encoders: Sequence[EncoderRows]) -> Markup:
    if not encoders:
        return Markup()
    plots, lines = [], []
    for one in encoders:
        found = {name: known.find(one.kernel, name) for name in (*_GAPS, "real_real")}
        real = found.pop("real_real")
        shown = {name: row for name, row in found.items() if row is not None}
        reference = None if real is None else _mark(real, Kind.REAL)
        limits = _limits([*shown.values(), *([] if real is None else [real])])
        plot = draw_lines(
            [PlotLine(_GAPS[name], f"{row.value:.3g}", [_mark(row, _GAP_KINDS[name])]) for name, row in shown.items()],
            title=f"Kernel distance by {one.title}", bars=True, limits=limits, reference=reference,
            description=_describe({_GAPS[name]: row for name, row in shown.items()} | {"Real with real": real}))
        plots.append(_panel(one, plot))
        lines.append(line(one.title, *(cell("" if row is None else format_value(row), "number")
                                       for row in (*found.values(), real))))
    columns = ("Features", "Total", "VAE (ceiling)", "Model gap", "Real with real")
    return (heading("How far from real images, and which part is to blame")
            + note("Kernel distance, each by its own scale: compare bars within a plot only. The dashed line with its band "
                   "is real images with real images: a total at that line is as near as real images are. The VAE's part is "
                   "a floor for every diffusion model on that VAE. Lines: 95% intervals.")
            + box("plots", plots)
            + table(columns, lines, numbers=columns[1:], name="kernel distances by features"))


def _show_scores(known: Evidence, encoders: Sequence[EncoderRows]) -> Markup:
    plots, lines = [], []
    for one in encoders:
        found = {name: (known.find(one.score(name), "total"), known.find(one.score(name), "real_real")) for name in _SCORES}
        shown = {name: (made, real) for name, (made, real) in found.items() if made is not None}
        if not shown:
            continue
        drawn = [PlotLine(_SCORES[name], f"{made.value:.2f}", [
            _mark(made, Kind.MADE), *([] if real is None else [_mark(real, Kind.REAL)])])
            for name, (made, real) in shown.items() if made is not None]
        texts = {_SHORT_SCORES[name]: made for name, (made, _) in shown.items()}
        texts |= {f"{_SHORT_SCORES[name]} of real images": real for name, (_, real) in shown.items()}
        plots.append(_panel(one, draw_lines(drawn, title=f"Realism and variety by {one.title}", limits=(0.0, 1.0),
                                            description=_describe(texts))))
        lines.append(line(one.title, *(cell(_beside(*found[name]), "number") for name in _SCORES)))
    if not plots:
        return Markup()
    return (heading("Do they look real, and is the whole variety there?")
            + note(f"{_LEGEND} Each dot should be at its diamond; real images do not reach 1 themselves.")
            + box("plots", plots)
            + table(("Features", *_SHORT_SCORES.values()), lines, numbers=list(_SHORT_SCORES.values()),
                    caption="In brackets: real images with real images. Intervals are in the details.",
                    name="precision, recall, coverage and two-sample AUC by features"))


def _show_class(known: Evidence, num_classes: int) -> Markup:
    """What the judge reads from real, restored and synthetic images, and a plain baseline from real ones."""
    plots, lines = [], []
    for metric, title, chance in ((CLASS_AUC, "AUC", 0.5),
                                  (CLASS_ACCURACY, "Balanced accuracy", 1.0 / max(num_classes, 1))):
        found = {name: known.find(metric, name) for name in _JUDGED}
        shown = [(*_JUDGED[name], row) for name, row in found.items() if row is not None]
        baseline = known.find(CLASS_BASELINE, "held_out")
        if shown and baseline is not None and metric == CLASS_ACCURACY:
            shown.insert(1, ("a plain baseline on held-out real images", Kind.REAL, baseline))
        if not shown:
            continue
        drawn = [PlotLine(name[:1].upper() + name[1:], f"{row.value:.2f}", [_mark(row, kind)]) for name, kind, row in shown]
        plot = draw_lines(drawn, title=f"{title} of the class", limits=(0.0, 1.0), reference=Mark(chance, Kind.RESTORED),
                          description=_describe({name: row for name, _, row in shown}))
        plots.append(_captioned(title, f"dashed line: chance, {chance:.2g}", plot))
        lines += [line(title, cell(name), cell(format_value(row), "number")) for name, _, row in shown]
    if not plots:
        return Markup()
    against = known.find(CLASS_GAIN, "held_out")
    if against is not None:
        lines.append(line("Judge minus baseline", cell("held-out real images"), cell(format_value(against), "number")))
    return (heading("Do they show their class?")
            + note("What a classifier that was trained on real training images reads. Synthetic images should read as well "
                   "as held-out real ones. Where the judge reads real images badly, it says little about synthetic ones.")
            + box("plots", plots)
            + table(("Measure", "Read from", "Value"), lines, numbers=("Value",), kind="narrow",
                    name="what the judge reads"))


def _show_copies(known: Evidence) -> Markup:
    """The share of near-copies and of authentic images, each beside that of held-out real images."""
    groups = (("copies", "copies_control", "Near-copies of training images",
               "Share of images that are nearer to one training image than held-out images are. Held-out real images, the "
               "control, cannot be copies."),
              ("authentic", "authentic_real", "Authenticity",
               "Share of images farther from the nearest training image than that image is from its own neighbour. A share "
               "under that of held-out real images means copies, or a narrower choice of images."))
    plots, lines = [], []
    for of_made, of_real, title, about in groups:
        metrics = [row.key for row in known.all if row.comparison == of_made and row.class_name == OVERALL
                   and row.value is not None]
        pairs = [(_space(metric), known.find(metric, of_made), known.find(metric, of_real)) for metric in metrics]
        if not pairs:
            continue
        drawn = [PlotLine(space, f"{made.value:.3g}", [
            _mark(made, Kind.MADE), *([] if real is None else [_mark(real, Kind.REAL)])])
            for space, made, real in pairs if made is not None]
        shown = [row for _, made, real in pairs for row in (made, real) if row is not None]
        limits = (0.0, 1.0) if of_made == "authentic" else _limits(shown)
        texts = {space: made for space, made, _ in pairs}
        texts |= {f"{space}, held-out real images": real for space, _, real in pairs}
        plots.append(_captioned(title, about, draw_lines(drawn, title=title, description=_describe(texts), limits=limits)))
        lines += [line(title, cell(space), cell("" if made is None else format_value(made), "number"),
                       cell("" if real is None else format_value(real), "number")) for space, made, real in pairs]
    if not plots:
        return Markup()
    return (heading("Are they copies?")
            + note("Dot: synthetic images. Diamond: held-out real images. The dot should be no worse than the diamond.")
            + box("plots", plots)
            + table(("Test", "Compared by", "Synthetic", "Held-out real"), lines, numbers=("Synthetic", "Held-out real"),
                    kind="narrow", name="tests for copies"))


def _show_checks(rows: Sequence[Row]) -> Markup:
    """Every direct check over all classes: ratios as plots, all of them in a table; and the faults that were found."""
    found = {(row.key, row.comparison): row for row in rows
             if row.class_name == OVERALL and row.comparison in (DIRECT, DIRECT_REAL) and row.value is not None}
    kinds = [kind for key, comparison in found if comparison == DIRECT and key.family is Family.CHECK
             and (kind := kind_of_check(key.about)) is not None]
    if not kinds:
        return Markup()
    plots = []
    for aspect in Aspect:
        ratios = [kind for kind in kinds if kind.aspect is aspect and kind.scale is Scale.RATIO]
        if not ratios:
            continue
        made = {_title(kind): found[_key(kind), DIRECT] for kind in ratios}
        real = {_title(kind): found.get((_key(kind), DIRECT_REAL)) for kind in ratios}
        drawn = [PlotLine(name, f"{row.value:.2f}", [
            _mark(row, Kind.MADE), *([] if (beside := real[name]) is None else [_mark(beside, Kind.REAL)])])
            for name, row in made.items()]
        texts = made | {f"{name} of training images": row for name, row in real.items()}
        plot = draw_lines(drawn, title=f"Direct checks of {aspect.value}", description=_describe(texts), log=True,
                          limits=_ratio_limits([row for row in texts.values() if row is not None]),
                          reference=Mark(1.0, Kind.RESTORED))
        plots.append(_captioned(capitalise(aspect.value), "ratio of synthetic to real images", plot))
    lines = [line(_title(kind), cell(kind.scale.value), cell(format_value(found[_key(kind), DIRECT]), "number"),
                  cell(_text(found.get((_key(kind), DIRECT_REAL))), "number"),
                  cell(_text(found.get((MetricKey(Family.ADJUSTED_P, kind.name), DIRECT))), "number")) for kind in kinds]
    return (heading("What differs, measured directly")
            + note("Dot: synthetic over held-out real images. Dashed line: 1, no difference. Diamond: training images over "
                   "held-out ones, which tells how much real images differ. Line: 95% interval.")
            + _show_faults(rows) + box("plots", plots)
            + table(("Check", "Value is a", "Synthetic", "Training images", "Adjusted p"), lines,
                    numbers=("Synthetic", "Training images", "Adjusted p"), name="direct checks",
                    caption="Ratio: synthetic over real. Difference: synthetic minus real. Fraction: of the synthetic "
                    "images. The details have each class."))


def _show_faults(rows: Sequence[Row]) -> Markup:
    faults = find_faults(rows)
    if not faults:
        return note("No check found a fault.")
    return listed(fault.text for fault in faults)


def _title(kind: CheckKind) -> str:
    octave = octave_words(kind.name)
    return f"Power of grain of {octave}" if octave else capitalise(kind.name)


def _key(kind: CheckKind) -> MetricKey:
    return MetricKey(Family.CHECK, kind.name)


def _text(row: Row | None) -> str:
    return "" if row is None else format_value(row)


def _ratio_limits(rows: Sequence[Row]) -> tuple[float, float]:
    """A scale for logarithms with 1 in the middle; at least half to twice."""
    numbers = [number for row in rows for number in (row.value or 0.0, *(row.interval or ()))]
    reach = max([2.0, *(max(number, 1 / number) for number in numbers if number > 0)])
    return 1 / reach, reach


def _panel(one: EncoderRows, plot: Markup) -> Markup:
    """A plot of one encoder, with what its network has seen."""
    return _captioned(one.title, _KIND_NOTES[one.kind], plot)


def _captioned(title: str, about: str, plot: Markup) -> Markup:
    return Markup("<figure><figcaption><strong>{}</strong> {}</figcaption>{}</figure>").format(title, about, plot)


def _beside(made: Row | None, real: Row | None) -> str:
    """A value with that of real images in brackets."""
    if made is None or made.value is None:
        return "not computed"
    return f"{made.value:.2f}" + ("" if real is None else f" ({real.value:.2f})")


def _mark(row: Row, kind: Kind) -> Mark:
    assert row.value is not None  # Evidence finds no other
    return Mark(row.value, kind, row.interval)


def _limits(rows: Sequence[Row]) -> tuple[float, float]:
    """A scale that holds 0, all values and all intervals."""
    numbers = [number for row in rows for number in (row.value or 0.0, *(row.interval or ()))]
    low, high = min(0.0, *numbers), max(0.0, *numbers)
    return (low, high) if high > low else (0.0, 1.0)


def _describe(texts: dict[str, Row | None]) -> str:
    return "; ".join(f"{name} {format_value(row)}" for name, row in texts.items() if row is not None)


def _space(metric: MetricKey) -> str:
    """What a test compared by: pixels, or features without the hash of their weights."""
    return f"{metric.space}" if metric.encoder is None else f"{metric.encoder} features"
