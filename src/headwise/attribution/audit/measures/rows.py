"""The gradients of one step, reduced to numbers that every finding reads."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from headwise.attribution.audit.code.guard import user_code
from headwise.attribution.audit.code.step import Step
from headwise.attribution.audit.measures.account import Addend, Standing, account_of
from headwise.attribution.audit.measures.gap import SumGap, gap_of
from headwise.attribution.audit.measures.gram import gram_of
from headwise.attribution.audit.measures.literals import is_silenced
from headwise.attribution.audit.measures.recomputed import Again, Row, recomputed
from headwise.graph import Edge, children, gradient_edge, ordered, topological
from headwise.reach import walk
from headwise.refusals import refuse_unsafe

TOTAL = "the total"
_MANY = 24
_STEPS = ("SignBackward", "RoundBackward", "FloorBackward", "CeilBackward", "TruncBackward")


@dataclass(frozen=True)
class Bad:
    """A gradient that is not finite, at an output or a parameter."""

    loss: str
    where: str
    count: int
    numel: int
    value: float


@dataclass(eq=False)
class Rows:
    """The numbers of one batch.

    Attributes:
        names: The losses; the rows of `gram` follow them, then the total.
        values: Per loss its value.
        before_weight: The same without the weight that an entry declares and holds already.
        live: The losses with a graph.
        numbers: The losses that are plain Python numbers.
        silenced: The losses whose graph multiplies them by a zero of the code, or whose entry declares the weight 0.
        weights: Weights that entries declare and hold already.
        logs: What is only reported.
        total: The value of what backward is called on; None where it has no graph.
        is_sum: Whether that is the audit's own sum.
        standings: How each live loss stands in the total.
        again: What the total holds computed a second time.
        summands: What the total adds.
        gram: Per site (output or group of parameters) the inner products of the gradients.
        outputs: The outputs that can be trained.
        groups: The groups of parameters.
        shapes: Of the outputs.
        reached: Per loss, and for the total, the parameters that its graph reaches.
        read: Per loss, and for the total, the outputs that its graph reaches.
        stepped: The parameters that the total reaches behind a rounding or a sign alone, whose derivative is zero.
        still: The parameters in the graph of the total at which every gradient is zero.
        nonfinite: What is not finite.
        gap: How far the gradient of the sum of the losses is from the sum of their gradients.
    """

    names: tuple[str, ...]
    values: Mapping[str, float]
    before_weight: Mapping[str, float]
    live: frozenset[str]
    numbers: frozenset[str]
    silenced: frozenset[str]
    weights: Mapping[str, float]
    logs: Mapping[str, float]
    total: float | None
    total_told: str
    is_sum: bool
    standings: Mapping[str, Standing]
    summands: tuple[Addend, ...] = ()
    again: Again = field(default_factory=Again)
    gram: dict[str, Tensor] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    reached: dict[str, frozenset[str]] = field(default_factory=dict)
    read: dict[str, frozenset[str]] = field(default_factory=dict)
    stepped: frozenset[str] = frozenset()
    still: frozenset[str] = frozenset()
    nonfinite: list[Bad] = field(default_factory=list)
    gap: SumGap | None = None

    def row(self, name: str) -> int:
        """The row of a loss, or of the total."""
        return len(self.names) if name == TOTAL else self.names.index(name)

    def norm(self, name: str, sites: Iterable[str] | None = None) -> float:
        """Norm of a loss's gradient over sites (default: all)."""
        row = self.row(name)
        chosen = self.gram if sites is None else [site for site in sites if site in self.gram]
        return math.sqrt(max(math.fsum(float(self.gram[site][row, row]) for site in chosen), 0.0))

    def factor(self, name: str) -> float | None:
        """With which factor a loss stands in the total; None where it is not in it, or it has no one factor."""
        standing = self.standings.get(name)
        if standing is not None and standing.is_in:
            return standing.factor
        return self.again.factors.get(name)

    def own(self, name: str) -> float:
        """What of the factor comes through no other loss, nor through an autograd function that adds no value."""
        standing = self.standings.get(name)
        if standing is None or not standing.is_in:
            return self.again.factors.get(name, 0.0)
        # An injected gradient is in that of whatever lies behind the function.
        return 0.0 if standing.times == len(standing.injected) > 0 else standing.own or 0.0

    def is_in(self, name: str) -> bool:
        """Whether the total holds a loss."""
        standing = self.standings.get(name)
        return standing is not None and (standing.is_in or name in self.again.factors)


@dataclass
class Measured:
    """A step with its gradients, before they are let go.

    Attributes:
        step: The step.
        rows: Its numbers.
        at_outputs: Per loss, then for the total, the gradients at the outputs.
        live: The losses with a graph, as scalars.
        again: What the step showed when it was made again, if a check asked (`repeated`).
    """

    step: Step
    rows: Rows
    at_outputs: Sequence[Row]
    live: Mapping[str, Tensor]
    again: Any = None

    @property
    def outputs(self) -> dict[str, Tensor]:
        """The outputs that can be trained."""
        return self.step.trainable


