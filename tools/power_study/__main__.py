"""Measure the strength from which each candidate for untrained features, and published features, find a fault.

    python -m tools.power_study --config config/mhsma64.yaml --name mhsma64 --output runs/power/mhsma64 \\
        [--early STEPS=SAMPLES ...] [--table docs/studies/power.json]

It compares real images of the training and validation splits with other ones in which a fault is planted, and with
samples of a generator that was stopped early. A fault is found if the permutation test of the kernel distance has
p < 0.05 in 8 of 10 splits. Features are cached in --output, so that the command resumes.
"""

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from config.errors import UserError
from config.load import load_config
from config.paths import as_path
from config.schema import EvaluationParams
from dataset.storage import atomic_path, hash_bytes, hash_json, read_json, write_json
from models.autoencoder import hash_autoencoder, load_codec
from tools.diffusion.project import Project
from tools.evaluation.encoders.config_weights import open_encoder
from tools.evaluation.encoders.encoder import Encoder, make_untrained
from tools.evaluation.encoders.untrained import DEFINITIONS, UntrainedDefinition
from tools.evaluation.features import cached_features
from tools.evaluation.image_set import ImageSet
from tools.evaluation.image_sets import as_gray_if_all, open_synthetic, read_set, round_trip
from tools.evaluation.resampling import cap_by_group
from tools.power_study.degradations import PIXEL_FAULTS, ROUND_TRIP_FRACTIONS, mix
from tools.power_study.power import ImagePool, PlantedFault, PowerSettings, format_table, measure_power
from tools.runtime.command import add_config, run_command
from tools.runtime.machine import choose_device

