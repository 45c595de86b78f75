"""A comparison as a page that needs nothing but itself, as rows of a CSV file and as a table for the screen."""

from collections.abc import Iterator, Sequence

from markupsafe import Markup

from dataset.tables import defuse_cell
from tools.compare.comparison import REAL, Line, SubtractedLine, SystemComparison
from tools.compare.differences import LEVEL, Difference, Outcome
from tools.compare.figure import describe_figure
from tools.evaluation.aspects import Aspect
from tools.evaluation.direct_checks import Fault
from tools.evaluation.report.markup import capitalise, cell, document, figure, join, line, listed, note, show_tone, table
from tools.evaluation.rows import OVERALL, Row

CSV_COLUMNS = ("kind", "section", "title", "metric", "comparison", "system", "value", "low", "high", "joint_low",
               "joint_high", "outcome", "n_real", "n_synthetic")
_OUTCOME_STYLES = {Outcome.BETTER: "tone tone-holds", Outcome.WORSE: "tone tone-fails"}
_LIMITS = (
    "Every number holds for these features, this number of images and this split of the patients.",
    "A model gap means nothing for images that this VAE did not decode, such as a GAN's or augmented real images.",
    "Real images reach the column of real images, not 0 or 1. Beyond it, more is no gain.",
    "A system that copies training images is near to real images in every distance. Read the lines on copies first.",
    "Not for clinical use.",
)


def render_page(comparison: SystemComparison, png: bytes) -> str:
    """The page as text; `png` is what `draw_comparison` gave."""
    sections = {
        "table": ("In one table", _show_table(comparison)),
        "figure": ("In one figure", figure(png, describe_figure(comparison), "Filled: synthetic images. Open: real images. "
                                           "Lines: the intervals of the table.")),
        "differences": (f"Differences from {comparison.against}", _show_differences(comparison)),
        **({"left-out": ("Not compared", listed(map(capitalise, comparison.left_out)))} if comparison.left_out else {}),
        "limits": ("Limits", listed(map(capitalise, _LIMITS))),
    }
    return document(f"Comparison of {len(comparison.systems)} sets of synthetic images",
                    header=Markup('<p class="lead">{}</p>').format(_describe_sets(comparison)), sections=sections,
                    footer="Made by BlastDiffusion from the evaluations whose hashes are in the JSON file beside this page. "
                           "That file holds every number shown here.")


def format_table(comparison: SystemComparison) -> str:
    """Markdown: a column a system, a line a number with its interval."""
    names = [*(system.name for system in comparison.systems), REAL]
    lines = [f"| | {' | '.join(_plain(name) for name in names)} |", "|---|" + "---|" * len(names)]
    for aspect in Aspect:
        tones = [next(one.tone.value for one in comparison.summaries[system.name] if one.aspect is aspect)
                 for system in comparison.systems]
        lines.append(f"| {aspect.value} | {' | '.join(tones)} | |")
    for section in _sections(comparison):
        lines.append(f"| **{section}** |" + " |" * len(names))
        lines += [f"| {one.title} | {' | '.join(format_cell(row) for row in (*one.cells.values(), one.real))} |"
                  for one in comparison.lines if one.section == section]
    counts = [str(len(faults)) for faults in comparison.faults.values()]
    return "\n".join([*lines, f"| faults named by direct checks | {' | '.join(counts)} | |"])


def format_cell(row: Row | None) -> str:
    """A value with its interval; nothing where there is no row."""
    if row is None:
        return ""
    if row.value is None:
        return "not computed"
    return _number(row.value) + (f" ({_number(row.interval[0])} to {_number(row.interval[1])})" if row.interval else "")


def describe_differences(comparison: SystemComparison) -> str:
    """How the differences were made and how many there are."""
    count, system = comparison.num_comparisons, comparison.against
    if not count:
        return f"No difference from {system} has an interval: no pair of numbers has one each."
    return (f"{count} differences from {system}. Each interval (95%) is made from the intervals of both numbers, taken as "
            "independent, since an evaluation holds no numbers of single images. Both sides share the held-out real images. "
            "For two systems that err in the same direction the intervals are therefore wider than necessary; for two that "
            "err in opposite directions they can be too narrow, by a factor of at most 1.41. Of "
            f"{count} such intervals, {count * (1 - LEVEL):.1f} leave out 0 by chance. So better and worse are said only "
            "where the interval that is widened for all of them (Bonferroni) leaves out 0, and unclear where only the plain "
            "one does.")


