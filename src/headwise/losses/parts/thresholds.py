"""The k-th largest element of each group, found in several ways, of which one is fastest; all find the same."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

_INTEGER = {torch.float32: torch.int32, torch.float64: torch.int64}
_RADIX_WIDTH = 11
# Elements that are worked on at a time on a CPU, so that temporaries stay in a core's cache.
_BLOCK = 1 << 16


def fastest_search(keys: Tensor) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """What finds the ``count``-th largest key of each group fastest, and how many of its equals belong to it."""
    if torch.compiler.is_compiling():
        # Counting passes fuse into plain reductions; on a GPU reading the keys takes longest, on a CPU comparing them.
        return partial(by_counting, width=1 if keys.is_cpu else 4)
    # A few histograms move less memory; but losses have few exponents, and a GPU's threads would wait for each other at
    # a few bins.
    return by_histograms if keys.is_cpu else by_sorting


def ordered_keys(hardness: Tensor, candidates: Tensor) -> Tensor:
    """Integers ordered like the hardness of the candidates (-0 equals 0, NaN is largest); the least elsewhere."""
    integer = _INTEGER[hardness.dtype]
    limits = torch.iinfo(integer)
    magnitude = hardness.detach().view(integer) & limits.max
    # Arithmetic, as a branch on every sign would be mispredicted.
    ordered = magnitude * (1 - 2 * (hardness < 0).to(integer))
    return torch.where(candidates, ordered, limits.min)


def by_counting(keys: Tensor, count: Tensor, width: int = 1) -> tuple[Tensor, Tensor]:
    """The ``count``-th largest key per group, and how many of its equals are among the ``count`` largest.

    Raises the threshold digit after digit of `width` bits as far as enough keys remain; a pass over the keys counts for
    all values of a digit.
    """
    limits = torch.iinfo(keys.dtype)
    threshold = torch.full_like(count, limits.min, dtype=keys.dtype)
    for shift in range(limits.bits - width, -1, -width):
        base = threshold
        for digit in range(1, 1 << width):
            bits = digit << shift
            trial = base ^ (bits if bits <= limits.max else bits - (1 << limits.bits))
            enough = (keys >= trial[:, None, None]).sum((1, 2), dtype=torch.int32) >= count
            threshold = torch.where(enough, trial, threshold)
    return threshold, count - (keys > threshold[:, None, None]).sum((1, 2), dtype=torch.int32)


def by_histograms(keys: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """The same: fixes the threshold digit after digit by a histogram of the keys left."""
    limits = torch.iinfo(keys.dtype)
    threshold = torch.full_like(count, limits.min, dtype=keys.dtype)
    remaining = count[:, None]
    shift = limits.bits
    while shift > 0:
        width = min(_RADIX_WIDTH, shift)
        shift -= width
        at_least = _histogram(keys, threshold, shift, width).flip(1).cumsum(1).flip(1)
        digit = (at_least >= remaining).sum(1, keepdim=True) - 1
        above = torch.cat((at_least, at_least.new_zeros(len(keys), 1)), dim=1).gather(1, digit + 1)
        remaining = remaining - above
        threshold = threshold + (digit[:, 0] << shift).to(keys.dtype)
    return threshold, remaining[:, 0].to(torch.int32)


def by_sorting(keys: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """The same: reads the threshold off the sorted keys."""
    descending = keys.flatten(1).sort(dim=1, descending=True).values
    last = descending.gather(1, (count.long() - 1).clamp(min=0)[:, None])[:, 0]
    threshold = torch.where(count > 0, last, torch.iinfo(keys.dtype).max)
    return threshold, count - (keys > threshold[:, None, None]).sum((1, 2), dtype=torch.int32)


def _histogram(keys: Tensor, threshold: Tensor, shift: int, width: int) -> Tensor:
    """How often each next digit occurs among the keys that agree with the threshold so far, (G, 2**width)."""
    num_groups, num_bins = len(keys), 1 << width
    # One more than the digit: keys that differ earlier fall into a spare bin at either end.
    origin = ((threshold >> shift) - 1)[:, None, None]
    first_bin = torch.arange(num_groups, device=keys.device)[:, None, None] * (num_bins + 2)
    parts = blocks(keys)
    ones = torch.ones(parts[0].numel(), dtype=torch.int32, device=keys.device)
    counts = torch.zeros(num_groups * (num_bins + 2), dtype=torch.int32, device=keys.device)
    for block in parts:
        bins = ((block >> shift) - origin).clamp(0, num_bins + 1).long()
        bins = (bins if num_groups == 1 else bins + first_bin).flatten()
        counts = counts.scatter_add(0, bins, ones[: len(bins)])
    return counts.view(num_groups, num_bins + 2)[:, 1:-1]


def blocks(grid: Tensor) -> tuple[Tensor, ...]:
    """Rows of a grid (G, R, W) that are worked on at a time."""
    if not grid.is_cpu or torch.compiler.is_compiling():
        return (grid,)
    parts: tuple[Tensor, ...] = torch.split(grid, max(1, _BLOCK * grid.shape[1] // grid.numel()), dim=1)
    return parts


def joined(parts: list[Tensor]) -> Tensor:
    """The grid that `blocks` took apart."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
