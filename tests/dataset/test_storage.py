"""Holds dataset.storage to its word: no half file under a final name, and hashes that see every byte."""

import errno
import hashlib
import os
import stat

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


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_disk_errors_name_file_bytes_and_space(tmp_path, code):
    path = tmp_path / "a.bin"
    with pytest.raises(UserError) as caught, storage.atomic_path(path) as temporary:
        temporary.write_bytes(b"12345")
        raise OSError(code, os.strerror(code))
    message = str(caught.value)
    for part in (str(path), os.strerror(code), "5 bytes were written", "bytes free"):
        assert part in message
    assert list(tmp_path.iterdir()) == []


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
