"""The k hardest elements, exactly, where k is a tensor: without a host sync, in constant shapes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

_INTEGER = {torch.float32: torch.int32, torch.float64: torch.int64}
_RADIX_WIDTH = 11
# Elements that are worked on at a time on a CPU, so that temporaries stay in a core's cache.
_BLOCK = 1 << 16


def hardest(hardness: Tensor, candidates: Tensor, count: Tensor) -> Tensor:
    """Selects the ``count`` hardest candidates of each group; of equals, those that come first.

    The same elements as the first ``count`` of a stable descending sort. Floats are ordered like the integers
    that `_keys` makes of them, so the threshold, the ``count``-th largest, is found bit by bit by counting;
    ties at the threshold are then taken in order of position until the count is full.

    Args:
        hardness: What to rank by; NaN counts as hardest, (G groups, R rows, W columns), float32 or float64; fewer
            than 2^31 elements.
        candidates: Which elements may be selected, bool, of that shape.
        count: How many to select, integer, (G,), at most the number of candidates of the group.

    Returns:
        The selected elements, bool, (G, R, W), exactly ``count`` per group.
    """
    if hardness.numel() == 0:
        return candidates
    keys = _joined([_keys(*parts) for parts in zip(_blocks(hardness), _blocks(candidates), strict=True)])
    if torch.compiler.is_compiling():
        # Inductor would compute the losses anew in each counting pass; a strided view makes it keep the keys.
        keys = keys.as_strided(keys.shape, keys.stride())
    threshold, num_ties = _search(keys)(keys, count.to(torch.int32))
    return _above(keys, threshold[:, None, None], num_ties)


def _search(keys: Tensor) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """What finds the ``count``-th largest key of each group fastest, and how many of its equals belong to it."""
    if torch.compiler.is_compiling():
        # Counting passes fuse into plain reductions; on a GPU reading the keys takes longest, on a CPU comparing them.
        return partial(_by_counting, width=1 if keys.is_cpu else 4)
    # A few histograms move less memory; but losses have few exponents, and a GPU's threads would wait for each other at
    # a few bins.
    return _by_histograms if keys.is_cpu else _by_sorting


def _blocks(grid: Tensor) -> tuple[Tensor, ...]:
    """Rows of a grid (G, R, W) that are worked on at a time."""
    if not grid.is_cpu or torch.compiler.is_compiling():
        return (grid,)
    blocks: tuple[Tensor, ...] = torch.split(grid, max(1, _BLOCK * grid.shape[1] // grid.numel()), dim=1)
    return blocks


def _joined(blocks: list[Tensor]) -> Tensor:
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=1)


def _above(keys: Tensor, threshold: Tensor, num_ties: Tensor) -> Tensor:
    """The keys above the threshold, and of those at it the first `num_ties`.

    Up to the row with the last of these ties the threshold itself is enough; after it, only more is.
    """
    row, column = _position(keys, threshold, num_ties)
    if torch.compiler.is_compiling():
        # One comparison of every element fuses better than a row put back.
        positions = torch.arange(keys[0].numel(), dtype=torch.int32, device=keys.device).view(keys.shape[1:])
        last = (row * keys.shape[2] + column).to(torch.int32)
        return keys > threshold - (positions <= last).to(keys.dtype)
    rows = torch.arange(keys.shape[1], dtype=torch.int32, device=keys.device)[None, :, None]
    columns = torch.arange(keys.shape[2], dtype=torch.int32, device=keys.device)
    selected = keys > threshold - (rows < row).to(keys.dtype)
    the_row = keys.gather(1, row.expand(-1, 1, keys.shape[2]))
    the_row = the_row > threshold - (columns <= column).to(keys.dtype)
    return torch.where(rows == row, the_row, selected)


def _keys(hardness: Tensor, candidates: Tensor) -> Tensor:
    """Integers ordered like the hardness of the candidates (-0 equals 0, NaN is largest); the least elsewhere."""
    integer = _INTEGER[hardness.dtype]
    limits = torch.iinfo(integer)
    magnitude = hardness.detach().view(integer) & limits.max
    # Arithmetic, as a branch on every sign would be mispredicted.
    ordered = magnitude * (1 - 2 * (hardness < 0).to(integer))
    return torch.where(candidates, ordered, limits.min)


def _by_counting(keys: Tensor, count: Tensor, width: int = 1) -> tuple[Tensor, Tensor]:
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


def _by_histograms(keys: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
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


def _by_sorting(keys: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
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
    blocks = _blocks(keys)
    ones = torch.ones(blocks[0].numel(), dtype=torch.int32, device=keys.device)
    counts = torch.zeros(num_groups * (num_bins + 2), dtype=torch.int32, device=keys.device)
    for block in blocks:
        bins = ((block >> shift) - origin).clamp(0, num_bins + 1).long()
        bins = (bins if num_groups == 1 else bins + first_bin).flatten()
        counts = counts.scatter_add(0, bins, ones[: len(bins)])
    return counts.view(num_groups, num_bins + 2)[:, 1:-1]


def _position(keys: Tensor, threshold: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column of the ``count``-th key at the threshold of each group in reading order, int64, (G, 1, 1).

    Finds the row first and the column within that row, so that only one row is numbered element by element.
    """
    _, num_rows, num_columns = keys.shape
    per_row = _joined([(block == threshold).sum(2, dtype=torch.int32) for block in _blocks(keys)])
    through_row = per_row.cumsum(1, dtype=torch.int32)
    row = (through_row < count[:, None]).sum(1, keepdim=True).clamp(max=num_rows - 1)
    before_row = (through_row - per_row).gather(1, row)
    the_row = keys.gather(1, row[:, :, None].expand(-1, 1, num_columns)) == threshold
    rank = the_row.cumsum(2, dtype=torch.int32)
    column = (rank < (count[:, None] - before_row)[:, :, None]).sum(2, keepdim=True)
    return row[:, :, None], column
