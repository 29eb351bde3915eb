"""The k hardest elements, exactly, where k is a tensor: without a host sync, in constant shapes."""

from __future__ import annotations

import torch
from torch import Tensor

from headwise.losses.parts.thresholds import blocks, fastest_search, joined, ordered_keys


def hardest(hardness: Tensor, candidates: Tensor, count: Tensor) -> Tensor:
    """Selects the ``count`` hardest candidates of each group; of equals, those that come first.

    The same elements as the first ``count`` of a stable descending sort. Floats are ordered like the integers
    that `ordered_keys` makes of them, so the threshold, the ``count``-th largest, is found bit by bit by counting;
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
    keys = joined([ordered_keys(*parts) for parts in zip(blocks(hardness), blocks(candidates), strict=True)])
    if torch.compiler.is_compiling():
        # Inductor would compute the losses anew in each counting pass; a strided view makes it keep the keys.
        keys = keys.as_strided(keys.shape, keys.stride())
    threshold, num_ties = fastest_search(keys)(keys, count.to(torch.int32))
    return _above(keys, threshold[:, None, None], num_ties)


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


def _position(keys: Tensor, threshold: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column of the ``count``-th key at the threshold of each group in reading order, int64, (G, 1, 1).

    Finds the row first and the column within that row, so that only one row is numbered element by element.
    """
    _, num_rows, num_columns = keys.shape
    per_row = joined([(block == threshold).sum(2, dtype=torch.int32) for block in blocks(keys)])
    through_row = per_row.cumsum(1, dtype=torch.int32)
    row = (through_row < count[:, None]).sum(1, keepdim=True).clamp(max=num_rows - 1)
    before_row = (through_row - per_row).gather(1, row)
    the_row = keys.gather(1, row[:, :, None].expand(-1, 1, num_columns)) == threshold
    rank = the_row.cumsum(2, dtype=torch.int32)
    column = (rank < (count[:, None] - before_row)[:, :, None]).sum(2, keepdim=True)
    return row[:, :, None], column
