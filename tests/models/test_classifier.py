"""The small classifier: it learns, does not look across its batch, and comes back from disk as it was."""

import json

import pytest
import torch
import torch.nn.functional as F

from config.errors import UserError
from models.classifier import CONFIG_FILE, WEIGHTS_FILE, Classifier, ClassifierConfig


def _model(**changes):
    torch.manual_seed(0)
    return Classifier(ClassifierConfig(**{"im_channels": 1, "num_classes": 2, "image_size": 64, **changes}))


def _write(model, folder):
    for name, data in model.to_files().items():
        (folder / name).write_bytes(data)


@pytest.mark.parametrize(("size", "channels"), [(32, 1), (64, 1), (64, 3), (96, 1), (128, 3)])
def test_shapes_and_size(size, channels):
    model = _model(image_size=size, im_channels=channels, num_classes=3)
    x = torch.rand(2, channels, size, size) * 2 - 1
    assert model.features(x).shape == (2, model.dimension) == (2, 128)
    assert model(x).shape == (2, 3)
    assert 250_000 < sum(p.numel() for p in model.parameters()) < 350_000


def test_output_does_not_depend_on_the_batch():
    model = _model().eval()
    x = torch.randn(5, 1, 64, 64)
    with torch.no_grad():
        assert torch.allclose(model(x)[3:4], model(x[3:4]), atol=1e-5)


def test_learns_texture_that_the_mean_does_not_show():
    """Classes differ in the direction of a grating of random phase only."""
    generator = torch.Generator().manual_seed(0)

    def draw(count):
        labels = torch.arange(count) % 2
        phase = torch.rand(count, 1, 1, generator=generator) * 6.28
        axis = torch.arange(32.0)
        waves = torch.where(labels[:, None, None] == 1, axis[None, :, None], axis[None, None, :])
        images = torch.sin(waves * 1.2 + phase).expand(count, 32, 32)
        return (images + 0.5 * torch.randn(count, 32, 32, generator=generator))[:, None].clamp(-1, 1), labels

    model = _model(image_size=32)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    for _ in range(40):
        x, y = draw(32)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    model.eval()
    x, y = draw(200)
    with torch.no_grad():
        assert (model(x).argmax(dim=1) == y).float().mean() > 0.95


def test_comes_back_from_its_files(tmp_path):
    model = _model(widths=(16, 32), dropout=0.3).eval()
    _write(model, tmp_path)
    loaded = Classifier.from_folder(tmp_path)
    x = torch.randn(2, 1, 64, 64)
    assert loaded.config == model.config and not loaded.training
    with torch.no_grad():
        assert torch.equal(loaded(x), model(x))
    assert loaded.to_files() == model.to_files()


def test_refuses_what_is_not_its_file(tmp_path):
    with pytest.raises(UserError, match=r"classifier\.json: expected a trained classifier"):
        Classifier.from_folder(tmp_path)
    _write(_model(), tmp_path)
    config = json.loads((tmp_path / CONFIG_FILE).read_text())
    (tmp_path / CONFIG_FILE).write_text(json.dumps(config | {"num_classes": 4}))
    with pytest.raises(UserError, match=r"weights that fit classifier\.json"):
        Classifier.from_folder(tmp_path)
    (tmp_path / CONFIG_FILE).write_text(json.dumps(config | {"depth": 4}))
    with pytest.raises(UserError, match="keys of a classifier's config"):
        Classifier.from_folder(tmp_path)
    (tmp_path / CONFIG_FILE).write_text(json.dumps(config | {"format": 99}))
    with pytest.raises(UserError, match="of format 2 or earlier"):
        Classifier.from_folder(tmp_path)
    (tmp_path / CONFIG_FILE).write_text("{")
    with pytest.raises(UserError, match="not readable as JSON"):
        Classifier.from_folder(tmp_path)
    (tmp_path / CONFIG_FILE).write_text(json.dumps(config))
    (tmp_path / WEIGHTS_FILE).write_bytes(b"broken")
    with pytest.raises(UserError, match="a broken file"):
        Classifier.from_folder(tmp_path)


@pytest.mark.parametrize("size", [32, 64, 96, 128, 256])
def test_normalised_and_attentive_classifiers_come_back_too(size, tmp_path):
    model = _model(image_size=size, norm="batch", pooling="attention", trunk_size=32, stem_width=16, widths=(16, 32)).eval()
    x = torch.rand(2, 1, size, size) * 2 - 1
    maps = model.stem(x)
    assert maps.shape[1] == 16 and maps.shape[2] in (16, 24, 32) and model.features(x).shape == (2, 32)
    _write(model, tmp_path)
    with torch.no_grad():
        assert torch.equal(Classifier.from_folder(tmp_path)(x), model(x))


def test_attention_begins_as_the_mean_and_can_single_out_one_place():
    model, x = _model(norm="batch", pooling="attention").eval(), torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        maps = F.silu(model.norm(model.stages(model.stem(x))))
        assert torch.allclose(model.features(x), maps.mean(dim=(2, 3)), atol=1e-6)
        model.attention.weight[0, 5] = 1e6
        place = maps[0, 5].flatten().argmax()
        assert torch.allclose(model.features(x)[0], maps[0].flatten(1)[:, place], atol=1e-4)


def test_classifiers_of_the_first_format_are_still_read(tmp_path):
    """Their config lacks the later keys, and their weights have these names."""
    model = _model(widths=(16, 32)).eval()
    _write(model, tmp_path)
    config = json.loads((tmp_path / CONFIG_FILE).read_text())
    first = {key: config[key] for key in ("im_channels", "num_classes", "image_size", "widths", "norm_groups", "dropout")}
    (tmp_path / CONFIG_FILE).write_text(json.dumps({"format": 1, **first}))
    loaded, x = Classifier.from_folder(tmp_path), torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded(x), model(x))
    assert [name for name, _ in loaded.named_parameters()] == [
        "stem.0.weight", "stem.0.bias", "stem.2.weight", "stem.2.bias",
        *(f"stages.0.{name}" for name in ("norm1.weight", "norm1.bias", "conv1.weight", "norm2.weight", "norm2.bias",
                                          "conv2.weight")),
        *(f"stages.1.{name}" for name in ("norm1.weight", "norm1.bias", "conv1.weight", "norm2.weight", "norm2.bias",
                                          "conv2.weight", "skip.weight")),
        "norm.weight", "norm.bias", "head.weight", "head.bias"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"norm": "layer"}, "norm of group or batch"),
        ({"pooling": "max"}, "pooling of mean or attention"),
        ({"im_channels": 2}, "im_channels of 1 or 3"),
        ({"num_classes": 1}, "at least 2 classes"),
        ({"image_size": 16}, "at least 32 px"),
        ({"widths": (30,)}, "multiples of 8"),
        ({"dropout": 1.0}, r"dropout in \[0, 1\)"),
    ],
)
def test_refuses_impossible_configs(changes, words):
    with pytest.raises(UserError, match=words):
        _model(**changes)
