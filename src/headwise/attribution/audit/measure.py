"""All gradients of one step, reduced to numbers before the next step comes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from headwise.attribution.audit.evaluate import Evaluation
from headwise.attribution.audit.facts import TOTAL, BatchFacts, MaskFact, NonFinite
from headwise.attribution.audit.guard import user_code
from headwise.attribution.audit.structure import resolve
from headwise.attribution.audit.summands import gradients_of, is_silenced, scalar_factors, summands
from headwise.attribution.channels import channel_dim_of, static_channels
from headwise.attribution.graph import gradient_edge, topological
from headwise.attribution.refusals import refuse_unsafe
from headwise.criterion.paths import child, get, parse

Row = list[Tensor | None]
_CHUNK = 1 << 20
_MANY = 16
_TWIN = 1e-5
_FEW = 8


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
    _book_masks(facts, found, masks, outputs, at_outputs)
    _book_outputs(facts, outputs, at_outputs, live)
    _book_wiring(facts, outputs, live)
    _book_groups(facts, list(parameters), at_parameters)
    _book_sum(facts, found.total, live, list(outputs.values()), at_outputs)
    return facts


def _bare(found: Evaluation, live: Mapping[str, Tensor]) -> BatchFacts:
    terms = found.parts.terms
    return BatchFacts(
        names=tuple(term.name for term in terms),
        values={term.name: term.number for term in terms},
        live=frozenset(live),
        silenced=frozenset(name for name, scalar in live.items() if is_silenced(scalar)),
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
        facts.gram[path] = _gram(grads)
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
        site, gram = group_of(name), _gram([row[index] for row in rows])
        facts.gram[site] = facts.gram.get(site, 0) + gram


def group_of(parameter: str) -> str:
    """The site of a parameter: the module at the top that holds it."""
    return f"parameters of {parameter.partition('.')[0]}"


def _gram(grads: Sequence[Tensor | None]) -> Tensor:
    """All inner products, in float64, in pieces."""
    gram = torch.zeros(len(grads), len(grads), dtype=torch.float64)
    known = [(i, grad.detach().reshape(-1)) for i, grad in enumerate(grads) if grad is not None]
    if not known:
        return gram
    places = torch.tensor([i for i, _ in known])
    for begin in range(0, known[0][1].numel(), _CHUNK):
        piece = torch.stack([grad[begin : begin + _CHUNK].double() for _, grad in known])
        gram[places[:, None], places[None]] += (piece @ piece.T).cpu()
    return gram


def _book_masks(
    facts: BatchFacts, found: Evaluation, masks: Mapping[str, str], outputs: Mapping[str, Tensor], rows: Sequence[Row]
) -> None:
    paths = list(outputs)
    for text, key in masks.items():
        for path, channels in resolve(text, found.outputs, f"masks[{text!r}]"):
            if path not in outputs:
                continue
            for name, row in zip(facts.names, rows, strict=False):
                grad = row[paths.index(path)]
                if grad is None:
                    continue
                if channels is not None:
                    start, stop = channels.bounds(grad)
                    grad = grad.narrow(channels.dim, start, stop - start)
                outside = grad.detach().double() * ~_fitted(_mask_of(found.batch, key), grad, text, key)
                largest = float(grad.abs().max()) if grad.numel() else 0.0
                count = int((outside.abs() > 1e-6 * largest).sum())
                facts.masks.append(
                    MaskFact(name, text, key, count, grad.numel(), float(outside.norm()), float(grad.double().norm()))
                )


def _mask_of(batch: Any, key: str) -> Tensor:
    try:
        found = child(batch, key) if isinstance(key, int) else get(batch, parse(key).steps)
    except (KeyError, ValueError) as error:
        raise ValueError(f"audit: masks: the batch has no {key!r}: {error.args[0]}") from None
    return torch.as_tensor(found)


def _fitted(mask: Tensor, grad: Tensor, text: str, key: str) -> Tensor:
    """The mask as bool, of a shape that broadcasts to the gradient."""
    wanted = tuple(grad.shape)
    inside = (mask if mask.dtype == torch.bool else mask > 0).to(grad.device)
    candidates = [inside]
    if inside.ndim < len(wanted):
        missing = len(wanted) - inside.ndim
        shape = tuple(inside.shape)
        candidates = [
            inside.reshape(shape[:1] + (1,) * missing + shape[1:]),
            inside.reshape(shape + (1,) * missing),
            inside,
        ]
    for candidate in candidates:
        if candidate.ndim <= len(wanted) and all(
            a in (1, b) for a, b in zip(reversed(candidate.shape), reversed(wanted), strict=False)
        ):
            return candidate.expand(wanted)
    raise ValueError(
        f"audit: mask {key!r} of shape {tuple(mask.shape)} does not fit output {text!r} of shape {wanted}. "
        "Give a mask with the output's shape, without its channels, or one that broadcasts."
    )


def _book_sum(
    facts: BatchFacts, total: Tensor | None, live: Mapping[str, Tensor], outputs: list[Tensor], rows: Sequence[Row]
) -> None:
    if total is None or (facts.default_total and len(live) > 1):
        return
    named = {} if len(live) == 1 else {name: scalar for name, scalar in live.items() if scalar is not total}
    found = summands(total, named)
    facts.paths = dict(found.named) | dict.fromkeys(set(live) - set(named), 1)
    unnamed = {node: count for node, count in found.unnamed.items() if node is not total.grad_fn}
    if not unnamed or len(unnamed) > _MANY or not outputs:
        return
    extra = gradients_of(unnamed, outputs)
    grams = [_gram([*(row[i] for row in rows), *(grads[i] for grads in extra)]) for i in range(len(outputs))]
    gram = torch.stack(grams).sum(0).nan_to_num()
    for offset, (grads, count) in enumerate(zip(extra, unnamed.values(), strict=True)):
        where = [path for path, grad in zip(facts.outputs, grads, strict=True) if grad is not None]
        touched = sum(int((grad != 0).sum()) for grad in grads if grad is not None)
        if count > 1 and where:
            facts.repeats.append((", ".join(where), count))
        if touched >= _FEW:
            _book_twins(facts, gram, len(rows) + offset, where, named)


def _book_twins(facts: BatchFacts, gram: Tensor, row: int, where: list[str], named: Mapping[str, Tensor]) -> None:
    """A summand whose gradient is that of a loss, or of an earlier summand, is that loss computed again."""
    norms = gram.diagonal().sqrt()
    for name in named:
        other = facts.row(name)
        if norms[row] > 0 and norms[other] > 0 and gram[row, other] / norms[row] / norms[other] > 1 - _TWIN:
            facts.twins[name] = facts.twins.get(name, 0) + 1
            return
    for other in range(len(facts.names) + 1, row):
        if norms[row] > 0 and abs(norms[other] / norms[row] - 1) < _TWIN:
            if gram[row, other] / norms[row] / norms[other] > 1 - _TWIN:
                facts.repeats.append((", ".join(where), 2))
