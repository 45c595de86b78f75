"""The few pieces of HTML that report pages are made of. Owns the escaping of what goes into them."""

import base64
from collections.abc import Collection, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template

from tools.evaluation.aspects import Tone

_TEMPLATE = Path(__file__).with_name("report_page.html")
_SIGNS = {Tone.HOLDS: "\u2713", Tone.CAUTION: "!", Tone.FAILS: "\u2715", Tone.UNKNOWN: "?", Tone.STUDIED: "i"}


def document(title: str, *, header: str, sections: Mapping[str, tuple[str, str]], footer: str) -> str:
    """A page that needs nothing but itself, with its landmarks. `header` and `footer` are finished HTML; `sections` are
    titles and finished HTML by the name of their anchor, in their order."""
    links = "".join(f"<li><a href=\"#{anchor}\">{escape(name)}</a></li>" for anchor, (name, _) in sections.items())
    parts = [f"<section id=\"{anchor}\" aria-labelledby=\"{anchor}-title\"><h2 id=\"{anchor}-title\">{escape(name)}</h2>\n"
             f"{body}</section>" for anchor, (name, body) in sections.items()]
    first = next(iter(sections))
    content = (f"<a class=\"skip\" href=\"#{first}\">Skip to the content</a>\n"
               f"<header><h1>{escape(title)}</h1>{header}</header>\n"
               f"<nav aria-label=\"Sections of this page\"><ul>{links}</ul></nav>\n<main>\n" + "\n".join(parts)
               + f"\n</main>\n<footer>{footer}</footer>")
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(title=escape(title), content=content)


def table(
    columns: Sequence[str], lines: Iterable[str], *, numbers: Collection[str] = (), caption: str = "", kind: str = "",
    name: str = "",
) -> str:
    """A table that scrolls in its own box on narrow screens, by keyboard too. `lines` are finished rows, `numbers` the
    columns set flush right, `caption` finished HTML, `kind` a class of the page's style, `name` what the box is called."""
    heads = "".join(f"<th scope=\"col\" class=\"{'number' if head in numbers else ''}\">{escape(head)}</th>" if head else
                    "<td></td>" for head in columns)
    above = f"<caption>{caption}</caption>" if caption else ""
    label = escape(name or f"table of {columns[0]}")
    return (f"<div class=\"scroll\" role=\"group\" tabindex=\"0\" aria-label=\"{label}\"><table class=\"{kind}\">{above}"
            f"<thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>")


def line(head: str, *cells: str) -> str:
    """A row of a table: its head, escaped, and finished cells."""
    return f"<tr><th scope=\"row\">{escape(head)}</th>{''.join(cells)}</tr>"


def cell(text: object, kind: str = "") -> str:
    """A cell with escaped text."""
    return f"<td class=\"{kind}\">{escape(str(text))}</td>" if kind else f"<td>{escape(str(text))}</td>"


def figure(png: bytes, alt: str, caption: str, *, title: str = "", above: str = "") -> str:
    """A picture inside the page that enlarges when it is selected, with escaped texts. `title` and the caption go above it
    where there is a title; `above`, finished HTML, belongs to the picture and enlarges with it."""
    encoded = base64.b64encode(png).decode("ascii")
    head = f"<strong>{escape(title)}</strong>" if title else ""
    words = f"<figcaption>{' '.join(part for part in (head, escape(caption)) if part)}</figcaption>"
    before, after = (words, "") if title else ("", words)
    return (f"<figure>{before}<details class=\"zoom\" name=\"zoom\"><summary>"
            f"<span class=\"hint shut\" aria-hidden=\"true\"><span>{escape(alt)}</span><span>Close</span></span>{above}"
            f"<img alt=\"{escape(alt)}\" src=\"data:image/png;base64,{encoded}\">"
            f"<span class=\"hint open\" aria-hidden=\"true\">Enlarge</span></summary></details>{after}</figure>")


def heading(text: str) -> str:
    """A third-level heading."""
    return f"<h3>{escape(text)}</h3>"


def note(text: str) -> str:
    """A small paragraph."""
    return f"<p class=\"note\">{escape(text)}</p>"


def show_tone(tone: Tone) -> str:
    """How something turned out: a sign, the word and a colour, so that none of them is needed."""
    return (f"<span class=\"tone tone-{tone.name.lower()}\"><span aria-hidden=\"true\">{_SIGNS[tone]}</span> "
            f"{escape(tone.value)}</span>")


def capitalise(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]
