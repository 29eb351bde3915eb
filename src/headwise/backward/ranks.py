"""Gradients of all ranks, for backward passes that go past the hooks of DDP."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from headwise.criterion.pooling import is_distributed


def any_over_ranks(mask: Tensor, group: Any) -> Tensor:
    """True where it is True on any rank.

    Args:
        mask: Bool, of one shape on all ranks.
        group: The process group; None means the default one.

    Returns:
        The mask of all ranks.
    """
    if not is_distributed():
        return mask
    found = mask.to(torch.int32)
    dist.all_reduce(found, op=dist.ReduceOp.MAX, group=group)
    return found > 0


def sum_over_ranks(packed: Tensor, group: Any) -> Tensor:
    """Adds a tensor up over the ranks, in place; the same on all of them to the bit.

    Args:
        packed: Any shape, the same on all ranks.
        group: The process group; None means the default one.

    Returns:
        The tensor.
    """
    if is_distributed():
        dist.all_reduce(packed, group=group)
    return packed


@torch.no_grad()
def sum_gradients(parameters: nn.Module | Iterable[Tensor], group: Any = None) -> None:
    """Adds the parameters' gradients up over the ranks, in one all-reduce: what DDP does, for passes that go past it.

    Sums, as totaled denominators want it; DDP would average. A parameter that has a gradient on some rank has one on
    all of them afterwards. Without `torch.distributed` nothing happens.

    Args:
        parameters: The network, or its parameters, alike on all ranks.
        group: The process group; None means the default one.
    """
    listed = list(parameters.parameters()) if isinstance(parameters, nn.Module) else list(parameters)
    if not listed or not is_distributed():
        return
    mask = torch.tensor([each.grad is not None for each in listed], device=listed[0].device)
    chosen = [each for each, reached in zip(listed, any_over_ranks(mask, group).tolist(), strict=True) if reached]
    for dtype in sorted({each.dtype for each in chosen}, key=str):
        same = [each for each in chosen if each.dtype == dtype]
        grads = [torch.zeros_like(each) if each.grad is None else each.grad for each in same]
        summed = sum_over_ranks(torch.cat([grad.reshape(-1) for grad in grads]), group)
        parts = torch.split(summed, [grad.numel() for grad in grads])
        for each, grad, part in zip(same, grads, parts, strict=True):
            grad.copy_(part.view_as(grad))
            each.grad = grad
