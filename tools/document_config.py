"""Write docs/config.md's tables from config/schema.py; what is written between them stays."""

import argparse
import dataclasses
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from config.schema import Config
from config.values import describe, section_by_name
from dataset.storage import write_text
from tools.runtime.command import run_command

PAGE = Path(__file__).parents[1] / "docs/config.md"


def main(argv: Sequence[str] | None = None) -> None:
    argparse.ArgumentParser(prog="python -m tools.document_config", description=__doc__).parse_args(argv)
    write_text(PAGE, document(PAGE.read_text(encoding="utf-8")))


def document(page: str) -> str:
    """The page with one heading and table a section, in the schema's order; keeps its start and the text below a table."""
    start, *blocks = re.split(r"^## ", page, flags=re.MULTILINE)
    notes = {}
    for block in blocks:
        heading, _, rest = block.partition("\n")
        _, table, note = rest.rpartition("\n|")
        notes[heading] = note.partition("\n")[2].strip() if table else ""
    parts = [start.rstrip()]
    for name, cls, doc in _list_sections(Config):
        parts += [f"## `{name}`", f"{_escape(doc[0].upper() + doc[1:])}.", "\n".join(_format_table(cls))]
        parts += filter(None, [notes.get(f"`{name}`")])
    return "\n\n".join(parts) + "\n"


def _list_sections(cls: type, prefix: str = "") -> Iterator[tuple[str, type, str]]:
    """(dotted name, dataclass, meaning) of each section below `cls`, a section before those in it."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        inner, name = section_by_name(hints[field.name]), f"{prefix}{field.name}"
        section, name = (hints[field.name], name) if inner is None else (inner, f"{name}.<column>")
        if dataclasses.is_dataclass(section):
            yield name, typing.cast(type, section), field.metadata["doc"]
            yield from _list_sections(typing.cast(type, section), f"{name}.")


def _format_table(cls: type) -> Iterator[str]:
    yield "| key | default | value | meaning |"
    yield "|---|---|---|---|"
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if not dataclasses.is_dataclass(hints[field.name]):
            value = describe(hints[field.name], field.metadata).replace(" | ", ", ")
            value = value.replace("text", "a path") if field.metadata["is_path"] else value
            yield f"| `{field.name}` | {_format_default(field)} | {value} | {_escape(field.metadata['doc'])} |"


def _format_default(field: "dataclasses.Field[Any]") -> str:
    if field.default_factory is not dataclasses.MISSING:
        return f"`{_as_yaml(field.default_factory())}`"
    return "required" if field.default is dataclasses.MISSING else f"`{_as_yaml(field.default)}`"


def _as_yaml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_as_yaml, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name}: {_as_yaml(item)}' for name, item in value.items())}}}"
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)


def _escape(text: str) -> str:
    """Text for a cell of a table: no tag, no border."""
    return re.sub(r"([<|])", r"\\\1", text)


if __name__ == "__main__":
    run_command(main, on_device=False)
