"""Authenticity against its definition written as loops, with planted copies, focal stacks and what held-out images score."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom, norm
from sklearn.neighbors import NearestNeighbors

from config.errors import UserError
from dataset.annotations import read_records
from dataset.images import load_image, to_uint8
from tools.evaluation.authenticity import authenticity, authenticity_rows, find_authentic, measure_training
from tools.evaluation.memorisation import audit_copies, pixel_vectors, view_vectors


def by_definition(synthetic: np.ndarray, train: np.ndarray, groups: list[str]) -> list[bool]:
    """One image at a time; the distance of a training image to its own group does not count."""
    flags = []
    for image in synthetic:
        distances = [float(np.linalg.norm(image - other)) for other in train]
        nearest = int(np.argmin(distances))
        reference = min(float(np.linalg.norm(train[nearest] - train[j])) for j in range(len(train))
                        if groups[j] != groups[nearest])
        flags.append(distances[nearest] > reference)
    return flags


def test_it_is_its_definition_in_both_readings_of_the_groups() -> None:
    rng = np.random.default_rng(0)
    train, synthetic = rng.normal(size=(90, 5)), rng.normal(size=(300, 5))  # past one block of rows
    each, stacks = [f"t{i}" for i in range(90)], [f"t{i // 3}" for i in range(90)]
    train[1::3], train[2::3] = train[::3] + 0.05, train[::3] - 0.05  # three planes of each embryo
    for groups in (each, stacks):
        flags = find_authentic(synthetic, measure_training([train], groups))
        assert flags.tolist() == by_definition(synthetic, train, groups)
        assert authenticity(synthetic, train, groups) == np.mean(flags)
    assert authenticity(synthetic, train) == authenticity(synthetic, train, each)
    assert authenticity(synthetic, train, each) > authenticity(synthetic, train, stacks) + 0.2


def test_it_agrees_with_a_neighbour_search_of_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    train, synthetic = rng.normal(size=(400, 24)), rng.normal(size=(700, 24))
    search = NearestNeighbors(n_neighbors=2).fit(train)
    own = search.kneighbors(train)[0][:, 1]  # the first is the image itself
    distance, nearest = search.kneighbors(synthetic, n_neighbors=1)
    assert find_authentic(synthetic, measure_training([train])).tolist() == (distance[:, 0] > own[nearest[:, 0]]).tolist()


def test_the_order_of_the_images_changes_nothing() -> None:
    """It does in the authors' code, which looks a training image up at the position of a synthetic one."""
    rng = np.random.default_rng(2)
    train, synthetic = rng.normal(size=(60, 3)), rng.normal(size=(60, 3))
    order = rng.permutation(60)
    assert (find_authentic(synthetic[order], measure_training([train[::-1]]))
            == find_authentic(synthetic, measure_training([train]))[order]).all()

    def of_the_authors(first: np.ndarray, second: np.ndarray) -> float:
        own = NearestNeighbors(n_neighbors=2).fit(second).kneighbors(second)[0][:, 1]
        distance, nearest = NearestNeighbors(n_neighbors=1).fit(first).kneighbors(second)
        return float((own[nearest[:, 0]] < distance[:, 0]).mean())

    assert of_the_authors(synthetic[order], train) != of_the_authors(synthetic, train)


def test_planted_copies_lower_it_by_their_share() -> None:
    rng = np.random.default_rng(3)
    train, synthetic = rng.normal(size=(500, 16)), rng.normal(size=(1000, 16))
    training = measure_training([train])
    innocent = find_authentic(synthetic, training)
    planted = synthetic.copy()
    planted[:100] = train[rng.choice(500, size=100, replace=False)]
    found = find_authentic(planted, training)
    assert not found[:100].any() and (found[100:] == innocent[100:]).all()
    assert found.mean() == pytest.approx(innocent[100:].mean() * 0.9)
    shares = [authenticity(np.concatenate([train[:count], synthetic[count:]]), train) for count in (0, 100, 300, 500)]
    assert all(before > after for before, after in pairwise(shares))


def test_copies_of_one_plane_pass_where_the_planes_beside_it_are_neighbours() -> None:
    """Why a neighbour of the same group does not count: a copy that is farther off than the next plane looks authentic."""
    rng = np.random.default_rng(4)
    embryos = rng.normal(size=(60, 16))
    train = np.repeat(embryos, 5, axis=0) + 0.01 * rng.normal(size=(300, 16))
    groups = [f"embryo{i // 5}" for i in range(300)]
    copies = train[::5] + 0.05 * rng.normal(size=(60, 16))
    assert authenticity(copies, train) == 1
    assert authenticity(copies, train, groups) == 0


def test_held_out_images_score_as_synthetic_ones_of_the_same_population() -> None:
    rng = np.random.default_rng(5)
    train, one, other = (rng.normal(size=(count, 8)) for count in (300, 2000, 2000))
    share = authenticity(one, train)
    low, high = binom.ppf([0.0005, 0.9995], 4000, share) / 4000
    assert 2 * (low - share) < authenticity(other, train) - share < 2 * (high - share)
    assert authenticity(one + 50, train) > 0.99  # far from everything: authentic, however bad
    assert authenticity(0.2 * one, train) < share - 0.1  # crowded around the middle: less so, without a copy


