"""What a walk remembers of a graph: the same structure has the same bits, and nothing else shares them."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from headwise.attribution.tracing.trace import _rows, trace
from headwise.graph import children, gradient_edge, routes_of
from headwise.reach import carry, read, walk, zero_factor_edges


class Pair(torch.autograd.Function):
    """Two outputs, each from one input, as its node tells."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, crossed: bool) -> tuple[Tensor, Tensor]:
        ctx.headwise_routes = ((0, int(crossed), None, None, None), (1, int(not crossed), None, None, None))
        return (b * 1, a * 1) if crossed else (a * 1, b * 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        first, second = (grads[route[0]] for route in sorted(ctx.headwise_routes, key=lambda route: route[1]))
        return first, second, None


class Silent(torch.autograd.Function):
    """Tells that it passes nothing on, or tells nothing."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, tells: bool) -> Tensor:
        if tells:
            ctx.headwise_routes = ()
        return a * 1

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0], None


def combined(draw: random.Random, details: random.Random, a: Tensor, b: Tensor) -> list[Tensor]:
    """What one random operation makes of two tensors of shape (4, 4)."""
    first, second = details.choice([0, 1]), details.choice([0, 1])
    match draw.randrange(7):
        case 0:
            return [a + b]
        case 1:
            return [a * torch.tensor(2.0 * first)]
        case 2:
            return [a.T @ b]
        case 3:
            return [torch.cat(a.split(2, first), second).reshape(4, 4)]
        case 4:
            return [a.unbind(0)[3 * first].expand(4, 4)]
        case 5:
            return [a.sum(first, keepdim=True).expand(4, 4)]
    return list(Pair.apply(a, b, bool(first)))


def drawn(seed: int, leaves: list[nn.Parameter]) -> dict[str, Tensor]:
    """A few losses on a random graph over some leaves; the same for the same seed, in twos alike but for details."""
    draw, details = random.Random(seed // 2), random.Random(seed)
    pool: list[Tensor] = [*leaves]
    for _ in range(draw.randint(1, 5)):
        pool += combined(draw, details, draw.choice(pool), draw.choice(pool))
    return {str(k): draw.choice(pool).sum() for k in range(draw.choice([1, 1, 2, 3]))}


def slowly(loss: Tensor, alive: bool) -> set[int]:
    """The leaves that a loss reaches: every path is followed by itself, one edge after another."""
    found: set[int] = set()
    waiting: list[tuple[Any, int] | None] = [gradient_edge(loss)]
    seen: set[tuple[Any, int]] = set()
    while waiting:
        edge = waiting.pop()
        if edge is None or edge[0] is None or edge in seen:
            continue
        node, port = edge
        seen.add((node, port))
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        routes = routes_of(node)
        through = (
            range(len(node.next_functions)) if routes is None else [nr for output, nr, *_ in routes if output == port]
        )
        dead = zero_factor_edges(node) if alive and node.name() == "MulBackward0" else ()
        waiting += [node.next_functions[nr] for nr in through if nr not in dead]
    return found


class Leaves(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.held = nn.ParameterList([nn.Parameter(torch.full((4, 4), 1.0 + k)) for k in range(4)])


def test_random_graphs_remembered_and_not() -> None:
    model = Leaves()
    leaves = list(model.held)
    tables = {}
    for seed in range(600):
        losses = drawn(seed, leaves)
        table = tables[seed] = trace(losses, model)
        for name in (row.name for row in table.losses):  # what is the total of others is none of them
            reached, live = slowly(losses[name], alive=False), slowly(losses[name], alive=True)
            for row, leaf in zip(table.parameters, leaves, strict=True):
                assert (name in row.losses) == (id(leaf) in reached), (seed, name, row)
                assert (name in row.zero_weight) == (id(leaf) in reached - live), (seed, name, row)
    assert carry.cache_info().hits > 20
    for seed, table in tables.items():
        carry.cache_clear()
        _rows.cache_clear()
        assert trace(drawn(seed, leaves), model) == table


def test_graphs_that_come_again_are_not_walked_again() -> None:
    model = Leaves()
    carry.cache_clear()
    tables = [trace(drawn(7, list(model.held)), model) for _ in range(5)]
    assert carry.cache_info()[:2] == (4, 1)
    assert all(table == tables[0] for table in tables)


def _structure(make: Callable[[Tensor], Tensor]) -> Any:
    edge = gradient_edge(make(torch.ones(4, 4, requires_grad=True)))
    assert edge is not None
    return read([edge[0]])[1]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda x: x.sin().sum(), lambda x: x.cos().sum()),
        (lambda x: (x * torch.tensor(0.0)).sum(), lambda x: (x * torch.tensor(1.0)).sum()),
        (lambda x: (torch.tensor(0.0) * x).sum(), lambda x: (x * torch.tensor(0.0)).sum() * 1),
        (lambda x: x.unbind(0)[0].sum(), lambda x: x.unbind(0)[1].sum()),
        (lambda x: x + x.sin(), lambda x: x.sin() + x.sin()),
        (lambda x: x + 1, lambda x: x + x),
        (lambda x: Pair.apply(x, x.sin(), True)[0], lambda x: Pair.apply(x, x.sin(), False)[0]),
        (lambda x: Silent.apply(x, True), lambda x: Silent.apply(x, False)),
        (lambda x: torch.where(x > 0, x, 1.0), lambda x: torch.where(x > 0, 1.0, x)),
    ],
)
def test_what_bits_depend_on_tells_structures_apart(one: Any, other: Any) -> None:
    assert _structure(one) == _structure(one)
    assert _structure(one) != _structure(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda x: x[:, 0:2], lambda x: x[:, 1:3]),
        (lambda x: x.select(1, 0), lambda x: x.select(1, 2)),
        (lambda x: x.split(2, 1)[0], lambda x: x.split(2, 1)[1]),
        (lambda x: x.split([1, 3], 1)[1], lambda x: x.split([2, 2], 1)[1]),
        (lambda x: x.transpose(0, 1)[:, :2], lambda x: x.transpose(0, 0)[:, :2]),
        (lambda x: x.permute(1, 0)[0:1], lambda x: x.permute(0, 1)[0:1]),
        (lambda x: x.sum(0)[:1], lambda x: x.sum(1)[:1]),
        (lambda x: x.sum(0, keepdim=True)[:, :1], lambda x: x.sum(1, keepdim=True)[:, :1]),
        (lambda x: x[:, [0, 2]], lambda x: x[:, [1, 2]]),
        (lambda x: x.index_select(1, torch.tensor([0])), lambda x: x.index_select(1, torch.tensor([3]))),
        (lambda x: x.flip(0)[:, :1], lambda x: x.flip(1)[:, :1]),
        (lambda x: x.reshape(2, 8)[:, :2], lambda x: x.reshape(8, 2)[:, :1]),
    ],
)
def test_channels_of_one_structure_are_told_anew(one: Any, other: Any) -> None:
    """Saved attributes are no part of a structure: what depends on them is never remembered."""

    def channels(make: Callable[[Tensor], Tensor]) -> tuple[int, ...]:
        model = nn.Linear(4, 4)
        output = model(torch.ones(4, 4))
        return trace({"a": make(output).square().sum()}, model, output).channels("a", "output").indices

    first, second = channels(one), channels(other)
    assert first != second
    assert (channels(one), channels(other), channels(one)) == (first, second, first)


def test_what_changes_in_the_model_is_seen() -> None:
    """The graph is the same, and the table is not."""
    model = Leaves()
    leaves = list(model.held)
    first = trace({"a": leaves[0].sum() + leaves[1].sum()}, model)
    assert trace({"b": leaves[0].sum() + leaves[1].sum()}, model).losses[0].name == "b"
    swapped = trace({"a": leaves[1].sum() + leaves[2].sum()}, model)
    assert [row.name for row in swapped.parameters if row.losses] == ["held.1", "held.2"]
    model.extra = nn.Linear(1, 1)
    grown = trace({"a": leaves[0].sum() + leaves[1].sum()}, model)
    assert grown.parameters[:4] == first.parameters
    assert grown.unreached_parameters == ("held.2", "held.3", "extra.weight", "extra.bias")
    model.extra = nn.Conv1d(1, 1, 1)
    assert trace({"a": leaves[0].sum() + leaves[1].sum()}, model).modules[-1].kind == "Conv1d"
    leaves[3].requires_grad_(False)
    assert "held.3" not in trace({"a": leaves[0].sum() + leaves[1].sum()}, model).unreached_parameters
    model.held[2] = nn.Parameter(torch.ones(7))
    assert trace({"a": leaves[0].sum() + leaves[1].sum()}, model).parameters[2].shape == (7,)


class Renamed(Leaves):
    def named_parameters(self, *args: Any, **options: Any) -> Any:
        return ((f"mine.{name}", each) for name, each in super().named_parameters(*args, **options))


def test_names_are_those_that_a_model_gives() -> None:
    model, tied = Renamed(), nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    assert trace({"a": model.held[0].sum()}, model).parameters[0].name == "mine.held.0"
    tied[1].weight = tied[0].weight
    table = trace({"a": tied(torch.ones(1, 2)).sum()}, tied)
    assert [row.name for row in table.parameters] == [name for name, _ in tied.named_parameters()]


def test_a_type_that_stands_for_many_kinds_is_asked_each_time() -> None:
    x = torch.ones(2, requires_grad=True)
    edge = gradient_edge((x.sin().cos() + x.exp()).sum())
    assert edge is not None
    numbers, structure = read([edge[0]])
    assert list(structure.kinds) == [node.name() for node in numbers]
    assert {child for node in numbers for child in children(node)} < set(numbers)
    traced = walk([(edge, 1)], 1)
    place = {node: number for number, node in enumerate(traced.nodes)}
    assert all(place[node] < place[child] for node in numbers for child in children(node))
