"""Generate labelled synthetic images with a trained model and compare them with the real ones.

    python sample_ddpm_class_cond.py --config config/demo.yaml [--per-class N] [--seed S] [--output DIR] [--no-metrics] \\
        [--reject-copies]

Writes DIR/images/*.png, DIR/manifest.csv, a grid per class, one per class and further condition and, unless --no-metrics,
the evaluation.
"""

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from config.load import load_config
from config.paths import as_path
from config.schema import Config, SampleParams
from dataset.storage import hash_file
from tools.diffusion import generation, samples
from tools.diffusion.conditions import condition_levels, read_fixed_levels
from tools.diffusion.project import Project
from tools.diffusion.trained_model import TrainedModel, load_trained_model
from tools.evaluation.assess import assess
from tools.evaluation.morphometry_run import draw_flips
from tools.evaluation.quoted_results import add_options, read_quoted
from tools.evaluation.rejection import Flag, make_flag, most_replacements, replace_copies
from tools.runtime.command import add_config, run_command
from tools.runtime.processes import open_accelerator, ranks_of
from tools.runtime.progress import Progress
from tools.runtime.run_directory import RunDirectory, owned

NUM_REPORT_FLIPS = 6  # noises that the report shows with every label


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_config(parser)
    parser.add_argument("--checkpoint", type=as_path, help="weights; default <task_name>/checkpoints/<ldm_ckpt_name>")
    parser.add_argument("--per-class", type=int, metavar="N", help="images per class")
    parser.add_argument("--seed", type=int, metavar="S", help="seed of the images")
    parser.add_argument("--output", type=as_path, metavar="DIR", help="folder for images, manifest and metrics")
    parser.add_argument("--no-metrics", action="store_true", help="generate images only")
    parser.add_argument("--reject-copies", action="store_true",
                        help="replace near-copies of training images by the next images of their class")
    add_options(parser)
    arguments = parser.parse_args(argv)
    output = None if arguments.output is None else str(arguments.output)
    given = {"seed": arguments.seed, "output": output, "per_class": arguments.per_class}
    overrides = [f"sample_params.{key}={json.dumps(value)}" for key, value in given.items() if value is not None]
    if arguments.per_class is not None:
        overrides.append("sample_params.num_images=null")
    config = load_config(arguments.config, [*arguments.set, *overrides])
    quoted = read_quoted(arguments, config.dataset_params.params.class_names)
    run = RunDirectory(Path(config.train_params.task_name))
    checkpoint = arguments.checkpoint or run.weights(config.train_params)
    output = run.samples(config.sample_params)
    accelerator, project = open_accelerator(config.launch_params), Project.open(config)
    lock = owned(output, "sample_ddpm_class_cond.py", key="--output") if accelerator.is_main_process else nullcontext()
    with lock:
        model = load_trained_model(config, project, checkpoint, accelerator.device)
        draw(config, project, model, checkpoint, output, accelerator, reject_copies=arguments.reject_copies)
        if not arguments.no_metrics:
            ranks = ranks_of(accelerator)
            flips = draw_flips(model, project.table, config.sample_params, NUM_REPORT_FLIPS,
                               progress_bar=config.logging_params.progress_bar) if ranks.is_first else None
            accelerator.wait_for_everyone()  # until the first one has written the manifest
            assess(config, project, output, output, device=accelerator.device, quoted=quoted, flips=flips, ranks=ranks)


