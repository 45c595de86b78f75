"""Real images made worse in known ways: each way moves the metric that is there to see it, and leaves those that are not.

300 held-out sperm images of MHSMA (64 px) stand for the real ones, 600 of its training images for a perfect generator.
"""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tools.evaluation.encoders.encoder import Encoder, load_encoder
from tools.evaluation.frechet import frechet_distance
from tools.evaluation.kernel import kernel_distance
from tools.evaluation.neighbours import NeighbourScores, neighbour_scores
from tools.evaluation.pairs import inner_pairs
from tools.evaluation.references import add_noise, blur
from tools.evaluation.ssim import pairwise_ssim
from tools.evaluation.two_sample import two_sample_test

LABEL = "head_abnormal"


@dataclass(frozen=True)
class Data:
    """Held-out and training images uint8 (N, 64, 64, 1), their labels, and features float32 (N, 512)."""

    encoder: Encoder
    real: np.ndarray
    good: np.ndarray
    real_labels: np.ndarray
    good_labels: np.ndarray
    of_real: np.ndarray
    of_good: np.ndarray

    def scores(self, features: np.ndarray) -> NeighbourScores:
        return neighbour_scores(self.of_real, features)


def read(folder: Path, split: str, limit: int) -> tuple[np.ndarray, np.ndarray]:
    with (folder / f"{split}.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))[:limit]
    images = [np.asarray(Image.open(folder / "images" / f"{row['IMAGE_NAME']}.png").convert("L")) for row in rows]
    return np.stack(images)[..., None], np.array([int(row[LABEL]) for row in rows])


@pytest.fixture(scope="module")
def data(shared: Path) -> Data:
    folder = shared / "data" / "mhsma64"
    encoder = load_encoder("squeezenet1_1", weights_path=shared / "weights" / "lpips_squeeze", preset="imagenet-min64")
    real, real_labels = read(folder, "test", 300)
    good, good_labels = read(folder, "train", 600)
    return Data(encoder, real, good, real_labels, good_labels, encoder.encode(real), encoder.encode(good))


def names(count: int, prefix: str) -> list[str]:
    return [f"{prefix}{i}" for i in range(count)]


def told_apart(x: np.ndarray, y: np.ndarray) -> float:
    return two_sample_test(x, y, names(len(x), "x"), names(len(y), "y"), repeats=0, seed=0).area


@pytest.mark.parametrize("spoil", [blur, lambda images: add_noise(add_noise(add_noise(images)))], ids=["blur", "noise"])
def test_blur_and_noise_raise_distances(data: Data, spoil: Callable[[np.ndarray], np.ndarray]) -> None:
    good = data.of_good[:300]
    bad = data.encoder.encode(spoil(data.good[:300]))
    assert frechet_distance(bad, data.of_real) > 2 * frechet_distance(good, data.of_real)
    assert kernel_distance(bad, data.of_real) > kernel_distance(good, data.of_real)
    assert told_apart(bad, data.of_real) > 0.9 > 0.65 > told_apart(good, data.of_real)


def test_swapped_classes_move_distances_per_class_and_not_the_overall_one(data: Data) -> None:
    for label in (0, 1):
        right, swapped = (data.of_good[data.good_labels == other] for other in (label, 1 - label))
        real = data.of_real[data.real_labels == label]
        assert kernel_distance(swapped, real) > 3 * abs(kernel_distance(right, real))


def test_a_dropped_class_costs_distance_in_that_class_only(data: Data) -> None:
    """Every image shows class 0, whatever its label."""
    of_zero = data.of_good[data.good_labels == 0]
    first, second = of_zero[::2], of_zero[1::2]
    real = [data.of_real[data.real_labels == label] for label in (0, 1)]
    dropped, intact = kernel_distance(second, real[1]), kernel_distance(first, real[0])
    assert dropped > 2 * intact
    assert kernel_distance(of_zero, data.of_real) > kernel_distance(data.of_good, data.of_real)


def test_a_dropped_mode_costs_recall_and_coverage_and_no_precision(data: Data) -> None:
    centred = data.of_real - data.of_real.mean(axis=0)
    axis = np.linalg.svd(centred, full_matrices=False)[2][0]
    kept = data.of_good[(data.of_good - data.of_real.mean(axis=0)) @ axis > 0]
    whole, part = data.scores(data.of_good[: len(kept)]), data.scores(kept)
    assert part.recall < whole.recall - 0.1 and part.coverage < whole.coverage - 0.2
    assert part.precision > whole.precision - 0.05
    assert frechet_distance(kept, data.of_real) > 2 * frechet_distance(data.of_good[: len(kept)], data.of_real)


def test_duplicates_cost_recall_and_coverage_and_hardly_precision(data: Data) -> None:
    """Four images over and over. The mean similarity of pairs hardly sees them, where the four are unlike each other."""
    chosen = np.arange(300) % 4
    whole, repeated = data.scores(data.of_good[:300]), data.scores(data.of_good[chosen])
    assert repeated.recall < 0.3 * whole.recall and repeated.coverage < 0.5 * whole.coverage
    assert repeated.precision > whole.precision - 0.25


def test_a_collapse_to_one_image_raises_the_similarity_of_synthetic_pairs(data: Data) -> None:
    collapsed = add_noise(data.good[:1].repeat(60, axis=0))
    pairs = inner_pairs(np.zeros(60), limit=300, seed=0)
    real, good, bad = (pairwise_ssim(x, x, pairs).mean() for x in (data.real[:60], data.good[:60], collapsed))
    assert abs(good - real) < 0.05 < 0.15 < bad - real
