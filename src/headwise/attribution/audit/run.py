"""Audit somebody's training code: measure every batch, then judge all of them together."""

from __future__ import annotations

import fnmatch
import math
import os
import statistics
import warnings
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from headwise.attribution.audit.callables import callables_behind
from headwise.attribution.audit.conduct import book_conduct
from headwise.attribution.audit.evaluate import Evaluation, call_criterion, evaluate
from headwise.attribution.audit.facts import BatchFacts, Facts
from headwise.attribution.audit.find_balance import conflicts, cosine, dominances
from headwise.attribution.audit.find_conduct import (
    grad_modes,
    host_syncs,
    mutated_inputs,
    random_draws,
    split_variants,
)
from headwise.attribution.audit.find_place import nonfinite_gradients, outside_masks, rotated_names
from headwise.attribution.audit.find_reach import (
    dead_losses,
    detached_losses,
    lost_totals,
    unreached_parameters,
    untrained_outputs,
)
from headwise.attribution.audit.find_sum import coefficients, sum_mismatches
from headwise.attribution.audit.finding import Finding
from headwise.attribution.audit.guard import held_still, kept_buffers_of
from headwise.attribution.audit.losses import plain_name, take_apart
from headwise.attribution.audit.measure import channel_dim, measure
from headwise.attribution.audit.report import AuditReport
from headwise.attribution.audit.structure import resolve
from headwise.attribution.audit.subject import GraphSubject, Subject, as_subject
from headwise.attribution.audit.weights import WeightFault, declared_zero, weight_faults
from headwise.structure import by_path, mapped

_JUDGES: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    nonfinite_gradients, detached_losses, lost_totals, dead_losses, sum_mismatches, rotated_names, outside_masks,
    mutated_inputs, grad_modes, untrained_outputs, unreached_parameters, dominances, conflicts, split_variants,
    random_draws, host_syncs,
)  # fmt: skip
_NEEDS_CALLS = ("outside-mask", "mutated-input", "grad-mode", "split-variant", "random-draw", "host-sync")


def audit(subject: Any, *, strict: bool = False) -> AuditReport:
    """Look for what trains wrongly in training code that returns a loss, or a tuple, list or dict of losses.

    The code runs on copies: parameters, buffers, gradients, modes, random state and grad mode end as they began.
    Each kind is judged over all batches, by numbers relative to the losses' own.

    Args:
        subject: A `Subject`, a dict with its fields, or ``(model, losses)`` or ``(model, outputs, losses)`` of one
            step that was computed already.
        strict: Whether notes set the exit code.

    Returns:
        The findings, and what could not be audited.

    Raises:
        ValueError: The subject is not understood, or its code raises; the message has the line.
    """
    plan = as_subject(subject)
    with warnings.catch_warnings(record=True) as caught:
        # The code runs many times; what it warns of is told once, in the report.
        warnings.simplefilter("always")
        if isinstance(plan, GraphSubject):
            with held_still(plan.model):
                facts = _graph_facts(plan)
        else:
            with held_still(plan.model, *callables_behind(plan.criterion, plan.total, model=plan.model)):
                facts = _subject_facts(plan)
    caught = [each for each in caught if not each.filename.startswith(os.path.dirname(__file__))]
    told = {f"{os.path.basename(w.filename)}:{w.lineno}": str(w.message).splitlines()[0] for w in reversed(caught)}
    return _report(facts, strict, tuple(f"{place} {text}" for place, text in reversed(told.items())))


def _graph_facts(plan: GraphSubject) -> Facts:
    parameters, frozen = _parameters(plan.model, ())
    found = Evaluation(None, plan.outputs, by_path(plan.outputs), take_apart(plan.losses), None, True)
    live = [term.scalar for term in found.parts.terms if term.scalar is not None]
    found.default_total = found.parts.total is None
    found.total = (
        found.parts.total.scalar if found.parts.total is not None else sum(live[1:], live[0]) if live else None
    )
    facts = measure(found, parameters, {}, plan.model)
    reason = "the losses were computed already: give a dict with model, batches and criterion"
    sizes = {name: parameter.numel() for name, parameter in parameters.items()}
    return Facts((facts,), sizes, tuple(frozen), unaudited=dict.fromkeys(_NEEDS_CALLS, reason))


