"""Label dropout and classifier-free guidance: exact counts of calls and rows, exact limits, right frequencies."""

import pytest
import torch

from scheduler.guidance import autoguided_prediction, drop_conditions, drop_labels, guided_prediction, scale_at

NULL = 2


class CountingNetwork:
    """A closed form that depends on label, timestep and position, and remembers the rows it was called with."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.labels: list[list[int]] = []

    def __call__(self, x: torch.Tensor, timesteps: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        self.rows.append(len(x))
        self.labels.append(labels.tolist())
        return x * (1 + labels.float())[:, None, None, None] + timesteps.float()[:, None, None, None]


@pytest.fixture
def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    return x, torch.tensor([5, 6, 7]), torch.tensor([0, 1, 0])


def test_a_scale_of_one_is_one_conditional_call(inputs: tuple[torch.Tensor, ...]) -> None:
    network = CountingNetwork()
    result = guided_prediction(network, *inputs, null_label=NULL, guidance_scale=1.0)
    assert network.rows == [3] and network.labels == [[0, 1, 0]]
    assert torch.equal(result, CountingNetwork()(*inputs))


@pytest.mark.parametrize("scale", [0.0, 0.5, 2.0, 7.5])
def test_another_scale_is_one_call_of_twice_the_rows(inputs: tuple[torch.Tensor, ...], scale: float) -> None:
    network = CountingNetwork()
    result = guided_prediction(network, *inputs, null_label=NULL, guidance_scale=scale)
    assert network.rows == [6] and network.labels == [[0, 1, 0, NULL, NULL, NULL]]
    x, timesteps, labels = inputs
    conditional = CountingNetwork()(x, timesteps, labels)
    unconditional = CountingNetwork()(x, timesteps, torch.full_like(labels, NULL))
    torch.testing.assert_close(result, unconditional + scale * (conditional - unconditional), rtol=0, atol=0)
    if scale == 0:
        assert torch.equal(result, unconditional)


def test_guidance_acts_inside_its_interval_only() -> None:
    def scale(timestep: int, interval: tuple[float, float]) -> float:
        return scale_at(timestep, num_timesteps=1001, guidance_scale=3.0, interval=interval)

    assert [scale(t, (0.0, 1.0)) for t in (0, 500, 1000)] == [3.0, 3.0, 3.0]
    assert [scale(t, (0.2, 0.7)) for t in (0, 199, 200, 700, 701, 1000)] == [1.0, 1.0, 3.0, 3.0, 1.0, 1.0]


def test_labels_are_dropped_exactly_where_the_draw_lies_below_the_probability() -> None:
    labels = torch.tensor([0, 1, 0, 1])
    uniforms = torch.tensor([0.0, 0.19, 0.2, 0.99])
    dropped = drop_labels(labels, uniforms, probability=0.2, null_label=NULL)
    assert dropped.tolist() == [NULL, NULL, 0, 1] and dropped.dtype == torch.int64
    assert labels.tolist() == [0, 1, 0, 1]
    assert torch.equal(drop_labels(labels, uniforms, probability=0.0, null_label=NULL), labels)


def test_guidance_sets_every_condition_to_what_stands_for_it_in_the_unconditional_half() -> None:
    seen: list[list[list[int]]] = []

    def network(
        x: torch.Tensor, _: torch.Tensor, labels: torch.Tensor, conditions: torch.Tensor
    ) -> torch.Tensor:
        seen.append(torch.cat([labels[:, None], conditions], dim=1).tolist())
        return x * (1 + labels + 10 * conditions.sum(dim=1))[:, None, None, None]

    x, timesteps, labels = torch.ones(2, 1, 2, 2), torch.tensor([3, 3]), torch.tensor([0, 1])
    conditions, nulls = torch.tensor([[0, 1], [2, 1]]), torch.tensor([[3, 0], [3, 0]])
    settings = {"null_label": NULL, "conditions": conditions, "null_conditions": nulls}
    result = guided_prediction(network, x, timesteps, labels, guidance_scale=2.0, **settings)
    assert seen == [[[0, 0, 1], [1, 2, 1], [NULL, 3, 0], [NULL, 3, 0]]]
    assert result[:, 0, 0, 0].tolist() == [33 + 2 * (11 - 33), 33 + 2 * (32 - 33)]
    plain = guided_prediction(network, x, timesteps, labels, guidance_scale=1.0, **settings)
    assert seen[1] == [[0, 0, 1], [1, 2, 1]] and plain[:, 0, 0, 0].tolist() == [11, 32]


def test_conditions_are_dropped_with_the_label_or_alone_and_those_without_a_null_never() -> None:
    conditions = torch.tensor([[0, 1, 5], [2, 0, 6], [1, 1, 7], [0, 0, 8]])
    uniforms = torch.tensor([0.1, 0.9, 0.9, 0.2])
    own = torch.tensor([[0.9, 0.9], [0.1, 0.9], [0.9, 0.1], [0.9, 0.9]])
    dropped = drop_conditions(conditions, uniforms, own, probability=0.2, null_levels=(3, 2))
    assert dropped.tolist() == [[3, 2, 5], [3, 0, 6], [1, 2, 7], [0, 0, 8]] and dropped.dtype == torch.int64
    assert torch.equal(drop_conditions(conditions, uniforms, own, probability=0.0, null_levels=(3, 2)), conditions)
    views = torch.tensor([[0], [1], [2], [0]])
    assert torch.equal(drop_conditions(views, uniforms, own[:, :0], probability=0.5, null_levels=()), views)


def test_all_nulls_come_together_as_often_as_the_null_label_and_each_alone_too() -> None:
    rng = torch.Generator().manual_seed(2)
    count, p = 40_000, 0.2
    uniforms, own = torch.rand(count, generator=rng), torch.rand(count, 2, generator=rng)
    labels = drop_labels(torch.zeros(count, dtype=torch.int64), uniforms, probability=p, null_label=NULL)
    dropped = drop_conditions(torch.zeros(count, 2, dtype=torch.int64), uniforms, own, probability=p, null_levels=(3, 3))
    without, first, second = labels == NULL, dropped[:, 0] == 3, dropped[:, 1] == 3
    assert (first & second)[without].all()  # never a condition beside the null label: that is the unconditional half
    tolerance = 4 * (0.25 / count) ** 0.5
    for share, expected in ((without, p), (first, p + (1 - p) * p), (first & ~second & ~without, (1 - p) * p * (1 - p)),
                            (first & second & ~without, (1 - p) * p * p)):
        assert share.float().mean().item() == pytest.approx(expected, abs=tolerance)


def test_labels_are_dropped_at_the_probability_in_every_class() -> None:
    rng = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 2, (40_000,), generator=rng)
    dropped = drop_labels(labels, torch.rand(40_000, generator=rng), probability=0.2, null_label=NULL)
    for label in (0, 1):
        share = (dropped[labels == label] == NULL).float().mean().item()
        assert share == pytest.approx(0.2, abs=4 * (0.2 * 0.8 / 20_000) ** 0.5)
    kept = dropped != NULL
    assert torch.equal(dropped[kept], labels[kept])


def test_autoguidance_extrapolates_from_the_guide_and_a_scale_of_one_does_not_ask_it(
    inputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
) -> None:
    network, guide = CountingNetwork(), CountingNetwork()

    def weaker(x: torch.Tensor, timesteps: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return 0.5 * guide(x, timesteps, labels)

    strong = network(*inputs)
    for scale, factor in ((0.0, 0.5), (0.5, 0.75), (3.0, 2.0)):  # half + w (whole - half)
        found = autoguided_prediction(network, weaker, *inputs, guidance_scale=scale)
        torch.testing.assert_close(found, factor * strong)
    assert guide.labels == [inputs[2].tolist()] * 3  # the guide is told the class, not the null
    assert torch.equal(autoguided_prediction(network, weaker, *inputs, guidance_scale=1.0), strong) and len(guide.rows) == 3
