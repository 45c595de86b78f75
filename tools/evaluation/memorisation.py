"""Whether synthetic images are copies of training images, against held-out images that cannot be. Arrays in, numbers out.

The statistic is r, the distance to the nearest training image over the mean distance to the next ones: a copy is far
nearer to one image than to any other, while a sample from a dense region is near to many. Owns the ratio, its threshold
and the verdict; encoders and image files are elsewhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from scipy.stats import betabinom, binom

from config.errors import UserError, name_some
from config.schema import SYMMETRIES
from dataset.order import generator
from dataset.symmetries import apply_symmetry
from tools.evaluation.aspects import Tone
from tools.evaluation.checks import as_features, as_groups
from tools.evaluation.image_set import halve_groups
from tools.evaluation.metric_keys import PIXELS, Family, MetricKey
from tools.evaluation.neighbours import squared_distances
from tools.evaluation.rows import OVERALL, Row

NEIGHBOURS = 50  # training groups after the nearest one whose mean distance is the scale of r
FEWEST_NEIGHBOURS = 3  # below it the scale of r is noise
LEVEL, LEVEL_OF_SMALL_SETS, SMALL_SET = 0.01, 0.05, 200  # of tau; a small set has fewer held-out groups than SMALL_SET
# Held-out groups under which no tau has that level: half of them set it, and the least r of G lies at 1 / (G + 1).
FEWEST_GROUPS = 2 * (round(1 / LEVEL_OF_SMALL_SETS) - 1) - 1
PIXEL_SIDE_PX = 16  # at it re-encoding and the autoencoder's blur cost little, and different cells still differ
# How a verdict begins that found copies, and one of a set too small to tell. Code reads the outcome, not these words.
COPYING_FOUND, TOO_FEW_TO_TELL = "copying found", "too few held-out groups to tell"
# p value under which the count of flagged images is no chance. Such a verdict is worth a false alarm in a hundred.
DECISIVE_P = 0.01
# An image whose r is under this share of the smallest held-out r is a copy by itself. Where the number of images within
# r grows like r ** 4 (measured on 64 px cells: 4.6) an innocent one passes it with probability 1e-4 over that of tau.
CLEAR_SHARE = 0.1
PIXEL_SPACE = f"{PIXELS} at {PIXEL_SIDE_PX} px"
NEAR_COPIES_BY_PIXELS = MetricKey(Family.NEAR_COPIES, PIXEL_SPACE)
_BINOMIAL = "; binomial p"  # ends the verdict in a note
_ROWS_AT_ONCE = 256
_SEED = 0  # of the halves of the held-out groups; part of the protocol, not of a run
_MOST_LISTED = 24


@dataclass(frozen=True)
class Ratios:
    """r of N images, float64 (N,), with the positions of the nearest training image and of the nearest of another
    group, int64 (N,)."""

    values: np.ndarray
    nearest: np.ndarray
    second: np.ndarray


@dataclass(frozen=True)
class Threshold:
    """tau; the chance `level` that an innocent image lies under it; the smallest r that set it; rank and groups."""

    tau: float
    level: float
    smallest: float
    rank: int
    num_groups: int


@dataclass(frozen=True)
class CopyAudit:
    """What the test of one space found: `ratios` and `flagged` of each synthetic image, and how innocents fared.

    `control` holds r of the held-out images that did not set tau, in all versions, `control_rows` the positions of these
    images, int64, `control_share` their share under tau, each of their `num_control` groups weighing the same.
    """

    space: str
    ratios: Ratios
    threshold: Threshold
    flagged: np.ndarray
    control: np.ndarray
    control_rows: np.ndarray
    control_share: float
    num_control: int
    num_training_hit: int

    @property
    def share(self) -> float:
        """Share of the synthetic images under tau."""
        return float(self.flagged.mean())

    @property
    def binomial_p(self) -> float:
        """Chance of as many flagged images at the level, tau taken as exact."""
        return float(binom.sf(self.flagged.sum() - 1, len(self.flagged), self.threshold.level))

    @property
    def control_limit(self) -> int:
        """Control groups under tau up to which chance explains them: 95% of the beta-binomial distribution."""
        rank, groups = self.threshold.rank, self.threshold.num_groups
        return int(betabinom.ppf(0.95, self.num_control, rank, groups + 1 - rank))

    @property
    def control_exceeded(self) -> bool:
        """Whether more of the control lies under tau than chance explains."""
        return int(self.control_share * self.num_control + 1e-9) > self.control_limit

    @property
    def num_events(self) -> int:
        """Flagged images, those that crowd just under tau around one training image counted once.

        A generator that draws from the middle of the data only puts many images beside the few that lie there; copies
        of one image lie far under tau.
        """
        close = self.flagged & (self.ratios.values >= self.threshold.tau / 2)
        return int((self.flagged & ~close).sum()) + len(np.unique(self.ratios.nearest[close]))

    @property
    def p_value(self) -> float:
        """Chance of as many events among innocent images under a tau that few held-out groups set (beta-binomial)."""
        rank, groups = self.threshold.rank, self.threshold.num_groups
        return float(betabinom.sf(self.num_events - 1, len(self.flagged), rank, groups + 1 - rank))

    @property
    def num_clear(self) -> int:
        """Images far under whatever a held-out image reaches: copies, however few they are."""
        return int((self.ratios.values < CLEAR_SHARE * self.threshold.smallest).sum())

    @property
    def copying_found(self) -> bool:
        return self.num_clear > 0 or self.p_value < DECISIVE_P

    @property
    def outcome(self) -> Tone:
        """FAILS where copying was found, UNKNOWN where too few held-out groups can rule it out."""
        if self.copying_found:
            return Tone.FAILS
        return Tone.UNKNOWN if self.threshold.level > LEVEL_OF_SMALL_SETS else Tone.HOLDS

    @property
    def convicted(self) -> np.ndarray:
        """The images to reject, bool (N,): those under tau, or where few held-out groups set tau at a level above 5%, under
        which many innocents lie, the clear copies alone."""
        if self.threshold.level > LEVEL_OF_SMALL_SETS:
            return self.ratios.values < CLEAR_SHARE * self.threshold.smallest
        return self.flagged

    @property
    def verdict(self) -> str:
        """One sentence. It never says that images are private: that is not tested here."""
        counts = (f"{int(self.flagged.sum())} of {len(self.flagged)} synthetic images lie under tau = "
                  f"{self.threshold.tau:.3f}, where {100 * self.threshold.level:.2g}% are expected without copying")
        if self.outcome is Tone.UNKNOWN:
            return (f"{TOO_FEW_TO_TELL}: {self.threshold.num_groups + self.num_control} of them, at least {FEWEST_GROUPS} "
                    f"are needed for a tau at {100 * LEVEL_OF_SMALL_SETS:.2g}%; {counts} (p = {self.p_value:.2g})")
        if self.outcome is Tone.HOLDS:
            return f"no copying detected at tau: {counts} (p = {self.p_value:.2g})"
        clear = f", {self.num_clear} of them beyond doubt" if self.num_clear else ""
        return f"{COPYING_FOUND}: {counts} (p = {self.p_value:.2g}){clear}; {self.num_training_hit} training images hit"

    def lowest(self) -> list[tuple[int, int, int, float]]:
        """The pairs to look at: (synthetic, nearest, second, r), by ascending r."""
        order = np.argsort(self.ratios.values, kind="stable")[:_MOST_LISTED]
        return [(int(i), int(self.ratios.nearest[i]), int(self.ratios.second[i]), float(self.ratios.values[i]))
                for i in order]


def pixel_vectors(pixels: np.ndarray) -> np.ndarray:
    """uint8 (N, H, W, C) -> float64 (N, D) of unit length, whose distance is sqrt(2 - 2 correlation).

    Gray, averaged down to 16 px, the mean removed: brightness and contrast do not matter. A flat image is all zeros.
    """
    side = min(PIXEL_SIDE_PX, *pixels.shape[1:3])
    small = np.stack([cv2.resize(image.mean(axis=-1), (side, side), interpolation=cv2.INTER_AREA) for image in pixels])
    vectors = small.reshape(len(small), -1).astype(np.float64)
    vectors -= vectors.mean(axis=1, keepdims=True)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 1e-9)


def view_vectors(vectors: np.ndarray) -> np.ndarray:
    """The vectors (N, D) of the eight flips and quarter turns of the square images behind `vectors`, (8, N, D)."""
    side = round(vectors.shape[1] ** 0.5)
    images = torch.from_numpy(vectors).view(-1, side, side)
    return np.stack([apply_symmetry(images, name).reshape(vectors.shape).numpy() for name in SYMMETRIES])


def nearest_ratios(
    queries: np.ndarray, references: np.ndarray, groups: Sequence[str], *, neighbours: int = NEIGHBOURS
) -> Ratios:
    """r = d1 / mean(d2 .. d51) of each query to the groups of the references, at most as many as there are.

    The distance to a group is that to its nearest image, so that a focal stack counts once and does not hide a copy
    of one of its planes. A set may come in views or versions, (V, N, D) instead of (N, D): the nearest pair counts. r
    is 1 where all distances of the mean are zero. One block of rows is held at a time.

    Raises:
        UserError: NaN or infinite features, different numbers of columns, or fewer than four reference groups.
    """
    queries, references = _as_versions(queries, "images to test"), _as_versions(references, "training images")
    if queries.shape[2] != references.shape[2]:
        raise UserError(f"expected features of one encoder, found {queries.shape[2]} and {references.shape[2]} columns; "
                        "encode both sets with the same encoder")
    numbers, num_groups = as_groups(groups, references.shape[1], minimum=1)
    used = min(neighbours, num_groups - 1)
    if used < FEWEST_NEIGHBOURS:
        raise UserError(f"expected training images of at least {FEWEST_NEIGHBOURS + 1} groups (patients, embryos) to tell a "
                        f"copy from a likeness, found {num_groups}; test against more training images")
    order = np.argsort(numbers, kind="stable")
    starts = np.searchsorted(numbers[order], np.arange(num_groups))
    centre = references.mean(axis=(0, 1))
    queries, references = queries - centre, (references - centre)[:, order]
    count = queries.shape[1]
    values, nearest, second = np.empty(count), np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64)
    for start in range(0, count, _ROWS_AT_ONCE):
        rows = slice(start, min(start + _ROWS_AT_ONCE, count))
        squared = np.min([squared_distances(view[rows], version) for view in queries for version in references], axis=0)
        by_group = np.sqrt(np.minimum.reduceat(squared, starts, axis=1))
        ranked = np.sort(np.partition(by_group, used, axis=1)[:, : used + 1], axis=1)
        scale = ranked[:, 1:].mean(axis=1)
        values[rows] = np.divide(ranked[:, 0], scale, out=np.ones(len(ranked)), where=scale > 0)
        first = squared.argmin(axis=1)
        nearest[rows] = order[first]
        squared[numbers[order][None, :] == numbers[order[first]][:, None]] = np.inf
        second[rows] = order[squared.argmin(axis=1)]
    return Ratios(values, nearest, second)


def set_threshold(values: np.ndarray, groups: Sequence[str], *, level: float) -> Threshold:
    """tau, under which innocent images lie with a chance of at most `level`, from r of held-out images.

    The quantile is the order statistic of rank floor(level (G + 1)) of G groups, each weighing 1 however many images it
    has: a new image of the same kind is then under tau with probability rank / (G + 1), exactly. With few groups that is
    the smallest r, at a level of 1 / (G + 1). Interpolated quantiles would let twice as many through at G = 100.
    """
    numbers, num_groups = as_groups(groups, len(values), minimum=1)
    rank = max(1, int(level * (num_groups + 1) + 1e-9))
    order = np.argsort(values, kind="stable")
    weights = np.cumsum(1.0 / np.bincount(numbers)[numbers][order])
    position = min(int(np.searchsorted(weights, rank - 1e-9)), len(values) - 1)
    return Threshold(tau=float(values[order[position]]), level=rank / (num_groups + 1), smallest=float(values[order[0]]),
                     rank=rank, num_groups=num_groups)


def audit_copies(
    space: str, synthetic: np.ndarray, train: np.ndarray, held_out: Sequence[np.ndarray], *, train_groups: Sequence[str],
    held_out_groups: Sequence[str], neighbours: int = NEIGHBOURS, seed: int = _SEED,
) -> CopyAudit:
    """Test synthetic images in one space; each set is (N, D) or, in views or versions, (V, N, D).

    `held_out` lists versions of the held-out images that are innocents on their own, such as the images and their
    round trips through the autoencoder. One half of the held-out groups sets tau, the other half is the control. The
    level is 1%, or 5% under 200 held-out groups.

    Raises:
        UserError: as `nearest_ratios`, no or one held-out group, or a group on both sides.
    """
    names = np.asarray(held_out_groups)
    num_groups = len(np.unique(names))
    if num_groups < 2:
        raise UserError(f"expected held-out images of at least 2 groups (one sets tau, one tests it), found {num_groups}; "
                        "hold more patients' images out of the training")
    shared = sorted(set(names.tolist()) & set(np.asarray(train_groups).tolist()))
    if shared:
        raise UserError(f"expected held-out groups that are not trained on, found {len(shared)} on both sides: "
                        f"{name_some(shared)}; split by patient or embryo")
    level = LEVEL if num_groups >= SMALL_SET else LEVEL_OF_SMALL_SETS
    innocent = np.concatenate([nearest_ratios(version, train, train_groups, neighbours=neighbours).values
                               for version in held_out])
    of = np.tile(names, len(held_out))
    control, setting = halve_groups(of, rng=generator(seed, "copies"))
    threshold = set_threshold(innocent[setting], of[setting], level=level)
    ratios = nearest_ratios(synthetic, train, train_groups, neighbours=neighbours)
    flagged = ratios.values < threshold.tau
    numbers, num_control = as_groups(of[control], len(control), minimum=1)
    weights = 1.0 / np.bincount(numbers)[numbers] / num_control
    return CopyAudit(
        space=space, ratios=ratios, threshold=threshold, flagged=flagged, control=innocent[control],
        control_rows=control[control < len(names)],
        control_share=float(weights[innocent[control] < threshold.tau].sum()),
        num_control=num_control,
        num_training_hit=len(np.unique(ratios.nearest[flagged])),
    )


def memorisation_rows(audit: CopyAudit) -> list[Row]:
    """The share under tau of synthetic images and of the control."""
    metric = MetricKey(Family.NEAR_COPIES, audit.space)
    threshold, num_synthetic = audit.threshold, len(audit.flagged)
    limit = audit.control_limit / audit.num_control
    control = f"of {audit.num_control} held-out groups that did not set tau; chance explains up to {limit:.3g} (95%)"
    return [
        Row(metric, OVERALL, "copies", audit.share, n_real=threshold.num_groups, n_synthetic=num_synthetic,
            note=f"{audit.verdict}{_BINOMIAL} = {audit.binomial_p:.2g}", outcome=audit.outcome),
        Row(metric, OVERALL, "copies_control", audit.control_share, n_real=audit.num_control, n_synthetic=0, note=control),
    ]


def read_verdict(row: Row) -> str:
    """The sentence of the verdict in a row of `memorisation_rows`, which a file holds in its note alone."""
    return row.note.partition(_BINOMIAL)[0]


def _as_versions(values: np.ndarray, name: str) -> np.ndarray:
    """Finite float64 (V, N, D), with V of 1 for an array (N, D)."""
    versions = np.asarray(values)[None] if np.asarray(values).ndim == 2 else np.asarray(values)
    return np.stack([as_features(version, name=name, minimum=1) for version in versions])
