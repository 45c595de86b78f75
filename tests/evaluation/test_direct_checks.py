"""Direct checks on phantoms with a tint each: planted faults are named by their sentences, real halves are not accused."""

from dataclasses import dataclass, replace

import cv2
import numpy as np
import pytest
from scipy.stats import binomtest

from tools.evaluation.aspects import Aspect
from tools.evaluation.direct_checks import Fault, add_direct_checks, find_faults, make_rows
from tools.evaluation.direct_measurements import MeasuredImages, measure_sets
from tools.evaluation.evaluation_report import EvaluationReport
from tools.evaluation.evaluation_sets import EvaluationSets
from tools.evaluation.image_set import ImageSet
from tools.evaluation.metric_keys import parse_metric
from tools.evaluation.rows import OVERALL, Row
from tools.make_phantoms.phantoms import CLASS_NAMES, draw_parameters, render_phantom

NUM_IMAGES, SIZE_PX = 420, 48
REPEATS = 399


@dataclass(frozen=True)
class Data:
    """Colour phantoms in three parts without a common patient, each about a third: training, held-out, and a generator's."""

    train: ImageSet
    real: ImageSet
    good: ImageSet

    def check(self, synthetic: ImageSet) -> list[Fault]:
        return find_faults(self.rows(synthetic))

    def rows(self, synthetic: ImageSet) -> list[Row]:
        report = EvaluationReport(provenance={})
        sets = EvaluationSets(synthetic, self.real, self.train, self.real, self.train, CLASS_NAMES)
        add_direct_checks(report, sets, repeats=REPEATS)
        return [Row.from_dict(row.to_dict()) for row in report.rows]  # as read back from evaluation.json


