"""List faults and oddities of a data set, each once, from its records and image statistics."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from config.errors import name_some
from dataset.image_folder import escape_name
from dataset.records import ImageRecord, Problem, name_class
from dataset.splits import SPLITS
from tools.inspection.image_statistics import ImageStatistics, find_outliers
from tools.inspection.perceptual_hash import find_same_pictures, join_pairs
from tools.inspection.symmetries import SymmetryMeasurement

ERROR, WARNING, NOTE = "error", "warning", "note"
SEVERITIES = (ERROR, WARNING, NOTE)
_MINORITY = 0.1  # a size or depth of fewer than this fraction of the images is unusual
_HELD_OUT_FIRST = ("test", "val", "train", "")  # which copy of a leaking image stays: there are fewer held-out images

# kind: (severity, what it is, what to do). Kinds of faulty rows come from dataset.annotations.
KINDS = {
    "unreadable": (ERROR, "images that cannot be read", "fix or remove the file"),
    "truncated": (ERROR, "truncated images", "copy the file again from its source"),
    "colour": (ERROR, "colour images, but im_channels is 1", "set im_channels: 3, or convert them to gray"),
    "blank": (ERROR, "blank images: every pixel has the same value", "replace or remove the image"),
    "conflict": (ERROR, "identical images with different labels", "find out which label is right and keep its row"),
    "leak": (ERROR, "identical images in more than one split", "keep one copy; their groups may be one patient"),
    "duplicate": (WARNING, "identical images", "keep one copy"),
    "near_conflict": (WARNING, "nearly identical images with different labels", "check the labels"),
    "near_leak": (WARNING, "nearly identical images in more than one split",
                  "check whether they show one patient; if so, give them one group"),
    "near_duplicate": (WARNING, "nearly identical images", "check whether they show one patient or embryo"),
    "size": (WARNING, "images of an unusual size", "check whether they come from another source"),
    "small": (WARNING, "images smaller than image_size", "they are enlarged; a smaller image_size loses nothing"),
    "depth": (WARNING, "images of an unusual bit depth", "check whether they come from another source"),
    "range": (WARNING, "16-bit images that use part of their range",
              "all 65,536 values become [-1, 1]: scale the values up, or the images stay dark"),
    "tinted": (WARNING, "colour images among gray ones", "look for marks or text drawn into them"),
    "contrast": (WARNING, "images with much more or less contrast than the others", "look at them"),
    "focus": (WARNING, "images much less sharp than the others", "look at them"),
    "class_absent": (WARNING, "splits without images of a class", "results there say nothing about the class"),
    "symmetries": (WARNING, "symmetries in the config that the images do not obey",
                   "remove them from dataset_params.symmetries; check_symmetries shows the test"),
    "planes": (NOTE, "nearly identical images within one group", "expected of focal planes and frames of one embryo"),
    "stages": (NOTE, "nearly identical images with different labels within one group",
               "expected if the label changes over time, as a stage does; otherwise check the labels"),
    "gray": (NOTE, "gray images stored as RGB", "im_channels: 1 reads them; a VAE with three channels works too"),
    "sizes": (NOTE, "images of several sizes", "each one is resized to image_size"),
    "ungrouped": (WARNING, "no group_column", "images of one patient can end up on both sides of a split, and every result "
                  "then looks too good: name the column of the patient or embryo"),
    "unlabelled": (NOTE, "images without a label", "the UNet and the VAE learn from those of train; the others are unused"),
    "reading": (NOTE, "rows or cells that were left out, or read in another way", "check that you meant this"),
    "unlisted": (NOTE, "images in the folder without a row", "add rows for them if they belong to the data set"),
}


@dataclass(frozen=True)
class Finding:
    """One thing found: `images` are positions of records, `places` rows of the table, `leaves` those of them that a clean
    table leaves out."""

    severity: str
    kind: str
    title: str
    text: str
    remedy: str
    images: tuple[int, ...] = ()
    places: tuple[str, ...] = ()
    leaves: tuple[str, ...] = ()


def row_findings(problems: Sequence[Problem], records: Sequence[ImageRecord]) -> list[Finding]:
    """Faults that the table's reader found, one finding per offender."""
    positions = {record.place: position for position, record in enumerate(records)}
    findings = []
    for problem in problems:
        for offender, places in zip(problem.offenders, problem.places, strict=True):
            images = tuple(positions[place] for place in places if place in positions)
            leaves = places[-1:] if problem.kind == "twice" else places
            if problem.kind == "group_leak":
                counts = Counter(records[image].split for image in images)
                most = max(counts, key=lambda split: (counts[split], split == "train"))
                leaves = tuple(records[image].place for image in images if records[image].split != most)
                offender += f", not in {most} as most of it: {name_some(list(leaves))}"
            findings.append(Finding(ERROR, problem.kind, problem.found, offender, problem.remedy, images, places, leaves))
    return findings


