"""LatentCodec: folders that diffusers wrote, the scale of the latents, gray images, precision, and refusals."""

import json
from pathlib import Path

import diffusers
import huggingface_hub.constants
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from config.errors import UserError
from models.autoencoder import LatentCodec, LatentStatistics, hash_autoencoder, load_codec, resolve_autoencoder

WEIGHTS = "diffusion_pytorch_model.safetensors"
UNIT = LatentStatistics(mean=(0.0,) * 4, std=(1.0,) * 4, gray=False)


def make_vae(kind: str, channels: int = 3) -> torch.nn.Module:
    torch.manual_seed(0)
    common = {"in_channels": channels, "out_channels": channels, "latent_channels": 4}
    if kind == "AutoencoderKL":
        vae = diffusers.AutoencoderKL(
            **common, block_out_channels=(8, 8), norm_num_groups=4, sample_size=16,
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        )
    elif kind == "AutoencoderTiny":
        vae = diffusers.AutoencoderTiny(
            **common, encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1),
            num_decoder_blocks=(1, 1),
        )
    else:
        vae = diffusers.VQModel(
            **common, block_out_channels=(8, 8), norm_num_groups=4, num_vq_embeddings=16,
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        )
    return vae


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for kind in ("AutoencoderKL", "AutoencoderTiny", "VQModel"):
        made[kind] = tmp_path_factory.mktemp("vae") / kind
        make_vae(kind).save_pretrained(made[kind])
    made["gray"] = tmp_path_factory.mktemp("vae") / "gray"
    make_vae("AutoencoderKL", channels=1).save_pretrained(made["gray"])
    return made


