"""Training from the latent cache against encoding at every step, at the paper's size with a VAE of the SD family's shape."""

import time
from pathlib import Path

import numpy as np
import torch

from config.load import load_config
from config.schema import Config, DatasetParams
from dataset.images import write_png
from dataset.order import generator, normal
from dataset.storage import write_text
from tools.benchmark.findings import Findings, Ratio
from tools.benchmark.workers import BenchmarkSetup, Numbers, Repeat, interleave, timed
from tools.diffusion.latent_source import LatentSource, open_training_data
from tools.diffusion.networks import make_unet
from tools.diffusion.project import Project
from tools.diffusion.training import latent_shape, make_optimizer

CACHED, ENCODED = "latent_cache/cached", "latent_cache/encoded"
_NUM_IMAGES = 2
_EPOCHS = 10
_WIDTHS = (128, 256, 512, 512)  # channels of the SD family's VAE
_TOLERANCE = 5e-3  # largest difference of standardised latents that the cache's float16 makes


def measure(setup: BenchmarkSetup) -> Findings:
    """Seconds an image of encoding, reading and the step, and what an epoch gains."""
    config = load_config(setup.paper_config)
    write_images(Path(setup.scratch), config.dataset_params)
    results = interleave([CACHED, ENCODED], setup, repeats=1 if setup.quick else 3)
    found = conclude(results[CACHED], results[ENCODED], size=config.dataset_params.params.image_size)
    latents = [np.load(Path(setup.scratch) / f"latent_cache_{name}.npy", allow_pickle=False)
               for name in ("cached", "encoded")]
    found.expect_equal("latents from the cache (float16) and encoded anew", float(np.abs(latents[0] - latents[1]).max()),
                       tolerance=_TOLERANCE)
    return found


def conclude(cached: Numbers, encoded: Numbers, *, size: int) -> Findings:
    """The findings of seconds an image: of encoding, of a step with its reading, and of a step that encodes."""
    encode, step = cached["encode_seconds"], cached["step_seconds"]
    bound = (encode + step) / step
    epoch = encoded["seconds"] / cached["seconds"]
    first = _EPOCHS * encoded["seconds"] / (encode + _EPOCHS * cached["seconds"])
    first_bound = _EPOCHS * (encode + step) / (encode + _EPOCHS * step)
    found = Findings(f"2. latent cache at {size} px: training at batch 1, an image's share of the time")
    found.lines += [
        f"encoding {encode:.2f} s, training step {step:.2f} s, reading the cache {cached['seconds'] - step:.4f} s; making a "
        f"cache takes {cached['fixed_seconds']:.1f} s besides, once (the VAE's weights are read and hashed, files synced)",
        f"an epoch from the cache is at most (encoding + step) / step = {bound:.2f} times as fast; measured {epoch:.2f}",
        f"so are the first {_EPOCHS} epochs with one orientation, encoding included, at most {first_bound:.2f} times",
    ]
    for views in (1, 2):
        saved = encoded["seconds"] - cached["seconds"]
        found.lines.append(f"with {views} orientation{'s' if views > 1 else ''} cached the cache has paid after "
                           f"{views * encode / saved:.1f} epochs")
    found.ratios = [
        Ratio("latent cache: part of the bound on an epoch that is reached", epoch / bound, 0.9, percent=True),
        Ratio(f"latent cache: speed over the first {_EPOCHS} epochs, one orientation", first, 3.3),
        Ratio("latent cache: part of the bound on these that is reached", first / first_bound, 0.9, percent=True),
    ]
    found.numbers = {"variants": {CACHED: cached, ENCODED: encoded}, "encode_seconds": encode, "step_seconds": step,
                     "bound": bound, "first_bound": first_bound,
                     "peak_bytes": max(cached["peak_bytes"], encoded["peak_bytes"])}
    return found


