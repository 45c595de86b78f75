"""A study of recipes by successive halving: its declaration, its rounds, what is read of each evaluation, and the choice.

Training and evaluating an arm is the business of the two root scripts, which the command starts.
"""

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import matplotlib
import yaml

matplotlib.use("Agg")  # no screen is needed

from matplotlib import pyplot

from config.errors import UserError
from dataset.storage import atomic_path
from tools.runtime.sweeping import LEAST_CLASS_SHARE, read_curves

SCORE = "KD model gap"
RULE = (
    "Chosen on validation images: each round keeps the better half of the arms by the least kernel distance (model gap) of "
    "the first encoder; of the finalists, the least mean over the seeds. Passed over are arms with copying found in any "
    f"seed, or whose mean class AUC is below {LEAST_CLASS_SHARE:g} of that on held-out real images. All arms of a round "
    "have the same time, turned into steps by the speed that was measured once for each arm."
)
_RESERVED = ("train_params.task_name", "train_params.seed", "train_params.max_steps", "train_params.epochs",
             "sample_params.output", "evaluation_params.real_split")


@dataclass(frozen=True)
class Study:
    """STUDY.yaml. `arms` are named sets of config keys; `grid` adds every combination of its values as further arms."""

    base: str
    output: str
    screen_minutes: float
    final_minutes: float
    seeds: tuple[int, ...]
    arms: Mapping[str, Mapping[str, Any]]
    finalists: int = 2
    baseline: str | None = None
    calibration_steps: int = 30
    overrides: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class ArmScore:
    """What the evaluations of an arm say, a value a seed."""

    name: str
    distances: tuple[float, ...]
    curves: Mapping[str, float]
    copying: bool
    class_share: float | None

    @property
    def mean(self) -> float:
        return statistics.fmean(self.distances) if self.distances else float("inf")

    def refusal(self) -> str | None:
        """Why the rule passes this arm over, if it does."""
        if not self.distances:
            return "no kernel distance"
        if self.copying:
            return "copying found"
        if self.class_share is not None and self.class_share < LEAST_CLASS_SHARE:
            return f"class AUC {self.class_share:.2f} of that on real images"
        return None


def load_study(path: Path) -> Study:
    """Read and check STUDY.yaml.

    Raises:
        UserError: one line: the file, the key, what was expected and what was found.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: expected a study in YAML, which cannot be read ({reason})") from error
    known = {field.name for field in fields(Study)} | {"grid"}
    if not isinstance(raw, dict) or set(raw) - known:
        found = sorted(map(str, set(raw) - known)) if isinstance(raw, dict) else repr(raw)[:60]
        raise UserError(f"{path}: expected the keys {', '.join(sorted(known))}, found {found}")

    def check(holds: bool, key: str, expected: str) -> None:
        if not holds:
            raise UserError(f"{path}: {key}: expected {expected}, found {str(raw.get(key))[:60]!r}")

    def is_number(value: Any, kind: type | tuple[type, ...]) -> bool:
        return isinstance(value, kind) and not isinstance(value, bool) and value > 0

    for key in ("base", "output"):
        check(isinstance(raw.get(key), str) and bool(raw[key].strip()), key, "a path")
    for key in ("screen_minutes", "final_minutes"):
        check(is_number(raw.get(key), (int, float)), key, "minutes above 0")
    for key in ("finalists", "calibration_steps"):
        check(is_number(raw.get(key, 1), int), key, "a whole number, at least 1")
    seeds = raw.get("seeds")
    check(isinstance(seeds, list) and bool(seeds) and all(type(seed) is int and seed >= 0 for seed in seeds)
          and len(set(seeds)) == len(seeds), "seeds", "a list of different whole numbers")
    for key in ("arms", "grid", "overrides"):
        check(isinstance(raw.get(key) or {}, dict), key, "a mapping")
    for key, values in (raw.get("grid") or {}).items():
        check(isinstance(values, list) and bool(values), "grid", f"a list of values for {key}")
    arms = {str(name): values or {} for name, values in (raw.get("arms") or {}).items()}
    check(all(isinstance(values, dict) for values in arms.values()), "arms", "names, each with config keys")
    arms |= _combine(raw.get("grid") or {})
    check(len(arms) >= 2, "arms", "two arms or more, from arms and grid together")
    check(all(name.replace("-", "").replace("_", "").replace(".", "").isalnum() for name in arms), "arms",
          "names of letters, digits, dots, - and _")
    keys = [key for values in (*arms.values(), raw.get("overrides") or {}) for key in values]
    for key in keys:
        if key in _RESERVED:
            raise UserError(f"{path}: {key}: the study sets it itself; remove it from arms, grid and overrides")
    check(raw.get("baseline") is None or raw["baseline"] in arms, "baseline", f"one of {', '.join(arms)}")
    values = {key: value for key, value in raw.items() if key not in ("grid", "arms", "seeds")}
    return Study(**values, arms=arms, seeds=tuple(seeds))


def list_rounds(study: Study) -> list[tuple[int, float]]:
    """(arms, minutes) of each screening round: half of the arms go on, with twice the minutes, down to the finalists."""
    rounds, count, minutes = [], len(study.arms), study.screen_minutes
    while count > study.finalists:
        rounds.append((count, minutes))
        count, minutes = max(study.finalists, -(-count // 2)), minutes * 2
    return rounds


def steps_for(minutes: float, seconds_per_step: float) -> int:
    """Optimizer steps that fit into the minutes, at least one."""
    return max(1, int(minutes * 60 / seconds_per_step))


def score_arm(name: str, evaluations: Sequence[Mapping[str, Any]]) -> ArmScore:
    """Read an arm's evaluations, one a seed."""
    read = [read_curves(evaluation) for evaluation in evaluations]
    curves = {key: statistics.fmean(one.curves[key] for one in read) for key in read[0].curves
              if all(key in one.curves for one in read)}
    distances = tuple(one.curves[SCORE] for one in read if SCORE in one.curves)
    shares = [one.class_share for one in read if one.class_share is not None]
    return ArmScore(name, distances if len(distances) == len(read) else (), curves, any(one.copying for one in read),
                    statistics.fmean(shares) if shares else None)


