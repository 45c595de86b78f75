"""Holds dataset.storage to its word: no half file under a final name, and hashes that see every byte."""

import errno
import fcntl
import hashlib
import os
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.errors import UserError
from dataset import storage


def test_written_file_is_whole_and_alone(tmp_path):
    path = tmp_path / "new" / "deep" / "a.bin"
    storage.write_bytes(path, b"one")
    storage.write_bytes(path, b"two")
    assert path.read_bytes() == b"two"
    assert [entry.name for entry in path.parent.iterdir()] == ["a.bin"]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_failure_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "a.txt"
    storage.write_text(path, "old")
    with pytest.raises(ZeroDivisionError), storage.atomic_path(path) as temporary:
        temporary.write_text("half")
        assert temporary.parent == path.parent and path.read_text() == "old"
        raise ZeroDivisionError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_names_file_bytes_and_space(tmp_path, code):
    path = tmp_path / "a.bin"
    with pytest.raises(UserError) as caught, storage.atomic_path(path) as temporary:
        temporary.write_bytes(b"12345")
        raise OSError(code, os.strerror(code))
    message = str(caught.value)
    for part in (str(path), os.strerror(code), "5 bytes were written", "bytes free", "free space"):
        assert part in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("code", "remedy"), [
    (errno.EACCES, "you have no right to write there"), (errno.EPERM, "you have no right to write there"),
    (errno.EROFS, "mount it for writing"), (errno.ENOENT, "the folder is gone"),
    (errno.ENOTDIR, "a file is where a folder should be"), (errno.ENAMETOOLONG, "choose a shorter one"),
    (errno.EFBIG, "no file so large"), (errno.EIO, "the disk or the network failed"),
])
def test_what_is_no_matter_of_space_is_told_by_its_own_cause_and_step(tmp_path, code, remedy):
    for writing in (storage.atomic_path(tmp_path / "a.bin"), storage.disk_errors(tmp_path / "a.bin", wanted_bytes=5)):
        with pytest.raises(UserError) as caught, writing:
            raise OSError(code, os.strerror(code))
        message = str(caught.value)
        assert message.startswith(f"{tmp_path / 'a.bin'}: could not be written ({os.strerror(code)}): ")
        assert remedy in message and " free" not in message and "bytes" not in message


def refuse(monkeypatch, owner, name, code):
    def call(*_args, **_more):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(owner, name, call)


def test_a_file_system_without_modes_is_written_to(tmp_path, monkeypatch):
    for name in ("chmod", "fchmod"):
        refuse(monkeypatch, os, name, errno.EPERM)
    refuse(monkeypatch, Path, "chmod", errno.EPERM)
    storage.write_bytes(tmp_path / "a.bin", b"one")
    assert (tmp_path / "a.bin").read_bytes() == b"one"


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_that_cannot_flush_is_written_to(tmp_path, monkeypatch, code):
    refuse(monkeypatch, os, "fsync", code)
    storage.write_bytes(tmp_path / "a.bin", b"one")
    assert (tmp_path / "a.bin").read_bytes() == b"one"


def test_a_flush_that_fails_is_told(tmp_path, monkeypatch):
    refuse(monkeypatch, os, "fsync", errno.EIO)
    with pytest.raises(UserError, match="the disk or the network failed"):
        storage.write_bytes(tmp_path / "a.bin", b"one")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("refused", [[errno.EACCES] * 3, [errno.EEXIST]])
def test_a_rename_that_a_share_refuses_for_a_moment_is_tried_again(tmp_path, monkeypatch, refused):
    storage.write_bytes(tmp_path / "a.bin", b"one")
    codes, replace = list(refused), Path.replace

    def sometimes(self, target):
        if codes:
            code = codes.pop()
            raise OSError(code, os.strerror(code))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", sometimes)
    monkeypatch.setattr(storage.time, "sleep", lambda _: None)
    storage.write_bytes(tmp_path / "a.bin", b"two")
    assert (tmp_path / "a.bin").read_bytes() == b"two" and [path.name for path in tmp_path.iterdir()] == ["a.bin"]
    codes.extend([errno.EACCES] * 100)
    with pytest.raises(UserError, match="you have no right to write there"):
        storage.write_bytes(tmp_path / "a.bin", b"three")
    assert (tmp_path / "a.bin").read_bytes() == b"two"


def test_a_file_moves_to_another_file_system(tmp_path, monkeypatch):
    source, target, replace = tmp_path / "a.bin", tmp_path / "mounted/a.bin", Path.replace
    source.write_bytes(b"one")
    (tmp_path / "mounted").mkdir()

    def across(self, to):
        if self.parent != Path(to).parent:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        return replace(self, to)

    monkeypatch.setattr(Path, "replace", across)
    storage.move_file(source, target)
    assert target.read_bytes() == b"one" and not source.exists()