def write_images(folder: Path, data: DatasetParams) -> None:
    """A table, images of the config's size, and a VAE of the SD family's shape whose weights were never trained."""
    from diffusers import AutoencoderKL

    table = data.params
    rng = generator(0, "benchmark")
    lines = [f"{table.image_column},{table.label_column},SPLIT"]
    for index in range(_NUM_IMAGES):
        coarse = rng.integers(0, 256, (table.image_size // 8, table.image_size // 8, 3), dtype=np.uint8)
        write_png(folder / "images" / f"{index}.png", coarse.repeat(8, axis=0).repeat(8, axis=1))
        lines.append(f"{index}.png,{index % len(table.class_names)},train")
    write_text(folder / "table.csv", "\n".join(lines) + "\n")
    levels = data.params.image_size // data.latent_size
    widths = _WIDTHS[-levels.bit_length():]  # one halving between two levels
    torch.manual_seed(0)
    AutoencoderKL(
        in_channels=3, out_channels=3, down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths), block_out_channels=widths, layers_per_block=2,
        latent_channels=data.z_channels, norm_num_groups=32, sample_size=table.image_size,
    ).save_pretrained(folder / "vae")


def prepare_cached(setup: BenchmarkSetup) -> Repeat:
    """Train from the cache; an encoding, of an image that is decoded already, and what a cache takes besides are timed."""
    config = _config(setup, load_latents=True)
    project = Project.open(config)
    codec, image = project.open_codec(), project.images("train")[0][0][None]

    def encode() -> None:
        codec.encode(image)

    encode()  # the first encoding also chooses kernels
    fixed = timed(lambda: project.prepare_latents("train")) - _NUM_IMAGES * timed(encode)
    repeat = _prepare(setup, config, "cached")
    return lambda: {"encode_seconds": timed(encode), "fixed_seconds": fixed, **repeat()}


def prepare_encoded(setup: BenchmarkSetup) -> Repeat:
    """Encode each image at the step that trains on it."""
    return _prepare(setup, _config(setup, load_latents=False), "encoded")


def _config(setup: BenchmarkSetup, *, load_latents: bool) -> Config:
    folder = Path(setup.scratch)
    return load_config(setup.paper_config, [
        f"dataset_params.params.csv_file={folder / 'table.csv'}", f"dataset_params.params.root_dir={folder / 'images'}",
        "dataset_params.params.im_channels=3", "dataset_params.params.split_fractions=null",
        "dataset_params.params.group_column=null", "dataset_params.params.split_column=SPLIT",
        f"dataset_params.directory_latents={folder / 'latents'}", f"dataset_params.load_latents={str(load_latents).lower()}",
        "dataset_params.symmetries=[identity]", f"autoencoder_params.pretrained={folder / 'vae'}",
        "autoencoder_params.batch_size=1", "logging_params.progress_bar=false",
    ])


def _prepare(setup: BenchmarkSetup, config: Config, name: str) -> Repeat:
    data = open_training_data(Project.open(config), torch.device("cpu"), has_val=False)
    noise = normal(generator(1, "benchmark"), (_NUM_IMAGES, *latent_shape(config.dataset_params)))
    latents = data.codec.standardise(_read_all(data.train, noise))
    np.save(Path(setup.scratch) / f"latent_cache_{name}.npy", latents.numpy())
    network = make_unet(config)
    optimizer = make_optimizer(network, config.train_params)
    conditions = torch.zeros(1, len(network.shape.conditions), dtype=torch.int64)
    timesteps, labels = torch.tensor([500]), torch.tensor([1])

    def step(x: torch.Tensor) -> None:
        (network(x, timesteps, labels, conditions) - x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def repeat() -> Numbers:
        started = time.perf_counter()
        x = data.codec.standardise(data.train.draw(torch.tensor([0]), torch.tensor([0]), noise[:1]))
        read = time.perf_counter()
        step(x)
        ended = time.perf_counter()
        return {"seconds": ended - started, "step_seconds": ended - read}

    repeat()
    return repeat


def _read_all(source: LatentSource, noise: torch.Tensor) -> torch.Tensor:
    return source.draw(torch.arange(_NUM_IMAGES), torch.zeros(_NUM_IMAGES, dtype=torch.int64), noise)


VARIANTS = {CACHED: prepare_cached, ENCODED: prepare_encoded}
