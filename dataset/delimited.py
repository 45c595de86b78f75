"""CSV and TSV: text to cells and back. It finds the encoding, the delimiter and the `sep=` line of spreadsheet programs."""

import codecs
import csv
import io
import re
from collections.abc import Collection, Iterable
from pathlib import Path

from config.errors import UserError, name_some
from dataset.grid import Grid

DELIMITERS = {".csv": (",", ";", "\t"), ".tsv": ("\t",)}
_SEP_LINE = re.compile(r'"?sep=(?P<delimiter>[^\r\n"])"?[;,\t]*(?:\r\n|\n|\r|$)', re.IGNORECASE)
_MULTIBYTE = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
_SAVE_ANEW = "save the table as 'CSV UTF-8' or as .xlsx"


def read_delimited(path: Path, data: bytes, wanted: Collection[str]) -> Grid:
    """Parse delimited text.

    The delimiter is the one that a `sep=` line names. Otherwise it is the one whose header has most `wanted` columns; ties
    go to the one with most rows as wide as the header, then to most columns. A `sep=` line is not a row.
    """
    text, notes = _decode(path, data)
    if "\0" in text:
        raise UserError(f"{path}: expected text, found zero bytes; {_SAVE_ANEW}")
    delimiters = DELIMITERS[path.suffix.lower()]
    if match := _SEP_LINE.match(text):
        delimiters, text = (match["delimiter"],), text[match.end():]
    parsed = {delimiter: _parse(text, delimiter) for delimiter in delimiters}
    best = max(parsed.values(), key=lambda lines: _rate(lines, wanted))
    if isinstance(best, csv.Error):
        raise UserError(f"{path}: not readable as delimited text ({best}); look for an unclosed quote") from best
    return Grid(best, notes=notes)


def format_csv(lines: Iterable[Iterable[object]], delimiter: str = ",") -> str:
    """Lines of cells as delimited text, quoted where needed; every line ends with a line feed."""
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, lineterminator="\n").writerows(lines)
    return text.getvalue()


def _parse(text: str, delimiter: str) -> "list[list[str]] | csv.Error":
    try:
        return list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        return error


def _rate(lines: "list[list[str]] | csv.Error", wanted: Collection[str]) -> tuple[int, float, int]:
    if isinstance(lines, csv.Error) or not lines:
        return -1, 0.0, 0
    header, *rows = lines
    rows = [row for row in rows if any(row)]
    fitting = sum(len(row) == len(header) for row in rows) / max(1, len(rows)) if len(header) > 1 else 0.0
    return len(set(wanted) & set(header)), fitting, len(header)


def _decode(path: Path, data: bytes) -> tuple[str, tuple[str, ...]]:
    """The text and a note on its encoding: UTF-8, UTF-16 with a byte-order mark, or else cp1252."""
    try:
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return data.decode("utf-16"), ()
        return data.decode("utf-8-sig"), ()
    except UnicodeDecodeError as error:
        refusal = UserError(f"{path}: expected text in UTF-8, found byte 0x{data[error.start]:02x} at position "
                            f"{error.start}; {_SAVE_ANEW}")
        if data.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or _MULTIBYTE.search(data):
            raise refusal from error  # it has a byte-order mark or is mostly UTF-8: a damaged file, or two encodings
        try:
            text = data.decode("cp1252")
        except UnicodeDecodeError:
            raise refusal from error
    examples = [repr(word) for word in dict.fromkeys(re.findall(r"[^\s,;\t\"]*[^\x00-\x7f][^\s,;\t\"]*", text))]
    return text, (f"{path}: is not in UTF-8 and was read as Windows-1252 (Western Europe): {name_some(examples, 3)}; if "
                  f"letters are wrong, {_SAVE_ANEW}",)