def draw(
    config: Config, project: Project, model: TrainedModel, checkpoint: Path, output: Path, accelerator: Accelerator, *,
    reject_copies: bool = False,
) -> None:
    """Generate every requested image that is missing, then write grids and the manifest."""
    params, show_progress = config.sample_params, config.logging_params.progress_bar and accelerator.is_main_process
    fixed = read_fixed_levels(project.table, params.conditions, model.condition_prior)

    def with_conditions(plain: Sequence[generation.ImageRequest]) -> list[generation.ImageRequest]:
        return generation.draw_conditions(plain, model.condition_prior, seed=params.seed, fixed=fixed)

    requests = with_conditions(generation.list_requests(generation.requested_counts(params, model.class_counts)))
    writer = samples.SampleWriter(output, requests, params=params, class_names=model.class_names,
                                  checkpoint_sha256=hash_file(checkpoint), condition_levels=condition_levels(project.table),
                                  trained_images=model.trained_images)
    if accelerator.is_main_process:
        if reject_copies:
            writer.restore_rejected()
        writer.check_folder(list_replacements(requests) if reject_copies else ())
    accelerator.wait_for_everyone()
    flag = None
    if reject_copies and accelerator.is_main_process:
        flag = make_flag(project, accelerator.device, held_out=config.evaluation_params.real_split,
                         quiet=not config.logging_params.progress_bar)

    def draw_wanted(wanted: Sequence[generation.ImageRequest]) -> None:
        draw_missing(model, writer, wanted, accelerator, params=params, show_progress=show_progress)

    if reject_copies:
        accepted, rejected = replace_copies(
            requests, complete=with_conditions, draw=draw_wanted,
            flag=lambda wanted: agree_on_flags(accelerator, flag, writer, wanted))
        if accelerator.is_main_process:
            writer.reject(accepted, rejected)
            print(f"{len(rejected)} near-copies of training images replaced; they are in {output / samples.REJECTED_FOLDER}")
    else:
        draw_wanted(requests)
    if accelerator.is_main_process:
        writer.write_grids()
        draw_condition_grids(model, writer, condition_levels(project.table), params, flag)
        writer.write_manifest()
        print(f"{len(requests)} synthetic images in {output / 'images'}, table in {output / samples.MANIFEST_NAME}")


def draw_missing(
    model: TrainedModel, writer: samples.SampleWriter, requests: Sequence[generation.ImageRequest],
    accelerator: Accelerator, *, params: SampleParams, show_progress: bool,
) -> None:
    """Generate the missing ones of the requested images, each process its batches, and wait for all."""
    batches = generation.split_into_batches(requests, params.batch_size)
    mine = batches[accelerator.process_index::accelerator.num_processes]
    missing = [batch for batch in mine if not writer.is_written(batch)]
    done = len(requests) - sum(map(len, missing)) * accelerator.num_processes
    with Progress("sampling", len(requests), initial=max(done, 0), enabled=show_progress) as bar:
        samples.draw_and_write(model.denoising, model.codec, writer, missing, params=params, report=lambda count: bar.update(
            min(done + count * accelerator.num_processes, len(requests))))
    accelerator.wait_for_everyone()


def list_replacements(requests: Sequence[generation.ImageRequest]) -> list[generation.ImageRequest]:
    """All requests that may replace near-copies."""
    counts = Counter(request.label for request in requests)
    return [generation.ImageRequest(label, count + extra) for label, count in counts.items()
            for extra in range(most_replacements(count))]


def agree_on_flags(
    accelerator: Accelerator, flag: Flag | None, writer: samples.SampleWriter, requests: Sequence[generation.ImageRequest]
) -> list[bool]:
    """Which requests are near-copies: the first process decides and tells the others."""
    flags = [flag(writer.read_batch(requests)).tolist() if flag is not None else None]
    return broadcast_object_list(flags)[0] if accelerator.num_processes > 1 else flags[0]


def draw_condition_grids(
    model: TrainedModel, writer: samples.SampleWriter, conditions: Mapping[str, Sequence[str]], params: SampleParams,
    flag: Flag | None,
) -> None:
    """A picture per class and further condition: one level per row; in a column everything else, also the noise, is equal.

    Images that `flag` marks as near-copies of training images are left gray.
    """
    for column, (name, level_names) in enumerate(conditions.items()):
        levels = sorted(model.condition_prior.known_levels(column))
        for label in range(len(model.class_names)):
            first = [request for request in writer.requests if request.label == label][:samples.CONDITION_GRID_COLUMNS]
            requests = generation.vary_condition(first, column, levels)
            pixels = np.concatenate([
                generation.draw_images(model.denoising, model.codec, batch, params=params, seed=params.seed,
                                       batch_size=params.batch_size)
                for batch in generation.split_into_batches(requests, params.batch_size)])
            writer.write_condition_grid(pixels, label=label, condition=name, num_columns=len(first),
                                        levels=[level_names[level] for level in levels],
                                        withheld=None if flag is None else flag(pixels))


if __name__ == "__main__":
    run_command(main)
