"""A comparison as a page that needs nothing but itself, as rows of a CSV file and as a table for the screen."""

import base64
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from string import Template

from dataset.tables import defuse_cell
from tools.evaluation.aspects import Aspect, Tone
from tools.evaluation.comparison import REAL, Line, SubtractedLine, SystemComparison
from tools.evaluation.comparison_figure import describe_figure
from tools.evaluation.differences import LEVEL, Difference, Outcome
from tools.evaluation.rows import OVERALL, Row

CSV_COLUMNS = ("kind", "section", "title", "metric", "comparison", "system", "value", "low", "high", "joint_low",
               "joint_high", "outcome", "n_real", "n_synthetic")
_TEMPLATE = Path(__file__).with_name("comparison_page.html")
_TONES = {Tone.HOLDS: "holds", Tone.CAUTION: "caution", Tone.FAILS: "fails", Tone.UNKNOWN: "unknown",
          Tone.STUDIED: "unknown"}
_OUTCOME_STYLES = {Outcome.BETTER: "better", Outcome.WORSE: "worse"}
_LIMITS = (
    "Every number holds for these features, this number of images and this split of the patients.",
    "A model gap means nothing for images that this VAE did not decode, such as a GAN's or augmented real images.",
    "Real images reach the column of real images, not 0 or 1. Beyond it, more is no gain.",
    "A system that copies training images is near to real images in every distance. Read the lines on copies first.",
    "Not for clinical use.",
)


def render_page(comparison: SystemComparison, figure: bytes) -> str:
    """The page as text; `figure` is the PNG that `draw_comparison` gave."""
    title = f"Comparison of {len(comparison.systems)} sets of synthetic images"
    image = base64.b64encode(figure).decode("ascii")
    alt = escape(describe_figure(comparison))
    content = [
        f"<h1>{escape(title)}</h1>", f"<p class=\"lead\">{escape(_describe_sets(comparison))}</p>",
        "<h2>In one table</h2>", _show_table(comparison),
        "<h2>In one figure</h2>",
        _scroll("figure", f"<figure><img alt=\"{alt}\" src=\"data:image/png;base64,{image}\"><figcaption>Filled: synthetic "
                "images. Open: real images. Lines: the intervals of the table.</figcaption></figure>"),
        f"<h2>Differences from {escape(comparison.against)}</h2>", *_show_differences(comparison),
        *(["<h2>Not compared</h2>", _show_list(comparison.left_out)] if comparison.left_out else []),
        "<h2>Limits</h2>", _show_list(_LIMITS),
        "<footer>Made by BlastDiffusion from the evaluations whose hashes are in the JSON file beside this page. That file "
        "holds every number shown here.</footer>",
    ]
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(title=escape(title), content="\n".join(content))


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
        lines += [f"| {line.title} | {' | '.join(format_cell(row) for row in (*line.cells.values(), line.real))} |"
                  for line in comparison.lines if line.section == section]
    return "\n".join(lines)


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
    for line in comparison.lines:
        for name, row in (*line.cells.items(), (REAL, line.real)):
            if row is not None:
                low, high = row.interval or (None, None)
                yield _cells("value", line, name, row.value, low, high, None, None, "", row.n_real, row.n_synthetic)
    for one in comparison.subtracted:
        for name, difference in one.differences.items():
            outcome = one.outcome(name)
            yield _cells("difference", one.line, name, difference.value, *difference.interval, *difference.joint_interval,
                         outcome.value if outcome else "", None, None)


def _cells(kind: str, line: Line, name: str, *values: object) -> list[str]:
    texts = ["" if value is None else str(value) for value in values]
    return [kind, line.section, line.title, line.metric, line.comparison, defuse_cell(name), *texts]


# Parts of the page


def _describe_sets(comparison: SystemComparison) -> str:
    first = comparison.systems[0]
    n_real, n_synthetic = first.counts.get(OVERALL, (0, 0))
    names = ", ".join(map(str, first.provenance["class_names"]))
    return (f"{n_synthetic:,} synthetic images of each against the same {n_real:,} real images of the "
            f"{first.provenance['real_split']} split, not trained on. Classes: {names}.")


