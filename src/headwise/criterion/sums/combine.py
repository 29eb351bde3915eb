"""From the terms' sums to the total: all terms at once, as vectors, in native operations.

``value_t = numerator_t / denominator_t`` (0 where that divides by 0), summed over a term's levels with their weights;
``weighted_t = weight_t * value_t``; ``total = sum_t weighted_t``. A vector costs one launch where T numbers cost T.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from headwise.criterion.sums.term_sums import Sums
from headwise.criterion.sums.vectors import Number, gathered, vector, widest

Seen = Callable[[Tensor], None]


class Combined(NamedTuple):
    """The terms together.

    Args:
        values: (T,); with a graph where `combine` was not asked for the total alone.
        weighted: (T,), as well.
        total: 0-d, with a graph.
        levels: Per term the values of its levels, or None.
        divisors: What the sums were divided by, level by level; 0 where a value is 0 for want of a count.
    """

    values: Tensor
    weighted: Tensor
    total: Tensor
    levels: tuple[Tensor | None, ...]
    divisors: Tensor


class _Scales(NamedTuple):
    """What numerators are divided and multiplied by, level by level, then the tokens'.

    Args:
        bottom: (L,), what divides; 1 where that is 0.
        empty: (L,), where it is; None where that is known to be nowhere.
        levels: (L,), the weights of the levels; None where no term has any.
        unweighed: (L,), where these are 0; None where that is nowhere.
        weights: (T,), the weights of terms and tokens.
        idle: (T,), where these are 0; None where that is nowhere.
        counts: How many levels each term and token has.
        divisors: (L,), what divides, 0 where it is.
    """

    bottom: Tensor
    empty: Tensor | None
    levels: Tensor | None
    unweighed: Tensor | None
    weights: Tensor
    idle: Tensor | None
    counts: tuple[int, ...]
    divisors: Tensor


def combine(sums: Sequence[Sums], weights: Sequence[Number], balance: Tensor | None = None) -> Combined:
    """Combines the sums of terms.

    Args:
        sums: The terms' sums.
        weights: The terms' weights.
        balance: (T,), float32: what the weights are multiplied by.

    Returns:
        Values and total, of the widest dtype of the sums, on the device of the first.
    """
    numerators = [numerator for each in sums for numerator in each.numerators]
    scales = _balanced(_scales(sums, weights, 0, widest(numerators), numerators[0].device), weights, balance)
    return _combined(gathered(numerators, scales.bottom.dtype, scales.bottom.device), scales, sums, None)


def total_of(
    sums: Sequence[Sums],
    top: Tensor | None,
    weights: Sequence[Number],
    tokens: Sequence[Tensor],
    idle: Collection[tuple[int, int]],
    seen: Seen | None,
    balance: Tensor | None = None,
) -> Combined:
    """Combines the sums of terms for a total, of which alone a graph is needed: one node, in the common case.

    Args:
        sums: The terms' sums.
        top: Their numerators, if these are one vector.
        weights: The terms' weights.
        tokens: Zeros that join the total.
        idle: Terms and their levels from which the total takes no graph.
        seen: Is told of the gradient of the total in each backward pass.
        balance: (T,), float32: what the weights are multiplied by.

    Returns:
        As `combine`.
    """
    numerators = [top] if top is not None else [numerator for each in sums for numerator in each.numerators]
    if idle or (tokens and top is not None):
        numerators = _apart(sums, numerators, idle)
    numerators += tokens
    device, dtype = numerators[0].device, widest(numerators)
    scales = _balanced(_scales(sums, weights, len(tokens), dtype, device), weights, balance)
    mixed = any(each.dtype != dtype or each.device != device for each in numerators)
    learned = scales.bottom.requires_grad or scales.weights.requires_grad
    if mixed or learned or _has_transforms():
        return _combined(_joined(numerators, dtype, device), scales, sums, seen)
    with torch.no_grad():
        values, weighted, levels = _weighted(_joined(numerators, dtype, device), scales, sums)
    total: Tensor = _SumOfTerms.apply(weighted, scales, seen, *numerators)
    return _of_terms(values, weighted, total, levels, scales)


def _apart(sums: Sequence[Sums], numerators: Sequence[Tensor], idle: Collection[tuple[int, int]]) -> list[Tensor]:
    """The numerators one by one, those of idle terms and levels without their graph."""
    every = iter(numerators if numerators[0].dim() == 0 else numerators[0].unbind())
    return [
        next(every).detach() if (term, level) in idle else next(every)
        for term, each in enumerate(sums)
        for level in range(len(each.denominators))
    ]


def _joined(numerators: Sequence[Tensor], dtype: torch.dtype, device: torch.device) -> Tensor:
    return numerators[0] if numerators[0].dim() else gathered(numerators, dtype, device)


def _has_transforms() -> bool:
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


def _scales(
    sums: Sequence[Sums], weights: Sequence[Number], num_tokens: int, dtype: torch.dtype, device: torch.device
) -> _Scales:
    ones = (1.0,) * num_tokens
    levels = _level_weights(sums)
    given = (
        (*[divisor for one in sums for divisor in one.divisors()], *ones),
        None if levels is None else (*levels, *ones),
        (*weights, *ones),
        (*[len(each.denominators) for each in sums], *(1,) * num_tokens),
    )
    if _has_transforms() or not (_are_numbers(given[0]) and _are_numbers(weights)):
        return _scales_of(*given, dtype, device)
    return _constant_scales(*given, dtype, device)


def _balanced(scales: _Scales, weights: Sequence[Number], balance: Tensor | None) -> _Scales:
    if balance is None:
        return scales
    constant = _are_numbers(weights) and not _has_transforms()
    return scales._replace(weights=(_constant_product if constant else _product)(scales.weights, balance))


def _product(weights: Tensor, balance: Tensor) -> Tensor:
    factor, rest = balance.to(weights), len(weights) - len(balance)
    return weights * (torch.nn.functional.pad(factor, (0, rest), value=1.0) if rest else factor)


@lru_cache(maxsize=64)
def _constant_product(weights: Tensor, balance: Tensor) -> Tensor:
    """Of two vectors that nobody writes into: the same in all steps between two that set the balance."""
    with torch.inference_mode(False), torch.no_grad():
        return _product(weights, balance)


def _scales_of(
    divisors: Sequence[Number],
    levels: Sequence[float] | None,
    weights: Sequence[Number],
    counts: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
) -> _Scales:
    given = vector(divisors, dtype, device)
    bottom, empty = given, None
    if not _are_numbers(divisors) or 0 in divisors:
        empty = bottom == 0
        bottom = torch.where(empty, torch.ones_like(bottom), bottom)
    scale = vector(weights, dtype, device)
    idle = scale == 0 if not _are_numbers(weights) or 0 in weights else None
    own = None if levels is None else vector(levels, dtype, device)
    unweighed = own == 0 if own is not None and levels is not None and 0 in levels else None
    return _Scales(bottom, empty, own, unweighed, scale, idle, counts, given)


@lru_cache(maxsize=512)
def _constant_scales(*given: Any) -> _Scales:
    with torch.inference_mode(False), torch.no_grad():
        return _scales_of(*given)


def _are_numbers(numbers: Sequence[Number]) -> bool:
    return not any(isinstance(each, Tensor) for each in numbers)


def _level_weights(sums: Sequence[Sums]) -> list[float] | None:
    """The weights of all levels; None where no term has any."""
    if all(each.levels is None for each in sums):
        return None
    found: list[float] = []
    for each in sums:
        found += [1.0] * len(each.denominators) if each.levels is None else list(each.levels)
    return found


def _weighted(top: Tensor, scales: _Scales, sums: Sequence[Sums]) -> tuple[Tensor, Tensor, tuple[Tensor | None, ...]]:
    """Values and weighted values of terms and tokens, and the levels of terms that have any."""
    quotients = top / scales.bottom
    if scales.empty is not None:
        quotients = torch.where(scales.empty, torch.zeros_like(quotients), quotients)
    values = quotients
    levels: tuple[Tensor | None, ...] = (None,) * len(sums)
    if scales.levels is not None:
        own = quotients * scales.levels
        if scales.unweighed is not None:
            own = torch.where(scales.unweighed, torch.zeros_like(own), own)
        parts = torch.split(own, list(scales.counts))
        values = torch.cat([part if len(part) == 1 else part.sum(0, keepdim=True) for part in parts])
        levels = tuple([part if each.levels is not None else None for part, each in zip(parts, sums, strict=False)])
    weighted = values * scales.weights
    if scales.idle is not None:
        # 0 times what is not finite is 0; the gradient of a learned weight is that of the product.
        learned = scales.weights.requires_grad
        none = scales.idle & ~torch.isfinite(values) if learned else scales.idle
        weighted = torch.where(none, torch.zeros_like(weighted), weighted)
    return values, weighted, levels


def _combined(top: Tensor, scales: _Scales, sums: Sequence[Sums], seen: Seen | None) -> Combined:
    """The terms together, every step of it with a graph."""
    values, weighted, levels = _weighted(top, scales, sums)
    if _has_transforms():
        total = weighted.sum()
        if seen is not None and total.requires_grad:
            total.register_hook(seen)  # type: ignore[no-untyped-call]
    else:
        total = _SumOfTerms.apply(weighted.detach(), None, seen, weighted)
    return _of_terms(values, weighted, total, levels, scales)


def _of_terms(
    values: Tensor, weighted: Tensor, total: Tensor, levels: tuple[Tensor | None, ...], scales: _Scales
) -> Combined:
    """The same without the tokens; where there are none the very tensors, to which a gradient comes."""
    num = len(levels)
    divisors = scales.divisors
    if len(values) > num:
        divisors = divisors[: len(divisors) - len(values) + num]
        values, weighted = values[:num], weighted[:num]
    return Combined(values, weighted, total, levels, divisors)


class _SumOfTerms(torch.autograd.Function):
    """The sum of a vector, added up in its order, so that it equals the sum of its elements to the bit.

    ``forward(weighted, scales, seen, *summed)``: the vector is known; what has a graph is itself, or the numerators
    that scales make it of, one by one or as one vector.
    """

    @staticmethod
    def forward(ctx: Any, weighted: Tensor, scales: _Scales | None, seen: Seen | None, *summed: Tensor) -> Tensor:
        ctx.num, ctx.scales, ctx.seen, ctx.is_vector = len(weighted), scales, seen, summed[0].dim() > 0
        total, *others = weighted.unbind()
        for each in others:
            total = total + each
        return total if others else total.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        if ctx.seen is not None:
            ctx.seen(grad)
        found = grad.expand(ctx.num) if ctx.scales is None else _slopes(grad, ctx.scales)
        return None, None, None, *((found,) if ctx.is_vector else found.unbind())

    @staticmethod
    def jvp(ctx: Any, _weighted: None, _scales: None, _seen: None, *tangents: Tensor | None) -> Tensor:
        if ctx.is_vector:
            (tangent,) = tangents
        else:
            like = next(each for each in tangents if each is not None)
            tangent = torch.stack([torch.zeros_like(like) if each is None else each for each in tangents])
        assert tangent is not None
        return (tangent if ctx.scales is None else tangent * _slopes(torch.ones_like(tangent[0]), ctx.scales)).sum()


SUM_OF_TERMS = f"{_SumOfTerms.__name__}Backward"
"""What autograd calls the node of a criterion's total."""


def _slopes(grad: Tensor, scales: _Scales) -> Tensor:
    """The gradient of each numerator, by the operations of `_weighted` backwards."""
    if scales.idle is not None:
        grad = torch.where(scales.idle, torch.zeros_like(grad), grad)
    found = grad * scales.weights
    if scales.levels is not None:
        found = found.repeat_interleave(_counts(scales.counts, found.device), output_size=len(scales.levels))
        found = found * scales.levels
    if scales.empty is not None:
        found = torch.where(scales.empty, torch.zeros_like(found), found)
    return found / scales.bottom


@lru_cache(maxsize=512)
def _counts(counts: tuple[int, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():
        return torch.tensor(counts).to(device, non_blocking=True)
