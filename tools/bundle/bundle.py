"""The bundle for a machine without a network: wheels, weights and bundle.json, the record by which both are verified.

wheels.py finds the wheels. A bundle is for one platform and one Python; a second run verifies and completes it.
"""

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from config.errors import UserError
from config.schema import INCEPTION_FILE
from dataset.storage import atomic_path, hash_file, read_json, write_json, write_text
from models.autoencoder import list_autoencoder_files, resolve_autoencoder
from models.weight_files import CONFIG_FILE
from tools.bundle.wheels import Fetch, Target, collect_wheels, pip_fetch, read_requirements
from tools.evaluation.encoders import dinov2, inception
from tools.evaluation.encoders.downloads import PATIENT, SOURCES, DownloadError, Source, fetch
from tools.evaluation.encoders.trunks import find_head, find_net, find_trunk

FORMAT = 1
RECORD_NAME = "bundle.json"
SUMS_NAME = "SHA256SUMS"
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
_WHEELS, _WEIGHTS = "wheels", "weights"
_LPIPS_NET = "squeeze"


@dataclass(frozen=True)
class BundleRequest:
    """The content of a bundle; weights that are None are left out, or kept from an earlier run."""

    output: Path
    target: Target
    requirements: Path
    constraints: Path
    torch_index: str | None = None
    vae: str | None = None
    inception: str | None = None
    lpips: str | None = None
    dinov2: Path | None = None


def build_bundle(request: BundleRequest, *, fetch: Fetch | None = None) -> dict[str, Any]:
    """Verify the folder's content, add what is missing, and return the record (bundle.json).

    Raises:
        UserError: the folder is another bundle or none, a wheel or weights are not available, or weights are damaged and
            their source is not given again.
    """
    output, settings = request.output, _settings(request)
    old = _read_record(output, settings)
    if not old:  # before anything that can fail, so that the same command resumes from here
        write_json(output / RECORD_NAME, {"format": FORMAT, **settings, "complete": False, "files": {}, "config_keys": {}})
    damaged = _remove_damaged(output, old.get("files", {}))
    for name in damaged:
        print(f"{output / name} is missing or damaged: it is downloaded again")
    keys = dict(old.get("config_keys", {}))
    for key, copy in _weights(request).items():
        keys = {name: path for name, path in keys.items() if not f"{path}/".startswith(f"{_WEIGHTS}/{key}/")}
        keys |= copy(output / _WEIGHTS / key)
    lost = [name for name in damaged if name.startswith(f"{_WEIGHTS}/") and not (output / name).is_file()]
    if lost:
        raise UserError(f"{output / lost[0]}: missing or damaged, and its source was not given; give "
                        f"--{lost[0].split('/')[1]} again")
    wheels = collect_wheels(
        output / _WHEELS, read_requirements(request.requirements), pins=read_requirements(request.constraints),
        target=request.target, fetch=fetch or pip_fetch(request.target, torch_index=request.torch_index),
    )
    paths = [*wheels, *sorted(path for path in (output / _WEIGHTS).rglob("*") if path.is_file())]
    files = {path.relative_to(output).as_posix(): {"bytes": path.stat().st_size, "sha256": hash_file(path)}
             for path in paths}
    record = {"format": FORMAT, **settings, "complete": True, "config_keys": keys, "files": files}
    write_json(output / RECORD_NAME, record)
    write_text(output / SUMS_NAME, "".join(f"{entry['sha256']}  {name}\n" for name, entry in files.items()))
    return record


def _settings(request: BundleRequest) -> dict[str, Any]:
    return {"platform": request.target.platform, "python": request.target.python, "cpu": request.torch_index is not None}


