"""What lies under a folder of images, read once, and which file a name means: exactly, nothing guessed.

Opens no image and knows no labels.
"""

import os
import posixpath
import re
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

from config.errors import UserError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")


@dataclass
class ImageFolder:
    """What lies under a folder, read once. Names are paths relative to it, with / between folders."""

    root: Path
    files: dict[str, str] = field(default_factory=dict)  # name with suffix -> what tells two files apart
    stems: dict[str, list[str]] = field(default_factory=dict)  # name without suffix -> names with suffix
    others: dict[str, str] = field(default_factory=dict)  # files of other formats, with and without suffix
    leaving: set[str] = field(default_factory=set)  # links to files outside the folder
    linked_folders: set[str] = field(default_factory=set)
    _loose: dict[str, str] | None = None

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
        """Names with suffix that `name` means: itself, or with each supported suffix added."""
        return [name] if name in self.files else sorted(self.stems.get(name, []))

    def passes_linked_folder(self, name: str) -> bool:
        """Whether a folder of `name` is a link."""
        parts = name.split("/")
        return any("/".join(parts[:end]) in self.linked_folders for end in range(1, len(parts)))

    def hint(self, name: str) -> str:
        """What is there instead of a name that has no image, as an addition to a message, or nothing."""
        if name in self.others:
            return f" (found {self.others[name]}: not one of {' '.join(IMAGE_SUFFIXES)})"
        if self._loose is None:
            self._loose = {}
            for known in (*self.stems, *self.files):
                self._loose.setdefault(_loosen(known), self.stems[known][0] if known in self.stems else known)
        near = self._loose.get(_loosen(name))
        return f" (found {near}: names must match exactly)" if near else ""


def _loosen(name: str) -> str:
    """What is left of a name without case, spaces, leading zeros, Unicode form and kind of slash."""
    name = unicodedata.normalize("NFKC", name).casefold()
    name = "".join(name.split()).replace("\\", "/")
    return re.sub(r"(^|/)0+", r"\1", posixpath.normpath(name)) if name else ""
