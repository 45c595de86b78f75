"""Addressed randomness: epochs without repetition, class quotas, stratified timesteps, and no state anywhere."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dataset.order import SampleOrder, StepDraws, TimestepDraws, draw_step, generator, normal

LABELS = [0] * 13 + [1] * 29 + [2] * 5
FIELDS = ("positions", "views", "posterior_noise", "noise", "timesteps", "drop_uniforms", "condition_uniforms")


def draw(step: int, *, seed: int = 3, batch_size: int = 8, num_timesteps: int = 1000, num_views: int = 2,
         num_conditions: int = 2, timesteps: TimestepDraws | None = None) -> StepDraws:
    order = SampleOrder(LABELS, seed=seed)
    return draw_step(order, step, batch_size=batch_size, num_views=num_views, latent_shape=(2, 3, 3),
                     timesteps=timesteps or TimestepDraws(num_timesteps), num_conditions=num_conditions)


@settings(max_examples=30, deadline=None)
@given(labels=st.lists(st.integers(0, 3), min_size=1, max_size=30), seed=st.integers(0, 9))
def test_without_balancing_every_image_comes_once_an_epoch(labels: list[int], seed: int) -> None:
    order, size = SampleOrder(labels, seed=seed), len(labels)
    for epoch in range(3):
        assert sorted(order.positions(epoch * size, size)) == list(range(size))


def test_epochs_and_seeds_are_in_different_orders() -> None:
    order = SampleOrder(LABELS, seed=1)
    epochs = [order.positions(epoch * 47, 47).tolist() for epoch in range(4)]
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert epochs[0] != SampleOrder(LABELS, seed=2).positions(0, 47).tolist()


@pytest.mark.parametrize(("balance", "shares"), [
    (0.0, [13 / 47, 29 / 47, 5 / 47]), (1.0, [1 / 3] * 3),
    (0.5, [n**0.5 / (13**0.5 + 29**0.5 + 5**0.5) for n in (13, 29, 5)]),
])
def test_classes_come_at_the_balanced_frequencies(balance: float, shares: list[float]) -> None:
    order = SampleOrder(LABELS, seed=0, balance=balance)
    for epoch in range(4):
        counts = np.bincount(np.array(LABELS)[order.positions(epoch * 47, 47)], minlength=3)
        assert np.abs(counts - 47 * np.array(shares)).max() < 1


def test_within_a_class_images_are_used_equally_often() -> None:
    order = SampleOrder(LABELS, seed=0, balance=1.0)
    counts = Counter(order.positions(0, 47 * 20).tolist())
    for label in range(3):
        uses = [counts[i] for i, found in enumerate(LABELS) if found == label]
        assert max(uses) - min(uses) <= 1


@settings(max_examples=30, deadline=None)
@given(start=st.integers(0, 500), count=st.integers(1, 150), balance=st.sampled_from([0.0, 0.3, 1.0]))
def test_random_access_equals_reading_from_the_start(start: int, count: int, balance: float) -> None:
    whole = SampleOrder(LABELS, seed=4, balance=balance).positions(0, start + count)
    assert np.array_equal(SampleOrder(LABELS, seed=4, balance=balance).positions(start, count), whole[start:])


def test_going_back_gives_the_same_again() -> None:
    order = SampleOrder(LABELS, seed=4)
    first = order.positions(0, 47)
    for start in (10_000, 47, 900, 0):
        order.positions(start, 47)
    assert np.array_equal(order.positions(0, 47), first)


def test_steps_follow_the_endless_sequence() -> None:
    order = SampleOrder(LABELS, seed=3)
    assert torch.cat([draw(step).positions for step in range(12)]).tolist() == order.positions(0, 96).tolist()


def test_equal_addresses_draw_the_same_and_others_do_not() -> None:
    one, same, later, other = draw(5), draw(5), draw(6), draw(5, seed=4)
    for name in FIELDS:
        assert torch.equal(getattr(one, name), getattr(same, name))
    for name in ("posterior_noise", "noise", "timesteps", "drop_uniforms", "condition_uniforms"):
        assert not torch.equal(getattr(one, name), getattr(later, name))
        assert not torch.equal(getattr(one, name), getattr(other, name))


def test_conditions_have_draws_of_their_own_and_alter_no_other() -> None:
    none, one, three = (draw(7, num_conditions=count) for count in (0, 1, 3))
    assert [tuple(d.condition_uniforms.shape) for d in (none, one, three)] == [(8, 0), (8, 1), (8, 3)]
    for name in FIELDS[:-1]:
        assert torch.equal(getattr(none, name), getattr(one, name)) and torch.equal(getattr(one, name), getattr(three, name))
    uniforms = torch.cat([draw(step, batch_size=32).condition_uniforms for step in range(60)])
    together = torch.cat([draw(step, batch_size=32).drop_uniforms for step in range(60)])
    assert uniforms.min() >= 0 and uniforms.max() < 1 and stats.kstest(uniforms.numpy().ravel(), "uniform").pvalue > 1e-3
    correlations = np.corrcoef(torch.cat([uniforms, together[:, None]], dim=1).numpy().T) - np.eye(3)
    assert np.abs(correlations).max() < 4.5 / 1920**0.5


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_whether_a_label_is_dropped_does_not_depend_on_its_class_at_any_balance(balance: float) -> None:
    order = SampleOrder([0] * 90 + [1] * 10, seed=2, balance=balance)
    draws = [draw_step(order, step, batch_size=50, num_views=1, latent_shape=(1, 1, 1), timesteps=TimestepDraws(10))
             for step in range(400)]
    labels = torch.from_numpy(order.labels)[torch.cat([d.positions for d in draws])]
    dropped = torch.cat([d.drop_uniforms for d in draws]) < 0.2
    for label in (0, 1):
        count = int((labels == label).sum())
        assert dropped[labels == label].float().mean().item() == pytest.approx(0.2, abs=4 * (0.16 / count) ** 0.5)
    plain = [draw_step(SampleOrder(order.labels, seed=2), step, batch_size=50, num_views=1, latent_shape=(1, 1, 1),
                       timesteps=TimestepDraws(10)) for step in range(5)]
    assert all(torch.equal(a.drop_uniforms, b.drop_uniforms) for a, b in zip(plain, draws[:5], strict=True))


def test_slices_of_a_step_make_up_the_step() -> None:
    whole = draw(2)
    parts = [whole.slice(0, 3), whole.slice(3, 4), whole.slice(4, 8)]
    for name in FIELDS:
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))


@pytest.mark.parametrize(("batch_size", "num_timesteps"), [(8, 1000), (7, 50), (16, 16), (5, 2)])
def test_one_timestep_lies_in_each_stratum(batch_size: int, num_timesteps: int) -> None:
    for step in range(20):
        timesteps = np.sort(draw(step, batch_size=batch_size, num_timesteps=num_timesteps).timesteps.numpy())
        edges = np.arange(batch_size + 1) * num_timesteps / batch_size
        assert (timesteps + 1 > edges[:-1]).all() and (timesteps < edges[1:]).all()


def test_each_timestep_of_a_batch_is_uniform() -> None:
    """Each place in the batch sees the whole axis, and so do all places together."""
    timesteps = np.stack([draw(step, batch_size=4, num_timesteps=20).timesteps.numpy() for step in range(2000)])
    assert stats.chisquare(np.bincount(timesteps.ravel(), minlength=20)).pvalue > 1e-3
    for place in range(4):
        assert stats.chisquare(np.bincount(timesteps[:, place], minlength=20)).pvalue > 1e-3


def test_draws_have_their_distributions() -> None:
    draws = [draw(step, batch_size=32, num_views=3) for step in range(60)]
    for name in ("noise", "posterior_noise"):
        values = torch.cat([getattr(d, name) for d in draws])
        assert values.dtype == torch.float32 and stats.kstest(values.numpy().ravel(), "norm").pvalue > 1e-3
    uniforms = torch.cat([d.drop_uniforms for d in draws])
    assert uniforms.min() >= 0 and uniforms.max() < 1 and stats.kstest(uniforms.numpy(), "uniform").pvalue > 1e-3
    assert stats.chisquare(np.bincount(torch.cat([d.views for d in draws]).numpy(), minlength=3)).pvalue > 1e-3


def test_purposes_are_independent() -> None:
    draws = [draw(step, batch_size=32) for step in range(60)]
    columns = [torch.cat([d.noise[:, 0, 0, 0] for d in draws]), torch.cat([d.posterior_noise[:, 0, 0, 0] for d in draws]),
               torch.cat([d.drop_uniforms for d in draws]), torch.cat([d.timesteps.float() for d in draws]),
               torch.cat([d.views.float() for d in draws])]
    correlations = np.corrcoef(torch.stack(columns).numpy()) - np.eye(5)
    assert np.abs(correlations).max() < 4.5 / 1920**0.5


def test_generators_are_told_apart_by_every_part_of_the_address() -> None:
    addresses = [(1, "a"), (1, "b"), (2, "a"), (1, "a", 0), (1, "a", 1), (1, "a", 0, 1), (1, "a", 1, 0), (11, "a"),
                 (1, "a", 10)]
    assert len({generator(*address).random() for address in addresses}) == len(addresses)
    assert generator(1, "a", 7).random() == generator(1, "a", 7).random()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    normal(generator(0, "x"), (4,))
    draw(0)
    assert torch.equal(torch.get_rng_state(), before)


def test_draws_stay_the_same_from_version_to_version() -> None:
    """Figures that pin the stream: a change makes every seed mean another image and belongs in the changelog."""
    assert generator(0, "sample", 1, 2).integers(1 << 32, size=3).tolist() == [3310625963, 1099122956, 2998820003]
    assert SampleOrder([0, 1, 0, 1, 1], seed=9).positions(0, 5).tolist() == [1, 2, 0, 3, 4]


def test_independent_timesteps_are_uniform_and_may_share_a_stratum() -> None:
    drawn = TimestepDraws(1000, "uniform")
    timesteps = np.stack([draw(step, batch_size=8, timesteps=drawn).timesteps.numpy() for step in range(400)])
    assert stats.kstest((timesteps.ravel() + 0.5) / 1000, "uniform").pvalue > 1e-3
    sharing = np.mean([len(np.unique(row // 125)) < 8 for row in timesteps])
    assert sharing > 0.95  # 1 - 8! / 8^8 = 0.998 for independent draws, 0 for stratified ones


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-0.8, 0.5)])
def test_logit_normal_timesteps_have_a_normal_logit(mean: float, std: float) -> None:
    drawn = TimestepDraws(100_000, "logit_normal", logit_mean=mean, logit_std=std)
    timesteps = np.concatenate([draw(step, timesteps=drawn).timesteps.numpy() for step in range(400)])
    fractions = (timesteps + 0.5) / 100_000
    logits = np.log(fractions / (1 - fractions))
    assert stats.kstest((logits - mean) / std, "norm").pvalue > 1e-3
    assert logits.mean() == pytest.approx(mean, abs=0.02) and logits.std() == pytest.approx(std, rel=0.03)
