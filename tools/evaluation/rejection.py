"""Near-copies of training images, left out of an evaluation or replaced while images are sampled.

`copies.py` says what a near-copy is.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from config.errors import UserError
from dataset.ranks import Ranks
from tools.diffusion.generation import ImageRequest
from tools.diffusion.project import Project
from tools.evaluation.copies import audit_pixels, name_pairs
from tools.evaluation.evaluation_report import EvaluationReport, TableRow
from tools.evaluation.evaluation_sets import EvaluationSets
from tools.evaluation.image_set import ImageSet
from tools.evaluation.image_sets import read_set, round_trip

_FEWEST_REPLACEMENTS = 20  # that a class may take, so that a small request is not refused by chance

Flag = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class RejectedCopies:
    """What is kept, and the near-copies that are not, as rows of tables."""

    kept: EvaluationSets
    verdict: str
    rejected: list[TableRow]
    pairs: list[TableRow]

    def describe(self, result: EvaluationReport) -> None:
        """Say in the report what was left out."""
        count, total = len(self.rejected), len(self.kept.synthetic) + len(self.rejected)
        result.provenance["num_rejected_as_copies"] = count
        result.details.rejected = self.rejected
        result.details.copy_pairs = [*self.pairs, *result.details.copy_pairs]
        result.warn(f"{count} of {total} synthetic images were rejected as near-copies of training images and every number "
                    f"is of the rest; before that: {self.verdict}")


def sort_out_copies(sets: EvaluationSets, ranks: Ranks) -> RejectedCopies:
    """Leave out the synthetic images that the deciding test flags.

    Raises:
        UserError: the test cannot be made, or a class loses all of its images.
    """
    audit, made = audit_pixels(sets), sets.synthetic
    flagged = ranks.join(audit.convicted & ranks.is_first)  # machines may round apart, and all go on with the same images
    kept = made.select(np.flatnonzero(~flagged))
    lost = set(made.labels.tolist()) - set(kept.labels.tolist())
    if lost:
        raise UserError(f"every synthetic image of class {min(lost)} is a near-copy of a training image, none is left to "
                        "evaluate; train for fewer steps or on more images")
    return RejectedCopies(
        kept=replace(sets, synthetic=kept), verdict=audit.verdict,
        rejected=[{"IMAGE_NAME": made.ids[i], "label": int(made.labels[i]), "r": round(float(audit.ratios.values[i]), 6)}
                  for i in np.flatnonzero(flagged)],
        pairs=[{**pair, "space": f"{audit.space}, before rejection"} for pair in name_pairs(audit, sets)],
    )


def most_replacements(count: int) -> int:
    """How many images of a class may be replaced where `count` are asked for: half of all that are drawn, or twenty."""
    return max(count, _FEWEST_REPLACEMENTS)


def replace_copies(
    requests: Sequence[ImageRequest], *, complete: Callable[[Sequence[ImageRequest]], list[ImageRequest]],
    draw: Callable[[Sequence[ImageRequest]], None], flag: Callable[[Sequence[ImageRequest]], Sequence[bool]],
) -> tuple[list[ImageRequest], list[ImageRequest]]:
    """The first images of each class that `flag` does not reject, as many as `requests` has, and those rejected.

    `complete` gives new requests their further conditions, `draw` draws a list of requests, `flag` judges them. Whether
    an image is rejected depends on that image alone, so the same requests always end with the same images.

    Raises:
        UserError: a class needs more replacements than `most_replacements`.
    """
    counts = Counter(request.label for request in requests)
    following = Counter(counts)
    accepted: list[ImageRequest] = []
    rejected: list[ImageRequest] = []
    wanted = list(requests)
    while wanted:
        draw(wanted)
        flags = flag(wanted)
        accepted += [request for request, bad in zip(wanted, flags, strict=True) if not bad]
        bad_ones = [request for request, bad in zip(wanted, flags, strict=True) if bad]
        rejected += bad_ones
        wanted = []
        for request in bad_ones:
            wanted.append(ImageRequest(request.label, following[request.label]))
            following[request.label] += 1
        wanted = complete(wanted)
        for label, count in counts.items():
            if following[label] - count > most_replacements(count):
                raise UserError(f"{sum(r.label == label for r in rejected)} of {following[label]} images of class {label} "
                                "are near-copies of training images: the model repeats what it was trained on; train it for "
                                "fewer steps or on more images")
    return sorted(accepted, key=lambda r: (r.label, r.index)), sorted(rejected, key=lambda r: (r.label, r.index))


def make_flag(project: Project, device: torch.device, *, held_out: str, quiet: bool) -> Flag:
    """A function uint8 (N, H, W, C) -> bool (N,): which images are near-copies, against the real training images and those
    of the split `held_out`.

    Raises:
        UserError: too few training or held-out images, or images that cannot be read.
    """
    train, real = (read_set(name, images, quiet, hash_image=project.hash_image) for name, images in
                   (("train", project.trained_images("train")), (held_out, project.images(held_out))))
    codec, batch_size = project.open_codec(device=device), project.autoencoder.batch_size
    sets = EvaluationSets(
        synthetic=real, real=real, train=train, real_round_trip=round_trip(codec, real, batch_size, quiet),
        train_round_trip=round_trip(codec, train, batch_size, quiet), class_names=project.table.class_names,
    )

    def flag(pixels: np.ndarray) -> np.ndarray:
        names = [str(i) for i in range(len(pixels))]
        made = ImageSet("synthetic", pixels, np.zeros(len(pixels), np.int64), names, names, names)
        return audit_pixels(replace(sets, synthetic=made)).convicted

    return flag