def test_versions_and_views_count_by_their_nearest_pair() -> None:
    rng = np.random.default_rng(6)
    images, decoded = rng.normal(size=(50, 6)), rng.normal(size=(50, 6))
    queries = rng.normal(size=(200, 6))
    both = find_authentic(queries, measure_training([images, decoded]))
    nearer = [np.linalg.norm(queries[:, None] - of, axis=2).min(axis=1) for of in (images, decoded)]
    apart = [find_authentic(queries, measure_training([of])) for of in (images, decoded)]
    assert both.tolist() == np.where(nearer[0] <= nearer[1], *apart).tolist()
    assert not find_authentic(decoded[:10], measure_training([images, decoded])).any()

    def views(values: np.ndarray) -> np.ndarray:
        return np.stack([values, -values])

    mirrored = measure_training([images], views=[views(images)])
    assert (mirrored.distances <= measure_training([images]).distances).all()
    assert not find_authentic(views(-images), mirrored).any()  # a mirrored copy is a copy
    assert find_authentic(views(-queries), mirrored).tolist() == find_authentic(views(queries), mirrored).tolist()


def test_exact_duplicates_among_the_training_images_make_no_copy_authentic() -> None:
    train = np.repeat(np.random.default_rng(7).normal(size=(20, 512)) * 1e3, 2, axis=0)
    assert not find_authentic(train, measure_training([train])).any()


def test_rows_have_a_share_an_interval_over_groups_and_what_held_out_images_score() -> None:
    rng = np.random.default_rng(8)
    flags = rng.random(400) < 0.4
    groups = [f"p{i // 4}" for i in range(400)]
    single = [f"s{i}" for i in range(400)]

    def rows(names: list[str], synthetic: np.ndarray = flags):
        return authenticity_rows("e@1,p", synthetic, ~flags, num_train=900, groups=(names, groups), repeats=300, seed=0)

    made, real = rows(single)
    assert (made.metric, made.comparison, made.value) == ("authenticity[e@1,p]", "authentic", flags.mean())
    assert (real.metric, real.comparison, real.value) == ("authenticity[e@1,p]", "authentic_real", (~flags).mean())
    assert made.interval is not None and made.interval[0] < flags.mean() < made.interval[1]
    width = 2 * 1.96 * np.sqrt(flags.mean() * (1 - flags.mean()) / 400)
    assert made.interval[1] - made.interval[0] == pytest.approx(width, rel=0.15)
    alike = np.repeat(flags[::4], 4)  # images of a group are alike: as many groups, not images, are counted
    grouped, _ = rows(groups, alike)
    assert grouped.interval is not None
    assert grouped.interval[1] - grouped.interval[0] == pytest.approx(2 * width, rel=0.2)
    few = [f"p{i % 4}" for i in range(400)]
    assert rows(few)[0].interval is None


def test_on_real_cells_it_misses_the_tenth_of_copies_that_the_ratio_finds(shared: Path) -> None:
    """The figures that docs/evaluation.md gives: why authenticity stands beside the copies test and does not decide."""
    folder = shared / "data/mhsma64"
    tables = {split: str(folder / f"{file}.csv") for split, file in (("train", "train"), ("val", "valid"), ("test", "test"))}
    records = read_records(tables, folder / "images", class_names=("normal", "abnormal"), label_column="head_abnormal")
    pixels = np.stack([to_uint8(load_image(r.path, im_channels=1, size_px=64, fit="pad")) for r in records])
    vectors, trained = pixel_vectors(pixels.transpose(0, 2, 3, 1)), np.array([r.split == "train" for r in records])
    train, held_out = vectors[trained], view_vectors(vectors[~trained])
    training = measure_training([train], views=[view_vectors(train)])
    flags = find_authentic(held_out, training)
    assert flags.mean() == pytest.approx(0.572, abs=0.001)
    found, lowered = 0, []
    for seed in range(4):
        order = np.random.default_rng(seed).permutation(540)
        synthetic, others = order[:270], order[270:]
        planted = held_out[:, synthetic].copy()
        planted[:, :27] = view_vectors(train)[:, synthetic[:27]]
        audit = audit_copies("pixels", planted, train, [held_out[:, others]], train_groups=[f"t{i}" for i in range(1000)],
                             held_out_groups=[f"h{i}" for i in others], seed=seed)
        found += audit.copying_found
        share = find_authentic(planted, training).mean()
        assert share == pytest.approx(flags[synthetic[27:]].mean() * 0.9)
        lowered.append((flags[others].mean() - share) / np.sqrt(2 * share * (1 - share) / 270))
    assert found == 4
    assert np.mean(np.array(lowered) > norm.isf(0.01)) <= 0.5


def test_what_cannot_be_compared_is_refused() -> None:
    rng = np.random.default_rng(9)
    train, synthetic = rng.normal(size=(30, 4)), rng.normal(size=(9, 4))
    with pytest.raises(UserError, match=r"training images of at least 2 groups .* found 1; use more training images"):
        authenticity(synthetic, train, ["one"] * 30)
    with pytest.raises(UserError, match="features of one encoder, found 4 and 3 columns"):
        authenticity(synthetic, train[:, :3])
    with pytest.raises(UserError, match="versions of one shape"):
        measure_training([train, train[:20]])
    synthetic[4, 1] = np.nan
    with pytest.raises(UserError, match="images to test: 1 of 9 rows hold NaN"):
        authenticity(synthetic, train)
