"""The images that weights were trained on, by hashes of their files, so that none of them later counts as held out.

A table that grows or another `split_seed` moves patients between the splits. Older weights, VAEs and judges have then seen
images that are now held out, and every number is too good.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from config.errors import UserError
from dataset.storage import read_json, write_json

TRAINED_KEY = "trained_images"  # in checkpoints and records of training
_HEX_DIGITS = 16  # of the sha256: among a billion images the chance of a collision is 3%


def shorten_hashes(sha256: Sequence[str]) -> list[str]:
    """Hashes of files as training records list them: the first 16 hex digits of each, sorted, without duplicates."""
    return sorted({digest[:_HEX_DIGITS] for digest in sha256})


def count_trained(sha256: Sequence[str], trained: Sequence[str]) -> int:
    """How many of these files are among those that `shorten_hashes` listed."""
    return len(set(shorten_hashes(sha256)).intersection(trained))


def refuse_trained_images(
    held_out_sha256: Sequence[str], trained: Mapping[str, Sequence[str] | None], *, split: str
) -> None:
    """Refuse held-out images that something was trained on; `trained` lists the images of each, None if unknown.

    Raises:
        UserError: names what was trained on how many.
    """
    for name, images in trained.items():
        known = count_trained(held_out_sha256, images or ())
        if known:
            raise UserError(
                f"{name} was trained on {known} of the {len(set(held_out_sha256))} {split} images, so every "
                "number would be too good; give the table and the split of that training (split_column, split_seed, "
                "split_fractions), or train it again on this one; if tools.check_dataset "
                f"names images that are in two splits, take them out of {split}")


def read_trained_images(record: Path) -> list[str] | None:
    """The list in a JSON record of a training; None without the file, or if an older release wrote it without one."""
    if not record.is_file():
        return None
    found = read_json(record)
    return found.get(TRAINED_KEY) if isinstance(found, dict) else None


def write_samples_record(path: Path, *, checkpoint_sha256: str | None, trained: Sequence[str]) -> None:
    """Record with synthetic images what their generator was trained on."""
    write_json(path, {"checkpoint_sha256": checkpoint_sha256, TRAINED_KEY: trained})


def read_samples_record(path: Path, *, checkpoint_sha256: str | None) -> list[str] | None:
    """What `write_samples_record` wrote; None without it, or if the images are now from another checkpoint."""
    if not path.is_file():
        return None
    found: dict[str, Any] = read_json(path)
    return found[TRAINED_KEY] if found["checkpoint_sha256"] == checkpoint_sha256 else None
