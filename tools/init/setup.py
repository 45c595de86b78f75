"""The network and batch that fit a machine: defaults for a CPU, or the paper's UNet fitted to a GPU's memory."""

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch

from config.errors import UserError
from config.load import build_config
from tools.diffusion.estimate import estimate_memory

_SHARE_FOR_TRAINING = 0.8  # of a GPU's memory; the rest is for its context, the VAE's decoder and fragmentation
_GIBIBYTE = 1 << 30
_GPU_STEPS, _CPU_STEPS = 12_000, 2_000
_MANY_EPOCHS = 10_000  # so that only max_steps decides the length of the training
_BATCH = 24  # the paper's
_FLOW = {"schedule": "rectified_flow", "prediction_type": "velocity", "timestep_sampling": "logit_normal"}


# Prepared side in px from which a pretrained VAE is proposed. At 64 px one that divides by 8 leaves 8 x 8 latents, and its
# round trip of MHSMA was worse than that of a VAE trained there for 25 minutes (taesd3 43.2 dB, taesd 36.1, own 44.8). At
# 128 px the latents are 16 x 16, and a step of training a VAE costs four times as much.
_LEAST_SIDE_FOR_PRETRAINED = 128
_SMALL_PRETRAINED = ("madebyollin/taesd3", "madebyollin/taesd")


@dataclass(frozen=True)
class PretrainedVae:
    """A given VAE: its value in the config, its class, the channels of its latents and the factor that divides a side."""

    pretrained: str
    kind: str
    latent_channels: int
    downsampling: int


@dataclass(frozen=True)
class Setup:
    """The parts of a config that depend on the machine; `sections` are its keys by section, `why` names its purpose.

    `decisions` is what the user must decide.
    """

    image_size: int
    z_channels: int
    latent_size: int
    condition_types: tuple[str, ...]
    sections: dict[str, dict[str, Any]]
    why: str
    decisions: tuple[str, ...] = ()


def find_gpu_memory_gb() -> float | None:
    """Memory of this machine's first GPU; None if there is none."""
    return torch.cuda.get_device_properties(0).total_memory / _GIBIBYTE if torch.cuda.is_available() else None


def choose_setup(
    *, side_px: int, num_train: int, num_test: int, gpu_memory_gb: float | None, name: str, vae: PretrainedVae | None = None
) -> Setup:
    """A set-up for square images of `side_px`, on a GPU of this memory or on the CPU (None); `vae` is a given one.

    Raises:
        UserError: the VAE's latents are too small for the network.
    """
    setup = _choose_by_machine(side_px, num_train, num_test, gpu_memory_gb, name)
    if vae is not None:
        return _with_vae(setup, vae, name)
    if "channels" in setup.sections["autoencoder_params"]["training"] and setup.image_size >= _LEAST_SIDE_FOR_PRETRAINED:
        return replace(setup, decisions=(_propose_pretrained(setup),))
    return setup


def _with_vae(setup: Setup, vae: PretrainedVae, name: str) -> Setup:
    """The set-up with this VAE, and with settings with which train_vae fine-tunes it into another folder."""
    side, most = setup.image_size // vae.downsampling, 2 ** (len(setup.sections["unet_params"]["channels"]) - 1)
    shape = f"{vae.latent_channels} x {side} x {side}"
    if side < most or side % most or setup.image_size % vae.downsampling:
        raise UserError(f"--vae {vae.pretrained}: expected latents whose side is a multiple of {most}, found a VAE that "
                        f"divides {setup.image_size} px by {vae.downsampling}; choose one that divides by less, or leave "
                        "--vae out to train one")
    own = setup.sections["autoencoder_params"]
    training = {key: value for key, value in own["training"].items() if key != "channels"}
    training |= {"output": f"runs/{name}_vae_tuned", "fine_tune": True}
    tuned = training["output"]
    return replace(
        setup, z_channels=vae.latent_channels, latent_size=side,
        sections={**setup.sections, "autoencoder_params": {**own, "pretrained": vae.pretrained, "training": training}},
        decisions=(f"autoencoder_params.pretrained: {vae.pretrained} ({vae.kind}, latents {shape}), as given by --vae. "
                   "check_vae measures what it keeps of your images; if that is not enough, train_vae fine-tunes it into "
                   f"{tuned}: then set pretrained to that folder",))


def _propose_pretrained(setup: Setup) -> str:
    first, *others = _SMALL_PRETRAINED
    minutes = setup.sections["autoencoder_params"]["training"]["max_minutes"]
    return (f"autoencoder_params.pretrained: first, try a small pretrained VAE such as {first} or {' or '.join(others)} "
            "(ids on the Hugging Face hub, 10 MB each). With a network, run this command again with "
            f"--vae {first} --force: it downloads the VAE and sets the matching keys. Without one, give the path of "
            "a copy with --vae FOLDER. Second, as in this config, train_vae trains a VAE from scratch on your images in "
            f"{minutes} minutes, without a network. check_vae with --vae ONE --vae OTHER compares them")


