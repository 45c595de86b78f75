"""Networks that were never trained: equal on every machine, independent of torch's generator, sensitive to colour."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate

from config.errors import UserError
from config.load import load_config
from config.schema import EvaluationParams
from tools.evaluation.encoders import ENCODERS, load_encoder
from tools.evaluation.untrained import DEFINITIONS, UNTRAINED, UntrainedNetwork
from tools.runtime.evaluation_weights import hash_evaluation_weights, list_encoders, open_encoder

DEMO = Path(__file__).parents[2] / "config/demo.yaml"
# Features 0, 1, a third, two thirds and the last of the image of `formula_image`, and their root mean square.
STORED = {"untrained_conv": (0.9101686, 0.7693929, 0.1875041, 0.1700393, 0.194689, 0.7275414)}


def formula_image() -> np.ndarray:
    """One colour image, uint8 (1, 48, 64, 3), made of whole numbers only."""
    row, column, channel = np.meshgrid(np.arange(48), np.arange(64), np.arange(3), indexing="ij")
    return ((row * column * 5 + row * row * (channel + 1) + 37 * column + 60 * channel) % 256).astype(np.uint8)[None]


@pytest.mark.parametrize("name", UNTRAINED)
def test_features_are_the_stored_numbers_whatever_torchs_generator_says(name: str) -> None:
    torch.manual_seed(5)
    encoder = load_encoder(name, weights_path=None)
    state = torch.get_rng_state()
    [features] = encoder.encode(formula_image()).astype(np.float64)
    places = [0, 1, encoder.dimension // 3, 2 * encoder.dimension // 3, -1]
    found = (*features[places], float(np.sqrt(np.mean(features**2))))
    assert found == pytest.approx(STORED[name], rel=1e-5, abs=1e-5)
    torch.manual_seed(6)
    assert np.array_equal(load_encoder(name, weights_path=None).encode(formula_image())[0], features.astype(np.float32))
    torch.manual_seed(5)
    assert torch.equal(torch.get_rng_state(), state)  # loading and encoding drew nothing


@pytest.mark.parametrize("name", UNTRAINED)
def test_the_first_stage_is_mean_and_spread_of_plain_correlations(name: str) -> None:
    definition = DEFINITIONS[name]
    first = UntrainedNetwork(definition).stages[0]
    maps = (formula_image()[0].transpose(2, 0, 1) / 255.0 - 0.5) / 0.25
    for weight in first:
        maps = np.stack([np.maximum(sum(correlate(of, kernel, mode="mirror") for of, kernel in
                                        zip(maps, kernels, strict=True)), 0.0) for kernels in weight.numpy()])
    expected = np.concatenate([maps.mean(axis=(1, 2)), maps.std(axis=(1, 2))])
    features = load_encoder(name, weights_path=None).encode(formula_image())[0]
    assert features[: len(expected)] == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("name", UNTRAINED)
def test_weights_keep_the_scale_of_what_passes(name: str) -> None:
    """Normal with variance 2 / fan-in: what a stage puts out is neither lost nor blown up in the next."""
    for stage in UntrainedNetwork(DEFINITIONS[name]).stages:
        for weight in stage:
            fan_in = weight[0].numel()
            assert float(weight.mean()) == pytest.approx(0.0, abs=4 * np.sqrt(2 / fan_in / weight.numel()))
            assert float(weight.var()) == pytest.approx(2 / fan_in, rel=0.15)


@pytest.mark.parametrize("name", UNTRAINED)
@pytest.mark.parametrize("size", [32, 50, 128])
def test_sizes_and_gray(name: str, size: int) -> None:
    encoder = load_encoder(name, weights_path=None)
    gray = np.random.default_rng(0).integers(0, 256, (2, size, size, 1), dtype=np.uint8)
    features = encoder.encode(gray)
    assert np.isfinite(features).all() and features.shape == (2, encoder.dimension)
    assert np.array_equal(features, encoder.encode(gray.repeat(3, axis=3)))
    tinted = gray.repeat(3, axis=3)
    tinted[..., 0] //= 2
    assert np.abs(encoder.encode(tinted) - features).max() > 0.01 * np.abs(features).max()


def test_the_config_may_name_them_and_they_are_listed_once() -> None:
    [field] = [field for field in fields(EvaluationParams) if field.name == "encoders"]
    assert set(UNTRAINED) < set(ENCODERS) == set(field.metadata["choices"])
    plain = load_config(DEMO)
    assert list_encoders(plain) == ["classifier", "inception", *UNTRAINED]
    for name in UNTRAINED:
        named = load_config(DEMO, [f"evaluation_params.encoders=[{name}, classifier]"])
        assert list_encoders(named) == [name, "classifier", *(other for other in UNTRAINED if other != name)]
        assert open_encoder(named, name, vae_folder=Path("absent")).name == name
        with pytest.raises(UserError, match="preset among"):
            load_encoder(name, weights_path=None, preset="tf1")


def test_another_definition_is_another_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """The definition is in the metric's name and in the keys of stored evaluations."""
    name, config = UNTRAINED[0], load_config(DEMO)
    definition, before = DEFINITIONS[name], hash_evaluation_weights(config)
    encoder = load_encoder(name, weights_path=None)
    assert encoder.weights_sha256 == definition.sha256()
    other = type(definition)(**{**vars(definition), "seed": definition.seed + 1})
    monkeypatch.setitem(DEFINITIONS, name, other)
    changed = load_encoder(name, weights_path=None)
    assert changed.metric_name("KD") != encoder.metric_name("KD")
    assert not np.allclose(changed.encode(formula_image()), encoder.encode(formula_image()), rtol=1e-2)
    assert hash_evaluation_weights(config) != before
