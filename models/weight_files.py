"""The safetensors files of a model folder in the Hugging Face layout: found in a folder, or downloaded from the hub."""

import json
from dataclasses import dataclass
from pathlib import Path

from config.errors import UserError

CONFIG_FILE = "config.json"
PIPELINE_FILE = "model_index.json"
_VARIANTS = ("fp32", "fp16", "bf16")  # in order of preference if the plain files are missing


@dataclass(frozen=True)
class WeightFiles:
    """The weights of one folder: a single file, or shards and their index. `variant` is fp16 for "name.fp16.safetensors"."""

    tensors: tuple[Path, ...]
    index: Path | None
    variant: str | None

    @property
    def head(self) -> Path:
        """The file that messages name."""
        return self.index or self.tensors[0]

    @property
    def files(self) -> tuple[Path, ...]:
        return self.tensors if self.index is None else (*self.tensors, self.index)


def find_weight_files(folder: Path, stem: str) -> WeightFiles | None:
    """The files that `from_pretrained` reads in `folder`, or None. An index goes before a single file, plain before variant.

    `stem` is "diffusion_pytorch_model" for diffusers and "model" for transformers.

    Raises:
        UserError: an index that cannot be read, or a shard that it names and the folder lacks.
    """
    for variant in (None, *_VARIANTS):
        index, single = folder / _index_name(stem, variant), folder / _single_name(stem, variant)
        if index.is_file():
            shards = tuple(folder / name for name in _read_index(index))
            for shard in shards:
                if not shard.is_file():
                    raise UserError(f"{index}: names {shard.name}, which the folder lacks; download it again, or remove "
                                    "the index if a single file holds all weights")
            return WeightFiles(shards, index, variant)
        if single.is_file():
            return WeightFiles((single,), None, variant)
    return None


def describe_missing(folder: Path, stem: str, *, loader: str, hub_id: str | None = None) -> str:
    """For a message: what `folder` has instead of safetensors, and how to convert a .bin file.

    `loader` is the class that reads it, such as diffusers.AutoencoderKL; `hub_id` says where the folder was fetched from.
    """
    missing = f"{folder} has no {_single_name(stem, None)}"
    pickle = next(iter(sorted(folder.glob(f"{stem}*.bin"))), None)
    if pickle is None and hub_id is None:
        return missing
    variant = "" if pickle is None or pickle.name.count(".") < 2 else f", variant={pickle.name.split('.')[1]!r}"
    source, output = (str(folder), str(folder)) if hub_id is None else (hub_id, hub_id.rpartition("/")[2])
    command = (f'python -c "import {loader.partition(".")[0]}; {loader}.from_pretrained({source!r}{variant})'
               f'.save_pretrained({output!r})"')
    found = f"only {pickle.name}" if pickle else "and if its page lists only a .bin file"
    return f"{missing}, {found}: such a file can run code; if you trust its source, convert it once by {command}"


def fetch_model(hub_id: str, stem: str, *, subfolder: str | None = None) -> Path:
    """Config and weights of a hub model, from the hub's cache or by download: the folder of the snapshot.

    It downloads the single file, else the shards, else a variant; never a pickle.

    Raises:
        HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError, ValueError: neither cached nor obtainable.
    """
    from huggingface_hub import snapshot_download

    prefix = f"{subfolder}/" if subfolder else ""

    def fetch(*names: str) -> Path:
        wanted = [f"{prefix}{name}" for name in (CONFIG_FILE, *names)]
        return Path(snapshot_download(hub_id, allow_patterns=wanted))

    single = _single_name(stem, None)
    folder = fetch(single)
    if (folder / prefix / single).is_file():
        return folder
    fetch(PIPELINE_FILE, *(_index_name(stem, variant) for variant in (None, *_VARIANTS)))
    for variant in (None, *_VARIANTS):
        index, single = folder / prefix / _index_name(stem, variant), _single_name(stem, variant)
        if index.is_file():
            return fetch(*_read_index(index))
        if variant is not None and (fetch(single) / prefix / single).is_file():
            return folder
    return folder


def _single_name(stem: str, variant: str | None) -> str:
    return f"{stem}.{variant}.safetensors" if variant else f"{stem}.safetensors"


def _index_name(stem: str, variant: str | None) -> str:
    return f"{stem}.safetensors.index.{variant}.json" if variant else f"{stem}.safetensors.index.json"


def _read_index(path: Path) -> list[str]:
    """Names of the shards, sorted."""
    try:
        shards = set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: expected an index of shards with a weight_map; download the file again") from error
    if not shards or not all(isinstance(name, str) and Path(name).name == name for name in shards):
        raise UserError(f"{path}: expected names of files beside it in its weight_map; download the file again")
    return sorted(shards)
