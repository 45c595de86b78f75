"""Study recipes by successive halving: screen on validation images, train the finalists with several seeds, test once.

    python -m tools.study --config STUDY.yaml [--jobs N]

Running the command again goes on where it stopped: what is done is known by its content.
"""

import argparse
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from config.errors import UserError
from config.paths import as_path
from dataset.storage import hash_json, read_json, write_json, write_text
from tools.diffusion.gan_training import network_widths
from tools.diffusion.project import Project
from tools.evaluation.encoders.config_weights import require_first_published
from tools.evaluation.encoders.published_weights import fetch_published
from tools.evaluation.judges import require_judge
from tools.evaluation.sweeping import WITHOUT_JUDGE
from tools.runtime.command import run_command
from tools.runtime.run_directory import owned
from tools.study import plan as studying
from tools.study import table as study_table
from tools.study.plan import RECIPES, Arm, ArmScore, NoArmLeft, Study
from tools.study.runs import ArmRun, StudyRuns


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.study", description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True, type=as_path, metavar="STUDY.yaml", help="the study; see docs/recipes.md")
    parser.add_argument("--jobs", type=int, default=1, metavar="N",
                        help="trainings at a time, each with its share of the cores; default 1")
    parser.add_argument("--families", nargs="+", metavar="NAME",
                        help=f"only these: {RECIPES}, or a baseline's name; what study.json holds of the others is kept")
    arguments = parser.parse_args(argv)
    if arguments.jobs < 1:
        raise UserError(f"--jobs: expected 1 or more, found {arguments.jobs}")
    study = studying.load_study(arguments.config)
    for family in arguments.families or ():
        if family not in study.families:
            raise UserError(f"--families: expected some of {', '.join(study.families)}, found {family!r}")
    runs = StudyRuns(study, jobs=arguments.jobs)
    for arm in study.arms:
        runs.config_of(arm)  # every arm's mistakes are told before the first one trains
    with owned(Path(study.output), "tools.study", key="output"):
        run_study(study, runs, arguments.families or tuple(study.families))


def run_study(study: Study, runs: StudyRuns, wanted: Collection[str]) -> None:
    """Screen and choose within each wanted family, then report what was chosen on the test set, if the study has it so."""
    for arm in study.arms:
        config = runs.config_of(arm)
        if fetch_published(config.evaluation_params, config.dataset_params.lpips_path,
                           progress_bar=config.logging_params.progress_bar):
            break  # the next arm would wait for the same addresses
    for arm in study.arms:
        config = runs.config_of(arm)
        require_first_published(config.evaluation_params, Project.open(config))
        require_judge(config.evaluation_params.judge_path, config.dataset_params.params)
        if arm.generator == "gan":
            network_widths(config.dataset_params.params, config.gan_params)
    print(studying.RULE)
    if runs.config_of(study.arms[0]).evaluation_params.judge_path is None:
        print(f"warning: {WITHOUT_JUDGE}", file=sys.stderr)
    results = _read_results(study, runs, wanted)
    for family in study.families:
        if family in wanted:
            results[family] = _run_family(study, runs, family)
            _write_results(study, results)
    refused = [f"{family}: {row['refusal']}" for family, row in results.items()
               if family in wanted and row["chosen"] is None]
    if study.test:
        print("test set, opened for these arms only\n" + _format_results(study, results))
    chosen = any(row["rounds"] for row in results.values())
    print(f"written to {study.output}: study.json" + ", study.md" * study.test + ", study.png" * chosen)
    if refused:
        raise UserError("; ".join(refused))


def _read_results(study: Study, runs: StudyRuns, wanted: Collection[str]) -> dict[str, Any]:
    """What study.json holds of the families, where it was made from the same inputs and keys; stays until they are run."""
    path = Path(study.output) / "study.json"
    found = read_json(path)["families"] if path.is_file() else {}
    kept = {}
    for family, row in found.items():
        if family in study.families:
            if row.get("made_from") == _identity(study, runs, family):
                kept[family] = row
            elif family not in wanted:
                print(f"{path}: {family} was made from other images, weights or keys; left out until it is run again")
    return kept


