"""A set of 8-bit images with labels and groups, and drawing subsets that are alike in number and class prior."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from dataset.prefetch import read_ahead

CHUNK_IMAGES = 256  # decoded at once where not all are held


class ReadOnDemand:
    """Pixels that are decoded whenever they are asked for: like an array (N, H, W, C) that is indexed by its images only.

    `read` gives image i of the source, uint8 (H, W, C); `rows` are the positions in the source of the N images here.
    """

    def __init__(self, read: Callable[[int], np.ndarray], rows: np.ndarray, image_shape: tuple[int, ...]) -> None:
        self._read = read
        self._rows = rows
        self.shape = (len(rows), *image_shape)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        chosen = self._rows[rows].tolist()
        return np.stack(list(read_ahead(self._read, chosen))) if chosen else np.empty((0, *self.shape[1:]), dtype=np.uint8)

    def __iter__(self) -> Iterator[np.ndarray]:
        return read_ahead(self._read, self._rows.tolist())

    def select(self, rows: np.ndarray) -> "ReadOnDemand":
        """The images at these positions, still undecoded."""
        return ReadOnDemand(self._read, self._rows[rows], self.shape[1:])

    def map(self, change: Callable[[np.ndarray], np.ndarray], image_shape: tuple[int, ...]) -> "ReadOnDemand":
        """The images after `change`, which gives images of `image_shape`."""
        return ReadOnDemand(lambda row: change(self._read(row)), self._rows, image_shape)


@dataclass(frozen=True)
class ImageSet:
    """N images as PNG files hold them: pixels uint8 (N, H, W, C), C of 1 or 3, labels int64 (N,).

    `conditions` has the level of each image, int64 (N,), of those further conditions that are known of it, by their name.
    """

    name: str
    pixels: "np.ndarray | ReadOnDemand"
    labels: np.ndarray
    ids: list[str]
    groups: list[str]
    sha256: list[str]
    conditions: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def chunks(self) -> Iterator[np.ndarray]:
        """The pixels, at most 256 images at a time."""
        return (self.pixels[start:start + CHUNK_IMAGES] for start in range(0, len(self), CHUNK_IMAGES))

    def in_memory(self) -> np.ndarray:
        """The pixels as one array; for sets that are known to be small."""
        return self.pixels if isinstance(self.pixels, np.ndarray) else self.pixels[:]

    def with_pixels(self, name: str, pixels: "np.ndarray | ReadOnDemand") -> "ImageSet":
        """The same images after a change to their pixels, such as a round trip through the VAE."""
        return replace(self, name=name, pixels=pixels)

    def select(self, rows: np.ndarray) -> "ImageSet":
        """The images at these positions."""
        pixels = self.pixels[rows] if isinstance(self.pixels, np.ndarray) else self.pixels.select(rows)
        return ImageSet(self.name, pixels, self.labels[rows], [self.ids[i] for i in rows],
                        [self.groups[i] for i in rows], [self.sha256[i] for i in rows],
                        {name: levels[rows] for name, levels in self.conditions.items()})


def matched_counts(wanted: np.ndarray, *available: np.ndarray) -> np.ndarray:
    """The largest class counts at the prior of `wanted` that every set can supply, int64 (num_classes,).

    All arguments are counts per class. Exactly `wanted` where every set has at least as many of each class; a rare class
    is kept with one image where its share would round to none.
    """
    present = wanted > 0
    share = min(1.0, *(float((counts[present] / wanted[present]).min()) for counts in available))
    return np.maximum(np.floor(wanted * share + 1e-9), present & (share > 0)).astype(np.int64)


def draw_matched(labels: np.ndarray, counts: np.ndarray, *, rng: np.random.Generator | None) -> np.ndarray:
    """Positions of counts[c] images of each class, ascending: a random draw, or with no `rng` the first ones."""
    chosen: list[np.ndarray] = []
    for label, count in enumerate(counts):
        members = np.flatnonzero(labels == label)
        chosen.append(members[:count] if rng is None else rng.choice(members, size=count, replace=False))
    return np.sort(np.concatenate(chosen))


def count_labels(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Images per class, int64 (num_classes,)."""
    return np.bincount(labels, minlength=num_classes)


def groups_of_labels(images: ImageSet) -> dict[int, int]:
    """In how many groups each label lies that occurs."""
    pairs = set(zip(images.labels.tolist(), images.groups, strict=True))
    return dict(Counter(label for label, _ in pairs))


def halve_groups(groups: Sequence[str], *, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of positions with about half of the groups each, no group in both."""
    names = rng.permutation(np.unique(np.asarray(groups)))
    first = np.isin(np.asarray(groups), names[: len(names) // 2])
    return np.flatnonzero(first), np.flatnonzero(~first)
