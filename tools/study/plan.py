"""A study of recipes by successive halving: its declaration, its rounds, what is read of each evaluation, and the choice.

`runs` trains, samples and evaluates its arms.
"""

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import matplotlib
import yaml

matplotlib.use("Agg")  # no screen is needed

from matplotlib import pyplot, ticker

from config.errors import UserError
from config.load import settle_keys
from config.paths import expand_path
from config.words import UniqueKeyLoader
from dataset.storage import atomic_path
from tools.evaluation.evidence import name_features
from tools.evaluation.selection import ABOVE_REAL, MEANING, least_favourable, require_same_features
from tools.evaluation.sweeping import LEAST_CLASS_SHARE, read_curves, refuse
from tools.runtime.stages import DIVERGED

THROUGH_VAE = "diffusion"  # the generator whose images are decoded latents
GENERATORS = (THROUGH_VAE, "gan", "augment_real")
RULE = (
    "Chosen on validation images, within the recipes and within each baseline: each round keeps the better half of the arms "
    "by the least KD above real (to the VAE's round trips, the model gap, where images passed the VAE, and to the images "
    "themselves, the total, where they did not); of several finalists, the least mean over the seeds. Passed "
    "over are arms with copying found in any seed, or whose mean class AUC, where the class is visible in held-out real "
    f"images, is below {LEAST_CLASS_SHARE:g} of that on them, or of which a training diverged, unless a baseline has no "
    "other. A single finalist is not "
    "weighed again: what the rule says of its final images stands beside them. All arms of a round have the same time, "
    f"turned into steps by a speed that is measured once for each size of network and batch. {MEANING}"
)
_WIDE_RANGE = 10.0  # most over least, from which on an axis is logarithmic
RECIPES = "recipes"  # the family of arms and grid; the others are baselines
_RESERVED = ("train_params.task_name", "train_params.seed", "train_params.max_steps", "train_params.epochs",
             "sample_params.output", "sample_params.seed", "evaluation_params.real_split", "gan_params.output",
             "gan_params.max_steps")


class NoArmLeft(UserError):
    """The rule passes over every arm of a family."""


@dataclass(frozen=True)
class Arm:
    """A way of making images: the kind of generator, and config keys over those of all arms."""

    name: str
    generator: str
    overrides: Mapping[str, Any]


@dataclass(frozen=True)
class Study:
    """STUDY.yaml. `families` are the recipes and each baseline, with the arms that are tried for it; `test` whether the
    chosen ones are shown on the test set."""

    base: str
    output: str
    screen_minutes: float
    final_minutes: float
    seeds: tuple[int, ...]
    families: Mapping[str, tuple[Arm, ...]]
    finalists: int = 2
    calibration_steps: int = 100
    test: bool = True
    overrides: Mapping[str, Any] | None = None

    @property
    def arms(self) -> tuple[Arm, ...]:
        return tuple(itertools.chain(*self.families.values()))


@dataclass(frozen=True)
class ArmScore:
    """What the evaluations of an arm say, a value a seed; no distances where one of them has none.

    `by_encoder` holds KD above real by the features of every encoder that may decide; `distances` are those of the encoder
    `decided_by`, whose mean is the largest.
    """

    name: str
    distances: tuple[float, ...]
    curves: Mapping[str, float]
    copying: bool
    class_share: float | None
    num_diverged: int = 0
    by_encoder: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    decided_by: str | None = None

    @property
    def mean(self) -> float:
        return statistics.fmean(self.distances) if self.distances else float("inf")

    def refusal(self) -> str | None:
        """Why the rule passes this arm over, if it does."""
        if self.num_diverged:
            return f"{self.num_diverged} trainings diverged"
        return refuse(has_distance=bool(self.distances), copying=self.copying, class_share=self.class_share)


