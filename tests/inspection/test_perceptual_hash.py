"""The same picture is found again after what programs do to it, another picture is not, and crowds stay linear."""

import cv2
import numpy as np
import pytest

from tools.inspection import perceptual_hash
from tools.inspection.perceptual_hash import find_same_pictures, hash_thumbnails, join_pairs, make_thumbnail

RNG = np.random.default_rng(5)


def picture(rng: np.random.Generator, side: int = 96) -> np.ndarray:
    coarse = cv2.resize(rng.normal(128, 40, (7, 7)).astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
    return np.clip(coarse + rng.normal(0, 4, (side, side)), 0, 255).astype(np.float32)


def as_jpeg(gray: np.ndarray, quality: int) -> np.ndarray:
    data = cv2.imencode(".jpg", gray.astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(data, cv2.IMREAD_UNCHANGED).astype(np.float32)


@pytest.mark.parametrize("change", [
    lambda x: as_jpeg(x, 60), lambda x: cv2.resize(x, (48, 48), interpolation=cv2.INTER_AREA), lambda x: x * 0.6 + 30,
    lambda x: x * 257, lambda x: cv2.GaussianBlur(x, None, 1),
], ids=["jpeg", "halved", "fainter", "16 bits", "blurred"])
def test_the_same_picture_is_found_again(change):
    originals = [picture(RNG) for _ in range(12)]
    thumbnails = np.stack([make_thumbnail(x) for x in [*originals, *map(change, originals)]])
    assert sorted(find_same_pictures(thumbnails)) == [(i, i + 12) for i in range(12)]


def test_other_pictures_mirrored_and_flat_ones_are_not():
    one = picture(RNG)
    flat = np.full((96, 96), 7, np.float32)
    thumbnails = np.stack([make_thumbnail(x) for x in (one, one[:, ::-1].copy(), 255 - one, picture(RNG), flat, flat + 9)])
    assert list(find_same_pictures(thumbnails)) == []


def test_a_hash_does_not_depend_on_brightness_and_contrast():
    one = picture(RNG)
    hashes = hash_thumbnails(np.stack([make_thumbnail(one), make_thumbnail(one * 0.5 + 60), make_thumbnail(picture(RNG))]))
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_crowd_is_joined_through_its_neighbours_in_linear_work(monkeypatch):
    calls = []
    correlate = perceptual_hash._correlated

    def count(thumbnails, first, second):
        calls.append(len(first))
        return correlate(thumbnails, first, second)

    monkeypatch.setattr(perceptual_hash, "_correlated", count)
    thumbnails = np.repeat(make_thumbnail(picture(RNG))[None], 500, axis=0)
    assert join_pairs(list(find_same_pictures(thumbnails))) == [list(range(500))]
    assert sum(calls) <= 500 * 32 * 4  # all pairs of one band would be 124,750


def test_pairs_are_joined_to_sets():
    assert join_pairs([(5, 9), (1, 2), (2, 7), (9, 4)]) == [[1, 2, 7], [4, 5, 9]]
    assert join_pairs([]) == []
