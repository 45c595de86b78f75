"""How often a test set was looked at: a ledger beside the feature cache, one entry a set of synthetic images.

A number chosen after many looks at the test set is too good; the count goes into every report. Looking at the same
images again is no new opening, so that equal runs give equal reports.
"""

from pathlib import Path

from dataset.storage import read_json, write_json

LEDGER_NAME = "test_openings.json"


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
