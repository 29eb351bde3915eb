"""Rules for the nodes that move elements: slices, views, permutations, concatenations, indexing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import Node

from headwise.attribution.tracing.regions import (
    MAX_ENUMERATED,
    Box,
    Extent,
    Shape,
    members,
    reshape,
    span,
    strided,
    trimmed,
    unknown,
    whole,
)
from headwise.graph import saved

INT64 = 1 << 64
BOOLEAN = (torch.bool, torch.uint8)


@dataclass(frozen=True)
class NodeOutput:
    """One output of one node, with the shapes around it."""

    node: Node
    port: int
    shape: Shape
    inputs: tuple[Shape | None, ...]

    @property
    def source(self) -> Shape:
        """The shape of the first input.

        Raises:
            AttributeError: If that input has no gradient.
        """
        if self.inputs[0] is None:
            raise AttributeError("the first input has no gradient")
        return self.inputs[0]

    def signed(self, attribute: str) -> int:
        """A saved integer, negative where PyTorch hands it out as an unsigned 64-bit number."""
        return signed(getattr(self.node, attribute))

    def dim(self, attribute: str, ndim: int) -> int:
        """A saved dimension, counted from the front."""
        return self.signed(attribute) % ndim


def signed(value: int) -> int:
    """A saved integer, negative where PyTorch hands it out as an unsigned 64-bit number."""
    return int(value) - INT64 if value >= INT64 // 2 else int(value)


Boxes = list[Box | None]
Rule = Callable[[NodeOutput, Box], Boxes]


def unknown_inputs(site: NodeOutput) -> Boxes:
    """An unknown part of every input."""
    return [unknown(shape) if shape is not None else None for shape in site.inputs]


def embed(box: Box, dim: int, extent: int | None, source: Shape) -> Box:
    """The box with the index set of one dimension replaced; None there means too many indices to list."""
    extents = list(box.extents)
    extents[dim] = None if extent is None else trimmed(extent, source[dim])
    loose = box.loose | (1 << dim if extent is None else 0)
    return Box(tuple(extents), loose)


def _reshaped(site: NodeOutput, box: Box) -> Boxes:
    return [reshape(box, site.shape, site.source)]


def _slice(site: NodeOutput, box: Box) -> Boxes:
    source = site.source
    dim = site.dim("_saved_dim", len(source))
    size, start, step = source[dim], site.signed("_saved_start"), site.signed("_saved_step")
    start = min(max(start + size if start < 0 else start, 0), size)
    return [embed(box, dim, strided(start, step, box.extents[dim], site.shape[dim]), source)]


def _select(site: NodeOutput, box: Box) -> Boxes:
    source = site.source
    dim = site.dim("_saved_dim", len(source))
    index = site.signed("_saved_index")
    return [inserted(box, dim, index % source[dim], source)]


def inserted(box: Box, dim: int, index: int, source: Shape) -> Box:
    """The box of a tensor from which one index of one dimension was taken, in that tensor."""
    extents = (*box.extents[:dim], trimmed(1 << index, source[dim]), *box.extents[dim:])
    low = box.loose & span(0, dim)
    return Box(extents, low | (box.loose & ~span(0, dim)) << 1)


def _unbind(site: NodeOutput, box: Box) -> Boxes:
    source = site.source
    return [inserted(box, site.dim("_saved_dim", len(source)), site.port, source)]


def _split(site: NodeOutput, box: Box) -> Boxes:
    source = site.source
    dim = site.dim("_saved_dim", len(source))
    start = site.port * int(saved(site.node, "_saved_split_size"))
    return [embed(box, dim, strided(start, 1, box.extents[dim], site.shape[dim]), source)]


def _split_with_sizes(site: NodeOutput, box: Box) -> Boxes:
    source = site.source
    dim = site.dim("_saved_dim", len(source))
    start = sum(int(size) for size in saved(site.node, "_saved_split_sizes")[: site.port])
    return [embed(box, dim, strided(start, 1, box.extents[dim], site.shape[dim]), source)]


def _permuted(site: NodeOutput, box: Box, dims: list[int]) -> Boxes:
    extents: list[Extent] = [None] * len(dims)
    loose = 0
    for position, dim in enumerate(dims):
        extents[dim] = box.extents[position]
        loose |= (box.loose >> position & 1) << dim
    return [Box(tuple(extents), loose)]


def _permute(site: NodeOutput, box: Box) -> Boxes:
    ndim = len(site.shape)
    dims = [int(dim) for dim in saved(site.node, "_saved_dims")]
    return _permuted(site, box, [signed(dim) % ndim for dim in dims])


def _transpose(site: NodeOutput, box: Box) -> Boxes:
    dims = list(range(len(site.shape)))
    a, b = site.dim("_saved_dim0", len(dims)), site.dim("_saved_dim1", len(dims))
    dims[a], dims[b] = dims[b], dims[a]
    return _permuted(site, box, dims)


def _matrix_transpose(site: NodeOutput, box: Box) -> Boxes:
    return _permuted(site, box, list(range(len(site.shape)))[::-1])


def _cat(site: NodeOutput, box: Box) -> Boxes:
    """Every part gets its own range; as one without a gradient has no known size, count from both ends."""
    dim = site.dim("_saved_dim", len(site.shape))
    found = unknown_inputs(site)
    start, stop = 0, site.shape[dim]
    for i, shape in enumerate(site.inputs):
        if shape is None:
            break
        found[i] = _restricted(box, dim, start, shape[dim], len(shape))
        start += shape[dim]
    else:
        return found
    for i, shape in reversed(list(enumerate(site.inputs))):
        if shape is None:
            break
        stop -= shape[dim]
        found[i] = _restricted(box, dim, stop, shape[dim], len(shape))
    return found


def _restricted(box: Box, dim: int, start: int, size: int, ndim: int) -> Box | None:
    """The part of a box between two indices of one dimension, counted from the first of them."""
    if len(box.extents) != ndim:
        return None
    extent = box.extents[dim]
    part = None if extent is None else trimmed(extent >> start & span(0, size), size)
    extents = (*box.extents[:dim], part, *box.extents[dim + 1 :])
    restricted = Box(extents, box.loose)
    return restricted.loosened() if box.loose >> dim & 1 else restricted


def _stack(site: NodeOutput, box: Box) -> Boxes:
    dim = site.dim("_saved_dim", len(site.shape))
    extent, is_loose = box.extents[dim], box.loose >> dim & 1
    low = box.loose & span(0, dim)
    rest = Box((*box.extents[:dim], *box.extents[dim + 1 :]), low | (box.loose >> (dim + 1)) << dim)
    rest = rest.loosened() if is_loose else rest
    return [rest if extent is None or extent >> i & 1 else None for i in range(len(site.inputs))]


def _indexed(site: NodeOutput, box: Box) -> Boxes:
    """Indexing: exact for one small index along one dimension, else an upper bound for the indexed ones."""
    source = site.source
    indices = list(saved(site.node, "_saved_indices"))
    used: list[tuple[int, int, Tensor]] = []
    dim = 0
    for index in indices:
        width = index.ndim if index is not None and index.dtype in BOOLEAN else 1
        if index is not None:
            used.append((dim, width, index))
        dim += width
    if not used or used[-1][0] + used[-1][1] - used[0][0] != sum(width for _, width, _ in used):
        return [_loose_where(source, range(len(source)))]
    return [_one_index(site, box, source, used)]


def _one_index(site: NodeOutput, box: Box, source: Shape, used: list[tuple[int, int, Tensor]]) -> Box:
    """Indexed dimensions side by side are replaced, in place, by those of the index."""
    first = used[0][0]
    count = sum(width for _, width, _ in used)
    added = len(site.shape) - (len(source) - count)
    before, after = box.extents[:first], box.extents[first + added :]
    low, high = box.loose & span(0, first), box.loose >> (first + added)
    extents = (*before, *(None,) * count, *after)
    loose = low | span(first, first + count) | high << (first + count)
    index = used[0][2]
    if count == 1 and index.numel() <= MAX_ENUMERATED:
        taken = _taken(index, box.extents[first : first + added], source[first])
        is_loose = taken is None or bool(box.loose & span(first, first + added))
        extent = trimmed(taken, source[first]) if taken is not None else None
        extents = (*before, extent, *after)
        loose = loose & ~(1 << first) | is_loose << first
    return Box(extents, loose)


def _taken(index: Tensor, read: tuple[Extent, ...], size: int) -> int | None:
    """The indices that an index reads for the positions of its result that are reached; None if unknown."""
    if index.ndim == 1:
        positions = index.nonzero().flatten().tolist() if index.dtype in BOOLEAN else index.tolist()
        chosen = positions if read[0] is None else [positions[i] for i in members(read[0])]
    elif all(extent is None for extent in read):
        chosen = index.flatten().tolist()
    else:
        return None
    return sum(1 << index for index in {int(i) % size for i in chosen})


def _index_select(site: NodeOutput, box: Box) -> Boxes:
    source = site.source
    dim = site.dim("_saved_dim", len(source))
    index = saved(site.node, "_saved_index")
    taken = _taken(index, (box.extents[dim],), source[dim]) if index.numel() <= MAX_ENUMERATED else None
    return [embed(box, dim, taken, source)]


def _loose_where(source: Shape, dims: range) -> Box:
    return Box(whole(source).extents, sum(1 << dim for dim in dims))


def _flipped(site: NodeOutput, box: Box) -> Boxes:
    extents = list(box.extents)
    for flipped in saved(site.node, "_saved_dims"):
        dim = signed(flipped) % len(site.shape)
        extent, size = extents[dim], site.shape[dim]
        if extent is not None:
            extents[dim] = sum(1 << (size - 1 - index) for index in members(extent))
    return [Box(tuple(extents), box.loose)]


VIEW_RULES: tuple[tuple[Rule, str], ...] = (
    (_reshaped, "View UnsafeView ReshapeAlias Unsqueeze Squeeze"),
    (_permute, "Permute"),
    (_transpose, "Transpose"),
    (_matrix_transpose, "T"),
    (_slice, "Slice"),
    (_select, "Select"),
    (_split, "Split"),
    (_split_with_sizes, "SplitWithSizes"),
    (_unbind, "Unbind"),
    (_cat, "Cat"),
    (_stack, "Stack"),
    (_indexed, "Index"),
    (_index_select, "IndexSelect"),
    (_flipped, "Flip"),
)
