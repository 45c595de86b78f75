"""Paths as people write them: `~`, `~user`, `$NAME` and `${NAME}` are expanded as in a shell."""

import os
import re
from pathlib import Path

from config.errors import UserError

_VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([^{}]*)\})")


def expand_path(text: str) -> str:
    """The path with home folders and environment variables filled in; unchanged without `~` and `$`.

    Raises:
        UserError: a variable is not set, or there is no home folder.
    """
    def fill(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name not in os.environ:
            raise UserError(f"{text}: the environment variable {name} is not set; set it, or write the full path")
        return os.environ[name]

    expanded = os.path.expanduser(_VARIABLE.sub(fill, text))  # noqa: PTH111 - Path raises RuntimeError, and drops a final /
    if expanded.split("/")[0] == "~":
        raise UserError(f"{text}: there is no home folder for ~; set HOME, or write the full path")
    return expanded


def as_path(text: str) -> Path:
    """The type of every command-line option that is a path."""
    return Path(expand_path(text))
