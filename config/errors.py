"""The one error class of users' mistakes. It owns no policy: commands print it in one line and exit with 2."""


class UserError(Exception):
    """A mistake in a config, a table, a file or the machine's set-up that the user can mend.

    The message is one line: what was expected, what was found, where, and the next step. A command prints it
    without a traceback and exits with code 2; any other exception is a bug of ours and keeps its traceback.
    """


def name_some(offenders: list[str], limit: int = 5) -> str:
    """Join up to `limit` offenders and say how many more there are: "a, b, c and 7 more"."""
    shown = ", ".join(offenders[:limit])
    return shown if len(offenders) <= limit else f"{shown} and {len(offenders) - limit} more"
