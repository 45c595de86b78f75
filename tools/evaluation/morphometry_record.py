"""A finished morphometry as its file holds it: rows, what was not measured, agreement with measurements by hand."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.errors import UserError
from dataset.storage import read_json
from tools.evaluation.rows import Row


@dataclass(frozen=True)
class MorphometryRecord:
    """What morphometry.json says.

    `images_sha256` names the sets that were measured, `not_measured` holds counts by set and reason, `agreement` by
    measure n, bias, limits and unit, empty where nothing was measured by hand.
    """

    rows: tuple[Row, ...]
    class_names: tuple[str, ...]
    um_per_px: float | None
    images_sha256: Mapping[str, str]
    not_measured: Mapping[str, Mapping[str, int]]
    agreement: Mapping[str, Mapping[str, Any]]


def read_morphometry(path: Path) -> MorphometryRecord:
    """Read a morphometry.json.

    Raises:
        UserError: no such file, or one of another kind.
    """
    stored = read_json(path)
    try:
        origin, scale = stored["provenance"], stored["provenance"]["um_per_px"]
        return MorphometryRecord(
            rows=tuple(Row.from_dict(row) for row in stored["rows"]), class_names=tuple(map(str, origin["class_names"])),
            um_per_px=None if scale is None else float(scale), images_sha256=dict(origin["images_sha256"]),
            not_measured={str(name): {str(reason): int(count) for reason, count in reasons.items()}
                          for name, reasons in stored["not_measured"].items()},
            agreement={str(measure): _read_agreement(found)
                       for measure, found in (stored["agreement_with_manual"] or {}).items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: expected the morphometry.json of python -m tools.morphometry, found another file "
                        f"({error!r}); give that file") from error


def _read_agreement(found: Mapping[str, Any]) -> dict[str, Any]:
    limits = found["limits"]
    return {"n": int(found["n"]), "bias": float(found["bias"]), "unit": str(found["unit"] or ""),
            "limits": None if limits is None else (float(limits[0]), float(limits[1]))}
