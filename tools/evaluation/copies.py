"""The test for copies applied to sets of images: in low-resolution pixels, which decides, and in the space of encoders.
Authenticity beside it.

Measured on 64 px cells, tau at 1%: pixels find every copy that is exact, mirrored and re-encoded as JPEG, or brighter;
squeezenet1_1 finds all, 0.2% and 31% of them, and all views of the training images do not help it (0.5%). It sees 61%
of copies shifted by 4 px, which pixels miss. Statistics are memorisation.py's.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from config.errors import UserError
from tools.evaluation.authenticity import authenticity_rows, find_authentic, measure_training
from tools.evaluation.encoders.encoder import Encoder
from tools.evaluation.encoders.feature_kinds import FeatureKind, kind_of
from tools.evaluation.evaluation_report import EvaluationReport, TableRow
from tools.evaluation.evaluation_sets import SEED, EvaluationSets, EvaluationSettings
from tools.evaluation.features import cached_features
from tools.evaluation.image_set import CHUNK_IMAGES, ImageSet
from tools.evaluation.memorisation import (
    PIXEL_SPACE,
    CopyAudit,
    audit_copies,
    memorisation_rows,
    pixel_vectors,
    view_vectors,
)
from tools.evaluation.metric_keys import Family, MetricKey
from tools.evaluation.rows import OVERALL, Row


def add_copies(
    report: EvaluationReport, sets: EvaluationSets, encoders: Sequence[Encoder], settings: EvaluationSettings
) -> None:
    """Add rows and warnings, and as details the audits and their pairs."""
    audits = report.details.copies
    try:
        audits.append(audit_pixels(sets))
        for encoder in encoders:
            audits.append(audit_encoder(encoder, sets, settings))
    except UserError as error:
        report.rows.append(Row(MetricKey(Family.NEAR_COPIES, PIXEL_SPACE), OVERALL, "copies", None,
                               note=f"not computed: {error}"))
        report.warn("copies of training images were not looked for: see the row near-copies")
    for audit in audits:
        report.rows += memorisation_rows(audit)
        report.details.copy_pairs += name_pairs(audit, sets)
        if audit.copying_found:
            report.warn(f"{audit.space}: {audit.verdict}; look at the nearest pairs and evaluate with --reject-copies")
        if audit.control_exceeded:
            report.warn(f"{audit.space}: {audit.control_share:.3g} of the held-out images that did not set tau lie under "
                        "it, more than chance explains; check that no patient is on both sides")


def name_pairs(audit: CopyAudit, sets: EvaluationSets) -> list[TableRow]:
    """The pairs with the lowest r by the names of their images, for internal use; r to six digits, which no machine's order
    of summation alters."""
    made, train = sets.synthetic.ids, sets.searched[0].ids
    return [{"space": audit.space, "synthetic": made[i], "nearest": train[j], "second": train[k], "r": round(r, 6),
             "under_tau": bool(audit.flagged[i])} for i, j, k, r in audit.lowest()]


def audit_pixels(sets: EvaluationSets) -> CopyAudit:
    """The deciding test: correlation at 16 px, the largest over flips and quarter turns.

    A model can return a training image only as the autoencoder restores it, so every training image stands for itself
    and for its round trip, and held-out images are innocent in both versions.

    Raises:
        UserError: too few training or held-out images, or a group on both sides.
    """
    return _audit(PIXEL_SPACE, sets, encode=_low_resolution, turn=view_vectors)


def audit_encoder(encoder: Encoder, sets: EvaluationSets, settings: EvaluationSettings) -> CopyAudit:
    """The test beside it, on the features of an encoder.

    Raises:
        UserError: as `audit_pixels`, or NaN features.
    """
    return _audit(_space_of(encoder), sets, encode=partial(_encode, encoder, settings), turn=_as_it_is)


def add_authenticity(
    report: EvaluationReport, sets: EvaluationSets, matched: EvaluationSets, encoders: Sequence[Encoder],
    settings: EvaluationSettings,
) -> None:
    """Add a row of the synthetic images and one of as many held-out real ones (both `matched`) for pixels and each encoder.

    References are all training images and their round trips. Encoders that were trained on these images are left out:
    they place them farther apart than images that they have not seen.
    """
    spaces = [(PIXEL_SPACE, _low_resolution, view_vectors)]
    spaces += [(_space_of(encoder), partial(_encode, encoder, settings), _as_it_is) for encoder in encoders
               if kind_of(encoder.name) is not FeatureKind.IN_DOMAIN]
    for space, encode, turn in spaces:
        try:
            versions = [encode(images) for images in sets.searched]
            training = measure_training(versions, sets.searched[0].groups, views=[turn(version) for version in versions])
            synthetic, held_out = (find_authentic(turn(encode(whole)[_positions(whole, part)]), training)
                                   for whole, part in ((sets.synthetic, matched.synthetic), (sets.real, matched.real)))
        except UserError as error:
            report.rows.append(Row(MetricKey(Family.AUTHENTICITY, space), OVERALL, "authentic", None,
                                   note=f"not computed: {error}"))
            continue
        report.rows += authenticity_rows(
            space, synthetic, held_out, num_train=len(sets.searched[0]),
            groups=(matched.synthetic.groups, matched.real.groups),
            repeats=settings.bootstrap_repeats, seed=SEED)


def _space_of(encoder: Encoder) -> str:
    return f"{encoder.name}@{encoder.weights_sha256[:8]},{encoder.preset}"


def _encode(encoder: Encoder, settings: EvaluationSettings, images: ImageSet) -> np.ndarray:
    hashed = settings.round_trip_hash if images.name.endswith("_round_trip") else settings.transform_hash
    return cached_features(
        settings.feature_folder, encoder=encoder, images=lambda: images.pixels, ids=images.ids, labels=images.labels,
        groups=images.groups, image_sha256=images.sha256, transform_hash=hashed, split=images.name,
        batch_size=settings.batch_size,
    ).values


def _as_it_is(vectors: np.ndarray) -> np.ndarray:
    return vectors


def _positions(whole: ImageSet, part: ImageSet) -> list[int]:
    position = {image_id: row for row, image_id in enumerate(whole.ids)}
    return [position[image_id] for image_id in part.ids]


def _audit(
    space: str, sets: EvaluationSets, *, encode: Callable[[ImageSet], np.ndarray],
    turn: Callable[[np.ndarray], np.ndarray],
) -> CopyAudit:
    train = np.stack([encode(images) for images in sets.searched])
    held_out = [turn(encode(sets.real)), turn(encode(sets.real_round_trip))]
    return audit_copies(space, turn(encode(sets.synthetic)), train, held_out, train_groups=sets.searched[0].groups,
                        held_out_groups=sets.real.groups)


def _low_resolution(images: ImageSet) -> np.ndarray:
    return np.concatenate([pixel_vectors(images.pixels[start:start + CHUNK_IMAGES])
                           for start in range(0, len(images), CHUNK_IMAGES)])