def load_study(path: Path) -> Study:
    """Read and check STUDY.yaml.

    Raises:
        UserError: one line: the file, the key, what was expected and what was found.
    """
    try:
        raw = settle_keys(yaml.load(path.read_text(encoding="utf-8"), Loader=UniqueKeyLoader))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: expected a study in YAML, which cannot be read ({reason})") from error
    known = {one.name for one in fields(Study)} - {"families"} | {"arms", "grid", "baselines"}
    if not isinstance(raw, dict) or set(raw) - known:
        found = sorted(map(str, set(raw) - known)) if isinstance(raw, dict) else repr(raw)[:60]
        raise UserError(f"{path}: expected the keys {', '.join(sorted(known))}, found {found}")

    def check(holds: bool, key: str, expected: str) -> None:
        if not holds:
            found = f", found {str(raw[key])[:60]!r}" if key in raw else ""
            raise UserError(f"{path}: {key}: expected {expected}{found}")

    def is_number(value: Any, kind: type | tuple[type, ...]) -> bool:
        return isinstance(value, kind) and not isinstance(value, bool) and value > 0

    for key in ("base", "output"):
        check(isinstance(raw.get(key), str) and bool(raw[key].strip()), key, "a path")
        raw[key] = expand_path(raw[key])
    for key in ("screen_minutes", "final_minutes"):
        check(is_number(raw.get(key), (int, float)), key, "minutes above 0")
    for key in ("finalists", "calibration_steps"):
        check(is_number(raw.get(key, 1), int), key, "a whole number, at least 1")
    check(isinstance(raw.get("test", True), bool), "test", "true or false")
    seeds = raw.get("seeds")
    check(isinstance(seeds, list) and bool(seeds) and all(type(seed) is int and seed >= 0 for seed in seeds)
          and len(set(seeds)) == len(seeds), "seeds", "a list of different whole numbers")
    for key in ("arms", "grid", "baselines", "overrides"):
        check(isinstance(raw.get(key) or {}, dict), key, "a mapping")
    for key, values in (raw.get("grid") or {}).items():
        check(isinstance(values, list) and bool(values), "grid", f"a list of values for {key}")
    listed = [*(raw.get("arms") or {}).items(), *_combine(raw.get("grid") or {})]
    recipes = dict(listed)
    check(len(recipes) == len(listed), "grid", "combinations whose names differ from each other's and from the arms'")
    declared = {RECIPES: recipes, **{str(name): arms for name, arms in (raw.get("baselines") or {}).items()}}
    _check_families(raw, declared, check)
    values = {key: value for key, value in raw.items() if key not in ("grid", "arms", "baselines", "seeds")}
    return Study(**values, seeds=tuple(seeds), families={
        family: tuple(_make_arm(str(name), keys or {}) for name, keys in arms.items()) for family, arms in declared.items()})


def _check_families(
    raw: Mapping[str, Any], declared: Mapping[str, Mapping[str, Any]], check: Callable[[bool, str, str], None]
) -> None:
    """Refuse families without arms, names that collide, generators that nobody has, and keys that the study sets itself."""
    check(RECIPES not in (raw.get("baselines") or {}), "baselines", f"another name than {RECIPES}")
    recipes = declared[RECIPES]
    check(bool(recipes) and len(declared) + len(recipes) > 2, "arms",
          "two arms or more, from arms and grid together, or one and a baseline")
    check(all(isinstance(arms, dict) and arms for name, arms in declared.items() if name != RECIPES), "baselines",
          "names, each with arms")
    arms = [(str(name), values or {}) for family in declared.values() for name, values in family.items()]
    check(all(isinstance(values, dict) for _, values in arms), "arms", "names, each with config keys")
    check(len({name for name, _ in arms}) == len(arms), "baselines", "arms whose names differ from all others")
    check(len({name.casefold() for name, _ in arms}) == len(arms), "arms", "names that differ by more than upper and lower "
          "case, since folders are named after them")
    check(all(name.replace("-", "").replace("_", "").replace(".", "").isalnum() for name, _ in arms), "arms",
          "names of letters, digits, dots, - and _")
    for name, values in arms:
        generator = values.get("generator", THROUGH_VAE)
        check(generator in GENERATORS, f"{name}.generator", f"one of {', '.join(GENERATORS)}, found {str(generator)[:60]!r}")
    for family, members in declared.items():
        check(len({(values or {}).get("generator", THROUGH_VAE) for values in members.values()}) == 1,
              "arms" if family == RECIPES else "baselines", f"one generator in all arms of {family}")
    given = {key for values in (*(values for _, values in arms), raw.get("overrides") or {}) for key in values}
    for key in sorted(given & set(_RESERVED)):
        check(False, key, "no value in arms, grid, baselines and overrides, since the study sets it itself")


