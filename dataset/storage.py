"""Writing files so that no half file ever has a final name, locks, and naming content by its hash.

If a file system lacks locks, modes, fsync or preallocation, the user gets a note at most.
"""

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from filelock import lock_descriptor

from config.errors import UserError

_READ_BLOCK_BYTES = 1 << 20
# Errors that a user can fix, each with its meaning and the next step. Other system errors stay bugs.
_REMEDIES = {
    errno.ENOSPC: "free space or choose another folder",
    errno.EDQUOT: "your quota is used up; free space, ask for more, or choose another folder",
    errno.EROFS: "nothing can be written there; choose another folder, or mount it for writing",
    errno.EACCES: "you have no right to write there; ask for it, or choose another folder",
    errno.EPERM: "you have no right to write there; ask for it, or choose another folder",
    errno.ENOENT: "the folder is gone; restore it, or choose another",
    errno.ENOTDIR: "a file is where a folder should be; remove it, or choose another folder",
    errno.EEXIST: "something else has this name; remove it, or choose another folder",
    errno.EISDIR: "a folder has this name; remove it, or choose another name",
    errno.ENAMETOOLONG: "the name is too long for this file system; choose a shorter one",
    errno.EFBIG: "this file system takes no file so large (FAT: 4 GiB); choose another folder",
    errno.EIO: "the disk or the network failed; check it, then run the same command again",
    errno.ESTALE: "the network folder has changed on its server; mount it again, then run the same command again",
}
_ABOUT_SPACE = (errno.ENOSPC, errno.EDQUOT)
UNREADABLE = (errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.ENAMETOOLONG)  # for the user to fix, never a bug
# Errors that mean the file system lacks a call. EBADF: glibc emulates posix_fallocate by reading and writing, which
# fails on a file opened for appending.
_UNSUPPORTED = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.EBADF)
_LOCKED_BYTE = b"\n"  # Windows locks the first byte of the file; nobody else can read it
_told_devices: set[int] = set()  # file systems without locks that the user was warned about
_RENAME_PAUSES_S = (0.05, 0.1, 0.2, 0.4, 0.8)


@contextlib.contextmanager
def disk_errors(path: Path, *, wanted_bytes: int | None = None) -> Iterator[None]:
    """Turn disk errors within the block into a UserError; other system errors stay bugs.

    Raises:
        UserError: the disk is full, read-only or not writable, or the folder is gone. It names the path, the cause and the
            next step; if space is the cause, also the bytes wanted (if known) and the bytes free.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _REMEDIES:
            wanted = "" if wanted_bytes is None else f"{wanted_bytes:,} bytes were wanted"
            raise UserError(describe_disk_error(error, Path(path), amount=wanted)) from error
        raise


@contextlib.contextmanager
def atomic_path(path: Path, *, wanted_bytes: int | None = None) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success fsync it and rename it over `path`, otherwise remove it.

    Raises:
        UserError: the disk is full, read-only or not writable. It names the path, the cause and the next step; if space
            is the cause, also the bytes wanted (or written, if the number wanted is unknown) and the bytes free.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        name = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"
        # The umask and the folder set its mode: file systems without modes refuse a chmod.
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666))
        temporary = name
        yield temporary
        with temporary.open("r+b") as file:
            sync_file(file)
        _rename(temporary, path)
        _fsync_folder(path.parent)
    except OSError as error:
        if error.errno in _REMEDIES:
            written = temporary.stat().st_size if temporary is not None and temporary.exists() else 0
            amount = f"{written:,} bytes were written" if wanted_bytes is None else f"{wanted_bytes:,} bytes were wanted"
            raise UserError(describe_disk_error(error, path, amount=amount)) from error
        raise
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def sync_file(file: IO[Any]) -> None:
    """Flush a file to the disk, if its file system can."""
    file.flush()
    try:
        os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise


def reserve_bytes(path: Path, size: int) -> None:
    """Make a file `size` bytes long and reserve the space, so that a full disk is found before the work.

    Existing bytes stay, so that several processes may do this at once. If the file system cannot reserve space (NFSv3, 9p),
    its free space is checked.

    Raises:
        OSError: the disk is full (ENOSPC).
    """
    with path.open("ab") as file:  # so that glibc writes nothing itself, which could overwrite another process's data
        file.truncate(size)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
                return
        except OSError as error:
            if error.errno not in (*_UNSUPPORTED, errno.EPERM):
                raise
        taken, free = getattr(os.fstat(file.fileno()), "st_blocks", 0) * 512, free_bytes(path)
        if free is not None and free < size - taken:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def free_bytes(path: Path) -> int | None:
    """Bytes free on the file system of a path; None if unknown (some network folders report a size of 0)."""
    try:
        usage = shutil.disk_usage(path)
    except OSError:
        return None
    return usage.free if usage.total else None


def move_file(source: Path, target: Path) -> None:
    """Rename a file over `target`; if that is on another file system, copy it, then remove `source`."""
    try:
        _rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with atomic_path(target, wanted_bytes=source.stat().st_size) as temporary:
            shutil.copyfile(source, temporary)
        source.unlink()


def make_folder(folder: Path) -> None:
    """Make a folder and its parents if they are missing.

    Raises:
        UserError: it cannot be made; names the folder, the cause and the next step.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "choose another folder")
        raise UserError(f"{folder}: the folder cannot be made ({os.strerror(error.errno or 0)}): {remedy}") from error


