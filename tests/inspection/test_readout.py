"""Reading labels from features: against scikit-learn's AUC, at chance, with groups kept apart, and each refusal."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from config.errors import UserError
from tools.inspection.readout import GroupedLabels, fit_and_score, summarise


def make_groups(count: int, size: int) -> list[str]:
    return [f"patient {number // size}" for number in range(count)]


def test_the_auc_and_its_draws_are_those_of_repeated_images() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, size=60)
    scores = rng.integers(0, 8, size=(60, 2)).astype(float)  # with ties
    grouped = GroupedLabels(labels, make_groups(60, 3), seed=0)
    found = grouped.resampled_auc(scores)
    for row, area in zip(grouped.weights[:6].astype(int), found, strict=False):
        repeated = np.repeat(np.arange(60), row)
        margin = scores[repeated, 1] - scores[repeated, 0]
        assert area == pytest.approx(roc_auc_score(labels[repeated], margin), abs=1e-12)


def test_one_binary_feature_has_its_closed_form() -> None:
    """AUC (1 + sensitivity - false positive rate) / 2 whatever the fits' intercepts, up to the folds' own rates."""
    labels = np.tile([0, 1], 200)
    feature = np.where(np.arange(400) % 20 < 13, labels, 1 - labels)
    sensitivity, false_positives = feature[labels == 1].mean(), feature[labels == 0].mean()
    grouped = GroupedLabels(labels, make_groups(400, 1), seed=0)
    area = summarise(grouped.resampled_auc(grouped.cross_validate(feature[:, None].astype(float))))
    assert area.value == pytest.approx((1 + sensitivity - false_positives) / 2, abs=0.01)


def test_signal_is_read_and_noise_is_not() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, size=300)
    grouped = GroupedLabels(labels, make_groups(300, 6), seed=0)
    noise = rng.standard_normal((300, 20))
    strong = noise.copy()
    strong[:, 3] += 2.0 * labels
    read = summarise(grouped.resampled_auc(grouped.cross_validate(strong)))
    blind = summarise(grouped.resampled_auc(grouped.cross_validate(noise)))
    assert read.value > 0.85 and read.low > 0.8
    assert blind.low < 0.5 < blind.high or blind.value < 0.5
    assert read.low < read.value < read.high


def test_a_patients_own_look_is_no_signal() -> None:
    """Features that name the patient tell the label of images of the same patient, and must not count."""
    rng = np.random.default_rng(2)
    of_patient = rng.integers(0, 2, size=40)
    labels = np.repeat(of_patient, 8)
    features = np.repeat(rng.standard_normal((40, 30)), 8, axis=0)
    by_patient = GroupedLabels(labels, make_groups(320, 8), seed=0)
    by_image = GroupedLabels(labels, make_groups(320, 1), seed=0)
    honest = summarise(by_patient.resampled_auc(by_patient.cross_validate(features)))
    leaking = summarise(by_image.resampled_auc(by_image.cross_validate(features)))
    assert leaking.value > 0.9 and honest.value < 0.7
    assert honest.high - honest.low > 2 * (leaking.high - leaking.low)


def test_several_classes_are_read_one_against_the_rest() -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 3, size=300)
    features = np.eye(3)[labels] * 1.5 + rng.standard_normal((300, 3))
    grouped = GroupedLabels(labels, make_groups(300, 5), seed=0)
    scores = grouped.cross_validate(features)
    probabilities = np.exp(scores[0]) / np.exp(scores[0]).sum(axis=1, keepdims=True)
    expected = roc_auc_score(labels, probabilities, multi_class="ovr")
    assert grouped.resampled_auc(scores[0])[0] == pytest.approx(expected, abs=0.01)
    assert grouped.resampled_auc(scores)[0] > 0.7


def test_a_fit_scores_other_views_of_the_images() -> None:
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 2, size=400)
    features = rng.standard_normal((400, 5)) + labels[:, None]
    grouped = GroupedLabels(labels[200:], make_groups(200, 4), seed=0)
    held = [features[200:], rng.standard_normal((200, 5))]
    same, destroyed = (fit_and_score(features[:200], labels[:200], view, grouped.classes) for view in held)
    assert grouped.resampled_auc(same)[0] > 0.85 > 0.65 > grouped.resampled_auc(destroyed)[0]


def test_perfect_and_constant_features_are_read_as_such() -> None:
    labels = np.tile([0, 1], 30)
    grouped = GroupedLabels(labels, make_groups(60, 2), seed=0)
    perfect = summarise(grouped.resampled_auc(grouped.cross_validate(labels[:, None].astype(float))))
    assert (perfect.value, perfect.low, perfect.error) == (1.0, 1.0, 0.0)
    constant = summarise(grouped.resampled_auc(grouped.cross_validate(np.ones((60, 3)))))
    assert (constant.value, constant.error) == (0.5, 0.0)


@pytest.mark.parametrize(("labels", "size"), [([0] * 12, 2), ([0] * 10 + [1] * 2, 2)])
def test_labels_that_cannot_be_held_out_are_refused(labels: list[int], size: int) -> None:
    with pytest.raises(UserError, match="two classes or more, each in two groups"):
        GroupedLabels(np.array(labels), make_groups(12, size), seed=0)


def test_features_that_are_not_finite_are_refused_by_name() -> None:
    grouped = GroupedLabels(np.tile([0, 1], 10), make_groups(20, 2), seed=0)
    with pytest.raises(UserError, match="background: 1 of 20 rows hold NaN"):
        grouped.cross_validate(np.where(np.arange(20)[:, None] == 4, np.nan, 1.0), name="background")
