"""Write training images under classical augmentation as a folder that can be evaluated: a reference for every generator.

`python -m tools.evaluate` then says what costs no learning at all: an upper end in fidelity, and copies of patients' images,
of which the test for copies finds the hardly shifted ones. The files carry no mark of synthetic images, since they are none.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from config.errors import UserError
from config.load import load_config
from config.paths import as_path
from config.schema import Config
from dataset.augmentation import NUM_UNIFORMS, augment
from dataset.delimited import format_csv
from dataset.image_bank import ImageBank
from dataset.images import to_uint8, write_png
from dataset.order import SampleOrder, generator
from dataset.patient_note import write_patient_note
from dataset.storage import write_text
from dataset.symmetries import apply_symmetry
from tools.diffusion.generation import list_requests, requested_counts
from tools.diffusion.project import Project
from tools.diffusion.samples import IMAGE_FOLDER, MANIFEST_NAME, TRAINED_RECORD
from tools.diffusion.trained_images import shorten_hashes, write_samples_record
from tools.runtime.command import add_config, run_command
from tools.runtime.progress import Progress
from tools.runtime.run_directory import owned

# Mild, so that the images stay images of their class: shares of what their brightness differs by, of the contrast and of the
# side. 0.1 for all images had MHSMA's differ by 1.8 times what they do. Where this changes, raise the method of study_runs.
_BRIGHTNESS, _CONTRAST, _SHIFT = 1.0, 0.1, 0.04


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.augment_real", description=__doc__.splitlines()[0])
    add_config(parser, "YAML config; how many images and which seed: sample_params")
    parser.add_argument("--output", type=as_path, required=True, metavar="DIR", help="where the images go; empty or absent")
    arguments = parser.parse_args(argv)
    config = load_config(arguments.config, arguments.set)
    if arguments.output.is_dir() and any(arguments.output.iterdir()):
        raise UserError(f"{arguments.output}: expected an empty folder or none, found files; give another --output, or "
                        "remove them")
    with owned(arguments.output, "tools.augment_real", key="--output"):
        write_augmented(config, arguments.output)


def write_augmented(config: Config, output: Path) -> None:
    """Training images of each class, all of them equally often, each in an allowed view and mildly changed."""
    project, params = Project.open(config), config.sample_params
    images = project.images("train")
    labels = np.array([record.label for record in images.records])
    members = [np.flatnonzero(labels == label) for label in range(config.num_classes)]
    class_counts = [len(positions) for positions in members]
    counts = requested_counts(params, class_counts)
    orders = [SampleOrder([0] * count, seed=params.seed) for count in class_counts]
    bank, symmetries = ImageBank(images), config.dataset_params.plain_symmetries
    brightness = _BRIGHTNESS * float(np.std([float(bank.batch([position]).mean()) for position in range(len(images))]))
    write_patient_note(output, "The images in this folder")
    lines: list[list[object]] = [["IMAGE_NAME", "label"]]
    requests = list_requests(counts)
    with Progress("augmenting", len(requests), enabled=config.logging_params.progress_bar) as bar:
        for done, request in enumerate(requests, start=1):
            position = members[request.label][orders[request.label].positions(request.index, 1)[0]]
            rng = generator(params.seed, "augment real", request.label, request.index)
            view = apply_symmetry(bank.batch([position]), symmetries[int(rng.integers(len(symmetries)))])
            changed = augment(view, torch.from_numpy(rng.random((1, NUM_UNIFORMS), dtype=np.float32)),
                              brightness=brightness, contrast=_CONTRAST, shift=_SHIFT, cutout=0.0, fill=None)
            name = f"class{request.label}_{request.index:06d}.png"
            write_png(output / IMAGE_FOLDER / name, to_uint8(changed.clamp(-1, 1)[0].permute(1, 2, 0)),
                      text={"Note": "a training image under augmentation: internal use only"})
            lines.append([name, request.label])
            bar.update(done)
    trained = shorten_hashes(project.hash_images(images))
    write_samples_record(output / TRAINED_RECORD, checkpoint_sha256=None, trained=trained)
    write_text(output / MANIFEST_NAME, format_csv(lines))
    print(f"{len(requests)} augmented training images, which show patients, in {output / IMAGE_FOLDER}; evaluate them with "
          f"python -m tools.evaluate --synthetic {output}")


if __name__ == "__main__":
    run_command(main, on_device=False)
