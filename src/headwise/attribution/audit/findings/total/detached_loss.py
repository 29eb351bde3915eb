"""A loss that reaches no parameter in any batch."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from headwise.attribution.apart.words import is_metric, says_loss
from headwise.attribution.audit.findings.finding import Check, Finding, Open, Seen, counted
from headwise.attribution.audit.measures.rows import TOTAL, Rows

_MOVES = 1e-3


def _judge(seen: Seen) -> Iterator[Finding | Open]:
    model = seen.declared.network
    for name in seen.names:
        batches = seen.holding(name)
        values = [batch.values[name] for batch in batches]
        live = [batch for batch in batches if name in batch.live]
        if any(batch.reached[name] & model for batch in batches) or _reads_frozen(seen, name):
            continue
        if live and _only_own_parameters(seen, name, values):
            continue
        if not live and not any(values):
            if not all(name in batch.numbers for batch in batches):
                yield Open(
                    f"detached-loss: {name}", f"it is 0 without a graph in {counted(len(batches), 'batch', 'batches')}"
                )
            continue
        if not live and _is_reported(seen, name):
            continue
        why = "its graph ends before the network" if live else "it has no graph"
        shows = ", so it shows in the total and trains nothing" if _shows(batches, name) else ", and trains nothing"
        yield Finding(
            name,
            f"reaches 0 of {counted(len(model), 'parameter', 'parameters')} in {len(batches)} of {seen.num}: {why}; "
            f"its value {told_values(values)}{shows}",
            "Compute it with tensors all the way from the outputs: without .item(), .data, .detach(), NumPy, "
            "torch.no_grad(), or a new torch.tensor(...) around it.",
            {"parameters_reached": 0, "batches": len(batches), "value": values[0]},
        )
    yield from _lost_total(seen)


def _lost_total(seen: Seen) -> Iterator[Finding]:
    """A total from which no gradient can flow to where those of the losses go."""
    model = seen.declared.network
    lost = [batch for batch in seen.batches if batch.live and _is_lost(batch, model)]
    if lost:
        yield Finding(
            TOTAL,
            f"0 of {len(seen.declared.parameters)} parameters are reached by what the total returns, in {len(lost)} of "
            f"{seen.num}, while {counted(len(lost[0].live), 'loss has a graph', 'losses have graphs')}",
            "Add up the loss tensors, not their .item() or detached values, and do not make a new tensor of the sum.",
            {"parameters_reached": 0, "batches": len(lost)},
        )


def _is_lost(batch: Rows, model: frozenset[str]) -> bool:
    if batch.total is None:
        return True
    reaches = any(batch.reached[name] & model for name in batch.live)
    return reaches and not batch.reached[TOTAL] & model and not batch.read[TOTAL]


def _reads_frozen(seen: Seen, name: str) -> bool:
    """Whether it reaches an output that is itself trained by no parameter the audit knows (all frozen)."""
    return not seen.declared.parameters and any(batch.norm(name, batch.outputs) > 0 for batch in seen.holding(name))


def _only_own_parameters(seen: Seen, name: str, values: list[float]) -> bool:
    """A regularizer of the criterion's own parameters does not depend on the batch."""
    own = any(batch.reached[name] & set(seen.declared.criterion_parameters) for batch in seen.holding(name))
    return own and max(values) - min(values) <= 1e-6 * max(map(abs, values)) and len(values) > 1


def _is_reported(seen: Seen, name: str) -> bool:
    """A number that the total does not use, not even with a weight, and that is not called a loss, is a metric."""
    batches = seen.holding(name)
    values = [batch.values[name] for batch in batches]
    weighed = max(values) - min(values) > _MOVES * max(map(abs, values)) and _shows(batches, name)
    unused = not weighed and any(not batch.is_sum and not _in_value(batch, name) for batch in batches)
    return (unused and not says_loss(name) and name not in seen.declared.regions) or is_metric(name)


def _shows(batches: Sequence[Rows], name: str) -> bool:
    """Whether the total's value holds the loss's, as far as the values of all batches tell."""
    if len(batches) > 1 and not any(batch.is_sum or batch.total is None for batch in batches):
        left = [_left(batch) / batch.values[name] for batch in batches if batch.values[name]]
        middle = statistics.median(left) if left else 0.0
        return abs(middle) > 1e-4 and all(abs(each / middle - 1) < 1e-2 for each in left)
    return all(batch.is_sum or _in_value(batch, name) for batch in batches)


def _left(batch: Rows) -> float:
    """What the total's value holds besides the losses in its graph."""
    return (batch.total or 0.0) - sum(batch.own(name) * batch.values[name] for name in batch.standings)


def _in_value(batch: Rows, name: str) -> bool:
    """Whether the total's value needs this loss to add up."""
    if batch.total is None:
        return True
    own, scale = batch.values[name], max(abs(batch.total), 1e-12)
    rest = sum(value for other, value in batch.values.items() if other in batch.live)
    if abs(rest + own - batch.total) < abs(rest - batch.total) - 1e-6 * scale:
        return True
    # Where all losses are divided by one number, so is this one.
    factors = {batch.own(other) for other in batch.standings}
    return len(factors) == 1 and bool(own) and abs(_left(batch) / own / factors.pop() - 1) < 1e-4


def told_values(values: list[float]) -> str:
    """A loss's values in words."""
    if max(values) - min(values) <= 1e-7 * max(map(abs, values)):
        return f"is {values[0]:.6g}"
    return f"moves between {min(values):.6g} and {max(values):.6g}"


CHECK = Check("detached-loss", _judge)
