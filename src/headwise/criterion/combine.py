"""From the terms' sums to the total: all terms at once, as vectors, in native operations.

``value_t = numerator_t / denominator_t`` (0 where that divides by 0), summed over a term's levels with their weights;
``weighted_t = weight_t * value_t``; ``total = sum_t weighted_t``. A vector costs one launch where T numbers cost T.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from headwise.ratio import Ratio

Number = float | Tensor
"""What is known without the data, or a 0-d tensor."""

Seen = Callable[[Tensor], None]


class Sums(NamedTuple):
    """What one term sums, level by level.

    Args:
        numerators: One a level, or the one of a term without levels.
        denominators: The same.
        smooth: Added to what divides, once.
        levels: The weights of the levels; None for a term without.
        pooled: Whether all levels are divided by their count together.
        least: The least count that divides.
    """

    numerators: tuple[Tensor, ...]
    denominators: tuple[Number, ...]
    smooth: float = 0.0
    levels: Sequence[float] | None = None
    pooled: bool = False
    least: float = 0.0


class Combined(NamedTuple):
    """The terms together.

    Args:
        values: (T,), with a graph.
        weighted: (T,), with a graph.
        total: 0-d, with a graph.
        levels: Per term the values of its levels, or None.
    """

    values: Tensor
    weighted: Tensor
    total: Tensor
    levels: tuple[Tensor | None, ...]


def combine(
    sums: Sequence[Sums],
    weights: Sequence[Number],
    tokens: Sequence[Tensor] = (),
    idle: Collection[int] = (),
    seen: Seen | None = None,
) -> Combined:
    """Combines the sums of terms.

    Args:
        sums: The terms' sums.
        weights: The terms' weights.
        tokens: Zeros that join the total.
        idle: Terms from which the total takes no graph.
        seen: Is told of the gradient of the total in each backward pass.

    Returns:
        Values and total, of the widest dtype of the sums, on the device of the first.
    """
    numerators = [
        numerator.detach() if term in idle else numerator
        for term, each in enumerate(sums)
        for numerator in each.numerators
    ]
    device, dtype = numerators[0].device, widest(numerators)
    values = _quotients(sums, [*numerators, *tokens], len(tokens), dtype, device)
    levels: tuple[Tensor | None, ...] = (None,) * len(sums)
    if any(each.levels is not None for each in sums):
        values, levels = _over_levels(sums, values, len(tokens))
    scale = vector((*weights, *(1.0,) * len(tokens)), dtype, device)
    weighted = values * scale
    if any(isinstance(weight, Tensor) for weight in weights):
        # 0 times what is not finite is 0; the gradient of a learned weight is that of the product.
        weighted = torch.where((scale == 0) & ~torch.isfinite(values), torch.zeros_like(weighted), weighted)
    elif 0.0 in weights:
        weighted = torch.where(scale == 0, torch.zeros_like(weighted), weighted)
    total = _total(weighted, seen)
    num = len(sums)
    return Combined(values[:num] if tokens else values, weighted[:num] if tokens else weighted, total, levels)


class _Total(torch.autograd.Function):
    """The sum of a vector, added up in its order, so that it equals the sum of its elements to the bit."""

    @staticmethod
    def forward(ctx: Any, numbers: Tensor, seen: Seen | None) -> Tensor:
        ctx.num, ctx.seen = len(numbers), seen
        total, *others = numbers.unbind()
        for each in others:
            total = total + each
        return total if others else total.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        if ctx.seen is not None:
            ctx.seen(grad)
        return grad.expand(ctx.num), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        return tangent.sum()


def _total(weighted: Tensor, seen: Seen | None) -> Tensor:
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        total = weighted.sum()
        if seen is not None and total.requires_grad:
            total.register_hook(seen)  # type: ignore[no-untyped-call]
    else:
        total = _Total.apply(weighted, seen)
    return total


def _quotients(
    sums: Sequence[Sums], numerators: Sequence[Tensor], num_tokens: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Every level's quotient, then the tokens."""
    top = gathered(numerators, dtype, device)
    divisors = [each for one in sums for each in _divisors(one)]
    bottom = vector([*divisors, *(1.0,) * num_tokens], dtype, device)
    if any(isinstance(each, Tensor) or each == 0 for each in divisors):
        empty = bottom == 0
        quotient = top / torch.where(empty, torch.ones_like(bottom), bottom)
        return torch.where(empty, torch.zeros_like(quotient), quotient)
    return top / bottom


def _divisors(one: Sums) -> list[Number]:
    """What divides each level: its own count, or that of all levels."""
    found: Sequence[Number] = one.denominators
    if one.pooled:
        found = (_added(found),) * len(found)
    if one.least:
        found = [each.clamp(min=one.least) if isinstance(each, Tensor) else max(each, one.least) for each in found]
    return [each + one.smooth for each in found] if one.smooth else list(found)


