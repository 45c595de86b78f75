"""One image of the data set as its row describes it, and problems of rows."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from config.errors import UserError, name_some

NO_LABEL = "no label"  # how listings call images that have none


@dataclass(frozen=True)
class ImageRecord:
    """One image: its name as in the table, its file, its class, its group and its split.

    The `label` of an image without one is the number of classes.

    `conditions` has the index of its level of each further condition, `covariates` the text of each covariate column,
    both in the order of the config.
    """

    image_id: str
    path: Path
    label: int
    group: str
    split: str
    conditions: tuple[int, ...] = ()
    covariates: tuple[str, ...] = ()
    place: str = field(default="", compare=False, kw_only=True)  # where the user finds its row


def name_class(label: int, class_names: Sequence[str]) -> str:
    """The name of a record's class, or that it has none."""
    return class_names[label] if label < len(class_names) else NO_LABEL


@dataclass(frozen=True)
class Problem:
    """One kind of mistake in a table: what is wrong, where, and what to do.

    `places` has the rows of each offender, as `ImageRecord.place` and messages call them.
    """

    found: str
    offenders: tuple[str, ...]
    remedy: str
    kind: str = ""
    places: tuple[tuple[str, ...], ...] = ()

    def describe(self, limit: int = 5) -> str:
        """One line with up to `limit` offenders."""
        return f"{self.found} ({len(self.offenders)}): {name_some(list(self.offenders), limit)}; {self.remedy}"


class AnnotationError(UserError):
    """Rows that cannot be used, alone or together; the message names up to five offenders of each kind.

    `problems` has them all, `records` the images of the other rows, each in its split as far as that is known.
    """

    def __init__(
        self, message: str, problems: Sequence[Problem] = (), records: Sequence[ImageRecord] = ()
    ) -> None:
        super().__init__(message)
        self.problems = tuple(problems)
        self.records = tuple(records)
