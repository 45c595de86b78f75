"""Published weights: their addresses, where torch caches them, and how one file is fetched.

A fetched file is checked by its SHA-256 before it gets its final name, so that nothing half or wrong is ever found there.
"""

import hashlib
import http.client
import os
import queue
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision.models as tv

from config.errors import UserError
from config.schema import INCEPTION_FILE
from dataset.storage import atomic_path

_BLOCK_BYTES = 1 << 20
_LONG_ABANDONED_S = 3600.0  # a temporary file that nobody has written to for so long is of a process that was killed
_OFFLINE_SWITCHES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_TRUE_WORDS = ("1", "true", "yes", "on")  # as huggingface_hub reads them


@dataclass(frozen=True)
class Source:
    """A published file; `sha256` is its whole hash in hexadecimal, or the start that its publisher writes into its name."""

    address: str
    sha256: str
    megabytes: int

    @property
    def file_name(self) -> str:
        return self.address.rsplit("/", 1)[-1]

    @property
    def cached(self) -> Path:
        """Where torch's hub cache keeps the file, whether it is there or not."""
        return Path(torch.hub.get_dir()) / "checkpoints" / self.file_name


def _of_torchvision(weights: Any) -> Source:
    """torchvision writes the first eight digits of the hash before the suffix of the name."""
    return Source(weights.url, weights.url.rsplit("-", 1)[-1].removesuffix(".pth"), round(weights.meta["_file_size"]))


SOURCES: Mapping[str, Source] = {
    "inception": Source(f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{INCEPTION_FILE}",
                        "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2", 91),
    "squeeze": _of_torchvision(tv.SqueezeNet1_1_Weights.IMAGENET1K_V1),
    "alex": _of_torchvision(tv.AlexNet_Weights.IMAGENET1K_V1),
    "vgg": _of_torchvision(tv.VGG16_Weights.IMAGENET1K_V1),
}


@dataclass(frozen=True)
class Limits:
    """Seconds to wait for the answer of a server (name, connection and redirects together), and for each MiB after it."""

    answer_s: float
    block_s: float


PROMPT = Limits(answer_s=5.0, block_s=10.0)
PATIENT = Limits(answer_s=60.0, block_s=60.0)


class MissingWeights(UserError):
    """Published weights that are not here: `source` is their name in SOURCES, `path` the place that the user gave."""

    def __init__(self, message: str, *, source: str, path: Path | None = None) -> None:
        super().__init__(message)
        self.source = source
        self.path = path


class DownloadError(UserError):
    """Why a file was not fetched; after an `unreachable` one the next address is not worth trying."""

    def __init__(self, message: str, *, unreachable: bool = False) -> None:
        super().__init__(message)
        self.unreachable = unreachable


def offline_switch() -> str | None:
    """The variable of the environment that says not to use the network, as "HF_HUB_OFFLINE=1"."""
    return next((f"{name}={os.environ[name]}" for name in _OFFLINE_SWITCHES
                 if os.environ.get(name, "").lower() in _TRUE_WORDS), None)


def fetch(
    source: Source, path: Path, *, limits: Limits, report: Callable[[int], None] = lambda _: None
) -> None:
    """Fetch the file to `path`, atomically, verified; `report` is told how many bytes have come.

    The proxies that the environment names are used.

    Raises:
        DownloadError: no file was fetched, and none is left at `path` or beside it.
    """
    _remove_abandoned(path)
    try:
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            _receive(source, file.write, limits=limits, report=report)
    except DownloadError:
        raise
    except (UserError, OSError) as error:
        raise DownloadError(f"the folder for it cannot be written ({_root_cause(error)}); set TORCH_HOME to one that can"
                            ) from error


def _receive(
    source: Source, write: Callable[[bytes], object], *, limits: Limits, report: Callable[[int], None]
) -> None:
    """Pass on the file's bytes block by block and check length and hash.

    A thread of its own reads them: no limit of a socket bounds the look-up of a name, or bytes that come one by one.
    """
    items: queue.SimpleQueue[Any] = queue.SimpleQueue()
    stopped = threading.Event()
    threading.Thread(target=_read_blocks, args=(source.address, items, stopped, limits), daemon=True).start()
    digest, received = hashlib.sha256(), 0
    try:
        length = _next(items, limits.answer_s, f"no answer within {limits.answer_s:g} s")
        while block := _next(items, limits.block_s, f"stalled: {received:,} bytes came, and then less than 1 MiB in "
                                                    f"{limits.block_s:g} s"):
            write(block)
            digest.update(block)
            received += len(block)
            report(received)
            if received > 2e6 * source.megabytes:
                raise DownloadError(f"expected about {source.megabytes} MB, found more than twice as much")
    finally:
        stopped.set()
    if length is not None and received != length:
        raise DownloadError(f"cut off: {received:,} of {length:,} bytes came")
    if not digest.hexdigest().startswith(source.sha256):
        raise DownloadError(f"expected sha256 {source.sha256[:8]}..., found {digest.hexdigest()[:8]}... in {received:,} "
                            "bytes: another file, such as the login page of a network")


def _read_blocks(address: str, items: queue.SimpleQueue, stopped: threading.Event, limits: Limits) -> None:
    """Put the length (or None), the blocks and an empty block into the queue, or the exception that ended it."""
    try:
        request = urllib.request.Request(address, headers={"User-Agent": "BlastDiffusion"})
        opener = urllib.request.build_opener()  # urlopen's would keep the proxies of its first call
        with opener.open(request, timeout=limits.block_s) as response:
            length = response.headers.get("Content-Length")
            items.put(int(length) if length is not None and length.isdigit() else None)
            while not stopped.is_set():
                block = response.read(_BLOCK_BYTES)
                items.put(block)
                if not block:
                    return
    except Exception as error:  # told by the one who waits
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        items.put(error)


def _next(items: queue.SimpleQueue, seconds: float, complaint: str) -> Any:
    try:
        item = items.get(timeout=seconds)
    except queue.Empty as error:
        raise DownloadError(complaint, unreachable=True) from error
    if not isinstance(item, Exception):
        return item
    if isinstance(item, urllib.error.HTTPError):
        raise DownloadError(f"the server answered {item.code} {item.reason}") from item
    reason = item.reason if isinstance(item, urllib.error.URLError) else item
    if isinstance(reason, TimeoutError):
        raise DownloadError(complaint, unreachable=True) from item
    if isinstance(reason, socket.gaierror):
        raise DownloadError("no network: the name of the host is not known here", unreachable=True) from item
    if isinstance(item, OSError | http.client.HTTPException | ValueError):
        text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
        raise DownloadError(f"the connection failed: {text}", unreachable=True) from item
    raise item


def _remove_abandoned(path: Path) -> None:
    """What atomic_path could not remove because its process was killed."""
    for left in path.parent.glob(f".{path.name}.*.tmp"):
        try:
            if time.time() - left.stat().st_mtime > _LONG_ABANDONED_S:
                left.unlink()
        except OSError:
            continue  # another process was faster, or the folder cannot be written, which is said next


def _root_cause(error: Exception) -> str:
    """The system's words alone: a report that others get must name no path of this machine."""
    cause = error if isinstance(error, OSError) else error.__cause__
    return getattr(cause, "strerror", None) or type(cause).__name__