def tint(gray: np.ndarray) -> np.ndarray:
    """uint8 (N, H, W) -> (N, H, W, 3), each image with a tint of its own."""
    gains = 1 + np.random.default_rng(0).normal(0, 0.04, size=(len(gray), 1, 1, 3))
    return np.clip(np.rint(gray[..., None] * gains), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def data() -> Data:
    parameters = [draw_parameters(seed=7, index=index, difficulty="clear") for index in range(NUM_IMAGES)]
    pixels = tint(np.stack([render_phantom(one, size_px=SIZE_PX) for one in parameters]))
    labels, patients = np.array([one.label for one in parameters]), np.array([one.patient for one in parameters])
    order = np.random.default_rng(0).permutation(np.unique(patients))

    def part(name: str, chosen: np.ndarray) -> ImageSet:
        rows = np.flatnonzero(np.isin(patients, chosen))
        groups = [f"patient{patients[row]}" for row in rows]
        return ImageSet(name, pixels[rows], labels[rows], [f"{name}{row}" for row in rows], groups, [""] * len(rows))

    train, real, good = (part(name, chosen) for name, chosen in zip(("train", "test", "synthetic"), np.array_split(order, 3),
                                                                    strict=True))
    return Data(train, real, replace(good, groups=good.ids))


def luma_of(pixels: np.ndarray) -> np.ndarray:
    return np.stack([cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in pixels])


def test_a_good_generator_has_no_fault_and_all_rows(data: Data) -> None:
    rows = data.rows(data.good)
    assert find_faults(rows) == []
    found = {(row.metric, row.class_name, row.comparison): row for row in rows}
    for metric in ("grain power[2-4 px]", "grain power[8-16 px]", "brightness mean", "brightness spread", "contrast mean",
                   "sharpness mean", "tint mean[green to red]", "tint spread", "colour contrast", "effective images"):
        for class_name in (OVERALL, *CLASS_NAMES):
            for comparison in ("direct", "direct_real"):
                row = found[metric, class_name, comparison]
                assert row.value is not None and row.interval is not None
                assert row.interval[0] <= row.value <= row.interval[1] or metric == "effective images"
            p_value = found[f"adjusted p of {metric}", class_name, "direct"].value
            assert p_value is not None and 0.05 <= p_value <= 1
    assert {row.n_synthetic for row in rows if row.class_name == OVERALL and row.comparison == "direct"} == {
        found["effective images", OVERALL, "direct"].n_real}


def test_removed_tints_are_named(data: Data) -> None:
    gray = np.repeat(luma_of(data.good.pixels)[..., None], 3, axis=3)
    faults = data.check(data.good.with_pixels("synthetic", gray))
    assert {fault.check for fault in faults} <= {"tint spread", "colour contrast"}
    (fault,) = [fault for fault in faults if fault.check == "tint spread"]
    assert (fault.aspect, fault.class_name) == (Aspect.VARIETY, OVERALL)
    assert fault.text.startswith("Tints vary 0.0") and fault.text.endswith(" times as much between images as in real ones.")


def test_removed_fine_grain_is_named(data: Data) -> None:
    smooth = np.stack([cv2.GaussianBlur(image, (0, 0), 0.6) for image in data.good.pixels])
    first, *others = data.check(data.good.with_pixels("synthetic", smooth))
    assert (first.aspect, first.check, first.class_name) == (Aspect.FIDELITY, "grain power[2-4 px]", OVERALL)
    assert first.text.startswith("Grain of 2 to 4 px has 0.") and first.text.endswith(" of its power in real images.")
    assert {fault.check for fault in others} <= {"grain power[4-8 px]"}


def test_another_class_in_place_of_one_is_named(data: Data) -> None:
    donors = data.train.select(np.flatnonzero(data.train.labels == 0))
    pixels = data.good.pixels.copy()
    replaced = np.flatnonzero(data.good.labels == 1)
    pixels[replaced] = donors.pixels[np.random.default_rng(0).choice(len(donors), size=len(replaced))]
    faults = data.check(data.good.with_pixels("synthetic", pixels))
    (fault,) = [fault for fault in faults if fault.class_name == "blastocyst"]
    assert (fault.aspect, fault.check) == (Aspect.CLASS, "looks like its class")
    assert "images look like another class, most like arrested; of real ones " in fault.text
    assert not [fault for fault in faults if fault.class_name == "arrested"]


def test_repeated_images_are_named(data: Data) -> None:
    """Of each class half of the images, twice."""
    pixels = data.good.pixels.copy()
    for label in (0, 1):
        members = np.flatnonzero(data.good.labels == label)
        pixels[members] = pixels[members[np.arange(len(members)) // 2]]
    (fault,) = data.check(data.good.with_pixels("synthetic", pixels))
    assert (fault.aspect, fault.check) == (Aspect.VARIETY, "effective images")
    assert fault.text.startswith("Images repeat or resemble each other: they hold 0.")


def test_empty_images_are_counted_and_do_not_hide_behind_other_faults(data: Data) -> None:
    pixels = data.good.pixels.copy()
    pixels[np.flatnonzero(data.good.labels == 1)[:3]] = 128
    (fault,) = data.check(data.good.with_pixels("synthetic", pixels))
    assert (fault.aspect, fault.check, fault.class_name) == (Aspect.FIDELITY, "empty images", "blastocyst")
    assert fault.text.startswith("Class blastocyst: 3 of ") and fault.text.endswith(" images are empty.")
    pixels[:5] = 255
    assert data.check(data.good.with_pixels("synthetic", pixels))[0].class_name == OVERALL


def test_two_dark_images_are_chance_and_many_are_counted(data: Data) -> None:
    """Real sets have a few images far darker than the rest, which a split can put on one side."""
    def darken(number: int) -> list[Fault]:
        pixels = data.good.pixels.copy()
        pixels[:number] //= 2
        return data.check(data.good.with_pixels("synthetic", pixels))

    assert [fault for fault in darken(2) if fault.check == "off-range images"] == []
    (fault,) = [fault for fault in darken(15) if fault.check == "off-range images" and fault.class_name == OVERALL]
    assert fault.text.startswith("15 of ") and "far darker" in fault.text


def test_few_groups_are_measured_without_a_claim(data: Data) -> None:
    single = replace(data.real, groups=["one"] * len(data.real))
    rows = replace(data, real=single).rows(data.good.with_pixels("synthetic", data.good.pixels // 10 * 9))
    assert find_faults(rows) == []
    assert not [row for row in rows if row.metric == "brightness mean"]


def test_dented_outlines_are_named(data: Data) -> None:
    """The images are bent by random shifts of about 2 px over 6 px."""
    rng = np.random.default_rng(0)
    bent, places = [], np.mgrid[:SIZE_PX, :SIZE_PX].astype(np.float32)
    for image in data.good.pixels:
        down, across = (cv2.GaussianBlur(rng.normal(0, 1, (SIZE_PX, SIZE_PX)).astype(np.float32), (0, 0), 3) * 20
                        for _ in range(2))
        bent.append(cv2.remap(image, places[1] + across, places[0] + down, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT))
    faults = data.check(data.good.with_pixels("synthetic", np.stack(bent)))
    (fault,) = [fault for fault in faults if fault.check == "outline roughness"]
    assert (fault.aspect, fault.class_name) == (Aspect.FIDELITY, OVERALL)
    assert fault.text.startswith("Outlines are rougher: neighbouring edges differ in direction 1.")


def fault_rows(
    metric: str, value: float, *, real: float = 1.0, p_value: float = 0.001, class_name: str = OVERALL
) -> list[Row]:
    return [Row(parse_metric(metric), class_name, "direct", value, n_real=30, n_synthetic=30),
            Row(parse_metric(metric), class_name, "direct_real", real, n_real=30, n_synthetic=30),
            Row(parse_metric(f"adjusted p of {metric}"), class_name, "direct", p_value)]


def test_a_fault_is_significant_large_and_larger_than_that_of_training_images() -> None:
    metric = "grain power[4-8 px]"
    (fault,) = find_faults(fault_rows(metric, 0.4))
    assert fault == Fault(Aspect.FIDELITY, metric, OVERALL, "Grain of 4 to 8 px has 0.4 of its power in real images.")
    (fault,) = find_faults(fault_rows(metric, 2.25, class_name="B"))
    assert fault.text == "Class B: grain of 4 to 8 px has 2.2 times its power in real images."
    assert find_faults(fault_rows(metric, 0.4, p_value=0.03)) == []
    assert find_faults(fault_rows(metric, 0.85)) == []
    assert find_faults(fault_rows(metric, 0.7, real=0.6)) == find_faults(fault_rows(metric, 0.7, real=1.5)) == []
    assert find_faults(fault_rows(metric, 0.4)[:2]) == []
    assert find_faults(fault_rows("KD[squeezenet1_1]", 0.4)) == []


@pytest.mark.parametrize(("cause", "implied"), [
    (("contrast mean", 0.5), ("grain power[2-4 px]", 0.26)),
    (("grain power[2-4 px]", 0.1), ("contrast mean", 0.8)),
    (("grain power[2-4 px]", 0.4), ("sharpness mean", 0.5)),
    (("grain power[2-4 px]", 16.0), ("outline roughness", 2.0)),
    (("grain power[2-4 px]", 16.0), ("grain power[4-8 px]", 2.0)),
    (("effective images", 0.4), ("tint spread", 0.7)),
])
def test_what_a_fault_implies_is_left_out(cause: tuple[str, float], implied: tuple[str, float]) -> None:
    """In the same class or, where the cause is one of all classes, in a class."""
    in_class = implied[0].startswith("grain power[4")
    rows = [*fault_rows(*cause), *fault_rows(*implied, class_name="B" if in_class else OVERALL)]
    assert [fault.check for fault in find_faults(rows)] == [cause[0]]
    assert [fault.check for fault in find_faults(rows[3:])] == [implied[0]]


def test_images_out_of_range_are_told_where_not_all_are_darker() -> None:
    out_of_range = fault_rows("off-range images", 0.9, real=0.0)
    (fault,) = find_faults(out_of_range)
    assert fault.text == "27 of 30 images are far darker, brighter or more saturated than real ones."
    assert [fault.check for fault in find_faults([*out_of_range, *fault_rows("brightness mean", -60.0, real=0.0)])] == [
        "brightness mean"]


def test_the_same_fault_of_all_classes_and_of_one_is_told_once() -> None:
    rows = [*fault_rows("brightness mean", -20.0, real=0.0), *fault_rows("brightness mean", -25.0, real=0.0, class_name="B"),
            *fault_rows("brightness mean", 9.0, real=0.0, class_name="C")]
    assert [fault.text for fault in find_faults(rows)] == [
        "Images are 20 of 255 gray levels darker than real ones.",
        "Class C: images are 9 of 255 gray levels brighter than real ones."]


def halves(measured: MeasuredImages, rng: np.random.Generator) -> tuple[MeasuredImages, MeasuredImages]:
    groups = np.asarray(measured.images.groups)
    names = rng.permutation(np.unique(groups))
    first = np.isin(groups, names[: len(names) // 2])
    return measured.select(np.flatnonzero(first)), measured.select(np.flatnonzero(~first))


def test_of_real_halves_at_most_five_percent_are_accused_by_any_check(data: Data) -> None:
    real, others = data.real, data.good
    both = ImageSet("both", np.concatenate([real.pixels, others.pixels]), np.r_[real.labels, others.labels],
                    real.ids + others.ids, real.groups + others.groups, real.sha256 + others.sha256)
    known, measured = measure_sets(data.train, both)
    rng = np.random.default_rng(0)
    accused = 0
    for _ in range(30):
        one, other = halves(measured, rng)
        accused += bool(find_faults(make_rows(known, one, other, known, class_names=CLASS_NAMES, repeats=99)))
    assert binomtest(accused, 30, 0.05, alternative="greater").pvalue > 0.01
