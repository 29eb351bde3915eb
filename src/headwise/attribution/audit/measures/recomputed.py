"""Losses that a total holds although their graphs share nothing: computed a second time, told by their gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from headwise.attribution.apart.sums.solve import flattened, mixture
from headwise.attribution.audit.measures.account import Addend, Standing

_TWIN = 1e-5
_FEW = 8

Row = list[Tensor | None]


@dataclass(frozen=True)
class Again:
    """What a total holds computed a second time.

    Attributes:
        factors: Losses outside of its graph whose gradient is a sum of its summands' gradients, with their factor.
        twins: Losses in its graph to which further summands are equal, and how many.
        repeats: Summands without a name that it adds several times: the line, and how often.
    """

    factors: Mapping[str, float] = field(default_factory=dict)
    twins: Mapping[str, int] = field(default_factory=dict)
    repeats: tuple[tuple[str, int], ...] = ()


def recomputed(
    names: Sequence[str],
    standings: Mapping[str, Standing],
    summands: Sequence[Addend],
    rows: Sequence[Row],
    at_outputs: Sequence[Row],
    outputs: Sequence[Tensor],
) -> Again:
    """Compare the gradients of the summands with those of the losses.

    Args:
        names: The losses, in the order of `at_outputs`.
        standings: How each loss stands in the total.
        summands: What the total adds.
        rows: The summands' gradients at the outputs.
        at_outputs: The losses' gradients there.
        outputs: The outputs.

    Returns:
        What was found.
    """
    free = [i for i, each in enumerate(summands) if each.is_free and each.factor]
    if not free:
        return Again()
    basis = torch.stack([flattened(rows[i], outputs) for i in free])
    losses = {name: flattened(at_outputs[k], outputs) for k, name in enumerate(names) if name in standings}
    factors, used = {}, set()
    for name, row in losses.items():
        # Of few elements anything is a sum.
        mix = {} if standings[name].is_in or row.numel() < 4 * len(basis) else mixture(basis, row)
        if mix:
            factors[name] = min(float(summands[free[i]].factor or 0.0) / value for i, value in mix.items())
            used |= set(mix)
    twins: dict[str, int] = {}
    repeats = [(summands[i].line, summands[i].times) for i in free if summands[i].times > 1]
    for k, i in enumerate(free):
        if not _is_telling(rows[i]) or k in used:
            continue
        others = [name for name in losses if standings[name].is_in and name not in summands[i].within]
        same = [name for name in others if _is_alike(losses[name], basis[k])]
        if same:
            twins[same[0]] = twins.get(same[0], 0) + 1
        elif any(_is_equal(basis[other], basis[k]) for other in range(k)):
            repeats.append((summands[i].line, 2))
    return Again(factors, twins, tuple(repeats))


def _is_alike(left: Tensor, right: Tensor) -> bool:
    scale = float(left.norm()) * float(right.norm())
    return scale > 0 and float(left @ right) / scale > 1 - _TWIN


def _is_equal(left: Tensor, right: Tensor) -> bool:
    return _is_alike(left, right) and abs(float(left.norm()) / float(right.norm()) - 1) < _TWIN


def _is_telling(row: Row) -> bool:
    """Whether a gradient is unlike those of other losses: many elements, not all of one size as those of L1 are."""
    known = [grad.detach().abs().flatten() for grad in row if grad is not None]
    sizes = torch.cat(known) if known else torch.zeros(0)
    sizes = sizes[sizes > 0]
    return len(sizes) >= _FEW and bool(sizes.max() > 1.01 * sizes.min())
