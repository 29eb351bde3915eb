"""Backward passes that hand over each parameter's gradient as it arrives and keep none.

`torch.autograd.grad` writes no `.grad`, runs no hook after accumulation (a reducer's, say) and visits only the nodes
between the losses and the parameters asked for. It would hold all gradients until it returns; a hook on each leaf
that hands the gradient over and leaves a zero without memory of its own in its place lets them go one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from headwise.criterion.junctions.stats import sum_dtype

Visit = Callable[[int, Tensor], None]

_PART = 1 << 17  # a dot product of so many float32 keeps six digits


def stream(losses: Sequence[Tensor], parameters: Sequence[Tensor], visit: Visit) -> None:
    """Visit the gradient of the sum of some losses, parameter by parameter; the graph stays usable.

    Args:
        losses: Scalars with a graph; their gradients add.
        parameters: Leaves.
        visit: Called with the position of a parameter and its gradient, during the backward pass. It may keep the
            gradient, and must not write to it.
    """
    if not parameters:
        return
    zeros: dict[tuple[type, torch.device, torch.dtype], Tensor] = {}  # one for all: on a GPU each is a launch
    handles = [on_gradient(leaf, partial(_hand_over, visit, index, zeros)) for index, leaf in enumerate(parameters)]
    try:
        torch.autograd.grad(losses, parameters, retain_graph=True, allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()


def on_gradient(leaf: Tensor, hook: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
    """Run a hook on a leaf's gradient in every backward pass that asks for it.

    Args:
        leaf: The leaf.
        hook: Gets the gradient; what it returns takes its place, unless None.

    Returns:
        The handle that removes the hook.
    """
    # torch leaves register_hook without types.
    handle: RemovableHandle = leaf.register_hook(partial(_unless_none, hook))  # type: ignore[no-untyped-call]
    return handle


def _unless_none(hook: Callable[[Tensor], Tensor | None], gradient: Tensor | None) -> Tensor | None:
    # A node that does not turn missing gradients into zeros (the sink of DistributedDataParallel) hands on None.
    return None if gradient is None else hook(gradient)


def _hand_over(
    visit: Visit, index: int, zeros: dict[tuple[type, torch.device, torch.dtype], Tensor], gradient: Tensor
) -> Tensor:
    visit(index, gradient.detach())
    key = type(gradient), gradient.device, gradient.dtype
    if key not in zeros:
        zeros[key] = gradient.new_zeros(())
    return zeros[key].expand_as(gradient)


def square_norm(gradient: Tensor) -> Tensor:
    """The sum of squares, 0-d, float64 where that costs no launch."""
    if gradient.device.type == "cpu":
        return _by_parts(gradient, gradient)
    if gradient.dtype == sum_dtype(gradient.dtype) and gradient.is_contiguous():
        flat = gradient.view(-1)
        found: Tensor = torch.dot(flat, flat)
        return found
    norm: Tensor = torch.linalg.vector_norm(gradient, dtype=sum_dtype(gradient.dtype))
    return norm.square()


def inner_product(first: Tensor, second: Tensor) -> Tensor:
    """The sum of products, 0-d, float64 where that costs no launch."""
    if first.device.type == "cpu":
        return _by_parts(first, second)
    dtype = sum_dtype(first.dtype)
    first, second = first.to(dtype), second.to(dtype)
    if first.is_contiguous() and second.is_contiguous():
        found: Tensor = torch.dot(first.view(-1), second.view(-1))
        return found
    return (first * second).sum()


def _by_parts(first: Tensor, second: Tensor) -> Tensor:
    """The sum of products on a CPU, which adds in one chain: over millions of float32 it would lose four digits."""
    dtype = sum_dtype(first.dtype)
    parts = zip(torch.split(first.reshape(-1), _PART), torch.split(second.reshape(-1), _PART), strict=True)
    products = [torch.dot(a.to(dtype), b.to(dtype)).double() for a, b in parts]
    return products[0] if len(products) == 1 else torch.stack(products).sum()


def on_cpu(numbers: Sequence[Tensor]) -> Tensor:
    """Numbers of any devices as one vector on the CPU, waiting once for each device.

    Args:
        numbers: 0-d.

    Returns:
        (N,), float64.
    """
    found = torch.zeros(len(numbers), dtype=torch.float64)
    for device in {each.device for each in numbers}:
        here = [i for i, each in enumerate(numbers) if each.device == device]
        found[here] = torch.stack([numbers[i].detach() for i in here]).cpu().double()
    return found
