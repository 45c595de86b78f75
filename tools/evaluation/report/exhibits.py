"""What the pictures and plots of a report are made of, taken from the sets while they are at hand: few images, small.

Owns the choice (uncurated, by fixed rules) and the size. How they are drawn is plots.py's, the page report_page.py's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch

from config.schema import SYMMETRIES
from dataset.order import generator
from dataset.storage import hash_json
from dataset.symmetries import apply_symmetry
from tools.evaluation.encoders.feature_kinds import FeatureKind, kind_of
from tools.evaluation.evaluation_sets import SEED, EvaluationSets
from tools.evaluation.features import Features
from tools.evaluation.frechet import frechet_distance
from tools.evaluation.image_set import ImageSet
from tools.evaluation.memorisation import CopyAudit, nearest_ratios, pixel_vectors, view_vectors
from tools.evaluation.neighbours import count_neighbours, nearest_neighbours
from tools.evaluation.resampling import cap_by_group

REAL_SET, RESTORED_SET, SYNTHETIC_SET = "real, held out", "VAE round trip", "synthetic"  # the sets of a grid
_LARGEST_TILE_PX = 128
_GRID_IMAGES = 12  # of a class and a set
_MOST_GRID_CLASSES = 12
_MISSED_IMAGES = 24
_CONTROL_PAIRS = 6
_NEIGHBOURS = 5  # k of coverage, whose uncovered images are shown
_SCATTER_IMAGES = 500  # of each set
_CURVE_IMAGES, _SMALLEST_CURVE, _CURVE_STEPS, _CURVE_DRAWS = 1000, 50, 5, 4
_BINNED = 20_000  # ratios behind a histogram


@dataclass(frozen=True)
class CurvePoint:
    """A Fréchet distance at n images a side: mean, least and largest of some draws of whole groups."""

    n: int
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class FeatureExhibit:
    """One encoder's: points float64 (M, 2) of each set on the first two joint principal axes and the share of variance
    that each axis explains; Fréchet distances against n by comparison; ids of real images without a synthetic image
    among their neighbours, the loneliest first, out of `num_real`."""

    encoder: str
    frechet_name: str
    points: dict[str, np.ndarray]
    explained: tuple[float, float]
    curves: dict[str, list[CurvePoint]]
    missed: list[str]
    num_real: int


@dataclass(frozen=True)
class Pair:
    """An image, its nearest training image turned alike, and the nearest of another group: uint8 (h, w, C) each."""

    image: np.ndarray
    nearest: np.ndarray
    second: np.ndarray
    image_id: str
    nearest_id: str
    second_id: str
    ratio: float
    under_tau: bool
    turn: str


@dataclass(frozen=True)
class RatioExhibit:
    """r of synthetic and of control images in one space, float64 (M,), and the threshold with its level."""

    space: str
    synthetic: np.ndarray
    control: np.ndarray
    tau: float
    level: float


@dataclass
class Exhibits:
    """All that a report shows besides rows. `grids` holds, by class and set, uint8 (M, h, w, C); `withheld` says of each
    synthetic image of a grid whether it is flagged as a near-copy. `private_names` are ids and groups of real images;
    `salt` is what their pseudonyms are made with."""

    class_names: Sequence[str]
    grids: dict[str, dict[str, np.ndarray]]
    withheld: dict[str, np.ndarray]
    features: list[FeatureExhibit]
    ratios: list[RatioExhibit]
    pairs: list[Pair]
    controls: list[Pair]
    missed: np.ndarray
    num_left_out: int
    salt: str = field(repr=False)
    private_names: frozenset[str] = field(repr=False)


def make_feature_exhibit(encoder: str, frechet_name: str, of: dict[str, Features]) -> FeatureExhibit:
    """What is shown of the features `of` synthetic, real, round-trip and training images."""
    real, synthetic, restored = of["real"], of["synthetic"], of["real_round_trip"]
    points, explained = _project({"real": real, "VAE round trip of real": restored, "synthetic": synthetic})
    return FeatureExhibit(
        encoder=encoder, frechet_name=frechet_name, points=points, explained=explained,
        curves={"total": _frechet_curve(synthetic, real), "real_real": _frechet_curve(of["train"], real)},
        missed=_find_missed(real, synthetic), num_real=len(real.ids),
    )


def _narrow_last(one: FeatureExhibit) -> tuple[bool, int]:
    """Features of networks that were trained on these images last; of the others first those that miss most."""
    return kind_of(one.encoder) is FeatureKind.IN_DOMAIN, -len(one.missed)


def make_exhibits(sets: EvaluationSets, audits: Sequence[CopyAudit], features: Sequence[FeatureExhibit]) -> Exhibits:
    """Take the images to show; `audits` are of pixels first, then of encoders."""
    features = sorted(features, key=_narrow_last)
    flagged = audits[0].flagged if audits else np.zeros(len(sets.synthetic), dtype=bool)
    grids, withheld = {}, {}
    for label, name in list(enumerate(sets.class_names))[:_MOST_GRID_CLASSES]:
        real = _draw(sets.real, label)
        made = np.flatnonzero(sets.synthetic.labels == label)[:_GRID_IMAGES]
        grids[name] = {REAL_SET: _take(sets.real, real), RESTORED_SET: _take(sets.real_round_trip, real),
                       SYNTHETIC_SET: _take(sets.synthetic, made)}
        withheld[name] = flagged[made]
    missed = features[0].missed[:_MISSED_IMAGES] if features else []
    position = {image_id: row for row, image_id in enumerate(sets.real.ids)}
    images = (sets.real, sets.searched[0])
    return Exhibits(
        class_names=sets.class_names, grids=grids, withheld=withheld, features=features,
        ratios=[_keep_ratios(audit) for audit in audits], pairs=_list_pairs(audits[0], sets) if audits else [],
        controls=_list_controls(audits[0], sets) if audits else [],
        missed=_take(sets.real, np.array([position[image_id] for image_id in missed], dtype=np.int64)),
        num_left_out=max(0, len(sets.class_names) - _MOST_GRID_CLASSES),
        salt=make_salt([sets.real.sha256, sets.train.sha256, sets.synthetic.sha256]),
        private_names=frozenset(name for one in images for name in (*one.ids, *one.groups)),
    )


def make_salt(sha256: Sequence[Sequence[str]]) -> str:
    """What pseudonyms are made with, from the hashes of all files of all sets: who lacks the real images cannot make it,
    since only the hashes of whole lists are published, and equal evaluations have equal ones."""
    return hash_json({"salt of": [list(hashes) for hashes in sha256]})


def shrink(pixels: np.ndarray, largest_px: int = _LARGEST_TILE_PX) -> np.ndarray:
    """uint8 (M, H, W, C), made smaller where a side is longer than a tile of a page."""
    height, width, channels = pixels.shape[1:]
    factor = largest_px / max(height, width)
    if factor >= 1:
        return pixels
    size = (round(width * factor), round(height * factor))
    return np.stack([cv2.resize(image, size, interpolation=cv2.INTER_AREA).reshape(size[1], size[0], channels)
                     for image in pixels])


def _draw(images: ImageSet, label: int) -> np.ndarray:
    """Positions of a fixed draw of a class."""
    members = np.flatnonzero(images.labels == label)
    return np.sort(generator(SEED, "grid", label).permutation(members)[:_GRID_IMAGES])


def _take(images: ImageSet, rows: np.ndarray) -> np.ndarray:
    """The images at these positions, uint8 (M, h, w, C), made smaller where they are large."""
    if not len(rows):
        return np.empty((0, 1, 1, images.pixels.shape[-1]), dtype=np.uint8)
    return shrink(images.select(rows).in_memory())


def _project(sets: dict[str, Features]) -> tuple[dict[str, np.ndarray], tuple[float, float]]:
    """Joint principal axes of equally many images of each set."""
    count = min(_SCATTER_IMAGES, *(len(features.values) for features in sets.values()))
    chosen = {name: features.values[np.linspace(0, len(features.values) - 1, count).astype(int)].astype(np.float64)
              for name, features in sets.items()}
    values = np.concatenate(list(chosen.values()))
    values -= values.mean(axis=0)
    variances, axes = np.linalg.eigh(values @ values.T)
    scores = axes[:, :-3:-1] * np.sqrt(np.maximum(variances[:-3:-1], 0.0))
    scores *= np.where(scores[np.abs(scores).argmax(axis=0), [0, 1]] < 0, -1.0, 1.0)
    shares = np.maximum(variances[:-3:-1], 0.0) / max(float(np.maximum(variances, 0.0).sum()), 1e-300)
    return dict(zip(chosen, np.split(scores, len(chosen)), strict=True)), (float(shares[0]), float(shares[1]))


def _frechet_curve(first: Features, second: Features) -> list[CurvePoint]:
    """Fréchet distances at growing n, whole groups drawn; empty where there are too few images for a curve."""
    largest = min(len(first.values), len(second.values), _CURVE_IMAGES)
    if largest < 2 * _SMALLEST_CURVE:
        return []
    points = []
    for n in np.unique(np.geomspace(_SMALLEST_CURVE, largest, _CURVE_STEPS).round().astype(int)):
        values = []
        for draw in range(_CURVE_DRAWS):
            one, other = (features.values[cap_by_group(features.groups, limit=int(n), seed=SEED + draw)]
                          for features in (first, second))
            values.append(frechet_distance(one, other))
        points.append(CurvePoint(int(n), float(np.mean(values)), min(values), max(values)))
    return points


def _find_missed(real: Features, synthetic: Features) -> list[str]:
    """Ids of real images whose ball of five neighbours holds no synthetic image, farthest from one first."""
    if min(len(real.values), len(synthetic.values)) <= _NEIGHBOURS:
        return []
    covered = count_neighbours(real.values, synthetic.values, k=_NEIGHBOURS).covered
    alone = np.flatnonzero(~covered)
    if not len(alone):
        return []
    distances, _ = nearest_neighbours(real.values[alone], synthetic.values, k=1)
    return [real.ids[row] for row in alone[np.argsort(-distances[:, 0], kind="stable")]]


def _keep_ratios(audit: CopyAudit) -> RatioExhibit:
    return RatioExhibit(audit.space, _thin(audit.ratios.values), _thin(audit.control), audit.threshold.tau,
                        audit.threshold.level)


def _thin(values: np.ndarray) -> np.ndarray:
    """Evenly spaced order statistics where there are very many."""
    return values if len(values) <= _BINNED else np.sort(values)[np.linspace(0, len(values) - 1, _BINNED).astype(int)]


def _list_pairs(audit: CopyAudit, sets: EvaluationSets) -> list[Pair]:
    """The synthetic images with the lowest r beside their training images."""
    return [_make_pair(sets.synthetic, i, j, k, r, sets.searched[0], under_tau=bool(audit.flagged[i]))
            for i, j, k, r in audit.lowest()]


def _list_controls(audit: CopyAudit, sets: EvaluationSets) -> list[Pair]:
    """Held-out images with the lowest r among those that did not set tau, by the test that decides: innocents to compare
    the pairs with."""
    innocent = sets.real.select(audit.control_rows)
    held_out = view_vectors(pixel_vectors(innocent.in_memory()))
    train = np.stack([pixel_vectors(images.in_memory()) for images in sets.searched])
    found = nearest_ratios(held_out, train, sets.searched[0].groups)
    lowest = np.argsort(found.values, kind="stable")[:_CONTROL_PAIRS]
    return [_make_pair(innocent, int(i), int(found.nearest[i]), int(found.second[i]), float(found.values[i]),
                       sets.searched[0], under_tau=bool(found.values[i] < audit.threshold.tau)) for i in lowest]


def _make_pair(
    images: ImageSet, i: int, nearest: int, second: int, ratio: float, train: ImageSet, *, under_tau: bool
) -> Pair:
    image = _take(images, np.array([i]))
    turned, turn = _turn_alike(image, _take(train, np.array([nearest])))
    return Pair(image[0], turned[0], _turn_alike(image, _take(train, np.array([second])))[0][0], images.ids[i],
                train.ids[nearest], train.ids[second], ratio, under_tau, turn)


def _turn_alike(image: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, str]:
    """`other` (1, h, w, C) under the flip or turn in which it is most like `image`, and its name."""
    channels_first = torch.from_numpy(np.ascontiguousarray(other.transpose(0, 3, 1, 2)))
    turned = {name: apply_symmetry(channels_first, name).numpy().transpose(0, 2, 3, 1) for name in SYMMETRIES}
    wanted = pixel_vectors(image)
    best = max(turned, key=lambda name: float((pixel_vectors(turned[name]) * wanted).sum()))
    return turned[best], best
