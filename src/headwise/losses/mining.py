"""The k hardest elements, exactly, where k is a tensor: without a host sync, in constant shapes."""

from __future__ import annotations

import torch
from torch import Tensor

# Bits of a non-negative float as an integer (the sign bit is clear), and the digits a radix pass sorts by.
_BITS = {torch.float32: 31, torch.float64: 63}
_INTEGER = {torch.float32: torch.int32, torch.float64: torch.int64}
_RADIX_WIDTH = 11


def hardest(hardness: Tensor, candidates: Tensor, count: Tensor) -> Tensor:
    """Selects the ``count`` hardest candidates of each group; of equals, those that come first.

    The same elements as the first ``count`` of a stable descending sort. Non-negative floats are ordered
    like their bit patterns, so the threshold, the ``count``-th largest value, is found bit by bit by
    counting; ties at the threshold are then taken in order of position until the count is full.

    Args:
        hardness: What to rank by, non-negative, (G groups, R rows, W columns), float32 or float64; fewer
            than 2^31 elements.
        candidates: Which elements may be selected, bool, of that shape.
        count: How many to select, integer, (G,), at most the number of candidates of the group.

    Returns:
        The selected elements, bool, (G, R, W), exactly ``count`` per group.
    """
    if hardness.numel() == 0:
        return candidates
    compiling = torch.compiler.is_compiling()
    keys = _keys(hardness, candidates)
    if compiling:
        # Inductor would compute the losses anew in each counting pass; a strided view makes it keep the keys.
        keys = keys.as_strided(keys.shape, keys.stride())
    # Counting passes fuse into plain reductions under a compiler; eager, a few histograms move less memory.
    largest = _by_bisection if compiling else _by_histograms
    count = count.to(torch.int32)
    threshold = largest(keys.flatten(1), count, _BITS[hardness.dtype])[:, None, None]
    num_above = (keys > threshold).sum((1, 2), dtype=torch.int32)
    last = _position(keys == threshold, count - num_above)
    positions = torch.arange(keys[0].numel(), dtype=torch.int32, device=keys.device).view(keys.shape[1:])
    # Up to the last tie that fits, the threshold itself is enough; after it, only more is.
    return keys > threshold - (positions <= last).to(keys.dtype)


def _keys(hardness: Tensor, candidates: Tensor) -> Tensor:
    """Integers ordered like the hardness of the candidates; -1, below all of them, elsewhere."""
    integer = _INTEGER[hardness.dtype]
    # NaN may carry a sign bit; without it NaN ranks above infinity instead of vanishing among those left out.
    bits = hardness.detach().view(integer) & torch.iinfo(integer).max
    return torch.where(candidates, bits, -1)


def _by_bisection(keys: Tensor, count: Tensor, bits: int) -> Tensor:
    """The ``count``-th largest key per group: sets bit after bit where enough keys remain."""
    threshold = torch.zeros_like(count, dtype=keys.dtype)
    for bit in reversed(range(bits)):
        trial = threshold | (1 << bit)
        enough = (keys >= trial[:, None]).sum(1, dtype=torch.int32) >= count
        threshold = torch.where(enough, trial, threshold)
    return threshold


def _by_histograms(keys: Tensor, count: Tensor, bits: int) -> Tensor:
    """The ``count``-th largest key per group: fixes digit after digit by a histogram of the keys left."""
    threshold = torch.zeros_like(count, dtype=keys.dtype)
    ones = torch.ones(keys.numel(), dtype=torch.int32, device=keys.device)
    remaining = count[:, None]
    while bits > 0:
        width = min(_RADIX_WIDTH, bits)
        bits -= width
        at_least = _histogram(keys, threshold, bits, width, ones).flip(1).cumsum(1).flip(1)
        digit = (at_least >= remaining).sum(1, keepdim=True) - 1
        above = torch.cat((at_least, at_least.new_zeros(len(keys), 1)), dim=1).gather(1, digit + 1)
        remaining = remaining - above
        threshold = (threshold << width) | digit[:, 0].to(keys.dtype)
    return threshold


def _histogram(keys: Tensor, prefix: Tensor, shift: int, width: int, ones: Tensor) -> Tensor:
    """How often each next digit occurs among the keys that begin with the group's prefix, (G, 2**width)."""
    num_groups, num_bins = len(keys), 1 << width
    digit = (keys >> shift) - (prefix << width)[:, None]
    # Keys of another prefix fall into a spare bin at either end.
    bins = (digit.clamp(-1, num_bins) + 1).long()
    if num_groups > 1:
        bins = bins + torch.arange(num_groups, device=keys.device)[:, None] * (num_bins + 2)
    counts = torch.zeros(num_groups * (num_bins + 2), dtype=torch.int32, device=keys.device)
    counts = counts.scatter_add(0, bins.flatten(), ones)
    return counts.view(num_groups, num_bins + 2)[:, 1:-1]


def _position(ties: Tensor, count: Tensor) -> Tensor:
    """Position in reading order of the ``count``-th tie of each group, int32, (G, 1, 1).

    Finds the row first and the column within that row, so that only one row is numbered element by element.
    """
    _, num_rows, num_columns = ties.shape
    per_row = ties.sum(2, dtype=torch.int32)
    through_row = per_row.cumsum(1, dtype=torch.int32)
    row = (through_row < count[:, None]).sum(1, keepdim=True).clamp(max=num_rows - 1)
    before_row = (through_row - per_row).gather(1, row)
    the_row = ties.gather(1, row[:, :, None].expand(-1, 1, num_columns))
    rank = the_row.cumsum(2, dtype=torch.int32)
    column = (rank < (count[:, None] - before_row)[:, :, None]).sum(2, keepdim=True)
    return (row[:, :, None] * num_columns + column).to(torch.int32)
