"""The network of a config: our own UNet, or a pretrained one with class tokens."""


import torch
from torch import nn

from config.errors import UserError
from config.schema import Config, DatasetParams, DiffusionParams, UNetParams
from models.pretrained_unet import LoraShape, PretrainedBase, PretrainedUNet, read_text_vectors
from models.unet import UNet, UNetShape
from tools.diffusion.conditions import condition_shapes

BASE_KEY = "base_sha256"  # in checkpoints: of the pretrained UNet whose trained part they hold


def make_unet(config: Config) -> nn.Module:
    """The config's UNet as its training begins, new weights drawn from train_params.seed, in channels-last memory order.

    Raises:
        UserError: a pretrained UNet that cannot be read or does not fit the config.
    """
    unet, classes = config.unet_params, config.dataset_params.params.class_names
    torch.manual_seed(config.train_params.seed)
    if unet.pretrained is not None:
        require_process(PretrainedBase.open(unet.pretrained), config.diffusion_params)
    network = make_network(config.dataset_params, unet)
    if isinstance(network, PretrainedUNet) and unet.text_encoder is not None:
        vectors = read_text_vectors(unet.text_encoder, [*(unet.prompts[name] for name in classes), ""])
        if vectors.shape[1] != network.token_width:
            raise UserError(f"unet_params.text_encoder: expected states of width {network.token_width}, as the UNet's "
                            f"context, found {vectors.shape[1]}; give the text encoder that the UNet was trained with")
        network.set_tokens(vectors)
    return network


def hash_base(unet: UNetParams) -> str | None:
    """Hash of the pretrained UNet; None without one."""
    return None if unet.pretrained is None else PretrainedBase.open(unet.pretrained).sha256


def make_network(data: DatasetParams, unet: UNetParams, *, with_weights: bool = True) -> nn.Module:
    """The network with what is pretrained of it, everything else as torch draws it; weights are left out for counting.

    Raises:
        UserError: as `make_unet`.
    """
    if unet.pretrained is None:
        return UNet(unet_shape(data, unet)).to(memory_format=torch.channels_last)
    base = PretrainedBase.open(unet.pretrained)
    _require_latents(base, data)
    alpha = unet.lora_alpha or unet.lora_rank
    lora = None if unet.lora_rank is None or alpha is None else LoraShape(unet.lora_rank, alpha, unet.lora_targets)
    network = PretrainedUNet(
        base.build(with_weights=with_weights), num_classes=len(data.params.class_names), conditions=condition_shapes(data),
        tokens_per_class=unet.tokens_per_class, lora=lora, gradient_checkpointing=unet.gradient_checkpointing)
    return network.to(memory_format=torch.channels_last)


def require_process(base: PretrainedBase, diffusion: DiffusionParams) -> None:
    """Refuse a process that is not the pretrained UNet's, where the scheduler beside it says which that is.

    Raises:
        UserError: naming the keys with the values to set.
    """
    wanted = base.read_process()
    if wanted is None:
        return
    differing = {key: value for key, value in wanted.items() if getattr(diffusion, key) != value}
    if differing:
        told = ", ".join(f"{key}: {value}" for key, value in differing.items())
        raise UserError(f"diffusion_params: the UNet in {base.folder} was trained with another process; set {told}")


def unet_shape(data: DatasetParams, unet: UNetParams) -> UNetShape:
    """What determines the network's parameters."""
    return UNetShape(
        latent_channels=data.z_channels, num_classes=len(data.params.class_names), channels=unet.channels,
        num_layers=unet.num_layers, attention=unet.attention, num_heads=unet.num_heads,
        time_embedding_dim=unet.time_embedding_dim, context_dim=unet.context_dim, norm_groups=unet.norm_groups,
        dropout=unet.dropout, condition_types=data.condition_types, conditions=condition_shapes(data),
    )


def _require_latents(base: PretrainedBase, data: DatasetParams) -> None:
    channels = base.config.get("in_channels"), base.config.get("out_channels")
    if channels != (data.z_channels, data.z_channels):
        raise UserError(f"unet_params.pretrained: expected a UNet of dataset_params.z_channels {data.z_channels} channels, "
                        f"found {channels[0]} in and {channels[1]} out in {base.folder}; name the VAE that it goes with")
    halvings = len(base.config.get("block_out_channels", ())) - 1
    if data.latent_size % 2**max(halvings, 0):
        raise UserError(f"dataset_params.latent_size: expected a multiple of {2**halvings} for the UNet in {base.folder}, "
                        f"found {data.latent_size}; choose another image_size")
