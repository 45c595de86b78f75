"""The error class for users' mistakes, and helpers for its messages."""

import difflib
from collections.abc import Iterable

ALIKE = 0.5  # at least this ratio of common letters: the name may be meant
SURELY_ALIKE = 0.75  # at least this ratio: it is meant, even if another section has a key of the name as written


class UserError(Exception):
    """A mistake in a config, a table, a file or the machine's set-up that the user can fix.

    The message is one line: what was expected, what was found, where, and the next step. A command prints it
    without a traceback and exits with code 2; any other exception is a bug and keeps its traceback.
    """


def nearest_name(name: str, names: Iterable[str], *, alike: float = ALIKE) -> str | None:
    """The name that was probably meant, ignoring case; None if no name is similar."""
    by_lower = {other.lower(): other for other in names}
    match = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=alike)
    return by_lower[match[0]] if match else None


def name_some(offenders: list[str], limit: int = 5) -> str:
    """Join up to `limit` offenders and say how many more there are: "a, b, c and 7 more"."""
    shown = ", ".join(offenders[:limit])
    return shown if len(offenders) <= limit else f"{shown} and {len(offenders) - limit} more"


def escape_unprintable(text: str) -> str:
    """The text with control and other unprintable characters as escapes; users' names may contain them."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
