"""All gradients of one step, reduced to numbers before the next step comes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from headwise.attribution.audit.evaluate import Evaluation
from headwise.attribution.audit.facts import TOTAL, BatchFacts, NonFinite
from headwise.attribution.audit.gram import gram_of
from headwise.attribution.audit.guard import user_code
from headwise.attribution.audit.measure_masks import book_masks
from headwise.attribution.audit.measure_sum import book_sum
from headwise.attribution.audit.summands import is_silenced, scalar_factors
from headwise.attribution.tracing.channels import channel_dim_of, static_channels
from headwise.graph import gradient_edge, topological
from headwise.refusals import refuse_unsafe

Row = list[Tensor | None]


def measure(
    found: Evaluation, parameters: Mapping[str, Tensor], masks: Mapping[str, str], model: nn.Module
) -> BatchFacts:
    """Measure one step.

    Args:
        found: The step.
        parameters: What can be trained: of the model, and of the criterion.
        masks: Per output path the key of its mask in the batch.
        model: The network.

    Returns:
        The numbers.
    """
    live = {term.name: term.scalar for term in found.parts.terms if term.scalar is not None}
    facts = _bare(found, live)
    roots = [*live.values(), *([found.total] if found.total is not None else [])]
    edges = [edge for edge in map(gradient_edge, roots) if edge is not None]
    refuse_unsafe("audit", model, parameters, topological(edge[0] for edge in edges))
    outputs = {path: tensor for path, tensor in found.tensors.items() if tensor.requires_grad}
    facts.outputs = tuple(outputs)
    facts.derived = _derived(outputs)
    facts.shapes = {path: tuple(tensor.shape) for path, tensor in outputs.items()}
    named = [*((name, live.get(name)) for name in facts.names), (TOTAL, found.total)]
    rows = [_gradients(name, scalar, [*outputs.values(), *parameters.values()]) for name, scalar in named]
    at_outputs = [row[: len(outputs)] for row in rows]
    at_parameters = [row[len(outputs) :] for row in rows]
    _book_reach(facts, named, at_parameters, list(parameters))
    _book_nonfinite(facts, named, rows, [*outputs, *parameters])
    book_masks(facts, found, masks, outputs, at_outputs)
    _book_outputs(facts, outputs, at_outputs, live)
    _book_wiring(facts, outputs, live)
    _book_groups(facts, list(parameters), at_parameters)
    book_sum(facts, found.total, live, list(outputs.values()), at_outputs)
    return facts


def _bare(found: Evaluation, live: Mapping[str, Tensor]) -> BatchFacts:
    terms = found.parts.terms
    return BatchFacts(
        names=tuple(term.name for term in terms),
        values={term.name: term.number for term in terms},
        live=frozenset(live),
        numbers=frozenset(term.name for term in terms if not isinstance(term.value, Tensor)),
        silenced=frozenset(t.name for t in terms if t.name in live and (t.weight == 0 or is_silenced(live[t.name]))),
        logs={entry.name: entry.number for entry in found.parts.logs},
        total=None if found.total is None else float(found.total.detach()),
        default_total=found.default_total,
        weights={term.name: term.weight for term in terms if term.weight is not None},
        factors={name: scalar_factors(scalar) for name, scalar in live.items()},
        mutated=dict(found.mutated),
        grad_mode=dict(found.grad_mode),
    )


def _derived(outputs: Mapping[str, Tensor]) -> frozenset[str]:
    """Outputs that are computed from other outputs alone, such as probabilities beside their logits."""
    nodes = {path: tensor.grad_fn for path, tensor in outputs.items() if tensor.grad_fn is not None}
    found = set()
    for path, root in nodes.items():
        others = {node for other, node in nodes.items() if other != path and node is not root}
        stack: list[Any] = [root]
        seen, bases, own = set(), False, False
        while stack:
            node = stack.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            bases |= node in others
            own |= node not in others and hasattr(node, "variable")
            stack.extend([] if node in others else [child for child, _ in node.next_functions])
        if bases and not own:
            found.add(path)
    return frozenset(found)


def _gradients(name: str, scalar: Tensor | None, inputs: Sequence[Tensor]) -> Row:
    if scalar is None or not inputs:
        return [None] * len(inputs)
    with user_code(f"the backward pass of loss {name!r}" if name != TOTAL else "the backward pass of the total"):
        found = torch.autograd.grad(scalar, list(inputs), retain_graph=True, allow_unused=True)
    return [grad.to_dense() if grad is not None and grad.layout != torch.strided else grad for grad in found]


def _book_reach(facts: BatchFacts, named: Sequence[tuple[str, Any]], rows: Sequence[Row], names: list[str]) -> None:
    for (name, _), row in zip(named, rows, strict=True):
        facts.reached[name] = frozenset(p for p, grad in zip(names, row, strict=True) if grad is not None)


def _book_nonfinite(facts: BatchFacts, named: Sequence[tuple[str, Any]], rows: Sequence[Row], where: list[str]) -> None:
    for (name, scalar), row in zip(named, rows, strict=True):
        for site, (index, grad) in zip(where, enumerate(row), strict=True):
            bad = 0 if grad is None else int((~grad.isfinite()).sum())
            if grad is not None and bad:
                value = float(scalar.detach())
                facts.nonfinite.append(NonFinite(name, site, bad, grad.numel(), value))
                row[index] = grad.nan_to_num(0.0, 0.0, 0.0)


def _book_outputs(
    facts: BatchFacts, outputs: Mapping[str, Tensor], rows: Sequence[Row], live: Mapping[str, Tensor]
) -> None:
    squares = dict.fromkeys(live, 0.0)
    for index, (path, tensor) in enumerate(outputs.items()):
        grads = [row[index] for row in rows]
        facts.gram[path] = gram_of(grads)
        facts.channels[path] = torch.stack([_per_channel(grad, tensor) for grad in grads])
        _add_silenced(facts, path, tensor, live)
        touched = torch.zeros_like(tensor, dtype=torch.bool)
        for grad in grads:
            touched |= grad != 0 if grad is not None else False
        facts.sizes[path] = int(touched.sum())
        if _is_uneven(touched):
            facts.uneven.add(path)
        for name in live:
            if grads[facts.row(name)] is not None:
                squares[name] += float(tensor.detach().double().square().sum())
        for name in live:
            if grads[facts.row(name)] is not None:
                facts.wired.setdefault(name, set()).add(path)
    for name, square in squares.items():
        scale = abs(facts.values[name]) or 1.0
        facts.elasticity[name] = facts.norm(name, outputs) * square**0.5 / scale


def _add_silenced(facts: BatchFacts, path: str, tensor: Tensor, live: Mapping[str, Tensor]) -> None:
    """A loss of declared weight zero still reads its channels: what NaN passes through counts as read."""
    for name in facts.silenced:
        seed = torch.full_like(live[name], float("nan"))
        (grad,) = torch.autograd.grad(live[name], [tensor], seed, retain_graph=True, allow_unused=True)
        if grad is not None:
            support = _per_channel(grad.isnan().double(), tensor)
            support = support if bool(support.any()) else torch.ones_like(support)
            facts.channels[path][facts.row(name)] += support * torch.finfo(torch.float64).tiny


def _is_uneven(touched: Tensor) -> bool:
    """Whether images differ in which of their channels have a gradient."""
    if touched.ndim < 2:
        return False
    dim = channel_dim(touched)
    rows = touched.movedim(dim, 1).flatten(2).any(2) if touched.ndim > 2 else touched
    rows = rows[rows.any(1)]
    return bool((rows != rows[:1]).any())


def channel_dim(tensor: Tensor) -> int:
    """Where the channels are: dimension 1, or of three dimensions the shorter of the last two (anchors, tokens)."""
    if tensor.ndim == 3 and tensor.shape[2] < tensor.shape[1]:
        return 2
    return channel_dim_of(tensor, 1)


def _book_wiring(facts: BatchFacts, outputs: Mapping[str, Tensor], live: Mapping[str, Tensor]) -> None:
    """The channels that no loss reads, where every graph tells exactly."""
    told = []
    for scalar in live.values():
        edge = gradient_edge(scalar)
        if edge is not None:
            told.append(static_channels(scalar, outputs, topological([edge[0]]), 1))
    for path, tensor in outputs.items():
        found = [each[path] for each in told if path in each]
        if tensor.ndim != 3 and found and all(each.exact for each in found):
            read = {index for each in found for index in each.indices}
            facts.unwired[path] = frozenset(range(found[0].size)) - read


def _per_channel(grad: Tensor | None, tensor: Tensor) -> Tensor:
    dim = channel_dim(tensor)
    size = tensor.shape[dim] if tensor.ndim > 1 else 1
    if grad is None:
        return torch.zeros(size, dtype=torch.float64)
    squares = grad.detach().double().square()
    return (squares.movedim(dim, 0).reshape(size, -1).sum(1) if tensor.ndim > 1 else squares.sum().reshape(1)).cpu()


def _book_groups(facts: BatchFacts, names: Sequence[str], rows: Sequence[Row]) -> None:
    groups = dict.fromkeys(group_of(name) for name in names)
    facts.groups = tuple(groups)
    for index, name in enumerate(names):
        site, gram = group_of(name), gram_of([row[index] for row in rows])
        facts.gram[site] = facts.gram.get(site, 0) + gram


def group_of(parameter: str) -> str:
    """The site of a parameter: the module at the top that holds it."""
    return f"parameters of {parameter.partition('.')[0]}"
