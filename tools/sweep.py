"""Sweep over checkpoints, samplers, steps and guidance; choose on validation by a rule, then open the test set once."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from config.errors import UserError
from config.load import load_config
from config.paths import as_path
from config.schema import Config
from dataset.storage import hash_file, read_json, write_bytes, write_json
from scheduler.samplers import SAMPLERS
from tools.diffusion.project import Project
from tools.evaluation import sweeping
from tools.evaluation.encoders.config_weights import require_first_published
from tools.evaluation.encoders.published_weights import fetch_published
from tools.evaluation.sweep_curves import SweepRecord, draw_sweep
from tools.runtime.checkpoints import list_resume_checkpoints
from tools.runtime.command import add_config, run_command
from tools.runtime.run_directory import RunDirectory, owned
from tools.runtime.stages import DoneRecord, Stage, as_options, our_command, run_stages

_TABLE, _PICTURE, _CHOSEN = "sweep.json", "sweep.png", "chosen"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.sweep", description=__doc__)
    add_config(parser, "YAML config of a trained run")
    parser.add_argument("--guidance", type=float, nargs="+", metavar="W", help="guidance scales (default: the config's)")
    parser.add_argument("--steps", type=int, nargs="+", metavar="N", help="sampler steps (default: the config's)")
    parser.add_argument("--sampler", nargs="+", choices=tuple(SAMPLERS), help="samplers (default: the config's)")
    parser.add_argument("--checkpoint", type=as_path, nargs="+", metavar="P", help="weights (default: the run's best)")
    parser.add_argument("--all-checkpoints", action="store_true", help="the best weights and every resume checkpoint kept")
    parser.add_argument("--output", type=as_path, metavar="DIR", help="default <task_name>/sweep")
    arguments = parser.parse_args(argv)
    config = load_config(arguments.config, arguments.set)
    run = RunDirectory(Path(config.train_params.task_name))
    checkpoints = arguments.checkpoint or [run.weights(config.train_params)]
    if arguments.all_checkpoints:
        checkpoints = [*checkpoints, *reversed(list_resume_checkpoints(run.checkpoints))]
    sample = config.sample_params
    points = sweeping.list_points(checkpoints, arguments.sampler or [sample.sampler], arguments.steps or [sample.num_steps],
                                  arguments.guidance or [sample.guidance_scale])
    output = arguments.output or run.root / "sweep"
    with owned(output, "tools.sweep", key="--output"):
        sweep(config, points, arguments, output=output)


def sweep(config: Config, points: Sequence[sweeping.SweepPoint], arguments: argparse.Namespace, *, output: Path) -> None:
    """Draw and evaluate every point on validation images, choose, evaluate the chosen one on the test set once."""
    missing = [str(point.checkpoint) for point in points if not point.checkpoint.is_file()]
    if missing:
        raise UserError(f"{missing[0]}: expected the weights of a trained model, found nothing there; train first")
    for point in points:  # before hours go into the first ones
        load_config(arguments.config, [*arguments.set, *point.overrides()])
    fetch_published(config.evaluation_params, config.dataset_params.lpips_path,
                    progress_bar=config.logging_params.progress_bar)
    require_first_published(config.evaluation_params, Project.open(config))
    hashes = {point.checkpoint: hash_file(point.checkpoint) for point in points}
    results = []
    for number, point in enumerate(points, start=1):
        print(f"point {number} of {len(points)}: {point.name()}", flush=True)
        evaluation = _evaluate_point(config, point, arguments, split="val", folder=output / "points" / point.name(),
                                     checkpoint_sha256=hashes[point.checkpoint])
        results.append(sweeping.read_result(point, evaluation, config))
    print(sweeping.format_results(results))
    print(sweeping.RULE)
    if config.evaluation_params.judge_path is None:
        print(f"warning: {sweeping.WITHOUT_JUDGE}", file=sys.stderr)
    chosen = sweeping.choose(results)
    record = sweeping.make_record(results, chosen, hashes)
    write_bytes(output / _PICTURE, draw_sweep(record))
    write_json(output / _TABLE, record.to_dict())
    test = _evaluate_point(config, chosen.point, arguments, split="test", folder=output / _CHOSEN,
                           checkpoint_sha256=hashes[chosen.point.checkpoint], record=record, quoted=output / _TABLE)
    opening = test["provenance"]["test_set_opening"]
    write_json(output / _TABLE, {**record.to_dict(), "test_set_opening": opening})
    print(f"chosen: {chosen.point.name()}, {record.describe_choice()}; on the test set (opening {opening} of it): "
          f"{output / _CHOSEN}")


def _evaluate_point(
    config: Config, point: sweeping.SweepPoint, arguments: argparse.Namespace, *, split: str, folder: Path,
    checkpoint_sha256: str, record: SweepRecord | None = None, quoted: Path | None = None,
) -> dict[str, Any]:
    """The point's evaluation.json, from an earlier run of the same sweep where there is one.

    Its reports show the curves of the `record` that the file `quoted` holds.
    """
    settings = point.settings(checkpoint_sha256)
    key = sweeping.point_key({**settings, "sweep": None if record is None else record.to_dict()}, config, split)
    done = DoneRecord(folder / "point.json", key, outputs=(folder / "evaluation.json",))
    if done.read() is None:
        overrides = [*arguments.set, *point.overrides(), f"evaluation_params.real_split={split}",
                     "evaluation_params.allow_download=false"]  # what can be fetched is here by now
        quote = [] if quoted is None else ["--sweep", str(quoted)]
        run_stages([Stage(point.name(), our_command(
            "sample_ddpm_class_cond.py", "--config", arguments.config, "--checkpoint", str(point.checkpoint), "--output",
            str(folder), *quote, *as_options(overrides)))])
        done.finish(**settings)
    return read_json(folder / "evaluation.json")


if __name__ == "__main__":
    run_command(main, on_device=False)
