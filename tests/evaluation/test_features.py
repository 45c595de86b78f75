"""The feature cache: what determines a feature is in its key, damage is named, images are read on a miss only."""

import json
import logging
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from config.errors import UserError
from dataset.ranks import Ranks
from dataset.storage import hash_bytes
from tools.evaluation.features import cached_features
from tools.evaluation.image_set import ReadOnDemand


class MeanEncoder:
    """A real, tiny encoder: mean and deviation of each channel, times what stands for its weights."""

    def __init__(self, weight=1.0, preset="plain"):
        self.name, self.preset, self.dimension = "mean", preset, 2
        self.weights_sha256 = hash_bytes(str(weight).encode())
        self.literature_comparable = False
        self.weight, self.space = weight, self.name
        self.encoded = 0

    def encode(self, images, *, batch_size=32, progress=None):  # noqa: ARG002
        self.encoded += len(images)
        values = images.astype(np.float32) * self.weight
        return np.stack([values.mean(axis=(1, 2, 3)), values.std(axis=(1, 2, 3))], axis=1)


class BatchEncoder(MeanEncoder):
    """One whose features tell which images were in a batch together, and which hold a negative zero."""

    def encode(self, images, *, batch_size=32, progress=None):
        values = super().encode(images, batch_size=batch_size, progress=progress)
        for start in range(0, len(values), batch_size):
            values[start:start + batch_size, 0] = images[start:start + batch_size].mean()
        values[:, 1] = -0.0
        return values


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (600, 8, 8, 1), dtype=np.uint8)  # past two chunks


def _arguments(image_array, **changes):
    arguments = {
        "encoder": MeanEncoder(),
        "images": lambda: image_array,
        "ids": [f"image{i}" for i in range(len(image_array))],
        "labels": np.arange(len(image_array)) % 2,
        "groups": [f"patient{i // 3}" for i in range(len(image_array))],
        "image_sha256": [hash_bytes(image.tobytes()) for image in image_array],
        "transform_hash": "t0",
        "split": "test",
    }
    return arguments | changes


def _never():
    raise AssertionError("images were decoded on a hit")


def test_hit_returns_the_same_without_decoding(tmp_path, images):
    first = cached_features(tmp_path, **_arguments(images))
    again = cached_features(tmp_path, **_arguments(images, images=_never))
    assert np.array_equal(first.values, again.values) and first.values.dtype == np.float32
    assert first.key == again.key and first.ids == again.ids and first.groups == again.groups
    assert first.labels.dtype == np.int64 and np.array_equal(first.labels, again.labels)
    assert np.array_equal(first.values, MeanEncoder().encode(images))


def _change_pixel(images):
    changed = images.copy()
    changed[5, 0, 0, 0] ^= 1
    return _arguments(changed)


CHANGES = {
    "images": _change_pixel,
    "labels": lambda images: _arguments(images, labels=1 - np.arange(len(images)) % 2),
    "groups": lambda images: _arguments(images, groups=[f"p{i}" for i in range(len(images))]),
    "ids": lambda images: _arguments(images, ids=[f"i{i}" for i in range(len(images))]),
    "weights_sha256": lambda images: _arguments(images, encoder=MeanEncoder(weight=1.5)),
    "preset": lambda images: _arguments(images, encoder=MeanEncoder(preset="other")),
    "transform_hash": lambda images: _arguments(images, transform_hash="t1"),
}


