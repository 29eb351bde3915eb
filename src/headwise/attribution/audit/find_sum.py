"""Findings on the sum: is what backward is called on made of the losses, each as often and as heavy as meant?"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from headwise.attribution.audit.facts import TOTAL, BatchFacts, Facts
from headwise.attribution.audit.finding import Finding
from headwise.attribution.audit.losses import is_metric_name

_NOTHING = 1e-4
_SAME = 1e-3
_LEVEL = 1e-5
_COMMON = (0.25, 0.5, 1.0, 2.0, 4.0)


def sum_mismatches(facts: Facts) -> Iterator[Finding]:
    """Losses that the total drops, counts twice, or weighs wrongly."""
    told: set[str] = set()
    for name in facts.names:
        batches = [batch for batch in facts.holding(name) if name in batch.live and batch.total is not None]
        if not batches or all(batch.default_total for batch in batches):
            continue
        found = _twice(name, batches) or _dropped(facts, name, batches)
        if found is not None:
            told.add(name)
            yield found
    for finding in (*_weights(facts), *_declared(facts), *_literals(facts)):
        if finding.subject not in told:
            told.add(finding.subject)
            yield finding
    yield from _logged(facts, told)


def coefficients(batch: BatchFacts) -> dict[str, float]:
    """With what factor each loss's gradient is in the total's, by least squares; without those that cannot be told."""
    rows = [row for row, name in enumerate(batch.names) if name in batch.live]
    gram = sum_of(batch)
    scale = gram.diagonal().clamp(min=0).sqrt()
    kept = [row for row in rows if scale[row] > 0]
    if not kept:
        return {}
    index = torch.tensor(kept)
    norms = scale[index]
    normal = gram[index][:, index] / norms[:, None] / norms[None]
    right = gram[index, -1] / norms
    values, vectors = torch.linalg.eigh(normal)
    good = values > 1e-8 * values.max()
    solved = vectors[:, good] @ ((vectors[:, good].T @ right) / values[good])
    open_ones = vectors[:, ~good].square().sum(1)
    return {batch.names[row]: float(solved[i] / norms[i]) for i, row in enumerate(kept) if float(open_ones[i]) < 1e-6}


def sum_of(batch: BatchFacts) -> Tensor:
    """The inner products over outputs, and over parameters where a loss has none at the outputs."""
    outputs = [batch.gram[site] for site in batch.outputs]
    at_outputs = torch.stack(outputs).sum(0) if outputs else None
    size = len(batch.names) + 1
    if at_outputs is not None:
        live = [row for row, name in enumerate(batch.names) if name in batch.live]
        if all(at_outputs[row, row] > 0 for row in live):
            return at_outputs
    groups = [batch.gram[site] for site in batch.groups]
    at_groups = torch.stack(groups).sum(0) if groups else torch.zeros(size, size, dtype=torch.float64)
    return at_groups if at_outputs is None else at_outputs + at_groups


def _paths(name: str, batches: list[BatchFacts]) -> int:
    return max((batch.paths.get(name, 0) for batch in batches), default=0)


def _twice(name: str, batches: list[BatchFacts]) -> Finding | None:
    times = [batch.paths.get(name, 0) + batch.twins.get(name, 0) for batch in batches]
    if min(times) < 2:
        return None
    found = _median([coefficients(batch).get(name) for batch in batches])
    told = "" if found is None else f"; least squares give its gradient the factor {found:.4g} in the total's"
    again = max(batch.twins.get(name, 0) for batch in batches)
    how = f", {again} of them computed a second time" if again else ""
    return Finding(
        "sum-mismatch",
        name,
        f"counted {'twice' if times[0] == 2 else f'{times[0]} times'}: the total adds it {times[0]} times{how} in "
        f"{len(batches)} batches{told}",
        "Add it once. If it is meant to weigh more, write the weight as a factor. Look for a total that is summed "
        "together with its parts, or a loop and a line that both add it.",
        {"times": times[0], "coefficient": found, "batches": len(batches)},
    )


def _dropped(facts: Facts, name: str, batches: list[BatchFacts]) -> Finding | None:
    telling = [batch for batch in batches if _can_tell(batch, name)]
    if (
        not telling
        or facts.declared_zero(name)
        or facts.only_reported(name)
        or any(batch.paths.get(name, 0) for batch in batches)
    ):
        return None
    found = [coefficients(batch).get(name) for batch in telling]
    if any(value is None and not _unconnected(batch, name) for value, batch in zip(found, telling, strict=True)):
        return None
    strongest = [max((abs(v) for v in coefficients(batch).values()), default=1.0) for batch in telling]
    if any(abs(value or 0.0) > _NOTHING * strong for value, strong in zip(found, strongest, strict=True)):
        return None
    value = _median(found)
    return Finding(
        "sum-mismatch",
        name,
        f"dropped: its gradient is in the total's with the factor {value or 0.0:.2g} over {len(telling)} batches, "
        f"while its own norm is {max(batch.norm(name) for batch in telling):.4g}",
        "Add it to the total. Look for a misspelt key, a `.get` with a default, a list it was never appended to, or an "
        "assignment (=) where += was meant.",
        {"coefficient": value or 0.0, "batches": len(telling)},
    )


def _can_tell(batch: BatchFacts, name: str) -> bool:
    return batch.norm(name) > 0 and batch.norm(TOTAL) > 0


def _unconnected(batch: BatchFacts, name: str) -> bool:
    """Collinear losses leave a factor open, but one that shares nothing with the total has none."""
    reached = batch.reached[name]
    sites = [path for path in batch.outputs if batch.norm(name, [path]) > 0 and batch.norm(TOTAL, [path]) > 0]
    return not sites and not reached & batch.reached[TOTAL]


def _weights(facts: Facts) -> Iterator[Finding]:
    for loss, label, value, power in facts.weight_faults:
        never = power == 0
        yield Finding(
            "sum-mismatch",
            loss,
            f"weight {label} = {value:g} {'never applied' if never else 'applied twice'}: the total changes with power "
            f"{power:.2g} of the weight (1 expected) when it is set to 1, 2 and 4",
            "Multiply the loss by it, in one place."
            if never
            else "Multiply by it in the criterion or in the total, not in both.",
            {"weight": value, "power": power},
        )


def _declared(facts: Facts) -> Iterator[Finding]:
    """Weights that entries or the subject declare, against the factors in the total."""
    for name in facts.names:
        ratios = []
        for batch in facts.holding(name):
            weight = facts.declared.get(name, batch.weights.get(name))
            found = coefficients(batch) if batch.total is not None else {}
            if weight is None or weight in (0.0, 1.0) or name not in found:
                continue
            # An entry's gradient is that of its weighted value, the subject's weights are those of bare values.
            held = 1.0 if name in facts.declared else weight
            ratios.append(found[name] * held / _scale(facts, batch, found, name))
        weight = facts.declared.get(name, next((b.weights[name] for b in facts.batches if name in b.weights), 1.0))
        if not ratios:
            continue
        factor = statistics.median(ratios)
        for power, told in ((0.0, "never applied"), (2.0, "applied twice")):
            if abs(factor / weight**power - 1) < 0.01:
                yield Finding(
                    "sum-mismatch",
                    name,
                    f"weight {weight:g} {told}: the factor in the total is {factor:.4g} over {len(ratios)} batches",
                    "Multiply the loss by its weight once.",
                    {"weight": weight, "factor": factor},
                )


def _scale(facts: Facts, batch: BatchFacts, found: Mapping[str, float], name: str) -> float:
    """What the loop multiplies all losses by (loss scale, accumulation), told from the others."""
    others = []
    for other, value in found.items():
        weight = facts.declared.get(other, 1.0) if facts.declared else 1.0
        if other != name and weight:
            others.append(value / weight)
    return statistics.median(others) if others and all(abs(o / others[0] - 1) < _SAME for o in others) else 1.0


def _literals(facts: Facts) -> Iterator[Finding]:
    """A factor in the total that is also the last factor of the loss itself."""
    for name in facts.names:
        batches = [batch for batch in facts.holding(name) if name in batch.live and batch.total is not None]
        batches = [batch for batch in batches if not batch.default_total]
        found = [coefficients(batch) for batch in batches]
        own = [each[name] for each in found if name in each]
        if not own or any(abs(value / own[0] - 1) > _SAME for value in own if own[0]):
            continue
        uniform = all(abs(v / own[0] - 1) < _SAME for each in found for v in each.values()) if own[0] else True
        match = [f for f in batches[0].factors.get(name, ()) if own[0] and abs(f / own[0] - 1) < _SAME]
        if uniform or not match or any(abs(abs(own[0]) - common) < _SAME for common in _COMMON):
            continue
        yield Finding(
            "sum-mismatch",
            name,
            f"weight {match[0]:g} applied twice: the loss is multiplied by {match[0]:g} before it is returned, and its "
            f"factor in the total is {own[0]:.4g} again, over {len(own)} batches",
            "Multiply by the weight in the criterion or in the total, not in both.",
            {"weight": match[0], "factor": own[0]},
        )


def _logged(facts: Facts, told: set[str]) -> Iterator[Finding]:
    """Where the parts are only reported: which change of one of them makes them add up to the total?"""
    repeats = sorted(set.intersection(*(set(batch.repeats) for batch in facts.batches)))
    named = False
    for name, times in _fits(facts).items():
        if times == 0 and is_metric_name(name):
            continue
        if times == 2 and not repeats and any(batch.factors.get(TOTAL) for batch in facts.batches):
            continue
        named = True
        yield Finding(
            "sum-mismatch",
            name,
            f"{'dropped' if times == 0 else 'counted twice'}: over {len(facts.batches)} batches the reported losses "
            f"add up to the total only if it is taken {times} times",
            "Add it to the total once.",
            {"times": times, "batches": len(facts.batches)},
        )
    for where, times in repeats if not named and not told else ():
        yield Finding(
            "sum-mismatch",
            f"a term at {where}",
            f"counted {times} times: the total adds one and the same number {times} times, in "
            f"{len(facts.batches)} batches",
            "Add it once, or write a weight as a factor.",
            {"times": times, "batches": len(facts.batches)},
        )


def _fits(facts: Facts) -> dict[str, int]:
    """Of the reported losses the one that must be taken 0 or 2 times for all batches to add up."""
    batches = [batch for batch in facts.batches if batch.total is not None]
    logs = [{name: value for name, value in b.logs.items() if not is_metric_name(name)} for b in batches]
    if len(logs) == 0 or any(len(log) < 2 or log.keys() != logs[0].keys() for log in logs):
        return {}
    if any(len(batch.names) > 1 for batch in batches):
        return {}
    totals = [batch.total or 0.0 for batch in batches]
    if _add_up(totals, [sum(log.values()) for log in logs]):
        return {}
    found = {}
    for name in logs[0]:
        moves = any(abs(log[name]) > 1e-3 * abs(total) for log, total in zip(logs, totals, strict=True))
        for times in (0, 2):
            if moves and _add_up(totals, [sum(log.values()) + (times - 1) * log[name] for log in logs]):
                found[name] = times
    return found if len(found) == 1 else {}


def _add_up(totals: list[float], sums: list[float]) -> bool:
    return all(abs(t - s) <= _LEVEL * max(abs(t), abs(s), 1e-12) for t, s in zip(totals, sums, strict=True))


def _median(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return statistics.median(known) if known else None
