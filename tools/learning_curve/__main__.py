"""How many labelled images are needed? Trains on nested subsets of them and evaluates each model on the held-out images.

    python -m tools.learning_curve --config C --images 50 100 200 400 --seeds 3 [--arms nothing unlabelled warm]

Arms: `nothing` starts from new weights; `unlabelled` learns from the rest of the training images without their labels, too;
`warm` starts from the weights of `--start-from`. Running the command again resumes: what is done is known by its content.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from config.errors import UserError
from config.load import config_to_yaml, load_config
from config.paths import as_path
from config.schema import Config
from dataset.storage import hash_file, hash_json, read_json, write_bytes, write_json, write_text
from tools.diffusion.project import Project
from tools.diffusion.warm_start import find_weights
from tools.evaluation.assess import METHOD
from tools.evaluation.encoders.config_weights import hash_evaluation_weights
from tools.learning_curve.curve import describe, format_table, plot_curves, read_point
from tools.learning_curve.subsets import choose_subsets, write_subset
from tools.runtime.command import add_config, run_command
from tools.runtime.run_directory import keys_of_results, owned
from tools.runtime.stages import DoneRecord, Stage, our_command, run_stages

ARMS = ("nothing", "unlabelled", "warm")


@dataclass(frozen=True)
class CurveRun:
    """One training: its config, written into its folder, and the record of its evaluation."""

    name: str
    folder: Path
    done: DoneRecord

    def stages(self) -> list[Stage]:
        given = ("--config", str(self.folder / "config.yaml"))
        return [Stage(f"training {self.name}", our_command("train_ddpm_cond.py", *given), self.folder / "log.txt"),
                Stage(f"sampling {self.name}", our_command("sample_ddpm_class_cond.py", *given), self.folder / "log.txt")]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.learning_curve", description=__doc__.splitlines()[0])
    add_config(parser)
    parser.add_argument("--images", type=int, nargs="+", required=True, metavar="N", help="numbers of labelled images")
    parser.add_argument("--seeds", type=int, default=3, metavar="K", help="trainings for each number and arm; default 3")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=["nothing"], help="default: nothing")
    parser.add_argument("--start-from", type=as_path, metavar="RUN", help="the weights that the arm warm starts from")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="trainings at a time; default 1")
    parser.add_argument("--output", type=as_path, metavar="DIR", help="default <task_name>/learning_curve")
    arguments = parser.parse_args(argv)
    if arguments.seeds < 1 or arguments.jobs < 1:
        raise UserError(f"--seeds and --jobs: expected 1 or more, found {arguments.seeds} and {arguments.jobs}")
    if ("warm" in arguments.arms) != (arguments.start_from is not None):
        raise UserError("--start-from: expected with the arm warm, and only with it; name the run that it starts from")
    config = load_config(arguments.config, arguments.set)
    output = arguments.output or Path(config.train_params.task_name) / "learning_curve"
    with owned(output, "tools.learning_curve", key="--output"):
        run_curve(config, arguments.images, arguments.arms, output, num_seeds=arguments.seeds, jobs=arguments.jobs,
                  start_from=arguments.start_from)


def run_curve(
    config: Config, sizes: Sequence[int], arms: Sequence[str], output: Path, *, num_seeds: int, jobs: int,
    start_from: Path | None,
) -> None:
    """Train, sample and evaluate what is missing, then write table, figure and numbers."""
    project = Project.open(config)
    labelled = [record for record in project.records if record.split == "train"]
    subsets = choose_subsets(labelled, sizes, num_classes=config.num_classes, seed=config.train_params.seed)
    counts = [sum(record.group in subset for record in labelled) for subset in subsets]
    if Path(project.autoencoder.pretrained) == Path(project.autoencoder.training.output):
        print("warning: the VAE was trained on all training images, which helps small subsets; a pretrained VAE is fairer",
              file=sys.stderr)
    planned: dict[tuple[str, int], list[CurveRun]] = {}
    for arm in dict.fromkeys(arms):
        for subset, count in zip(subsets, counts, strict=True):
            folder = output / f"{arm}_{count}"
            data = write_subset(config.dataset_params, project.every_image.records, subset, folder,
                                rest_unlabelled=arm == "unlabelled")
            planned[arm, count] = [
                _plan_run(replace(config, dataset_params=data), folder / f"seed{seed}",
                          f"{arm}, {count} images, seed {seed}", seed=config.train_params.seed + seed,
                          start_from=start_from if arm == "warm" else None)
                for seed in range(num_seeds)]
    missing = [run for runs in planned.values() for run in runs if run.done.read() is None]
    run_stages([run.stages()[0] for run in missing], jobs=jobs)
    for run in missing:
        run_stages([run.stages()[1]])
        run.done.finish()
    points = [read_point(arm, count, [read_json(run.done.outputs[0]) for run in runs])
              for (arm, count), runs in planned.items()]
    table, sentences = format_table(points), describe(points, reference=arms[0])
    write_bytes(output / "learning_curve.png", plot_curves(points))
    write_text(output / "learning_curve.md", "\n".join([table, "", *(f"* {text}" for text in sentences)]) + "\n")
    write_json(output / "learning_curve.json", {"schema": 1, "real_split": config.evaluation_params.real_split,
                                                "num_seeds": num_seeds, "points": [point.to_dict() for point in points],
                                                "sentences": sentences})
    print("\n".join([table, *sentences]))
    print(f"written to {output}: learning_curve.md, learning_curve.json and learning_curve.png")


def _plan_run(config: Config, folder: Path, name: str, *, seed: int, start_from: Path | None) -> CurveRun:
    """Write the run's config; its record holds a hash of all that its evaluation depends on."""
    config = replace(
        config, logging_params=replace(config.logging_params, wandb_mode="disabled", progress_bar=False),
        train_params=replace(config.train_params, task_name=str(folder / "run"), seed=seed, resume_training=True,
                             start_from=None if start_from is None else str(start_from)),
        sample_params=replace(config.sample_params, seed=seed, output=str(folder / "samples")))
    write_text(folder / "config.yaml", config_to_yaml(config))
    project = Project.open(config)
    inputs: dict[str, Any] = {
        "method": METHOD, "config": keys_of_results(config), "weights": hash_evaluation_weights(config),
        "images": [project.latents_identity(split) for split in ("train", config.evaluation_params.real_split)],
        "start": None if start_from is None else hash_file(find_weights(str(start_from)))}
    done = DoneRecord(folder / "done.json", hash_json(inputs), outputs=(folder / "samples" / "evaluation.json",))
    return CurveRun(name, folder, done)


if __name__ == "__main__":
    run_command(main, on_device=False)
