"""How often a test set was looked at: a ledger beside the feature cache, one entry a set of synthetic images.

A number chosen after many looks at the test set is too good; the count goes into every report. Looking at the same
images again is no new opening, so that equal runs give equal reports.
"""

from collections.abc import Sequence
from pathlib import Path

from config.schema import Config
from dataset.storage import hash_json, read_json, write_json

LEDGER_NAME = "test_openings.json"


def open_test_set(config: Config, *, real_sha256: Sequence[str], synthetic_sha256: Sequence[str]) -> int | None:
    """Enter that these images, by the hashes of their files in the order of their tables, are compared: the number of the
    opening, or None where the config's real images are not those of the test set.

    Raises:
        UserError: as `record_opening`.
    """
    if config.evaluation_params.real_split != "test":
        return None
    return record_opening(Path(config.dataset_params.directory_inception_features), test_set=hash_json(list(real_sha256)),
                          synthetic_set=hash_json(list(synthetic_sha256)))


def record_opening(folder: Path, *, test_set: str, synthetic_set: str) -> int:
    """Enter that `synthetic_set` was compared with `test_set` (hashes of their images); its number, from 1, among those
    that were.

    Raises:
        UserError: the ledger is damaged or cannot be written.
    """
    path = folder / LEDGER_NAME
    ledger = read_json(path) if path.exists() else {}
    opened = ledger.setdefault(test_set, [])
    if synthetic_set not in opened:
        opened.append(synthetic_set)
        write_json(path, ledger)
    return opened.index(synthetic_set) + 1
