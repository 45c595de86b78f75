"""Writing files so that no half file ever has a final name, locks, and naming content by its hash.

Knows no format of ours.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from config.errors import UserError

_READ_BLOCK_BYTES = 1 << 20
_DISK_ERRNOS = (
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EEXIST,
)


@contextlib.contextmanager
def disk_errors(path: Path, *, wanted_bytes: int | None = None) -> Iterator[None]:
    """Turn what the disk refuses within the block into a user's error; other errors of the system stay bugs.

    Raises:
        UserError: the disk is full, read-only or not writable, or the folder is gone, naming the path, the bytes wanted
            (where they are known) and the bytes free.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_ERRNOS:
            wanted = "" if wanted_bytes is None else f"{wanted_bytes:,} bytes were wanted"
            raise UserError(_describe_disk_error(error, Path(path), wanted)) from error
        raise


@contextlib.contextmanager
def atomic_path(path: Path, *, wanted_bytes: int | None = None) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success fsync it and rename it over `path`, otherwise remove it.

    Raises:
        UserError: the disk is full, read-only or not writable, naming the path, the bytes wanted (or written, where it
            is not known how many were wanted) and the bytes free.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _fsync_folder(path.parent)
    except OSError as error:
        if error.errno in _DISK_ERRNOS:
            written = temporary.stat().st_size if temporary is not None and temporary.exists() else 0
            amount = f"{written:,} bytes were written" if wanted_bytes is None else f"{wanted_bytes:,} bytes were wanted"
            raise UserError(_describe_disk_error(error, path, amount)) from error
        raise
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, where they are not there.

    Raises:
        UserError: it cannot be made, naming the folder and the reason.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: the folder cannot be made ({os.strerror(error.errno or 0)}); choose another, or grant "
                        "access") from error


@contextlib.contextmanager
def locked(path: Path, *, purpose: str, refusal: Callable[[str], str]) -> Iterator[None]:
    """Hold the lock file `path` for this process; the lock goes with the process, however it ends.

    The file says who holds it (`purpose`). The holder may remove the file, which gives way to a new lock.

    Raises:
        UserError: another process holds it: `refusal(holder)`; or the file cannot be written.
    """
    with contextlib.ExitStack() as stack:
        while True:
            with disk_errors(path):
                handle = path.open("a+", encoding="utf-8")
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                handle.seek(0)
                holder = handle.read().strip() or "another command"
                handle.close()
                raise UserError(refusal(holder)) from error
            if _is_same_file(path, handle.fileno()):
                break
            handle.close()  # it was removed by its last holder after it was opened here
        stack.callback(_close_quietly, handle)
        with disk_errors(path):
            handle.truncate(0)
            handle.write(f"{purpose} (process {os.getpid()})")
            handle.flush()
        try:
            yield
        finally:
            handle.truncate(0)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with atomic_path(path, wanted_bytes=len(data)) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8 to `path` atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, keys in the order given; equal values give equal bytes."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file; a missing or broken one is a UserError that names it."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: expected a JSON file, found nothing there") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}); remove it to have it made again") from error


def hash_bytes(data: bytes) -> str:
    """SHA-256 of `data` in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes in hexadecimal, read block by block."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(_READ_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def hash_json(value: Any) -> str:
    """SHA-256 of a value of plain types, independent of the order of its keys."""
    return hash_bytes(json.dumps(value, sort_keys=True, ensure_ascii=True, allow_nan=False).encode("ascii"))


def _is_same_file(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _close_quietly(handle: IO[str]) -> None:
    """Close a file whose unwritten rest does not matter, on a full disk too."""
    with contextlib.suppress(OSError):
        handle.close()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _fsync_folder(folder: Path) -> None:
    """Make a rename durable; file systems that cannot open a folder are left alone."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def _describe_disk_error(error: OSError, path: Path, amount: str) -> str:
    existing = next((folder for folder in [path.parent, *path.parent.parents] if folder.exists()), None)
    free = "unknown" if existing is None else f"{shutil.disk_usage(existing).free:,} bytes"
    reason = os.strerror(error.errno) if error.errno else str(error)
    amount = f"{amount}, " if amount else ""
    return f"{path}: could not be written ({reason}): {amount}{free} free; free space or choose another folder"
