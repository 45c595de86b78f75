"""The folder of a run, <task_name>: where its files are, which process holds it, and whether a config may resume it."""

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from config.errors import UserError
from config.load import build_config, config_to_dict, config_to_identity, config_to_yaml
from config.schema import Config, SampleParams, TrainParams, effect_of
from dataset.patient_note import warn_where_git_takes, write_patient_note
from dataset.ranks import Ranks
from dataset.storage import locked, make_folder, write_text
from tools.runtime.checkpoints import list_resume_checkpoints


@dataclass(frozen=True)
class RunDirectory:
    """Paths below <task_name>. `writes` is false on all processes of a training except the first."""

    root: Path
    writes: bool = True

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def timing(self) -> Path:
        """The speed of the last training here; not in the log, which holds no times."""
        return self.root / "timing.json"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    def weights(self, train: TrainParams) -> Path:
        """The best averaged weights."""
        return self.checkpoints / train.ldm_ckpt_name

    @property
    def previews(self) -> Path:
        return self.root / "previews"

    def samples(self, params: SampleParams) -> Path:
        """The folder for synthetic images."""
        return Path(params.output) if params.output else self.root / "samples"

    def write_config(self, config: Config) -> None:
        """Record the resolved config and mark the folder as derived from patients' images."""
        if not self.writes:
            return
        write_text(self.config, config_to_yaml(config))
        write_patient_note(self.root, "The checkpoints and the pictures under samples/internal/ in this folder")

    def check_resumable(self, config: Config) -> None:
        """Refuse to resume with a config that would have computed other steps.

        Raises:
            UserError: names the keys that differ, old and new, and how to start again; or resuming is switched off.
        """
        if not self.writes:
            return
        if list_resume_checkpoints(self.checkpoints) and not config.train_params.resume_training:
            raise UserError(f"{self.root} holds a run and train_params.resume_training is false; set it to true to resume, "
                            "or give another task_name to start again")
        try:
            old = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return
        except yaml.YAMLError as error:
            raise UserError(f"{self.config}: not valid YAML; restore it, or remove {self.root} to start again") from error
        differences = list(_differences(_with_new_keys(old), config_to_dict(config)))
        if differences:
            raise UserError(
                f"{self.root} was trained with another config: {'; '.join(differences)}; restore these keys to resume, or "
                "give another train_params.task_name to start again"
            )


def open_run(root: Path, ranks: Ranks, purpose: str) -> AbstractContextManager[RunDirectory]:
    """The folder of a run that several processes train together: the first holds it, the others write nothing."""
    return owned(root, purpose) if ranks.is_first else nullcontext(RunDirectory(root, writes=False))


@contextmanager
def owned(root: Path, purpose: str, *, key: str = "train_params.task_name") -> Iterator[RunDirectory]:
    """Hold the folder that one command writes to; the lock ends with the process, however that ends.

    A command that is refused before it writes leaves no new folder behind. The user is warned if git would add the files.
    `key` is the option or config key that names the folder, for error messages.

    Raises:
        UserError: another command holds it; says which.
    """
    is_new = not root.exists()
    make_folder(root)
    warn_where_git_takes(root)
    with locked(root / ".lock", purpose=purpose,
                refusal=lambda holder: f"{root} is in use by {holder}; wait for it, or give another {key}"):
        try:
            yield RunDirectory(root)
        finally:
            with suppress(OSError):  # a folder that is gone, or not empty
                (root / ".lock").unlink()
                if is_new:
                    root.rmdir()


def keys_of_results(config: Config) -> dict[str, Any]:
    """The config as plain values without the sections on which no result depends."""
    return {name: section for name, section in config_to_identity(config).items() if effect_of(name) != "speed"}


def _with_new_keys(old: Any) -> Any:
    """A recorded config with the keys that are newer than it at their defaults."""
    try:
        return config_to_dict(build_config(old, source="recorded")) if isinstance(old, dict) else old
    except UserError:
        return old  # it has a removed key, which is then reported as a difference


def _differences(old: Any, new: Any, prefix: str = "") -> Iterator[str]:
    if effect_of(prefix) != "result":
        return
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            yield from _differences(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else key)
    elif old != new:
        yield f"{prefix} was {json.dumps(old)}, is {json.dumps(new)}"
