"""Finished evaluations on disk: found by a file, a folder or a run, and read back under a name."""

from pathlib import Path

from config.errors import UserError, escape_unprintable, name_some
from config.paths import as_path
from dataset.storage import hash_file, read_json
from tools.compare.comparison import NEEDED_PROVENANCE, System
from tools.evaluation.rows import Row
from tools.evaluation.summary import read_study

EVALUATION_NAME = "evaluation.json"
_PLAIN_FOLDERS = ("samples", "evaluation")  # names that say nothing: the folder above them does


def locate(argument: str) -> tuple[str, Path]:
    """The name and the file of an evaluation that a command line gives as a path or NAME=PATH.

    A folder stands for the evaluation.json in it or, as a run does, for the only one in the folders directly below.

    Raises:
        UserError: nothing there, or several evaluations in one folder.
    """
    name, sign, place = argument.partition("=")
    if not sign or as_path(argument).exists():
        name, place = "", argument
    elif not name.strip() or not place:
        raise UserError(f"{argument}: expected a path or NAME=PATH, found no {'path' if name.strip() else 'name'}; write, "
                        "for example, ours=demo/run")
    file = _find_evaluation(as_path(place))
    return escape_unprintable(name.strip() or _name_after(file)), file


def read_system(name: str, file: Path) -> System:
    """Read an evaluation.json.

    Raises:
        UserError: a file of another kind or of an older release.
    """
    stored = read_json(file)
    try:
        provenance = dict(stored["provenance"])
        missing = [key for key in NEEDED_PROVENANCE if key not in provenance]
        if missing:
            raise KeyError(*missing)
        return System(name, hash_file(file), provenance, tuple(map(Row.from_dict, stored["rows"])),
                      tuple(read_study(stored)))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{file}: expected an evaluation.json of this release, found another file or an older one "
                        f"({error!r}); evaluate the images again") from error


def _find_evaluation(path: Path) -> Path:
    if path.is_file():
        return path
    if (path / EVALUATION_NAME).is_file():
        return path / EVALUATION_NAME
    found = sorted(path.glob(f"*/{EVALUATION_NAME}"))
    if len(found) == 1:
        return found[0]
    if found:
        names = name_some([str(one.parent) for one in found])
        raise UserError(f"{path}: expected one evaluation, found {len(found)}: {names}; give one of these folders")
    reason = f"no {EVALUATION_NAME} in it or in a folder below" if path.is_dir() else "nothing there"
    raise UserError(f"{path}: expected an evaluation, found {reason}; evaluate the images with python -m tools.evaluate")


def _name_after(file: Path) -> str:
    """The file's own name where it was renamed, else that of its folder."""
    if file.name != EVALUATION_NAME:
        return file.stem
    parts = file.absolute().parent.parts
    return next((part for part in reversed(parts) if part not in _PLAIN_FOLDERS), parts[-1])
