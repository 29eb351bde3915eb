from itertools import product

import numpy as np
import pytest
import torch

from headwise.networks.corners import (
    pool_bottom,
    pool_column,
    pool_left,
    pool_right,
    pool_row,
    pool_top,
    pooling,
)

POOLS = {"top": (pool_top, 2, True), "left": (pool_left, 3, True), "bottom": (pool_bottom, 2, False)}
POOLS["right"] = (pool_right, 3, False)
LAYOUTS = (torch.contiguous_format, torch.channels_last)
CASES = list(product(POOLS, LAYOUTS))  # by rows, contiguous features take cummax; all others go line by line


def by_hand(x, dim, backwards, gradient):
    """Search each position's maximum, nearest first; its gradient goes where it was found."""
    values, sums = np.empty_like(x), np.zeros_like(gradient)
    length = x.shape[dim]
    for place in np.ndindex(*x.shape):
        seen = range(place[dim], length) if backwards else range(place[dim], -1, -1)
        line = [(*place[:dim], i, *place[dim + 1 :]) for i in seen]
        best = line[int(np.argmax([x[at] for at in line]))]
        values[place] = x[best]
        sums[best] += gradient[place]
    return values, sums


def laid_out(values, layout, dtype=torch.float64):
    return torch.as_tensor(values, dtype=dtype).contiguous(memory_format=layout).requires_grad_()


@pytest.mark.parametrize(
    ("name", "expected"),
    {
        "top": [[3, 5, 4], [3, 1, 4], [0, 1, 2]],
        "bottom": [[1, 5, 0], [3, 5, 4], [3, 5, 4]],
        "left": [[5, 5, 0], [4, 4, 4], [2, 2, 2]],
        "right": [[1, 5, 5], [3, 3, 4], [0, 1, 2]],
    }.items(),
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_square_of_nine(name, expected, layout):
    square = laid_out([[[[1, 5, 0], [3, 1, 4], [0, 1, 2]]] * 2], layout)
    assert POOLS[name][0](square)[0].tolist() == [expected] * 2


@pytest.mark.parametrize(("name", "layout"), CASES)
@pytest.mark.parametrize("ties", [False, True])
def test_values_and_gradients_by_hand(name, layout, ties):
    pool, dim, backwards = POOLS[name]
    generator = np.random.default_rng(3)
    drawn = generator.normal(size=(2, 3, 5, 7))
    drawn = np.round(drawn) if ties else drawn
    gradient = generator.normal(size=drawn.shape)
    x = laid_out(drawn, layout)
    pooled = pool(x)
    pooled.backward(laid_out(gradient, layout).detach())
    values, sums = by_hand(drawn, dim, backwards, gradient)
    np.testing.assert_array_equal(pooled.detach().numpy(), values)
    np.testing.assert_allclose(x.grad.numpy(), sums, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("name", "layout"), CASES)
def test_gradcheck_once_twice_and_batched(name, layout):
    x = laid_out(torch.randn(1, 2, 4, 3, dtype=torch.float64), layout)
    pool = POOLS[name][0]
    assert torch.autograd.gradcheck(pool, x, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: pool(x).pow(2), x)


@pytest.mark.parametrize(("name", "layout"), CASES)
def test_functional_transforms(name, layout):
    pool = POOLS[name][0]
    x = laid_out(torch.randn(3, 2, 4, 5), layout).detach()
    weights = torch.randn_like(x)
    alone = torch.func.vmap(torch.func.grad(lambda x, w: (pool(x[None])[0] * w).sum()))(x, weights)
    together = x.clone().requires_grad_()
    (pool(together) * weights).sum().backward()
    torch.testing.assert_close(alone, together.grad)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("name", "layout"), CASES)
def test_half_precision_sums_gradients_in_single(name, layout, dtype):
    pool, dim, backwards = POOLS[name]
    x = torch.zeros(1, 2, 300, 300, dtype=dtype).contiguous(memory_format=layout)
    x.select(dim, -1 if backwards else 0).fill_(1)  # the whole line is its first maximum: 300 gradients of 1
    x.requires_grad_()
    pooled = pool(x)
    pooled.backward(torch.ones_like(pooled))
    assert x.grad is not None
    assert pooled.dtype == x.grad.dtype == dtype
    assert torch.equal(x.grad, torch.where(x > 0, 300, 0).to(dtype))


@pytest.mark.parametrize("name", POOLS)
def test_channels_last_stays_and_a_byte_per_element_is_kept(name):
    x = laid_out(torch.randn(2, 3, 8, 8), torch.channels_last, torch.float32)
    kept = []

    def keep(tensor):
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        pooled = POOLS[name][0](x)
    assert pooled.is_contiguous(memory_format=torch.channels_last)
    assert [t.dtype for t in kept] == [torch.bool]


@pytest.mark.parametrize(("name", "layout"), CASES)
def test_the_input_is_left_alone_and_a_nan_spreads(name, layout):
    x = laid_out([[[[1.0, 2.0, 0.0]] * 3] * 2], layout).detach()
    x[0, 0, 1, 1] = torch.nan
    before = x.clone()
    pooled = POOLS[name][0](x)
    assert torch.equal(x.nan_to_num(9), before.nan_to_num(9))
    assert pooled[0, 0, 1, 1].isnan()
    assert pooled.isnan().sum() == 2
    assert not pooled[0, 1].isnan().any()


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (0, 2, 3, 3), (1, 2, 1, 5), (1, 2, 5, 1)])
@pytest.mark.parametrize("name", POOLS)
def test_single_lines_and_empty_batches(name, shape):
    x = torch.randn(shape, requires_grad=True)
    pooled = POOLS[name][0](x)
    pooled.sum().backward()
    assert x.grad is not None
    assert pooled.shape == x.grad.shape == shape


@pytest.mark.parametrize(("name", "layout"), CASES)
def test_a_compiled_graph_is_whole_and_equal(name, layout):
    pool = POOLS[name][0]
    compiled = torch.compile(pool, fullgraph=True, backend="aot_eager")
    x = laid_out(torch.randn(2, 3, 4, 5).round(), layout, torch.float32)
    expected, found = x.detach().clone().requires_grad_(), x.detach().clone().requires_grad_()
    weights = torch.randn(x.shape)
    for run, leaf in ((pool, expected), (compiled, found)):
        (run(leaf) * weights).sum().backward()
    assert torch.equal(compiled(x), pool(x))
    torch.testing.assert_close(found.grad, expected.grad)


def test_whole_lines_are_two_corner_poolings():
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    weights = torch.randn_like(x)
    for line, pools in ((pool_column, (pool_top, pool_bottom)), (pool_row, (pool_left, pool_right))):
        once, twice = line(x).expand_as(x), pools[1](pools[0](x))
        assert torch.equal(once, twice)
        (of_once,) = torch.autograd.grad((once * weights).sum(), x)
        (of_twice,) = torch.autograd.grad((twice * weights).sum(), x)
        torch.testing.assert_close(of_once, of_twice)
    assert pool_column(x).shape == (2, 3, 1, 5)
    assert pool_row(x).shape == (2, 3, 4, 1)


def test_the_cases_take_both_ways(monkeypatch):
    taken = []

    def take(x, *_):
        taken.append(x.stride())
        return x

    monkeypatch.setattr(pooling._LineByLine, "apply", take)
    for name, layout in CASES:
        POOLS[name][0](torch.zeros(1, 2, 3, 3).contiguous(memory_format=layout))
    assert len(taken) == 6
