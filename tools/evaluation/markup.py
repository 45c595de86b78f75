"""The few pieces of HTML that report pages are made of. Owns the escaping of what goes into them."""

import base64
from collections.abc import Collection, Iterable, Sequence
from html import escape


def table(
    columns: Sequence[str], lines: Iterable[str], *, numbers: Collection[str] = (), caption: str = "", kind: str = ""
) -> str:
    """A table that scrolls on narrow screens. `lines` are finished rows, `numbers` the columns set flush right, `caption`
    finished HTML, `kind` a class of the page's style."""
    heads = "".join(f"<th scope=\"col\" class=\"{'number' if name in numbers else ''}\">{escape(name)}</th>"
                    for name in columns)
    above = f"<caption>{caption}</caption>" if caption else ""
    return (f"<div class=\"scroll\"><table class=\"{kind}\">{above}<thead><tr>{heads}</tr></thead>"
            f"<tbody>{''.join(lines)}</tbody></table></div>")


def line(head: str, *cells: str) -> str:
    """A row of a table: its head, escaped, and finished cells."""
    return f"<tr><th scope=\"row\">{escape(head)}</th>{''.join(cells)}</tr>"


def cell(text: object, kind: str = "") -> str:
    """A cell with escaped text."""
    return f"<td class=\"{kind}\">{escape(str(text))}</td>" if kind else f"<td>{escape(str(text))}</td>"


def figure(png: bytes, alt: str, caption: str) -> str:
    """A picture inside the page, with escaped texts."""
    encoded = base64.b64encode(png).decode("ascii")
    return (f"<figure><img alt=\"{escape(alt)}\" src=\"data:image/png;base64,{encoded}\">"
            f"<figcaption>{escape(caption)}</figcaption></figure>")


def heading(text: str) -> str:
    """A third-level heading."""
    return f"<h3>{escape(text)}</h3>"


def note(text: str) -> str:
    """A small paragraph."""
    return f"<p class=\"note\">{escape(text)}</p>"
