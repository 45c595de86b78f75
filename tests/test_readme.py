"""The README names every config key and no command that is not there."""

import dataclasses
import re
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.schema import Config

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def config_keys(cls: type = Config) -> Iterator[str]:
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from config_keys(hints[field.name])
        else:
            yield field.name


@pytest.mark.parametrize("key", sorted(set(config_keys())))
def test_the_readme_explains_every_key(key: str) -> None:
    assert f"| `{key}` |" in README


def test_the_readme_names_only_commands_that_exist() -> None:
    commands = set(re.findall(r"python -m tools\.(\w+)", README))
    assert commands
    for command in commands:
        assert (ROOT / "tools" / f"{command}.py").is_file(), command


def test_the_readme_names_only_files_that_exist() -> None:
    for name in set(re.findall(r"(?:config|docs)/[\w/.]+\.(?:yaml|png|svg)", README)) - {"config/my.yaml"}:
        assert (ROOT / name).is_file(), name
