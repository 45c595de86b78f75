"""Loading trained weights for use: the averaged network, its codec and schedule, checked against the config."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from config.errors import UserError
from config.load import build_config, config_to_dict
from config.schema import Config, DatasetParams, UNetParams, effect_of
from models.autoencoder import LatentCodec, LatentStatistics
from models.trained_part import TrainedPart
from tools.diffusion.conditions import ConditionPrior, null_levels
from tools.diffusion.generation import Denoising
from tools.diffusion.networks import BASE_KEY, hash_base, make_network
from tools.diffusion.project import Project
from tools.diffusion.trained_images import TRAINED_KEY
from tools.diffusion.training import latent_shape, make_schedule
from tools.runtime.checkpoints import read_checkpoint, select_tensors

# Sections that must be as in the training.
_DECISIVE = ("diffusion_params", "unet_params")


@dataclass(frozen=True)
class TrainedModel:
    """What sampling needs."""

    denoising: Denoising
    codec: LatentCodec
    class_names: Sequence[str]
    class_counts: Sequence[int]
    condition_prior: ConditionPrior
    trained_images: Sequence[str] | None  # as trained_images.py lists them; None for weights of release 0.1


def read_weights(checkpoint: Path, best_name: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Averaged weights and what belongs to them. A resume checkpoint holds averages and state, but neither config nor
    scale: they are read from the run's best weights beside it, `best_name`.

    Raises:
        UserError: no such checkpoint, a damaged one, or a resume checkpoint without the best weights beside it.
    """
    tensors, values = read_checkpoint(checkpoint)
    if "config" in values:
        return tensors, values
    best = checkpoint.parent / best_name
    if not best.is_file():
        raise UserError(f"{checkpoint} is a resume checkpoint; to sample from it, expected the run's "
                        f"best weights beside it ({best.name}, train_params.ldm_ckpt_name), found none")
    return select_tensors(tensors, "ema"), read_checkpoint(best)[1]


def load_trained_model(config: Config, project: Project, checkpoint: Path, device: torch.device) -> TrainedModel:
    """The network with its best averaged weights and the decoder, on a device.

    Raises:
        UserError: the checkpoint is missing or damaged, or was trained with another network, schedule,
            classes, conditions or autoencoder.
    """
    tensors, values = read_weights(checkpoint, config.train_params.ldm_ckpt_name)
    trained = build_config(values["config"], source=str(checkpoint))
    for section in _DECISIVE:
        if _without_places(section, getattr(trained, section)) != _without_places(section, getattr(config, section)):
            raise UserError(f"{checkpoint} was trained with other {section} than the config gives: expected "
                            f"{yaml.safe_dump(values['config'][section], default_flow_style=True, width=10_000).strip()}")
    if trained.dataset_params.params.class_names != config.dataset_params.params.class_names:
        raise UserError(f"{checkpoint} was trained on the classes {list(trained.dataset_params.params.class_names)}, the "
                        f"config names {list(config.dataset_params.params.class_names)}")
    if trained.dataset_params.params.conditions != config.dataset_params.params.conditions:
        told = config_to_dict(trained)["dataset_params"]["params"]["conditions"]
        raise UserError(f"{checkpoint} was trained with other conditions than the config gives: expected "
                        "dataset_params.params.conditions: "
                        f"{yaml.safe_dump(told, default_flow_style=True, width=10_000).strip()}")
    if values.get("autoencoder_sha256", project.vae_sha256) != project.vae_sha256:
        raise UserError(f"{checkpoint} was trained on the latents of another autoencoder than {project.vae_folder}; "
                        f"expected {trained.autoencoder_params.pretrained} as it was then in autoencoder_params.pretrained")
    network = _load_network(trained.dataset_params, replace(trained.unet_params, pretrained=config.unet_params.pretrained),
                            tensors, base_sha256=values.get(BASE_KEY), checkpoint=checkpoint).to(device)
    stored = values["latent_statistics"]
    statistics = LatentStatistics(mean=tuple(stored["mean"]), std=tuple(stored["std"]), gray=stored["gray"],
                                  signal_shares=tuple(stored.get("signal_shares", ())))  # not in release 0.1
    codec = project.open_codec(statistics=statistics, decoder_only=True, device=device)
    guide = None if config.sample_params.guide_checkpoint is None else _load_guide(
        Path(config.sample_params.guide_checkpoint), config.train_params.ldm_ckpt_name, trained=trained,
        statistics=statistics, device=device)
    denoising = Denoising(
        network=network, guide=guide, schedule=make_schedule(trained.diffusion_params),
        prediction_type=trained.diffusion_params.prediction_type, null_label=trained.num_classes,
        latent_shape=latent_shape(trained.dataset_params), device=device,
        null_levels=null_levels(trained.dataset_params.params),
        sees_view=trained.dataset_params.symmetry_conditioning,
    )
    counts = values["class_counts"]
    prior = ConditionPrior.from_values(values.get("condition_counts", [[[[], count]] for count in counts]))
    return TrainedModel(denoising, codec, trained.dataset_params.params.class_names, counts, prior,
                        values.get(TRAINED_KEY))


