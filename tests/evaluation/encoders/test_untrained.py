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
from tools.evaluation.encoders.config_weights import hash_evaluation_weights, list_encoders, open_encoder
from tools.evaluation.encoders.encoder import ENCODERS, load_encoder, make_untrained
from tools.evaluation.encoders.untrained import DEFINITIONS, UNTRAINED, UntrainedDefinition, build_untrained

DEMO = Path(__file__).parents[3] / "config/demo.yaml"
# Features 0, 1, a third, two thirds and the last of the image of `formula_image`, and their root mean square.
STORED = {
    "untrained_conv": (0.6732367, 0.5769712, 0.0092689, 0.6183792, 0.1781874, 0.4463841),
    "untrained_texture": (4.0622067, 3.7519412, 0.3958024, -0.516006, -0.0773256, 1.387517),
}


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


def mean_and_spread(weight: np.ndarray) -> np.ndarray:
    """Of plain correlations of the formula's image with each filter, in float64."""
    maps = (formula_image()[0].transpose(2, 0, 1) / 255.0 - 0.5) / 0.25
    answers = [np.maximum(sum(correlate(of, kernel, mode="mirror") for of, kernel in zip(maps, kernels, strict=True)), 0.0)
               for kernels in weight]
    return np.array([*(answer.mean() for answer in answers), *(answer.std() for answer in answers)])


@pytest.mark.parametrize("texture", [False, True])
def test_features_of_one_stage_are_what_plain_correlations_give(texture: bool) -> None:
    definition = UntrainedDefinition((8,), texture=texture)
    [[weight]] = build_untrained(definition).stages
    expected = mean_and_spread(weight.numpy())
    if texture:
        logarithms = np.log(expected + 1e-3)
        red, green, blue = ((formula_image()[0] / 255.0 - 0.5) / 0.25).mean(axis=(0, 1))
        overall = [logarithms.mean(), 0.3 * (red + green + blue) / 3, 3 * (red - green), 3 * (blue - green)]
        expected = np.concatenate([logarithms - logarithms.mean(), 0.3 * 4 * np.array(overall)])  # 4 = sqrt(16 features)
    [features] = make_untrained("untrained_test", definition).encode(formula_image())
    assert features == pytest.approx(expected, rel=1e-4, abs=1e-4) and len(features) == definition.dimension


def test_texture_is_apart_from_brightness_and_contrast() -> None:
    encoder = load_encoder("untrained_texture", weights_path=None)
    noise = np.random.default_rng(0).integers(-40, 41, (1, 64, 64, 1))
    made = [(values + 128).astype(np.uint8) for values in (noise, noise + 30, 2 * noise)]
    plain, brighter, stronger = (encoder.encode(images)[0] for images in made)
    assert brighter[:-4] == pytest.approx(plain[:-4], abs=1e-3) and brighter[-3] > plain[-3] + 0.1
    assert stronger[:-4] == pytest.approx(plain[:-4], abs=0.1)
    alike = (encoder.dimension - 4) / 4
    assert stronger[-4] - plain[-4] == pytest.approx(0.3 * np.sqrt(alike) * np.log(2), rel=0.05)
    smooth = np.repeat(np.repeat(noise[:, ::2, ::2], 2, axis=1), 2, axis=2)
    assert np.abs(encoder.encode((smooth + 128).astype(np.uint8))[0] - plain)[:-4].max() > 0.5


@pytest.mark.parametrize("name", UNTRAINED)
def test_weights_keep_the_scale_of_what_passes(name: str) -> None:
    """Variance 2 / fan-in: what a stage puts out is neither lost nor blown up in the next."""
    for stage in build_untrained(DEFINITIONS[name]).stages:
        for weight in stage:
            fan_in = weight[0].numel()
            assert float(weight.mean()) == pytest.approx(0.0, abs=4 * np.sqrt(2 / fan_in / weight.numel()))
            assert float(weight.var()) == pytest.approx(2 / fan_in, rel=0.15)
            sums = float(weight.sum(dim=(2, 3)).abs().max())
            assert sums < 1e-5 if DEFINITIONS[name].texture else sums > 0.1


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
    assert list_encoders(plain.evaluation_params.encoders) == ["classifier", "inception", *UNTRAINED]
    for name in UNTRAINED:
        named = load_config(DEMO, [f"evaluation_params.encoders=[{name}, classifier]"]).evaluation_params
        assert list_encoders(named.encoders) == [name, "classifier", *(other for other in UNTRAINED if other != name)]
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
    assert changed.space != encoder.space
    assert not np.allclose(changed.encode(formula_image()), encoder.encode(formula_image()), rtol=1e-2)
    assert hash_evaluation_weights(config) != before
