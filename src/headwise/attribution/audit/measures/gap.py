"""How far the gradient of the sum of the losses is from the sum of their gradients, in one graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node

from headwise.attribution.text import names
from headwise.graph import output_dtypes

LIMITS = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 3e-2, torch.bfloat16: 3e-2}
"""What the statistic may reach, by the narrowest type in a graph."""

# At the limit of 1e-5 for float32, differences below 1e-6 of the norm over all parameters count as rounding.
_FLOOR = 0.1

Gradients = Mapping[str, Tensor]


@dataclass(frozen=True)
class SumGap:
    """The comparison, by `statistics`.

    Attributes:
        of_sum: Per parameter that a loss reaches: the sum of the losses against them one by one.
        of_total: The same with the total in place of the sum, where its gradient was taken.
        limit: What it may reach.
        repeated: The most that two passes of the sum differ by: 0 but for a backward pass that draws. Not taken within
            the limit.
        suspects: What may make the pass not linear.
    """

    of_sum: Mapping[str, float]
    of_total: Mapping[str, float]
    limit: float
    repeated: float = 0.0
    suspects: str = ""

    @property
    def parameter(self) -> str:
        """Where the sum is farthest off."""
        return max(self.of_sum, key=lambda name: self.of_sum[name])

    @property
    def statistic(self) -> float:
        """How far it is off there."""
        return self.of_sum[self.parameter]

    @property
    def is_linear(self) -> bool:
        """Whether the gradient of the sum is the sum of the gradients."""
        return self.statistic <= self.limit


def gap_of(
    losses: Sequence[Tensor],
    rows: Sequence[Gradients],
    total: Gradients | None,
    parameters: Mapping[str, Tensor],
    nodes: Sequence[Node],
) -> SumGap | None:
    """Compares, by one backward pass more.

    Args:
        losses: The losses, in one graph.
        rows: Their gradients.
        total: That of the total, if it was taken.
        parameters: The parameters.
        nodes: The graph.

    Returns:
        The comparison; None where there is nothing to compare.
    """
    if not any(rows):
        return None
    kinds = {dtype for node in nodes for dtype in output_dtypes(node)}
    limit = max((LIMITS[kind] for kind in kinds & LIMITS.keys()), default=LIMITS[torch.float32])
    whole = _of_sum(losses, parameters) if len(losses) > 1 else rows[0]
    found = SumGap(statistics(whole, rows), {} if total is None else statistics(total, rows), limit)
    if found.is_linear:
        return found
    # What a function injects into every pass is no gradient of the losses, and is in each row.
    silent = [0.0 * each for each in losses]
    rows = [_less(row, _of_sum([each], parameters)) for row, each in zip(rows, silent, strict=True)]
    always = _of_sum(silent, parameters)
    of_total = {} if total is None else statistics(_less(total, always), rows)
    found = SumGap(statistics(_less(whole, always), rows), of_total, limit)
    if found.is_linear:
        return found
    repeated = max(statistics(whole, [_of_sum(losses, parameters)]).values(), default=0.0)
    return replace(found, repeated=repeated, suspects=_suspects_of(nodes, parameters))


def _of_sum(losses: Sequence[Tensor], parameters: Mapping[str, Tensor]) -> Gradients:
    found = torch.autograd.grad(list(losses), list(parameters.values()), retain_graph=True, allow_unused=True)
    named = zip(parameters, found, strict=True)
    return {name: grad.to_dense() if grad.layout != torch.strided else grad for name, grad in named if grad is not None}


def _less(row: Gradients, always: Gradients) -> Gradients:
    # A pass that divides by its own norm injects nothing, though of nothing it makes NaN.
    known = {name: each.nan_to_num(0.0, 0.0, 0.0) for name, each in always.items()}
    return {name: each - known[name] if name in known else each for name, each in row.items()}


def statistics(total: Gradients, rows: Sequence[Gradients]) -> dict[str, float]:
    """|sum_k g_k - g| / max(sum_k |g_k|, a tenth of its norm over all parameters), by parameter.

    Without the floor, a parameter whose gradient is rounding noise (a bias before BatchNorm) would always fail. The
    difference is that of tensors: inner products would tell it to half the digits only.

    Args:
        total: g.
        rows: The g_k.

    Returns:
        One number per parameter that has a gradient.
    """
    known = {name: None for gradients in (total, *rows) for name in gradients}
    scale, difference = {}, {}
    for name in known:
        parts = [row[name].double() for row in rows if name in row]
        scale[name] = sum(float(part.norm()) for part in parts)
        residual = -total[name].double() if name in total else torch.zeros_like(parts[0])
        for part in parts:
            residual = residual + part
        difference[name] = float(residual.norm())
    overall = max(sum(each**2 for each in scale.values()) ** 0.5, sum(each**2 for each in difference.values()) ** 0.5)
    least = max(_FLOOR * overall, 1e-300)
    return {name: difference[name] / max(scale[name], least) for name in known}


def _suspects_of(nodes: Sequence[Node], leaves: Mapping[str, Tensor]) -> str:
    """Autograd functions of the user's, and parameters with hooks."""
    custom = {node.name() for node in nodes if issubclass(type(node), BackwardCFunction)}
    hooked = [name for name, leaf in leaves.items() if leaf._backward_hooks]
    suspects = [*sorted(custom), *(f"a hook on {name}" for name in hooked)]
    return names(suspects) if suspects else "a hook on a tensor or module"
