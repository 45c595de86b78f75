"""The README and docs/ explain every config key and name no command, file or page that is not there."""

import dataclasses
import re
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.schema import Config

ROOT = Path(__file__).parents[1]
PAGES = {path: path.read_text(encoding="utf-8")
         for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "models/pretrained/README.md")}
KEYS = PAGES[ROOT / "docs/config.md"]


def config_keys(cls: type = Config) -> Iterator[str]:
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from config_keys(hints[field.name])
        else:
            yield field.name


@pytest.mark.parametrize("key", sorted(set(config_keys())))
def test_every_key_is_explained(key: str) -> None:
    assert f"| `{key}` |" in KEYS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_files_and_links_exist(page: Path) -> None:
    text = PAGES[page]
    for command in set(re.findall(r"python -m tools\.(\w+)", text)):
        assert any((ROOT / "tools" / place).is_file() for place in (f"{command}.py", f"{command}/__main__.py")), command
    names = set(re.findall(r"(?:config|docs)/[\w/.]+\.(?:yaml|png|svg|md|json)", text))
    for name in names - {"config/my.yaml", "config/trial.yaml"}:
        assert (ROOT / name).is_file(), name
    for link in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert (page.parent / link).exists(), link


def test_every_page_is_linked_from_the_readme() -> None:
    linked = set(re.findall(r"\]\((docs/\w+\.md)\)", PAGES[ROOT / "README.md"]))
    assert linked == {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")}