def image_findings(
    records: Sequence[ImageRecord], statistics: Sequence[ImageStatistics | None], thumbnails: np.ndarray, *,
    faults: Mapping[int, tuple[str, str]], class_names: Sequence[str], im_channels: int, image_size: int, grouped: bool,
) -> list[Finding]:
    """Findings in the images themselves.

    Args:
        statistics: of each record's file, None if it has no usable image; `faults` then has its kind and "found; remedy".
        thumbnails: uint8 (N, 32, 32).
        grouped: whether records carry groups of more than one image.
    """
    findings = []
    for image, (kind, reason) in faults.items():
        found, _, remedy = reason.partition("; ")
        findings.append(replace(_about(kind, records, [image], found), remedy=remedy))
    whole = [image for image, values in enumerate(statistics) if values is not None]
    blank = [image for image in whole if statistics[image].contrast == 0]
    findings += [_about("blank", records, [image]) for image in blank]
    shown = sorted(set(whole) - set(blank))
    findings += _find_copies(records, statistics, thumbnails, shown, class_names)
    odd_sizes = list(_find_sizes(records, statistics, shown, image_size))
    findings += odd_sizes
    findings += _find_depths(records, statistics, shown)
    findings += _find_colours(records, statistics, shown, im_channels)
    sized = {image for finding in odd_sizes if finding.kind == "size" for image in finding.images}
    findings += _find_outliers(records, statistics, shown, sized)
    findings += _find_absent_classes(records, class_names)
    if not grouped:
        findings.append(_about("ungrouped", records, [], "each image counts as a separate patient", name=False))
    order = {kind: place for place, kind in enumerate(KINDS)}
    return sorted(findings, key=lambda finding: (order[finding.kind], finding.images[:1]))


def reading_findings(notes: Sequence[str]) -> list[Finding]:
    """What the table's reader left out or read differently."""
    return [_about("reading", (), [], note) for note in notes]


def unlabelled_findings(records: Sequence[ImageRecord], num_classes: int) -> list[Finding]:
    """How many images without a label each split has."""
    counts = Counter(record.split for record in records if record.label == num_classes)
    text = ", ".join(f"{split} {counts[split]:,}" for split in SPLITS if counts[split])
    return [_about("unlabelled", (), [], text)] if counts else []


def unlisted_findings(names: Sequence[str]) -> list[Finding]:
    """Images of the folder that no row names."""
    return [_about("unlisted", (), [], f"{len(names):,}: {name_some(list(map(escape_name, names)))}")] if names else []


def count_noun(number: int, noun: str) -> str:
    """ "1 group", "1,200 groups"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def symmetry_findings(measured: SymmetryMeasurement | None, symmetries: Sequence[str]) -> list[Finding]:
    """The config's symmetries that a measurement finds broken."""
    broken = {test.name: test.effect for test in measured.tests if test.broken} if measured and measured.decided else {}
    wrong = [f"{name} (effect {broken[name]:.1f} standard deviations)" for name in symmetries if name in broken]
    if not wrong:
        return []
    return [_about("symmetries", (), [], f"{', '.join(wrong)}; recommended: [{', '.join(measured.recommended)}]")]


