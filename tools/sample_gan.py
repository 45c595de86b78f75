"""Draw labelled images from the baseline GAN: images/ and manifest.csv, as the sampling script writes them."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from config.load import load_config
from config.paths import as_path
from config.schema import Config
from dataset.storage import hash_file
from tools.diffusion import generation, samples
from tools.diffusion.gan_training import WEIGHTS_NAME, describe_samples, draw_gan_images, load_generator
from tools.diffusion.trained_images import TRAINED_KEY
from tools.runtime.command import add_config, run_command
from tools.runtime.machine import choose_device
from tools.runtime.progress import Progress
from tools.runtime.run_directory import owned


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.sample_gan", description=__doc__)
    add_config(parser, "YAML config; how many images and which seed: sample_params")
    parser.add_argument("--output", type=as_path, metavar="DIR", help="default <gan_params.output>/samples")
    arguments = parser.parse_args(argv)
    config = load_config(arguments.config, arguments.set)
    output = arguments.output or Path(config.gan_params.output) / "samples"
    with owned(output, "tools.sample_gan", key="--output"):
        draw(config, output)


def draw(config: Config, output: Path) -> None:
    """Draw every requested image that is not there yet, then grids and the manifest."""
    device = choose_device()
    weights, params = Path(config.gan_params.output) / WEIGHTS_NAME, describe_samples(config.sample_params)
    network, values = load_generator(config.dataset_params.params, config.gan_params, weights, device)
    requests = generation.list_requests(generation.requested_counts(params, values["class_counts"]))
    writer = samples.SampleWriter(output, requests, params=params, class_names=config.dataset_params.params.class_names,
                                  checkpoint_sha256=hash_file(weights), trained_images=values.get(TRAINED_KEY))
    writer.check_folder()
    done = 0
    with Progress("sampling", len(requests), enabled=config.logging_params.progress_bar) as bar:
        for batch in generation.split_into_batches(requests, params.batch_size):
            if not writer.is_written(batch):
                writer.write_batch(batch, draw_gan_images(network, batch, seed=params.seed, device=device))
            done += len(batch)
            bar.update(done)
    writer.write_grids()
    writer.write_manifest()
    print(f"{len(requests)} synthetic images in {output / 'images'}; evaluate them with python -m tools.evaluate "
          f"--synthetic {output}")


if __name__ == "__main__":
    run_command(main)
