"""A fetched file is whole and verified, or nothing is left and the reason is told within the limits."""

import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytorch_fid.inception
from file_server import FileServer, serve

from tools.evaluation.encoders import inception
from tools.evaluation.encoders.downloads import SOURCES, DownloadError, Limits, Source, fetch, offline_switch
from tools.evaluation.encoders.trunks import NETS

ROOT = Path(__file__).parents[3]
CONTENT = bytes(range(256)) * 12_000  # 3 MB: more than a block
LIMITS = Limits(answer_s=1.0, block_s=0.5)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serve(CONTENT) as server:
        yield server


def source(address: str, content: bytes = CONTENT) -> Source:
    return Source(address, hashlib.sha256(content).hexdigest(), 3)


def refused(source: Source, path: Path) -> DownloadError:
    """The error of a fetch that must leave the folder as it was."""
    before = sorted(path.parent.glob("*"))
    with pytest.raises(DownloadError) as caught:
        fetch(source, path, limits=LIMITS)
    assert sorted(path.parent.glob("*")) == before
    return caught.value


def test_the_sources_are_those_of_the_libraries_that_publish_or_define_them() -> None:
    assert SOURCES["inception"].address == inception.ADDRESS == pytorch_fid.inception.FID_WEIGHTS_URL
    assert inception.STATE_DICT_SHA256.startswith(SOURCES["inception"].address[-12:-4])
    for net, spec in NETS.items():
        assert SOURCES[net].address == f"https://download.pytorch.org/models/{spec.file_name}"
        assert SOURCES[net].sha256 == spec.file_prefix
    assert [SOURCES[name].megabytes for name in ("inception", "squeeze", "alex", "vgg")] == [91, 5, 233, 528]


@pytest.mark.parametrize("manner", ["whole", "redirect", "no_length"])
def test_a_whole_file_gets_its_name(server: FileServer, tmp_path: Path, manner: str) -> None:
    told: list[int] = []
    fetch(source(server.address(manner)), tmp_path / "new/weights.pth", limits=LIMITS, report=told.append)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["weights.pth"]
    assert (tmp_path / "new/weights.pth").read_bytes() == CONTENT
    assert told[-1] == len(CONTENT) and told == sorted(told)


def test_the_start_of_a_hash_is_enough_where_no_more_is_published(server: FileServer, tmp_path: Path) -> None:
    whole = source(server.address("whole"))
    fetch(replace(whole, sha256=whole.sha256[:8]), tmp_path / "weights.pth", limits=LIMITS)
    assert (tmp_path / "weights.pth").read_bytes() == CONTENT


@pytest.mark.parametrize(("manner", "message", "unreachable"), [
    ("cut", "cut off: 1,024,000 of 3,072,000 bytes came", False),
    ("slow", "less than 1 MiB in 0.5 s", True),
    ("drip", "less than 1 MiB in 0.5 s", True),
    ("silent", "no answer within 1 s", True),
    ("page", r"expected sha256 \w{8}\.\.\., found \w{8}\.\.\. in 19 bytes: another file, such as the login page", False),
    ("404", "the server answered 404", False),
    ("500", "the server answered 500", False),
])
def test_what_goes_wrong_is_told_and_leaves_nothing(
    server: FileServer, tmp_path: Path, manner: str, message: str, unreachable: bool
) -> None:
    started = time.monotonic()
    error = refused(source(server.address(manner)), tmp_path / "weights.pth")
    assert error.unreachable == unreachable
    with pytest.raises(DownloadError, match=message):
        raise error
    assert time.monotonic() - started < 3
    fetch(source(server.address("whole")), tmp_path / "weights.pth", limits=LIMITS)  # a later run does it right
    assert (tmp_path / "weights.pth").read_bytes() == CONTENT


def test_wrong_content_and_content_without_end_are_refused(server: FileServer, tmp_path: Path) -> None:
    error = refused(source(server.address("whole"), b"other"), tmp_path / "weights.pth")
    assert "expected sha256 d9298a10..., found" in str(error)  # of "other"
    error = refused(replace(source(server.address("whole")), megabytes=1), tmp_path / "weights.pth")
    assert "expected about 1 MB, found more than twice as much" in str(error)


