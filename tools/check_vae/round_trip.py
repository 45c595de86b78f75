"""What a VAE keeps of images: error, texture by octave and the class. Pairs of arrays in, a verdict out."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from tools.evaluation.evidence import name_features
from tools.evaluation.frechet import frechet_distance
from tools.evaluation.neighbours import neighbour_scores
from tools.inspection.readout import GroupedLabels, Interval, summarise

FINEST_JUDGED_PX = 4  # wavelength: the octave below it is mostly the sensor's noise, which no VAE keeps
POWER_RANGE = (0.5, 2.0)
SIGNAL_SHARE = 0.25
RULE = (
    f"a VAE is good enough where every octave of wavelengths from {FINEST_JUDGED_PX} px keeps {POWER_RANGE[0]:g} to "
    f"{POWER_RANGE[1]:g} times its power and the class loses no more than {SIGNAL_SHARE:g} of its AUC - 0.5"
)
_EPS = 1e-12


@dataclass(frozen=True)
class Ceiling:
    """Round trips compared with the images as sets of features: the best that a model with this VAE can reach."""

    frechet_distance: float
    precision: float
    recall: float

    @classmethod
    def between(cls, real: np.ndarray, restored: np.ndarray) -> "Ceiling":
        """From features (N, D) of the images and of their round trips."""
        scores = neighbour_scores(real, restored)
        return cls(frechet_distance(real, restored), scores.precision, scores.recall)


@dataclass(frozen=True)
class VaeCost:
    """The cost of a VAE: its size, its latents (C, h, w), the time of a round trip on this machine, and, if train_vae made
    it, the seconds of its training."""

    num_parameters: int
    latent_shape: tuple[int, ...]
    milliseconds: float
    training_seconds: float | None

    def format(self) -> str:
        """Cells of `format_table`."""
        minutes = "" if self.training_seconds is None else f"{self.training_seconds / 60:.1f}"
        shape = "x".join(map(str, self.latent_shape))
        return f"{self.num_parameters / 1e6:>7.2f}{shape:>10}{minutes:>8}{self.milliseconds:>6.1f}"


@dataclass(frozen=True)
class VaeMeasurement:
    """One VAE on held-out images. `spectrum` maps "4-8 px" to the power of the round trip over that of the images.

    `auc_real`, `auc_restored` and `auc_loss` (real minus restored, paired) are None if the class could not be read,
    `ceiling` if there is no encoder, `cost` if it was not requested. `distances` holds the Fréchet distance of the
    round trips over that of as many training images, by encoder. `problems` lists the VAE's failures by the rule; it is
    empty if the VAE is good enough.
    """

    name: str
    psnr_db: float
    lpips: float | None
    spectrum: Mapping[str, float]
    auc_real: Interval | None
    auc_restored: Interval | None
    auc_loss: Interval | None
    problems: tuple[str, ...]
    ceiling: Ceiling | None = None
    cost: VaeCost | None = None
    distances: Mapping[str, float] = field(default_factory=dict)

    @property
    def worst_octave(self) -> float:
        """The largest change of power among the judged octaves, in factors of two."""
        return max((abs(np.log2(ratio)) for band, ratio in self.spectrum.items() if _is_judged(band)), default=0.0)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"good_enough": not self.problems}


def measure_round_trip(
    name: str, real: np.ndarray, restored: np.ndarray, *, grouped: GroupedLabels | None,
    scores: tuple[np.ndarray, np.ndarray] | None, lpips: float | None, ceiling: Ceiling | None = None,
) -> VaeMeasurement:
    """Compare images float (N, C, H, H) in [-1, 1] with their round trip.

    Args:
        grouped: labels and groups of the images, None if the class cannot be read.
        scores: log-probabilities (N, classes) of the images and of their round trips by the same classifier.
        lpips: mean LPIPS of the pairs, if it was measured.
        ceiling: the distance of the two as sets, if there is an encoder.
    """
    errors = np.square(restored.astype(np.float64) - real).mean(axis=(1, 2, 3))
    psnr_db = float(np.mean(10 * np.log10(4 / np.maximum(errors, _EPS))))
    spectrum = octave_ratios(real, restored)
    auc_real = auc_restored = auc_loss = None
    if grouped is not None and scores is not None:
        before, after = (grouped.resampled_auc(values) for values in scores)
        auc_real, auc_restored, auc_loss = summarise(before), summarise(after), summarise(before - after)
    problems = [f"keeps {ratio:.2f} of the power at {band}" for band, ratio in spectrum.items()
                if _is_judged(band) and not POWER_RANGE[0] <= ratio <= POWER_RANGE[1]]
    if auc_real is not None and auc_real.low > 0.5 and auc_loss.value > SIGNAL_SHARE * (auc_real.value - 0.5):
        problems.append(f"loses {auc_loss.format()} of the class AUC {auc_real.value:.3f}")
    return VaeMeasurement(name, psnr_db, lpips, spectrum, auc_real, auc_restored, auc_loss, tuple(problems), ceiling)


def octave_ratios(real: np.ndarray, restored: np.ndarray) -> dict[str, float]:
    """Power of `restored` over that of `real`, both (N, C, H, H), in octaves of wavelength from the finest, 2-4 px.

    Radially averaged power of the channels' mean under a Hann window, its own mean taken out, summed over the images.
    The coarsest octave ends at half the side. An octave without power in `real` is left out.
    """
    size = real.shape[-1]
    window = np.hanning(size + 2)[1:-1]
    frequencies = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])  # cycles per pixel
    powers = []
    for images in (real, restored):
        total = np.zeros(frequencies.shape)
        for start in range(0, len(images), 64):
            gray = images[start:start + 64].astype(np.float64).mean(axis=1)
            gray = gray - gray.mean(axis=(1, 2), keepdims=True)
            total += (np.abs(np.fft.rfft2(gray * window[:, None] * window)) ** 2).sum(axis=0)
        powers.append(total)
    ratios, wavelength = {}, 2
    while 2 * wavelength <= size // 2:
        band = (frequencies <= 1 / wavelength) & (frequencies > 1 / (2 * wavelength))
        before, after = (power[band].sum() for power in powers)
        if before > _EPS:
            ratios[f"{wavelength}-{2 * wavelength} px"] = float(max(after, _EPS) / before)
        wavelength *= 2
    return ratios


def choose(measured: Sequence[VaeMeasurement]) -> VaeMeasurement:
    """The VAE with the fewest problems. Ties go to the one that is best by its least favourable features (the largest of
    `distances`), without these to the smallest Fréchet distance, and without that to the one whose worst octave changes
    least."""
    def badness(vae: VaeMeasurement) -> float:
        if vae.distances:
            return max(vae.distances.values())
        return vae.worst_octave if vae.ceiling is None else vae.ceiling.frechet_distance

    return min(measured, key=lambda vae: (len(vae.problems), badness(vae)))


def format_table(measured: Sequence[VaeMeasurement]) -> str:
    """Two tables with a row per VAE, then the problems of each. The first has cost (minutes of training, milliseconds of a
    round trip) and similarity, the second power by octave and the class. VAEs are named by the ends of their paths."""
    bands = list(measured[0].spectrum)
    names = shorten_names([vae.name for vae in measured])
    width = max(map(len, (*names, "power left"))) + 2
    lines = [f"{'VAE':<{width}}{'M par.':>7}{'latents':>10}{'trained':>8}{'ms':>6}{'PSNR dB':>9}{'LPIPS':>8}{'FD':>8}"
             f"{'precision':>11}{'recall':>8}"]
    for name, vae in zip(names, measured, strict=True):
        lpips = "" if vae.lpips is None else f"{vae.lpips:.3f}"
        of = vae.ceiling
        sets = "" if of is None else f"{of.frechet_distance:>8.1f}{of.precision:>11.2f}{of.recall:>8.2f}"
        cost = f"{'':>31}" if vae.cost is None else vae.cost.format()
        lines.append(f"{name:<{width}}{cost}{vae.psnr_db:>9.2f}{lpips:>8}{sets}".rstrip())
    lines += ["", f"{'power left':<{width}}" + "".join(f"{band:>10}" for band in bands)
              + "  class AUC: real, restored, loss (95% interval)"]
    for name, vae in zip(names, measured, strict=True):
        area = "not read"
        if vae.auc_real is not None:
            area = f"{vae.auc_real.value:.3f}, {vae.auc_restored.value:.3f}, {vae.auc_loss.format()}"
        lines.append(f"{name:<{width}}" + "".join(f"{vae.spectrum[band]:>10.2f}" for band in bands) + f"  {area}")
    lines += ["", *(f"{name}: FD {_describe_distances(vae)} times that of as many training images"
                    for name, vae in zip(names, measured, strict=True) if vae.distances)]
    lines += [f"{name}: {problem}" for name, vae in zip(names, measured, strict=True) for problem in vae.problems]
    lines.append(f"rule: {RULE}")
    return "\n".join(lines)


def shorten_names(names: Sequence[str]) -> list[str]:
    """The last parts of each path, as many as distinguish them; equal names stay whole."""
    parts = [name.rstrip("/").split("/") for name in names]
    for length in range(1, max(map(len, parts)) + 1):
        ends = ["/".join(of[-length:]) for of in parts]
        if len(set(ends)) == len(ends):
            return ends
    return list(names)


def _describe_distances(vae: VaeMeasurement) -> str:
    """The largest first; it decides between VAEs."""
    ranked = sorted(vae.distances.items(), key=lambda pair: -pair[1])
    return ", ".join(f"{value:.1f} (by {name_features(encoder)})" for encoder, value in ranked)


def _is_judged(band: str) -> bool:
    return int(band.split("-")[0]) >= FINEST_JUDGED_PX
