"""Autoencoders in every published layout: weights, latents and images equal those of diffusers' from_pretrained."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from config.errors import UserError
from models.autoencoder import (
    LatentStatistics,
    hash_autoencoder,
    list_autoencoder_files,
    load_codec,
    resolve_autoencoder,
)

STEM = "diffusion_pytorch_model"
PLAIN = f"{STEM}.safetensors"
LEGACY = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
BLOCKS = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
NO_QUANT = {"use_quant_conv": False, "use_post_quant_conv": False}


def make_kl(**changes: Any) -> torch.nn.Module:
    shape = {"block_out_channels": (8, 8), "latent_channels": 4, "norm_num_groups": 4, "sample_size": 16} | BLOCKS
    return diffusers.AutoencoderKL(**shape | changes)


def make_tiny(**changes: Any) -> torch.nn.Module:
    shape = {f"{side}_block_out_channels": (8,) * 4 for side in ("encoder", "decoder")}
    shape |= {"num_encoder_blocks": (1, 1, 1, 1), "num_decoder_blocks": (1, 1, 1, 1)}
    return diffusers.AutoencoderTiny(**shape | changes)


def make_dc() -> torch.nn.Module:
    shape: dict[str, Any] = {"attention_head_dim": 2, "latent_channels": 4}
    for side in ("encoder", "decoder"):
        shape |= {f"{side}_block_types": ("ResBlock", "EfficientViTBlock"), f"{side}_block_out_channels": (4, 8),
                  f"{side}_layers_per_block": (1, 1), f"{side}_qkv_multiscales": ((), (5,))}
    return diffusers.AutoencoderDC(**shape)


FAMILIES: dict[str, Callable[[], torch.nn.Module]] = {
    "SD": make_kl,
    "SDXL": lambda: make_kl(scaling_factor=0.13025, force_upcast=True, latents_mean=None, latents_std=None),
    "SD3": lambda: make_kl(latent_channels=16, scaling_factor=1.5305, shift_factor=0.0609, force_upcast=True, **NO_QUANT),
    "FLUX": lambda: make_kl(latent_channels=16, scaling_factor=0.3611, shift_factor=0.1159, force_upcast=True, **NO_QUANT),
    "quant_conv alone": lambda: make_kl(use_post_quant_conv=False),
    "no attention": lambda: make_kl(mid_block_add_attention=False),
    "TAESD": make_tiny,
    "TAESD3": lambda: make_tiny(latent_channels=16, scaling_factor=1.5305, shift_factor=0.0609, latent_magnitude=3),
    "asymmetric": lambda: diffusers.AsymmetricAutoencoderKL(
        **BLOCKS, down_block_out_channels=(8, 8), up_block_out_channels=(8, 8), latent_channels=4, norm_num_groups=4),
    "DC": make_dc,
    "VQ": lambda: diffusers.VQModel(
        **BLOCKS, block_out_channels=(8, 8), latent_channels=4, norm_num_groups=4, num_vq_embeddings=16),
}
WITH_ATTENTION = [name for name in FAMILIES if name in ("SD", "SD3", "FLUX", "quant_conv alone", "asymmetric", "VQ")]


def save_family(name: str, folder: Path, **how: Any) -> Path:
    """Weights that are not those of a fresh network, whose biases of zero would hide a bias that is not read."""
    torch.manual_seed(0)
    vae = FAMILIES[name]()
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    vae.save_pretrained(folder, **how)
    return folder


def rewrite(folder: Path, output: Path, change: Callable[[str, torch.Tensor], tuple[str, torch.Tensor]]) -> Path:
    """The folder's autoencoder with each tensor under another name or in another form."""
    output.mkdir()
    (output / "config.json").write_bytes((folder / "config.json").read_bytes())
    save_file(dict(change(name, tensor) for name, tensor in load_file(folder / PLAIN).items()), output / PLAIN)
    return output


def to_legacy(name: str, tensor: torch.Tensor) -> tuple[str, torch.Tensor]:
    for new, old in LEGACY.items():
        name = name.replace(f".attentions.0.{new}.", f".attentions.0.{old}.")
    return name, tensor


def to_pointwise(name: str, tensor: torch.Tensor) -> tuple[str, torch.Tensor]:
    is_layer = ".attentions.0." in name and tensor.ndim == 2
    return name, tensor[:, :, None, None].contiguous() if is_layer else tensor


def from_pretrained(folder: Path, **how: Any) -> torch.nn.Module:
    name = json.loads((folder / "config.json").read_text())["_class_name"]
    return getattr(diffusers, name).from_pretrained(folder, torch_dtype=torch.float32, **how)


