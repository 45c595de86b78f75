"""The note that every folder of files derived from patients' images carries. What is derived is said by who writes it."""

from pathlib import Path

from dataset.storage import write_text

NOTE_NAME = "PATIENT_DATA.txt"
_RULE = "store, share and delete them by the same rules as those images."


def write_patient_note(folder: Path, subject: str) -> None:
    """Write `folder`/PATIENT_DATA.txt: "`subject` derive from patients' images: ..."; the same note is not written again."""
    path = Path(folder) / NOTE_NAME
    text = f"{subject} derive from patients' images: {_RULE}\n"
    if not path.is_file() or path.read_text(encoding="utf-8", errors="replace") != text:
        write_text(path, text)