def keep_best(scores: Sequence[ArmScore], count: int) -> list[str]:
    """The names of the best arms that the rule does not pass over, best first.

    Raises:
        UserError: it passes all of them over, saying why.
    """
    eligible = sorted((score for score in scores if score.refusal() is None), key=lambda score: score.mean)
    if not eligible:
        reasons = "; ".join(f"{score.name}: {score.refusal()}" for score in scores)
        raise UserError(f"no arm of the study can be kept ({reasons}); give more minutes, or other arms")
    return [score.name for score in eligible[:count]]


def format_scores(title: str, scores: Sequence[ArmScore]) -> str:
    """The table of a round for the screen, best first."""
    names = list(dict.fromkeys(name for score in scores for name in score.curves))
    width = max(24, *(len(score.name) + 2 for score in scores))
    lines = [title, f"{'arm':<{width}}{'least':>12}{'most':>12}" + "".join(f"{name:>15}" for name in names)]
    for score in sorted(scores, key=lambda score: score.mean):
        spread = f"{min(score.distances):>12.4g}{max(score.distances):>12.4g}" if score.distances else f"{'-':>12}{'-':>12}"
        cells = "".join(f"{score.curves[name]:>15.4g}" if name in score.curves else f"{'-':>15}" for name in names)
        lines.append(f"{score.name:<{width}}{spread}{cells}  {score.refusal() or ''}".rstrip())
    return "\n".join(lines)


def plot_scores(path: Path, rounds: Sequence[tuple[str, Sequence[ArmScore]]]) -> None:
    """One panel a round: the score of each arm, a point a seed, the mean as a bar."""
    figure, panels = pyplot.subplots(1, len(rounds), figsize=(4.2 * len(rounds), 1.6 + 0.35 * len(rounds[0][1])),
                                     squeeze=False, layout="constrained")
    for panel, (title, scores) in zip(panels.flat, rounds, strict=True):
        ranked = sorted((score for score in scores if score.distances), key=lambda score: -score.mean)
        panel.barh([score.name for score in ranked], [score.mean for score in ranked], color="lightsteelblue")
        for row, score in enumerate(ranked):
            panel.plot(score.distances, [row] * len(score.distances), "k.", markersize=5)
        panel.set_title(title, fontsize=10)
        panel.set_xlabel(f"{SCORE}, validation")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120, metadata={"Software": None})
    pyplot.close(figure)


def _combine(grid: Mapping[str, Sequence[Any]]) -> dict[str, dict[str, Any]]:
    """An arm for every combination of the grid's values, named after them."""
    arms = {}
    for values in itertools.product(*grid.values()) if grid else ():
        name = "-".join(f"{key.split('.')[-1]}_{value}" for key, value in zip(grid, values, strict=True))
        arms["".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)] = dict(
            zip(grid, values, strict=True))
    return arms