def measure(step: Step, parameters: Mapping[str, Tensor], model: nn.Module, who: str = "audit") -> Measured:
    """Take all gradients of a step.

    Args:
        step: The step.
        parameters: What can be trained: of the model, and of the criterion.
        model: The network.
        who: Who asks, for messages.

    Returns:
        The numbers, with the gradients at the outputs.
    """
    live = {term.name: term.scalar for term in step.parts.terms if term.scalar is not None}
    roots = [*live.values(), *([step.total] if step.total is not None else [])]
    edges = [edge for edge in map(gradient_edge, roots) if edge is not None]
    nodes = topological(edge[0] for edge in edges)
    refuse_unsafe(who, model, parameters, nodes)
    account = account_of(step.total, step.parts.terms, step.trainable.values())
    rows = _bare(step, live, account.standings)
    outputs = step.trainable
    rows.outputs = tuple(outputs)
    rows.shapes = {path: tuple(tensor.shape) for path, tensor in outputs.items()}
    at_outputs = _at_outputs(rows, live, step.total, outputs)
    found = _at_parameters(rows, live, step.total, parameters, outputs)
    of_total = None if rows.outputs else found[TOTAL]
    rows.gap = gap_of(list(live.values()), [found[name] for name in live], of_total, parameters, nodes)
    _book_summands(rows, account.summands, at_outputs, outputs, parameters)
    return Measured(step, rows, at_outputs, live)


def _bare(step: Step, live: Mapping[str, Tensor], standings: Mapping[str, Standing]) -> Rows:
    terms = step.parts.terms
    return Rows(
        names=tuple(term.name for term in terms),
        values={term.name: term.number for term in terms},
        before_weight={term.name: term.before_weight for term in terms},
        live=frozenset(live),
        numbers=frozenset(term.name for term in terms if not isinstance(term.value, Tensor)),
        silenced=frozenset(t.name for t in terms if t.name in live and (t.weight == 0 or is_silenced(live[t.name]))),
        weights={term.name: term.weight for term in terms if term.weight is not None},
        logs={entry.name: entry.number for entry in step.parts.logs},
        total=None if step.total is None else float(step.total.detach()),
        total_told=step.total_told,
        is_sum=step.is_sum,
        standings=standings,
    )


def _at_outputs(
    rows: Rows, live: Mapping[str, Tensor], total: Tensor | None, outputs: Mapping[str, Tensor]
) -> list[Row]:
    found = [_gradients(name, live.get(name), list(outputs.values())) for name in rows.names]
    found.append(_gradients(TOTAL, total, list(outputs.values())))
    for name, row in zip((*rows.names, TOTAL), found, strict=True):
        rows.read[name] = frozenset(path for path, grad in zip(outputs, row, strict=True) if grad is not None)
        scalar = total if name == TOTAL else live.get(name)
        for index, (path, grad) in enumerate(zip(outputs, row, strict=True)):
            row[index] = _finite(rows, name, scalar, path, grad)
    for index, path in enumerate(outputs):
        rows.gram[path] = gram_of([row[index] for row in found])
    return found


def _at_parameters(
    rows: Rows,
    live: Mapping[str, Tensor],
    total: Tensor | None,
    parameters: Mapping[str, Tensor],
    outputs: Mapping[str, Tensor],
) -> dict[str, dict[str, Tensor]]:
    names, tensors = list(parameters), list(parameters.values())
    rows.groups = tuple(dict.fromkeys(group_of(name) for name in names))
    found = {name: _gradients(name, live.get(name), tensors) for name in rows.names}
    # The total's own pass says nothing new where the losses were seen at outputs.
    found[TOTAL] = _gradients(TOTAL, None if rows.outputs else total, tensors)
    for name, row in found.items():
        rows.reached[name] = frozenset(p for p, grad in zip(names, row, strict=True) if grad is not None)
    rows.reached[TOTAL] = _reach(total, parameters)
    _part_stepped(rows, total, parameters, outputs)
    still = set(rows.reached[TOTAL])
    for index, name in enumerate(names):
        site, column = group_of(name), [row[index] for row in found.values()]
        gram = gram_of(column)
        still -= {name} if bool(gram.diagonal().any()) else set()
        if not bool(gram.diagonal().isfinite().all()):
            scalars: list[Tensor | None] = [*(live.get(other) for other in rows.names), total]
            fit = zip(found, scalars, column, strict=True)
            gram = gram_of([_finite(rows, other, scalar, name, grad) for other, scalar, grad in fit])
        rows.gram[site] = rows.gram.get(site, 0) + gram
    rows.still = frozenset(still)
    return {
        loss: {name: grad for name, grad in zip(names, row, strict=True) if grad is not None}
        for loss, row in found.items()
    }


