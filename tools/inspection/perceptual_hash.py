"""Find nearly identical images: a hash in bands finds candidates, thumbnails decide. Time is linear in the images.

problems.py decides what a pair means (a leak, a focal plane).
"""

from collections.abc import Iterator, Sequence

import cv2
import numpy as np

THUMBNAIL_PX = 32
# Normalised correlation of two thumbnails. Measured on 60 images each of embryos, sperm and phantoms: saved again as JPEG
# of quality 75, halved or a fifth brighter a picture keeps 0.986 and more; phantoms of two oocytes reach 0.955, neighbouring
# focal planes of one embryo 0.991.
SAME_PICTURE = 0.985
_HASH_SIDE = 8
_BAND_BITS, _NUM_BANDS = 16, 4
_NEIGHBOURS = 32  # compared with each image in a band, so that crowded bands stay linear
_MOST_PAIRS = 16  # per image, so that the pairs of a set of similar frames fit in memory


def make_thumbnail(gray: np.ndarray) -> np.ndarray:
    """(H, W) float32 -> uint8 (32, 32), stretched to the full range, so that brightness and contrast do not matter."""
    small = cv2.resize(gray, (THUMBNAIL_PX, THUMBNAIL_PX), interpolation=cv2.INTER_AREA)
    low, high = float(small.min()), float(small.max())
    if high <= low:
        return np.zeros((THUMBNAIL_PX, THUMBNAIL_PX), np.uint8)
    return np.rint((small - low) * (255 / (high - low))).astype(np.uint8)


def hash_thumbnails(thumbnails: np.ndarray) -> np.ndarray:
    """uint64 (N,) of uint8 (N, 32, 32): the signs of the 64 lowest cosine frequencies about their median.

    Source: the perceptual hash by DCT (Zauner 2010, section 3.2.1).
    """
    hashes = np.empty(len(thumbnails), np.uint64)
    for index, thumbnail in enumerate(thumbnails):
        frequencies = cv2.dct(thumbnail.astype(np.float32))[:_HASH_SIDE, :_HASH_SIDE].ravel()
        bits = frequencies > np.median(frequencies[1:])  # the first is the mean brightness
        bits[0] = False
        hashes[index] = np.packbits(bits).view(">u8")[0]
    return hashes


def find_same_pictures(thumbnails: np.ndarray) -> Iterator[tuple[int, int]]:
    """Pairs (i, j), i < j, of thumbnails uint8 (N, 32, 32) that correlate to at least `SAME_PICTURE`, each once.

    Candidates agree in one of four bands of 16 bits of the hash, so that all pairs whose hashes differ in up to three bits
    are found. In a band each is compared with the next 32 in the order of the whole hash, until it has 16 pairs: apart from
    sorting, time and memory are linear in N. In a larger crowd of similar images, some pairs are linked only through
    others between them. Flat images resemble nothing.
    """
    hashes = hash_thumbnails(thumbnails)
    varied = np.flatnonzero(thumbnails.max(axis=(1, 2)) > 0)
    found: set[int] = set()
    opened = np.zeros(len(thumbnails), np.int64)
    for band in range(_NUM_BANDS):
        keys = (hashes >> np.uint64(band * _BAND_BITS)) & np.uint64((1 << _BAND_BITS) - 1)
        order = varied[np.lexsort((varied, hashes[varied], keys[varied]))]
        for step in range(1, min(_NEIGHBOURS, len(order) - 1) + 1):
            first, second = order[:-step], order[step:]
            together = (keys[first] == keys[second]) & (opened[first] < _MOST_PAIRS)
            for a, b in _correlated(thumbnails, first[together], second[together]):
                pair = (min(a, b), max(a, b))
                code = pair[0] * len(thumbnails) + pair[1]
                if code not in found:
                    found.add(code)
                    opened[a] += 1
                    yield pair


def join_pairs(pairs: Sequence[tuple[int, int]]) -> list[list[int]]:
    """The sets connected by pairs, each sorted, in the order of their first members."""
    parent: dict[int, int] = {}

    def root(member: int) -> int:
        parent.setdefault(member, member)
        while parent[member] != member:
            parent[member] = parent[parent[member]]
            member = parent[member]
        return member

    for a, b in pairs:
        parent[max(root(a), root(b))] = min(root(a), root(b))
    sets: dict[int, list[int]] = {}
    for member in sorted(parent):
        sets.setdefault(root(member), []).append(member)
    return list(sets.values())


def _correlated(thumbnails: np.ndarray, first: np.ndarray, second: np.ndarray) -> Iterator[tuple[int, int]]:
    for start in range(0, len(first), 4096):  # 4096 pairs of thumbnails are 32 MB in float32
        left, right = first[start : start + 4096], second[start : start + 4096]
        similar = (_normalise(thumbnails[left]) * _normalise(thumbnails[right])).sum(axis=1) >= SAME_PICTURE
        yield from zip(left[similar].tolist(), right[similar].tolist(), strict=True)


def _normalise(thumbnails: np.ndarray) -> np.ndarray:
    """float32 (N, 1024) of zero mean and unit length."""
    values = thumbnails.reshape(len(thumbnails), -1).astype(np.float32)
    values -= values.mean(axis=1, keepdims=True)
    return values / np.linalg.norm(values, axis=1, keepdims=True)
