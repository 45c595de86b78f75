"""The evaluation protocol: the families of metrics in their order. Sets in, rows out.

Which sets are compared, and how much is computed, is evaluation_sets.py's; each family's rows lie in a file of their own
(distances, similarities, fidelity, copies). It knows neither configs nor files but the feature cache.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch

from dataset.ranks import ALONE, Ranks
from models.classifier import Classifier
from tools.evaluation.baseline import BaselineFeatures
from tools.evaluation.copies import add_authenticity, add_copies
from tools.evaluation.direct_checks import add_direct_checks
from tools.evaluation.distances import add_distances, encode_sets
from tools.evaluation.encoders.encoder import Encoder
from tools.evaluation.encoders.feature_kinds import FeatureKind, kind_of
from tools.evaluation.evaluation_report import EvaluationReport
from tools.evaluation.evaluation_sets import EvaluationSets, EvaluationSettings, OpenBar, no_bar
from tools.evaluation.features import Features
from tools.evaluation.fidelity import JudgedCondition, add_absent_class, add_class_fidelity, add_condition_fidelity
from tools.evaluation.image_set import groups_of_labels
from tools.evaluation.lpips_distance import PerceptualEmbedding
from tools.evaluation.report.exhibits import make_exhibits
from tools.evaluation.resampling import FEW_GROUPS, FEWEST_GROUPS
from tools.evaluation.similarities import add_similarities

_ENCODER_WARNINGS = {
    "classifier": "the encoder named classifier was trained on the training images, which it separates better than others: "
                  "its real_real and floor per class are too large to compare with",
    "vae": "the encoder named vae is the autoencoder that the synthetic images were decoded by: its distances say how near "
           "the latents are, not the images; judge images by another encoder",
}


def evaluate(
    sets: EvaluationSets, *, encoders: Sequence[Encoder], perceptual: PerceptualEmbedding | None, judge: Classifier | None,
    settings: EvaluationSettings, report: EvaluationReport, say: Callable[[str], None], open_bar: OpenBar = no_bar,
    conditions: Sequence[JudgedCondition] = (), ranks: Ranks = ALONE,
) -> None:
    """Add all rows and warnings to `report`; `say` is told what is being worked on, bars of `open_bar` how far it is.

    Processes that share the encoding all call this. The first one goes on to the numbers, which the others need not wait
    for: they leave with an empty report.

    Raises:
        UserError: no class has images in all sets, or features that are not finite.
    """
    matched = sets.matched()
    features = []
    for encoder in encoders:
        say(f"features of {encoder.name}")
        features.append(encode_sets(sets, matched, encoder, settings, open_bar, ranks))
    if not ranks.is_first:
        return
    _warn_of_sets(report, sets, matched)
    say(f"distances of {', '.join(encoder.name for encoder in encoders)}, and direct checks")
    _add_at_once(report, [
        *(partial(_add_distances, sets, encoder, settings, of) for encoder, of in zip(encoders, features, strict=True)),
        partial(add_direct_checks, sets=sets, repeats=settings.bootstrap_repeats)])
    say("image similarity")
    add_similarities(report, sets, matched, perceptual, settings)
    read = [BaselineFeatures(encoder.name, of["all_train"].values, of["all_real"].values)
            for encoder, of in zip(encoders, features, strict=True) if kind_of(encoder.name) is not FeatureKind.IN_DOMAIN]
    if len(sets.class_names) == 1:
        add_absent_class(report)
    elif judge is not None:
        say("class fidelity")
        add_class_fidelity(report, sets, judge, bootstrap_repeats=settings.bootstrap_repeats, features=read)
    for condition in conditions:
        say(f"fidelity of {condition.name}")
        add_condition_fidelity(report, sets, condition, bootstrap_repeats=settings.bootstrap_repeats, features=read)
    say("copies")
    add_copies(report, sets, encoders, settings)
    add_authenticity(report, sets, matched, encoders, settings)
    report.details.exhibits = make_exhibits(sets, report.details.copies, report.details.features)


def _add_distances(
    sets: EvaluationSets, encoder: Encoder, settings: EvaluationSettings, of: dict[str, Features], report: EvaluationReport
) -> None:
    if encoder.name in _ENCODER_WARNINGS:
        report.warn(_ENCODER_WARNINGS[encoder.name])
    add_distances(report, sets, encoder, settings, of)


def _add_at_once(report: EvaluationReport, families: Sequence[Callable[[EvaluationReport], None]]) -> None:
    """Compute families of metrics side by side, one a core, each into its own report; they are added in their order."""
    parts = [EvaluationReport(provenance={}) for _ in families]
    with ThreadPoolExecutor(max_workers=torch.get_num_threads()) as pool:
        for _ in pool.map(lambda family, part: family(part), families, parts):
            pass  # what one of them raised is raised here
    for part in parts:
        report.rows += part.rows
        report.details.features += part.details.features
        for text in part.warnings:
            report.warn(text)


def _warn_of_sets(report: EvaluationReport, sets: EvaluationSets, matched: EvaluationSets) -> None:
    missing = sets.missing_classes()
    if missing:
        report.warn(f"no synthetic image of {', '.join(missing)}: overall numbers compare the other classes only")
    of_class = groups_of_labels(sets.real)
    few = [f"{name} {of_class[label]}" for label, name in enumerate(sets.class_names)
           if 0 < of_class.get(label, 0) < FEW_GROUPS]
    if few:
        report.warn(f"held-out groups (patients, embryos) of a class are few ({', '.join(few)}): intervals over fewer than "
                    f"{FEW_GROUPS} are too narrow, and over fewer than {FEWEST_GROUPS} there is none")
    if len(matched.real) < len(sets.real):
        report.warn(f"only {len(matched.real)} of {len(sets.real)} held-out images are compared, because synthetic or "
                    "training images at the real class prior are fewer; draw more synthetic images to use all")
