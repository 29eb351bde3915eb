"""What one term sums in a call, level by level, and what follows from that alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from headwise.criterion.sums.vectors import Number, gathered, vector, widest
from headwise.ratio import Ratio


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

    def having(self, **fields: Any) -> Sums:
        """The same with other fields; of what `_replace` makes, Dynamo of torch 2.11 can hand nothing out."""
        return Sums(**{**self._asdict(), **fields})

    def divisors(self) -> list[Number]:
        """What divides each level: its own count, or that of all levels."""
        found: Sequence[Number] = self.denominators
        if self.pooled:
            found = (_added(found),) * len(found)
        if self.least:
            found = [
                each.clamp(min=self.least) if isinstance(each, Tensor) else max(each, self.least) for each in found
            ]
        return [each + self.smooth for each in found] if self.smooth else list(found)

    def gathered(self) -> Sums:
        """The same with DTensors added up over their mesh, which waits for its ranks as their own operations do."""
        return self.having(numerators=_whole(self.numerators), denominators=_whole(self.denominators))


def _whole(numbers: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple([each.full_tensor() if hasattr(each, "full_tensor") else each for each in numbers])


def _added(counts: Sequence[Number]) -> Number:
    """The count of all levels."""
    tensors = [each for each in counts if isinstance(each, Tensor)]
    if tensors:
        return vector(counts, widest(tensors), tensors[0].device).sum()
    return math.fsum([float(each) for each in counts])


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
    for level, (top, bottom) in enumerate(zip(numerators, sums.divisors(), strict=True)):
        divisor = bottom if isinstance(bottom, Tensor) else vector([bottom], dtype, top.device)
        empty = divisor == 0
        part = torch.where(empty, 0.0, top.to(dtype) / torch.where(empty, 1.0, divisor.to(top.device, dtype)))
        weight = 1.0 if sums.levels is None else sums.levels[level]
        part = part * weight if weight else torch.zeros_like(part)
        found = part if found is None else found + part
    assert found is not None
    return found


def ratio_of(sums: Sums) -> Ratio:
    """The sums of one term as the ratio that its value is; one element a level for a term over levels."""
    dtype, device = widest(sums.numerators), sums.numerators[0].device
    bare = sums.having(smooth=0.0)
    bottom = vector(bare.divisors(), dtype, device)
    if sums.levels is None:
        return Ratio(sums.numerators[0], bottom[0], sums.smooth)
    top = gathered(sums.numerators, dtype, device)
    if sums.pooled:
        own = vector(sums.levels, dtype, device)
        top = torch.where(own == 0, 0.0, top * own)
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