def csv_lines(comparison: SystemComparison) -> Iterator[list[str]]:
    """The values and the differences as rows of cells, the first one the names of the columns."""
    yield list(CSV_COLUMNS)
    for shown in comparison.lines:
        for name, row in (*shown.cells.items(), (REAL, shown.real)):
            if row is not None:
                low, high = row.interval or (None, None)
                yield _cells("value", shown, name, row.value, low, high, None, None, "", row.n_real, row.n_synthetic)
    for one in comparison.subtracted:
        for name, difference in one.differences.items():
            outcome = one.outcome(name)
            yield _cells("difference", one.line, name, difference.value, *difference.interval, *difference.joint_interval,
                         outcome.value if outcome else "", None, None)


def _cells(kind: str, shown: Line, name: str, *values: object) -> list[str]:
    texts = ["" if value is None else str(value) for value in values]
    return [kind, shown.section, shown.title, shown.metric.name, shown.comparison, defuse_cell(name), *texts]


# Parts of the page


def _describe_sets(comparison: SystemComparison) -> str:
    first = comparison.systems[0]
    n_real, n_synthetic = first.counts.get(OVERALL, (0, 0))
    names = ", ".join(map(str, first.provenance["class_names"]))
    return (f"{n_synthetic:,} synthetic images of each against the same {n_real:,} real images of the "
            f"{first.provenance['real_split']} split, not trained on. Classes: {names}.")


def _show_table(comparison: SystemComparison) -> Markup:
    names = [system.name for system in comparison.systems]
    lines = [_section("Summary", len(names) + 2)]
    for aspect in Aspect:
        of_aspect = [next(one for one in comparison.summaries[name] if one.aspect is aspect) for name in names]
        cells = [cell(show_tone(one.tone) + _small(one.text), "text") for one in of_aspect]
        lines.append(line(capitalise(aspect.value), *cells, cell("")))
    for section in _sections(comparison):
        lines.append(_section(section, len(names) + 2))
        lines += [line(one.title, *map(_value_cell, one.cells.values()), _value_cell(one.real))
                  for one in comparison.lines if one.section == section]
    lines.append(_section("Direct checks", len(names) + 2))
    lines.append(line("Faults named", *(_fault_cell(comparison.faults[name]) for name in names), cell("")))
    about = ("Below each number its 95% interval; that of a Fréchet distance is a range over subsamples at 0.8 n. Lower is "
             "better for distances and the two-sample AUC, higher for precision, recall and coverage.")
    return note(about) + table(("", *names, REAL), lines, kind="systems", name="table of all systems")


def _show_differences(comparison: SystemComparison) -> Markup:
    about = Markup("<p>{}</p>").format(describe_differences(comparison))
    names = [system.name for system in comparison.systems if system.name != comparison.against]
    if not comparison.subtracted:
        return about
    lines: list[Markup] = []
    for section in dict.fromkeys(one.line.section for one in comparison.subtracted):
        lines.append(_section(section, len(names) + 1))
        lines += [line(one.line.title, *(_difference_cell(one, name) for name in names))
                  for one in comparison.subtracted if one.line.section == section]
    how = note(f"Each system minus {comparison.against}, with the 95% interval for this difference alone.")
    return about + how + table(("", *names), lines, kind="systems", name=f"table of differences from {comparison.against}")


def _fault_cell(faults: Sequence[Fault]) -> Markup:
    return cell(join([str(len(faults)), *(_small(fault.text) for fault in faults)]), "text")


def _difference_cell(one: SubtractedLine, name: str) -> Markup:
    difference, outcome = one.differences.get(name), one.outcome(name)
    if difference is None or outcome is None:
        return cell("no interval")
    style, value = _OUTCOME_STYLES.get(outcome, ""), _number(difference.value, "+")
    word = Markup('<span class="{}">{}</span>').format(style, outcome.value)
    return cell(join([value, _interval(_span(difference)), word]))


def _small(text: str) -> Markup:
    return Markup('<span class="note">{}</span>').format(text)


def _interval(text: str) -> Markup:
    """An interval below its number, in one line."""
    return _small(text.replace(" ", "\N{NO-BREAK SPACE}"))


def _section(title: str, width: int) -> Markup:
    return Markup('<tr><th scope="colgroup" colspan="{}">{}</th></tr>').format(width, title)


def _sections(comparison: SystemComparison) -> list[str]:
    return list(dict.fromkeys(one.section for one in comparison.lines))


def _value_cell(row: Row | None) -> Markup:
    value, _, interval = format_cell(row).partition(" (")
    return cell(join([value, _interval(interval.removesuffix(")")) if interval else ""]))


def _number(number: float, sign: str = "") -> str:
    """Three digits, or all of them before the point."""
    return "0" if not number else f"{number:{sign}.0f}" if abs(number) >= 1000 else f"{number:{sign}#.3g}".rstrip(".")


def _span(difference: Difference) -> str:
    return f"{_number(difference.interval[0], '+')} to {_number(difference.interval[1], '+')}"


def _plain(text: str) -> str:
    """A name that breaks no Markdown table."""
    return " ".join(text.replace("|", "/").split())
