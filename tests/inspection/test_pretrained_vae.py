"""init with a given VAE and without one: the keys that go with it, and what a person is told."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny

from config.errors import UserError
from config.load import load_config
from config.schema import Config
from dataset.images import write_png
from tools.diffusion.data import find_autoencoder, open_codec
from tools.init import __main__ as init


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """16 latent channels, sides divided by 8, like taesd3."""
    AutoencoderTiny(latent_channels=16, encoder_block_out_channels=(4,) * 4, decoder_block_out_channels=(4,) * 4,
                    num_encoder_blocks=(1,) * 4, num_decoder_blocks=(1,) * 4).half().save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.fixture
def draft(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Runs init on 24 gray images of a side and gives the config and what was shown."""
    def run(side: int, *words: str, memory: str = "0") -> tuple[Config, str]:
        rng = np.random.default_rng(0)
        for number in range(24):
            write_png(tmp_path / f"images{side}/{number}.png", rng.integers(0, 256, (side, side), dtype=np.uint8))
        rows = [f"{number},{number % 2},P{number}" for number in range(24)]
        (tmp_path / "t.csv").write_text("\n".join(["file,label,PATIENT_ID", *rows]), encoding="utf-8")
        output = tmp_path / "my.yaml"
        init.main([str(tmp_path / "t.csv"), str(tmp_path / f"images{side}"), "--output", str(output), "--force",
                   "--gpu-memory-gb", memory, *words])
        return load_config(output), capsys.readouterr().out
    return run


def test_a_given_vae_brings_the_keys_that_go_with_it(tiny: Path, draft) -> None:
    config, shown = draft(128, "--vae", str(tiny))
    data, vae = config.dataset_params, config.autoencoder_params
    assert (vae.pretrained, data.z_channels, data.latent_size) == (str(tiny), 16, 16)
    assert find_autoencoder(config) == tiny
    mean, std = open_codec(config).encode(torch.zeros(1, data.params.im_channels, 128, 128))
    assert mean.shape[1:] == (data.z_channels, data.latent_size, data.latent_size) and not std.any()
    assert vae.training.fine_tune and vae.training.output == "runs/my_vae_tuned"  # train_vae with no other key fine-tunes it
    assert f"  1. autoencoder_params.pretrained: {tiny} (AutoencoderTiny, latents 16 x 16 x 16), as given by --vae" in shown


def test_a_gpu_takes_a_given_vae_too(tmp_path: Path, draft) -> None:
    AutoencoderKL(block_out_channels=(4, 4, 4), norm_num_groups=4, latent_channels=8,
                  down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
                  ).save_pretrained(tmp_path / "kl")
    config, _ = draft(256, "--vae", str(tmp_path / "kl"), memory="80")
    assert config.train_params.mixed_precision == "bf16" and config.dataset_params.params.image_size == 256
    assert (config.dataset_params.z_channels, config.dataset_params.latent_size) == (8, 64)
    assert find_autoencoder(config) == tmp_path / "kl"


@pytest.mark.parametrize(("side", "proposed"), [(128, True), (97, True), (96, False), (40, False)])
def test_without_a_vae_a_cpu_is_told_of_small_pretrained_ones_where_they_pay(draft, side: int, proposed: bool) -> None:
    config, shown = draft(side)
    assert ("1. autoencoder_params.pretrained: first, try a small pretrained VAE such as madebyollin/taesd3" in shown) \
        == proposed
    assert ("run this command again with --vae madebyollin/taesd3 --force" in shown) == proposed
    vae = config.autoencoder_params  # the commands work as they are, without a network: train_vae makes what is named
    assert vae.pretrained == vae.training.output and not vae.training.fine_tune


def test_a_vae_that_cannot_be_fetched_or_is_too_coarse_is_refused(tmp_path: Path, tiny: Path, draft) -> None:
    with pytest.raises(UserError, match=r"^--vae: 'madebyollin/taesd3' is neither .*Without --vae the config is for a VAE"):
        draft(128, "--vae", "madebyollin/taesd3")
    with pytest.raises(UserError, match=r"^--vae: .*has no config\.json"):
        (tmp_path / "empty").mkdir()
        draft(128, "--vae", str(tmp_path / "empty"))
    coarse = tmp_path / "coarse"
    AutoencoderTiny(encoder_block_out_channels=(4,) * 5, decoder_block_out_channels=(4,) * 5, num_encoder_blocks=(1,) * 5,
                    num_decoder_blocks=(1,) * 5).save_pretrained(coarse)
    with pytest.raises(UserError, match="latents whose side is a multiple of 4, found a VAE that divides 32 px by 16;"):
        draft(24, "--vae", str(coarse))
    assert draft(24, "--vae", str(tiny))[0].dataset_params.latent_size == 4


def test_a_config_of_another_latent_shape_is_told_the_right_one(tiny: Path, draft) -> None:
    draft(128, "--vae", str(tiny))
    wrong = load_config(tiny.parent / "my.yaml", ["dataset_params.z_channels=4", "dataset_params.latent_size=32"])
    with pytest.raises(UserError, match=r"expected z_channels: 16 and latent_size: 16 for the VAE in .*tiny and images of "
                                        r"128 px, found z_channels: 4 and latent_size: 32; set both keys as expected"):
        find_autoencoder(wrong)