def assert_equal(folder: Path, reference: torch.nn.Module) -> None:
    """Weights byte for byte, latents and images to 1e-6, and the same images from a codec that holds a decoder only."""
    channels = reference.config.latent_channels
    unit = LatentStatistics(mean=(0.0,) * channels, std=(1.0,) * channels, gray=False)
    codec = load_codec(resolve_autoencoder(str(folder)), im_channels=3, statistics=unit)
    weights = reference.state_dict()
    assert codec.vae.state_dict().keys() == weights.keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in codec.vae.state_dict().items())
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    reference = reference.eval().to(memory_format=torch.channels_last)
    with torch.no_grad():
        encoded = reference.encode(images)
        if hasattr(encoded, "latent_dist"):
            mean, std = encoded.latent_dist.mean, encoded.latent_dist.std
        else:
            mean = encoded.latents if hasattr(encoded, "latents") else encoded.latent
            std = torch.zeros_like(mean)
        decoded = reference.decode(mean.clone()).sample.clamp(-1, 1)
    torch.testing.assert_close(codec.encode(images), (mean, std), atol=1e-6, rtol=0)
    torch.testing.assert_close(codec.decode(mean), decoded, atol=1e-6, rtol=0)
    half = load_codec(folder, im_channels=3, statistics=unit, decoder_only=True)
    torch.testing.assert_close(half.decode(mean), decoded, atol=1e-6, rtol=0)
    assert not any(name.startswith(("encoder.", "quant_conv.")) for name in half.vae.state_dict())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_plain_folder_of_each_family(tmp_path: Path, family: str) -> None:
    assert_equal(save_family(family, tmp_path), from_pretrained(tmp_path))


@pytest.mark.parametrize("family", ["SD", "TAESD", "TAESD3", "DC"])
def test_a_plain_file_in_half_precision(tmp_path: Path, family: str) -> None:
    folder = rewrite(save_family(family, tmp_path / "whole"), tmp_path / "half", lambda name, x: (name, x.half()))
    assert_equal(folder, from_pretrained(folder))


@pytest.mark.parametrize("family", WITH_ATTENTION)
def test_legacy_names_of_attention(tmp_path: Path, family: str) -> None:
    whole = save_family(family, tmp_path / "new")
    folder = rewrite(whole, tmp_path / "legacy", to_legacy)
    assert any(".query." in name for name in load_file(folder / PLAIN))
    reference = from_pretrained(folder)
    assert all(torch.equal(x, y) for x, y in zip(reference.state_dict().values(),
                                                 from_pretrained(whole).state_dict().values(), strict=True))
    assert_equal(folder, reference)


@pytest.mark.parametrize("names", ["new", "legacy"])
@pytest.mark.parametrize("family", ["SD", "FLUX"])
def test_attention_of_pointwise_convolutions(tmp_path: Path, family: str, names: str) -> None:
    whole = save_family(family, tmp_path / "linear")
    folder = rewrite(whole, tmp_path / "convolutions", to_pointwise)
    if names == "legacy":
        folder = rewrite(folder, tmp_path / "legacy", to_legacy)
        assert load_file(folder / PLAIN)["encoder.mid_block.attentions.0.query.weight"].shape == (8, 8, 1, 1)
    assert_equal(folder, from_pretrained(whole))


