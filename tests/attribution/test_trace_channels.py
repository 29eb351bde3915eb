"""The channel walk against the support of the gradient, on graphs that hypothesis draws."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from headwise.attribution.tracing.trace import trace

CHANNELS = 6


def _support(loss: Tensor, output: Tensor) -> tuple[int, ...]:
    grad = torch.autograd.grad(loss, output, retain_graph=True, allow_unused=True, materialize_grads=True)[0]
    rows = (grad != 0).movedim(1, 0).flatten(1).any(1)
    return tuple(rows.nonzero().flatten().tolist())


def _output() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(2, CHANNELS, 4, 3, dtype=torch.float64, requires_grad=True) * 1


def _check(loss: Tensor, output: Tensor) -> bool:
    """An exact answer is the support, an upper bound holds it; returns whether the answer was exact."""
    channels = trace(loss, nn.Identity(), {"maps": output}).channels("0", "maps")
    support = _support(loss, output)
    if channels.exact:
        assert channels.indices == support
    else:
        assert set(support) <= set(channels.indices)
    return channels.exact


CASES = {
    "slice": lambda x: x[:, 1:4],
    "strided": lambda x: x[:, ::2],
    "negative": lambda x: x[:, -2:],
    "select": lambda x: x[:, -1],
    "split": lambda x: x.split(2, 1)[1],
    "split_sizes": lambda x: x.split([1, 4, 1], 1)[1],
    "chunk": lambda x: x.chunk(4, 1)[2],
    "unbind": lambda x: x.unbind(1)[3],
    "narrow": lambda x: x.narrow(1, 2, 3),
    "index": lambda x: x[:, [0, 5]],
    "index_select": lambda x: x.index_select(1, torch.tensor([4, 1])),
    "bool_index": lambda x: x[:, torch.tensor([True, False, True, False, False, False])],
    "permute": lambda x: x.permute(0, 2, 3, 1)[..., 2:4],
    "movedim": lambda x: x.movedim(1, -1)[..., 0],
    "transpose": lambda x: x.transpose(1, -1)[..., 3],
    "view": lambda x: x.reshape(2, CHANNELS, 12)[:, 2],
    "view_groups": lambda x: x.reshape(2, 3, 2, 4, 3)[:, 1],
    "view_interleaved": lambda x: x.reshape(2, 3, 2, 4, 3)[:, :, 1],
    "flatten": lambda x: x.flatten(1)[:, 12:36],
    "mask_of_positions": lambda x: x[:, 1:3].permute(0, 2, 3, 1)[torch.ones(2, 4, 3, dtype=torch.bool)],
    "cat": lambda x: torch.cat([x[:, 4:5], x[:, 0:2]], 1)[:, 1:],
    "cat_with_constant": lambda x: torch.cat([torch.ones(2, 2, 4, 3), x[:, 3:5]], 1)[:, 2:3],
    "stack": lambda x: torch.stack([x[:, 0], x[:, 1], x[:, 2]], 1)[:, 1],
    "sum_over_space": lambda x: x.sum((2, 3))[:, 2],
    "mean_over_channels": lambda x: x[:, 1:5].mean(1),
    "pointwise": lambda x: (x.sigmoid() * 2 + 1).clamp(-5, 5)[:, 2:3],
    "broadcast": lambda x: (x[:, 0:1] * x)[:, 3],
    "softmax": lambda x: x[:, 0:3].log_softmax(1)[:, 1],
    "expand": lambda x: x[:, 2:3].expand(-1, 4, -1, -1)[:, 1],
    "flip": lambda x: x.flip(1)[:, 0:2],
    "squeeze": lambda x: x[:, 3:4].squeeze(1).unsqueeze(-1),
    "pool": lambda x: F.avg_pool2d(x, 2)[:, 1:3],
    "upsample": lambda x: F.interpolate(x, scale_factor=2.0)[:, 4],
    "nothing": lambda x: torch.cat([x[:, 0:2], torch.ones(2, 2, 4, 3)], 1)[:, 2:],
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_every_construct_is_told_exactly(name: str) -> None:
    x = _output()
    assert _check(CASES[name](x).square().sum(), x)


def test_cross_entropy_and_shared_normalizer_of_textsnake() -> None:
    x = torch.randn(2, 7, 4, 3, dtype=torch.float64, requires_grad=True) * 1
    label = torch.ones(2, 4, 3, dtype=torch.long)
    norm = (x[:, 4].square() + x[:, 5].square()).sqrt()
    losses = {
        "region": F.cross_entropy(x[:, 0:2], label),
        "line": F.cross_entropy(x[:, 2:4].permute(0, 2, 3, 1).reshape(-1, 2), label.reshape(-1)),
        "sin": F.smooth_l1_loss(x[:, 4] / norm, torch.zeros(2, 4, 3, dtype=torch.float64)),
        "radius": F.smooth_l1_loss(x[:, 6], torch.zeros(2, 4, 3, dtype=torch.float64)),
    }
    table = trace(losses, nn.Identity(), x)
    found = {name: table.channels(name, "output") for name in losses}
    assert {name: c.indices for name, c in found.items()} == {
        "region": (0, 1), "line": (2, 3), "sin": (4, 5), "radius": (6,),
    }  # fmt: skip
    assert all(c.exact for c in found.values())


@pytest.mark.parametrize("case", ["in_place", "custom", "as_strided", "masked_select"])
def test_what_cannot_be_told_is_not_claimed(case: str) -> None:
    x = _output()
    loss: Tensor
    if case == "in_place":
        y = x.clone()
        y[:, 0:2] = 0
        loss = y.square().sum()
    elif case == "custom":
        loss = _SecondChannel.apply(x)
    elif case == "as_strided":
        loss = x.as_strided((2, 3), (72, 12)).sum()
    else:
        loss = x.masked_select(x > 1).sum()
    assert not _check(loss, x)


class _SecondChannel(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x[:, 1].sum()

    @staticmethod
    def backward(ctx, grad):
        out = grad.new_zeros(2, CHANNELS, 4, 3)
        out[:, 1] = grad
        return out


@st.composite
def _programs(draw: st.DrawFn) -> list[tuple[str, tuple[int, ...]]]:
    kinds = [
        "slice",
        "select",
        "cat",
        "permute",
        "merge",
        "split",
        "index",
        "stack",
        "pointwise",
        "flip",
        "sum",
        "pair",
    ]
    return [
        (draw(st.sampled_from(kinds)), tuple(draw(st.integers(0, 20)) for _ in range(3)))
        for _ in range(draw(st.integers(1, 7)))
    ]


def _run(program: list[tuple[str, tuple[int, ...]]], x: Tensor) -> Tensor:
    """Every instruction turns the newest tensor into another one, whatever its shape."""
    y, older = x, x
    for kind, (a, b, c) in program:
        before = y
        y = _step(kind, a, b, c, y, older)
        older = before
    return y


def _step(kind: str, a: int, b: int, c: int, y: Tensor, older: Tensor) -> Tensor:
    if y.ndim == 0:
        return y * 2
    dim = a % y.ndim
    size = y.shape[dim]
    start = b % size
    if kind == "slice":
        return y.narrow(dim, 0, size)[(slice(None),) * dim + (slice(start, start + 1 + c, 1 + c % 2),)]
    if kind == "select":
        return y.select(dim, start)
    if kind == "cat":
        return torch.cat([y, y.narrow(dim, start, 1)], dim) if c % 2 else torch.cat([torch.zeros_like(y), y], dim)
    if kind == "permute":
        return y.transpose(dim, b % y.ndim)
    if kind == "merge":
        return y.flatten(0, min(1 + c % 2, y.ndim - 1)) if y.ndim > 1 else y.reshape(1, -1)
    if kind == "split":
        parts: tuple[Tensor, ...] = y.split(1 + c % size, dim)
        return parts[b % len(parts)]
    if kind == "index":
        return y.index_select(dim, torch.tensor([start, c % size]))
    if kind == "stack":
        return torch.stack([y, y * 2], dim)[(slice(None),) * dim + (c % 2,)] if c % 3 else torch.stack([y, y], dim)
    if kind == "flip":
        return y.flip(dim)
    if kind == "sum":
        return y.sum(dim, keepdim=bool(c % 2))
    if kind == "pair" and older.shape == y.shape:
        return y + 3 * older
    return y.exp()


@settings(max_examples=300, deadline=None, derandomize=True)
@given(_programs())
def test_random_graphs_of_views(program: list[tuple[str, tuple[int, ...]]]) -> None:
    x = _output()
    y = _run(program, x)
    weight = torch.rand(y.shape, dtype=torch.float64) + 0.5
    _check((y * weight).sum(), x)


def test_random_graphs_are_mostly_told_exactly() -> None:
    exact = []

    @settings(max_examples=150, deadline=None, derandomize=True, database=None)
    @given(_programs())
    def run(program: list[tuple[str, tuple[int, ...]]]) -> None:
        x = _output()
        exact.append(_check(_run(program, x).sum(), x))

    run()
    assert sum(exact) >= 0.9 * len(exact)


def test_channels_are_counted_from_the_end_too():
    network = nn.Linear(4, 6)
    tokens = network(torch.randn(3, 5, 4))
    losses = {"box": tokens[..., 0:2].square().mean(), "score": tokens[..., 4].mean()}
    table = trace(losses, network, tokens, channel_dim=-1)
    assert table.channels("box", "output").indices == (0, 1)
    assert table.untrained_outputs == trace(losses, network, tokens, channel_dim=2).untrained_outputs
    assert table.untrained_outputs == ("output[:, :, 2:4, 5]",)
    with pytest.raises(ValueError, match="trace: channel_dim is the number of a dimension, found 'last'"):
        trace(losses, network, tokens, channel_dim="last")  # type: ignore[arg-type]
