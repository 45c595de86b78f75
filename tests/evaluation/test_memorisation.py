"""The copy test against simulations with known answers: planted copies, mode shrinkage, innocents, focal stacks."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import binom

from config.errors import UserError
from dataset.annotations import read_records
from dataset.images import load_image, to_uint8
from tools.evaluation.encoders.encoder import load_encoder
from tools.evaluation.memorisation import (
    FEWEST_GROUPS,
    TOO_FEW_TO_TELL,
    audit_copies,
    memorisation_rows,
    nearest_ratios,
    pixel_vectors,
    set_threshold,
    view_vectors,
)

SEEDS = range(20)
DIMENSION = 16


def names(prefix: str, count: int, per_group: int = 1) -> list[str]:
    return [f"{prefix}{i // per_group}" for i in range(count)]


def draw_cells(rng: np.random.Generator, count: int) -> np.ndarray:
    """Features of `count` independent images: a few modes of different width."""
    centres = np.random.default_rng(0).normal(0, 3, size=(4, DIMENSION))
    modes = rng.integers(4, size=count)
    return centres[modes] + rng.normal(size=(count, DIMENSION)) * (0.5 + 0.25 * modes[:, None])


def audit(synthetic: np.ndarray, train: np.ndarray, held_out: np.ndarray, *, seed: int = 0):
    return audit_copies("features", synthetic, train, [held_out], train_groups=names("t", len(train)),
                        held_out_groups=names("h", len(held_out)), seed=seed)


def simulate(seed: int) -> tuple[np.random.Generator, np.ndarray, np.ndarray, np.ndarray]:
    """Training, held-out and innocent synthetic features of one population."""
    rng = np.random.default_rng(seed)
    return rng, draw_cells(rng, 1000), draw_cells(rng, 400), draw_cells(rng, 500)


def test_the_ratio_is_its_definition() -> None:
    rng = np.random.default_rng(0)
    queries, train = rng.normal(size=(300, 5)), rng.normal(size=(90, 5))  # past one block of rows
    distances = np.sort(cdist(queries, train), axis=1)
    found = nearest_ratios(queries, train, names("t", 90), neighbours=10)
    np.testing.assert_allclose(found.values, distances[:, 0] / distances[:, 1:11].mean(axis=1), rtol=1e-9)
    order = np.argsort(cdist(queries, train), axis=1)
    assert (found.nearest == order[:, 0]).all() and (found.second == order[:, 1]).all()
    few = nearest_ratios(queries, train[:8], names("t", 8))  # at most n - 1 neighbours
    distances = np.sort(cdist(queries, train[:8]), axis=1)
    np.testing.assert_allclose(few.values, distances[:, 0] / distances[:, 1:].mean(axis=1), rtol=1e-9)


def test_views_and_versions_count_by_their_nearest_pair() -> None:
    rng = np.random.default_rng(1)
    queries, train = rng.normal(size=(2, 20, 4)), rng.normal(size=(3, 30, 4))
    distances = np.min([cdist(view, version) for view in queries for version in train], axis=0)
    found = nearest_ratios(queries, train, names("t", 30), neighbours=7)
    ranked = np.sort(distances, axis=1)
    np.testing.assert_allclose(found.values, ranked[:, 0] / ranked[:, 1:8].mean(axis=1), rtol=1e-9)


def test_tau_lets_no_more_than_the_level_through() -> None:
    assert set_threshold(np.arange(100.0), names("h", 100), level=0.05).tau == 4  # 0 to 3 lie under it: 4, or rank 5 of 101
    small = set_threshold(np.arange(7.0), names("h", 7), level=0.05)
    assert (small.tau, small.level) == (0, 1 / 8)
    stack = set_threshold(np.repeat(np.arange(40.0), 5), names("h", 200, per_group=5), level=0.05)
    single = set_threshold(np.arange(40.0), names("h", 40), level=0.05)
    assert (stack.tau, stack.level) == (single.tau, single.level)


def test_a_tenth_of_planted_copies_is_found() -> None:
    """Simulation (a): the planted tenth and the level of the rest, about 10.5% in all."""
    shares, found = [], []
    for seed in SEEDS:
        rng, train, held_out, synthetic = simulate(seed)
        planted = rng.choice(len(train), size=50, replace=False)
        synthetic[:50] = train[planted] + 0.02 * rng.normal(size=(50, DIMENSION))
        result = audit(synthetic, train, held_out, seed=seed)
        assert (result.ratios.nearest[:50] == planted).all()
        assert result.copying_found and result.verdict.startswith("copying found: ")
        assert result.num_training_hit >= 50
        shares.append(result.share)
        found.append(result.flagged[:50].mean())
    assert min(found) == 1
    assert 0.100 <= np.mean(shares) <= 0.112


def test_mode_shrinkage_is_no_copying() -> None:
    """Simulation (b): samples crowded around the mode are nearer to training images than held-out ones are."""
    alarms, plain = [], []
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        train, held_out = rng.normal(size=(1000, 32)), rng.normal(size=(400, 32))
        synthetic = 0.3 * rng.normal(size=(500, 32))
        result = audit(synthetic, train, held_out, seed=seed)
        assert result.num_clear == 0
        alarms.append(result.copying_found)
        nearest = np.quantile(cdist(held_out, train).min(axis=1), 0.01)
        plain.append((cdist(synthetic, train).min(axis=1) < nearest).mean())
    assert np.mean(plain) > 0.9
    assert sum(alarms) <= 1


def test_innocent_samples_are_flagged_at_the_level() -> None:
    """Simulation (c), and with it the half of the held-out images that did not set tau."""
    results = [audit(simulate(seed)[3], *simulate(seed)[1:3], seed=seed) for seed in SEEDS]
    level = results[0].threshold.level
    assert level == 2 / 201
    flagged = sum(int(result.flagged.sum()) for result in results)
    assert binom.ppf(0.001, 500 * len(SEEDS), level) < flagged <= binom.ppf(0.999, 500 * len(SEEDS), level)
    control = sum(round(result.control_share * 200) for result in results)
    assert control <= binom.ppf(0.95, 200 * len(SEEDS), level)
    assert sum(result.copying_found for result in results) <= 1
    assert all("private" not in result.verdict for result in results)
    calm = next(result for result in results if not result.copying_found)
    assert calm.verdict.startswith("no copying detected at tau: ")


def test_the_p_value_knows_that_few_images_set_tau() -> None:
    """Against ten times as many innocents as held-out images, a binomial test takes the luck of tau for copying."""
    alarms, binomial = 0, 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        result = audit(rng.normal(size=(1500, 3)), rng.normal(size=(60, 3)), rng.normal(size=(100, 3)), seed=seed)
        alarms += result.p_value < 0.05
        binomial += result.binomial_p < 0.05
    assert alarms <= binom.ppf(0.99, 100, 0.05)
    assert binomial > 20


def test_a_focal_stack_counts_once() -> None:
    """Simulation (d): seven planes of each embryo give the numbers of one plane, on either side, and hide no copy."""
    rng, planes = np.random.default_rng(3), 7
    train, held_out = rng.normal(size=(120, DIMENSION)), rng.normal(size=(60, DIMENSION))
    synthetic = rng.normal(size=(80, DIMENSION))
    synthetic[:8] = train[:8] + 0.01 * rng.normal(size=(8, DIMENSION))
    once = audit(synthetic, train, held_out)

    def stack(values: np.ndarray) -> np.ndarray:
        return np.repeat(values, planes, axis=0)

    stacked = audit_copies("features", synthetic, stack(train), [stack(held_out)],
                           train_groups=names("t", 120 * planes, planes), held_out_groups=names("h", 60 * planes, planes))
    np.testing.assert_allclose(stacked.ratios.values, once.ratios.values, rtol=1e-9)
    assert stacked.threshold.tau == pytest.approx(once.threshold.tau)
    assert stacked.control_share == pytest.approx(once.control_share)
    assert (stacked.ratios.second // planes == once.ratios.second).all()
    assert stacked.flagged[:8].all()
    grouped, single = (nearest_ratios(synthetic[:8], stack(train), names("t", 120 * planes, per_group), neighbours=6)
                       for per_group in (planes, 1))
    assert grouped.values.max() < 0.1
    assert single.values.min() > 0.9  # by image, the planes beside a copied one are its scale and hide it


def test_one_exact_copy_is_copying() -> None:
    _, train, held_out, synthetic = simulate(0)
    synthetic[7] = train[123]
    result = audit(synthetic, train, held_out)
    assert result.num_clear == 1 and result.copying_found
    assert "1 of them beyond doubt" in result.verdict
    assert result.lowest()[0][:2] == (7, 123) and len(result.lowest()) == 24
    assert result.lowest()[0][3] == pytest.approx(0, abs=1e-6)


def test_too_few_held_out_groups_cannot_clear_images_but_can_convict_them() -> None:
    rng = np.random.default_rng(5)
    train, held_out, synthetic = (rng.normal(size=(count, DIMENSION)) for count in (300, FEWEST_GROUPS, 40))
    for count in (4, 14, FEWEST_GROUPS - 1):
        result = audit(synthetic, train, held_out[:count])
        assert not result.copying_found and result.threshold.level > 0.05
        assert result.verdict.startswith(f"{TOO_FEW_TO_TELL}: {count} of them, at least {FEWEST_GROUPS} are needed for a "
                                         "tau at 5%; ")
    enough = audit(synthetic, train, held_out)
    assert enough.threshold.level == 0.05 and enough.verdict.startswith("no copying detected at tau: ")
    copied = audit(np.concatenate([train[:5], synthetic]), train, held_out[:14])
    assert copied.verdict.startswith("copying found: ")
    assert np.flatnonzero(copied.convicted).tolist() == [0, 1, 2, 3, 4]


def test_innocents_are_not_rejected_where_few_groups_set_tau() -> None:
    """Of two held-out groups one sets tau: half of all innocent images lie under it in the mean."""
    flagged, convicted = [], []
    for seed in range(10):
        _, train, held_out, synthetic = simulate(seed)
        result = audit(synthetic, train, held_out[:2], seed=seed)
        flagged.append(result.flagged.mean())
        convicted.append(result.convicted.mean())
    assert np.mean(flagged) > 0.2 and max(convicted) == 0
    many = audit(synthetic, train, held_out)
    assert (many.convicted == many.flagged).all()


def test_the_control_is_of_groups_that_did_not_set_tau() -> None:
    _, train, held_out, synthetic = simulate(1)
    stacks = names("h", len(held_out), per_group=2)
    result = audit_copies("features", synthetic, train, [held_out, held_out + 0.01], train_groups=names("t", len(train)),
                          held_out_groups=stacks)
    others = np.setdiff1d(np.arange(len(held_out)), result.control_rows)
    assert not {stacks[i] for i in result.control_rows} & {stacks[i] for i in others}
    ratios = np.concatenate([nearest_ratios(version, train, names("t", len(train))).values[others]
                             for version in (held_out, held_out + 0.01)])
    assert set_threshold(ratios, [stacks[i] for i in others] * 2, level=0.01).tau == pytest.approx(result.threshold.tau)


def test_rows_give_the_share_and_its_control() -> None:
    result = audit(simulate(0)[3], *simulate(0)[1:3])
    row, control = memorisation_rows(result)
    assert (row.metric, row.comparison, row.value) == ("near-copies[features]", "copies", result.share)
    assert row.note.startswith(result.verdict)
    assert (control.comparison, control.value) == ("copies_control", result.control_share)


def test_pixel_vectors_ignore_brightness_and_contrast_and_views_are_those_of_the_images() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 100, size=(6, 8, 8, 1), dtype=np.uint8).repeat(4, axis=1).repeat(4, axis=2)
    vectors = pixel_vectors(pixels)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1)
    np.testing.assert_allclose(pixel_vectors(2 * pixels + 30), vectors, atol=1e-12)
    assert not pixel_vectors(np.full((1, 32, 32, 3), 90, np.uint8)).any()
    views = view_vectors(vectors)
    assert views.shape == (8, 6, 256)
    for turned in (pixels[:, :, ::-1], pixels[:, ::-1], np.rot90(pixels, axes=(1, 2)), pixels.swapaxes(1, 2)):
        distances = np.linalg.norm(views - pixel_vectors(turned), axis=2)
        assert distances.min(axis=0).max() < 1e-9


def test_what_cannot_be_tested_is_refused() -> None:
    rng = np.random.default_rng(0)
    train, held_out, synthetic = (rng.normal(size=(n, 4)) for n in (30, 12, 9))
    with pytest.raises(UserError, match=r"training images of at least 4 groups .* found 3; test against more"):
        audit(synthetic, train[:3], held_out)
    for count in (0, 1):
        with pytest.raises(UserError, match=f"held-out images of at least 2 groups .*, found {count}; hold more patients'"):
            audit(synthetic, train, held_out[:count])
    spoiled = synthetic.copy()
    spoiled[4, 1] = np.nan
    with pytest.raises(UserError, match=r"images to test: 1 of 9 rows hold NaN or infinite features \(the first is row 4"):
        audit(spoiled, train, held_out)
    with pytest.raises(UserError, match="held-out groups that are not trained on, found 2 on both sides: t3, t4"):
        audit_copies("features", synthetic, train, [held_out], train_groups=names("t", 30),
                     held_out_groups=["t3", "t4", *names("h", 10)])
    with pytest.raises(UserError, match="features of one encoder, found 4 and 3 columns"):
        nearest_ratios(synthetic, train[:, :3], names("t", 30))


@pytest.fixture(scope="module")
def sperm(shared: Path) -> dict[str, np.ndarray]:
    """The public set of 64 px cells, uint8 (N, 64, 64, 1): 1000 training images and 540 others."""
    folder = shared / "data/mhsma64"
    tables = {split: str(folder / f"{file}.csv") for split, file in (("train", "train"), ("val", "valid"), ("test", "test"))}
    records = read_records(tables, folder / "images", class_names=("normal", "abnormal"), label_column="head_abnormal")
    pixels = np.stack([to_uint8(load_image(r.path, im_channels=1, size_px=64, fit="pad")) for r in records])
    training = np.array([record.split == "train" for record in records])
    return {"train": pixels[training].transpose(0, 2, 3, 1), "held_out": pixels[~training].transpose(0, 2, 3, 1)}


def as_jpeg(image: np.ndarray) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 75])[1], cv2.IMREAD_GRAYSCALE)[..., None]


def test_planted_copies_of_real_cells_are_found_and_held_out_cells_are_not(sperm: dict[str, np.ndarray]) -> None:
    train, held_out = pixel_vectors(sperm["train"]), view_vectors(pixel_vectors(sperm["held_out"]))
    planted = {
        "exact": sperm["train"],
        "mirrored, JPEG": np.stack([as_jpeg(np.ascontiguousarray(image[:, ::-1])) for image in sperm["train"]]),
        "brighter": np.clip(sperm["train"].astype(int) + 20, 0, 255).astype(np.uint8),
    }
    copies = {kind: view_vectors(pixel_vectors(pixels)) for kind, pixels in planted.items()}
    flagged = 0
    for seed in SEEDS:
        chosen = np.random.default_rng(seed).choice(1000, size=30, replace=False)
        queries = np.concatenate([views[:, chosen] for views in copies.values()], axis=1)
        result = audit_copies("pixels", queries, train, [held_out], train_groups=names("t", 1000),
                              held_out_groups=names("h", 540), seed=seed)
        for kind, part in zip(copies, np.split(result.flagged, 3), strict=True):
            assert part.mean() >= 0.9, kind
        assert (result.ratios.nearest == np.tile(chosen, 3)).all()
        assert round(270 * result.control_share) <= binom.ppf(0.95, 270, 0.01)
        flagged += round(270 * result.control_share)
    assert flagged <= binom.ppf(0.95, 270 * len(SEEDS), 0.01)


def test_an_imagenet_encoder_misses_mirrored_copies_which_is_why_pixels_decide(
    shared: Path, sperm: dict[str, np.ndarray]
) -> None:
    weights = shared / "weights/lpips_squeeze/squeezenet1_1_features.pth"
    encoder = load_encoder("squeezenet1_1", weights_path=weights, preset="imagenet-min64")
    train, held_out = encoder.encode(sperm["train"]), encoder.encode(sperm["held_out"])
    exact = audit(train[:100], train, held_out)
    assert exact.share == 1
    mirrored = encoder.encode(np.stack([as_jpeg(np.ascontiguousarray(image[:, ::-1])) for image in sperm["train"][:100]]))
    assert audit(mirrored, train, held_out).share < 0.5


def test_focal_planes_of_one_embryo_are_near_copies(shared: Path) -> None:
    """A natural positive control: the planes beside it are the nearest thing to a copy that a microscope gives."""
    folder = shared / "data/stork"
    records = read_records(folder / "annotations.csv", folder / "images", class_names=("poor", "good"),
                           label_column="good_quality", group_column="EMBRYO_ID", split_column="SPLIT")
    pixels = np.stack([to_uint8(load_image(r.path, im_channels=1, size_px=128, fit="pad")) for r in records])
    vectors, embryos = pixel_vectors(pixels.transpose(0, 2, 3, 1)), np.array([record.group for record in records])
    planes = np.array([int(record.image_id.split("_")[1]) for record in records])
    everyone = sorted(set(embryos))
    assert len(everyone) == 14
    control = []
    for seed in range(5):
        trained = np.isin(embryos, np.random.default_rng(seed).permutation(everyone)[:7])
        for plane in (-45, 0, 45):
            known, withheld = trained & (planes != plane), trained & (planes == plane)
            result = audit_copies("pixels", view_vectors(vectors[withheld]), vectors[known],
                                  [view_vectors(vectors[~trained])], train_groups=embryos[known].tolist(),
                                  held_out_groups=embryos[~trained].tolist(), seed=seed)
            assert result.flagged.all() and result.copying_found
            assert (embryos[known][result.ratios.nearest] == embryos[withheld]).all()
            assert not result.control_exceeded
            control.append(result.control_share)
    assert np.mean(control) < 2 / 5  # of the embryos that are strangers to both; tau's level is 1/5