def _read_record(output: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The record of an earlier run; empty if the folder is new."""
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {output}: expected a folder, found a file; choose another path")
    if not (output / RECORD_NAME).is_file():
        if output.exists() and any(output.iterdir()):
            raise UserError(f"--output {output}: expected an empty folder or a bundle, found other files and no "
                            f"{RECORD_NAME}; choose another folder")
        return {}
    record = read_json(output / RECORD_NAME)
    differing = [f"{name} {record.get(name)}, not {value}" for name, value in settings.items() if record.get(name) != value]
    differing += ["another version of this command"] if record.get("format") != FORMAT else []
    if differing:
        raise UserError(f"--output {output}: holds a bundle for {'; '.join(differing)}; choose another folder")
    return record


def _remove_damaged(output: Path, files: dict[str, dict[str, Any]]) -> list[str]:
    """Names of recorded files that have changed; the changed files are removed."""
    damaged = [name for name, entry in files.items()
               if not (output / name).is_file() or hash_file(output / name) != entry["sha256"]]
    for name in damaged:
        (output / name).unlink(missing_ok=True)
    return damaged


# Weights


def _weights(request: BundleRequest) -> dict[str, Callable[[Path], dict[str, str]]]:
    """For each requested kind of weights, a function that puts it into a folder and returns its config keys."""
    given: dict[str, Callable[[Path], dict[str, str]]] = {}
    if request.vae is not None:
        given["vae"] = lambda folder: _copy_vae(request.vae or "", folder)
    if request.inception is not None:
        given["inception"] = lambda folder: _copy_inception(request.inception or "", folder)
    if request.lpips is not None:
        given["lpips"] = lambda folder: _copy_lpips(request.lpips or "", folder)
    if request.dinov2 is not None:
        given["dinov2"] = lambda folder: _copy_dinov2(Path(request.dinov2 or ""), folder)
    return given


def _copy_vae(source: str, folder: Path) -> dict[str, str]:
    _copy_model({file.name: file for file in list_autoencoder_files(resolve_autoencoder(source))}, folder)
    return {"autoencoder_params.pretrained": f"{_WEIGHTS}/{folder.name}"}


def _copy_inception(source: str, folder: Path) -> dict[str, str]:
    path = folder / INCEPTION_FILE
    key = {"evaluation_params.inception_path": f"{_WEIGHTS}/{folder.name}/{path.name}"}
    if "://" not in source:
        if not Path(source).is_file():
            raise UserError(f"--inception {source}: expected a file or an address, found nothing there")
        _check_inception(Path(source), source)
        _copy(Path(source), path)
    elif not path.is_file():
        with tempfile.TemporaryDirectory() as temporary:
            fetched = Path(temporary) / path.name
            _fetch("--inception", replace(SOURCES["inception"], address=source, sha256=""), fetched)
            _check_inception(fetched, source)
            _copy(fetched, path)
    return key


def _fetch(option: str, source: Source, path: Path) -> None:
    try:
        fetch(source, path, limits=PATIENT)
    except DownloadError as error:
        raise UserError(f"{option} {source.address}: could not be downloaded ({error}); download it and give its path"
                        ) from error


def _check_inception(path: Path, source: str) -> None:
    if hash_file(path) not in (inception.STATE_DICT_SHA256, inception.TORCHSCRIPT_SHA256):
        raise UserError(f"--inception {source}: expected the official weights {INCEPTION_FILE} (sha256 "
                        f"{inception.STATE_DICT_SHA256}), found others; only these give a FID")


def _copy_lpips(source: str, folder: Path) -> dict[str, str]:
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(source)
        if "://" in source and (folder / "squeezenet1_1.pth").is_file():
            path = folder
        elif "://" in source:
            path = Path(temporary) / SOURCES[_LPIPS_NET].file_name
            _fetch("--lpips", replace(SOURCES[_LPIPS_NET], address=source), path)
        net = find_net(path)
        trunk, head = find_trunk(path, net, key="--lpips"), find_head(path, net, key="--lpips")
        trunk_name = f"{SOURCES[net].file_name.partition('-')[0]}{trunk.path.suffix}"
        named = {trunk_name: trunk.path, f"lpips_v0.1_{net}{head.path.suffix}": head.path}
        _copy_model(named, folder)
    keys = {"dataset_params.lpips_path": f"{_WEIGHTS}/{folder.name}"}
    if net == "squeeze":
        keys["evaluation_params.squeezenet_path"] = f"{_WEIGHTS}/{folder.name}/{trunk_name}"
    return keys


def _copy_dinov2(source: Path, folder: Path) -> dict[str, str]:
    files = (source / CONFIG_FILE, *dinov2.find_weights(source, place=f"--dinov2 {source}").files)
    _copy_model({file.name: file for file in files}, folder)
    return {dinov2.KEY: f"{_WEIGHTS}/{folder.name}"}


def _copy_model(files: Mapping[str, Path], folder: Path) -> None:
    """Copy files under these names; remove files of another layout from an earlier run, which would be read too."""
    for old in folder.iterdir() if folder.is_dir() else ():
        if old.name not in files:
            old.unlink()
    for name, file in files.items():
        _copy(file, folder / name)


def _copy(source: Path, path: Path) -> None:
    """Copy a file atomically, unless the same bytes are there."""
    if path.is_file() and path.stat().st_size == source.stat().st_size and hash_file(path) == hash_file(source):
        return
    with atomic_path(path) as temporary:
        shutil.copyfile(source, temporary)