def _added(counts: Sequence[Number]) -> Number:
    """The count of all levels."""
    tensors = [each for each in counts if isinstance(each, Tensor)]
    if tensors:
        return vector(counts, widest(tensors), tensors[0].device).sum()
    return math.fsum(float(each) for each in counts)


def _over_levels(sums: Sequence[Sums], quotients: Tensor, num_tokens: int) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """Adds up the levels of each term; what has none stays."""
    scale: list[float] = []
    for each in sums:
        scale += [1.0] * len(each.numerators) if each.levels is None else list(each.levels)
    scaled = quotients * vector([*scale, *(1.0,) * num_tokens], quotients.dtype, quotients.device)
    parts = torch.split(scaled, [*(len(each.numerators) for each in sums), *(1,) * num_tokens])
    values = torch.cat([part if len(part) == 1 else part.sum(0, keepdim=True) for part in parts])
    return values, tuple(part if each.levels is not None else None for part, each in zip(parts, sums, strict=False))


def widest(tensors: Sequence[Tensor]) -> torch.dtype:
    """The dtype that holds all of some floating point tensors; at least float32."""
    return torch.float64 if any(each.dtype == torch.float64 for each in tensors) else torch.float32


def gathered(numbers: Sequence[Tensor], dtype: torch.dtype, device: torch.device) -> Tensor:
    """0-d tensors as one vector."""
    same = [each if each.dtype == dtype and each.device == device else each.to(device, dtype) for each in numbers]
    return torch.stack(same)


def vector(numbers: Sequence[Number], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers and 0-d tensors as one vector; made once where all are numbers.

    Args:
        numbers: The numbers.
        dtype: Of the vector.
        device: Of the vector.

    Returns:
        The vector; a constant one is not to be changed.
    """
    if any(isinstance(each, Tensor) for each in numbers):
        return gathered(
            [each if isinstance(each, Tensor) else vector([each], dtype, device)[0] for each in numbers], dtype, device
        )
    if torch.compiler.is_compiling():
        return torch.tensor([float(each) for each in numbers], dtype=dtype, device=device)
    return _constant(tuple(map(float, numbers)), dtype, device)


@lru_cache(maxsize=512)
def _constant(numbers: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():
        return torch.tensor(numbers, dtype=dtype).to(device, non_blocking=True)


def shares(sums: Sums, numerators: Sequence[Tensor]) -> Tensor:
    """The parts of a term's value that belong to parts of its sums.

    Args:
        sums: Of the term; what divides is 0-d, or (N,), one a part.
        numerators: Per level the parts of its numerator, (N,).

    Returns:
        (N,), levels added up with their weights; 0 where that divides by 0.
    """
    dtype = widest(numerators)
    found: Tensor | None = None
    for level, (top, bottom) in enumerate(zip(numerators, _divisors(sums), strict=True)):
        divisor = bottom if isinstance(bottom, Tensor) else vector([bottom], dtype, top.device)
        empty = divisor == 0
        part = torch.where(empty, 0.0, top.to(dtype) / torch.where(empty, 1.0, divisor.to(top.device, dtype)))
        part = part if sums.levels is None else part * sums.levels[level]
        found = part if found is None else found + part
    assert found is not None
    return found


def ratio_of(sums: Sums) -> Ratio:
    """The sums of one term as the ratio that its value is; one element a level for a term over levels."""
    dtype, device = widest(sums.numerators), sums.numerators[0].device
    bare = sums._replace(smooth=0.0)
    bottom = vector(_divisors(bare), dtype, device)
    if sums.levels is None:
        return Ratio(sums.numerators[0], bottom[0], sums.smooth)
    top = gathered(sums.numerators, dtype, device)
    if sums.pooled:
        top = top * vector(sums.levels, dtype, device)
    return Ratio(top, bottom, sums.smooth)


def within(sums: Sums, pooled: Ratio) -> Sums:
    """A micro-batch's share of a ratio that was pooled over micro-batches and ranks.

    Args:
        sums: Of the micro-batch.
        pooled: The sums over all.

    Returns:
        The share; pooled levels have become levels of one divisor.
    """
    share = ratio_of(sums).within(pooled)
    if sums.levels is None:
        return Sums((share.numerator,), (share.denominator,), share.smooth)
    levels = (1.0,) * len(sums.levels) if sums.pooled else sums.levels
    denominators = share.denominator.expand_as(share.numerator).unbind()
    return Sums(share.numerator.unbind(), denominators, share.smooth, levels)
