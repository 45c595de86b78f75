"""A sweep over checkpoints, samplers, steps and guidance: its points, what is read of each evaluation, and the choice.

Drawing and evaluating a point is the sampling script's business, which the command starts.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from config.errors import UserError
from config.schema import Config
from dataset.storage import hash_json
from tools.diffusion import estimate
from tools.diffusion.project import Project
from tools.evaluation.aspects import Tone
from tools.evaluation.encoders.config_weights import hash_evaluation_weights
from tools.evaluation.evidence import name_features
from tools.evaluation.memorisation import COPYING_FOUND, NEAR_COPIES_BY_PIXELS
from tools.evaluation.metric_keys import CLASS_AUC, Family
from tools.evaluation.rows import OVERALL, find_headline, read_outcome
from tools.evaluation.selection import (
    ABOVE_REAL,
    MEANING,
    Excess,
    least_favourable,
    measure_excess,
    require_same_features,
)
from tools.evaluation.sweep_curves import CURVES, SweepRecord, SweptPoint
from tools.runtime.run_directory import keys_of_results

LEAST_CLASS_SHARE = 0.9  # of the class AUC on held-out real images that a chosen point's images must keep
RULE = (
    "Chosen on validation images: among the points without copying found and whose class AUC, where the class is visible in "
    f"held-out real images, is at least {LEAST_CLASS_SHARE:g} of that on them, the one of least KD above real (model gap). "
    "Of all points whose interval reaches down to that value the one with fewest network evaluations an image, then the "
    f"least guidance. {MEANING}"
)
WITHOUT_JUDGE = ("no judge is named (evaluation_params.judge_path), so whether images still show their class is not weighed "
                 "and a generator that ignores the label can be chosen")


@dataclass(frozen=True)
class SweepPoint:
    """One way of drawing: weights, sampler, steps and guidance scale."""

    checkpoint: Path
    sampler: str
    num_steps: int
    guidance_scale: float

    def settings(self, checkpoint_sha256: str) -> dict[str, Any]:
        """Everything that the point's images depend on beside the config."""
        return {"checkpoint_sha256": checkpoint_sha256, "sampler": self.sampler, "num_steps": self.num_steps,
                "guidance_scale": self.guidance_scale}

    def name(self) -> str:
        """A folder name that tells a person what it holds."""
        return f"{self.checkpoint.stem}-{self.sampler}-{self.num_steps}-guidance{self.guidance_scale:g}".replace("+", "p")

    def overrides(self) -> list[str]:
        """The config keys that make the sampling script draw this point."""
        return [f"sample_params.sampler={self.sampler}", f"sample_params.num_steps={self.num_steps}",
                f"sample_params.guidance_scale={self.guidance_scale!r}"]


@dataclass(frozen=True)
class PointResult:
    """What an evaluation says of a point; None where it was not computed.

    `distance` and `interval` are KD above real (model gap), by the features of the encoder `decided_by`: the least
    favourable of the `features` that were compared. `curves` holds the numbers plotted.
    """

    point: SweepPoint
    num_evaluations: float
    distance: float | None
    interval: tuple[float, float] | None
    copying: bool
    class_share: float | None
    curves: Mapping[str, float]
    decided_by: str | None = None
    features: tuple[str, ...] = ()

    def refusal(self) -> str | None:
        """Why the rule passes this point over, if it does."""
        return refuse(has_distance=self.distance is not None, copying=self.copying, class_share=self.class_share)


@dataclass(frozen=True)
class EvaluationCurves:
    """What a choice reads of an evaluation: the numbers plotted, KD above real by comparison and encoder, copying, class
    signal."""

    curves: Mapping[str, float]
    excess: Mapping[str, Mapping[str, Excess]]
    copying: bool
    class_share: float | None


def refuse(*, has_distance: bool, copying: bool, class_share: float | None) -> str | None:
    """Why images are passed over whatever their distance, if they are; `class_share` None where the class is not seen."""
    if not has_distance:
        return "no kernel distance by published or untrained features"
    if copying:
        return COPYING_FOUND
    if class_share is not None and class_share < LEAST_CLASS_SHARE:
        return f"class AUC {class_share:.2f} of that on real images"
    return None


def list_points(
    checkpoints: Sequence[Path], samplers: Sequence[str], steps: Sequence[int], guidance: Sequence[float]
) -> list[SweepPoint]:
    """The full grid in the order given, each point once.

    Raises:
        UserError: two points that would share a folder.
    """
    points = [SweepPoint(*values) for values in dict.fromkeys(itertools.product(checkpoints, samplers, steps, guidance))]
    names = [point.name() for point in points]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"two points of the sweep are named {twice}: give checkpoints with different file names")
    return points


def count_evaluations(point: SweepPoint, config: Config) -> int:
    """Forward passes of the network an image with the point's settings and the config's guidance interval."""
    params = replace(config.sample_params, sampler=point.sampler, num_steps=point.num_steps,
                     guidance_scale=point.guidance_scale)
    return estimate.count_evaluations(params, config.diffusion_params.num_timesteps)


