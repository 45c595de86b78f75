"""Which images weights were trained on, by hashes of their files, so that none of them is later taken for held out.

A table that grows or another `split_seed` moves patients between the splits; weights, a VAE and a judge from before then
know images that are now held out, and every number is too good.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from config.errors import UserError
from dataset.latents import LabelledImages
from dataset.storage import hash_file, read_json, write_json

TRAINED_KEY = "trained_images"  # in checkpoints and records of training
_HEX_DIGITS = 16  # of the sha256: no two of a billion images share them but by a chance of 3%


def list_trained_images(images: LabelledImages) -> list[str]:
    """The files of a training split, sorted, by the first 16 hex digits of their sha256."""
    return shorten_hashes([hash_file(record.path) for record in images.records])


def shorten_hashes(sha256: Sequence[str]) -> list[str]:
    """The first 16 hex digits of each, sorted, none twice."""
    return sorted({digest[:_HEX_DIGITS] for digest in sha256})


def count_trained(sha256: Sequence[str], trained: Sequence[str]) -> int:
    """How many of these files are among those that `list_trained_images` listed."""
    return len(set(shorten_hashes(sha256)).intersection(trained))


def refuse_trained_images(
    held_out_sha256: Sequence[str], trained: Mapping[str, Sequence[str] | None], *, split: str
) -> None:
    """Refuse held-out images that something was trained on; `trained` lists the images of each, None where unknown.

    Raises:
        UserError: naming what was trained on how many.
    """
    for name, images in trained.items():
        known = count_trained(held_out_sha256, images or ())
        if known:
            raise UserError(
                f"{name} was trained on {known} of the {len(set(held_out_sha256))} {split} images, so every "
                "number would be too good; give the table and the split of that training (split_column, split_seed, "
                "split_fractions), or train it anew on this one; pictures that lie in two splits, named by "
                f"tools.check_dataset, take out of {split}")


def read_trained_images(record: Path) -> list[str] | None:
    """What a JSON record of a training lists; None without the file, or of a release that did not list them."""
    if not record.is_file():
        return None
    found = read_json(record)
    return found.get(TRAINED_KEY) if isinstance(found, dict) else None


def write_samples_record(path: Path, *, checkpoint_sha256: str | None, trained: Sequence[str]) -> None:
    """Beside synthetic images, what their generator was trained on."""
    write_json(path, {"checkpoint_sha256": checkpoint_sha256, TRAINED_KEY: trained})


def read_samples_record(path: Path, *, checkpoint_sha256: str | None) -> list[str] | None:
    """What `write_samples_record` wrote; None without it, or where the images are another checkpoint's by now."""
    if not path.is_file():
        return None
    found: dict[str, Any] = read_json(path)
    return found[TRAINED_KEY] if found["checkpoint_sha256"] == checkpoint_sha256 else None