@pytest.mark.parametrize("variant", ["fp16", "bf16"])
@pytest.mark.parametrize("family", ["SD", "TAESD3"])
def test_a_variant_is_read_where_it_is_alone_and_said_once(
    tmp_path: Path, family: str, variant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    FAMILIES[family]().to(torch.float16 if variant == "fp16" else torch.bfloat16).save_pretrained(tmp_path, variant=variant)
    assert (tmp_path / f"{STEM}.{variant}.safetensors").is_file() and not (tmp_path / PLAIN).exists()
    assert_equal(tmp_path, from_pretrained(tmp_path, variant=variant))
    shown = capsys.readouterr().out
    assert shown.count("\n") == 1 and f"reading its {variant} variant, {STEM}.{variant}.safetensors" in shown


def test_the_plain_file_goes_before_its_variant(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_family("SD", tmp_path)
    alone = hash_autoencoder(tmp_path)
    FAMILIES["SD"]().half().save_pretrained(tmp_path / "half", variant="fp16")
    (tmp_path / "half" / f"{STEM}.fp16.safetensors").rename(tmp_path / f"{STEM}.fp16.safetensors")
    assert_equal(tmp_path, from_pretrained(tmp_path))
    assert hash_autoencoder(tmp_path) == alone and "variant" not in capsys.readouterr().out


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_shards(tmp_path: Path, variant: str | None, capfd: pytest.CaptureFixture[str]) -> None:
    save_family("SD", tmp_path, max_shard_size="20KB", variant=variant)
    files = list_autoencoder_files(tmp_path)
    assert len(files) > 3 and set(files) == set(tmp_path.iterdir())
    reference = from_pretrained(tmp_path, variant=variant)
    capfd.readouterr()
    assert_equal(tmp_path, reference)
    assert not capfd.readouterr().err  # no progress bar of the library's
    before = hash_autoencoder(tmp_path)
    for shard in files[1:-1]:
        whole = shard.read_bytes()
        shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        assert hash_autoencoder(tmp_path) != before
        shard.write_bytes(whole)
    assert hash_autoencoder(tmp_path) == before


def test_shards_of_pointwise_convolutions(tmp_path: Path) -> None:
    whole = save_family("SD", tmp_path / "whole")
    sharded = save_family("SD", tmp_path / "shards", max_shard_size="20KB")
    for shard in sharded.glob("*.safetensors"):
        save_file(dict(to_pointwise(name, tensor) for name, tensor in load_file(shard).items()), shard)
    assert_equal(sharded, from_pretrained(whole))


@pytest.mark.parametrize("damage", ["lost", "cut", "index", "elsewhere"])
def test_damaged_shards_are_one_line(tmp_path: Path, damage: str) -> None:
    save_family("SD", tmp_path, max_shard_size="20KB")
    shard, index = min(tmp_path.glob("*.safetensors")), tmp_path / f"{PLAIN}.index.json"
    if damage == "lost":
        shard.unlink()
    elif damage == "cut":
        shard.write_bytes(shard.read_bytes()[:-100])
    elif damage == "index":
        index.write_text("{")
    else:
        index.write_text(index.read_text().replace(shard.name, f"../{shard.name}"))
    wanted = {"lost": f"names {shard.name}, which the folder lacks", "cut": "not the weights", "index": "with a weight_map",
              "elsewhere": "names of files beside it"}[damage]
    with pytest.raises(UserError, match=wanted) as caught:
        load_codec(tmp_path, im_channels=3)
    assert str(caught.value).isprintable()


def test_a_legacy_file_that_lacks_a_layer_is_refused(tmp_path: Path) -> None:
    folder = rewrite(save_family("SD", tmp_path / "new"), tmp_path / "legacy", to_legacy)
    kept = load_file(folder / PLAIN)
    del kept["decoder.mid_block.attentions.0.value.bias"]
    save_file(kept, folder / PLAIN)
    with pytest.raises(UserError, match=r"lacks decoder\.mid_block\.attentions\.0\.to_v\.bias and 0 more"):
        load_codec(folder, im_channels=3)


def test_a_tensor_that_nobody_asks_for_is_passed_over_in_silence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    save_family("SD", tmp_path)
    reference = from_pretrained(tmp_path)
    save_file(load_file(tmp_path / PLAIN) | {"loss.logvar": torch.zeros(1)}, tmp_path / PLAIN)
    capfd.readouterr()
    assert_equal(tmp_path, reference)
    assert capfd.readouterr() == ("", "")


def test_weights_stay_as_they_were_read_when_the_file_changes(tmp_path: Path) -> None:
    path = save_family("SD", tmp_path) / PLAIN
    codec = load_codec(tmp_path, im_channels=3)
    before = {name: tensor.clone() for name, tensor in codec.vae.state_dict().items()}
    with path.open("r+b") as file:  # in place, as cp and rsync --inplace write
        file.seek(path.stat().st_size // 2)
        file.write(bytes(path.stat().st_size // 2))
    assert all(torch.equal(tensor, before[name]) for name, tensor in codec.vae.state_dict().items())


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_a_folder_of_pickles_is_refused_with_the_command_that_converts_it(tmp_path: Path, variant: str | None) -> None:
    save_family("SD", tmp_path, safe_serialization=False, variant=variant)
    assert [path.suffix for path in tmp_path.iterdir() if path.name != "config.json"] == [".bin"]
    with pytest.raises(UserError, match=r"only diffusion_pytorch_model.*\.bin: .* convert it once by python -c") as caught:
        resolve_autoencoder(str(tmp_path))
    assert str(caught.value).isprintable()
    program = str(caught.value).partition('python -c "')[2].partition('"')[0]
    exec(program, {})  # what the user is told to type
    assert_equal(tmp_path, from_pretrained(tmp_path))


def test_the_pointer_of_git_lfs_is_named(tmp_path: Path) -> None:
    save_family("SD", tmp_path)
    (tmp_path / PLAIN).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 334643276\n")
    with pytest.raises(UserError, match="git lfs pull"):
        load_codec(tmp_path, im_channels=3)


def test_a_whole_pipeline_is_told_its_subfolder(tmp_path: Path) -> None:
    save_family("SD", tmp_path / "vae")
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    with pytest.raises(UserError, match=r"a whole pipeline; set autoencoder_params\.subfolder: vae"):
        resolve_autoencoder(str(tmp_path))
    assert resolve_autoencoder(str(tmp_path), "vae") == tmp_path / "vae"


@pytest.mark.parametrize(("name", "channels"), [("taesd", 4), ("taesd3", 16)])
def test_real_tiny_autoencoders(shared: Path, name: str, channels: int) -> None:
    folder = shared / "weights" / name
    reference = from_pretrained(folder)
    assert reference.config.latent_channels == channels
    assert_equal(folder, reference)
