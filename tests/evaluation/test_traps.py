"""Traps of evaluation that no other test holds shut: rounding, lossless files, dropout and the two normalisations.

Held elsewhere: exact arithmetic and autocast (test_encoders), antialiasing by preset (test_inception), LPIPS weights in the
wrong place and inputs in [0, 1] (test_lpips_distance), float32 distances between near copies (test_neighbours).
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from dataset.decoding import decode_image
from dataset.images import from_uint8, to_uint8, write_png
from models.classifier import Classifier, ClassifierConfig
from tools.evaluation.encoders.encoder import load_encoder
from tools.evaluation.encoders.inception import preprocess


def test_pixels_are_rounded_where_truncation_would_darken_them() -> None:
    levels = np.arange(256, dtype=np.uint8)
    assert np.array_equal(to_uint8(from_uint8(levels)), levels)
    values = np.random.default_rng(0).uniform(-1, 1, 10_000)
    exact = (values + 1) * 127.5
    assert np.abs(to_uint8(values) - exact).max() <= 0.5
    assert abs((to_uint8(values) - exact).mean()) < 0.02  # truncation would be half a level too dark


def test_png_files_give_the_pixels_back(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    write_png(tmp_path / "image.png", pixels)
    assert np.array_equal(decode_image(tmp_path / "image.png"), pixels)


def test_a_classifier_left_in_training_mode_encodes_without_dropout(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Classifier(ClassifierConfig(im_channels=1, num_classes=2, image_size=32, dropout=0.5)).train()
    for name, data in model.to_files().items():
        (tmp_path / name).write_bytes(data)
    encoder = load_encoder("classifier", weights_path=tmp_path)
    assert not any(module.training for module in encoder._network.modules())


def test_the_two_normalisations_are_not_swapped() -> None:
    """(x - 128) / 128 and x / 127.5 - 1: equal at black, a level apart at white."""
    black, white = (np.full((1, 299, 299, 3), level, np.uint8) for level in (0, 255))
    assert preprocess(black, "tf1").min() == preprocess(black, "pytorch").min() == -1
    assert preprocess(white, "tf1").max() == pytest.approx(127 / 128)
    assert preprocess(white, "pytorch").max() == pytest.approx(1.0)