NUMBERS = (100, 150, 300)  # images a side
MOST_REAL, MOST_FAULTY = 900, 150  # encoded images: real ones, and those with planted faults
CANDIDATES = {
    **DEFINITIONS,
    "untrained_wide": UntrainedDefinition((32, 64, 128, 256), convolutions=2),
    "untrained_squeezenet": UntrainedDefinition(None),
    "untrained_squeezenet_224": UntrainedDefinition(None, least_side_px=224),
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.power_study", description=__doc__.splitlines()[0])
    add_config(parser, "YAML config: the real images and the VAE")
    parser.add_argument("--name", required=True, help="name of this data set in the table")
    parser.add_argument("--output", type=as_path, required=True, metavar="DIR", help="folder for cached features")
    parser.add_argument("--table", type=as_path, metavar="FILE",
                        help="JSON file to add this data set's numbers to; default DIR/power.json")
    parser.add_argument("--early", action="append", default=[], metavar="STEPS=SAMPLES",
                        help="samples of a generator stopped after so many steps; repeat for others")
    parser.add_argument("--vae", action="append", default=[], metavar="NAME=FOLDER",
                        help="a further autoencoder whose round trip is a fault; repeat for others")
    parser.add_argument("--candidate", action="append", choices=tuple(CANDIDATES), help="measure only these")
    arguments = parser.parse_args(argv)
    config = load_config(arguments.config, arguments.set)
    early = {_to_steps(name): folder for name, folder in map(_parse_named, arguments.early)}
    project = Project.open(config)
    vaes = {"round trip": project.vae_folder,
            **{f"round trip {name}": folder for name, folder in map(_parse_named, arguments.vae)}}
    device = choose_device()
    encoders = {name: make_untrained(name, CANDIDATES[name], device=device) for name in arguments.candidate or CANDIDATES}
    references = _open_references(config.evaluation_params, project, device)
    found = study(project, {**encoders, **references}, early, vaes, arguments.output)
    path = arguments.table or arguments.output / "power.json"
    write_json(path, {**(read_json(path) if path.is_file() else {}), arguments.name: found})
    print(f"{format_table(found)}\nwritten to {path}: {arguments.name}, {len(found['encoders'])} kinds of features")


def study(
    project: Project, encoders: Mapping[str, Encoder], early: Mapping[int, Path], vaes: Mapping[str, Path], output: Path
) -> dict[str, Any]:
    """The numbers of one data set, as JSON."""
    settings = PowerSettings()
    real, generated = _read_images(project, early)
    numbers = [n for n in NUMBERS if 2 * n <= len(real)] or [len(real) // 2]
    variants = list(_plant_faults(project, real.select(_choose_faulty(real)), vaes, output))
    variants += [("early stop", "steps", float(steps), images) for steps, images in generated.items()]
    result: dict[str, Any] = {
        "settings": asdict(settings), "images": len(real), "groups": len(set(real.groups)), "side_px": real.pixels.shape[1],
        "numbers": numbers, "faults": {}, "encoders": {},
    }
    for name, encoder in encoders.items():
        started = time.monotonic()
        pool = ImagePool(_encode(project, encoder, real, "real", output), real.labels, real.groups, _order_layouts(real))
        faults: dict[str, PlantedFault] = {}
        for fault, unit, strength, images in variants:
            if encoder.name == "classifier" and images.pixels.shape[3] != real.pixels.shape[3]:
                continue  # it only accepts images like those of its training
            features = _encode(project, encoder, images, f"{fault}_{strength}".replace(" ", "_"), output)
            faults.setdefault(fault, PlantedFault(unit)).sets.append((strength, features, images.groups))
        power = measure_power(pool, faults, numbers, settings)
        result["faults"] |= {fault: {"unit": unit, "strengths": of} for fault, (unit, of) in power.strengths.items()}
        result["encoders"][name] = {
            "weights_sha256": encoder.weights_sha256, "preset": encoder.preset, "dimension": encoder.dimension,
            "seconds_per_1000": _time(encoder, real),
            "false_alarms": {str(n): share for n, share in power.false_alarms.items()},
            "shares_found": {fault: {str(n): shares for n, shares in of.items()} for fault, of in power.shares.items()},
        }
        print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
    return result


def _read_images(project: Project, early: Mapping[int, Path]) -> tuple[ImageSet, dict[int, ImageSet]]:
    """Real images of the training and validation splits, up to a limit, and the generators' by steps, most first."""
    splits = [read_set(split, project.images(split), True, hash_image=project.hash_image)
              for split in ("train", "val") if project.has_split(split)]
    steps = sorted(early, reverse=True)
    made = [read_set("early", open_synthetic(project.data, early[count]), True) for count in steps]
    alike = as_gray_if_all([_join(splits), *made])
    rows = cap_by_group(alike[0].groups, limit=MOST_REAL, seed=0)
    return alike[0].select(rows), dict(zip(steps, alike[1:], strict=True))


def _join(sets: Sequence[ImageSet]) -> ImageSet:
    return ImageSet("real", np.concatenate([one.in_memory() for one in sets]), np.concatenate([one.labels for one in sets]),
                    [item for one in sets for item in one.ids], [item for one in sets for item in one.groups],
                    [item for one in sets for item in one.sha256])


def _choose_faulty(real: ImageSet) -> np.ndarray:
    """Rows of the images in which faults are planted: whole groups, or all if there are few images."""
    return cap_by_group(real.groups, limit=MOST_FAULTY, seed=1)


def _plant_faults(
    project: Project, images: ImageSet, vaes: Mapping[str, Path], output: Path
) -> Iterator[tuple[str, str, float, ImageSet]]:
    """(fault, unit, strength, images), weakest first."""
    pixels = images.in_memory()
    for fault in PIXEL_FAULTS:
        for strength in fault.strengths:
            yield fault.name, fault.unit, strength, _changed(images, fault.apply(pixels, strength))
    for name, folder in vaes.items():
        restored = _round_trip(project, images, folder, output)
        for fraction in ROUND_TRIP_FRACTIONS:
            yield name, "fraction of it mixed in", fraction, _changed(images, mix(pixels, restored, fraction))


def _round_trip(project: Project, images: ImageSet, folder: Path, output: Path) -> np.ndarray:
    """The images through a VAE, from `output` if they are cached there."""
    path = output / f"round_trip_{hash_json([hash_autoencoder(folder), images.sha256])[:16]}.npy"
    if not path.is_file():
        codec = load_codec(folder, im_channels=project.table.im_channels).to("cpu")
        restored = round_trip(codec, images, project.autoencoder.batch_size, quiet=True).in_memory()
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.save(file, restored)
    return np.load(path)


def _changed(images: ImageSet, pixels: np.ndarray) -> ImageSet:
    return replace(images, pixels=pixels, sha256=[hash_bytes(image.tobytes()) for image in pixels])


def _encode(project: Project, encoder: Encoder, images: ImageSet, name: str, output: Path) -> np.ndarray:
    return cached_features(
        output, encoder=encoder, images=lambda: images.pixels, ids=images.ids, labels=images.labels, groups=images.groups,
        image_sha256=images.sha256, transform_hash=hash_json({"transform": project.transform,
                                                              "channels": images.pixels.shape[-1]}), split=name,
    ).values


def _order_layouts(images: ImageSet) -> np.ndarray:
    """The position of each image on the first principal axis of images of 8 x 8 px, float64 (N,)."""
    small = np.stack([cv2.resize(image.mean(axis=-1), (8, 8), interpolation=cv2.INTER_AREA).ravel()
                      for image in images.in_memory()])
    centred = small - small.mean(axis=0)
    axis = np.linalg.svd(centred, full_matrices=False)[2][0]
    return centred @ axis * np.sign(axis[np.abs(axis).argmax()])


def _time(encoder: Encoder, images: ImageSet) -> float:
    """Seconds of processor time for 1000 images, measured on a batch."""
    pixels = images.pixels[:32]
    started = time.process_time()
    encoder.encode(pixels)
    return round((time.process_time() - started) / len(pixels) * 1000, 1)


def _open_references(params: EvaluationParams, project: Project, device: torch.device) -> dict[str, Encoder]:
    """The published and the in-domain features whose weights the config names and that exist."""
    found = {}
    for name, path in (("squeezenet1_1", params.squeezenet_path), ("classifier", params.classifier_path)):
        if path is not None and Path(path).exists():
            found[name] = open_encoder(params, name, vae_folder=project.vae_folder, device=device)
        else:
            print(f"{name}: left out, because {path} has no weights of it")
    return found


def _to_steps(text: str) -> int:
    if not text.isdecimal():
        raise UserError(f"--early: expected the number of steps before the =, found {text!r}; give for example "
                        "1000=runs/mine/samples")
    return int(text)


def _parse_named(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise UserError(f"expected NAME=FOLDER, found {text!r}; give both, for example 1000=runs/mine/samples")
    return name, as_path(path)


if __name__ == "__main__":
    run_command(main)
