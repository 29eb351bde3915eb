"""Which part of a tensor a loss reaches: unions of boxes, each a product of index sets.

An index set is an integer (bit i: index i) or None for all of a dimension. A dimension in `loose` is one of which
only an upper bound is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TypeAlias

Extent: TypeAlias = int | None
Shape: TypeAlias = tuple[int, ...]

MAX_BOXES = 32
MAX_ENUMERATED = 1 << 16


@dataclass(frozen=True)
class Box:
    """A product of index sets, one per dimension."""

    extents: tuple[Extent, ...]
    loose: int = 0

    def loosened(self) -> Box:
        """The same bound, with nothing claimed to be exact."""
        return Box(self.extents, (1 << len(self.extents)) - 1)


Region: TypeAlias = tuple[Box, ...]


def whole(shape: Shape) -> Box:
    """All of a tensor."""
    return Box((None,) * len(shape))


def unknown(shape: Shape) -> Box:
    """Any part of a tensor."""
    return whole(shape).loosened()


def span(start: int, stop: int) -> int:
    """The index set start, ..., stop - 1."""
    return ((1 << max(stop - start, 0)) - 1) << start


def members(extent: int) -> list[int]:
    """The indices in a set."""
    return [index for index in range(extent.bit_length()) if extent >> index & 1]


def strided(start: int, step: int, source: Extent, size: int) -> int | None:
    """The indices `start + step * i` for i in `source`, a set within `size`; None if too many to list."""
    if step == 1:
        return (span(0, size) if source is None else source) << start
    if size > MAX_ENUMERATED:
        return None
    indices = range(size) if source is None else members(source)
    return sum(1 << (start + step * index) for index in indices)


def trimmed(extent: Extent, size: int) -> Extent:
    """None for a set that is all of its dimension."""
    return None if extent is None or extent == span(0, size) else extent


def add(region: Region, box: Box) -> Region:
    """The union of a region and a box; beyond `MAX_BOXES` boxes, their hull."""
    if any(extent == 0 for extent in box.extents) or box in region:
        return region
    for known in region:
        merged = _merge(known, box)
        if merged is not None:
            return add(tuple(other for other in region if other is not known), merged)
    region = (*region, box)
    return region if len(region) <= MAX_BOXES else (_hull(region),)


def _merge(first: Box, second: Box) -> Box | None:
    """One box equal to the union of two, where there is one."""
    differing = [d for d, (a, b) in enumerate(zip(first.extents, second.extents, strict=True)) if a != b]
    if not differing and first.loose & second.loose in (first.loose, second.loose):
        return Box(first.extents, first.loose & second.loose)
    if len(differing) != 1 or first.loose or second.loose:
        return None
    dim = differing[0]
    a, b = first.extents[dim], second.extents[dim]
    extents = list(first.extents)
    extents[dim] = None if a is None or b is None else a | b
    return Box(tuple(extents))


def _hull(region: Region) -> Box:
    extents = tuple(_union(dim) for dim in zip(*(box.extents for box in region), strict=True))
    return Box(extents).loosened()


def _union(extents: tuple[Extent, ...]) -> Extent:
    total = 0
    for extent in extents:
        if extent is None:
            return None
        total |= extent
    return total


def project(region: Region, dim: int, size: int) -> tuple[int, bool]:
    """The indices of a region along one dimension, and whether that is exact rather than an upper bound."""
    full = span(0, size)
    tight, loose = 0, 0
    for box in region:
        extent = box.extents[dim]
        indices = full if extent is None else extent
        if box.loose >> dim & 1:
            loose |= indices
        else:
            tight |= indices
    return tight | loose, loose & ~tight == 0


def reshape(box: Box, source: Shape, target: Shape) -> Box:
    """A box in a tensor of shape `source`, seen in the same elements in the shape `target`."""
    if 0 in source:
        return unknown(target)
    extents: list[Extent] = [None] * len(target)
    loose = 0
    for group_in, group_out in _groups(source, target):
        sets, is_loose = _regroup(box, source, target, group_in, group_out)
        for dim, extent in zip(group_out, sets, strict=True):
            extents[dim] = extent
            loose |= is_loose << dim
    return Box(tuple(extents), loose)


def _groups(source: Shape, target: Shape) -> list[tuple[list[int], list[int]]]:
    """Pair runs of dimensions of equal product, as short as possible."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(source) or j < len(target):
        group_in, group_out = list(range(i, min(i + 1, len(source)))), list(range(j, min(j + 1, len(target))))
        size_in, size_out = prod(source[d] for d in group_in), prod(target[d] for d in group_out)
        i, j = i + len(group_in), j + len(group_out)
        while size_in != size_out:
            if size_in < size_out:
                size_in, i = size_in * source[i], i + 1
                group_in.append(i - 1)
            else:
                size_out, j = size_out * target[j], j + 1
                group_out.append(j - 1)
        groups.append((group_in, group_out))
    return groups


def _regroup(
    box: Box, source: Shape, target: Shape, group_in: list[int], group_out: list[int]
) -> tuple[list[Extent], bool]:
    """Carry the index sets of one group of dimensions over to its counterpart."""
    sets = [box.extents[dim] for dim in group_in]
    is_loose = any(box.loose >> dim & 1 for dim in group_in)
    wide_in = [dim for dim in group_in if source[dim] != 1]
    wide_out = [dim for dim in group_out if target[dim] != 1]
    if all(extent is None for extent in sets):
        return [None] * len(group_out), is_loose
    if len(wide_in) == 1 and len(wide_out) == 1:
        kept = box.extents[wide_in[0]]
        return [kept if dim == wide_out[0] else None for dim in group_out], is_loose
    size = prod(source[dim] for dim in group_in)
    if size > MAX_ENUMERATED:
        return [None] * len(group_out), True
    flat = _flatten(sets, [source[dim] for dim in group_in])
    unflat, product_exact = _unflatten(flat, [target[dim] for dim in group_out])
    return unflat, is_loose or not product_exact


def _flatten(sets: list[Extent], sizes: list[int]) -> list[int]:
    flat = [0]
    for extent, size in zip(sets, sizes, strict=True):
        indices = range(size) if extent is None else members(extent)
        flat = [base * size + index for base in flat for index in indices]
    return flat


def _unflatten(flat: list[int], sizes: list[int]) -> tuple[list[Extent], bool]:
    sets: list[int] = []
    rest = flat
    for size in reversed(sizes):
        sets.append(sum(1 << index for index in {value % size for value in rest}))
        rest = [value // size for value in rest]
    sets.reverse()
    is_product = prod(extent.bit_count() for extent in sets) == len(flat)
    return [trimmed(extent, size) for extent, size in zip(sets, sizes, strict=True)], is_product
