"""What must not leave with a release (names, paths, real pixels) and whether texts and images hold any of it.

Owns the search. Which files are written, and from what, is release.py's.
"""

import dataclasses
import getpass
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from config.schema import Config
from dataset.annotations import ImageRecord
from dataset.decoding import decode_image
from dataset.images import to_uint8
from dataset.latents import LabelledImages
from dataset.storage import hash_bytes
from tools.runtime.progress import Progress

LEFT_OUT = "left out: it holds what is also the name of an image or a group of the data set"
PATH_MARK = "(path)"
_PLACE = r"(?<![\w/.<>*+])"  # where a path can begin: not within a fraction, a closing tag or an address
_ABSOLUTE_PATHS = (
    re.compile(_PLACE + r"/[\w.~-]+(?:/[^\s\"'<>,;:)]*)+"),
    re.compile(r"file:/+[^\s\"'<>]+"),
    re.compile(r"(?<!\w)[A-Za-z]:[\\/](?!/)[^\s\"'<>,;)]+"),
    re.compile(r"\\\\[\w.$-]+\\[^\s\"'<>,;)]+"),
    re.compile(_PLACE + r"~[\w.-]*/[^\s\"'<>,;:)]+"),
)
_DATA_ADDRESS = re.compile(r"data:[\w/+.-]+;base64,[A-Za-z0-9+/=\s]+")
_SHORTEST_NUMBER = 6  # digits from which a bare number is a name rather than a count or a class
_NOBODY = frozenset({"root", "admin", "administrator", "user", "ubuntu", "runner", "nobody", "docker", "home", "users"})


@dataclass(frozen=True)
class Secrets:
    """Names that are searched, each with what it is; paths of this machine; and how many names are too common to search.

    `names` are searched as whole words. A name that is a short number, a single character or a word of the release
    itself (such as "train") cannot be told from the rest of a text: `num_common` counts these.
    """

    names: Mapping[str, str]
    common: frozenset[str]
    paths: frozenset[str]

    @property
    def num_common(self) -> int:
        return len(self.common)

    def find(self, text: str) -> str | None:
        """What the first leak in `text` is, or None."""
        text = _DATA_ADDRESS.sub(" ", text)
        for path in self.paths:
            if _path_pattern(path).search(text):
                return f"the path {path}"
        for pattern in _ABSOLUTE_PATHS:
            if found := pattern.search(text):
                return f"the absolute path {found.group()}"
        return next((f"the {kind} {name}" for name, kind in self.names.items() if _holds_word(text, name)), None)

    def clean(self, text: str) -> str:
        """A text for the release: paths replaced; left out where it holds a name."""
        for path in sorted(self.paths, key=len, reverse=True):
            text = _path_pattern(path).sub(PATH_MARK, text)
        for pattern in _ABSOLUTE_PATHS:
            text = pattern.sub(PATH_MARK, text)
        return LEFT_OUT if any(_holds_word(text, name) for name in self.names) else text

    def clean_note(self, text: str) -> str:
        """`clean` for a free text: left out too where it holds a number that is also the name of an image or a group."""
        numbers = (name for name in self.common if name.isdigit())
        return LEFT_OUT if any(_holds_word(text, name) for name in numbers) else self.clean(text)


def gather_secrets(config: Config, records: Sequence[ImageRecord], *, own_words: Iterable[str]) -> Secrets:
    """The names of all images and groups, of this user and of the tables, and the paths of the config."""
    own = {word.lower() for word in own_words}
    names: dict[str, str] = {}
    common: set[str] = set()

    def add(name: str, kind: str) -> None:
        name = name.strip()
        if _is_telling(name, own):
            names.setdefault(name, kind)
        elif name:
            common.add(name)

    for record in records:
        for name in _spellings(record.image_id):
            add(name, "image name")
        for name in _spellings(record.path.name):
            add(name, "image name")
        add(record.group, "group")
        for text in record.covariates:
            if _is_telling(text.strip(), own):
                add(text, "covariate")
    for name in {_user_name(), Path.home().name} - {""}:
        if name.lower() not in _NOBODY and name.lower() not in own:
            names.setdefault(name, "user name")
    paths: set[str] = set()
    for value in _path_values(config):
        if Path(value).exists():
            paths.add(str(Path(value).resolve()))
        if Path(value).is_absolute():
            paths.add(value)
    table = config.dataset_params.params.csv_file
    for value in table.values() if isinstance(table, Mapping) else [table] if table else []:
        add(Path(value).name, "table name")
    paths |= {str(Path.cwd()), str(Path.home())}
    return Secrets(names, frozenset(common), frozenset(path for path in paths if len(path) > 1 and path != "/root"))


def real_pixel_keys(images: LabelledImages | None, *, show_progress: bool) -> frozenset[str]:
    """Keys of every real image, as its file holds it and as it is prepared for training."""
    if images is None:
        return frozenset()
    keys = set()
    with Progress("reading real images", len(images), enabled=show_progress) as bar:
        for index, record in enumerate(images.records):
            keys.add(pixel_key(decode_image(record.path)))
            keys.add(pixel_key(to_uint8(images[index][0].permute(1, 2, 0))))
            bar.update(index + 1)
    return frozenset(keys)


def is_copy(pixels: np.ndarray, real_keys: frozenset[str]) -> bool:
    """Whether the image (H, W) or (H, W, C), in any of its eight turns and mirrorings, is a real image pixel by pixel."""
    return any(pixel_key(view) in real_keys for view in _views(pixels))


def pixel_key(pixels: np.ndarray) -> str:
    """Hash of an image's pixels, the same for gray stored in one channel or in three."""
    if pixels.ndim == 3 and (pixels == pixels[..., :1]).all():
        pixels = pixels[..., 0]
    return hash_bytes(f"{pixels.dtype} {pixels.shape} ".encode() + np.ascontiguousarray(pixels).tobytes())


def _views(pixels: np.ndarray) -> Iterator[np.ndarray]:
    for flipped in (pixels, pixels[:, ::-1]):
        for quarter_turns in range(4):
            yield np.rot90(flipped, quarter_turns)


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return ""  # a container may run under a number without a name


def _spellings(name: str) -> set[str]:
    """A name as it stands, without its folders, and without its suffix."""
    last = re.split(r"[/\\]", name)[-1]
    stem = re.sub(r"\.[A-Za-z]{2,4}$", "", last)
    return {name, last, stem}


def _is_telling(name: str, own: set[str]) -> bool:
    if name.lower() in own or len(name) < 2:
        return False
    return len(name) >= _SHORTEST_NUMBER if name.isdigit() else any(character.isalnum() for character in name)


def _path_pattern(path: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w.]){re.escape(path)}(?!\w)")  # /data is no part of runs/data, nor of /database


def _holds_word(text: str, name: str) -> bool:
    if name not in text:
        return False
    edge = r"[\w.]" if name.isdigit() else r"[^\W_]"  # P7 is found in P7_frame2; 123456 is no part of 0.1234567
    return re.search(f"(?<!{edge}){re.escape(name)}(?!{edge})", text) is not None


def _path_values(section: Any) -> Iterator[str]:
    """Every text in the config that may name a file, whatever its key: all but those with a closed list of values."""
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            yield from _path_values(value)
        elif isinstance(value, str) and not field.metadata.get("choices"):
            yield value
        elif isinstance(value, Mapping):
            yield from (item for item in value.values() if isinstance(item, str))
