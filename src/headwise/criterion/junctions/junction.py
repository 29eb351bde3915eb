"""Junctions: one autograd node that hands each reader its own view and receives their gradients side by side.

In the backward pass a junction shows what each reader sends back to whoever keeps the books (`recording.Record`),
judges it where a policy asks for that, and passes on one summed gradient. The sums are formed by the same operations in
the same order whether the books are kept or not, hence gradients with and without are equal to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from headwise.criterion.binding.layout import Layout, Served
from headwise.criterion.junctions.recording import Record
from headwise.criterion.junctions.sink import Sinks, view
from headwise.criterion.junctions.stats import sum_dtype, with_channel
from headwise.graph import is_batched

Policy = Literal["keep", "drop", "raise"]


def check_policy(policy: object) -> None:
    """Refuses what is no `Policy`.

    Raises:
        ValueError: It is none.
    """
    if policy not in ("keep", "drop", "raise"):
        raise ValueError(f"on_nonfinite is 'keep', 'drop' or 'raise'; found {policy!r}")


class NonFiniteGradientError(FloatingPointError):
    """A term sent a gradient that is not finite; the message names the term and the output."""


class Duties(NamedTuple):
    """What a junction does besides passing on.

    Args:
        policy: What happens to gradients that are not finite.
        record: Who books what readers send, or None.
        sinks: Where readers leave functions that write their gradients, or None.
        weights: Per edge the weight of this call, where that is or may be 0: a weight of 0 sends nothing that is not
            finite. None for other edges; empty where there is no such edge.
        token: Whether a zero joins the total, so that a pass from the total sends every output a gradient.
    """

    policy: Policy = "keep"
    record: Record | None = None
    sinks: Sinks | None = None
    weights: tuple[Tensor | float | None, ...] = ()
    token: bool = True


class Split(torch.autograd.Function):
    """Hands out views of the outputs along a `Layout`; see the module's description.

    ``forward(part, duties, *roots)`` returns one view an edge and, if asked for, a token: a 0-d zero that joins the
    total, so that a backward pass from the total reaches every output, even if no term sent a gradient.
    """

    @staticmethod
    def forward(part: Served, duties: Duties, *roots: Tensor) -> Any:
        """One view per edge, then the token."""
        views = [view(roots[edge.root], edge) for edge in part.layout.edges]
        return (*views, _token(roots[0])) if duties.token else tuple(views)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keeps the plan; no tensor is saved."""
        ctx.set_materialize_grads(False)
        ctx.part, ctx.duties, *roots = inputs
        ctx.inside = False
        ctx.like = [(root.shape, root.dtype, root.device) for root in roots]
        ctx.headwise_routes = ctx.part.layout.routes

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        """Shows the readers' gradients to the books and returns their sum for every output."""
        layout, duties = ctx.part.layout, ctx.duties
        edge_grads: Sequence[Tensor | None] = grads[: len(layout.edges)]
        token = grads[-1] if duties.token else None
        written = None if duties.sinks is None else duties.sinks.write(edge_grads)
        if written is not None:
            return None, None, written
        edge_grads = _silenced(duties.weights, edge_grads)
        sent = edge_grads
        if duties.policy != "keep" and (
            ctx.inside or not is_batched(*(grad for grad in edge_grads if grad is not None))
        ):
            edge_grads = _apply_policy(layout, duties.policy, edge_grads)
        needed = ctx.needs_input_grad[2:]
        roots = [
            _assemble(layout, root, edge_grads, ctx.like[root], token is not None) if needed[root] else None
            for root in range(len(needed))
        ]
        if duties.record is not None:
            with torch.no_grad():
                duties.record.sent(ctx.part, sent, roots, [shape for shape, _, _ in ctx.like])
        return None, None, *roots


class EagerSplit(Split):
    """`Split` in the form in which torch applies it fastest; it has a forward mode, and no transforms of functions."""

    @staticmethod
    def forward(ctx: Any, part: Served, duties: Duties, *roots: Tensor) -> Any:  # type: ignore[override]
        """One view per edge, then the token."""
        found = Split.forward(part, duties, *roots)
        Split.setup_context(ctx, (part, duties, *roots), found)
        return found

    setup_context = torch.autograd.Function.setup_context

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        """Forward mode: the same views of the tangents."""
        roots = tangents[2:]
        views = []
        for edge in ctx.part.layout.edges:
            tangent = roots[edge.root]
            if tangent is None:
                shape, dtype, device = ctx.like[edge.root]
                tangent = torch.zeros(shape, dtype=dtype, device=device)
            views.append(view(tangent, edge))
        return (*views, _token(views[0])) if ctx.duties.token else tuple(views)


