"""A weight that is declared and never applied, applied twice, or declared for a loss that nothing computes."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Iterator, Mapping

import torch

from headwise.attribution.audit.code.callables import callables_behind
from headwise.attribution.audit.code.step import total_of
from headwise.attribution.audit.code.subject import Subject
from headwise.attribution.audit.code.weights import Tried, exchanged, orphans, tried_weights
from headwise.attribution.audit.findings.finding import Check, Finding, Open, Seen, counted
from headwise.attribution.audit.measures.literals import literal_factors
from headwise.attribution.audit.measures.rows import Measured, Rows
from headwise.attribution.jacobians.held import kept_buffers
from headwise.attribution.text import first_line
from headwise.structure import mapped

_SAME = 1e-3
_COMMON = (0.25, 0.5, 1.0, 2.0, 4.0)
_LAYER = re.compile(r"_\d+$")

Own = tuple[Callable[[], float], Mapping[str, tuple[float, ...]]]


def _measure(measured: Measured, subject: Subject | None) -> Own | None:
    """How the total is computed again, and the numbers that the losses were multiplied by last."""
    if subject is None:
        return None
    batch = measured.step.batch
    outputs = mapped(measured.step.outputs, lambda t: t.detach().clone().requires_grad_(t.requires_grad))

    def total() -> float:
        with kept_buffers(subject.model, subject.criterion), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            found = total_of(subject, outputs, batch)
        return math.nan if found is None else float(found.detach())

    return total, {name: literal_factors(scalar) for name, scalar in measured.live.items()}


def _judge(seen: Seen) -> Iterator[Finding | Open]:
    told = {finding.subject for finding in seen.told if finding.kind == "sum-mismatch"}
    if seen.plan is not None:
        for found in _tried(seen, seen.plan):
            if isinstance(found, Open) or found.subject not in told:
                told |= {found.subject} if isinstance(found, Finding) else set()
                yield found
    for found in (*_declared(seen), *_literals(seen)):
        if found.subject not in told:
            told.add(found.subject)
            yield found


def _tried(seen: Seen, subject: Subject) -> Iterator[Finding | Open]:
    """Every weight in the code, by what the total does when it changes."""
    names = tuple(dict.fromkeys(name for batch in seen.batches for name in (*batch.names, *batch.logs)))
    known = len(names)
    if known == 1:
        # Of a single number nothing has a name but the outputs that it was computed from.
        names += tuple(path for path in seen.batches[0].outputs if path != names[0])
    functions = callables_behind(subject.criterion, subject.total, model=subject.model)
    yield from _orphaned(functions, names)
    try:
        tried = tried_weights(functions, names, lambda: math.fsum(total() for total, _ in seen.measured))
    except Exception as error:
        # Trying other weights is beyond what the code was written for; if it objects, its weights stay unjudged.
        yield Open("sum-mismatch (weights)", first_line(error))
        return
    values = {name: math.fsum(batch.values.get(name, math.nan) for batch in seen.batches) for name in seen.names}
    instead = exchanged(tried, values)
    yield from (_misplaced(each, instead[each.label]) for each in tried if each.label in instead)
    for fault in (each for each in tried if each.is_fault):
        moved = fault.loss in names[known:] or any(
            {**batch.values, **batch.logs}.get(fault.loss) for batch in seen.batches
        )
        if moved and not (fault.power == 0 and _is_applied(seen, fault)):
            yield _fault(fault)


def _fault(fault: Tried) -> Finding:
    never = fault.power == 0
    return Finding(
        fault.loss,
        f"weight {fault.label} = {fault.value:g} {'never applied' if never else 'applied twice'}: the total changes "
        f"with power {fault.power:.2g} of the weight (1 expected) when it is set to 1, 2 and 4",
        "Multiply the loss by it, in one place."
        if never
        else "Multiply by it in the criterion or in the total, not in both.",
        {"weight": fault.value, "power": fault.power},
    )


def _misplaced(weight: Tried, loss: str) -> Finding:
    return Finding(
        weight.loss,
        f"weight {weight.label} = {weight.value:g} multiplies {loss}: the total grows by that loss when it is set from "
        "1 to 2",
        "Take weights by the loss's key; two dicts, or a dict and a list, that are zipped must have one order.",
        {"weight": weight.value, "slope": weight.slope},
    )


def _orphaned(functions: list[object], names: tuple[str, ...]) -> Iterator[Finding]:
    """Weights in a table of losses whose key no loss has; layers of a loss that is computed elsewhere are no fault."""
    for label, key, value in orphans(functions, names):
        if _LAYER.sub("", key) in names:
            continue
        yield Finding(
            label,
            f"weight {label} = {value:g} weighs nothing: no loss is called {key!r}; there are {', '.join(names)}",
            "Spell the key like the loss's. If the loss is missing, look for one that is returned under another's key "
            "and overwrites it.",
            {"weight": value},
        )


def _is_applied(seen: Seen, fault: Tried) -> bool:
    """Whether the number is a factor in the total or in the loss after all, kept where it was not found."""
    found = [batch.factor(fault.loss) for batch in seen.batches]
    found += [factor for _, literals in seen.measured for factor in literals.get(fault.loss, ())]
    return any(v is not None and math.isclose(v, fault.value, rel_tol=1e-3) for v in found)


def _declared(seen: Seen) -> Iterator[Finding]:
    """Weights that entries or the subject declare, against the factors in the total."""
    declared = seen.declared.weights
    for name in seen.names:
        ratios = []
        for batch in seen.holding(name):
            weight, factor = declared.get(name, batch.weights.get(name)), batch.factor(name)
            if weight is None or weight in (0.0, 1.0) or factor is None or batch.total is None:
                continue
            # An entry's gradient is that of its weighted value, the subject's weights are those of bare values.
            held = 1.0 if name in declared else weight
            ratios.append(factor * held / _scale(seen, batch, name))
        weight = seen.declared.weights.get(
            name, next((b.weights[name] for b in seen.batches if name in b.weights), 1.0)
        )
        if not ratios:
            continue
        middle = statistics.median(ratios)
        for power, told in ((0.0, "never applied"), (2.0, "applied twice")):
            if abs(middle / weight**power - 1) < 0.01:
                yield Finding(
                    name,
                    f"weight {weight:g} {told}: the factor in the total is {middle:.4g} over "
                    f"{counted(len(ratios), 'batch', 'batches')}",
                    "Multiply the loss by its weight once.",
                    {"weight": weight, "factor": middle},
                )


def _scale(seen: Seen, batch: Rows, name: str) -> float:
    """What the loop multiplies all losses by (loss scale, accumulation), told from the others."""
    others = []
    for other in batch.standings:
        weight, factor = seen.declared.weights.get(other, 1.0) if seen.declared.weights else 1.0, batch.factor(other)
        if other != name and weight and factor:
            others.append(factor / weight)
    return statistics.median(others) if others and all(abs(o / others[0] - 1) < _SAME for o in others) else 1.0


def _literals(seen: Seen) -> Iterator[Finding]:
    """A factor in the total that is also the last factor of the loss itself."""
    for name in seen.names:
        pairs = list(zip(seen.batches, seen.measured, strict=True))
        pairs = [(batch, own) for batch, own in pairs if own and name in batch.live and not batch.is_sum]
        every = [[f for other in batch.standings if (f := batch.factor(other))] for batch, _ in pairs]
        own = [factor for batch, _ in pairs if (factor := batch.factor(name))]
        if not own or any(abs(value / own[0] - 1) > _SAME for value in own):
            continue
        uniform = all(abs(value / own[0] - 1) < _SAME for each in every for value in each)
        match = [f for f in pairs[0][1][1].get(name, ()) if abs(f / own[0] - 1) < _SAME]
        if uniform or not match or any(abs(abs(own[0]) - common) < _SAME for common in _COMMON):
            continue
        yield Finding(
            name,
            f"weight {match[0]:g} applied twice: the loss is multiplied by {match[0]:g} before it is returned, and its "
            f"factor in the total is {own[0]:.4g} again, over {counted(len(own), 'batch', 'batches')}",
            "Multiply by the weight in the criterion or in the total, not in both.",
            {"weight": match[0], "factor": own[0]},
        )


CHECK = Check("sum-mismatch", _judge, _measure)
