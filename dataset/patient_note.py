"""The note in every folder of files derived from patients' images, and a warning if git would add them.

The caller says what the files are.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from dataset.storage import write_text

NOTE_NAME = "PATIENT_DATA.txt"
_RULE = "store, share and delete them by the same rules as those images."
_GIT_TIMEOUT_S = 10
_looked_at: set[Path] = set()  # folders already checked in this process


def write_patient_note(folder: Path, subject: str) -> None:
    """Write `folder`/PATIENT_DATA.txt: "`subject` derive from patients' images: ..."; the same note is not written again."""
    warn_where_git_takes(folder)
    path = Path(folder) / NOTE_NAME
    text = f"{subject} derive from patients' images: {_RULE}\n"
    if not path.is_file() or path.read_text(encoding="utf-8", errors="replace") != text:
        write_text(path, text)


def warn_where_git_takes(folder: Path, file: str = NOTE_NAME) -> None:
    """Say once that a folder of patients' data is inside a git checkout that does not ignore `file` in it.

    Silent without git, and below a folder that was checked before.
    """
    folder = Path(folder).resolve()
    if any(place in _looked_at for place in (folder, *folder.parents)):
        return
    _looked_at.add(folder)
    checkout = next((place for place in (folder, *folder.parents)
                     if os.path.exists(place / ".git")), None)  # noqa: PTH110 - Path.exists raises where access is refused
    if checkout is None or (git := shutil.which("git")) is None:
        return
    try:  # ask about a file: a pattern may apply to folders only, and this folder may not exist yet
        asked = subprocess.run([git, "-C", str(checkout), "check-ignore", "--quiet", str(folder / file)],
                               capture_output=True, timeout=_GIT_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return
    if asked.returncode == 1:  # 0: ignored; others: git could not tell
        print(f"warning: {folder} is inside the git checkout {checkout}, which does not ignore it, so patients' data "
              f"could be committed. Choose a folder outside, or add this one to {checkout / '.gitignore'}.",
              file=sys.stderr)
