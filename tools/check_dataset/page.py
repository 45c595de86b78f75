"""An inspection on the screen, as a workbook and as one HTML page with the images side by side.

Names come from tables and are shown as text, in the page and in the workbook. problems.py finds the problems.
"""

import base64
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from markupsafe import Markup
from openpyxl import Workbook

from config.schema import TableParams
from dataset.annotations import ImageRecord, describe_splits
from dataset.decoding import ImageError, decode_image
from dataset.storage import atomic_path, write_text
from dataset.tables import append_cells
from tools.check_dataset.inspection import Inspection
from tools.check_dataset.problems import ERROR, NOTE, SEVERITIES, Finding, count_noun

_THUMBNAIL_PX = 128
_MOST_FINDINGS, _MOST_IMAGES = 24, 8  # of a kind, and of a finding, on the page; the workbook has all
_COLUMNS = {"severity": 10, "kind": 16, "what": 44, "rows": 24, "found": 80, "next step": 60}
_NOTE = "Shows patients' images: store, share and delete it by the same rules as them."
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #1c2430; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .3rem; }
.private { background: #fff4d6; border-left: 4px solid #d99a00; padding: .6rem 1rem; }
table { border-collapse: collapse; margin: .8rem 0; } th, td { text-align: left; padding: .2rem 1.2rem .2rem 0; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; } tr { border-bottom: 1px solid #e3e7ec; }
.error { color: #b3261e; } .warning { color: #9a6200; } .note { color: #4c5a6b; }
.remedy { color: #4c5a6b; margin: 0 0 .6rem; } .finding { border-top: 1px solid #e3e7ec; padding: .5rem 0; }
.finding p { margin: 0 0 .4rem; overflow-wrap: anywhere; } .images { display: flex; flex-wrap: wrap; gap: .6rem; }
figure { margin: 0; width: 128px; } figcaption { font-size: 12px; color: #4c5a6b; overflow-wrap: anywhere; }
img, .none { width: 128px; height: 128px; object-fit: contain; background: #eef1f4; display: block; }
.none { display: grid; place-items: center; font-size: 12px; color: #4c5a6b; }
"""


def format_screen(inspection: Inspection, params: TableParams, *, limit: int = 3) -> str:
    """The splits, then a line for each kind of finding with its first examples."""
    lines = [_summary(inspection), "", *_format_table(_split_rows(inspection, params))]
    kinds = _by_kind(inspection.findings)
    if kinds:
        width = max(len(findings[0].kind) for findings in kinds) + 2
        lines += ["", f"{'':<9}{'kind':<{width}}{'count':>7}  what"]
    for findings in kinds:
        first = findings[0]
        remedies = {finding.remedy for finding in findings}
        remedy = first.remedy if len(remedies) == 1 else "check.xlsx has the next step for each"
        lines.append(f"{first.severity:<9}{first.kind:<{width}}{len(findings):>7,}  {first.title}; {remedy}")
        lines += [f"{'':<{width + 18}}{finding.text}" for finding in findings[:limit] if finding.text]
        if len(findings) > limit:
            lines.append(f"{'':<{width + 18}}and {len(findings) - limit:,} more")
    return "\n".join(lines)


def write_workbook(inspection: Inspection, params: TableParams, path: Path) -> None:
    """Write every finding, one per row, and the counts of the splits."""
    book = Workbook()
    sheet = book.active
    sheet.title = "findings"
    append_cells(sheet, tuple(_COLUMNS), bold=True)
    for findings in _by_kind(inspection.findings):
        for found in findings:
            rows = ", ".join(found.places)
            append_cells(sheet, (found.severity, found.kind, found.title, rows, found.text, found.remedy))
    for letter, width in zip("ABCDEF", _COLUMNS.values(), strict=True):
        sheet.column_dimensions[letter].width = width
    sheet.freeze_panes = "A2"
    counts = book.create_sheet("splits")
    for number, row in enumerate(_split_rows(inspection, params)):
        append_cells(counts, row, bold=number == 0)
    with atomic_path(path) as temporary:
        book.save(temporary)


def write_page(inspection: Inspection, params: TableParams, path: Path) -> None:
    """Write the findings with thumbnails of their images as one self-contained file."""
    parts = [
        Markup('<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Data set check</title>'),
        Markup(f"<style>{_STYLE}</style></head><body><h1>Data set check</h1>"),
        Markup('<p class="private">{}</p><p>{}</p>').format(_NOTE, _summary(inspection)),
        _html_table(_split_rows(inspection, params)),
        _html_overview(_by_kind(inspection.findings)),
    ]
    for findings in _by_kind(inspection.findings):
        first = findings[0]
        parts.append(Markup('<h2 id="{0}"><span class="{1}">{1}</span> {2} ({3:,})</h2><p class="remedy">{4}</p>').format(
            _anchor(first), first.severity, first.title, len(findings), first.remedy))
        parts += [_html_finding(finding, inspection.records, first.remedy) for finding in findings[:_MOST_FINDINGS]]
        if len(findings) > _MOST_FINDINGS:
            more = Markup('<p class="remedy">and {:,} more, all in the workbook</p>')
            parts.append(more.format(len(findings) - _MOST_FINDINGS))
    parts.append(Markup("</body></html>\n"))
    write_text(path, Markup("\n").join(parts))


def _summary(inspection: Inspection) -> str:
    counts = Counter(finding.severity for finding in inspection.findings)
    num_groups = len({record.group for record in inspection.records})
    groups = f"in {count_noun(num_groups, 'group')}" if inspection.has_groups else "without groups"
    text = f"{count_noun(len(inspection.records), 'image')} {groups}: {count_noun(counts[ERROR], 'error')}, "
    text += f"{count_noun(counts['warning'], 'warning')}, {count_noun(counts[NOTE], 'note')}"
    if inspection.num_unopened:
        rows = count_noun(inspection.num_unopened, "faulty row")
        text += f"; the images of {rows} were not opened: fix the table and check again"
    return text


def _split_rows(inspection: Inspection, params: TableParams) -> list[tuple[object, ...]]:
    """A head and a row for each split and class: images and, if they are known, groups."""
    counted = ("images", "groups") if inspection.has_groups else ("images",)
    rows: list[tuple[object, ...]] = [("split", "class", *counted)]
    for split, classes in describe_splits(inspection.records, params.class_names).items():
        rows += [(split, name, *(counts[what] for what in counted)) for name, counts in classes.items()]
    return rows


def _by_kind(findings: Sequence[Finding]) -> list[list[Finding]]:
    """Findings of one kind together, errors first, otherwise in the order in which they were found."""
    kinds: dict[tuple[int, str], list[Finding]] = {}
    for finding in findings:
        kinds.setdefault((SEVERITIES.index(finding.severity), finding.kind), []).append(finding)
    return [kinds[key] for key in sorted(kinds, key=lambda key: key[0])]


def _format_table(rows: Sequence[Sequence[object]]) -> list[str]:
    cells = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    numbers = [place >= 2 for place in range(len(widths))]
    return ["  ".join(cell.rjust(width) if number else cell.ljust(width)
                      for cell, width, number in zip(row, widths, numbers, strict=True)) for row in cells]


def _html_table(rows: Sequence[Sequence[object]]) -> Markup:
    lines = []
    for number, row in enumerate(rows):
        tag = "td" if number else "th"
        texts = [f"{cell:,}" if isinstance(cell, int) else cell for cell in row]
        cells = (Markup("<{0}{1}>{2}</{0}>").format(tag, " class=n" if place >= 2 else "", text)
                 for place, text in enumerate(texts))
        lines.append(Markup("<tr>{}</tr>").format(Markup().join(cells)))
    return Markup("<table>{}</table>").format(Markup().join(lines))


def _html_overview(kinds: Sequence[Sequence[Finding]]) -> Markup:
    """Every kind that was found, with its count and a link to its place."""
    lines = []
    for findings in kinds:
        first = findings[0]
        lines.append(Markup('<li><span class="{0}">{0}</span> <a href="#{1}">{2}</a> ({3:,})</li>').format(
            first.severity, _anchor(first), first.title, len(findings)))
    return Markup("<ul>{}</ul>").format(Markup().join(lines)) if lines else Markup()


def _anchor(finding: Finding) -> str:
    return f"{finding.severity}-{finding.kind}".replace(" ", "_")


def _html_finding(finding: Finding, records: Sequence[ImageRecord], usual_remedy: str) -> Markup:
    remedy = Markup(" <span class=note>{}</span>").format(finding.remedy) if finding.remedy != usual_remedy else ""
    figures = [_html_figure(records[image]) for image in finding.images[:_MOST_IMAGES]]
    images = Markup('<div class="images">{}</div>').format(Markup().join(figures)) if figures else ""
    return Markup('<div class="finding"><p>{}{}</p>{}</div>').format(finding.text, remedy, images)


def _html_figure(record: ImageRecord) -> Markup:
    try:
        data = base64.b64encode(_encode_thumbnail(decode_image(record.path))).decode("ascii")
        image = Markup('<img alt="" src="data:image/jpeg;base64,{}">').format(data)
    except ImageError:
        image = Markup('<div class="none">no image</div>')
    return Markup("<figure>{}<figcaption>{}</figcaption></figure>").format(image, record.image_id)


def _encode_thumbnail(pixels: np.ndarray) -> bytes:
    """JPEG of at most 128 px; 16-bit values are stretched to the image's own range."""
    if pixels.dtype == np.uint16:
        low, high = int(pixels.min()), int(pixels.max())
        pixels = ((pixels - low) * (255.0 / max(high - low, 1))).astype(np.uint8)
    scale = _THUMBNAIL_PX / max(pixels.shape[:2])
    size = max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale))
    pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)
    done, data = cv2.imencode(".jpg", pixels[..., ::-1] if pixels.ndim == 3 else pixels, [cv2.IMWRITE_JPEG_QUALITY, 85])
    assert done
    return data.tobytes()
