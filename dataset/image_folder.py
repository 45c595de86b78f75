"""The files below a folder of images, read once, and the file that a name means: exact matches only."""

import os
import posixpath
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from config.errors import UserError, escape_unprintable, name_some

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
_NUMBER = re.compile(r"[0-9]+(\.[0-9]*)?(e[+-]?[0-9]{1,2})?")
_RENAME = "give the file a name in UTF-8 without control characters"


@dataclass
class ImageFolder:
    """The files below a folder, read once. Names are paths relative to it, with / between folders."""

    root: Path
    files: dict[str, str] = field(default_factory=dict)  # name with suffix -> identity of the file
    stems: dict[str, list[str]] = field(default_factory=dict)  # name without suffix -> names with suffix
    others: dict[str, str] = field(default_factory=dict)  # files of other formats, with and without suffix
    leaving: set[str] = field(default_factory=set)  # links to files outside the folder
    linked_folders: set[str] = field(default_factory=set)
    _loose: dict[str, str] | None = None
    _composed: dict[str, list[str]] | None = None

    @classmethod
    def scan(cls, root_dir: str | Path) -> "ImageFolder":
        """Read the folder and its subfolders; links to folders are noted and not followed."""
        root = Path(root_dir)
        if not os.path.isdir(root):  # noqa: PTH112  (Path.is_dir lets a refused access through as an exception)
            found = "a file" if os.path.exists(root) else "nothing there"  # noqa: PTH110
            raise UserError(f"{root}: expected the folder of images, found {found}; correct root_dir")
        folder = cls(root)
        real_root = root.resolve()
        pending = [""]
        while pending:
            prefix = pending.pop()
            try:
                with os.scandir(root / prefix) as entries:
                    for entry in entries:
                        name = prefix + entry.name
                        if entry.is_dir(follow_symlinks=False):
                            pending.append(f"{name}/")
                        elif entry.is_symlink():
                            folder._add_link(name, entry, real_root)
                        elif entry.is_file(follow_symlinks=False):  # reading a pipe or a device would never end
                            folder._add(name, name)
            except OSError as error:
                reason = error.strerror
                raise UserError(f"{root / prefix}: could not be listed ({reason}); grant access to it") from error
        return folder

    def _add(self, name: str, identity: str) -> None:
        stem, suffix = posixpath.splitext(name)
        if suffix.lower() in IMAGE_SUFFIXES:
            self.files[name] = identity
            self.stems.setdefault(stem, []).append(name)
        else:
            self.others[name] = name
            self.others.setdefault(stem, name)

    def _add_link(self, name: str, entry: "os.DirEntry[str]", real_root: Path) -> None:
        try:
            target = Path(entry.path).resolve(strict=True)
        except (OSError, RuntimeError):  # a link to nothing, or in a circle: no image
            return
        if entry.is_dir():
            self.linked_folders.add(name)
        elif entry.is_file():
            inside = target.is_relative_to(real_root)
            self._add(name, target.relative_to(real_root).as_posix() if inside else str(target))
            if not inside:
                self.leaving.add(name)

    def match(self, name: str) -> list[str]:
        """Names with suffix that `name` means: itself, or with each supported suffix added.

        A letter with an accent may be one code point in the table and two on the disk (Unicode NFC and NFD).
        """
        return [name] if name in self.files else sorted(self.stems.get(name, [])) or self._match_composed(name)

    def _match_composed(self, name: str) -> list[str]:
        """Names that differ from `name` only by their Unicode form, with and without suffix."""
        if name.isascii():
            return []
        if self._composed is None:
            self._composed = {}
            for known, stem in ((known, posixpath.splitext(known)[0]) for known in self.files if not known.isascii()):
                for spelling in {compose(known), compose(stem)}:
                    self._composed.setdefault(spelling, []).append(known)
        return sorted(self._composed.get(compose(name), []))

    def passes_linked_folder(self, name: str) -> bool:
        """Whether a folder of `name` is a link."""
        parts = name.split("/")
        return any("/".join(parts[:end]) in self.linked_folders for end in range(1, len(parts)))

    def hint(self, name: str) -> str:
        """A hint for a message about a name without an image: a similar name that exists, or nothing."""
        if name in self.others:
            return f" (found {escape_name(self.others[name])}: not one of {' '.join(IMAGE_SUFFIXES)})"
        if self._loose is None:
            self._loose = {}
            for known in (*self.stems, *self.files):
                self._loose.setdefault(_loosen(known), self.stems[known][0] if known in self.stems else known)
        parts = _loosen(name).split("/")
        tails = ["/".join(parts[start:]) for start in range(len(parts))]
        near = next((self._loose[tail] for tail in tails if tail in self._loose), "")
        if not near:
            return ""
        return f" (found {escape_name(near)}: {'names must match exactly' if is_plain_name(near) else _RENAME})"

    def describe(self) -> str:
        """The number of images and the first names, for a message about names that were not found."""
        if not self.files:
            return f"{self.root} holds no images"
        names = name_some([escape_name(name) for name in sorted(self.files)], 3)
        return f"the images there are called {names}"


def is_plain_name(name: str) -> bool:
    """Whether a file's name is text in UTF-8 on one line, so that tables and reports can hold it."""
    return name.isprintable() or not any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in name)


def refuse_odd_names(root: Path, names: Iterable[str]) -> None:
    """Refuse names that are not plain, before their files are used.

    Raises:
        UserError: naming them with the odd bytes as escapes.
    """
    odd = [escape_name(name) for name in names if not is_plain_name(name)]
    if odd:
        raise UserError(f"{root}: expected names in UTF-8 without control characters, found {len(odd):,} others: "
                        f"{name_some(odd)}; {_RENAME}")


def escape_name(name: str) -> str:
    """A file's name for a message: bytes that are not UTF-8 and control characters as escapes, m\\xfcller.png."""
    return "".join(f"\\x{ord(c) - 0xDC00:02x}" if _is_stray_byte(c) else escape_unprintable(c) for c in name)


def compose(text: str) -> str:
    """The text in Unicode's composed form (NFC), in which text that looks equal is equal."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _is_stray_byte(letter: str) -> bool:
    """Whether this represents a byte of a file name that is not UTF-8 (PEP 383)."""
    return "\udc80" <= letter <= "\udcff"


def _loosen(name: str) -> str:
    """The name, normalised: without case, spaces, leading zeros, Unicode form, encoding, kind of slash and the number
    formats of spreadsheets and pandas: 9148.0 and 9.148E+03 are 9148."""
    name = "".join(chr(ord(c) - 0xDC00) if _is_stray_byte(c) else c for c in name)  # Latin-1, near to cp1252
    name = unicodedata.normalize("NFKC", name).casefold()
    name = "".join(name.split()).replace("\\", "/")
    if not name:
        return ""
    head, slash, last = posixpath.normpath(name).rpartition("/")
    stem, suffix = posixpath.splitext(last)
    stem, suffix = (stem, suffix) if suffix in IMAGE_SUFFIXES else (last, "")
    if _NUMBER.fullmatch(stem) and float(stem).is_integer() and float(stem) < 1e15:
        stem = str(int(float(stem)))
    return re.sub(r"(^|/)0+", r"\1", f"{head}{slash}{stem}{suffix}")
