"""A reader study's key and the readers' answers: read both and check that they belong together."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from config.errors import UserError, name_some
from dataset.storage import hash_file, read_json

SCHEMA = 1
REAL, SYNTHETIC, ROUND_TRIP = "real", "synthetic", "round_trip"
TASKS = ("realism", "outcome", "both")
CONFIDENCE_SCALE = (
    "certainly real", "probably real", "possibly real", "possibly synthetic", "probably synthetic", "certainly synthetic",
)
FIRST_SYNTHETIC = 4  # from this position of the scale on, counted from 1, a reader calls an image synthetic
_KEY_FIELDS = ("schema", "seed", "task", "scale", "class_names", "defects", "readers", "pack_sha256", "provenance", "items")


@dataclass(frozen=True)
class KeyItem:
    """The truth about one image of the pack; `showing` is 2 if an image is shown again."""

    item: str
    arm: str
    label: int
    group: str
    image_id: str
    showing: int


@dataclass(frozen=True)
class StudyKey:
    """The sealed key of a pack; `sha256` is the hash of its file, to which the pack was committed."""

    sha256: str
    pack_sha256: str
    task: str
    class_names: tuple[str, ...]
    defects: tuple[str, ...]
    readers: tuple[str, ...]
    items: tuple[KeyItem, ...]
    provenance: dict[str, Any]

    @property
    def asks_realism(self) -> bool:
        return self.task != "outcome"

    @property
    def asks_outcome(self) -> bool:
        return self.task != "realism"


@dataclass(frozen=True)
class Readings:
    """Answers of J readers to the N items in the key's order.

    confidence: int64 (J, N) in 1..6, or 0 if not asked; grades: int64 (J, N), class or -1 if not asked;
    defects: bool (J, N, D); seconds: float64 (J, N).
    """

    readers: tuple[str, ...]
    confidence: np.ndarray
    grades: np.ndarray
    defects: np.ndarray
    seconds: np.ndarray


def read_key(path: Path, *, commitment: str | None = None) -> StudyKey:
    """Read a sealed key; `commitment` is the sha256 that was printed when the pack was made, if available.

    Raises:
        UserError: not a key of this format, or not the one that was committed to.
    """
    value = read_json(path)
    if not isinstance(value, dict) or set(value) != set(_KEY_FIELDS) or value["schema"] != SCHEMA:
        raise UserError(f"{path}: expected the key of a reader study (format {SCHEMA}), found another file; give the "
                        "key.json that reader_study pack wrote")
    sha256 = hash_file(path)
    if commitment is not None and commitment.lower() != sha256:
        raise UserError(f"{path}: expected the key with sha256 {commitment}, found {sha256}: this is not the original key "
                        "of the pack; find that one")
    try:
        items = tuple(KeyItem(**item) for item in value["items"])
    except TypeError as error:
        raise UserError(f"{path}: an item of this key is not as pack writes it ({error}); find the original key") from error
    return StudyKey(
        sha256=sha256, pack_sha256=value["pack_sha256"], task=value["task"], class_names=tuple(value["class_names"]),
        defects=tuple(value["defects"]), readers=tuple(value["readers"]), items=items, provenance=value["provenance"],
    )


def read_answers(paths: Sequence[Path], key: StudyKey) -> Readings:
    """Read one file of answers per reader, in the order of the key's readers, and check each against the key.

    Raises:
        UserError: answers of another pack, a key that was changed after the pack was made, an unknown reader, two files
            of one reader, a missing, unknown or doubled item, or an answer outside its scale.
    """
    found: dict[str, tuple[Path, dict[str, dict[str, Any]]]] = {}
    for path in paths:
        value = read_json(path)
        _check_belonging(path, value, key)
        reader = value["reader"]
        if reader in found:
            raise UserError(f"{path}: expected one file per reader, found answers of {reader!r} in {found[reader][0]} too; "
                            "keep one of them")
        found[reader] = (path, _check_items(path, value["answers"], key))
    readers = tuple(reader for reader in key.readers if reader in found)
    rows = [[_read_answer(found[reader][0], found[reader][1][item.item], key) for item in key.items] for reader in readers]
    return Readings(
        readers=readers,
        confidence=np.array([[answer[0] for answer in row] for row in rows], dtype=np.int64),
        grades=np.array([[answer[1] for answer in row] for row in rows], dtype=np.int64),
        defects=np.array([[answer[2] for answer in row] for row in rows], dtype=bool).reshape(
            len(readers), len(key.items), len(key.defects)),
        seconds=np.array([[answer[3] for answer in row] for row in rows], dtype=np.float64),
    )


def _check_belonging(path: Path, value: Any, key: StudyKey) -> None:
    wanted = {"schema", "pack_sha256", "key_sha256", "reader", "answers"}
    if not isinstance(value, dict) or not wanted <= set(value) or value["schema"] != SCHEMA \
            or not isinstance(value["answers"], list):
        raise UserError(f"{path}: expected answers saved by the page of a reader study (format {SCHEMA}), found another "
                        "file; give the downloaded answers_*.json")
    if value["pack_sha256"] != key.pack_sha256:
        raise UserError(f"{path}: expected answers to the pack {key.pack_sha256[:16]}, found answers to the pack "
                        f"{str(value['pack_sha256'])[:16]}; score each pack with its own key")
    if value["key_sha256"] != key.sha256:
        raise UserError(f"{path}: the pack was committed to a key with sha256 {str(value['key_sha256'])[:16]}, found a key "
                        f"with {key.sha256[:16]}: the key was changed after the pack was made; use the original one")
    if value["reader"] not in key.readers:
        raise UserError(f"{path}: expected one of the readers {name_some(list(key.readers))}, found "
                        f"{value['reader']!r}; only readers named when the pack was made count")


def _check_items(path: Path, answers: list[Any], key: StudyKey) -> dict[str, dict[str, Any]]:
    """The answers by item; each item of the key must have exactly one."""
    if not all(isinstance(answer, dict) and isinstance(answer.get("item"), str) for answer in answers):
        raise UserError(f"{path}: expected an item in every answer, found one without; download the answers again")
    names = [answer["item"] for answer in answers]
    known = {item.item for item in key.items}
    doubled = sorted(name for name, count in Counter(names).items() if count > 1)
    unknown = sorted(set(names) - known)
    missing = sorted(known - set(names))
    for kind, offenders in (("twice", doubled), ("that the pack does not hold", unknown), ("missing", missing)):
        if offenders:
            raise UserError(f"{path}: expected one answer to each of {len(known)} items, found {len(offenders)} {kind}: "
                            f"{name_some(offenders)}; let the reader finish and download the answers again")
    return {answer["item"]: answer for answer in answers}


def _read_answer(path: Path, answer: dict[str, Any], key: StudyKey) -> tuple[int, int, list[bool], float]:
    """Confidence, class, ticked defects and seconds of one answer."""
    where = f"{path}: item {answer['item']}"
    confidence, grade = 0, -1
    if key.asks_realism:
        confidence = _whole_number(answer.get("confidence"), 1, len(CONFIDENCE_SCALE), f"{where}: confidence")
    if key.asks_outcome:
        grade = _whole_number(answer.get("grade"), 0, len(key.class_names) - 1, f"{where}: grade")
    ticked = answer.get("defects", [])
    if not isinstance(ticked, list):
        raise UserError(f"{where}: defects: expected a list, found {ticked!r}; download the answers again")
    places = {_whole_number(place, 0, len(key.defects) - 1, f"{where}: defects") for place in ticked}
    seconds = answer.get("seconds", 0.0)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < float("inf"):
        raise UserError(f"{where}: seconds: expected a number from 0, found {seconds!r}; download the answers again")
    return confidence, grade, [place in places for place in range(len(key.defects))], float(seconds)


def _whole_number(value: Any, low: int, high: int, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise UserError(f"{where}: expected a whole number from {low} to {high}, found {value!r}; let the reader answer it "
                        "and download the answers again")
    return value