def read_curves(evaluation: Mapping[str, Any]) -> EvaluationCurves:
    """Read an evaluation.json. KD above real is by the least favourable features, all other curves are by the first encoder
    that was not trained on these images."""
    rows = [row for row in evaluation["rows"] if row["class"] == OVERALL]
    wanted = {"KD model gap": (Family.KERNEL, "model_gap"), "KD total": (Family.KERNEL, "total"),
              "precision": (Family.PRECISION, "total"), "recall": (Family.RECALL, "total"),
              "coverage": (Family.COVERAGE, "total"), "class AUC": (CLASS_AUC, "synthetic"),
              "near-copies": (NEAR_COPIES_BY_PIXELS, "copies")}
    found = {name: find_headline(rows, *key) for name, key in wanted.items()}
    excess = {comparison: measure_excess(rows, comparison) for comparison in ABOVE_REAL}
    worst = {ABOVE_REAL[comparison]: max(one.value for one in by_encoder.values())
             for comparison, by_encoder in excess.items() if by_encoder}
    made, real = found["class AUC"], find_headline(rows, CLASS_AUC, "held_out")
    visible = real is not None and real["interval"] is not None and real["interval"][0] > 0.5  # else the share is noise
    return EvaluationCurves(
        curves={**worst, **{name: row["value"] for name, row in found.items() if row is not None}},
        excess=excess,
        copying=any(row["comparison"] == "copies" and read_outcome(row) is Tone.FAILS for row in rows),
        class_share=made["value"] / real["value"] if made is not None and real is not None and visible else None,
    )


def read_result(point: SweepPoint, evaluation: Mapping[str, Any], config: Config) -> PointResult:
    """What the rule and the curves need from a point's evaluation.json."""
    read = read_curves(evaluation)
    excess = read.excess["model_gap"]
    ends = [one.interval for one in excess.values() if one.interval is not None]
    return PointResult(
        point=point, num_evaluations=count_evaluations(point, config), distance=read.curves.get(ABOVE_REAL["model_gap"]),
        interval=(max(low for low, _ in ends), max(high for _, high in ends)) if len(ends) == len(excess) > 0 else None,
        copying=read.copying, class_share=read.class_share, curves=read.curves, features=tuple(excess),
        decided_by=least_favourable({encoder: [one.value] for encoder, one in excess.items()}) if excess else None,
    )


def choose(results: Sequence[PointResult]) -> PointResult:
    """The point that RULE names.

    Raises:
        UserError: it passes every point over, saying why, or points were measured by different features.
    """
    eligible = [result for result in results if result.refusal() is None]
    if not eligible:
        reasons = "; ".join(f"{result.point.name()}: {result.refusal()}" for result in results)
        raise UserError(f"no point of the sweep can be chosen ({reasons}); widen the sweep, or train longer")
    require_same_features({result.point.name(): result.features for result in eligible})
    best = min(eligible, key=lambda result: result.distance)
    tied = [result for result in eligible
            if result is best or (result.interval is not None and result.interval[0] <= best.distance)]
    return min(tied, key=lambda result: (result.num_evaluations, result.point.guidance_scale, result.distance))


def point_key(settings: Mapping[str, Any], config: Config, split: str) -> str:
    """Hash of all that a point's numbers depend on: its settings, the config, the images and labels, the VAE and the other
    networks that are read."""
    project = Project.open(config)
    images = {name: project.latents_identity(name) for name in ("train", split)}
    return hash_json({"settings": settings, "split": split, "config": keys_of_results(config), "images": images,
                      "weights": hash_evaluation_weights(config)})


def format_results(results: Sequence[PointResult]) -> str:
    """The table for the screen, with the reason where the rule passes a point over."""
    widths = {name: max(14, len(name) + 2) for name in CURVES}
    lines = [f"{'point':<52}{'passes':>8}" + "".join(f"{name:>{width}}" for name, width in widths.items())]
    for result in results:
        cells = "".join(f"{result.curves[name]:>{width}.4g}" if name in result.curves else f"{'-':>{width}}"
                        for name, width in widths.items())
        by = "" if result.decided_by is None else f"  by {name_features(result.decided_by)}"
        said = "" if result.refusal() is None else f"  {result.refusal()}"
        lines.append(f"{result.point.name():<52}{result.num_evaluations:>8.0f}{cells}{by}{said}".rstrip())
    return "\n".join(lines)


def make_record(results: Sequence[PointResult], chosen: PointResult, hashes: Mapping[Path, str]) -> SweepRecord:
    """The sweep as its file and the reports hold it; `hashes` are those of the checkpoints."""
    return SweepRecord(rule=RULE, chosen=chosen.point.name(), features=chosen.features, points=tuple(
        SweptPoint(name=result.point.name(), checkpoint=result.point.checkpoint.stem,
                   network_evaluations=result.num_evaluations, refusal=result.refusal(), interval=result.interval,
                   curves=result.curves, decided_by=result.decided_by,
                   **result.point.settings(hashes[result.point.checkpoint]))
        for result in results))