def test_a_damaged_file_is_kept_until_a_whole_one_replaces_it(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(b"old")
    refused(source(server.address("cut")), tmp_path / "weights.pth")
    assert (tmp_path / "weights.pth").read_bytes() == b"old"


def test_nobody_listens(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    error = refused(source(f"http://127.0.0.1:{port}/weights.pth"), tmp_path / "weights.pth")
    assert error.unreachable and "Connection refused" in str(error)


def test_no_network_and_a_name_server_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    error = refused(source("http://weights.invalid/weights.pth"), tmp_path / "weights.pth")
    assert error.unreachable and str(error).startswith("no network")
    released = threading.Event()

    def late(*_: object, **__: object) -> None:
        released.wait()
        unknown()

    monkeypatch.setattr(socket, "getaddrinfo", late)
    started = time.monotonic()
    error = refused(source("http://weights.invalid/weights.pth"), tmp_path / "weights.pth")
    assert error.unreachable and "no answer within 1 s" in str(error)
    assert time.monotonic() - started < 2
    released.set()


def test_a_proxy_of_the_environment_is_used(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.address("", "").rstrip("/"))
    fetch(source("http://weights.invalid/whole/weights.pth"), tmp_path / "weights.pth", limits=LIMITS)
    assert server.asked == ["http://weights.invalid/whole/weights.pth"]


def test_a_folder_that_cannot_be_written_is_told_without_its_path_and_before_the_network_is_asked(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    error = refused(source(server.address("whole")), tmp_path / "file/weights.pth")
    assert "cannot be written" in str(error) and "set TORCH_HOME" in str(error) and str(tmp_path) not in str(error)
    assert server.asked == []

    def read_only(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("dataset.storage.os.open", read_only)
    assert "(Read-only file system)" in str(refused(source(server.address("whole")), tmp_path / "weights.pth"))
    assert server.asked == []


def test_what_a_killed_process_left_goes_and_what_another_is_writing_stays(server: FileServer, tmp_path: Path) -> None:
    old, new = tmp_path / ".weights.pth.a.tmp", tmp_path / ".weights.pth.b.tmp"
    for path in (old, new):
        path.write_bytes(b"part")
    os.utime(old, (time.time() - 7200, time.time() - 7200))
    fetch(source(server.address("whole")), tmp_path / "weights.pth", limits=LIMITS)
    assert not old.exists() and new.exists()


def test_a_signal_ends_it_at_once_and_leaves_nothing(server: FileServer, tmp_path: Path) -> None:
    address, path = server.address("slow"), str(tmp_path / "weights.pth")
    code = (f"import sys; from pathlib import Path; sys.path.insert(0, {str(ROOT)!r})\n"
            "from tools.evaluation.encoders.downloads import PATIENT, Source, fetch\n"
            "from tools.runtime.command import run_command\n"
            f"run_command(lambda: fetch(Source({address!r}, '', 3), Path({path!r}), limits=PATIENT))")
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not server.asked and time.monotonic() < deadline:
        time.sleep(0.02)
    assert server.asked and list(tmp_path.iterdir())
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=10)
    assert process.returncode == 128 + signal.SIGTERM, told
    assert "Traceback" not in told and list(tmp_path.iterdir()) == []


def test_two_at_once_leave_one_whole_file(server: FileServer, tmp_path: Path) -> None:
    threads = [threading.Thread(target=fetch, args=(source(server.address("whole")), tmp_path / "weights.pth"),
                                kwargs={"limits": LIMITS}) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.name for path in tmp_path.iterdir()] == ["weights.pth"]
    assert (tmp_path / "weights.pth").read_bytes() == CONTENT


@pytest.mark.parametrize(("value", "told"), [("1", "HF_HUB_OFFLINE=1"), ("true", "HF_HUB_OFFLINE=true"), ("0", None)])
def test_switches_of_the_environment(monkeypatch: pytest.MonkeyPatch, value: str, told: str | None) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert offline_switch() == told
