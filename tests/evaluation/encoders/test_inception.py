"""The FID network and its presets against torch-fidelity, PIL and closed forms; what loads and what is refused."""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from config.errors import UserError
from config.schema import INCEPTION_FILE
from tools.evaluation.encoders.encoder import load_encoder
from tools.evaluation.encoders.inception import (
    ADDRESS,
    STATE_DICT_SHA256,
    FidInception,
    load_inception,
    open_torchscript,
    preprocess,
)


@pytest.fixture(scope="module")
def random_weights(tmp_path_factory):
    """A state dict of lively random weights: He-scaled, with running statistics that are not the identity."""
    torch.manual_seed(0)
    network = FidInception()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0.0, 0.1)
                module.running_var.uniform_(0.8, 1.2)
                module.bias.normal_(0.1, 0.1)
    path = tmp_path_factory.mktemp("inception") / "random.pth"
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def encoder(random_weights):
    return load_encoder("inception", weights_path=random_weights)


def _images(count, height=64, width=64, channels=3):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, height, width, channels), dtype=np.uint8)


@pytest.mark.parametrize("size", [(64, 48), (320, 310)])
def test_equals_torch_fidelity(random_weights, encoder, size):
    oracle = FeatureExtractorInceptionV3("oracle", ["2048"], feature_extractor_weights_path=str(random_weights))
    images = _images(2, *size)
    with torch.no_grad():
        expected = oracle(torch.from_numpy(images).permute(0, 3, 1, 2))[0].numpy()
    ours = encoder.encode(images)
    assert np.abs(expected).max() > 0.1
    assert np.abs(ours - expected).max() <= 1e-5 * np.abs(expected).max()


def test_features_do_not_depend_on_batch_or_on_gray_as_rgb(encoder):
    gray = _images(3, channels=1)
    together = encoder.encode(gray, batch_size=3)
    assert np.abs(encoder.encode(gray, batch_size=1) - together).max() <= 1e-5 * np.abs(together).max()
    assert np.array_equal(encoder.encode(np.repeat(gray, 3, axis=3), batch_size=3), together)


def test_presets_map_128_to_zero_and_differ_in_antialiasing():
    flat = np.full((1, 400, 400, 3), 128, np.uint8)
    stripes = np.zeros((1, 598, 598, 3), np.uint8)
    stripes[:, :, ::2] = 255
    for preset in ("tf1", "clean"):
        assert preprocess(flat, preset).shape == (1, 3, 299, 299)
        assert preprocess(flat, preset).abs().max() < 1e-6
        assert preprocess(np.full((1, 9, 9, 3), 255, np.uint8), preset).max() == pytest.approx(127 / 128)
    assert preprocess(stripes, "tf1").mean() == pytest.approx(127 / 128)  # every second column, aliased
    assert preprocess(stripes, "clean").mean() == pytest.approx((127.5 - 128) / 128, abs=0.01)


def test_tf1_puts_source_corners_at_the_origin():
    ramp = np.broadcast_to(np.arange(10, dtype=np.uint8)[None, None, :, None] * 20, (1, 299, 10, 3))
    row = preprocess(ramp, "tf1")[0, 0, 0] * 128 + 128
    position = np.minimum(np.arange(299) * 10 / 299, 9)
    assert row.numpy() == pytest.approx(20 * position, abs=1e-3)


def test_clean_equals_pil_in_float_without_rounding():
    image = _images(1, 70, 50)
    expected = np.stack(
        [
            np.asarray(
                Image.fromarray(image[0, :, :, c].astype(np.float32)).resize((299, 299), Image.Resampling.BICUBIC)
            )
            for c in range(3)
        ]
    ).clip(0, 255)
    ours = preprocess(image, "clean")[0].numpy() * 128 + 128
    assert ours == pytest.approx(expected, abs=1e-3)
    assert np.abs(expected - expected.round()).max() > 0.4


def test_random_weights_are_not_called_fid(encoder):
    assert not encoder.literature_comparable
    assert encoder.space == f"inception@{encoder.weights_sha256[:8]},tf1"
    assert encoder.dimension == 2048


def test_absent_file_says_what_and_where(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for path in (None, tmp_path / "absent.pth", tmp_path):
        with pytest.raises(UserError) as caught:
            load_encoder("inception", weights_path=path)
        message = str(caught.value)
        for words in (INCEPTION_FILE, STATE_DICT_SHA256, ADDRESS, "evaluation_params.inception_path"):
            assert words in message
        assert "\n" not in message


@pytest.mark.parametrize("name", [INCEPTION_FILE, "weights-inception-2015-12-05-6726825d.pth"])
def test_each_published_name_is_found_in_a_folder_and_in_the_cache(random_weights, encoder, tmp_path, monkeypatch, name):
    """pytorch-fid and torch-fidelity publish one state dict under two names; old files lack the counters of batches."""
    state = torch.load(random_weights, weights_only=True)
    kept = {key: tensor for key, tensor in state.items() if not key.endswith("num_batches_tracked")}
    assert len(kept) < len(state)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(kept, folder / name)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    expected = encoder.encode(_images(1))
    for path in (folder, folder / name, None):
        assert np.array_equal(load_encoder("inception", weights_path=path).encode(_images(1)), expected)


def test_other_weights_are_refused(tmp_path, random_weights):
    state = torch.load(random_weights, weights_only=True)
    state["fc.weight"] = state["fc.weight"][:1000]  # torchvision's inception_v3 has 1000 classes
    torch.save(state, tmp_path / "torchvision.pth")
    with pytest.raises(UserError, match="inception_v3 is another network"):
        load_inception(tmp_path / "torchvision.pth")
    with pytest.raises(UserError, match="preset among tf1, clean"):
        load_encoder("inception", weights_path=random_weights, preset="legacy")


class _Wrapped(nn.Module):
    """The shape of the TorchScript release: an outer module that resizes, inner `layers` that do not."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, x):
        return self.layers(x * 2)


def test_torchscript_is_entered_past_its_resizing_and_only_with_the_known_hash(tmp_path):
    path = tmp_path / "scripted.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(_Wrapped()).save(str(path))
    x = torch.rand(2, 3, 299, 299)
    assert torch.allclose(open_torchscript(path)(x), x.mean(dim=(2, 3)))
    with pytest.raises(UserError, match="could not read"):
        load_inception(path)