def _part_stepped(
    rows: Rows, total: Tensor | None, parameters: Mapping[str, Tensor], outputs: Mapping[str, Tensor]
) -> None:
    """Leaves out of what the total reaches what it reaches behind a rounding or a sign alone, if that is not all."""
    edge = gradient_edge(total) if total is not None else None
    nodes = set(
        ordered([edge[0]], lambda node: [] if node.name().startswith(_STEPS) else children(node)) if edge else ()
    )
    behind = {name for name in rows.reached[TOTAL] if (at := gradient_edge(parameters[name])) and at[0] not in nodes}
    if behind < rows.reached[TOTAL]:
        rows.stepped, rows.reached[TOTAL] = frozenset(behind), rows.reached[TOTAL] - behind
        inside = {path for path, each in outputs.items() if (at := gradient_edge(each)) and at[0] in nodes}
        rows.read[TOTAL] &= inside


def _reach(total: Tensor | None, parameters: Mapping[str, Tensor]) -> frozenset[str]:
    edge = gradient_edge(total) if total is not None else None
    if edge is None:
        return frozenset()
    masks = walk([(edge, 1)], 1).leaf_masks()
    return frozenset(name for name, parameter in parameters.items() if id(parameter) in masks)


def _gradients(name: str, scalar: Tensor | None, inputs: Sequence[Tensor]) -> Row:
    if scalar is None or not inputs:
        return [None] * len(inputs)
    with user_code(f"the backward pass of loss {name!r}" if name != TOTAL else "the backward pass of the total"):
        found = torch.autograd.grad(scalar, list(inputs), retain_graph=True, allow_unused=True)
    return [grad.to_dense() if grad is not None and grad.layout != torch.strided else grad for grad in found]


def _finite(rows: Rows, name: str, scalar: Tensor | None, where: str, grad: Tensor | None) -> Tensor | None:
    bad = 0 if grad is None else int((~grad.isfinite()).sum())
    if grad is None or not bad or scalar is None:
        return grad
    rows.nonfinite.append(Bad(name, where, bad, grad.numel(), float(scalar.detach())))
    return grad.nan_to_num(0.0, 0.0, 0.0)


def _book_summands(
    rows: Rows,
    summands: Mapping[Edge, Addend],
    at_outputs: Sequence[Row],
    outputs: Mapping[str, Tensor],
    parameters: Mapping[str, Tensor],
) -> None:
    """The gradient of each summand, and what was computed a second time."""
    if len(summands) > _MANY:
        return
    inputs = list(outputs.values())
    grads = {edge: _at_summand(rows, edge, each, at_outputs, inputs) for edge, each in summands.items()}
    rows.summands = tuple(
        replace(each, norm=_summand_norm(rows, edge, each, grads[edge], parameters)) for edge, each in summands.items()
    )
    if not rows.is_sum:
        rows.again = recomputed(rows.names, rows.standings, rows.summands, list(grads.values()), at_outputs, inputs)


def _at_summand(rows: Rows, edge: Edge, each: Addend, at_outputs: Sequence[Row], outputs: Sequence[Tensor]) -> Row:
    known = _known(rows, each)
    if known is not None:
        name, scale = known
        return [None if grad is None else grad / scale for grad in at_outputs[rows.row(name)]]
    (row,) = edge_gradients([edge], outputs) if outputs else [[]]
    return [None if grad is None else grad.nan_to_num(0.0, 0.0, 0.0) for grad in row]


def _known(rows: Rows, each: Addend) -> tuple[str, float] | None:
    """A loss that a summand is a part of, whose gradients were taken already, and how much of the summand it is."""
    for name in each.names:
        factor = rows.standings[name].factor
        if factor and each.factor:
            return name, each.factor / factor
    return None


def _summand_norm(rows: Rows, edge: Edge, each: Addend, row: Row, parameters: Mapping[str, Tensor]) -> float:
    known = _known(rows, each)
    if any(grad is not None for grad in row) or not parameters:
        return _norm(row)
    if known is not None:
        return rows.norm(known[0], rows.groups) / abs(known[1])
    return _norm(*edge_gradients([edge], list(parameters.values())))


def _norm(row: Row) -> float:
    return math.hypot(*(float(g.double().norm()) for g in row if g is not None and g.layout == torch.strided))


def edge_gradients(edges: Iterable[Edge], inputs: Sequence[Any]) -> list[list[Tensor | None]]:
    """The gradient of what stands at each edge (of its sum, if it has several elements) at the inputs."""
    found: list[list[Tensor | None]] = []
    for node, port in edges:
        metadata = node._input_metadata[port]
        seed = torch.ones(metadata.shape, dtype=metadata.dtype, device=metadata.device)
        root = GradientEdge(node, port)
        found.append(list(torch.autograd.grad((root,), inputs, (seed,), retain_graph=True, allow_unused=True)))
    return found


def group_of(parameter: str) -> str:
    """The site of a parameter: the module at the top that holds it."""
    return f"parameters of {parameter.partition('.')[0]}"