class TransformedSplit(Split):
    """`Split` inside transforms of `torch.func`, which ask for a separate context; Dynamo traces no `jvp`."""

    generate_vmap_rule = True
    jvp = EagerSplit.jvp

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """As `Split`; a pass inside of the transform is the one that trains, and no look of several gradients."""
        Split.setup_context(ctx, inputs, output)
        ctx.inside = True


class Alone(torch.autograd.Function):
    """The output as it stands, for the one loss that reads it, whole: what comes back is shown to the books."""

    @staticmethod
    def forward(ctx: Any, root: Tensor, part: Served, record: Record) -> Tensor:
        """The view."""
        ctx.set_materialize_grads(False)
        ctx.part, ctx.record, ctx.headwise_routes = part, record, part.layout.routes
        return root.view_as(root)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Any:
        """Shows the gradient and passes it on."""
        if grad is not None:
            ctx.record.sent_alone(ctx.part, grad)
        return grad, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _part: None, _record: None) -> Tensor:
        """Forward mode: the same view of the tangent."""
        return tangent.view_as(tangent)


def shown(part: Served, record: Record, root: Tensor) -> Tensor:
    """Hands out an output that one loss of this library reads, whole, with books.

    Args:
        part: Who reads it.
        record: The books.
        root: The output.

    Returns:
        Its view.
    """
    if torch._C._are_functorch_transforms_active():
        (found,) = split(part, Duties(record=record, token=False), [root])
    else:
        found = Alone.apply(root, part, record)
    return found  # type: ignore[no-any-return]


def split(part: Served, duties: Duties, roots: Sequence[Tensor]) -> Any:
    """Hands out the outputs along a layout.

    Args:
        part: Who reads what.
        duties: What the junction does besides; sinks are its own affair.
        roots: The output tensors.

    Returns:
        One view an edge, then the token, if duties ask for it.
    """
    if torch.compiler.is_compiling():
        return Split.apply(part, duties, *roots)
    if torch._C._are_functorch_transforms_active():
        return TransformedSplit.apply(part, duties, *roots)
    # A gradient that only a loss of this library sends need not exist as a tensor, unless it is booked or judged.
    unseen = part.closed and duties.record is None and duties.policy == "keep" and not duties.weights
    sinks = Sinks(part.layout, roots[0]) if unseen and Sinks.fit(part.layout, roots) else None
    handed_out = EagerSplit.apply(part, duties._replace(sinks=sinks) if sinks else duties, *roots)
    if sinks is not None:
        for number in part.closed:
            handed_out[number].headwise_sink = sinks.of_edge[number]
    return handed_out


def _token(like: Tensor) -> Tensor:
    return torch.zeros((), dtype=sum_dtype(like.dtype), device=like.device)


def _silenced(weights: Sequence[Tensor | float | None], grads: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
    """The gradients, where a weight is 0, without what is not finite: there 0 * inf is 0.

    What is finite there is 0 by itself, unless the loop went on from the term's bare value.
    """
    return [
        grad if grad is None or weight is None else torch.where(_is_spoiled(weight, grad), torch.zeros_like(grad), grad)
        for grad, weight in zip(grads, weights or (None,) * len(grads), strict=True)
    ]


def _is_spoiled(weight: Tensor | float, grad: Tensor) -> Tensor:
    spoiled = ~torch.isfinite(grad)
    return spoiled & (weight == 0) if isinstance(weight, Tensor) else spoiled


def _apply_policy(layout: Layout, policy: Policy, grads: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Drops every gradient of a term that sent one which is not finite, or raises.

    Each process judges what it sees: a backward pass never waits for another rank.
    """
    device = next((grad.device for grad in grads if grad is not None), torch.device("cpu"))
    with torch.no_grad():
        fine = torch.ones((), dtype=torch.bool, device=device)
        finite = [fine if grad is None else torch.isfinite(grad.detach()).all().to(device) for grad in grads]
    if policy == "raise":
        _raise_if_bad(layout, torch.stack(finite))
        return list(grads)
    kept: list[Tensor | None] = []
    for edge, grad in zip(layout.edges, grads, strict=True):
        same = [finite[number] for number, other in enumerate(layout.edges) if other.term == edge.term]
        keep = same[0] if len(same) == 1 else torch.stack(same).all()
        kept.append(None if grad is None else torch.where(keep.to(grad.device), grad, torch.zeros_like(grad)))
    return kept


def _raise_if_bad(layout: Layout, finite: Tensor) -> None:
    try:
        flags = finite.tolist()
    except RuntimeError:
        if not torch._C._are_functorch_transforms_active():
            raise
        raise ValueError(
            "on_nonfinite='raise' asks whether gradients are finite, and torch.func.vmap has no values to ask. Use "
            "'drop' there, or 'keep'"
        ) from None
    if not all(flags):
        guilty = "; ".join(
            f"term {layout.terms[edge.term]!r} at output {edge.path!r}"
            for edge, flag in zip(layout.edges, flags, strict=True)
            if not flag
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
