"""A loss of the user's that averages or broadcasts, found on its first call: a batch twice must cost twice as much."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from headwise.criterion.binding.plan import Plan
from headwise.criterion.junctions.sink import view
from headwise.criterion.sums.stand_in import out_of_turn, stand_in
from headwise.criterion.terms.term import AnyTerm, Term
from headwise.declaration import declaration_of

# How near to each other the values of a batch and of the same batch twice are, if the loss averages.
_SAME = 1e-2
# What grows by less is no sum of samples, be it smoothed (a dice) or a root (a norm, of which twice costs 1.41).
_LESS = 1.5


def warn_of_averages(plan: Plan, outputs: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
    """Warns once of each loss that averages over the batch, for its mean would be divided once more.

    Args:
        plan: What the terms read; the first level is tried.
        outputs: The leaves of the outputs.
        targets: The leaves of the targets.
    """
    for term, calls, reads in zip(plan.terms, plan.calls, plan.bindings, strict=True):
        if _must_probe(term):
            edges = [plan.layout.edges[edge] for edge in calls[0]]
            views = [view(outputs[plan.roots[edge.root]].detach(), edge) for edge in edges]
            _probe(term, views, partial(reads[0], targets))


def _must_probe(term: AnyTerm) -> bool:
    """Whether a loss is to be tried: a function of the user's whose sum is divided by a count."""
    if not isinstance(term, Term) or term.is_constant or term.function is not term.loss:
        return False
    return declaration_of(term.loss).count is None and "probed" not in vars(term)


def _probe(
    term: AnyTerm, outputs: list[Tensor], read_targets: Callable[[], tuple[list[Tensor], Tensor | None]]
) -> None:
    try:
        read, mask = read_targets()
        call = partial(term.call, function=stand_in(term.function))
        ratio = _cost_of_twice(call, outputs, read, mask)
        if math.isnan(ratio):  # half a batch may cost nothing, be it masked
            ratio = _cost_of_twice(call, outputs, read, mask, whole=True)
    except Exception:  # what it refuses, the call itself will tell
        vars(term)["probed"] = True
        return
    if not math.isfinite(ratio):
        return
    vars(term)["probed"] = True
    if abs(ratio - 1.0) <= _SAME:
        _warn(
            f"term {term.name!r}: its loss averages (half a batch given twice costs what the half does, not twice as "
            "much), and is divided by a count once more. Return a sum, or give normalizer=1.0 to keep the mean"
        )
    elif 0 < ratio < _LESS:
        _warn(
            f"term {term.name!r}: its loss is no sum over samples (half a batch given twice costs {ratio:.3g} times "
            "what the half does, not twice as much), and is divided by a count. Return a sum, or give "
            "normalizer=1.0 to keep what the loss returns"
        )
    elif abs(ratio - 4.0) <= _SAME and (shapes := _spread(outputs, read)):
        _warn(
            f"term {term.name!r}: its loss compares each sample with every other: half a batch given twice costs four "
            f"times as much, for output and target are spread over each other: shapes {shapes[0]} and {shapes[1]}. "
            "Give them one shape, by unsqueeze or squeeze"
        )
    elif isinstance(term, Term) and abs(ratio - 2.0) <= _SAME:
        dim = _averaged_dimension(term, call, outputs, read, mask)
        if dim is not None:
            _warn(
                f"term {term.name!r}: its loss averages within a sample (what dimension {dim} holds, given twice, "
                "costs what it does once), and is divided by a count that doubles. Return a sum, or give a "
                "normalizer that does not count that dimension, such as len for the number of samples"
            )


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=9)


def _averaged_dimension(
    term: Term, call: Callable[..., Any], outputs: list[Tensor], targets: list[Tensor], mask: Tensor | None
) -> int | None:
    """A dimension behind the first that the count counts and over which the loss averages; None if there is none."""
    for dim in range(1, outputs[0].dim()):
        size = outputs[0].shape[dim]
        if not any(each.dim() > dim and each.shape[dim] == size for each in targets):
            continue
        try:
            cost = _cost_of_twice(call, outputs, targets, mask, dim)
            count = _cost_of_twice(partial(_count, term), outputs, targets, mask, dim)
        except Exception:  # as of a loss for which that size is fixed
            continue
        if abs(cost - 1.0) <= _SAME and abs(count - 2.0) <= _SAME:
            return dim
    return None


def _count(term: Term, _: list[Tensor], targets: list[Tensor], mask: Tensor | None) -> Tensor:
    return torch.as_tensor(term.count(targets, mask), dtype=torch.float64)


def _spread(outputs: list[Tensor], targets: list[Tensor]) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """An output and a target that broadcast to more elements than either has, by their shapes; None where none do."""
    for output in outputs:
        for target in targets:
            try:
                both = torch.broadcast_shapes(output.shape, target.shape).numel()  # type: ignore[no-untyped-call]
            except RuntimeError:
                continue
            if both > max(output.numel(), target.numel()):
                return tuple(output.shape), tuple(target.shape)
    return None


def _cost_of_twice(
    call: Callable[..., Any],
    outputs: list[Tensor],
    targets: list[Tensor],
    mask: Tensor | None,
    dim: int = 0,
    *,
    whole: bool = False,
) -> float:
    """The loss, or count, of a part of what a dimension holds given twice, over that of the part; NaN if unknown."""
    size = outputs[0].shape[dim] if outputs[0].dim() > dim else 0
    # One channel of two or three would be spread over what a loss holds a number a channel of.
    part = size if whole or (dim > 0 and size < 4) else size // 2
    if part < 1 or any(type(each) is not Tensor or each.is_meta for each in outputs):
        return math.nan

    def repeated(tensor: Tensor, times: int) -> Tensor:
        alike = tensor.dim() > dim and tensor.shape[dim] == size
        return torch.cat([tensor.narrow(dim, 0, part)] * times, dim) if alike else tensor

    def value(times: int) -> float:
        reads, read = ([repeated(each, times) for each in several] for several in (outputs, targets))
        found = call(reads, read, None if mask is None else repeated(mask, times))
        return float(found) if isinstance(found, Tensor) and found.is_floating_point() else math.nan

    with out_of_turn(outputs[0]):
        once = value(1)
        ratio = value(2) / once if once else math.nan
        is_odd = all(abs(ratio - each) > _SAME for each in (1.0, 2.0, 4.0))
        return math.nan if is_odd and value(1) != once else ratio  # a loss that draws costs what it likes