@contextlib.contextmanager
def locked(path: Path, *, purpose: str, refusal: Callable[[str], str]) -> Iterator[None]:
    """Hold the lock file `path` for this process; the lock ends with the process, however that ends.

    The file says who holds it (`purpose`). The holder may remove the file, which allows a new lock. On a file system
    without locks the user is warned and the block runs without one: a plain file instead of a lock would stay behind
    after a command is killed.

    Raises:
        UserError: another process holds it: `refusal(holder)`; or the file cannot be written.
    """
    with contextlib.ExitStack() as stack:
        while True:
            with disk_errors(path):
                handle = path.open("a+b")
            stack.callback(_close_quietly, handle)
            try:
                is_free = lock_descriptor(handle.fileno(), blocking=False)
            except OSError as error:
                _say_that_there_are_no_locks(path, handle, error)
                break
            if not is_free:
                raise UserError(refusal(_read_holder(handle) or "another command"))
            if _is_same_file(path, handle.fileno()):
                break
            handle.close()  # its last holder removed it after it was opened here
        with disk_errors(path):
            handle.truncate(0)
            handle.write(_LOCKED_BYTE + f"{purpose} (process {os.getpid()})".encode())
            handle.flush()
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
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
    except OSError as error:
        raise UserError(describe_read_error(error, Path(path))) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}); remove it, and it will be made again") from error


def hash_bytes(data: bytes) -> str:
    """SHA-256 of `data` in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes in hexadecimal, read block by block.

    Raises:
        UserError: it cannot be read; a missing file is an OSError.
    """
    digest = hashlib.sha256()
    try:
        with Path(path).open("rb") as file:
            while block := file.read(_READ_BLOCK_BYTES):
                digest.update(block)
    except OSError as error:
        if error.errno in UNREADABLE:
            raise UserError(describe_read_error(error, Path(path))) from error
        raise
    return digest.hexdigest()


def hash_json(value: Any) -> str:
    """SHA-256 of a value of plain types, independent of the order of its keys."""
    return hash_bytes(json.dumps(value, sort_keys=True, ensure_ascii=True, allow_nan=False).encode("ascii"))


def _is_same_file(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _read_holder(handle: IO[bytes]) -> str:
    """The holder that the lock file names; empty if it names none or cannot be read."""
    try:
        handle.seek(len(_LOCKED_BYTE))
        return handle.read().decode("utf-8", "replace").strip()
    except OSError:
        return ""


def _say_that_there_are_no_locks(path: Path, handle: IO[bytes], error: OSError) -> None:
    """Warn once per file system, and once more for a folder whose lock file names a holder."""
    device, holder = os.fstat(handle.fileno()).st_dev, _read_holder(handle)
    if device not in _told_devices:
        _told_devices.add(device)
        print(f"warning: {path.parent}: its file system has no locks ({error.strerror}), so nothing stops a second command "
              "from writing there. Run only one command at a time in each folder.", file=sys.stderr)
    if holder:
        print(f"warning: {path} names {holder}. Check that it has ended.", file=sys.stderr)


def _close_quietly(handle: IO[bytes]) -> None:
    """Close a file even on a full disk; unwritten data may be lost."""
    with contextlib.suppress(OSError):
        handle.close()


def _rename(source: Path, target: Path) -> None:
    """Rename over `target`; Windows and its shares refuse while it is being read, and some replace no file at all."""
    for pause in _RENAME_PAUSES_S:
        try:
            source.replace(target)
            return
        except FileExistsError:
            target.unlink()
        except PermissionError as error:
            if error.errno != errno.EACCES:
                raise
            time.sleep(pause)
    source.replace(target)


def _fsync_folder(folder: Path) -> None:
    """Make a rename durable; skipped on file systems that cannot open or flush a folder."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def describe_disk_error(error: OSError, path: Path, *, amount: str = "") -> str:
    """What failed, why, and the next step; the free space only if space is the cause."""
    remedy = _REMEDIES.get(error.errno or 0, "choose another folder")
    if error.errno in _ABOUT_SPACE:
        free = next((free for folder in path.parents if (free := free_bytes(folder)) is not None), None)
        said = "free space unknown" if free is None else f"{free:,} bytes free"
        remedy = f"{f'{amount}, ' if amount else ''}{said}; {remedy}"
    return f"{path}: could not be written ({os.strerror(error.errno or 0)}): {remedy}"


def describe_read_error(error: OSError, path: Path) -> str:
    """A message that a path cannot be read, with the next step."""
    step = "ask for access to it, or give another path" if error.errno in (errno.EACCES, errno.EPERM) else \
        "check the disk or the network, or give another path"
    return f"{path}: could not be opened or read ({os.strerror(error.errno or 0)}): {step}"