def _subject_facts(plan: Subject) -> Facts:
    parameters, frozen = _parameters(plan.model, plan.frozen)
    own = _criterion_parameters(plan)
    batches, regions, replays = [], {}, []
    for batch in plan.first_batches():
        first = evaluate(plan, batch)
        facts = measure(first, parameters | own, plan.masks, plan.model)
        book_conduct(facts, plan, batch, first)
        batches.append(facts)
        regions.update(_regions(plan, first))
        replays.append(Evaluation(first.batch, _leaves(first.outputs), {}, first.parts, None, True))
    unaudited = {kind: reason for facts in batches for kind, reason in facts.unaudited.items()}
    faults, declared = _weights(plan, batches, replays, unaudited)
    own_names = _own_names(plan.reads, "reads", batches, unaudited)
    regions = {own_names[name]: region for name, region in regions.items() if name in own_names}
    sizes = {name: parameter.numel() for name, parameter in parameters.items()}
    return Facts(
        tuple(batches),
        sizes,
        tuple(frozen),
        regions,
        {name: p.numel() for name, p in own.items()},
        declared,
        faults,
        unaudited,
    )


def _parameters(model: nn.Module, frozen: Any) -> tuple[dict[str, Tensor], list[str]]:
    """Those to be trained, and the names of the others."""
    patterns = [frozen] if isinstance(frozen, str) else list(frozen)
    trained: dict[str, Tensor] = {}
    still = []
    for name, parameter in model.named_parameters():
        meant = any(fnmatch.fnmatchcase(name, p) or name.startswith(f"{p.rstrip('.*')}.") for p in patterns)
        if meant or not parameter.requires_grad:
            still.append(name)
        else:
            trained[name] = parameter
    return trained, still


def _criterion_parameters(plan: Subject) -> dict[str, Tensor]:
    """Learnable parameters of the criterion; of modules behind a function their own (the others may be a teacher's)."""
    taken = {id(parameter) for parameter in plan.model.parameters()}
    patterns = [plan.frozen] if isinstance(plan.frozen, str) else plan.frozen
    found: dict[str, Tensor] = {}
    for item in callables_behind(plan.criterion, plan.total, model=plan.model):
        if not isinstance(item, nn.Module):
            continue
        for name, parameter in item.named_parameters("criterion", recurse=item is plan.criterion):
            frozen = any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
            if parameter.requires_grad and not frozen and id(parameter) not in taken:
                taken.add(id(parameter))
                found[name] = parameter
    return found


def _leaves(outputs: Any) -> Any:
    return mapped(outputs, lambda tensor: tensor.detach().clone().requires_grad_(tensor.requires_grad))


def _regions(plan: Subject, found: Evaluation) -> dict[str, list[tuple[str, tuple[int, ...] | None]]]:
    regions: dict[str, list[tuple[str, tuple[int, ...] | None]]] = {}
    for loss, paths in plan.reads.items():
        for text in [paths] if isinstance(paths, str) else paths:
            for path, channels in resolve(text, found.outputs, f"reads[{loss!r}]"):
                indices = None
                tensor = found.tensors[path]
                if channels is not None and channels.dim % tensor.ndim == channel_dim(tensor):
                    indices = tuple(range(*channels.bounds(tensor)))
                regions.setdefault(str(loss), []).append((path, indices))
    return regions


def _own_names(
    given: Mapping[str, Any], what: str, batches: list[BatchFacts], unaudited: dict[str, str]
) -> dict[str, str]:
    """The losses that `reads` or `weights` speak of, by the name that was given; what fits no loss is told."""
    known = list(dict.fromkeys(name for facts in batches for name in (*facts.names, *facts.logs)))
    found = {}
    for name in map(str, given):
        close = [name] if name in known else [other for other in known if plain_name(other) == plain_name(name)]
        if len(close) == 1:
            found[name] = close[0]
        else:
            unaudited[f"{what}[{name!r}]"] = (
                f"the criterion returned {', '.join(known)}; use its keys, and for a tuple name all its losses in order"
            )
    return found


