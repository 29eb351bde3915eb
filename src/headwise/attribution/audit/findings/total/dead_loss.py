"""A loss, or a summand of one, with a graph and no gradient in any batch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from headwise.attribution.audit.code.step import call_criterion
from headwise.attribution.audit.code.subject import Subject
from headwise.attribution.audit.findings.finding import Check, Finding, Open, Seen, counted
from headwise.attribution.audit.findings.total.detached_loss import told_values
from headwise.attribution.audit.measures.rows import Measured, Rows
from headwise.attribution.jacobians.held import kept_buffers, same_draw
from headwise.structure import mapped

_RELATIVE = 1e-5
_ELASTICITY = 1e-6
_ROUNDING = 1e-9
_REMEDY = (
    "Look for a mask or index that selects nothing (`.eq(2)` of a bool mask, a float or uint8 mask), a clamp or ReLU "
    "that is saturated, a rounding or argmax, or a softmax over one channel."
)


def _measure(measured: Measured, subject: Subject | None) -> dict[str, float]:
    """Per loss: how many percent it changes per percent of the outputs, at most; infinite where 0 is its minimum."""
    rows = measured.rows
    found = dict.fromkeys(_at_minimum(measured, subject), math.inf) if subject is not None else {}
    for name in measured.live.keys() - found.keys():
        read = [measured.outputs[path] for path in rows.read[name]]
        square = sum(float(tensor.detach().double().square().sum()) for tensor in read)
        scale = abs(rows.values[name]) or 1.0
        found[name] = rows.norm(name, rows.outputs) * square**0.5 / scale if read else 1.0
    return found


def _at_minimum(measured: Measured, subject: Subject) -> list[str]:
    """The losses that are 0 without a gradient, and not 0 on other outputs: a student that still equals its teacher."""
    rows = measured.rows
    still = [name for name in measured.live if rows.values[name] == 0 and not rows.norm(name)]
    if not still or not rows.outputs:
        return []
    moved = mapped(measured.step.outputs, _stretched)
    try:
        with same_draw(subject.model), kept_buffers(subject.model, subject.criterion):
            found = call_criterion(subject, moved, measured.step.batch).parts.terms
    except ValueError:  # the code objects to such outputs, or says nothing of them
        return []
    return [term.name for term in found if term.name in still and term.number != 0]


def _stretched(output: Tensor) -> Tensor:
    if not output.requires_grad:
        return output
    factors = torch.linspace(0.5, 1.5, output.numel(), dtype=output.dtype, device=output.device)
    return output.detach() * factors.reshape(output.shape)


def _judge(seen: Seen) -> Iterator[Finding | Open]:
    told = set()
    for name in seen.names:
        batches = [batch for batch in seen.holding(name) if name in batch.live]
        if not _is_judged(seen, name, batches):
            continue
        norms = [batch.norm(name, sites_of(batch)) for batch in batches]
        others = [_strongest(batch, name) for batch in batches]
        elastic = [
            own.get(name, 1.0) for batch, own in zip(seen.batches, seen.measured, strict=True) if batch in batches
        ]
        faint = all(
            0 < bend < _ELASTICITY and (len(batch.names) == 1 or norm <= _RELATIVE * strong)
            for norm, strong, bend, batch in zip(norms, others, elastic, batches, strict=True)
        )
        if any(norms) and not faint:
            continue
        if math.inf in elastic:
            why = f"it is 0 without a gradient in {seen.num}, and not 0 on other outputs"
            yield Open(f"dead-loss: {name}", why)
            continue
        told.add(name)
        values = [batch.values[name] for batch in seen.holding(name)]
        yield Finding(
            name,
            f"its gradient has norm {max(norms):.3g} over {counted(len(batches), 'batch', 'batches')} (the strongest "
            f"other loss: {max(others):.3g}), at every output, while its value {told_values(values)}",
            _REMEDY,
            {"gradient_norm": max(norms), "strongest_other": max(others), "batches": len(batches)},
        )
    yield from _dead_summands(seen, told)


def _is_judged(seen: Seen, name: str, batches: Sequence[Rows]) -> bool:
    model = seen.declared.network
    if not batches or seen.is_meant_zero(name):
        return False
    if any(each.loss == name for batch in batches for each in batch.nonfinite):
        return False
    # What reaches neither is detached.
    return any(batch.reached[name] & model or batch.norm(name, batch.outputs) > 0 for batch in batches)


def _dead_summands(seen: Seen, dead: set[str]) -> Iterator[Finding]:
    """Summands without a name, by the line that makes them."""
    strongest = max((each.norm for batch in seen.batches for each in batch.summands), default=0.0)
    lines = dict.fromkeys(each.line for batch in seen.batches for each in batch.summands if each.line)
    for line in lines:
        found = [each for batch in seen.batches for each in batch.summands if each.line == line]
        batches = sum(any(each.line == line for each in batch.summands) for batch in seen.batches)
        off = any(each.factor == 0 or not each.is_free for each in found)
        if off or max(each.norm for each in found) > _ROUNDING * strongest or any(b.nonfinite for b in seen.batches):
            continue
        if dead and len(seen.names) == 1:
            continue
        yield Finding(
            f"the summand of {line}",
            f"what the total adds at {line} has a gradient of norm {max(each.norm for each in found):.3g} in "
            f"{batches} of {seen.num}, at every output (the strongest summand: {strongest:.3g})",
            _REMEDY,
            {"gradient_norm": max(each.norm for each in found), "strongest_other": strongest, "batches": batches},
        )


def _strongest(batch: Rows, name: str) -> float:
    return max((batch.norm(other, sites_of(batch)) for other in batch.names if other != name), default=0.0)


def sites_of(batch: Rows) -> list[str]:
    """Outputs and parameters of the network."""
    return [*batch.outputs, *(group for group in batch.groups if group != "parameters of criterion")]


CHECK = Check("dead-loss", _judge, _measure)