def _show_table(comparison: SystemComparison) -> str:
    names = [system.name for system in comparison.systems]
    parts = [_section("Summary", len(names) + 2)]
    for aspect in Aspect:
        cells = []
        for name in names:
            one = next(line for line in comparison.summaries[name] if line.aspect is aspect)
            cells.append(f"<td><span class=\"tone tone-{_TONES[one.tone]}\">{escape(one.tone.value)}</span>"
                         f"<p>{escape(one.text)}</p></td>")
        parts.append(f"<tr><th scope=\"row\">{escape(aspect.value.capitalize())}</th>{''.join(cells)}"
                     "<td class=\"real\"></td></tr>")
    for section in _sections(comparison):
        parts.append(_section(section, len(names) + 2))
        for line in comparison.lines:
            if line.section == section:
                cells = [_value_cell(row) for row in line.cells.values()]
                parts.append(f"<tr><th scope=\"row\">{escape(line.title)}</th>{''.join(cells)}"
                             f"{_value_cell(line.real, kind='real')}</tr>")
    caption = ("Below each number its 95% interval; that of a Fréchet distance is a range over subsamples at 0.8 n. "
               "Lower is better for distances and the two-sample AUC, higher for precision, recall and coverage.")
    return _table("table of all systems", caption, [*names, REAL], parts)


def _show_differences(comparison: SystemComparison) -> Iterator[str]:
    yield f"<p>{escape(describe_differences(comparison))}</p>"
    names = [system.name for system in comparison.systems if system.name != comparison.against]
    if not comparison.subtracted:
        return
    parts: list[str] = []
    for section in dict.fromkeys(one.line.section for one in comparison.subtracted):
        parts.append(_section(section, len(names) + 1))
        parts += [f"<tr><th scope=\"row\">{escape(one.line.title)}</th>"
                  f"{''.join(_difference_cell(one, name) for name in names)}</tr>"
                  for one in comparison.subtracted if one.line.section == section]
    yield _table(f"differences from {comparison.against}", f"Each system minus {escape(comparison.against)}, with the "
                 "95% interval for this difference alone.", names, parts)


def _difference_cell(one: SubtractedLine, name: str) -> str:
    difference, outcome = one.differences.get(name), one.outcome(name)
    if difference is None or outcome is None:
        return "<td>no interval</td>"
    style, value = _OUTCOME_STYLES.get(outcome, ""), _number(difference.value, "+")
    return (f"<td>{escape(value)}<span class=\"interval\">{escape(_span(difference))}</span>"
            f"<span class=\"outcome {style}\">{escape(outcome.value)}</span></td>")


def _show_list(texts: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(text[:1].upper() + text[1:])}</li>' for text in texts)}</ul>"


def _table(label: str, caption: str, names: Sequence[str], parts: Sequence[str]) -> str:
    heads = "".join(f"<th scope=\"col\">{escape(name)}</th>" for name in names)
    return _scroll(label, f"<table><caption><span>{caption}</span></caption><thead><tr><td></td>{heads}</tr></thead>"
                   f"<tbody>{''.join(parts)}</tbody></table>")


def _scroll(label: str, content: str) -> str:
    """What may be wider than the screen, reachable by keyboard."""
    return f"<div class=\"scroll\" role=\"region\" tabindex=\"0\" aria-label=\"{escape(label)}\">{content}</div>"


def _section(title: str, width: int) -> str:
    return f"<tr><th scope=\"colgroup\" colspan=\"{width}\">{escape(title)}</th></tr>"


def _sections(comparison: SystemComparison) -> list[str]:
    return list(dict.fromkeys(line.section for line in comparison.lines))


def _value_cell(row: Row | None, *, kind: str = "") -> str:
    value, _, interval = format_cell(row).partition(" (")
    shown = f"<span class=\"interval\">{escape(interval.removesuffix(')'))}</span>" if interval else ""
    return f"<td class=\"{kind}\">{escape(value)}{shown}</td>" if kind else f"<td>{escape(value)}{shown}</td>"


def _number(number: float, sign: str = "") -> str:
    """Three digits, or all of them before the point."""
    return "0" if not number else f"{number:{sign}.0f}" if abs(number) >= 1000 else f"{number:{sign}#.3g}".rstrip(".")


def _span(difference: Difference) -> str:
    return f"{_number(difference.interval[0], '+')} to {_number(difference.interval[1], '+')}"


def _plain(text: str) -> str:
    """A name that breaks no Markdown table."""
    return " ".join(text.replace("|", "/").split())