def _run_family(study: Study, runs: StudyRuns, family: str) -> dict[str, Any]:
    """A family's row of study.json."""
    rounds: list[tuple[str, list[ArmScore]]] = []
    generator, refusal = study.families[family][0].generator, None
    try:
        arm = _choose(study, runs, family, rounds)
    except NoArmLeft as error:
        arm, refusal = None, str(error)
    last = {score.name: score for score in rounds[-1][1]} if rounds else {}
    won = None if arm is None else last.get(arm.name)  # none where the arm stood alone
    row: dict[str, Any] = {
        "chosen": None if arm is None else arm.name, "generator": generator, "refusal": refusal,
        "selection": None if won is None else {"decided_by": won.decided_by, "features": list(won.by_encoder)},
        "rounds": [{"title": title, "score": studying.score_of(generator), "arms": [_as_row(score) for score in scores]}
                   for title, scores in rounds],
    }
    if arm is None:
        print(f"{family}: {refusal}", flush=True)
        return row | {"made_from": _identity(study, runs, family)}
    steps = _steps(runs, arm, study.final_minutes)
    row |= {"overrides": dict(arm.overrides), "steps": steps, "seconds_per_step": runs.seconds_per_step(arm)}
    if study.test:
        evaluations = runs.evaluate([ArmRun(arm, steps, seed) for seed in study.seeds], "test")
        row |= {"test": study_table.read_metrics(evaluations, passed_vae=generator == studying.THROUGH_VAE),
                "refusal": studying.score_arm(arm, evaluations).refusal(),
                "diverged": study_table.count_diverged(evaluations),
                "measured_by": study_table.describe_measurement(evaluations)}
    held_against = f", which the rule would pass over: {row['refusal']}" if row.get("refusal") else ""
    print(f"{study_table.describe_selection(family, row)}{held_against}", flush=True)
    return row | {"made_from": _identity(study, runs, family)}


def _write_results(study: Study, results: Mapping[str, Any]) -> None:
    output = Path(study.output)
    shown = [each for family in study.families if family in results for each in results[family]["rounds"]]
    if shown:
        studying.plot_scores(output / "study.png", shown)
    if study.test:
        write_text(output / "study.md", _format_results(study, results))
    write_json(output / "study.json", {
        "rule": studying.RULE, "seeds": list(study.seeds), "final_minutes": study.final_minutes,
        "families": {family: results[family] for family in study.families if family in results},
    })


def _format_results(study: Study, results: Mapping[str, Any]) -> str:
    """The table of the test set, and which features chose each arm."""
    chosen = [study_table.describe_selection(family, results[family]) for family in study.families if family in results]
    return "\n".join([study_table.format_table(_test_columns(study, results)), *(f"* {line}." for line in chosen)]) + "\n"


def _test_columns(study: Study, results: Mapping[str, Any]) -> dict[str, dict[str, list[float]]]:
    """By family, whose name says where seeds diverged: what it has on the test set."""
    columns = {}
    for family in study.families:
        if family in results and "test" in results[family]:
            count = results[family].get("diverged", 0)
            title = f"{family} ({count} of {len(study.seeds)} seeds diverged)" if count else family
            columns[title] = results[family]["test"]
    return columns


def _identity(study: Study, runs: StudyRuns, family: str) -> str:
    """Hash of all that a family's row depends on, but for the machine's speed."""
    return hash_json([studying.RULE, runs.identity(study.families[family]), list(study.seeds), study.screen_minutes,
                      study.final_minutes, study.finalists, study.test])


def _choose(study: Study, runs: StudyRuns, family: str, rounds: list[tuple[str, list[ArmScore]]]) -> Arm:
    """The best arm of a family; its rounds are added to `rounds`. One that stands alone needs none."""
    arms, of_baseline = {arm.name: arm for arm in study.families[family]}, family != RECIPES

    def halve(title: str, minutes: float, seeds: Sequence[int], keep: int) -> dict[str, Arm]:
        planned = {name: [ArmRun(arm, _steps(runs, arm, minutes), seed) for seed in seeds] for name, arm in arms.items()}
        found = iter(runs.evaluate([run for per_arm in planned.values() for run in per_arm], "val"))
        scores = [studying.score_arm(arms[name], [next(found) for _ in per_arm]) for name, per_arm in planned.items()]
        rounds.append((title, scores))
        print(studying.format_scores(*rounds[-1]), flush=True)
        return {name: arms[name] for name in studying.keep_best(scores, keep, of_baseline=of_baseline)}

    planned = studying.list_rounds(study, len(arms))
    for number, (_, minutes) in enumerate(planned):
        if len(arms) == 1:  # the rule passed over all others
            break
        keep = planned[number + 1][0] if number + 1 < len(planned) else study.finalists
        arms = halve(f"{family}, {minutes:g} min, seed {study.seeds[0]}", minutes, study.seeds[:1], keep)
    if len(arms) > 1:
        seeds = f"{len(study.seeds)} seeds" if len(study.seeds) > 1 else f"seed {study.seeds[0]}"
        arms = halve(f"{family}, {study.final_minutes:g} min, {seeds}", study.final_minutes, study.seeds, 1)
    return next(iter(arms.values()))


def _steps(runs: StudyRuns, arm: Arm, minutes: float) -> int:
    return studying.steps_for(minutes, runs.seconds_per_step(arm))


def _as_row(score: ArmScore) -> dict[str, Any]:
    return {"arm": score.name, "distances": list(score.distances), "decided_by": score.decided_by,
            "by_encoder": {encoder: list(values) for encoder, values in score.by_encoder.items()},
            "refusal": score.refusal(), "class_share": score.class_share, "mean": dict(score.curves)}


if __name__ == "__main__":
    run_command(main, on_device=False)
