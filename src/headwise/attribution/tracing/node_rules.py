"""What each kind of autograd node does to a region: from a part of its output to the parts of its inputs.

A rule gets the node, the number of the output, the box reached in it, and the shapes of outputs and inputs. It
returns one box, or None, per input. What has no rule reaches an unknown part of every input.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from torch.autograd.graph import Node

from headwise.attribution.tracing.regions import Box, Extent, Shape, span, strided, unknown, whole
from headwise.attribution.tracing.view_rules import (
    VIEW_RULES,
    Boxes,
    NodeOutput,
    Rule,
    embed,
    inserted,
    signed,
    unknown_inputs,
)
from headwise.graph import Route, output_shapes, saved


def boxes_of_inputs(site: NodeOutput, box: Box) -> Boxes:
    """Which part of each input a box of one output comes from.

    Args:
        site: The node and the number of its output.
        box: The part of that output.

    Returns:
        One box per input; None where the input has no gradient or is not reached.
    """
    rule = _RULES.get(_family(site.node.name()))
    try:
        found = rule(site, box) if rule is not None else unknown_inputs(site)
    except (AttributeError, RuntimeError):
        # A saved value that is gone (a freed graph, another torch) makes the answer unknown, never wrong.
        found = unknown_inputs(site)
    return [found[i] if i < len(found) and shape is not None else None for i, shape in enumerate(site.inputs)]


def route_box(route: Route, box: Box, source: Shape) -> Box:
    """The part of a routed input that a box of the route's output comes from."""
    _, _, dim, start, stop = route
    if dim is None or start is None or stop is None:
        if not box.extents:
            return whole(source)
        return box if len(box.extents) == len(source) else unknown(source)
    dim %= len(source)
    if len(box.extents) == len(source) - 1:
        return inserted(box, dim, start, source)
    return embed(box, dim, strided(start, 1, box.extents[dim], stop - start), source)


def input_shapes(node: Node) -> tuple[Shape | None, ...]:
    """The shapes of the inputs that have a gradient; None for the others."""
    shapes: list[Shape | None] = []
    for child, port in node.next_functions:
        known = output_shapes(child) if child is not None else ()
        shapes.append(known[port] if port < len(known) else None)
    return tuple(shapes)


def _family(name: str) -> str:
    return name.rsplit("::", 1)[-1].rstrip("0123456789").removesuffix("Backward")


def _pointwise(site: NodeOutput, box: Box) -> Boxes:
    """Element by element, with broadcasting; a scalar result comes from everything."""
    return [_broadcast(site.shape, box, shape) if shape is not None else None for shape in site.inputs]


def _broadcast(shape: Shape, box: Box, source: Shape) -> Box:
    if not shape:
        return whole(source)
    offset = len(shape) - len(source)
    if offset < 0:
        return unknown(source)
    extents: list[Extent] = []
    loose = 0
    for dim, size in enumerate(source):
        spread = size == 1 and shape[dim + offset] != 1
        extents.append(None if spread else box.extents[dim + offset])
        loose |= 0 if spread else (box.loose >> (dim + offset) & 1) << dim
    return Box(tuple(extents), loose)


def _reduced(site: NodeOutput, box: Box) -> Boxes:
    """A sum, mean, maximum or norm over some dimensions: all of those, the rest as it is."""
    source = site.inputs[0]
    if source is None or not site.shape:
        return [whole(source) if source is not None else None]
    dims = _saved_dims(site, len(source))
    kept = bool(getattr(site.node, "_saved_keepdim", len(site.shape) == len(source)))
    return [_expanded(box, dims, kept, source)]


def _expanded(box: Box, dims: set[int], kept: bool, source: Shape) -> Box:
    extents: list[Extent] = []
    loose = position = 0
    for dim in range(len(source)):
        if dim in dims:
            extents.append(None)
            position += kept
            continue
        extents.append(box.extents[position])
        loose |= (box.loose >> position & 1) << dim
        position += 1
    return Box(tuple(extents), loose)


def _saved_dims(site: NodeOutput, ndim: int) -> set[int]:
    dim_or_dims = saved(site.node, "_saved_dim")
    if isinstance(dim_or_dims, int):
        return {site.dim("_saved_dim", ndim)}
    dims = {signed(dim) % ndim for dim in dim_or_dims or ()}
    return dims or set(range(ndim))


