"""Norms and inner products of gradients, on the device, without a synchronization."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from headwise.criterion.binding.layout import Edge, Site

SMALL = 1 << 16
"""Up to so many elements float64 costs nothing; above, a norm in it takes many times as long as one in float32."""


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which sums over elements of `dtype` are kept: float64 stays, all else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def book_dtype(device: torch.device) -> torch.dtype:
    """The books are kept in float64 where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def probe(grad: Tensor) -> tuple[Tensor, Tensor]:
    """Norm and sum of a gradient, 0-d: what `squares` makes its numbers of, once its memory is free."""
    dtype = sum_dtype(grad.dtype)
    return torch.linalg.vector_norm(grad, dtype=dtype), grad.sum(dtype=dtype)


def wait(grad: Tensor) -> bool:
    """Whether to take the norm of a large gradient with those of others: on a GPU, where launches cost more than time.

    Args:
        grad: The gradient.

    Returns:
        Whether to.
    """
    return grad.is_cuda and grad.numel() > 0


def probes(grads: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """What `probe` tells of some gradients on a GPU, by one launch for those of one dtype.

    Accumulated in float64, so that a norm is finite where its gradient is.

    Args:
        grads: Each with an element at least.

    Returns:
        In their order.
    """
    found: list[Tensor] = [*grads]
    for same in alike([grad.dtype for grad in grads]):
        norms = torch._foreach_norm([grads[number].detach() for number in same], 2, dtype=book_dtype(grads[0].device))
        for number, norm in zip(same, norms, strict=True):
            found[number] = norm
    return [(norm, norm) for norm in found]


def squares(small: Sequence[Tensor], probes: Sequence[tuple[Tensor, Tensor]] = ()) -> tuple[Tensor, Tensor | None]:
    """Squared norms: finite where the gradient is, up to float64's range for small tensors.

    A larger one may have been accumulated in float32, and over 1.8e19 its norm is infinite although the gradient may be
    finite; whether it is, its sum tells.

    Args:
        small: Gradients, without a graph, of up to `SMALL` elements.
        probes: What `probe` found of larger ones.

    Returns:
        The squares, of the small ones first; and where there are larger ones, 1 for each that is finite although its
        square is not.
    """
    device = small[0].device if small else probes[0][0].device
    wide = book_dtype(device)
    known = _norms(small, wide).square() if small else None
    if known is not None and not probes:
        return known, None
    large = torch.stack([norm for norm, _ in probes]).to(wide).square()
    finite = (torch.isinf(large) & torch.isfinite(torch.stack([total for _, total in probes]))).to(wide)
    if known is None:
        return large, finite
    return torch.cat([known, large]), torch.cat([torch.zeros_like(known), finite])


def _norms(grads: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """The norms of some tensors: by one operation on a GPU, by one for each shape on the CPU, which takes as long."""
    groups = alike([(grad.shape, grad.dtype) for grad in grads]) if grads[0].is_cpu else []
    if not groups or len(groups) > len(grads) // 2:
        return torch.stack(torch._foreach_norm(list(grads), 2, dtype=dtype))
    found = []
    for same in groups:
        norms: Tensor = torch.linalg.vector_norm(_rows([grads[number] for number in same]), dim=1, dtype=dtype)
        found.append(norms)
    return _in_order(groups, found)


def alike(keys: Sequence[Hashable]) -> list[list[int]]:
    """The places of equal keys, in the order of their first.

    Args:
        keys: One a place.

    Returns:
        The places, a list for each key.
    """
    places: dict[Hashable, list[int]] = {}
    for number, key in enumerate(keys):
        places.setdefault(key, []).append(number)
    return list(places.values())


def _rows(same: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(same)).unsqueeze(-1).flatten(1)  # of one number, too


def _in_order(places: Sequence[Sequence[int]], found: Sequence[Tensor]) -> Tensor:
    """What was computed for some places together, one after another again."""
    if len(found) == 1:
        return found[0]
    order = {number: at for at, number in enumerate(number for same in places for number in same)}
    each = torch.cat(list(found)).unbind()
    return torch.stack([each[order[number]] for number in range(len(each))])


def square(grad: Tensor) -> Tensor:
    """Squared norm of one gradient, 0-d."""
    found, _ = squares([grad]) if 0 < grad.numel() <= SMALL else squares([], [probe(grad)])
    return found.squeeze(0)


def inner(left: Tensor, right: Tensor) -> Tensor:
    """Inner product of two tensors of one shape, without a temporary where both are large and contiguous."""
    dtype = book_dtype(left.device) if left.numel() <= SMALL else sum_dtype(left.dtype)
    if left.dtype == dtype and right.dtype == dtype and left.is_contiguous() and right.is_contiguous():
        product: Tensor = torch.dot(left.view(-1), right.view(-1))
        return product
    return (left.to(dtype) * right.to(dtype)).sum()


Product = Tensor | tuple[Tensor, Tensor]
"""An inner product, or the two small tensors that it will be of."""


def products_of(found: Sequence[Product]) -> Tensor:
    """Inner products that waited, those of one shape together.

    Args:
        found: At least one.

    Returns:
        (N,), of the books' dtype.
    """
    first = found[0] if isinstance(found[0], Tensor) else found[0][0]
    dtype = book_dtype(first.device)
    groups = alike(
        [None if isinstance(each, Tensor) else (each[0].shape, each[0].dtype, each[1].dtype) for each in found]
    )
    sums = []
    for same in groups:
        pairs = [each for number in same if not isinstance(each := found[number], Tensor)]
        if not pairs:
            sums.append(torch.stack([each.to(dtype) for number in same if isinstance(each := found[number], Tensor)]))
        elif len(pairs) == 1:
            sums.append(inner(*pairs[0]).to(dtype)[None])
        else:
            left, right = (_rows(side).to(dtype) for side in zip(*pairs, strict=True))
            sums.append((left * right).sum(1))
    return _in_order(groups, sums)


def with_channel(grad: Tensor, edge: Edge) -> Tensor:
    """The gradient with the sliced dimension back in place."""
    if edge.keep:
        return grad
    return grad.unsqueeze(edge.dim if edge.dim >= 0 else grad.dim() + 1 + edge.dim)


def at_site(grad: Tensor, edge: Edge, site: Site, shape: torch.Size) -> Tensor:
    """The part of a reading's gradient that lies at a site.

    Args:
        grad: The gradient, as the reading's view has it.
        edge: The reading.
        site: One of the sites that it covers.
        shape: The output's shape.

    Returns:
        A view of it; of a site that is a whole output, the gradient there, zeros where the reading does not read.
    """
    grad = with_channel(grad, edge)
    if site.dim is None:
        whole = torch.zeros(shape, dtype=grad.dtype, device=grad.device)
        whole.narrow(edge.dim, edge.start, edge.stop - edge.start).copy_(grad)
        return whole
    if (edge.start, edge.stop) == (site.start, site.stop):
        return grad
    return grad.narrow(edge.dim, site.start - edge.start, site.stop - site.start)


def channel_squares(grad: Tensor, edge: Edge) -> Tensor:
    """Squared norm of every channel of a reading's gradient."""
    grad = with_channel(grad, edge)
    num = edge.stop - edge.start
    if grad.dim() < 2:
        norm: Tensor = torch.linalg.vector_norm(grad, dtype=sum_dtype(grad.dtype))
        return norm.square().expand(num)
    dim = edge.dim % grad.dim()
    others = [d for d in range(grad.dim()) if d != dim]
    norms: Tensor = torch.linalg.vector_norm(grad, dim=others, dtype=sum_dtype(grad.dtype))
    return norms.square()