def _weights(
    plan: Subject, batches: list[BatchFacts], replays: list[Evaluation], unaudited: dict[str, str]
) -> tuple[list[tuple[str, str, float, float]], dict[str, float]]:
    """Faults of the weights that the code declares, and the declared numbers."""
    values = [{**facts.values, **facts.logs} for facts in batches]
    names = tuple(dict.fromkeys(name for each in values for name in each))
    if len(names) == 1:
        # Of a single number nothing has a name but the outputs that it was computed from.
        names += tuple(path for path in batches[0].outputs if path != names[0])
    functions = callables_behind(plan.criterion, plan.total, model=plan.model)
    zeros = dict.fromkeys(declared_zero(functions, names), 0.0)

    def total() -> float:
        values = []
        for replay in replays:
            with kept_buffers_of(plan.model, plan.criterion), torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                found = call_criterion(plan, replay.outputs, replay.batch).total
            values.append(math.nan if found is None else float(found.detach()))
        return math.fsum(values)

    try:
        faults = weight_faults(functions, names, total)
    except Exception as error:
        # Trying other weights is beyond what the code was written for; if it objects, its weights stay unjudged.
        unaudited["sum-mismatch (weights)"] = str(error).splitlines()[0] if str(error) else type(error).__name__
        faults = []
    told = [
        (each.loss, each.label, each.value, each.power)
        for each in faults
        if any(value.get(each.loss, each.loss in names[1:]) for value in values)
        and not (each.power == 0 and _is_applied(each, batches))
    ]
    declared = _own_names(plan.weights, "weights", batches, unaudited)
    return told, zeros | {declared[str(name)]: float(v) for name, v in plan.weights.items() if str(name) in declared}


def _is_applied(fault: WeightFault, batches: list[BatchFacts]) -> bool:
    """Whether the number is a factor in the total or in the loss after all, kept where it was not found."""
    found = [coefficients(facts).get(fault.loss) for facts in batches if fault.loss in facts.names]
    factors = [factor for facts in batches for factor in facts.factors.get(fault.loss, ())]
    return any(v is not None and math.isclose(v, fault.value, rel_tol=1e-3) for v in (*found, *factors))


def _report(facts: Facts, strict: bool, warned: tuple[str, ...]) -> AuditReport:
    findings = list(chain.from_iterable(judge(facts) for judge in _JUDGES))
    groups = tuple(dict.fromkeys(group for batch in facts.batches for group in batch.groups))
    return AuditReport(
        findings=(*(f for f in findings if not f.is_note), *(f for f in findings if f.is_note)),
        num_batches=len(facts.batches),
        losses=facts.names,
        outputs=facts.outputs,
        num_parameters=len(facts.parameters),
        unaudited=facts.unaudited,
        at_outputs=_norms(facts, facts.outputs),
        at_groups=_norms(facts, groups),
        cosines=_cosines(facts, groups),
        warned=warned,
        strict=strict,
    )


def _norms(facts: Facts, sites: tuple[str, ...]) -> dict[str, dict[str, float]]:
    table: dict[str, dict[str, float]] = {}
    for name in facts.names:
        for site in sites:
            found = [batch.norm(name, [site]) for batch in facts.holding(name) if site in batch.gram]
            if found and max(found) > 0:
                table.setdefault(name, {})[site] = statistics.median(found)
    return table


def _cosines(facts: Facts, groups: tuple[str, ...]) -> dict[str, dict[str, float]]:
    table: dict[str, dict[str, float]] = {}
    for index, left in enumerate(facts.names):
        for right in facts.names[index + 1 :]:
            every = [cosine(batch, group, left, right) for batch in facts.batches for group in groups]
            found = [value for value in every if value is not None]
            if found:
                table.setdefault(left, {})[right] = statistics.median(found)
    return table
