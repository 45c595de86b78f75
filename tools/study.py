"""Study recipes by successive halving: screen on validation images, train the finalists with several seeds, test once.

    python -m tools.study --config STUDY.yaml

Running the command again goes on where it stopped: what is done is known by its content.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from config.errors import UserError
from config.load import config_to_yaml, load_config
from config.schema import Config
from dataset.storage import hash_json, read_json, write_json
from tools.runtime import studying
from tools.runtime.command import EXIT_SIGNAL_BASE, Interrupted, run_command
from tools.runtime.run_directory import RunDirectory
from tools.runtime.studying import ArmScore, Study

_ROOT = Path(__file__).parents[1]
_MANY_EPOCHS = 1_000_000  # max_steps ends every run


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.study", description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True, type=Path, metavar="STUDY.yaml", help="the study; see the README")
    arguments = parser.parse_args(argv)
    run_study(studying.load_study(arguments.config))


def run_study(study: Study) -> None:
    """Screen, train the finalists, choose, and report the chosen arm and the baseline on the test set."""
    for name in study.arms:
        _config_of(study, name, [])  # every arm's mistakes are told before the first one trains
    print(studying.RULE)
    rounds: list[tuple[str, list[ArmScore]]] = []
    arms = list(study.arms)
    planned = studying.list_rounds(study)
    for number, (_, minutes) in enumerate(planned):
        scores = [_score(study, name, minutes, study.seeds[:1]) for name in arms]
        rounds.append((f"screening {number + 1}, {minutes:g} min", scores))
        print(studying.format_scores(*rounds[-1]), flush=True)
        arms = studying.keep_best(scores, planned[number + 1][0] if number + 1 < len(planned) else study.finalists)
    finalists = list(dict.fromkeys([*arms, *([study.baseline] if study.baseline else [])]))
    scores = [_score(study, name, study.final_minutes, study.seeds) for name in finalists]
    rounds.append((f"final, {study.final_minutes:g} min, {len(study.seeds)} seeds", scores))
    print(studying.format_scores(*rounds[-1]), flush=True)
    chosen = studying.keep_best(scores, 1)[0]
    output = Path(study.output)
    studying.plot_scores(output / "study.png", rounds)
    reported = list(dict.fromkeys([chosen, *([study.baseline] if study.baseline else [])]))
    tested = [_score(study, name, study.final_minutes, study.seeds, split="test") for name in reported]
    print(studying.format_scores("test set, opened for these arms only", tested))
    write_json(output / "study.json", {
        "rule": studying.RULE, "chosen": chosen, "chosen_overrides": dict(study.arms[chosen]), "baseline": study.baseline,
        "rounds": [{"title": title, "arms": [_as_row(study, score) for score in scores]} for title, scores in rounds],
        "test": [_as_row(study, score) for score in tested],
    })
    print(f"chosen: {chosen}; written to {output}: study.json and study.png")


def _score(study: Study, name: str, minutes: float, seeds: Sequence[int], *, split: str = "val") -> ArmScore:
    """The arm after so many minutes, from earlier runs where they are there."""
    steps = studying.steps_for(minutes, _seconds_per_step(study, name))
    return studying.score_arm(name, [_evaluate(study, name, steps, seed, split) for seed in seeds])


def _evaluate(study: Study, name: str, steps: int, seed: int, split: str) -> dict[str, Any]:
    """The evaluation.json of one training of an arm."""
    task = Path(study.output) / "arms" / name / f"steps{steps}_seed{seed}"
    folder = task / f"samples_{split}"
    own = [f"train_params.task_name={task}", f"train_params.seed={seed}", f"train_params.max_steps={steps}",
           f"evaluation_params.real_split={split}"]
    config = _config_of(study, name, own)
    key, done = hash_json({"config": config_to_yaml(config)}), folder / "done.json"
    if not done.is_file() or read_json(done)["key"] != key or not (folder / "evaluation.json").is_file():
        print(f"{name}: {steps} steps, seed {seed}, {split}", flush=True)
        _run("train_ddpm_cond.py", study, name, own)
        _run("sample_ddpm_class_cond.py", study, name, own, "--output", str(folder))
        write_json(done, {"key": key})
    return read_json(folder / "evaluation.json")


def _seconds_per_step(study: Study, name: str) -> float:
    """Measured once an arm and kept, so that the number of steps, and with it every run, stays the same ever after."""
    task = Path(study.output) / "arms" / name / "speed"
    own = [f"train_params.task_name={task}", f"train_params.max_steps={study.calibration_steps}"]
    config = _config_of(study, name, own)
    key, kept = hash_json({"config": config_to_yaml(config)}), task / "speed.json"
    if not kept.is_file() or read_json(kept)["key"] != key:
        print(f"{name}: measuring its speed over {study.calibration_steps} steps", flush=True)
        _run("train_ddpm_cond.py", study, name, own)
        rate = read_json(RunDirectory(task).timing)["images_per_second"]
        write_json(kept, {"key": key, "seconds_per_step": config.train_params.ldm_batch_size / rate})
    return float(read_json(kept)["seconds_per_step"])


def _overrides(study: Study, name: str, own: Sequence[str]) -> list[str]:
    given: Mapping[str, Any] = {**(study.overrides or {}), **study.arms[name]}
    return [*(f"{key}={json.dumps(value)}" for key, value in given.items()), f"train_params.epochs={_MANY_EPOCHS}", *own]


def _config_of(study: Study, name: str, own: Sequence[str]) -> Config:
    try:
        return load_config(study.base, _overrides(study, name, own))
    except UserError as error:
        raise UserError(f"arm {name}: {error}") from error


def _run(script: str, study: Study, name: str, own: Sequence[str], *further: str) -> None:
    """One of the root scripts in a process of its own; its word on failure is on the screen already."""
    words = (word for text in _overrides(study, name, own) for word in ("--set", text))
    finished = subprocess.run([sys.executable, str(_ROOT / script), "--config", study.base, *words, *further], check=False)
    if finished.returncode > EXIT_SIGNAL_BASE:
        raise Interrupted(finished.returncode - EXIT_SIGNAL_BASE, "the same command goes on from here")
    if finished.returncode != 0:
        raise UserError(f"arm {name}: {script} ended with exit code {finished.returncode}, see above; the same command goes "
                        "on from here")


def _as_row(study: Study, score: ArmScore) -> dict[str, Any]:
    return {"arm": score.name, "overrides": dict(study.arms[score.name]), "distances": list(score.distances),
            "refusal": score.refusal(), "class_share": score.class_share, "mean": dict(score.curves)}


if __name__ == "__main__":
    run_command(main)