@pytest.fixture
def copied(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A folder of its own to damage."""
    for name in ("config.json", WEIGHTS):
        (tmp_path / name).write_bytes((folders["AutoencoderKL"] / name).read_bytes())
    return tmp_path


def images(channels: int = 3, batch: int = 2) -> torch.Tensor:
    return torch.rand(batch, channels, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("kind", ["AutoencoderKL", "AutoencoderTiny", "VQModel"])
def test_each_supported_class_encodes_and_decodes(folders: dict[str, Path], kind: str) -> None:
    codec = load_codec(resolve_autoencoder(str(folders[kind])), im_channels=3, statistics=UNIT)
    mean, std = codec.encode(images())
    assert mean.shape == std.shape and mean.shape[:2] == (2, 4) and mean.dtype == std.dtype == torch.float32
    assert bool((std > 0).all()) == (kind == "AutoencoderKL") and bool((std >= 0).all())  # others have no posterior
    decoded = codec.decode(mean)
    assert decoded.shape == (2, 3, 16, 16) and decoded.abs().max() <= 1
    with torch.no_grad():
        reference = getattr(diffusers, kind).from_pretrained(folders[kind]).eval()
        torch.testing.assert_close(decoded, reference.decode(mean.clone()).sample.clamp(-1, 1), atol=1e-5, rtol=0)
    torch.testing.assert_close(codec.round_trip(images()), decoded, atol=1e-5, rtol=0)
    assert not any(parameter.requires_grad for parameter in codec.vae.parameters()) and not codec.vae.training


def test_statistics_are_those_of_draws_from_the_posteriors() -> None:
    rng = torch.Generator().manual_seed(0)
    shift = torch.tensor([3.0, -50.0]).view(1, 2, 1, 1)
    mean = torch.randn(64, 2, 8, 8, generator=rng) * torch.tensor([1.0, 0.2]).view(1, 2, 1, 1) + shift
    std = torch.rand(64, 2, 8, 8, generator=rng)
    statistics = LatentStatistics.measure(iter(zip(mean.split(20), std.split(20), strict=True)), gray=True)
    draws = torch.cat([mean + std * torch.randn(mean.shape, generator=rng) for _ in range(100)]).double()
    np.testing.assert_allclose(statistics.mean, draws.mean(dim=(0, 2, 3)), atol=0.01)
    np.testing.assert_allclose(statistics.std, draws.std(dim=(0, 2, 3)), rtol=0.005)
    np.testing.assert_allclose(statistics.signal_shares, (mean.var(dim=(0, 2, 3)) / draws.var(dim=(0, 2, 3))), rtol=0.01)
    assert statistics.gray and statistics.unscaled().signal_shares == statistics.signal_shares


def test_standardised_latents_have_zero_mean_and_unit_deviation(folders: dict[str, Path]) -> None:
    raw = torch.randn(32, 4, 8, 8, generator=torch.Generator().manual_seed(0)) * 3 + torch.arange(4.0).view(1, 4, 1, 1)
    statistics = LatentStatistics.measure(iter([(raw, torch.zeros_like(raw))]), gray=False)
    codec = load_codec(folders["AutoencoderKL"], im_channels=3, statistics=statistics)
    latents = codec.standardise(raw)
    torch.testing.assert_close(latents.mean(dim=(0, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(latents.std(dim=(0, 2, 3), correction=0), torch.ones(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(codec.destandardise(latents), raw, atol=1e-5, rtol=0)
    unscaled = load_codec(folders["AutoencoderKL"], im_channels=3, statistics=UNIT)
    torch.testing.assert_close(codec.decode(latents), unscaled.decode(raw), atol=1e-4, rtol=0)


@pytest.mark.parametrize("value", [0.0, 0.1, 0.3, 7.7, -123.4])
def test_a_channel_without_variance_is_refused(value: float) -> None:
    mean = torch.randn(5, 2, 13, 13)
    mean[:, 1] = value
    with pytest.raises(UserError, match="expected finite values above 0 in every channel"):
        LatentStatistics.measure(iter([(mean, torch.zeros_like(mean))] * 3), gray=False)


def test_latents_that_are_not_finite_are_refused() -> None:
    mean = torch.full((1, 1, 2, 2), float("inf"))
    with pytest.raises(UserError, match="train or choose another"):
        LatentStatistics.measure(iter([(mean, torch.ones_like(mean))]), gray=False)


@pytest.mark.parametrize("kind", ["AutoencoderKL", "AutoencoderTiny", "VQModel"])
def test_decoder_only_never_reads_the_encoder(folders: dict[str, Path], tmp_path: Path, kind: str) -> None:
    folder = folders[kind]
    tensors = load_file(folder / WEIGHTS)
    kept = {name: t for name, t in tensors.items() if not name.startswith(("encoder.", "quant_conv."))}
    assert 0 < len(kept) < len(tensors)
    save_file(kept, tmp_path / WEIGHTS)
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    whole = load_codec(folder, im_channels=3, statistics=UNIT)
    half = load_codec(tmp_path, im_channels=3, statistics=UNIT, decoder_only=True)
    assert torch.equal(half.decode(latents), whole.decode(latents))
    assert sum(p.numel() for p in half.vae.parameters()) == sum(t.numel() for t in kept.values())
    with pytest.raises(UserError, match=r"lacks encoder\..* more that its config.json requires"):
        load_codec(tmp_path, im_channels=3)


def test_gray_images_go_through_a_colour_vae_and_come_out_gray(folders: dict[str, Path]) -> None:
    gray = images(channels=1)
    of_gray = load_codec(folders["AutoencoderKL"], im_channels=1, statistics=UNIT)
    of_colour = load_codec(folders["AutoencoderKL"], im_channels=3, statistics=UNIT)
    mean, std = of_gray.encode(gray)
    torch.testing.assert_close((mean, std), of_colour.encode(gray.expand(-1, 3, -1, -1)))
    averaged = of_colour.decode(mean).mean(dim=1, keepdim=True)
    torch.testing.assert_close(of_gray.decode(mean), averaged)
    all_gray = LatentStatistics(mean=UNIT.mean, std=UNIT.std, gray=True)
    three = load_codec(folders["AutoencoderKL"], im_channels=3, statistics=all_gray).decode(mean)
    torch.testing.assert_close(three, averaged.expand(-1, 3, -1, -1))


def test_a_gray_vae_takes_gray_images_only(folders: dict[str, Path]) -> None:
    codec = load_codec(folders["gray"], im_channels=1, statistics=UNIT)
    assert codec.decode(codec.encode(images(channels=1))[0]).shape == (2, 1, 16, 16)
    with pytest.raises(UserError, match=r"the VAE takes 1-channel images, .*im_channels is 3"):
        load_codec(folders["gray"], im_channels=3)


def test_the_codec_stays_in_float32_under_autocast(folders: dict[str, Path]) -> None:
    codec = load_codec(folders["AutoencoderKL"], im_channels=3, statistics=UNIT)
    plain, seen = codec.encode(images()), []
    for name in ("encoder.conv_in", "decoder.conv_in"):
        codec.vae.get_submodule(name).register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = codec.encode(images().bfloat16().float())
        again = codec.encode(images())
        codec.decode(inside[0].bfloat16())
    assert seen == [torch.float32] * 3
    assert torch.equal(again[0], plain[0]) and torch.equal(again[1], plain[1])


def test_hash_follows_weights_and_shape_but_not_who_saved_them(copied: Path, folders: dict[str, Path]) -> None:
    original = hash_autoencoder(folders["AutoencoderKL"])
    config = json.loads((copied / "config.json").read_text())
    config.update(_diffusers_version="9", _name_or_path="elsewhere")
    (copied / "config.json").write_text(json.dumps(config))
    assert hash_autoencoder(copied) == original
    (copied / "config.json").write_text(json.dumps({**config, "norm_num_groups": 2}))
    assert hash_autoencoder(copied) != original
    (copied / "config.json").write_text(json.dumps(config))
    data = bytearray((copied / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (copied / WEIGHTS).write_bytes(data)
    assert hash_autoencoder(copied) != original


@pytest.mark.parametrize("name", ["config.json", WEIGHTS])
def test_a_missing_file_is_named(copied: Path, name: str) -> None:
    (copied / name).unlink()
    with pytest.raises(UserError, match=rf"autoencoder_params.pretrained: .* has no {name}; expected a folder"):
        resolve_autoencoder(str(copied))


def test_a_subfolder_is_found(copied: Path) -> None:
    assert resolve_autoencoder(str(copied.parent), copied.name) == copied
    with pytest.raises(UserError, match=r"vae has no config\.json"):
        resolve_autoencoder(str(copied), "vae")


@pytest.mark.parametrize(("config", "wanted"), [
    ('{"_class_name": "UNet2DModel"}', "expected one of AutoencoderKL, .*, found 'UNet2DModel'"),
    ("{}", "found None"),
    ("[]", "found None"),
    ("{", "not readable as JSON"),
    ('{"_class_name": "AutoencoderKL", "norm_num_groups": 3}', r"diffusers cannot build this AutoencoderKL \(.+\)"),
])
def test_a_config_of_something_else_is_refused(copied: Path, config: str, wanted: str) -> None:
    (copied / "config.json").write_text(config)
    with pytest.raises(UserError, match=wanted) as caught:
        load_codec(copied, im_channels=3)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("damage", ["cut", "empty", "other shape"])
def test_weights_that_do_not_fit_are_refused(copied: Path, damage: str) -> None:
    data = (copied / WEIGHTS).read_bytes()
    if damage == "cut":
        (copied / WEIGHTS).write_bytes(data[:-100])
    elif damage == "empty":
        (copied / WEIGHTS).write_bytes(b"")
    else:
        config = json.loads((copied / "config.json").read_text())
        config |= {"block_out_channels": [16, 16]}
        (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"not the weights that its config.json requires \(.+\)") as caught:
        load_codec(copied, im_channels=3)
    assert str(caught.value).isprintable()


def test_latents_of_another_width_than_the_statistics_are_refused(folders: dict[str, Path]) -> None:
    codec = load_codec(folders["AutoencoderKL"], im_channels=3, statistics=UNIT)
    with pytest.raises(UserError, match="the latents have 3 channels, the statistics 4"):
        codec.standardise(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="have not been measured yet"):
        LatentCodec(codec.vae, im_channels=3, statistics=None).decode(torch.zeros(1, 4, 8, 8))


@pytest.mark.parametrize("name", ["someone/some-vae", "no such folder", "a/b/c/d"])
def test_a_hub_id_without_network_is_one_line(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="is neither a local folder nor obtainable from the hub") as caught:
        resolve_autoencoder(name)
    assert str(caught.value).isprintable() and "python -m tools.train_vae" in str(caught.value)