@pytest.mark.parametrize("field", list(CHANGES))
def test_a_change_is_named_and_recomputed(tmp_path, images, caplog, field):
    first = cached_features(tmp_path, **_arguments(images))
    arguments = CHANGES[field](images)
    with caplog.at_level(logging.WARNING):
        changed = cached_features(tmp_path, **arguments)
    assert f"differs in {field}; computed anew" in caplog.text
    assert "mean_test.npz" in caplog.text
    assert arguments["encoder"].encoded == len(images)
    assert changed.key != first.key
    assert cached_features(tmp_path, **arguments | {"images": _never}).key == changed.key


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "text"])
def test_a_damaged_file_is_named_and_recomputed(tmp_path, images, caplog, damage):
    first = cached_features(tmp_path, **_arguments(images))
    path = tmp_path / "mean_test.npz"
    data = bytearray(path.read_bytes())
    if damage == "truncate":
        data = data[: len(data) // 2]
    elif damage == "flip":
        data[300] ^= 0xFF  # inside the feature array
    elif damage == "empty":
        data = bytearray()
    else:
        data = bytearray(b"hello")
    path.write_bytes(bytes(data))
    with caplog.at_level(logging.WARNING):
        again = cached_features(tmp_path, **_arguments(images))
    assert "mean_test.npz" in caplog.text and "computed anew" in caplog.text
    assert np.array_equal(again.values, first.values)
    cached_features(tmp_path, **_arguments(images, images=_never))


class Trap:
    """Runs when it is unpickled."""

    def __reduce__(self):
        return pytest.fail, ("a pickle was loaded",)


@pytest.mark.parametrize("how", ["torch", "pickle", "object array"])
def test_a_pickle_in_the_place_of_features_is_never_loaded(tmp_path, images, caplog, how):
    path = tmp_path / "mean_test.npz"
    if how == "torch":
        torch.save({"features": Trap()}, path)
    elif how == "pickle":
        path.write_bytes(pickle.dumps(Trap()))
    else:
        with path.open("wb") as file:
            np.savez(file, features=np.array([Trap()], dtype=object), meta=np.array([Trap()], dtype=object))
    with caplog.at_level(logging.WARNING):
        found = cached_features(tmp_path, **_arguments(images))
    assert "truncated or damaged" in caplog.text and "computed anew" in caplog.text
    assert np.array_equal(found.values, MeanEncoder().encode(images))


def test_features_that_are_not_finite_are_refused(tmp_path, images):
    with pytest.raises(UserError, match=r"600 of 600 images have NaN or infinite features of encoder mean \(the first is"):
        cached_features(tmp_path, **_arguments(images, encoder=MeanEncoder(weight=np.nan)))
    assert not list(tmp_path.glob("*.npz"))


def test_splits_have_files_of_their_own_and_say_what_they_are(tmp_path, images):
    cached_features(tmp_path, **_arguments(images, split="train"))
    cached_features(tmp_path, **_arguments(images, split="test"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["PATIENT_DATA.txt", "mean_test.npz", "mean_train.npz"]
    with np.load(tmp_path / "mean_test.npz", allow_pickle=False) as stored:
        meta = json.loads(str(stored["meta"]))
        assert set(stored.files) == {"features", "meta", "ids", "labels", "groups", "image_sha256"}
        assert stored["ids"][3] == "image3" and stored["groups"][3] == "patient1"
    assert "patients' images" in meta["note"] and "patients' images" in (tmp_path / "PATIENT_DATA.txt").read_text()
    assert meta["encoder"] == "mean" and meta["dtype"] == "float32" and "torch" in meta


def test_select_slices_every_field(tmp_path, images):
    features = cached_features(tmp_path, **_arguments(images))
    ones = features.select(features.labels == 1)
    assert np.array_equal(ones.values, features.values[1::2])
    assert ones.ids == features.ids[1::2] and ones.groups == features.groups[1::2] and set(ones.labels) == {1}
    assert ones.key != features.key
    assert features.select([2, 0]).ids == ["image2", "image0"]


def test_a_generator_serves_as_images(tmp_path, images):
    done = []
    features = cached_features(tmp_path, **_arguments(images, images=lambda: iter(images), progress=done.append))
    assert len(features.values) == 600 and done == [256, 512, 600]


def encode_together(folder, image_array, encoders, **changes):
    """The features that threads get in the place of processes, one encoder each."""
    count = len(encoders)
    barrier, handed_in = threading.Barrier(count), [None] * count

    def gather(index, value):
        handed_in[index] = value
        barrier.wait(timeout=30)
        values = list(handed_in)
        barrier.wait(timeout=30)
        return values

    def work(index):
        ranks = Ranks(index, count, agree=lambda value: all(gather(index, value)),
                      join=lambda values: np.sum([part.view(np.uint8) for part in gather(index, values)], axis=0,
                                                 dtype=np.uint8).view(values.dtype))
        return cached_features(folder, **_arguments(image_array, encoder=encoders[index], ranks=ranks, **changes)).values

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(work, range(count)))


@pytest.mark.parametrize("batch_size", [32, 50, 300])  # the last two do not divide the number of images held at once
@pytest.mark.parametrize("count", [2, 5, 30])
def test_processes_that_share_the_encoding_write_the_bytes_of_one(tmp_path, images, count, batch_size):
    encoders = [BatchEncoder() for _ in range(count)]
    alone = cached_features(tmp_path / "alone", **_arguments(images, encoder=BatchEncoder(), batch_size=batch_size))
    lazy = ReadOnDemand(lambda row: images[row], np.arange(len(images)), images.shape[1:])
    found = encode_together(tmp_path / "together", images, encoders, images=lambda: lazy, batch_size=batch_size)
    assert all(np.array_equal(values, alone.values) for values in found)
    assert (tmp_path / "together/mean_test.npz").read_bytes() == (tmp_path / "alone/mean_test.npz").read_bytes()
    assert sum(encoder.encoded for encoder in encoders) == len(images)
    assert max(encoder.encoded for encoder in encoders) < len(images)

    again = encode_together(tmp_path / "together", images, encoders, images=_never, batch_size=batch_size)
    assert all(np.array_equal(values, alone.values) for values in again)  # the first one has read them


def test_an_infinite_feature_is_refused_in_every_process(tmp_path, images):
    with pytest.raises(UserError, match=r"600 of 600 images have NaN .*the first is image 0"):
        encode_together(tmp_path, images, [MeanEncoder(weight=np.nan), MeanEncoder(weight=np.nan)])
    assert not list(tmp_path.glob("*.npz"))


def test_refuses_lists_and_images_that_do_not_match(tmp_path, images):
    with pytest.raises(UserError, match="one entry an image in each list"):
        cached_features(tmp_path, **_arguments(images, groups=["a"]))
    with pytest.raises(UserError, match="expected 600 images as listed, found 10"):
        cached_features(tmp_path, **_arguments(images, images=lambda: images[:10]))
    with pytest.raises(UserError, match="expected 600 images as listed, found more"):
        cached_features(tmp_path, **_arguments(images, images=lambda: np.concatenate([images, images])))
    mixed = [images[0], images[1, :4]]
    with pytest.raises(UserError, match="images of one size"):
        cached_features(tmp_path, **_arguments(images, images=lambda: mixed))
    assert not list(tmp_path.glob("*.npz"))
