"""What other commands found, as parts of a report page in HTML: measured oocytes and the curves of a sweep.

Shows numbers under the names that this software gives them; names from a sweep's file are escaped.
"""

from collections.abc import Sequence

from markupsafe import Markup

from tools.evaluation.morphometry import ABSTENTIONS, LENGTHS, MEASURES
from tools.evaluation.morphometry_record import MorphometryRecord
from tools.evaluation.report.markup import box, cell, figure, heading, join, line, note, table
from tools.evaluation.report.plots import draw_interval
from tools.evaluation.rows import OVERALL, Row
from tools.evaluation.sweep_curves import CURVES, SweepRecord, SweptPoint, draw_sweep

_SETS = {"held_out": "real, held out", "synthetic": "synthetic", "train": "real, training",
         "class_flips": "same-noise flips"}
_FILE_NAMES = {"held_out": "real"}  # what not_measured calls a set where it is not the comparison's name
_DIFFERENCES = (("real_classes", "Real"), ("synthetic_classes", "Synthetic"), ("class_flips", "Same-noise flips"))

Found = dict[tuple[str, str, str], Row]


def show_morphometry(record: MorphometryRecord) -> Markup:
    """How many oocytes were measured, real against synthetic in each class, and the difference of the classes."""
    found = {(row.key.about, row.class_name, row.comparison): row for row in record.rows
             if row.value is not None}
    parts = [note("Image analysis measures an oocyte or leaves it out. Compare the shares measured first: where they "
                  "differ, the means below are of selections."), _show_shares(record, found)]
    parts.append(note("g: difference of two means in standard deviations (Hedges), with the 95% interval over patients; 0.2 "
                      "is small, 0.8 large, the brown tick is 0. Of many intervals one in twenty leaves out 0 by chance."))
    for name in record.class_names:
        parts += [heading(f"{name}: synthetic against held-out real images"), _show_class(record, found, name)]
    parts += [heading(f"{record.class_names[-1]} minus {record.class_names[0]}: do the classes differ as in real images?"),
              _show_differences(found)]
    if record.agreement:
        parts += [heading("Automatic minus by hand, on real images"), _show_agreement(record)]
    return join(parts)


def show_sweep(record: SweepRecord) -> Markup:
    """The curves, the rule and every point of a sweep; all on validation images."""
    picture = figure(draw_sweep(record), "each measure against what the sweep varied",
                     "On validation images. The square is the chosen point.")
    lines = [line(point.name, cell(f"{point.network_evaluations:g}", "number"),
                  *(cell(_three(point, name), "number") for name in CURVES),
                  cell("chosen" if point.name == record.chosen else point.refusal or "", "text"))
             for point in record.points]
    decided = f"{record.chosen} was chosen {record.describe_choice()}. " if record.decided_by else ""
    return (box("scroll broad", [picture]) + note(decided + record.rule)
            + table(("Point", "Passes", *CURVES, ""), lines, numbers=("Passes", *CURVES)))


def _show_shares(record: MorphometryRecord, found: Found) -> Markup:
    lines = []
    for comparison, title in _SETS.items():
        for name in (OVERALL, *record.class_names):
            row = found.get(("share measured", name, comparison))
            if row is not None:
                reasons = record.not_measured.get(_FILE_NAMES.get(comparison, comparison), {}) if name == OVERALL else {}
                why = "; ".join(f"{reasons[reason]}: {meaning}" for reason, meaning in ABSTENTIONS.items()
                                if reason in reasons)
                lines.append(line(title, cell(name), cell(f"{row.value:.2f}", "number"),
                                  cell(f"{row.n_real or row.n_synthetic or 0:,}", "number"), cell(why, "text")))
    return table(("Set", "Class", "Measured", "n", "Why not"), lines, numbers=("Measured", "n"))


def _show_class(record: MorphometryRecord, found: Found, name: str) -> Markup:
    effects = {measure: found.get((f"g[{measure}]", name, "total")) for measure in MEASURES}
    limits = _limits([row for row in effects.values() if row is not None])
    lines = []
    for measure, effect in effects.items():
        unit = "" if measure not in LENGTHS else ", um" if record.um_per_px else ", px"
        cells = [_mean(found, f"{measure}{unit}", name, comparison) for comparison in ("held_out", "synthetic")]
        real = found.get((f"g[{measure}]", name, "real_real"))
        counts = ("", "") if effect is None else (f"{effect.n_real or 0:,}", f"{effect.n_synthetic or 0:,}")
        lines.append(line(_title(measure) + unit, *(cell(text, "number") for text in (*cells, _effect(effect))),
                          _bar(effect, limits), *(cell(text, "number") for text in (_effect(real), *counts))))
    columns = ("Measure", "Real", "Synthetic", "g", "Interval", "g of training images", "n real", "n synthetic")
    return table(columns, lines, numbers=("Real", "Synthetic", "g", "g of training images", "n real", "n synthetic"),
                 caption="Means, standard deviations in brackets.")


def _show_differences(found: Found) -> Markup:
    shown = [(key, title) for key, title in _DIFFERENCES
             if any((f"g[{measure}]", OVERALL, key) in found for measure in MEASURES)]
    against = [(key, f"{title} - real") for key, title in shown if key != "real_classes"]
    names = {measure: [*((f"g[{measure}]", OVERALL, key) for key, _ in shown),
                       *((f"g[{measure}] minus real", OVERALL, key) for key, _ in against)] for measure in MEASURES}
    lines = [line(_title(measure), *(cell(_effect(found.get(key)), "number") for key in keys))
             for measure, keys in names.items()]
    titles = [title for _, title in (*shown, *against)]
    return table(("g of", *titles), lines, numbers=titles,
                 caption="Real: held-out and training images together. Differences to real should be near 0.")


def _show_agreement(record: MorphometryRecord) -> Markup:
    lines = []
    for measure in MEASURES:
        one = record.agreement.get(measure)
        if one is not None:
            limits = "" if one["limits"] is None else f"{one['limits'][0]:.3g} to {one['limits'][1]:.3g}"
            unit = f", {one['unit']}" if one["unit"] in ("um", "px") else ""
            lines.append(line(_title(measure) + unit, cell(one["n"], "number"), cell(f"{one['bias']:.3g}", "number"),
                              cell(limits, "number")))
    return table(("Measure", "n", "Bias", "95% limits"), lines, numbers=("n", "Bias", "95% limits"), kind="narrow")


def _mean(found: Found, measure: str, class_name: str, comparison: str) -> str:
    mean, spread = (found.get((f"{kind} {measure}", class_name, comparison)) for kind in ("mean", "deviation"))
    return "" if mean is None or spread is None else f"{mean.value:.4g} ({spread.value:.2g})"


def _effect(row: Row | None) -> str:
    if row is None or row.value is None:
        return "not computed"
    return f"{row.value:.2f}" + (f" ({row.interval[0]:.2f} to {row.interval[1]:.2f})" if row.interval else "")


def _bar(row: Row | None, limits: tuple[float, float]) -> Markup:
    if row is None or row.value is None:
        return cell("")
    return cell(draw_interval(row.value, row.interval, 0.0, limits))


def _limits(rows: Sequence[Row]) -> tuple[float, float]:
    """A scale with 0 in the middle that holds all values and intervals."""
    reach = max([abs(number) for row in rows for number in (row.value or 0.0, *(row.interval or ()))], default=1.0)
    return -reach, reach


def _title(measure: str) -> str:
    return measure.replace("_", " ")


def _three(point: SweptPoint, name: str) -> str:
    return f"{point.curves[name]:.3g}" if name in point.curves else ""
