"""The few pieces of HTML that report pages are made of. Text that goes into them is escaped, `Markup` is not."""

import base64
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from string import Template

from markupsafe import Markup, escape

from tools.evaluation.aspects import Tone

_TEMPLATE = Path(__file__).with_name("report_page.html")
_SIGNS = {Tone.HOLDS: "\u2713", Tone.CAUTION: "!", Tone.FAILS: "\u2715", Tone.UNKNOWN: "?", Tone.STUDIED: "i"}


def document(title: str, *, header: Markup, sections: Mapping[str, tuple[str, Markup]], footer: str) -> str:
    """A page that needs nothing but itself, with its landmarks. `sections` are titles and bodies by the name of their
    anchor, in their order."""
    links = join(Markup('<li><a href="#{}">{}</a></li>').format(anchor, name) for anchor, (name, _) in sections.items())
    section = Markup('<section id="{0}" aria-labelledby="{0}-title"><h2 id="{0}-title">{1}</h2>\n{2}</section>')
    content = Markup('<a class="skip" href="#{}">Skip to the content</a>\n<header><h1>{}</h1>{}</header>\n'
                     '<nav aria-label="Sections of this page"><ul>{}</ul></nav>\n<main>\n{}\n</main>\n'
                     "<footer>{}</footer>").format(
        next(iter(sections)), title, header, links,
        Markup("\n").join(section.format(anchor, name, body) for anchor, (name, body) in sections.items()), footer)
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(title=escape(title), content=content)


def join(parts: Iterable[str]) -> Markup:
    """The parts one after the other."""
    return Markup().join(parts)


def box(kind: str, parts: Iterable[str]) -> Markup:
    """The parts in a box of a class of the page's style."""
    return Markup('<div class="{}">{}</div>').format(kind, join(parts))


def table(
    columns: Sequence[str], lines: Iterable[Markup], *, numbers: Collection[str] = (), caption: str = "", kind: str = "",
    name: str = "",
) -> Markup:
    """A table that scrolls in its own box on narrow screens, by keyboard too. `lines` are its rows, `numbers` the columns
    set flush right, `kind` a class of the page's style, `name` what the box is called."""
    heads = join(Markup('<th scope="col" class="{}">{}</th>').format("number" if head in numbers else "", head) if head else
                 Markup("<td></td>") for head in columns)
    above = Markup("<caption>{}</caption>").format(caption) if caption else ""
    return Markup('<div class="scroll" role="group" tabindex="0" aria-label="{}"><table class="{}">{}<thead><tr>{}</tr>'
                  "</thead><tbody>{}</tbody></table></div>").format(name or f"table of {columns[0]}", kind, above, heads,
                                                                    join(lines))


def line(head: str, *cells: Markup) -> Markup:
    """A row of a table."""
    return Markup('<tr><th scope="row">{}</th>{}</tr>').format(head, join(cells))


def cell(text: object, kind: str = "") -> Markup:
    """A cell of a table."""
    opening = f'<td class="{escape(kind)}">' if kind else "<td>"  # a page has tens of thousands: format is slow
    return Markup(f"{opening}{escape(text)}</td>")


def figure(png: bytes, alt: str, caption: str, *, title: str = "", above: str = "") -> Markup:
    """A picture inside the page that enlarges when it is selected. `title` and the caption go above it where there is a
    title; `above` belongs to the picture and enlarges with it."""
    head = Markup("<strong>{}</strong>").format(title) if title else ""
    words = Markup("<figcaption>{}</figcaption>").format(Markup(" ").join(part for part in (head, caption) if part))
    before, after = (words, "") if title else ("", words)
    return Markup('<figure>{before}<details class="zoom" name="zoom"><summary>'
                  '<span class="hint shut" aria-hidden="true"><span>{alt}</span><span>Close</span></span>{above}'
                  '<img alt="{alt}" src="data:image/png;base64,{encoded}">'
                  '<span class="hint open" aria-hidden="true">Enlarge</span></summary></details>{after}</figure>').format(
        before=before, alt=alt, above=above, encoded=base64.b64encode(png).decode("ascii"), after=after)


def listed(texts: Iterable[str]) -> Markup:
    """A list of warnings."""
    return Markup('<ul class="warnings">{}</ul>').format(join(Markup("<li>{}</li>").format(text) for text in texts))


def heading(text: str) -> Markup:
    """A third-level heading."""
    return Markup("<h3>{}</h3>").format(text)


def note(text: str) -> Markup:
    """A small paragraph."""
    return Markup('<p class="note">{}</p>').format(text)


def show_tone(tone: Tone) -> Markup:
    """How something turned out: a sign, the word and a colour, so that none of them is needed."""
    return Markup('<span class="tone tone-{}"><span aria-hidden="true">{}</span> {}</span>').format(
        tone.name.lower(), _SIGNS[tone], tone.value)


def capitalise(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]
