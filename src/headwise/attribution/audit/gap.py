"""How far the gradient of the sum of the losses is from the sum of their gradients, in one graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import Node

from headwise.attribution.sums.sum_causes import suspects_of
from headwise.attribution.sums.sum_measure import LIMITS, Gradients, statistics
from headwise.graph import output_dtypes


@dataclass(frozen=True)
class SumGap:
    """The comparison of `check_sum`, at the parameter where it is worst.

    Attributes:
        statistic: |sum_k g_k - g| / sum_k |g_k|, with the floor described there.
        limit: What it may reach.
        parameter: Where.
        repeated: The same of two passes of the sum: 0 but for a backward pass that draws. Not taken within the limit.
        suspects: What may make the pass not linear.
    """

    statistic: float
    limit: float
    parameter: str
    repeated: float = 0.0
    suspects: str = ""


def gap_of(
    losses: Sequence[Tensor],
    rows: Sequence[Mapping[str, Tensor | None]],
    parameters: Mapping[str, Tensor],
    nodes: Sequence[Node],
) -> SumGap | None:
    """Compares, by one backward pass more.

    Args:
        losses: The losses, in one graph.
        rows: Their gradients by parameter.
        parameters: The parameters.
        nodes: The graph.

    Returns:
        The comparison; None where there is nothing to compare.
    """
    known: list[Gradients] = [{name: each for name, each in row.items() if each is not None} for row in rows]
    if len(losses) < 2 or not any(known):
        return None
    total = _of_sum(losses, parameters)
    found = statistics(total, known)
    worst = max(found, key=lambda name: found[name])
    narrow = any(dtype in (torch.float16, torch.bfloat16) for node in nodes for dtype in output_dtypes(node))
    limit = LIMITS["narrow" if narrow else "float32"]
    if found[worst] <= limit:
        return SumGap(found[worst], limit, worst)
    # What a function injects into every pass is no gradient of the losses, and is in each row.
    silent = [0.0 * each for each in losses]
    known = [_less(row, _of_sum([each], parameters)) for row, each in zip(known, silent, strict=True)]
    found = statistics(_less(total, _of_sum(silent, parameters)), known)
    worst = max(found, key=lambda name: found[name])
    if found[worst] <= limit:
        return SumGap(found[worst], limit, worst)
    repeated = max(statistics(total, [_of_sum(losses, parameters)]).values(), default=0.0)
    return SumGap(found[worst], limit, worst, repeated, suspects_of(nodes, parameters))


def _less(row: Gradients, always: Gradients) -> Gradients:
    return {name: each - always[name] if name in always else each for name, each in row.items()}


def _of_sum(losses: Sequence[Tensor], parameters: Mapping[str, Tensor]) -> Gradients:
    found = torch.autograd.grad(list(losses), list(parameters.values()), retain_graph=True, allow_unused=True)
    named = zip(parameters, found, strict=True)
    return {name: grad.to_dense() if grad.layout != torch.strided else grad for name, grad in named if grad is not None}