def _find_copies(
    records: Sequence[ImageRecord], statistics: Sequence[ImageStatistics | None], thumbnails: np.ndarray,
    shown: Sequence[int], class_names: Sequence[str],
) -> Iterator[Finding]:
    """Identical images by the hash of their pixels, then nearly identical ones among one copy of each.

    Nearly identical images of one group are expected, also with labels that change over time: one note each.
    """
    copies: defaultdict[bytes, list[int]] = defaultdict(list)
    for image in shown:
        copies[statistics[image].content].append(image)
    for images in copies.values():
        if len(images) > 1:
            kind = _kind_of_copies(records, images, ("conflict", "leak", "duplicate"), len(class_names))
            stays = min(images, key=lambda image: (_HELD_OUT_FIRST.index(records[image].split), image))
            kept = {"conflict": None, "leak": stays, "duplicate": images[0]}[kind]
            leaves = tuple(records[image].place for image in images if image != kept)
            yield _about(kind, records, images, _list_copies(records, images, class_names), name=False, leaves=leaves)
    single = np.array([images[0] for images in copies.values()], dtype=np.int64)
    within: dict[str, list[tuple[int, int]]] = {"stages": [], "planes": []}
    between: list[tuple[int, int]] = []
    for first, second in find_same_pictures(thumbnails[single]):
        a, b = int(single[first]), int(single[second])
        if records[a].group != records[b].group:
            between.append((a, b))
        else:
            within["planes" if records[a].label == records[b].label else "stages"].append((a, b))
    for images in join_pairs(between):
        kind = _kind_of_copies(records, images, ("near_conflict", "near_leak", "near_duplicate"), len(class_names))
        yield _about(kind, records, images, _list_copies(records, images, class_names), name=False)
    for kind, pairs in within.items():
        if pairs:
            images = sorted({image for pair in pairs for image in pair})
            text = f"{len(images):,} images in {count_noun(len({records[image].group for image in images}), 'group')}"
            shown_pair = min(pairs) if kind == "stages" else ()
            text += f", such as {_list_copies(records, shown_pair, class_names)}" if shown_pair else ""
            yield _about(kind, records, shown_pair, text, name=False)


def _kind_of_copies(
    records: Sequence[ImageRecord], images: Sequence[int], kinds: tuple[str, str, str], num_classes: int
) -> str:
    """The most specific of (conflict, leak, copy); a group in two splits is reported as such, not again for its copies.

    A copy without a label contradicts none.
    """
    if len({records[image].label for image in images} - {num_classes}) > 1:
        return kinds[0]
    splits, groups = {records[image].split for image in images}, {records[image].group for image in images}
    return kinds[1] if len(splits) > 1 and len(groups) > 1 else kinds[2]


def _list_copies(records: Sequence[ImageRecord], images: Sequence[int], class_names: Sequence[str]) -> str:
    listed = []
    for record in (records[image] for image in images):
        place = record.place if record.place != record.image_id else ""
        parts = (place, name_class(record.label, class_names), record.split)
        listed.append(f"{record.image_id} ({', '.join(filter(None, parts))})")
    return name_some(listed)


def _find_sizes(
    records: Sequence[ImageRecord], statistics: Sequence[ImageStatistics | None], shown: Sequence[int], image_size: int
) -> Iterator[Finding]:
    sizes = Counter((statistics[image].width, statistics[image].height) for image in shown)
    if not sizes:
        return
    (usual, count), *_ = sizes.most_common(1)
    odd = []
    if len(shown) - count < _MINORITY * len(shown):
        odd = [image for image in shown if (statistics[image].width, statistics[image].height) != usual]
        for image in odd:
            size = f"{statistics[image].width} x {statistics[image].height} px, most are {usual[0]} x {usual[1]}"
            yield _about("size", records, [image], size)
    else:
        listed = [f"{width} x {height} px ({number})" for (width, height), number in sizes.most_common()]
        yield _about("sizes", records, [], name_some(listed), name=False)
    small = [image for image in sorted(set(shown) - set(odd))
             if max(statistics[image].width, statistics[image].height) < image_size]
    if small:
        names = name_some([records[image].image_id for image in small])
        text = f"{len(small):,} of {len(shown):,} are below {image_size} px: {names}"
        yield _about("small", records, [], text, name=False)


