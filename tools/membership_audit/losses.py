"""Denoising losses of single images under a trained model, and canaries to prove that such losses can tell members.

A canary is a held-out image that is trained on many times over. Owns the losses and the planting; the statistics are
tools/membership_audit/attack.py's.
"""

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from config.errors import UserError
from config.schema import Config, DiffusionParams
from dataset.annotations import ImageRecord
from dataset.delimited import format_csv
from dataset.order import StepDraws, generator, normal
from dataset.patient_note import write_patient_note
from dataset.storage import hash_bytes, make_folder, write_text
from tools.diffusion.latent_source import EncodedLatents, LatentSource
from tools.diffusion.project import Project
from tools.diffusion.trained_model import TrainedModel
from tools.diffusion.training import DiffusionLoss, latent_shape, read_batch

NUM_TIMESTEPS = 16  # evenly over the time axis: an audit does not know at which noise a model remembers
_CANARY = re.compile(r"canary_\d{6,}_(\d{3,})")  # the number of the image and of the repeat
_COLUMNS = ("IMAGE_NAME", "label", "group", "split")


@dataclass(frozen=True)
class ImageLosses:
    """The mean denoising loss of images of a split, float64 (N,), and their records."""

    values: np.ndarray
    records: Sequence[ImageRecord]

    def select(self, chosen: np.ndarray) -> tuple[np.ndarray, list[str]]:
        """Losses and groups of the images of a mask (N,)."""
        return self.values[chosen], [record.group for record, one in zip(self.records, chosen, strict=True) if one]


@torch.inference_mode()
def denoising_losses(
    project: Project, diffusion: DiffusionParams, model: TrainedModel, split: str, device: torch.device, *, seed: int
) -> ImageLosses:
    """Unweighted losses of the averaged weights at fixed timesteps, with noise that the name of the image decides.

    Latents are posterior means of the image as it is, from the cache where training used one. A canary is measured once,
    so that its loss is as uncertain as that of any other image.

    Raises:
        UserError: images or latents that cannot be read.
    """
    source: LatentSource
    if project.data.load_latents:
        source = project.prepare_latents(split, device=device)
    else:
        source = EncodedLatents(project, split, project.open_codec(device=device))
    records = [(position, record) for position, record in enumerate(project.images(split).records)
               if (canary := _CANARY.fullmatch(record.path.stem)) is None or int(canary.group(1)) == 0]
    loss_of = DiffusionLoss(diffusion, null_label=model.denoising.null_label, device=device,
                            statistics=model.codec.statistics)
    steps = (np.arange(NUM_TIMESTEPS) + 0.5) / NUM_TIMESTEPS * diffusion.num_timesteps
    timesteps, shape = torch.from_numpy(steps.astype(np.int64)), latent_shape(project.data)
    values = np.empty(len(records))
    for number, (position, record) in enumerate(records):
        address = int(hash_bytes(record.image_id.encode())[:15], 16)
        noise = normal(generator(seed, "membership", address), (NUM_TIMESTEPS, *shape))
        draws = StepDraws(
            positions=torch.full((NUM_TIMESTEPS,), position), views=torch.zeros(NUM_TIMESTEPS, dtype=torch.int64),
            posterior_noise=torch.zeros_like(noise), noise=noise, timesteps=timesteps,
            drop_uniforms=torch.ones(NUM_TIMESTEPS), condition_uniforms=torch.ones(NUM_TIMESTEPS, 0),
        )
        batch = read_batch(source, model.codec, draws, device, sees_view=project.data.symmetry_conditioning)
        losses = loss_of.per_image(model.denoising.network, batch, noise=noise.to(device), timesteps=timesteps.to(device))
        values[number] = float(losses.double().mean())
    return ImageLosses(values, [record for _, record in records])


def plant_canaries(config: Config, folder: Path, *, count: int, repeats: int) -> Config:
    """Write a data set below `folder` in which `count` held-out images are trained on `repeats` times each.

    Returns the config that trains on it, in a run of its own whose last weights are kept: held-out images choose none. A
    canary's whole group leaves the held-out split.

    Raises:
        UserError: too few held-out groups to take canaries from and still have some to compare with.
    """
    held_out = config.evaluation_params.real_split
    records = Project.open(config).records
    groups = sorted({record.group for record in records if record.split == held_out})
    if not 2 <= count <= len(groups) - 2:
        raise UserError(f"--plant-canaries {count}: expected 2 to {len(groups) - 2}, because {held_out} has {len(groups)} "
                        "groups and two have to stay to compare with")
    order = generator(config.train_params.seed, "canaries").permutation(len(groups))
    chosen = {groups[i] for i in order[:count]}
    conditions = config.dataset_params.params.conditions
    lines: list[tuple[object, ...]] = []
    make_folder(folder / "images")
    write_patient_note(folder, "The images, latents and weights in this folder")

    def add(record: ImageRecord, name: str, split: str) -> None:
        shutil.copyfile(record.path, folder / "images" / f"{name}{record.path.suffix}")
        levels = [told.levels[level] for told, level in zip(conditions.values(), record.conditions, strict=True)]
        lines.append((f"{name}{record.path.suffix}", record.label, record.group, split, *levels))

    planted: set[str] = set()
    for number, record in enumerate(records):
        if record.split != held_out or record.group not in chosen:
            add(record, f"image_{number:06d}", record.split)
        elif record.group not in planted:
            planted.add(record.group)
            for repeat in range(repeats):
                add(record, f"canary_{number:06d}_{repeat:03d}", "train")
    write_text(folder / "table.csv", format_csv([[*_COLUMNS, *conditions], *lines]))
    planted = replace(
        config.dataset_params.params, csv_file=str(folder / "table.csv"), root_dir=str(folder / "images"),
        image_column="IMAGE_NAME", label_column="label", group_column="group", split_column="split",
        split_fractions=None, val_from_train=0.0, covariate_columns=(),
    )
    return replace(
        config,
        dataset_params=replace(config.dataset_params, params=planted, directory_latents=str(folder / "latents")),
        train_params=replace(config.train_params, task_name=str(folder / "run"), selection_metric="last"),
    )


def is_canary(record: ImageRecord) -> bool:
    """Whether `plant_canaries` wrote this image as a canary."""
    return _CANARY.fullmatch(record.path.stem) is not None
