"""The plain baseline: chosen on the training images alone, by whole groups, and compared with a judge in pairs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from test_protocol import NAMES, Blind, Brightness, make_set, value

from config.errors import UserError
from models.classifier import Classifier, ClassifierConfig
from tools.evaluation import fidelity, protocol
from tools.evaluation.baseline import BaselineFeatures, fit_baseline
from tools.evaluation.encoders.encoder import load_encoder
from tools.evaluation.evaluation_report import EvaluationReport
from tools.evaluation.evaluation_sets import EvaluationSets, EvaluationSettings
from tools.evaluation.rows import OVERALL

LABELS, GROUPS = np.tile([0, 1, 2], 40), [f"p{i // 3}" for i in range(120)]
HELD_OUT = np.repeat([0, 1, 2], 20)


def make_features(name: str, train: np.ndarray, held_out: np.ndarray, *, seed: int) -> BaselineFeatures:
    """Columns of noise, and the labels that are given in the first three of them."""
    rng = np.random.default_rng(seed)
    return BaselineFeatures(name, *(2.0 * np.pad(np.eye(3)[labels], ((0, 0), (0, 5))) + rng.normal(0, 1, (len(labels), 8))
                                    for labels in (train, held_out)))


def test_the_features_are_chosen_by_the_training_images() -> None:
    """One reads the training images and nothing else, the other reads the held-out ones alone."""
    rng = np.random.default_rng(0)
    first = make_features("held_out_only", rng.permutation(LABELS), HELD_OUT, seed=1)
    second = make_features("training_only", LABELS, rng.permutation(HELD_OUT), seed=2)
    baseline = fit_baseline([first, second], LABELS, GROUPS, seed=0)
    assert baseline is not None and baseline.features == "training_only" and baseline.cross_validated is not None
    assert baseline.cross_validated > 0.7 and (baseline.predicted == HELD_OUT).mean() < 0.6
    assert "features of training_only, 120 real training images" in baseline.describe()


def test_it_reads_what_can_be_read_and_classes_weigh_the_same() -> None:
    rare = np.r_[np.flatnonzero(LABELS != 2), np.flatnonzero(LABELS == 2)[:10]]
    features = make_features("good", LABELS[rare], HELD_OUT, seed=3)
    baseline = fit_baseline([features], LABELS[rare], [f"p{i}" for i in range(len(rare))], seed=0)
    assert baseline is not None
    assert min((baseline.predicted == HELD_OUT)[label == HELD_OUT].mean() for label in range(3)) > 0.6


def test_features_that_name_the_patient_alone_are_not_chosen() -> None:
    """They read the class of every image whose patient is known, and of no other."""
    patients = np.repeat(np.arange(30), 4)
    labels = np.random.default_rng(0).permutation(np.arange(30) % 2)[patients]
    names = 5.0 * np.eye(30)[patients]
    faint = np.random.default_rng(1).normal(0, 1, (120, 4)) + 0.8 * labels[:, None]
    candidates = [BaselineFeatures("patient", names, names), BaselineFeatures("faint", faint, faint)]
    baseline = fit_baseline(candidates, labels, [str(patient) for patient in patients], seed=0)
    assert baseline is not None and baseline.features == "faint"


def test_where_there_is_nothing_to_choose_by() -> None:
    features = make_features("good", LABELS, HELD_OUT, seed=4)
    assert fit_baseline([], LABELS, GROUPS, seed=0) is None
    assert fit_baseline([features], np.zeros_like(LABELS), GROUPS, seed=0) is None
    alone = fit_baseline([features], LABELS, ["one" if label == 0 else f"p{i}" for i, label in enumerate(LABELS)], seed=0)
    assert alone is not None and alone.cross_validated is None and "not chosen" in alone.describe()
    with pytest.raises(UserError, match="NaN or infinite"):
        fit_baseline([BaselineFeatures("broken", np.full((120, 2), np.nan), np.zeros((60, 2)))],
                     LABELS, ["one"] * 120, seed=0)


@pytest.fixture
def sets() -> EvaluationSets:
    real, train = make_set("test", (60, 55), seed=1), make_set("train", (90, 70), seed=2)
    return EvaluationSets(synthetic=make_set("synthetic", (60, 60), seed=3), real=real, train=train, real_round_trip=real,
                          train_round_trip=train, class_names=NAMES)


def brightness(sets: EvaluationSets) -> BaselineFeatures:
    return BaselineFeatures("brightness", *(images.in_memory().mean(axis=(1, 2)).astype(np.float64)
                                            for images in (sets.train, sets.real)))


def judged(sets: EvaluationSets, judge: Classifier, features: list[BaselineFeatures]) -> EvaluationReport:
    report = EvaluationReport(provenance={})
    fidelity.add_class_fidelity(report, sets, judge.eval(), bootstrap_repeats=200, features=features)
    return report


def test_a_judge_that_has_not_learned_is_named_in_every_row_of_it(sets: EvaluationSets) -> None:
    report = judged(sets, Blind(), [brightness(sets)])
    gain = report.find("class judge minus baseline", "held_out")
    assert gain is not None and gain.interval is not None and gain.interval[1] < 0
    assert gain.value == pytest.approx(value(report, "class balanced accuracy", "held_out")
                                       - value(report, "class baseline balanced accuracy", "held_out"))
    words = "a plain baseline reads the class better than the judge: no claim about it can rest on the judge"
    assert any(warning.startswith(words) for warning in report.warnings)
    of_others = [row for row in report.rows if row.comparison != "held_out"]
    assert of_others and all(words in row.note and "balanced accuracy of 0." in row.note for row in of_others)


def test_a_judge_that_has_learned_is_not_accused(sets: EvaluationSets) -> None:
    report = judged(sets, Brightness(), [brightness(sets)])
    gain = report.find("class judge minus baseline", "held_out")
    assert gain is not None and gain.interval is not None and gain.interval[1] >= 0 and not report.warnings
    accuracy = value(report, "class balanced accuracy", "held_out")
    assert all(f"the judge reads held-out real images with a balanced accuracy of {accuracy:.3f}" in row.note
               for row in report.rows if row.comparison == "synthetic")


def test_the_interval_of_the_difference_is_paired(sets: EvaluationSets) -> None:
    """A baseline that reads as the judge does differs from it in no draw, however wide the interval of either is."""
    noisy = np.random.default_rng(0).normal(0, 30, len(sets.train)), np.random.default_rng(1).normal(0, 30, len(sets.real))
    features = BaselineFeatures("gray", *(images.in_memory().mean(axis=(1, 2)) + noise[:, None]
                                          for images, noise in zip((sets.train, sets.real), noisy, strict=True)))
    baseline = fit_baseline([features], sets.train.labels, sets.train.groups, seed=0)
    assert baseline is not None

    class AsTheBaseline(Brightness):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            known = torch.from_numpy(np.eye(2)[baseline.predicted])
            return known[: len(x)] if len(x) == len(known) else known[:1].repeat(len(x), 1)

    report = judged(sets, AsTheBaseline(), [features])
    gain = report.find("class judge minus baseline", "held_out")
    own = report.find("class baseline balanced accuracy", "held_out")
    assert own is not None and own.interval is not None and own.interval[1] - own.interval[0] > 0.05
    assert gain is not None and gain.value == 0 and gain.interval == (0, 0)


def test_an_evaluation_reads_its_baseline_from_features_that_never_saw_the_label(
    sets: EvaluationSets, tmp_path: Path
) -> None:
    encoders = []
    for name in ("classifier", "untrained_small"):
        torch.manual_seed(0)
        for file, data in Classifier(ClassifierConfig(im_channels=1, num_classes=2, image_size=32)).to_files().items():
            (tmp_path / file).write_bytes(data)
        encoders.append(load_encoder("classifier", weights_path=tmp_path))
        encoders[-1].name = name
    settings = EvaluationSettings(feature_folder=tmp_path, transform_hash="a", round_trip_hash="b", batch_size=64,
                                  max_pairs=40, frechet_repeats=3, bootstrap_repeats=10)
    found = []
    for chosen in (encoders, encoders[:1]):
        report = EvaluationReport(provenance={})
        protocol.evaluate(sets, encoders=chosen, perceptual=None, judge=Brightness().eval(), settings=settings,
                          report=report, say=lambda _: None)
        found.append(report.find("class baseline balanced accuracy", "held_out", OVERALL))
    with_untrained, alone = found
    assert with_untrained is not None and with_untrained.value is not None and with_untrained.n_real == len(sets.real)
    assert "features of untrained_small, 160 real training images" in with_untrained.note
    assert alone is not None and alone.value is None and "not computed" in alone.note
