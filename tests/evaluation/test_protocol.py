"""The protocol: equal n and prior, distances that point the right way, and a judge that sees swapped classes."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from config.errors import UserError
from dataset.storage import hash_bytes
from models.classifier import Classifier, ClassifierConfig
from tools.evaluation import distances, fidelity, protocol, similarities
from tools.evaluation.encoders.encoder import Encoder, load_encoder
from tools.evaluation.evaluation_report import EvaluationReport
from tools.evaluation.evaluation_sets import EvaluationSets, EvaluationSettings
from tools.evaluation.image_set import ImageSet, ReadOnDemand
from tools.evaluation.metric_keys import parse_metric
from tools.evaluation.references import blur
from tools.evaluation.rows import OVERALL

NAMES = ("dark", "bright")


def make_set(name: str, counts: tuple[int, int], *, seed: int) -> ImageSet:
    """Smooth random images of 32 px; class 1 is brighter by forty gray levels."""
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1], counts)
    coarse = rng.normal(0, 25, size=(len(labels), 8, 8)).repeat(4, axis=1).repeat(4, axis=2)
    pixels = np.clip(100 + 40 * labels[:, None, None] + coarse, 0, 255).astype(np.uint8)[..., None]
    ids = [f"{name}{i}" for i in range(len(labels))]
    groups = [f"{name}-patient{i // 2}" for i in range(len(labels))]
    return ImageSet(name, pixels, labels, ids, groups, [f"{seed}-{i}" for i in ids])


class Brightness(Classifier):
    """A judge that reads the class off the mean gray level."""

    def __init__(self) -> None:
        super().__init__(ClassifierConfig(im_channels=1, num_classes=2, image_size=32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = (x.mean(dim=(1, 2, 3)) + 1) * 127.5
        return torch.stack([120 - mean, mean - 120], dim=1)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("encoder")
    for name, data in Classifier(ClassifierConfig(im_channels=1, num_classes=2, image_size=32)).to_files().items():
        (folder / name).write_bytes(data)
    return load_encoder("classifier", weights_path=folder)


@pytest.fixture
def sets() -> EvaluationSets:
    real, train = make_set("test", (60, 55), seed=1), make_set("train", (90, 70), seed=2)
    return EvaluationSets(
        synthetic=make_set("synthetic", (60, 60), seed=3), real=real, train=train,
        real_round_trip=real.with_pixels("test_round_trip", blur(real.pixels)),
        train_round_trip=train.with_pixels("train_round_trip", blur(train.pixels)), class_names=NAMES,
    )


def run(sets: EvaluationSets, folder: Path, encoder: Encoder, *, judge: Classifier | None = None) -> EvaluationReport:
    report = EvaluationReport(provenance={})
    settings = EvaluationSettings(feature_folder=folder, transform_hash="a", round_trip_hash="b", batch_size=64,
                                  max_pairs=40, frechet_repeats=3, bootstrap_repeats=10)
    protocol.evaluate(sets, encoders=[encoder], perceptual=None, judge=judge, settings=settings, report=report,
                      say=lambda _: None)
    return report


def value(report: EvaluationReport, metric: str, comparison: str, class_name: str = OVERALL) -> float:
    (row,) = [row for row in report.rows if row.metric.startswith(metric) and row.comparison == comparison
              and row.class_name == class_name]
    assert row.value is not None
    return row.value


def with_synthetic(sets: EvaluationSets, pixels: np.ndarray) -> EvaluationSets:
    changed = sets.synthetic.with_pixels("synthetic", pixels)
    return replace(sets, synthetic=replace(changed, sha256=[hash_bytes(image.tobytes()) for image in pixels]))


def test_copies_of_real_images_are_at_distance_zero(sets: EvaluationSets, encoder: Encoder, tmp_path: Path) -> None:
    copies = replace(sets, synthetic=sets.real)
    report = run(copies, tmp_path, encoder, judge=Brightness())
    for class_name in (OVERALL, *NAMES):
        assert value(report, "FD[", "total", class_name) == pytest.approx(0, abs=1e-6)
        assert value(report, "KD[", "total", class_name) <= 0  # unbiased: below zero for equal sets
        assert value(report, "coverage", "total", class_name) == 1
        assert value(report, "precision", "total", class_name) == 1
        assert value(report, "FD[", "model_gap", class_name) == pytest.approx(
            value(report, "FD[", "ceiling", class_name), rel=1e-6)
    assert value(report, "class AUC", "synthetic") == value(report, "class AUC", "held_out")


def test_authenticity_stands_beside_held_out_images_and_is_lowered_by_copies(
    sets: EvaluationSets, encoder: Encoder, tmp_path: Path
) -> None:
    published = copy.copy(encoder)
    published.name = "squeezenet1_1"  # kinds of features go by the name
    plain = run(sets, tmp_path, encoder), run(sets, tmp_path, published)
    found = [[row.metric.split("@")[0] for row in report.rows if row.metric.startswith("authenticity")] for report in plain]
    pixels = "authenticity[pixels at 16 px]"
    assert found == [[pixels] * 2, [pixels] * 2 + ["authenticity[squeezenet1_1"] * 2]  # none of the classifier's
    turned = np.array(sets.train.pixels)
    turned[::8] = turned[::8, :, ::-1]
    planted = np.array(sets.synthetic.pixels)
    planted[::4] = turned[:len(planted)][::4]
    copied = run(with_synthetic(sets, planted), tmp_path, published)
    for metric in (pixels, "authenticity[squeezenet1_1"):
        assert value(copied, metric, "authentic") < value(plain[1], metric, "authentic")
        assert value(copied, metric, "authentic_real") == value(plain[1], metric, "authentic_real")
    (row,) = [row for row in copied.rows if row.metric == pixels and row.comparison == "authentic"]
    assert (row.n_synthetic, row.n_real) == (115, 160) and row.interval is not None
    one = replace(sets, train=replace(sets.train, groups=["one"] * 160))
    (row,) = [row for row in run(one, tmp_path, encoder).rows if row.metric == pixels]
    assert row.value is None and row.note.startswith("not computed: expected training images of at least 2 groups")


def test_what_is_missed_is_shown_by_features_that_did_not_learn_the_class(
    sets: EvaluationSets, encoder: Encoder, tmp_path: Path
) -> None:
    published = copy.copy(encoder)
    published.name = "squeezenet1_1"
    report = EvaluationReport(provenance={})
    settings = EvaluationSettings(feature_folder=tmp_path, transform_hash="a", round_trip_hash="b", batch_size=64,
                                  max_pairs=40, frechet_repeats=3, bootstrap_repeats=10)
    protocol.evaluate(sets, encoders=[encoder, published], perceptual=None, judge=None, settings=settings, report=report,
                      say=lambda _: None)
    assert [one.encoder for one in report.details.shown.features] == ["squeezenet1_1", "classifier"]


def test_noise_and_blur_raise_every_distance(sets: EvaluationSets, encoder: Encoder, tmp_path: Path) -> None:
    pixels = sets.synthetic.pixels
    noise = np.random.default_rng(0).normal(0, 25, size=pixels.shape)
    noised = np.clip(np.rint(pixels + noise), 0, 255).astype(np.uint8)
    blurred = blur(blur(pixels))
    reports = [run(with_synthetic(sets, changed), tmp_path, encoder) for changed in (pixels, noised, blurred)]
    for metric in ("FD[", "KD["):
        for class_name in (OVERALL, *NAMES):
            good, *bad = (value(report, metric, "total", class_name) for report in reports)
            assert min(bad) > good
    assert value(reports[0], "FD[", "blurred") > value(reports[0], "FD[", "noised") > 0


def test_the_model_gap_forgives_what_the_autoencoder_does(sets: EvaluationSets, encoder: Encoder, tmp_path: Path) -> None:
    report = run(with_synthetic(sets, blur(sets.synthetic.pixels)), tmp_path, encoder)
    assert value(report, "FD[", "model_gap") < value(report, "FD[", "total")
    assert value(report, "FD[", "floor") < value(report, "FD[", "ceiling")


def test_compared_sets_have_the_same_n_and_the_real_prior(sets: EvaluationSets, encoder: Encoder, tmp_path: Path) -> None:
    fewer = replace(sets, synthetic=make_set("synthetic", (200, 22), seed=3))  # 22 of 55: two fifths of the real set
    matched = fewer.matched()
    for name in ("synthetic", "real", "train", "real_round_trip", "train_round_trip"):
        assert np.bincount(getattr(matched, name).labels).tolist() == [24, 22]
    assert matched.synthetic.ids == [*fewer.synthetic.ids[:24], *fewer.synthetic.ids[200:222]]
    assert matched.real.ids == matched.real_round_trip.ids
    report = run(fewer, tmp_path, encoder)
    assert any("only 46 of 115 held-out images are compared" in warning for warning in report.warnings)
    rows = [row for row in report.rows if row.comparison in ("total", "model_gap", "real_real", "floor", "ceiling")]
    assert {(row.class_name, row.n_real, row.n_synthetic) for row in rows} == {
        (OVERALL, 46, 46), ("dark", 24, 24), ("bright", 22, 22)}
    missing = [row for row in rows if row.value is None]
    assert missing and all(row.metric.startswith("FD[") for row in missing)
    assert all("needs 50; read the kernel distance" in row.note for row in missing)


def test_swapped_classes_cost_accuracy_and_distance(sets: EvaluationSets, encoder: Encoder, tmp_path: Path) -> None:
    right = run(sets, tmp_path, encoder, judge=Brightness())
    swapped = replace(sets.synthetic, labels=1 - sets.synthetic.labels)
    wrong = run(replace(sets, synthetic=swapped), tmp_path, encoder, judge=Brightness())
    assert value(right, "class balanced accuracy", "synthetic") > 0.95
    assert value(wrong, "class balanced accuracy", "synthetic") < 0.05
    assert value(wrong, "class AUC", "synthetic") < 0.05
    assert value(wrong, "class balanced accuracy", "held_out") == value(right, "class balanced accuracy", "held_out")
    for class_name in NAMES:
        assert value(wrong, "KD[", "total", class_name) > value(right, "KD[", "total", class_name)


def test_intervals_and_references_are_there(sets: EvaluationSets, encoder: Encoder, tmp_path: Path) -> None:
    report = run(sets, tmp_path, encoder)
    for comparison in ("total", "model_gap", "real_real"):
        for metric in ("FD[", "KD["):
            (row,) = [r for r in report.rows if r.metric.startswith(metric) and r.comparison == comparison
                      and r.class_name == OVERALL]
            assert row.interval is not None and row.interval[0] <= row.interval[1]
            assert row.note.startswith("interval: ")
            assert not row.literature_comparable
    for comparison in ("halves", "between_classes"):
        assert value(report, "KD[", comparison) is not None
    assert value(report, "KD[", "between_classes") > value(report, "KD[", "halves")
    for comparison in ("cross", "real_pairs", "diversity", "reconstruction"):
        assert -1 <= value(report, "SSIM", comparison) <= 1
    assert value(report, "SSIM", "reconstruction") > value(report, "SSIM", "real_pairs")


def test_equal_runs_give_equal_rows_cached_or_not(sets: EvaluationSets, encoder: Encoder, tmp_path: Path) -> None:
    first = run(sets, tmp_path / "one", encoder, judge=Brightness())
    again = run(sets, tmp_path / "one", encoder, judge=Brightness())
    anew = run(sets, tmp_path / "two", encoder, judge=Brightness())
    assert first.rows == again.rows == anew.rows
    assert first.warnings == again.warnings == anew.warnings


def test_one_group_a_class_gives_a_warning_and_no_error(sets: EvaluationSets, encoder: Encoder, tmp_path: Path) -> None:
    real = replace(sets.real, groups=[f"patient{label}" for label in sets.real.labels])
    lonely = replace(sets, real=real, real_round_trip=real.with_pixels("test_round_trip", sets.real_round_trip.pixels))
    report = run(lonely, tmp_path, encoder)
    assert not [row for row in report.rows if row.metric == "SSIM" and row.comparison == "real_pairs"]
    assert any("no two images of one class from different groups" in warning for warning in report.warnings)


def test_a_single_group_has_distances_without_intervals(sets: EvaluationSets, encoder: Encoder, tmp_path: Path) -> None:
    real = replace(sets.real, groups=["one"] * len(sets.real))
    single = replace(sets, real=real, real_round_trip=real.with_pixels("test_round_trip", sets.real_round_trip.pixels))
    report = run(single, tmp_path, encoder)
    (row,) = [row for row in report.rows if row.metric.startswith("FD") and row.comparison == "total"
              and row.class_name == OVERALL]
    assert row.value is not None and row.interval is None


def test_the_auc_of_a_set_without_one_class_is_a_note(sets: EvaluationSets) -> None:
    one_class = sets.synthetic.select(np.flatnonzero(sets.synthetic.labels == 0))
    report = EvaluationReport(provenance={})
    fidelity.add_class_fidelity(report, replace(sets, synthetic=one_class), Brightness().eval(), bootstrap_repeats=10)
    row = report.find("class AUC", "synthetic")
    assert row is not None and row.value is None and "no image" in row.note


class Blind(Classifier):
    """A judge that reads noise."""

    def __init__(self) -> None:
        super().__init__(ClassifierConfig(im_channels=1, num_classes=2, image_size=32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = x.double().square().sum(dim=(1, 2, 3)) * 1e4
        return torch.stack([torch.sin(first), torch.cos(first)], dim=1)


def judged(sets: EvaluationSets, judge: Classifier) -> EvaluationReport:
    report = EvaluationReport(provenance={})
    fidelity.add_class_fidelity(report, sets, judge.eval(), bootstrap_repeats=100)
    return report


def test_a_class_that_nobody_can_read_has_no_signal(sets: EvaluationSets) -> None:
    report = judged(sets, Blind())
    row = report.find("class signal", "held_out")
    assert row is not None and row.interval is not None and row.interval[0] <= 0 <= row.interval[1]
    assert row.note == "no class signal found: class-conditional claims are not supported"
    assert row.note in report.warnings
    clear = judged(sets, Brightness())
    row = clear.find("class signal", "held_out")
    assert row is not None and row.interval is not None and row.interval[0] > 0.4 and not clear.warnings


def test_the_confusion_matrix_and_the_ratios_follow_the_judge(sets: EvaluationSets) -> None:
    swapped = replace(sets, synthetic=replace(sets.synthetic, labels=1 - sets.synthetic.labels))
    report = judged(swapped, Brightness())
    assert value(report, "judged as bright", "synthetic", "dark") == 1
    assert value(report, "judged as bright", "held_out", "dark") == 0
    for name in NAMES:
        shares = [value(report, f"judged as {other}", "synthetic", name) for other in NAMES]
        assert sum(shares) == pytest.approx(1)
    assert value(report, "ratio of class AUC", "synthetic") == pytest.approx(
        value(report, "class AUC", "synthetic") / value(report, "class AUC", "held_out"))


PLANES = ("near", "far")


def with_planes(sets: EvaluationSets, levels: dict[str, np.ndarray]) -> EvaluationSets:
    """The sets with levels of a further condition: those given by set, else the classes themselves."""
    def of(images: ImageSet, name: str) -> ImageSet:
        return replace(images, conditions={"PLANE": levels.get(name, images.labels)})

    return replace(sets, synthetic=of(sets.synthetic, "synthetic"), real=of(sets.real, "real"),
                   real_round_trip=of(sets.real_round_trip, "real"))


def condition_rows(sets: EvaluationSets, judge: Classifier) -> EvaluationReport:
    report = EvaluationReport(provenance={})
    condition = fidelity.JudgedCondition("PLANE", PLANES, judge.eval())
    fidelity.add_condition_fidelity(report, sets, condition, bootstrap_repeats=100)
    return report


@pytest.mark.parametrize("judge", [Brightness, Blind])
def test_a_condition_that_is_the_class_has_the_rows_of_the_class(sets: EvaluationSets, judge: type[Classifier]) -> None:
    of_class, of_plane = judged(sets, judge()), condition_rows(with_planes(sets, {}), judge())
    level_names = dict(zip((OVERALL, *NAMES), (OVERALL, *PLANES), strict=True))
    renamed = {"class balanced accuracy": "condition balanced accuracy[PLANE]", "class AUC": "condition AUC[PLANE]",
               "class signal": "condition signal[PLANE]",
               "class baseline balanced accuracy": "condition baseline balanced accuracy[PLANE]",
               "class judge minus baseline": "condition judge minus baseline[PLANE]",
               "ratio of class balanced accuracy": "ratio of condition balanced accuracy[PLANE]",
               "ratio of class AUC": "ratio of condition AUC[PLANE]",
               **{f"judged as {name}": f"condition judged as {level}[PLANE]" for name, level in level_names.items()}}
    expected = [replace(row, key=parse_metric(renamed[row.metric]),
                        class_name=level_names[row.class_name]) for row in of_class.rows]
    assert [replace(row, note="") for row in of_plane.rows] == [replace(row, note="") for row in expected]
    assert of_plane.warnings == ([] if judge is Brightness else [
        "no signal of PLANE found: claims about this condition are not supported"])


def test_a_condition_is_judged_by_its_levels_whatever_the_class(
    sets: EvaluationSets, encoder: Encoder, tmp_path: Path
) -> None:
    """The class is drawn by lot, the level is what can be seen; then the levels of synthetic images are swapped."""
    drawn = np.random.default_rng(0).integers(2, size=len(sets.synthetic))
    drawn_sets = replace(sets, synthetic=replace(sets.synthetic, labels=drawn))
    planes = with_planes(drawn_sets, {"synthetic": sets.synthetic.labels})
    report = EvaluationReport(provenance={})
    settings = EvaluationSettings(feature_folder=tmp_path, transform_hash="a", round_trip_hash="b", batch_size=64,
                                  max_pairs=40, frechet_repeats=3, bootstrap_repeats=10)
    judge = Brightness().eval()
    protocol.evaluate(planes, encoders=[encoder], perceptual=None, judge=judge, settings=settings, report=report,
                      conditions=[fidelity.JudgedCondition("PLANE", PLANES, judge)], say=lambda _: None)
    assert abs(value(report, "class balanced accuracy", "synthetic") - 0.5) < 0.15
    right = value(report, "condition balanced accuracy[PLANE]", "synthetic")
    assert right > 0.95
    assert value(report, "ratio of condition balanced accuracy[PLANE]", "synthetic") == (
        right / value(report, "condition balanced accuracy[PLANE]", "held_out"))
    wrong = condition_rows(with_planes(sets, {"synthetic": 1 - sets.synthetic.labels}), judge)
    assert value(wrong, "condition balanced accuracy[PLANE]", "synthetic") == pytest.approx(1 - right)
    assert value(wrong, "condition judged as far[PLANE]", "synthetic", "near") == pytest.approx(
        value(report, "condition judged as far[PLANE]", "synthetic", "far"))


def test_the_interval_of_a_ratio_is_of_both_sets(sets: EvaluationSets) -> None:
    """A judge that is always right has 1 in every draw; where it guesses, 1 lies within and both sets widen it."""
    def hue(images: ImageSet) -> ImageSet:
        return images.with_pixels(images.name, np.broadcast_to(
            np.where(images.labels == 1, 200, 50).astype(np.uint8)[:, None, None, None], images.pixels.shape).copy())

    sure = replace(sets, synthetic=hue(sets.synthetic), real=hue(sets.real), real_round_trip=hue(sets.real_round_trip))
    row = judged(sure, Brightness()).find("ratio of class balanced accuracy", "synthetic")
    assert row is not None and row.value == 1 and row.interval == (1, 1)
    report = judged(sets, Blind())
    row, *accuracies = (report.find(name, comparison) for name, comparison in (
        ("ratio of class balanced accuracy", "synthetic"), ("class balanced accuracy", "synthetic"),
        ("class balanced accuracy", "held_out")))
    assert row is not None and row.interval is not None and row.interval[0] < 1 < row.interval[1]
    relative = [(one.interval[1] - one.interval[0]) / one.value for one in accuracies if one and one.interval and one.value]
    assert len(relative) == 2
    assert row.interval[1] - row.interval[0] > 1.1 * max(relative)
    assert row.note.startswith("synthetic over held-out real; interval: 95% bootstrap over groups, both drawn; the judge ")


def test_the_ratio_is_of_the_levels_that_both_sets_have(sets: EvaluationSets) -> None:
    """Of synthetic images at one level only the held-out images of that level tell how well it can be read."""
    planes = with_planes(sets, {})
    near = replace(planes, synthetic=planes.synthetic.select(np.flatnonzero(planes.synthetic.labels == 0)))
    report = condition_rows(near, Blind())
    row = report.find("ratio of condition balanced accuracy[PLANE]", "synthetic")
    shares = [value(report, "condition judged as near[PLANE]", name, "near") for name in ("synthetic", "held_out")]
    assert row is not None and row.value == pytest.approx(shares[0] / shares[1])
    assert row.note.startswith("synthetic over held-out real of near only") and (row.n_real, row.n_synthetic) == (60, 60)
    area = report.find("ratio of condition AUC[PLANE]", "synthetic")
    assert area is not None and area.value is None and area.note == "not computed: a level has no image"
    apart = replace(near, real=planes.real.select(np.flatnonzero(planes.real.labels == 1)))
    row = condition_rows(apart, Blind()).find("ratio of condition balanced accuracy[PLANE]", "synthetic")
    assert row is not None and row.value is None and row.note == "not computed: a level has no image"


def test_frames_of_one_patient_as_neighbours_are_warned_of(sets: EvaluationSets, encoder: Encoder, tmp_path: Path) -> None:
    """Each held-out image six times, once as six patients' and once as one patient's."""
    rows = np.repeat(np.arange(0, len(sets.real), 6), 6)
    stacked = replace(sets.real.select(rows), ids=[f"frame{i}" for i in range(len(rows))])
    restored = replace(stacked, name=sets.real_round_trip.name)
    for groups, warned in (([f"h{row}" for row in rows], True), ([f"h{i}" for i in range(len(rows))], False)):
        changed = replace(sets, real=replace(stacked, groups=groups), real_round_trip=replace(restored, groups=groups))
        report = run(changed, tmp_path / str(warned), encoder)
        assert any("of the same group, as in focal stacks" in text for text in report.warnings) is warned


def test_a_class_without_synthetic_images_is_left_out_and_said(
    sets: EvaluationSets, encoder: Encoder, tmp_path: Path
) -> None:
    dark = replace(sets, synthetic=sets.synthetic.select(np.flatnonzero(sets.synthetic.labels == 0)))
    report = run(dark, tmp_path, encoder)
    assert "no synthetic image of bright: overall numbers compare the other classes only" in report.warnings
    assert value(report, "FD[", "total") == value(report, "FD[", "total", "dark")
    assert [row.note for row in report.rows if row.class_name == "bright" and row.comparison == "total"
            and row.metric.startswith("KD[")] == ["not computed: 0 images"]
    foreign = replace(sets, synthetic=replace(sets.synthetic, labels=sets.synthetic.labels * 0 + 1),
                      real=sets.real.select(np.flatnonzero(sets.real.labels == 0)))
    with pytest.raises(UserError, match="expected synthetic images of a class of the held-out images, found none among 120"):
        foreign.matched()


@pytest.mark.parametrize("count", [1, 4])
def test_a_class_of_very_few_synthetic_images_has_notes_for_numbers(
    sets: EvaluationSets, encoder: Encoder, tmp_path: Path, count: int
) -> None:
    """One image, and fewer than the k + 1 that a neighbourhood needs."""
    few = replace(sets, synthetic=make_set("synthetic", (60, count), seed=3))
    report = run(few, tmp_path, encoder, judge=Brightness())
    assert any("held-out images are compared" in warning for warning in report.warnings)
    missing = [row for row in report.rows if row.value is None]
    assert {row.class_name for row in missing} >= {"bright"}
    assert all(row.note.startswith("not computed: ") for row in missing)
    assert all(row.value is None or np.isfinite(row.value) for row in report.rows)


def test_features_that_are_not_numbers_are_refused_by_name(sets: EvaluationSets, tmp_path: Path) -> None:
    torch.manual_seed(0)
    broken = Classifier(ClassifierConfig(im_channels=1, num_classes=2, image_size=32))
    with torch.no_grad():
        broken.norm.weight[0] = float("nan")
    for name, data in broken.to_files().items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=r"features of train: 160 of 160 images have NaN or infinite features of encoder "
                                        r"classifier \(the first is image 0\)"):
        run(sets, tmp_path / "features", load_encoder("classifier", weights_path=tmp_path))
    assert not list((tmp_path / "features").glob("*.npz"))


def test_copies_of_training_images_are_nearest_at_one(sets: EvaluationSets, encoder: Encoder, tmp_path: Path) -> None:
    same_labels = sets.train.select(np.r_[:60, 90:145])
    report = run(replace(sets, synthetic=same_labels), tmp_path, encoder)
    assert value(report, "SSIM", "nearest") == pytest.approx(1, abs=1e-12)
    assert value(report, "SSIM", "real_nearest") < 0.9
    assert value(report, "SSIM", "cross") < 0.9  # the mean over pairs does not see copies


def test_p_values_and_two_sample_areas_tell_good_images_from_bad(
    sets: EvaluationSets, encoder: Encoder, tmp_path: Path
) -> None:
    noise = np.random.default_rng(0).normal(0, 40, size=sets.synthetic.pixels.shape)
    noised = np.clip(np.rint(sets.synthetic.pixels + noise), 0, 255).astype(np.uint8)
    good, bad = run(sets, tmp_path, encoder), run(with_synthetic(sets, noised), tmp_path, encoder)
    assert value(good, "p of KD[", "total") > 0.1
    assert value(bad, "p of KD[", "total") == pytest.approx(1 / 11)  # the smallest that ten exchanges can give
    assert value(good, "two-sample AUC[", "total") < 0.6 < 0.9 < value(bad, "two-sample AUC[", "total")


def test_pairwise_statistics_are_capped_and_say_so(
    sets: EvaluationSets, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (distances, similarities):
        monkeypatch.setattr(module, "MAX_PAIRWISE_IMAGES", 50)
    report = run(sets, tmp_path, encoder)
    capped = [row for row in report.rows if row.comparison == "total" and row.class_name == OVERALL]
    for metric in ("KD[", "p of KD[", "precision[", "coverage[", "two-sample AUC["):
        (row,) = [row for row in capped if row.metric.startswith(metric)]
        assert row.note.endswith("capped at 50 images a side, whole groups") and row.n_real == 115
    (row,) = [row for row in capped if row.metric.startswith("FD[")]
    assert "capped" not in row.note  # linear in n
    similar = report.find("SSIM", "reconstruction")
    assert similar is not None and similar.note == "50 pairs" and similar.n_real == 50


def test_images_read_on_demand_give_the_same_rows(sets: EvaluationSets, encoder: Encoder, tmp_path: Path) -> None:
    held = run(sets, tmp_path, encoder, judge=Brightness())
    pixels = sets.synthetic.pixels
    lazy = ReadOnDemand(lambda row: pixels[row], np.arange(len(pixels)), pixels.shape[1:])
    read = run(replace(sets, synthetic=replace(sets.synthetic, pixels=lazy)), tmp_path, encoder, judge=Brightness())
    assert read.rows == held.rows and read.warnings == held.warnings
    assert lazy[np.zeros(len(lazy), dtype=bool)].shape == (0, *pixels.shape[1:])  # a class without images
