"""The VAE at the start of a training, and writing it at the end."""

import inspect
import json
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, AutoencoderTiny
from safetensors.torch import save as format_safetensors
from torch import nn

from config.errors import UserError
from config.schema import AutoencoderTrainingParams, DatasetParams
from dataset.storage import write_bytes, write_json
from tools.diffusion.project import Project

Vae = AutoencoderKL | AutoencoderTiny

_FINE_TUNABLE = (AutoencoderKL, AutoencoderTiny)


def open_vae(project: Project) -> Vae:
    """The pretrained VAE to fine-tune, or a fresh one with weights from torch's generator."""
    params = project.autoencoder.training
    return _open_for_fine_tuning(project) if params.fine_tune else _fresh_vae(project.data, params)


def _fresh_vae(data: DatasetParams, params: AutoencoderTrainingParams) -> AutoencoderKL:
    levels = len(params.channels)
    factor = data.params.image_size // data.latent_size
    if factor != 2 ** (levels - 1):
        raise UserError(
            f"autoencoder_params.training.channels: {levels} levels halve the image {levels - 1} times, but "
            f"params.image_size / latent_size is {factor}; expected {max(factor.bit_length(), 1)} levels"
        )
    return AutoencoderKL(
        in_channels=data.params.im_channels, out_channels=data.params.im_channels,
        down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=params.channels, layers_per_block=params.num_layers, latent_channels=data.z_channels,
        norm_num_groups=params.norm_groups, sample_size=data.params.image_size, mid_block_add_attention=False,
        scaling_factor=1.0,
    )


def _open_for_fine_tuning(project: Project) -> Vae:
    vae = project.open_codec().vae
    if not isinstance(vae, _FINE_TUNABLE):
        raise UserError("autoencoder_params.training.fine_tune: expected one of "
                        f"{', '.join(kind.__name__ for kind in _FINE_TUNABLE)}, found {type(vae).__name__}; name another "
                        "autoencoder_params.pretrained, or use this one as it is")
    return vae.train().requires_grad_(True)


def find_last_convolution(decoder: nn.Module) -> nn.Conv2d:
    """The convolution that outputs the image: both kinds of decoder register it last."""
    return [module for module in decoder.modules() if isinstance(module, nn.Conv2d)][-1]


def write_vae(folder: Path, vae: Vae) -> None:
    """Save the weights in half precision, rounded once, as a diffusers folder. The VAE itself is left in that precision."""
    weights = {name: tensor.contiguous() for name, tensor in vae.cpu().half().state_dict().items()}
    write_bytes(folder / "diffusion_pytorch_model.safetensors", format_safetensors(weights, {"format": "pt"}))
    write_json(folder / "config.json", _list_settings(vae))


def _list_settings(vae: Vae) -> dict[str, Any]:
    """The class and the arguments that build it.

    Without the library's version, so that equal trainings give equal bytes, and without entries that the library stores
    besides the arguments and then warns about.
    """
    arguments = inspect.signature(type(vae).__init__).parameters
    return {key: value for key, value in json.loads(vae.to_json_string()).items()
            if key in arguments or key == "_class_name"}