def list_rounds(study: Study, num_arms: int) -> list[tuple[int, float]]:
    """(arms, minutes) of each screening round: half of the arms go on, with twice the minutes, down to the finalists."""
    rounds, count, minutes = [], num_arms, study.screen_minutes
    while count > study.finalists:
        rounds.append((count, minutes))
        count, minutes = max(study.finalists, -(-count // 2)), minutes * 2
    return rounds


def steps_for(minutes: float, seconds_per_step: float) -> int:
    """Optimizer steps that fit into the minutes, at least one."""
    return max(1, int(minutes * 60 / seconds_per_step))


def score_of(generator: str) -> str:
    """The curve of `read_curves` by which images of this generator are ranked."""
    return ABOVE_REAL[_compared(generator)]


def score_arm(arm: Arm, evaluations: Sequence[Mapping[str, Any]]) -> ArmScore:
    """Read an arm's evaluations, one a seed."""
    read = [read_curves(evaluation) for evaluation in evaluations if DIVERGED not in evaluation]
    excess = [one.excess[_compared(arm.generator)] for one in read]
    shared = [encoder for encoder in (excess[0] if excess else ()) if all(encoder in one for one in excess)]
    by_encoder = {encoder: tuple(one[encoder].value for one in excess) for encoder in shared}
    decided_by = least_favourable(by_encoder) if by_encoder else None
    curves = {key: statistics.fmean(one.curves[key] for one in read) for key in (read[0].curves if read else ())
              if all(key in one.curves for one in read)}
    distances = () if decided_by is None else by_encoder[decided_by]
    curves |= {score_of(arm.generator): statistics.fmean(distances)} if distances else {}
    shares = [one.class_share for one in read if one.class_share is not None]
    return ArmScore(arm.name, distances if len(distances) == len(evaluations) else (), curves,
                    any(one.copying for one in read), statistics.fmean(shares) if shares else None,
                    len(evaluations) - len(read), by_encoder, decided_by)


def keep_best(scores: Sequence[ArmScore], count: int, *, of_baseline: bool = False) -> list[str]:
    """The names of the best arms that the rule does not pass over, best first.

    Raises:
        NoArmLeft: it passes all of them over, saying why; those of a baseline are then taken as they are.
        UserError: arms were measured by different features.
    """
    eligible = sorted((score for score in scores if score.refusal() is None), key=lambda score: score.mean)
    if not eligible and of_baseline:
        eligible = sorted(scores, key=lambda score: score.mean)
    if not eligible:
        reasons = "; ".join(f"{score.name}: {score.refusal()}" for score in scores)
        raise NoArmLeft(f"no arm of the study can be kept ({reasons}); give more minutes, or other arms")
    require_same_features({score.name: tuple(score.by_encoder) for score in eligible if score.distances})
    return [score.name for score in eligible[:count]]


def format_scores(title: str, scores: Sequence[ArmScore]) -> str:
    """The table of a round for the screen, best first."""
    names = list(dict.fromkeys(name for score in scores for name in score.curves))
    width = max(24, *(len(score.name) + 2 for score in scores))
    widths = {name: max(15, len(name) + 2) for name in names}
    lines = [title, f"{'arm':<{width}}{'least':>12}{'most':>12}" + "".join(f"{name:>{of}}" for name, of in widths.items())]
    for score in sorted(scores, key=lambda score: score.mean):
        spread = f"{min(score.distances):>12.4g}{max(score.distances):>12.4g}" if score.distances else f"{'-':>12}{'-':>12}"
        cells = "".join(f"{score.curves[name]:>{of}.4g}" if name in score.curves else f"{'-':>{of}}"
                        for name, of in widths.items())
        by = "" if score.decided_by is None else f"  by {name_features(score.decided_by)}"
        lines.append(f"{score.name:<{width}}{spread}{cells}{by}  {score.refusal() or ''}".rstrip())
    return "\n".join(lines)


def plot_scores(path: Path, rounds: Sequence[Mapping[str, Any]]) -> None:
    """One panel a round of study.json: the score of each arm, a point a seed and a stroke at the mean; the axis is
    logarithmic where the worst would hide what the others differ by."""
    most = max(len(each["arms"]) for each in rounds)
    figure, panels = pyplot.subplots(1, len(rounds), figsize=(4.2 * len(rounds), 1.2 + 0.26 * most), squeeze=False,
                                     layout="constrained")
    for panel, shown in zip(panels.flat, rounds, strict=True):
        scores = shown["arms"]
        means = {row["arm"]: statistics.fmean(row["distances"]) for row in scores if row["distances"]}
        ranked = sorted(means, key=lambda name: -means[name])
        panel.plot([means[name] for name in ranked], ranked, "|", color="steelblue", markersize=14, markeredgewidth=2.5)
        for row in scores:
            if row["distances"]:
                panel.plot(row["distances"], [ranked.index(row["arm"])] * len(row["distances"]), "k.", markersize=5)
        values = [value for row in scores for value in row["distances"]]
        if values and min(values) > 0 and max(values) > _WIDE_RANGE * min(values):
            panel.set_xscale("log")
            panel.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
            panel.xaxis.set_minor_formatter(ticker.NullFormatter())
        elif values:
            panel.set_xlim(min(0.0, min(values) * 1.1), max(values) * 1.1)
            panel.xaxis.set_major_locator(ticker.MaxNLocator(4))
        panel.grid(axis="y", color="0.92")
        panel.set_axisbelow(True)
        panel.set_ylim(-0.7, len(ranked) - 0.3)
        panel.set_title(shown["title"], fontsize=10)
        panel.set_xlabel(f"{shown['score']} (validation)")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120, metadata={"Software": None})
    pyplot.close(figure)


def _compared(generator: str) -> str:
    """The comparison by which images of this generator are ranked."""
    return "model_gap" if generator == THROUGH_VAE else "total"


def _make_arm(name: str, keys: Mapping[str, Any]) -> Arm:
    return Arm(name, str(keys.get("generator", THROUGH_VAE)), {key: keys[key] for key in keys if key != "generator"})


def _combine(grid: Mapping[str, Sequence[Any]]) -> list[tuple[str, dict[str, Any]]]:
    """A name and keys for every combination of the grid's values; names of two may be equal."""
    arms = []
    for values in itertools.product(*grid.values()) if grid else ():
        name = "-".join(f"{key.split('.')[-1]}_{value}" for key, value in zip(grid, values, strict=True))
        name = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)
        arms.append((name, dict(zip(grid, values, strict=True))))
    return arms
