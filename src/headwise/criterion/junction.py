"""Junctions: one autograd node that hands each reader its own view and receives their gradients side by side.

In the backward pass a junction books what each reader sends back (norm, inner products, finite or not), then passes
on one summed gradient. The books are the *gradient of a small leaf* (a slot): the node has no side effect, so
it works wherever autograd works, and costs no synchronisation. The sums are formed by the same operations in the same
order whether the books are kept or not, hence gradients with and without are equal to the bit.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from headwise.criterion.layout import Layout
from headwise.criterion.sink import Sinks, view
from headwise.criterion.stats import booked, square_norm, sum_dtype, with_channel

Policy = Literal["keep", "drop", "raise"]


class NonFiniteGradientError(FloatingPointError):
    """A term sent a gradient that is not finite; the message names the term and the output."""


class Recorder(Protocol):
    """Who keeps the books of a criterion: gives each call the leaves (slots) that its backward pass fills."""

    channels: bool

    def open(self, layouts: tuple[Layout, ...], device: torch.device, pooled: bool) -> list[Tensor]:
        """The slots of every term's seed, then of every junction, for one call."""
        ...


class Split(torch.autograd.Function):
    """Hands out views of the outputs along a `Layout`; see the module's description.

    ``forward(layout, policy, channels, sinks, slot, *roots)`` returns one view an edge and a token: a 0-d zero that
    joins the total, so that a backward pass from the total reaches every output, even if no term sent a gradient.
    """

    @staticmethod
    def forward(
        layout: Layout, policy: Policy, channels: bool, sinks: Sinks | None, slot: Tensor | None, *roots: Tensor
    ) -> Any:
        """One view per edge, then the token."""
        views = [view(roots[edge.root], edge) for edge in layout.edges]
        return (*views, torch.zeros((), dtype=sum_dtype(roots[0].dtype), device=roots[0].device))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keeps the plan; no tensor is saved."""
        ctx.set_materialize_grads(False)
        ctx.layout, ctx.policy, ctx.channels, ctx.sinks, slot, *roots = inputs
        ctx.slot_dtype = None if slot is None else slot.dtype
        ctx.like = [(root.shape, root.dtype, root.device) for root in roots]
        # Inputs of a node are its tensors: the slot, if there is one, comes before the outputs.
        first = int(slot is not None)
        ctx.headwise_routes = tuple((view, root + first, *where) for view, root, *where in ctx.layout.routes)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        """Books the readers' gradients and returns their sum for every output."""
        *edge_grads, token = grads
        layout: Layout = ctx.layout
        written = None if ctx.sinks is None else ctx.sinks.write(edge_grads)
        if written is not None:
            return None, None, None, None, None, written
        slot_grad = None
        if ctx.slot_dtype is not None and ctx.needs_input_grad[4]:
            with torch.no_grad():
                slot_grad = booked(layout, edge_grads, ctx.channels, ctx.slot_dtype, ctx.like[0][2])
        if ctx.policy != "keep":
            edge_grads = _apply_policy(layout, ctx.policy, edge_grads)
        roots = [
            _assemble(layout, root, edge_grads, ctx.like[root], token is not None) if needed else None
            for root, needed in enumerate(ctx.needs_input_grad[5:])
        ]
        return None, None, None, None, slot_grad, *roots