def _find_depths(
    records: Sequence[ImageRecord], statistics: Sequence[ImageStatistics | None], shown: Sequence[int]
) -> Iterator[Finding]:
    by_bits = {bits: [image for image in shown if statistics[image].bits == bits] for bits in (8, 16)}
    fewer = min(by_bits, key=lambda bits: len(by_bits[bits]))
    if 0 < len(by_bits[fewer]) < _MINORITY * len(shown):
        for image in by_bits[fewer]:
            yield _about("depth", records, [image], f"{fewer} bits, most have {24 - fewer}")
    elif by_bits[16]:
        peak = max(statistics[image].peak for image in by_bits[16])
        if peak < 1 << 15:
            text = f"{len(by_bits[16]):,} images hold values up to {peak:,} of 65,535 ({peak.bit_length()} bits)"
            yield _about("range", records, [], text, name=False)


def _find_colours(
    records: Sequence[ImageRecord], statistics: Sequence[ImageStatistics | None], shown: Sequence[int], im_channels: int
) -> Iterator[Finding]:
    colour = [image for image in shown if not statistics[image].gray]
    if im_channels == 1 and len(colour) > len(shown) / 2:  # the config is wrong, not these rows
        yield _about("colour", records, [], f"{len(colour):,} of {len(shown):,} images", name=False)
    elif im_channels == 1:
        yield from (_about("colour", records, [image]) for image in colour)
    elif len(colour) < _MINORITY * len(shown):
        yield from (_about("tinted", records, [image]) for image in colour)
    as_rgb = sum(statistics[image].gray and statistics[image].channels == 3 for image in shown)
    if as_rgb and as_rgb >= (1 - _MINORITY) * len(shown):
        yield _about("gray", records, [], f"{as_rgb:,} of {len(shown):,} images", name=False)


def _find_outliers(
    records: Sequence[ImageRecord], statistics: Sequence[ImageStatistics | None], shown: Sequence[int], sized: set[int]
) -> Iterator[Finding]:
    """Contrast, then focus of the others; sharpness depends on size, so images of another size are left out."""
    images = np.array(shown, dtype=np.int64)
    contrasts = np.array([statistics[image].contrast for image in shown])
    odd = {int(images[place]) for place in find_outliers(contrasts, low_only=False)}
    for image in sorted(odd):
        share = statistics[image].contrast / float(np.median(contrasts))
        yield _about("contrast", records, [image], f"{share:.2g} times the median")
    images = np.array([image for image in shown if image not in odd and image not in sized], dtype=np.int64)
    sharpness = np.array([statistics[image].focus for image in images])
    for place in find_outliers(sharpness, low_only=True):
        share = sharpness[place] / float(np.median(sharpness))
        yield _about("focus", records, [int(images[place])], f"{share:.2g} times the median")


def _find_absent_classes(records: Sequence[ImageRecord], class_names: Sequence[str]) -> Iterator[Finding]:
    present = {(record.split, record.label) for record in records}
    for split in ("val", "test"):
        absent = [name for label, name in enumerate(class_names) if (split, label) not in present]
        if absent and any(found == split for found, _ in present):
            yield _about("class_absent", records, [], f"{', '.join(absent)} in {split}", name=False)


def _about(
    kind: str, records: Sequence[ImageRecord], images: Sequence[int], detail: str = "", *, name: bool = True,
    leaves: tuple[str, ...] | None = None,
) -> Finding:
    """A finding of a kind about these images; an error's rows leave the clean table unless `leaves` says which."""
    severity, title, remedy = KINDS[kind]
    places = tuple(records[image].place for image in images)
    named = [" ".join(dict.fromkeys(filter(None, (records[image].place, records[image].image_id)))) for image in images]
    named = named if name else []
    text = "; ".join(filter(None, (", ".join(named), detail)))
    if leaves is None:
        leaves = places if severity == ERROR else ()
    return Finding(severity, kind, title, text, remedy, tuple(images), places, leaves)
