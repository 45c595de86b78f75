"""Starting a training from the weights of another run: what is taken over, what starts fresh, and where it came from."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from config.errors import UserError, name_some
from config.load import build_config
from config.schema import Config, DatasetParams, DiffusionParams, TrainParams, UNetParams
from dataset.storage import hash_file, read_json, write_json
from models.autoencoder import LatentStatistics
from models.unet import UNet
from tools.diffusion.trained_images import TRAINED_KEY
from tools.runtime.checkpoints import list_resume_checkpoints, read_checkpoint
from tools.runtime.run_directory import RunDirectory

START_KEY = "started_from"  # in checkpoints: the sha256 and the step of the weights that a training began with
_RECORD = "started_from.json"
_KEY = "train_params.start_from"
_SAME_SHAPE = ("channels", "num_layers", "attention", "num_heads", "time_embedding_dim", "context_dim", "norm_groups")
_SAME_PROCESS = ("num_timesteps", "schedule", "prediction_type", "beta_start", "beta_end")
_OUTER_LAYERS = ("conv_in.", "norm_out.", "conv_out.")  # which hold what the channels of the latents mean
_VIEW = "the view"  # the name of the condition that says how an image was turned


@dataclass(frozen=True)
class StartRecord:
    """What a run's folder and its weights keep of the weights that it began with. `trained_images` are those of their whole
    ancestry."""

    sha256: str
    step: int
    trained_images: tuple[str, ...]


@dataclass(frozen=True)
class StartWeights:
    """The averaged weights of a run of ours, and what they mean."""

    path: Path
    record: StartRecord
    tensors: dict[str, torch.Tensor]
    config: Config
    statistics: LatentStatistics
    autoencoder_sha256: str


def find_weights(start_from: str) -> Path:
    """The file of weights that `start_from`, a file or the folder of a run, names.

    Raises:
        UserError: neither is there.
    """
    path = Path(start_from)
    if not path.is_dir():
        return path
    recorded = RunDirectory(path).config
    if not recorded.is_file():
        raise UserError(f"{_KEY}: expected a file of weights or the folder of a run, found no {recorded}; name the weights "
                        "themselves")
    raw = yaml.safe_load(recorded.read_text(encoding="utf-8"))
    return RunDirectory(path).weights(build_config(raw, source=str(recorded)).train_params)


def read_start(start_from: str) -> StartWeights:
    """The weights to start from.

    Raises:
        UserError: no such weights, a damaged file, a resume checkpoint, or weights of version 0.1.
    """
    path = find_weights(start_from)
    tensors, values = read_checkpoint(path)
    if "config" not in values:
        raise UserError(f"{_KEY}: {path} holds the state to resume a training from; name the run's best weights beside it")
    if TRAINED_KEY not in values or "autoencoder_sha256" not in values:
        raise UserError(f"{_KEY}: {path} was written by version 0.1, which did not record the images it was trained on; "
                        "start from weights of a later version")
    stored = values["latent_statistics"]
    statistics = LatentStatistics(mean=tuple(stored["mean"]), std=tuple(stored["std"]), gray=stored["gray"],
                                  signal_shares=tuple(stored.get("signal_shares", ())))
    record = StartRecord(hash_file(path), values["step"], tuple(values[TRAINED_KEY]))
    return StartWeights(path, record, tensors, build_config(values["config"], source=str(path)), statistics,
                        values["autoencoder_sha256"])


def require_same_kind(
    start: StartWeights, data: DatasetParams, unet: UNetParams, diffusion: DiffusionParams, *, vae_sha256: str,
    other_vae: bool,
) -> None:
    """Refuse weights of another network, process or VAE; `other_vae` allows the last.

    Raises:
        UserError: naming every key that differs, with the value that would fit.
    """
    theirs = start.config
    pairs = [("unet_params", name, getattr(theirs.unet_params, name), getattr(unet, name)) for name in _SAME_SHAPE]
    pairs += [("diffusion_params", name, getattr(theirs.diffusion_params, name), getattr(diffusion, name))
              for name in _SAME_PROCESS]
    pairs.append(("dataset_params", "condition_types", theirs.dataset_params.condition_types, data.condition_types))
    if not other_vae:
        pairs.append(("dataset_params", "z_channels", theirs.dataset_params.z_channels, data.z_channels))
    differing = [f"{section}.{name} is {_plain(found)} there, {_plain(own)} here"
                 for section, name, found, own in pairs if found != own]
    if differing:
        raise UserError(f"{_KEY}: {start.path} is of another network: {'; '.join(differing)}; set these keys as there, or "
                        "start from nothing")
    if start.autoencoder_sha256 != vae_sha256 and not other_vae:
        raise UserError(f"{_KEY}: {start.path} was trained on the latents of another VAE "
                        f"({theirs.autoencoder_params.pretrained}); name that one in autoencoder_params.pretrained, or set "
                        "train_params.start_from_other_vae: true to take over all but the first and the last layers")


def load_start(network: UNet, start: StartWeights, data: DatasetParams, *, other_vae: bool) -> list[str]:
    """Put the weights into a new network; rows of tables are matched by the names of classes and levels.

    Classes, conditions and levels that the source lacks keep their new weights, and with `other_vae` so do the first and
    the last layers. Returns what was taken over, in lines.
    """
    own, theirs = network.state_dict(), start.tensors
    tables, lines = _match_tables(start.config.dataset_params, data)
    copied = {name: tensor for name, tensor in theirs.items()
              if not name.startswith(("class_embedding.", "context_embedding.", "condition_"))
              and not (other_vae and name.startswith(_OUTER_LAYERS))}
    for name, (source, rows) in tables.items():
        if name not in own:
            continue
        table = own[name].clone()
        for row, origin in rows.items():
            table[row] = theirs[source][origin]
        copied[name] = table
    network.load_state_dict(copied, strict=False)
    if other_vae:
        lines.append("first and last layers: new, since the latents are another VAE's")
    return [f"starting from {start.path} (step {start.record.step:,})", *lines]


def describe_scale(start: StartWeights, statistics: LatentStatistics) -> str:
    """How the latents of the new images differ in scale from those that the weights were trained on."""
    if len(start.statistics.mean) != len(statistics.mean):
        return "latent statistics: of these images; those of the source are another VAE's"
    shift = max(abs(new - old) / std for new, old, std in
                zip(statistics.mean, start.statistics.mean, start.statistics.std, strict=True))
    ratios = [new / old for new, old in zip(statistics.std, start.statistics.std, strict=True)]
    return (f"latent statistics: of these images; their means differ from the source's by up to {shift:.2g} standard "
            f"deviations, their standard deviations by factors of {min(ratios):.3g} to {max(ratios):.3g}")


def open_start(train: TrainParams, run: RunDirectory) -> tuple[StartWeights | None, StartRecord | None]:
    """The weights to start from, None where the run has begun or starts from nothing; and the record of the run's start.

    A run that has begun needs them no more: what is known of them is in its folder.

    Raises:
        UserError: weights that cannot be read, or other ones than the run began with.
    """
    path, begun = run.root / _RECORD, bool(list_resume_checkpoints(run.checkpoints))
    record = _read_record(path)
    if begun:
        if train.start_from is not None and record is None:
            raise UserError(f"{run.root} began from nothing; remove {_KEY} to resume it, or give another task_name")
        found = None if train.start_from is None else find_weights(train.start_from)
        if record is not None and found is not None and found.is_file() and hash_file(found) != record.sha256:
            raise UserError(f"{run.root} began with other weights than {found} has now; restore them or remove {_KEY} to "
                            "resume, or give another task_name")
        return None, record
    if train.start_from is None:
        return None, None
    start = read_start(train.start_from)
    if run.writes:
        write_json(path, asdict(start.record))
    return start, start.record


def _read_record(path: Path) -> StartRecord | None:
    if not path.is_file():
        return None
    found = read_json(path)
    return StartRecord(found["sha256"], found["step"], tuple(found["trained_images"]))


def _match_tables(
    theirs: DatasetParams, own: DatasetParams
) -> tuple[dict[str, tuple[str, Mapping[int, int]]], list[str]]:
    """Own tensor -> (source tensor, own row -> source row) for tables of classes and levels; and in words what is new."""
    rows, line = _match_rows("classes", theirs.params.class_names, own.params.class_names)
    rows[len(own.params.class_names)] = len(theirs.params.class_names)
    tables = {f"{table}.weight": (f"{table}.weight", rows) for table in ("class_embedding", "context_embedding")}
    lines = [line]
    sources = {name: (place, levels, kind) for place, (name, levels, kind) in enumerate(_list_conditions(theirs))}
    for place, (name, levels, kind) in enumerate(_list_conditions(own)):
        source, found, found_kind = sources.get(name, (0, (), ""))
        if found_kind != kind or (kind == "ordinal" and found != levels):  # a walk along the levels has no row for each
            lines.append(f"condition {name}: new")
            continue
        rows, line = _match_rows(f"condition {name}", found, levels)
        lines.append(line)
        if kind == "ordinal":
            parts = {"first": {0: 0}, "steps": {row: row for row in range(len(levels) - 1)}, "null": {0: 0}}
        else:
            parts = {"weight": rows if name == _VIEW else {**rows, len(levels): len(found)}}
        for table in ("condition_embeddings", "condition_contexts"):
            for part, matched in parts.items():
                tables[f"{table}.{place}.{part}"] = f"{table}.{source}.{part}", matched
    return tables, lines


def _list_conditions(data: DatasetParams) -> list[tuple[str, tuple[str, ...], str]]:
    """Name, levels and kind of each further condition in the order of the network's tables."""
    found = [(name, condition.levels, condition.kind) for name, condition in data.params.conditions.items()]
    return [*found, (_VIEW, data.symmetries, "nominal")] if data.symmetry_conditioning else found


def _match_rows(title: str, theirs: Sequence[str], own: Sequence[str]) -> tuple[dict[int, int], str]:
    rows = {row: theirs.index(name) for row, name in enumerate(own) if name in theirs}
    parts = {"taken over": [name for name in own if name in theirs], "new": [name for name in own if name not in theirs],
             "left behind": [name for name in theirs if name not in own]}
    return rows, f"{title}: " + "; ".join(f"{what} {name_some(names)}" for what, names in parts.items() if names)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