class Seed(torch.autograd.Function):
    """Books the factor that the loop multiplied into a term (loss scale, accumulation).

    ``forward(slot, value, weight, levels, weighted)`` returns the weighted value unchanged; its backward fills the slot
    with `SEED_COLUMNS` (how often the term was part of a backward pass, the factor, its square, the value, the weight)
    and the values of the term's levels, if it has any.
    Every term has a node of its own, so that terms on different outputs stay apart in the graph.
    """

    @staticmethod
    def forward(slot: Tensor, value: Tensor, weight: Tensor, levels: Tensor | None, weighted: Tensor) -> Tensor:
        """The weighted value."""
        return weighted.view_as(weighted)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keeps value, weight and levels, numbers without graph."""
        slot, value, weight, levels, _ = inputs
        ctx.save_for_backward(value, weight, levels)
        ctx.slot_dtype = slot.dtype

    @staticmethod
    def backward(ctx: Any, factor: Tensor) -> Any:
        """Fills the slot, and passes the factor on."""
        with torch.no_grad():
            scale = factor.detach().to(ctx.slot_dtype)
            booked = [torch.ones_like(scale), scale, scale.square()]
            value, weight, levels = ctx.saved_tensors
            slot_grad = torch.stack([*booked, value.to(ctx.slot_dtype), weight.to(ctx.slot_dtype)])
            if levels is not None:
                slot_grad = torch.cat([slot_grad, levels.to(ctx.slot_dtype)])
        return slot_grad, None, None, None, factor


class ForwardModeSplit(Split):
    """`Split` with a forward mode, which `torch.compile` cannot trace."""

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        """Forward mode: the same views of the tangents."""
        roots = tangents[5:]
        shape_of = ctx.like
        views = []
        for edge in ctx.layout.edges:
            tangent = roots[edge.root]
            if tangent is None:
                shape, dtype, device = shape_of[edge.root]
                tangent = torch.zeros(shape, dtype=dtype, device=device)
            views.append(view(tangent, edge))
        return (*views, torch.zeros((), dtype=sum_dtype(shape_of[0][1]), device=shape_of[0][2]))


class ForwardModeSeed(Seed):
    """`Seed` with a forward mode, which `torch.compile` cannot trace."""

    @staticmethod
    def jvp(ctx: Any, _slot: None, _value: None, _weight: None, _levels: None, tangent: Tensor) -> Tensor:
        """Forward mode: the tangent unchanged."""
        return tangent.view_as(tangent)


def split(
    layout: Layout,
    policy: Policy,
    channels: bool,
    slot: Tensor | None,
    roots: Sequence[Tensor],
    closed: Collection[int] = (),
) -> Any:
    """Hands out the outputs along a layout.

    Args:
        layout: Who reads what.
        policy: What happens to gradients that are not finite.
        channels: Whether to book every channel.
        slot: The leaf whose gradient the books are, or None.
        roots: The output tensors.
        closed: Readings that only a loss of this library sees, so that their gradients need not exist as tensors.

    Returns:
        One view an edge, then the token that joins the total.
    """
    if torch.compiler.is_compiling():
        return Split.apply(layout, policy, channels, None, slot, *roots)
    unseen = closed and slot is None and policy == "keep"  # else gradients are booked or judged as tensors
    sinks = Sinks(layout, roots[0]) if unseen and Sinks.fit(layout, roots) else None
    handed_out = ForwardModeSplit.apply(layout, policy, channels, sinks, slot, *roots)
    if sinks is not None:
        for number in closed:
            handed_out[number].headwise_sink = sinks.of_edge[number]
    return handed_out


def seed(slot: Tensor, value: Tensor, weight: Tensor, levels: Tensor | None, weighted: Tensor) -> Tensor:
    """Passes a weighted value through the node that books the loop's factor.

    Args:
        slot: The leaf whose gradient the books are.
        value: The term's value, detached.
        weight: The term's weight.
        levels: The values of the term's levels, detached, or None.
        weighted: The weighted value.

    Returns:
        The weighted value, as a result of the node.
    """
    node = Seed if torch.compiler.is_compiling() else ForwardModeSeed
    booked: Tensor = node.apply(slot, value, weight, levels, weighted)
    return booked


SEED_COLUMNS = ("calls", "factor", "factor_squared", "value", "weight")


def _apply_policy(layout: Layout, policy: Policy, grads: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Drops every gradient of a term that sent one which is not finite, on all ranks alike, or raises."""
    device = next((g.device for g in grads if g is not None), torch.device("cpu"))
    with torch.no_grad():
        bad = [
            torch.zeros((), device=device) if g is None else (~torch.isfinite(square_norm(g.detach()))).float()
            for g in grads
        ]
        edges = torch.stack(bad)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(edges, op=torch.distributed.ReduceOp.MAX)
    if policy == "raise":
        _raise_if_bad(layout, edges)
        return list(grads)
    kept: list[Tensor | None] = []
    for edge, grad in zip(layout.edges, grads, strict=True):
        same = [number for number, other in enumerate(layout.edges) if other.term == edge.term]
        dropped = edges[same[0]] if len(same) == 1 else torch.stack([edges[number] for number in same]).amax()
        kept.append(None if grad is None else torch.where(dropped > 0, torch.zeros_like(grad), grad))
    return kept


def _raise_if_bad(layout: Layout, bad: Tensor) -> None:
    flags = bad.tolist()
    if any(flags):
        guilty = "; ".join(
            f"term {layout.terms[edge.term]!r} at output {edge.path!r}"
            for edge, flag in zip(layout.edges, flags, strict=True)
            if flag
        )
        raise NonFiniteGradientError(
            f"the gradient is not finite: {guilty}. Look for a division by 0, a log or square root of 0, or an "
            "overflow in that loss; on_nonfinite='drop' leaves out the term's gradient, 'keep' passes it on"
        )


def _assemble(layout: Layout, root: int, grads: Sequence[Tensor | None], like: Any, from_total: bool) -> Tensor | None:
    """The summed gradient of one output; None only if the backward pass did not start from the total."""
    shape, dtype, device = like
    sums: list[Tensor | None] = []
    for group in layout.groups[root]:
        total: Tensor | None = None
        for number in group.edges:
            grad = grads[number]
            if grad is not None:
                grad = with_channel(grad, layout.edges[number])
                total = grad if total is None else total + grad
        sums.append(total)
    if all(each is None for each in sums):
        return torch.zeros(shape, dtype=dtype, device=device) if from_total else None
    groups = layout.groups[root]
    if layout.tiles[root]:
        return _concatenate(groups, sums, shape, dtype, device)
    total = torch.zeros(shape, dtype=dtype, device=device)
    for group, each in zip(groups, sums, strict=True):
        if each is not None:
            part = total.narrow(group.dim, group.start, group.stop - group.start) if total.dim() > 1 else total
            part.add_(each)
    return total


def _concatenate(groups: Any, sums: list[Tensor | None], shape: Any, dtype: Any, device: Any) -> Tensor:
    """Joins slices that cover an output without overlap; a missing one is zeros."""
    if len(groups) == 1 and sums[0] is not None:
        return sums[0]
    parts = []
    for group, each in zip(groups, sums, strict=True):
        sizes = list(shape)
        sizes[group.dim] = group.stop - group.start
        parts.append(torch.zeros(sizes, dtype=dtype, device=device) if each is None else each)
    return torch.cat(parts, dim=groups[0].dim)