def _choose_by_machine(side_px: int, num_train: int, num_test: int, gpu_memory_gb: float | None, name: str) -> Setup:
    if gpu_memory_gb is not None and side_px >= 192:
        for image_size in (512, 256) if side_px >= 384 else (256,):
            fixed_gb, per_image_gb = _measure_memory(image_size)
            if fixed_gb > _SHARE_FOR_TRAINING * gpu_memory_gb:
                break  # only the weights, for any size
            for accumulation in (pieces for pieces in range(1, _BATCH + 1) if _BATCH % pieces == 0):
                needed = fixed_gb + per_image_gb * _BATCH / accumulation
                if needed <= _SHARE_FOR_TRAINING * gpu_memory_gb:
                    setup = _gpu_setup(image_size, accumulation, num_train, num_test, gpu_memory_gb, name)
                    return replace(setup, why=f"a GPU of {gpu_memory_gb:.0f} GB: training is estimated at {needed:.1f} GB")
    where = "a CPU" if gpu_memory_gb is None else f"a GPU of {gpu_memory_gb:.0f} GB and small images"
    return _small_setup(side_px, num_train, num_test, name, where)


def _gpu_setup(
    image_size: int, accumulation: int, num_train: int, num_test: int, gpu_memory_gb: float, name: str = "-"
) -> Setup:
    """The paper's network in bf16 with the recipe of config/embryo_best.yaml."""
    epochs = max(10, min(300, round(_GPU_STEPS * _BATCH / max(num_train, 1))))
    return Setup(image_size, 4, image_size // 8, ("class", "context_class"), {
        "train_params": {"ldm_batch_size": _BATCH, "gradient_accumulation_steps": accumulation, "num_samples": 8,
                         "ldm_validate_epochs": max(1, epochs // 60), "ldm_lr": 0.0002, "epochs": epochs,
                         "label_dropout": 0.1, "ema_decay": 0.9995, "mixed_precision": "bf16"},
        "diffusion_params": _FLOW,
        "unet_params": {"channels": [256, 320, 384, 512], "num_layers": 2, "attention": [True] * 4, "num_heads": 8,
                        "time_embedding_dim": 512, "context_dim": 512},
        "autoencoder_params": {"pretrained": "stabilityai/sd-vae-ft-mse", "batch_size": 4 if gpu_memory_gb < 32 else 8,
                               "training": {"output": f"runs/{name}_vae_tuned", "fine_tune": True, "lr": 0.0001}},
        "sample_params": {"sampler": "heun", "num_steps": 10, "num_images": max(num_test, 32), "batch_size": 32},
    }, "")


def _small_setup(side_px: int, num_train: int, num_test: int, name: str, where: str) -> Setup:
    """The network, the recipe and a self-trained VAE as in config/mhsma64.yaml."""
    image_size = 32 if side_px <= 40 else 64 if side_px <= 96 else 128
    vae = {32: [16, 32, 64], 64: [16, 32, 64], 128: [16, 32, 64, 64]}[image_size]
    steps = _CPU_STEPS if num_train >= 300 else 800
    epochs = max(1, -(-steps * 16 // max(num_train, 1)))
    return Setup(image_size, 8, image_size // 2 ** (len(vae) - 1), ("class",), {
        "train_params": {"ldm_batch_size": 16, "num_samples": 16, "ldm_validate_epochs": max(1, epochs // 10),
                         "ldm_lr": 0.001, "epochs": _MANY_EPOCHS, "max_steps": steps, "label_dropout": 0.1,
                         "ema_decay": 0.998 if steps == _CPU_STEPS else 0.995},
        "diffusion_params": _FLOW,
        "unet_params": {"channels": [64, 96, 128], "num_layers": 2, "attention": [False, True, True], "norm_groups": 8},
        "autoencoder_params": {"pretrained": f"runs/{name}_vae", "batch_size": 8, "training": {
            "output": f"runs/{name}_vae", "channels": vae, "batch_size": 8 if image_size < 128 else 4, "max_minutes": 20,
            "adversarial_start": 0.4}},
        "sample_params": {"sampler": "heun", "num_steps": 10, "num_images": max(num_test, 32), "batch_size": 32},
    }, where)


@cache
def _measure_memory(image_size: int) -> tuple[float, float]:
    """GB for the paper's network itself, and GB per image of a micro-step; activations grow linearly with the images."""
    one, two = (_estimate_gb(_gpu_setup(image_size, accumulation, 1, 1, 1.0)) for accumulation in (_BATCH, _BATCH // 2))
    return 2 * one - two, two - one


def _estimate_gb(setup: Setup) -> float:
    table = {"root_dir": "-", "image_size": setup.image_size}
    data = {"params": table, "z_channels": setup.z_channels, "latent_size": setup.latent_size,
            "condition_types": list(setup.condition_types)}
    raw = {"dataset_params": data, **setup.sections}
    raw["train_params"] = {**setup.sections["train_params"], "task_name": "-"}
    config = build_config(raw, source="set-up")
    return estimate_memory(config.dataset_params, config.unet_params, config.train_params)[1] / _GIBIBYTE
