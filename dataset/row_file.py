"""Build a .npy file: reserve its space first, then let processes write their rows in any order. Also open a finished one.

Rows are written, not mapped. On a full disk a write fails with an error, where a mapped page would kill the process; and
some network file systems cannot map a file for writing.
"""

import contextlib
import errno
import math
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from dataset.storage import disk_errors, reserve_bytes, sync_file

_NO_MAPPING = (errno.ENODEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


def open_rows(path: Path) -> np.ndarray:
    """The array in a .npy file as a read-only memory map, or read whole if its file system maps no files.

    Raises:
        OSError, ValueError, EOFError: it is missing or incomplete.
    """
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        if error.errno not in _NO_MAPPING:
            raise
    array = np.load(path, allow_pickle=False)
    array.flags.writeable = False
    return array


class RowFile:
    """A float16 array of `shape` in a file. Existing rows stay, so that a killed run can resume.

    Every process writes the same header, so it does not matter which one opens the file first.

    Raises:
        UserError: the disk has no room for it or cannot be written.
    """

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        self._path = path
        with disk_errors(path, wanted_bytes=2 * math.prod(shape)), contextlib.ExitStack() as stack:
            path.touch()
            self._file = stack.enter_context(path.open("r+b"))
            np.lib.format.write_array_header_1_0(
                self._file, {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float16)), "fortran_order": False,
                             "shape": shape})
            self._file.flush()
            self._start = self._file.tell()
            reserve_bytes(path, self._start + 2 * math.prod(shape))
            stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error_type: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> None:
        with disk_errors(self._path) if error_type is None else contextlib.suppress(OSError):
            self._file.close()

    def write(self, row: int, values: np.ndarray) -> None:
        """Write float16 rows (n, ...) from position `row` on."""
        data = np.ascontiguousarray(values, dtype=np.float16).tobytes()
        with disk_errors(self._path):
            self._file.seek(self._start + row * len(data) // len(values))
            self._file.write(data)

    def flush(self) -> None:
        """Flush all rows written so far to the disk."""
        with disk_errors(self._path):
            sync_file(self._file)