def test_bytes_that_were_wanted_are_said_where_they_are_known(tmp_path):
    for writing in (storage.atomic_path(tmp_path / "a.bin", wanted_bytes=12_345),
                    storage.disk_errors(tmp_path / "a.bin", wanted_bytes=12_345)):
        told = r"a\.bin: .*No space left.*: 12,345 bytes were wanted, [\d,]+ bytes free"
        with pytest.raises(UserError, match=told), writing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_lock_says_who_holds_it_and_may_be_removed_by_its_holder(tmp_path):
    path = tmp_path / ".lock"

    def lock(purpose):
        return storage.locked(path, purpose=purpose, refusal=lambda holder: f"held by {holder}")

    with lock("first"):
        with pytest.raises(UserError, match=rf"held by first \(process {os.getpid()}\)"), lock("second"):
            pass
        path.unlink()
        with lock("third"):  # another file
            assert "third" in path.read_text()
    with lock("fourth"):
        assert "fourth" in path.read_text()
    assert path.read_text() == ""


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.EIO])
def test_a_file_system_without_locks_is_said_once_and_the_work_goes_on(tmp_path, monkeypatch, capsys, code):
    monkeypatch.setattr(storage, "_told_devices", set())
    refuse(monkeypatch, fcntl, "flock", code)

    def lock(name):
        return storage.locked(tmp_path / name, purpose="a test", refusal=lambda holder: f"held by {holder}")

    with lock("a.lock"), lock("b.lock"):
        assert "a test" in (tmp_path / "a.lock").read_text()
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and f"has no locks ({os.strerror(code)})" in told and "Run only one command" in told
    (tmp_path / "a.lock").write_text("\nanother (process 7)")  # as one that was killed leaves it
    with lock("a.lock"):
        pass
    told = capsys.readouterr().err
    assert told == f"warning: {tmp_path / 'a.lock'} names another (process 7). Check that it has ended.\n"


_WITHOUT_FCNTL = """
import sys
sys.modules["fcntl"] = None  # as on Windows
from pathlib import Path
from dataset import latents, storage
with storage.locked(Path(sys.argv[1]), purpose="a test", refusal=str):
    storage.write_bytes(Path(sys.argv[1]).with_name("a.bin"), b"one")
"""


def test_no_module_needs_what_only_posix_has(tmp_path):
    done = subprocess.run([sys.executable, "-c", _WITHOUT_FCNTL, str(tmp_path / ".lock")], cwd=Path(__file__).parents[2],
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.bin").read_bytes() == b"one"
    assert "has no locks" in done.stderr  # here; filelock knows those of Windows


@pytest.mark.parametrize("code", [None, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EBADF])
def test_room_is_reserved_or_asked_for_and_what_is_there_stays(tmp_path, monkeypatch, code):
    path = tmp_path / "a.bin"
    path.write_bytes(b"one")
    if code is not None:
        refuse(monkeypatch, os, "posix_fallocate", code)
    storage.reserve_bytes(path, 100_000)
    assert path.read_bytes() == b"one" + bytes(99_997)
    if code is None:
        assert path.stat().st_blocks * 512 >= 100_000
        return
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda _: SimpleNamespace(total=10**6, free=1000))
    with pytest.raises(OSError, match="No space left"):
        storage.reserve_bytes(path, 200_000)


def test_free_space_that_is_not_told_is_unknown_and_refuses_nothing(tmp_path, monkeypatch):
    refuse(monkeypatch, os, "posix_fallocate", errno.EOPNOTSUPP)
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda _: SimpleNamespace(total=0, free=0))
    storage.reserve_bytes(tmp_path / "a.bin", 1000)
    assert (tmp_path / "a.bin").stat().st_size == 1000
    with pytest.raises(UserError, match="5 bytes were wanted, free space unknown; free space or choose another folder"), \
            storage.disk_errors(tmp_path / "a.bin", wanted_bytes=5):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(("code", "step"), [(errno.EACCES, "ask for access"), (errno.EIO, "check the disk or the network")])
def test_what_may_not_be_read_is_told_as_such(tmp_path, monkeypatch, code, step):
    (tmp_path / "a.json").write_text("{}")
    refuse(monkeypatch, Path, "open", code)
    for read in (storage.hash_file, storage.read_json):
        with pytest.raises(UserError, match=rf"a\.json: could not be opened or read \({os.strerror(code)}\): {step}"):
            read(tmp_path / "a.json")


def test_a_file_in_the_way_of_a_folder_is_an_error(tmp_path):
    (tmp_path / "a").write_text("file")
    with pytest.raises(UserError, match="Not a directory"):
        storage.write_text(tmp_path / "a" / "b" / "c.txt", "x")


def test_other_os_errors_keep_their_traceback(tmp_path):
    with pytest.raises(OSError, match="Bad file") as caught, storage.atomic_path(tmp_path / "a"):
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    assert not isinstance(caught.value, UserError)


def test_json_comes_back_with_the_same_bytes_each_time(tmp_path):
    value = {"b": [1, 2.5, None, True], "a": "\u00b5"}
    storage.write_json(tmp_path / "a.json", value)
    storage.write_json(tmp_path / "b.json", value)
    assert storage.read_json(tmp_path / "a.json") == value
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert (tmp_path / "a.json").read_text(encoding="utf-8").endswith("}\n")


def test_json_has_no_room_for_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        storage.write_json(tmp_path / "a.json", float("nan"))
    assert list(tmp_path.iterdir()) == []


def test_bad_json_is_named(tmp_path):
    with pytest.raises(UserError, match=r"gone.json: expected a JSON file, found nothing there"):
        storage.read_json(tmp_path / "gone.json")
    for data in (b'{"a": ', b"\xff\xfe"):
        (tmp_path / "a.json").write_bytes(data)
        with pytest.raises(UserError, match=r"a.json: not readable as JSON .*; remove it"):
            storage.read_json(tmp_path / "a.json")


def test_hashes_are_sha256_of_the_bytes(tmp_path):
    for data in (b"", b"abc", bytes(range(256)) * 5000):  # the last is longer than one block
        (tmp_path / "a").write_bytes(data)
        assert storage.hash_file(tmp_path / "a") == storage.hash_bytes(data) == hashlib.sha256(data).hexdigest()


@settings(deadline=None)
@given(st.dictionaries(st.text(), st.integers() | st.text() | st.none(), max_size=5))
def test_hash_of_json_ignores_the_order_of_keys_and_nothing_else(value):
    assert storage.hash_json(value) == storage.hash_json(dict(reversed(value.items())))
    assert storage.hash_json(value) != storage.hash_json({**value, "one more key": 1})