def _mixed(site: NodeOutput, box: Box) -> Boxes:
    """Softmax and its kin: every element of one dimension comes from all of it."""
    return [_expanded(box, {site.dim("_saved_dim", len(site.source))}, True, site.source)]


def _class_choice(site: NodeOutput, box: Box) -> Boxes:
    """Negative log likelihood: which class is read depends on the target's values."""
    source = site.source
    channel = 1 if len(source) > 1 else 0
    if not site.shape:
        return [Box(whole(source).extents, 1 << channel)]
    spread = _expanded(box, {channel}, False, source)
    return [Box(spread.extents, spread.loose | 1 << channel)]


def _spatial(site: NodeOutput, box: Box) -> Boxes:
    """Pooling and resampling: images and channels as they are; of the positions, all, or an unknown part."""
    return [_neighborhood(box, source, 2) if source is not None else None for source in site.inputs[:1]]


def _neighborhood(box: Box, source: Shape, kept: int) -> Box:
    positions = span(0, len(source)) & ~span(0, kept)
    partial = any(extent is not None for extent in box.extents[kept:]) or bool(box.loose & positions)
    loose = box.loose & span(0, kept) | (positions if partial else 0)
    return Box((*box.extents[:kept], *(None,) * (len(source) - kept)), loose)


def _convolution(site: NodeOutput, box: Box) -> Boxes:
    source = site.inputs[0]
    found = unknown_inputs(site)
    if source is not None:
        spread = _neighborhood(box, source, 1)
        grouped = int(saved(site.node, "_saved_groups")) != 1 and (box.extents[1] is not None or box.loose & 2)
        loose = spread.loose & ~2 | (2 if grouped else 0)
        found[0] = Box((spread.extents[0], None, *spread.extents[2:]), loose)
    return found


def _linear(site: NodeOutput, box: Box) -> Boxes:
    """A matrix product, perhaps with a bias first: a row of the result comes from that row of the factor."""
    found = unknown_inputs(site)
    first = len(site.inputs) - 2
    if site.inputs[first] is not None:
        found[first] = Box((box.extents[0], None), box.loose & 1)
    return found


def _batch_norm(site: NodeOutput, box: Box) -> Boxes:
    """Statistics of a channel come from all images and positions."""
    source = site.inputs[0]
    found = unknown_inputs(site)
    if source is not None and len(source) > 1:
        mixed = bool(saved(site.node, "_saved_training"))
        found[0] = _expanded(box, set(range(len(source))) - {1}, True, source) if mixed else box
    return found


_FAMILIES: tuple[tuple[Rule, str], ...] = (
    (
        _pointwise,
        "Add Sub Rsub Mul Div Neg Pow Square Reciprocal Sqrt Rsqrt Exp Expm1 Log Log1P Log2 Log10 Xlogy",
    ),
    (
        _pointwise,
        "Abs Sin Cos Tan Asin Acos Atan Atan2 Sinh Cosh Tanh Erf Sigmoid LogSigmoid Softplus Silu Mish",
    ),
    (_pointwise, "Relu LeakyRelu Elu Gelu Hardtanh Hardswish Hardsigmoid Threshold Clamp ClampMin ClampMax"),
    (_pointwise, "Where MaskedFill Maximum Minimum Lerp Addcmul Addcdiv NanToNum NativeDropout"),
    (_pointwise, "Clone ToCopy Alias Expand MseLoss L1Loss SmoothL1Loss HuberLoss SoftMarginLoss KlDiv"),
    (_pointwise, "BinaryCrossEntropy BinaryCrossEntropyWithLogits"),
    (_reduced, "Sum Mean Amax Amin Max Min Logsumexp LinalgVectorNorm Norm Var Std Prod"),
    (_mixed, "Softmax LogSoftmax Cumsum"),
    (_class_choice, "NllLoss NllLoss2D"),
    (_spatial, "MaxPool2DWithIndices AvgPool2D AdaptiveAvgPool2D UpsampleBilinear2D UpsampleNearest2D"),
    (_batch_norm, "NativeBatchNorm CudnnBatchNorm"),
    (_convolution, "Convolution"),
    (_linear, "Addmm Mm"),
    *VIEW_RULES,
)
_RULES: Mapping[str, Rule] = MappingProxyType({name: rule for rule, names in _FAMILIES for name in names.split()})
