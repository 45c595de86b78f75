"""Decoding images, encoding them for the evaluation, and the memory of statistics over pairs."""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from dataset.images import load_image, write_png
from dataset.order import generator
from dataset.prefetch import read_ahead
from dataset.storage import write_bytes
from models.classifier import Classifier, ClassifierConfig
from tools.benchmark.findings import Findings, Ratio
from tools.benchmark.workers import BenchmarkSetup, Numbers, Repeat, interleave, timed
from tools.evaluation.encoders.encoder import Encoder, load_encoder
from tools.evaluation.encoders.inception import DIMENSION, PRESETS, FidInception, preprocess
from tools.evaluation.evaluation_sets import MAX_PAIRWISE_IMAGES
from tools.evaluation.features import encode_images
from tools.evaluation.inference import exact_inference, to_rgb, to_tensor
from tools.evaluation.kernel import kernel_distance, kernel_interval
from tools.evaluation.neighbours import neighbour_scores
from tools.evaluation.resampling import cap_by_group

PLAIN, AHEAD, ENCODERS, PAIRS = "reading/plain", "reading/ahead", "reading/encoders", "reading/pairs"
_SOURCE_PX, _SIZE_PX = 1024, 512
_CLASSIFIER_PX = 64
_PAIRWISE_IMAGES = 8000  # a side, more than the cap
_PAIRWISE_LIMIT_GIB = 2.0
_GROUP_IMAGES = 8
_BATCH = 32

Network = Callable[[torch.Tensor], torch.Tensor]