def _load_guide(
    checkpoint: Path, best_name: str, *, trained: Config, statistics: LatentStatistics, device: torch.device
) -> nn.Module:
    """The averaged weights of a weaker model. It may have another shape, but needs the same latents and classes.

    Raises:
        UserError: the checkpoint is missing or damaged, or has another diffusion process, data, conditions or scale.
    """
    tensors, values = read_weights(checkpoint, best_name)
    weaker = build_config(values["config"], source=str(checkpoint))
    key = f"sample_params.guide_checkpoint: {checkpoint}"
    for name, of in (("diffusion_params", lambda c: (c.diffusion_params.schedule, c.diffusion_params.prediction_type,
                                                     c.diffusion_params.num_timesteps, c.diffusion_params.beta_start,
                                                     c.diffusion_params.beta_end)),
                     ("class_names", lambda c: c.dataset_params.params.class_names),
                     ("conditions", lambda c: c.dataset_params.params.conditions),
                     ("symmetry_conditioning", lambda c: c.dataset_params.symmetry_conditioning),
                     ("latents", lambda c: latent_shape(c.dataset_params))):
        if of(weaker) != of(trained):
            raise UserError(f"{key} was trained with other {name} than the model that it is to guide; expected an early or "
                            "smaller model of the same kind")
    stored = values["latent_statistics"]
    if (tuple(stored["mean"]), tuple(stored["std"])) != (statistics.mean, statistics.std):
        raise UserError(f"{key} was trained on latents of another scale than the model that it is to guide; expected a "
                        "model of the same images and autoencoder")
    return _load_network(weaker.dataset_params, weaker.unet_params, tensors, base_sha256=values.get(BASE_KEY),
                         checkpoint=checkpoint).to(device)


def _load_network(
    data: DatasetParams, unet: UNetParams, tensors: dict[str, torch.Tensor], *, base_sha256: str | None, checkpoint: Path
) -> nn.Module:
    """The network with these trained tensors, for use: on the CPU, without gradients.

    Raises:
        UserError: its pretrained base is another than that of the training, or cannot be read.
    """
    if hash_base(unet) != base_sha256:
        raise UserError(f"{checkpoint} started from another UNet than unet_params.pretrained {unet.pretrained} holds now; "
                        "restore that one")
    network = make_network(data, unet)
    TrainedPart(network).load_state_dict(tensors)
    return network.eval().requires_grad_(False)


def _without_places(name: str, section: Any) -> dict[str, Any]:
    """The values of a section on which results depend, wherever its files are."""
    return {key: value for key, value in config_to_dict(section).items()
            if effect_of(f"{name}.{key}") in ("result", "later")}

