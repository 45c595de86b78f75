"""Does it help: metrics against scikit-learn, folds that keep groups whole, intervals that cover, gains that are seen."""

import numpy as np
import pytest
from scipy.stats import norm
from scipy.stats import t as student
from sklearn.metrics import average_precision_score, balanced_accuracy_score, roc_auc_score

from config.errors import UserError
from tools.augmentation_study.utility import (
    AUPRC,
    AUROC,
    BALANCED,
    METRICS,
    ArmDifference,
    _estimate,
    deal_folds,
    score_arms,
    smallest_detectable_gain,
)
from tools.evaluation.accuracy import weighted_average_precision

NAMES = ("arrested", "blastocyst")


def as_probabilities(scores: np.ndarray) -> np.ndarray:
    """(S, N) logits -> (S, N, 2)."""
    positive = 1 / (1 + np.exp(-scores))
    return np.stack([1 - positive, positive], axis=-1)


def in_folds(labels: np.ndarray) -> np.ndarray:
    """Halves of the images."""
    return (np.arange(len(labels)) >= len(labels) // 2).astype(np.int64)


def simulate(
    rng: np.random.Generator, *, num_groups: int, per_group: int, num_seeds: int, effects: tuple[float, ...],
    luck: float = 0.0,
) -> tuple[np.ndarray, list[str], dict[str, np.ndarray]]:
    """Arms that read the class with these effects (in standard deviations of a shared difficulty plus own noise), which vary
    by so much `luck` from training to training in each half."""
    labels = np.arange(num_groups * per_group) // per_group % 2
    groups = [f"g{i // per_group}" for i in range(len(labels))]
    of_group = rng.normal(size=num_groups).repeat(per_group)
    shared = of_group + rng.normal(size=len(labels))
    arms = {}
    for number, effect in enumerate(effects):
        own = rng.normal(size=(num_groups,)).repeat(per_group) * 0.5 + rng.normal(size=(num_seeds, len(labels))) * 0.7
        skill = effect + luck * rng.normal(size=(num_seeds, 2))[:, in_folds(labels)]
        arms[f"arm{number}"] = as_probabilities(shared + own + skill * labels)
    return labels, groups, arms


# Metrics


@pytest.mark.parametrize("num_classes", [2, 4])
def test_scores_are_those_of_scikit_learn(num_classes: int) -> None:
    rng = np.random.default_rng(0)
    labels = np.concatenate([np.arange(num_classes), rng.integers(num_classes, size=80)])
    probabilities = rng.dirichlet(np.ones(num_classes), size=(3, len(labels)))
    probabilities = probabilities + 0.3 * np.eye(num_classes)[labels]
    probabilities = np.round(probabilities / probabilities.sum(-1, keepdims=True), 2)  # ties
    one_fold, groups = np.zeros(len(labels)), [str(i) for i in range(len(labels))]
    scores, _ = score_arms(labels, groups, one_fold, {"a": probabilities}, pairs=(), repeats=200, seed=0)
    found = {score.metric: score for score in scores}
    onehot = np.eye(num_classes)[labels]
    for seed, p in enumerate(probabilities):
        judged = [1] if num_classes == 2 else range(num_classes)
        expected = {
            AUROC: np.mean([roc_auc_score(onehot[:, c], p[:, c]) for c in judged]),
            AUPRC: np.mean([average_precision_score(onehot[:, c], p[:, c]) for c in judged]),
            BALANCED: balanced_accuracy_score(labels, p.argmax(axis=1)),
        }
        for name, value in expected.items():
            assert found[name].seed_values[seed] == pytest.approx(value, abs=1e-12), name
    for score in scores:
        assert score.value == pytest.approx(np.mean(score.seed_values))
        assert score.interval[0] < score.value < score.interval[1]


def test_weights_of_average_precision_are_repeats() -> None:
    rng = np.random.default_rng(1)
    labels, scores = rng.random(60) < 0.3, np.round(rng.random(60), 1)
    weights = rng.integers(0, 4, size=(5, 60))
    found = weighted_average_precision(labels, scores, weights.astype(float))
    for row, value in zip(weights, found, strict=True):
        assert value == pytest.approx(average_precision_score(labels.repeat(row), scores.repeat(row)), abs=1e-12)
    assert np.isnan(weighted_average_precision(labels, scores, np.where(labels, 0.0, 1.0)[None])).all()


# Direction and coverage


def test_a_better_arm_wins_and_an_equal_one_does_not() -> None:
    labels, groups, arms = simulate(np.random.default_rng(2), num_groups=200, per_group=2, num_seeds=4,
                                    effects=(0.8, 0.8, 2.2, 0.0))
    _, differences = score_arms(labels, groups, in_folds(labels), arms, repeats=400, seed=0,
                                pairs=[("arm1", "arm0"), ("arm2", "arm0"), ("arm3", "arm0")])
    found = {(d.arm, d.metric): d for d in differences}
    for name in METRICS:
        equal, better, worse = (found[arm, name] for arm in ("arm1", "arm2", "arm3"))
        assert equal.interval[0] < 0 < equal.interval[1]
        assert better.interval[0] > 0 and worse.interval[1] < 0
        assert better.value > better.detectable > 0


def test_an_arm_does_not_differ_from_itself() -> None:
    labels, groups, arms = simulate(np.random.default_rng(3), num_groups=30, per_group=1, num_seeds=2, effects=(1.0,))
    _, differences = score_arms(labels, groups, in_folds(labels), arms, pairs=[("arm0", "arm0")], repeats=50, seed=0)
    assert all(d.value == d.standard_error == d.interval[0] == d.interval[1] == 0 for d in differences)


def test_pairing_narrows_the_difference_and_groups_widen_it() -> None:
    labels, groups, arms = simulate(np.random.default_rng(4), num_groups=60, per_group=6, num_seeds=3, effects=(1.0, 1.2))
    folds = np.zeros(len(labels))
    scores, (paired, *_) = score_arms(labels, groups, folds, arms, pairs=[("arm1", "arm0")], repeats=400, seed=0)
    alone = [s.interval[1] - s.interval[0] for s in scores if s.metric == AUROC]
    assert paired.interval[1] - paired.interval[0] < min(alone)
    by_image, _ = score_arms(labels, [str(i) for i in range(len(labels))], folds, arms, pairs=(), repeats=400, seed=0)
    assert by_image[0].interval[1] - by_image[0].interval[0] < 0.85 * alone[0]


@pytest.mark.parametrize("luck", [0.0, 0.25])
def test_intervals_of_differences_cover_the_truth_at_their_level(luck: float) -> None:
    """Two arms of equal skill: zero lies outside in about 5% of studies, also where the luck of training is most of the
    noise; and the standard error is the differences' own."""
    rng, found, studies = np.random.default_rng(5), [], 200
    for number in range(studies):
        labels, groups, arms = simulate(rng, num_groups=400, per_group=1, num_seeds=5, effects=(1.0, 1.0), luck=luck)
        _, (area, *_) = score_arms(labels, groups, in_folds(labels), arms, pairs=[("arm1", "arm0")], repeats=100,
                                   seed=number)
        found.append((area.value, area.standard_error, not area.interval[0] <= 0 <= area.interval[1]))
    values, errors, missed = np.array(found).T
    assert 2 <= missed.sum() <= 20
    assert errors.mean() == pytest.approx(values.std(), rel=0.25)


def test_errors_and_intervals_are_those_of_the_formula() -> None:
    """Two folds of 30 and 50 images, three seeds: the noise of training is what they vary by beyond their draws."""
    rng = np.random.default_rng(7)
    whole = np.array([[0.70, 0.80, 0.75], [0.60, 0.66, 0.66]])  # (F, S)
    chance = 0.02 * rng.normal(size=(4000, 2, 3))  # of a seed on the tested images
    draws = whole + 0.03 * rng.normal(size=(4000, 2, 1)) + chance
    found = _estimate(np.concatenate([whole[None], draws]), np.tile([30.0, 50.0], (4001, 1)))
    weight, between = np.array([30, 50]) ** 2 / 80**2, whole.var(axis=1, ddof=1)
    by_groups, by_training = (weight * (0.03**2 + 0.02**2 / 3)).sum(), (weight * (between - 0.02**2)).sum() / 3
    freedom = (3 * (by_groups + by_training)) ** 2 / ((weight * between) ** 2 / 2).sum()
    assert found.value == pytest.approx((30 * 0.75 + 50 * 0.64) / 80)
    assert found.seed_values == pytest.approx(np.average(whole, axis=0, weights=(30, 50)))
    assert found.standard_error == pytest.approx(np.sqrt(by_groups + by_training), rel=0.02)
    assert found.freedom == pytest.approx(freedom, rel=0.05)
    half = student.ppf(0.975, freedom) * np.sqrt(by_groups + by_training)
    assert found.interval == pytest.approx((found.value - half, found.value + half), abs=0.05 * half)
    difference = ArmDifference("a", "b", AUROC, 0.1, (0.0, 0.2), found.standard_error, found.freedom)
    power = student.ppf(0.975, found.freedom) + student.ppf(0.8, found.freedom)
    assert difference.detectable == pytest.approx(power * found.standard_error)


def test_noise_of_training_counts_where_draws_do_not_vary_and_an_edge_at_zero_stays_there() -> None:
    seeds = np.tile([[0.5, 0.5, 1.0, 1.0, 1.0]], (101, 1, 1))  # two classifiers call every image one class
    found = _estimate(seeds, np.full((101, 1), 40.0))
    error, quantile = seeds[0].std(ddof=1) / np.sqrt(5), student.ppf(0.975, 4)
    assert (found.standard_error, found.freedom) == pytest.approx((error, 4.0))
    assert found.interval == pytest.approx((0.8 - quantile * error, 0.8 + quantile * error))

    draws = np.zeros((1001, 1, 2))
    draws[::2] = 0.01  # an image is drawn, or not, that only one arm reads
    assert _estimate(draws, np.full((1001, 1), 40.0)).interval == (0.0, 0.01)


def test_scores_of_two_folds_are_not_ranked_against_each_other() -> None:
    labels, groups, arms = simulate(np.random.default_rng(6), num_groups=80, per_group=1, num_seeds=2, effects=(1.0,))
    folds = in_folds(labels)
    folds[:10] = 1  # of unequal size
    scores, _ = score_arms(labels, groups, folds, arms, pairs=(), repeats=30, seed=0)
    found = {score.metric: score.seed_values for score in scores}
    for seed, p in enumerate(arms["arm0"]):
        for name, metric in ((AUROC, roc_auc_score), (AUPRC, average_precision_score)):
            inside = [metric(labels[folds == fold], p[folds == fold, 1]) for fold in (0, 1)]
            assert found[name][seed] == pytest.approx(np.average(inside, weights=(30, 50)), abs=1e-12)
    raised = arms["arm0"] ** np.where(folds == 1, 3.0, 1.0)[:, None]  # the second fold's network is calibrated otherwise
    raised /= raised.sum(axis=-1, keepdims=True)
    again, _ = score_arms(labels, groups, folds, {"arm0": raised}, pairs=(), repeats=30, seed=0)
    assert [score.interval for score in again] == [score.interval for score in scores]


def test_what_cannot_be_scored_is_refused() -> None:
    labels, groups, arms = simulate(np.random.default_rng(7), num_groups=10, per_group=1, num_seeds=2, effects=(1.0, 1.0))
    keywords = {"pairs": (), "repeats": 10, "seed": 0}
    folds = in_folds(labels)
    with pytest.raises(UserError, match="expected two classifier seeds or more, as one does not show the noise"):
        score_arms(labels, groups, folds, {name: values[:1] for name, values in arms.items()}, **keywords)
    with pytest.raises(UserError, match=r"expected \(seeds, 10 images, classes\) of every arm, found arm0 \(2, 10, 2\)"):
        score_arms(labels, groups, folds, {**arms, "arm1": arms["arm1"][:1]}, **keywords)
    with pytest.raises(UserError, match="not finite in arm1; train these arms again"):
        score_arms(labels, groups, folds, {**arms, "arm1": arms["arm1"] * np.nan}, **keywords)
    with pytest.raises(UserError, match="found none of class 0"):
        score_arms(np.ones_like(labels), groups, folds, arms, **keywords)
    with pytest.raises(UserError, match="at least 2 groups"):
        score_arms(labels, ["g"] * 10, folds, arms, **keywords)


# Folds


@pytest.mark.parametrize("num_folds", [2, 3, 5])
def test_folds_keep_groups_whole_and_spread_the_classes(num_folds: int) -> None:
    rng = np.random.default_rng(8)
    groups = [f"p{g}" for g in range(40) for _ in range(rng.integers(1, 6))]
    of_group = {group: int(rng.random() < 0.3) for group in dict.fromkeys(groups)}
    labels = [of_group[group] if rng.random() < 0.9 else 1 - of_group[group] for group in groups]
    folds = deal_folds(groups, labels, class_names=NAMES, num_folds=num_folds, seed=1)
    assert folds.shape == (len(groups),) and set(folds.tolist()) == set(range(num_folds))  # each image is tested once
    for group in set(groups):
        assert len({fold for fold, name in zip(folds, groups, strict=True) if name == group}) == 1
    for label in (0, 1):
        held = [len({g for g, f, y in zip(groups, folds, labels, strict=True) if f == k and y == label})
                for k in range(num_folds)]
        assert min(held) >= 1
    sizes = [len({g for g, f in zip(groups, folds, strict=True) if f == k}) for k in range(num_folds)]
    assert max(sizes) - min(sizes) <= 3
    order = rng.permutation(len(groups))
    shuffled = deal_folds([groups[i] for i in order], [labels[i] for i in order], class_names=NAMES, num_folds=num_folds,
                          seed=1)
    assert (shuffled == folds[order]).all()  # rows in another order: the same folds
    assert (deal_folds(groups, labels, class_names=NAMES, num_folds=num_folds, seed=2) != folds).any()


def test_folds_that_cannot_be_are_refused() -> None:
    groups, labels = [str(i) for i in range(12)], [0] * 10 + [1] * 2
    with pytest.raises(UserError, match=r"--folds 3: .* class 'blastocyst' has 2; give fewer folds"):
        deal_folds(groups, labels, class_names=NAMES, num_folds=3, seed=0)
    with pytest.raises(UserError, match="--folds: expected 2 or more, found 1"):
        deal_folds(groups, labels, class_names=NAMES, num_folds=1, seed=0)
    with pytest.raises(UserError, match="class 'blastocyst' has 1"):
        deal_folds(["a", "a", "b"], [0, 1, 0], class_names=NAMES, num_folds=2, seed=0)


# The smallest gain


def test_a_gain_of_the_smallest_size_is_found_with_the_power_it_promises() -> None:
    """Binormal arms with correlated scores: the simulated share of significant differences is near 80%."""
    sizes, auc = (150, 100), 0.70
    rng, studies = np.random.default_rng(9), 1500

    def areas(first_auc: float, second_auc: float) -> np.ndarray:
        found = []
        for _ in range(studies):
            noise = [rng.multivariate_normal((0, 0), ((1, 0.7), (0.7, 1)), size=n) for n in sizes]
            shift = np.sqrt(2) * norm.ppf((first_auc, second_auc))
            found.append([np.mean(noise[0][:, None, k] < noise[1][None, :, k] + shift[k]) for k in (0, 1)])
        return np.array(found)

    correlation = float(np.corrcoef(areas(auc, auc).T)[0, 1])
    gain = smallest_detectable_gain(auc, sizes, correlation=correlation)
    assert gain is not None
    planted = areas(auc, auc + gain)
    difference = planted[:, 1] - planted[:, 0]
    assert difference.mean() == pytest.approx(gain, abs=0.005)
    assert np.mean(difference > 1.96 * difference.std()) == pytest.approx(0.80, abs=0.08)


def test_more_groups_and_better_agreement_show_smaller_gains() -> None:
    gains = [smallest_detectable_gain(0.7, sizes, correlation=0.7) for sizes in ((20, 20), (100, 100), (1000, 1000))]
    assert all(gain is not None for gain in gains) and gains[0] > gains[1] > gains[2] > 0
    loose, close = (smallest_detectable_gain(0.7, (100, 100), correlation=r) for r in (0.3, 0.9))
    assert loose > close
    skewed = smallest_detectable_gain(0.7, (190, 10), correlation=0.7)
    assert skewed > gains[1]
    assert smallest_detectable_gain(0.95, (4, 4), correlation=0.0) is None
    three = smallest_detectable_gain(0.7, (50, 50, 50), correlation=0.7)
    assert gains[0] > three > gains[2]
    for auc, correlation, message in ((0.4, 0.5, "--expected-auc"), (1.0, 0.5, "--expected-auc"), (0.7, 1.0, "correlation")):
        with pytest.raises(UserError, match=message):
            smallest_detectable_gain(auc, (50, 50), correlation=correlation)