def measure(setup: BenchmarkSetup) -> Findings:
    """Images a second and bytes; the series of encoding times is among the numbers."""
    folder = Path(setup.scratch)
    count = 16 if setup.quick else 64
    rng = generator(0, "benchmark")
    for index in range(count):
        coarse = rng.integers(0, 256, (_SOURCE_PX // 4, _SOURCE_PX // 4, 3), dtype=np.uint8)
        write_png(folder / "pictures" / f"{index:03d}.png", coarse.repeat(4, axis=0).repeat(4, axis=1))
    repeats = 2 if setup.quick else 5
    results = interleave([PLAIN, AHEAD], setup, repeats=repeats)
    encoders = interleave([ENCODERS], setup, repeats=1 if setup.quick else 3)[ENCODERS]
    pairs = interleave([PAIRS], setup, repeats=1)[PAIRS]
    series = measure_linearity(Path(setup.scratch), (250, 1000, 4000) if setup.quick else (1000, 5000, 20000, 50000))
    found = conclude(results, encoders, pairs, series, count=count)
    pixels = [np.load(folder / f"reading_{name}.npy", allow_pickle=False) for name in ("plain", "ahead")]
    found.expect_equal("pixels in a plain loop and ahead", float(np.abs(pixels[0] - pixels[1]).max()), tolerance=0)
    return found


def conclude(results: dict[str, Numbers], encoders: Numbers, pairs: Numbers, series: Sequence[tuple[int, float]], *,
             count: int) -> Findings:
    """The findings of the seconds of `count` pictures, of encoders and networks, and of the series of encodings."""
    plain, ahead = results[PLAIN], results[AHEAD]
    found = Findings("5. reading and encoding images")
    for name, result in (("in a plain loop", plain), ("ahead, on threads", ahead)):
        found.lines.append(f"decoding {_SOURCE_PX} px PNGs and resizing to {_SIZE_PX} px {name:<18}"
                           f"{count / result['seconds']:>8.1f} images/s")
    found.lines.append("encoding " + ", ".join(f"{number:,} images in {seconds:.1f} s" for number, seconds in series))
    found.lines.append(f"kernel distance with its interval and neighbour scores of {_PAIRWISE_IMAGES:,} against as many "
                       f"images, {DIMENSION} features: peak {pairs['peak_bytes'] / 2**30:.2f} GiB, {pairs['seconds']:.0f} s")
    rates = [seconds / number for number, seconds in series]
    found.ratios = [
        Ratio("reading: both cores against a plain loop", plain["seconds"] / ahead["seconds"], 1.6),
        *(Ratio(f"encoder {name}: share of the network's own rate", encoders[f"{name}_network"] / encoders[f"{name}_encode"],
                0.8, percent=True) for name in ("classifier", "inception")),
        Ratio(f"encoding: seconds an image at {series[-1][0]:,} against {series[0][0]:,}", rates[-1] / rates[0], 1.1,
              at_most=True),
        Ratio("statistics over pairs: peak memory in GiB", pairs["peak_bytes"] / 2**30, _PAIRWISE_LIMIT_GIB, at_most=True),
    ]
    found.numbers = {"variants": results, "encoders": encoders, "pairs": pairs, "series": list(series)}
    return found


def measure_linearity(folder: Path, counts: tuple[int, ...]) -> list[tuple[int, float]]:
    """(images, seconds) of encoding ever more images with the classifier."""
    encoder = make_classifier_encoder(folder / "classifier")
    few = make_pictures(256)

    def images(count: int) -> Iterator[np.ndarray]:
        return (few[index % len(few)] for index in range(count))

    series = []
    for count in (counts[0], *counts):  # the first is to warm up
        started = time.perf_counter()
        encode_images(encoder, images(count), count=count, split="benchmark", batch_size=32)
        series.append((count, time.perf_counter() - started))
    return series[1:]


def make_pictures(count: int) -> np.ndarray:
    """Noise, uint8 (count, 64, 64, 1); what it shows does not matter to the time."""
    return generator(1, "benchmark").integers(0, 256, (count, _CLASSIFIER_PX, _CLASSIFIER_PX, 1), dtype=np.uint8)


def make_classifier_encoder(folder: Path) -> Encoder:
    """The classifier's encoder with weights that were never trained."""
    torch.manual_seed(0)
    classifier = Classifier(ClassifierConfig(im_channels=1, num_classes=2, image_size=_CLASSIFIER_PX))
    for name, data in classifier.to_files().items():
        write_bytes(folder / name, data)
    return load_encoder("classifier", weights_path=folder)


def make_inception() -> FidInception:
    """The Inception network with weights that were never trained."""
    torch.manual_seed(0)
    return FidInception().eval().requires_grad_(False)


def prepare_plain(setup: BenchmarkSetup) -> Repeat:
    """One image after the other."""
    return _prepare_reading(setup, "plain")


def prepare_ahead(setup: BenchmarkSetup) -> Repeat:
    """As caches and evaluations read."""
    return _prepare_reading(setup, "ahead")


def prepare_encoders(setup: BenchmarkSetup) -> Repeat:
    """Each encoder from 8-bit images to features, and its network alone on inputs that are ready."""
    folder, device = Path(setup.scratch), torch.device("cpu")
    many, few = make_pictures(512), make_pictures(8 if setup.quick else 32)
    classifier = make_classifier_encoder(folder / "classifier_alone")
    features = Classifier.from_folder(folder / "classifier_alone").eval().features
    pool3, path = make_inception(), folder / "inception.pt"
    torch.save(pool3.state_dict(), path)
    subjects: list[tuple[str, Encoder, np.ndarray, Network, torch.Tensor]] = [
        ("classifier", classifier, many, features, to_tensor(many, device) / 127.5 - 1),
        ("inception", load_encoder("inception", weights_path=path), few, pool3, preprocess(to_rgb(few), PRESETS[0])),
    ]

    def repeat() -> Numbers:
        seconds = {}
        for name, encoder, pictures, network, inputs in subjects:
            seconds[f"{name}_encode"] = timed(partial(encoder.encode, pictures, batch_size=_BATCH))
            with exact_inference(device):
                seconds[f"{name}_network"] = sum(timed(partial(network, batch)) for batch in inputs.split(_BATCH))
        return seconds

    for _, encoder, pictures, *_ in subjects:
        encoder.encode(pictures[:8])
    return repeat


def prepare_pairs(_setup: BenchmarkSetup) -> Repeat:
    """Statistics over pairs of more images than the cap, as the evaluation computes them."""
    def repeat() -> Numbers:
        rng = generator(0, "benchmark")
        groups = [str(index // _GROUP_IMAGES) for index in range(_PAIRWISE_IMAGES)]
        sides = [rng.standard_normal((_PAIRWISE_IMAGES, DIMENSION), dtype=np.float32) for _ in range(2)]
        started = time.perf_counter()
        rows = cap_by_group(groups, limit=MAX_PAIRWISE_IMAGES, seed=0)
        x, y = (side[rows] for side in sides)
        kept = [groups[row] for row in rows]
        kernel_distance(x, y)
        kernel_interval(x, y, kept, kept, repeats=50, seed=0)
        neighbour_scores(x, y)
        return {"seconds": time.perf_counter() - started}

    return repeat


def _prepare_reading(setup: BenchmarkSetup, name: str) -> Repeat:
    paths = sorted((Path(setup.scratch) / "pictures").glob("*.png"))

    def read(index: int) -> np.ndarray:
        return load_image(paths[index], im_channels=3, size_px=_SIZE_PX, fit="pad")

    def read_all() -> list[np.ndarray]:
        positions = range(len(paths))
        return list(map(read, positions) if name == "plain" else read_ahead(read, positions))

    np.save(Path(setup.scratch) / f"reading_{name}.npy", np.stack(read_all()[:16]))

    return lambda: {"seconds": timed(read_all)}


VARIANTS = {PLAIN: prepare_plain, AHEAD: prepare_ahead, ENCODERS: prepare_encoders, PAIRS: prepare_pairs}
