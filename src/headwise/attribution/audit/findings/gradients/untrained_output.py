"""An output, or channels of it, that the total does not train in any batch."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node

from headwise.attribution.audit.code.subject import Subject
from headwise.attribution.audit.findings.finding import Check, Finding, Open, Seen
from headwise.attribution.audit.measures.channels import channel_dims, per_channel
from headwise.attribution.audit.measures.rows import TOTAL, Measured
from headwise.attribution.text import names as listed
from headwise.attribution.tracing.channels import Channels, ranges, static_channels
from headwise.graph import Edge, gradient_edge, topological

_CHANNEL = 1e-20
_MARK = torch.finfo(torch.float64).tiny


@dataclass(frozen=True)
class _Trained:
    """What the total sends to one output.

    Attributes:
        dim: Where its channels are, or may be.
        is_second: Whether they are usually elsewhere.
        energy: The squared norm of its gradient per channel; a mark where only a loss switched off reads.
        is_uneven: Whether images differ in which of their channels have a gradient.
        is_derived: Whether the output is computed from other outputs alone.
        is_beside: Whether the total trains all that the output is computed from, but not by this output.
        is_asked: Whether the total, which does not read the output, reads a leaf, no parameter, that it is made
            of: by that the criterion may have differentiated the output (forces, gradient penalties).
        is_shared: Whether the parameters of its channels without a gradient are trained by its others: positions.
        unwired: The channels that the graph of the total does not read, as far as it tells.
    """

    dim: int
    is_second: bool
    energy: Tensor
    is_uneven: bool
    is_derived: bool
    is_beside: bool
    is_asked: bool
    is_shared: bool
    unwired: frozenset[int]


def _measure(measured: Measured, subject: Subject | None) -> dict[str, list[_Trained]]:
    """By output, for each dimension in which its channels may be."""
    outputs, total = measured.outputs, measured.step.total
    derived = _derived(outputs)
    edge = gradient_edge(total) if total is not None else None
    nodes = topological([edge[0]]) if edge is not None else []

    @cache
    def told(dim: int) -> dict[str, Channels]:
        return static_channels(total, outputs, nodes, dim) if total is not None and nodes else {}

    found: dict[str, list[_Trained]] = {path: [] for path in outputs}
    for index, (path, tensor) in enumerate(outputs.items()):
        grad = measured.at_outputs[-1][index]
        beside = grad is None and total is not None and _is_beside(tensor, total, frozenset(nodes))
        asked = grad is None and _is_asked(tensor, frozenset(nodes))
        for dim in channel_dims(tensor):
            energy = per_channel(grad, tensor, dim)
            for name in measured.rows.silenced:
                energy = energy + _mark(measured.live[name], tensor, dim)
            uneven = grad is not None and _is_uneven(grad != 0, dim)
            second = bool(found[path])
            shared = grad is not None and total is not None and _is_shared(tensor, total, energy == 0, dim, second)
            is_dead = tensor.ndim != 3 and bool((energy == 0).any())
            unwired = _unwired(told(dim).get(path)) if is_dead else frozenset[int]()
            known = path in derived, beside, asked, shared, unwired
            found[path].append(_Trained(dim, second, energy, uneven, *known))
    return found


def _is_shared(tensor: Tensor, total: Tensor, dead: Tensor, dim: int, by_any: bool) -> bool:
    """Whether what the next parameters give to what has no gradient is trained: the last token, not a channel.

    All of it; by any: a part suffices, as for rows and columns of which few are read.
    """
    root = gradient_edge(tensor)
    below: dict[Any, None] = {} if root is None else {root[0]: None}
    while below and not any(hasattr(node, "variable") for node in below):
        below = {child: None for node in below for child, _ in node.next_functions if child is not None}
    leaves = [node.variable for node in below if hasattr(node, "variable")]
    if not leaves or not bool(dead.any()) or bool(dead.all()):
        return False
    marks = dead.to(tensor.device, tensor.dtype).reshape(-1, *[1] * (tensor.ndim - 1 - dim))
    read = torch.autograd.grad(tensor, leaves, marks.expand(tensor.shape), retain_graph=True, allow_unused=True)
    sent = torch.autograd.grad(total, leaves, retain_graph=True, allow_unused=True)
    pairs = [(one, other) for one, other in zip(read, sent, strict=True) if one is not None]
    if by_any:
        return any(other is not None and bool(((one != 0) & (other != 0)).any()) for one, other in pairs)
    return all(other is not None and not bool(((one != 0) & (other == 0)).any()) for one, other in pairs)


def _is_beside(tensor: Tensor, total: Tensor, nodes: Collection[Node]) -> bool:
    """Whether every channel that an output is computed from has a gradient of the total, and not only elsewhere.

    Probabilities, of whose logits a loss was computed, are trained; the other half of what was cut in two is not, nor
    is an earlier layer in a stack of layers.
    """
    edges = _border(tensor, nodes)
    if not edges:
        return False
    seed = torch.linspace(0.5, 1.5, tensor.numel(), dtype=tensor.dtype, device=tensor.device).reshape(tensor.shape)
    border = [GradientEdge(*edge) for edge in edges]
    read = torch.autograd.grad(tensor, border, seed, retain_graph=True, allow_unused=True)
    sent = torch.autograd.grad(total, border, retain_graph=True, allow_unused=True)
    return all(
        one is None
        or (
            other is not None
            and not bool(((per_channel(one, one) > 0) & (per_channel(other, one) == 0)).any())
            and bool(((one != 0) & (other != 0)).any())
        )
        for one, other in zip(read, sent, strict=True)
    )


def _is_asked(tensor: Tensor, nodes: Collection[Node]) -> bool:
    below = topological([tensor.grad_fn]) if tensor.grad_fn is not None else []
    leaves = (node for node in below if not isinstance(getattr(node, "variable", nn.Parameter()), nn.Parameter))
    return any(node in nodes for node in leaves)


def _border(tensor: Tensor, nodes: Collection[Node]) -> list[Edge]:
    """Where the graph of an output enters that of the total; nothing if parameters lie before."""
    root = gradient_edge(tensor)
    found: dict[Edge, None] = {}
    stack, seen = [root] if root is not None else [], set[Edge]()
    while stack:
        edge = stack.pop()
        node = edge[0]
        if hasattr(node, "variable") or (edge == root and node in nodes):
            return []
        if node in nodes:
            found[edge] = None
            continue
        below = [(child, port) for child, port in node.next_functions if child is not None]
        stack += [each for each in below if each not in seen]
        seen.update(below)
    return list(found)


def _mark(loss: Tensor, tensor: Tensor, dim: int) -> Tensor:
    """A loss that is switched off still reads its channels: what NaN passes through counts as read."""
    seed = torch.full_like(loss, float("nan"))
    grad: Tensor | None = torch.autograd.grad(loss, [tensor], seed, retain_graph=True, allow_unused=True)[0]
    if grad is None:
        return per_channel(None, tensor, dim)
    support = per_channel(grad.isnan().double(), tensor, dim).bool().double()
    return (support if bool(support.any()) else torch.ones_like(support)) * _MARK


def _is_uneven(touched: Tensor, dim: int) -> bool:
    if touched.ndim < 2:
        return False
    rows = touched.movedim(dim, 1).flatten(2).any(2) if touched.ndim > 2 else touched
    rows = rows[rows.any(1)]
    return bool((rows != rows[:1]).any())


def _unwired(told: Channels | None) -> frozenset[int]:
    return frozenset(range(told.size)) - set(told.indices) if told is not None and told.exact else frozenset()


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


def _judge(seen: Seen) -> Iterator[Finding | Open]:
    if not any(batch.total is not None for batch in seen.batches):
        return
    for path, own in ((path, own) for path, found in seen.by_name.items() for own in zip(*found, strict=False)):
        rows = [each.energy for each in own if each.energy.numel()]
        broken = any(each.where == path for batch in seen.batches for each in batch.nonfinite)
        if broken or len({row.numel() for row in rows}) != 1 or any(each.is_derived for each in own):
            continue
        energy = torch.stack(rows).sum(0)
        peak = float(energy.max())
        dead = [
            index for index, value in enumerate(energy.tolist()) if value <= _CHANNEL * peak and not 0 < value < 1e-290
        ]
        whole = len(dead) == len(energy)
        if not dead or _is_muted(seen, path) or (whole and own[0].is_second):
            continue
        if whole and all(each.is_beside for each in own):
            continue
        if whole and any(each.is_asked for each in own):
            yield Open(f"untrained-output: {path}", "the total may hold its derivative, which does not tell the output")
            continue
        if whole and any(path in batch.read.get(TOTAL, ()) for batch in seen.batches):
            yield Open(f"untrained-output: {path}", _why_zero(seen, path))
            continue
        if not whole and any(each.is_shared for each in own):
            continue
        if not whole and (own[0].is_second or not _same_support(own)):
            # Which channels are reached depends on the data (a channel per class): only what no graph reads is told.
            dead = [index for index in dead if all(index in each.unwired for each in own)]
        if dead:
            yield _found(seen, path, own[0].dim, dead, len(energy), peak)


def _why_zero(seen: Seen, path: str) -> str:
    """Why an output that the total reads may have no gradient of it."""
    off = [name for name in seen.names if all(batch.factor(name) == 0 for batch in seen.holding(name))]
    off = [name for name in off if any(path in batch.read.get(name, ()) for batch in seen.batches)]
    if off:
        return f"the total reads it by {listed(off)}, which it multiplies by 0 in {seen.num}"
    return f"the graph of the total reads it, but with a gradient of 0 in {seen.num}: these may hold nothing for it"


def _found(seen: Seen, path: str, dim: int, dead: list[int], size: int, peak: float) -> Finding:
    shape = next(batch.shapes[path] for batch in seen.batches if path in batch.shapes)
    whole = len(dead) == size
    where = "at all" if whole else f"at {len(dead)} of {size} channels"
    return Finding(
        path if whole else f"{path}[{'' if len(shape) < 2 else ':, ' if dim == 1 else '..., '}{ranges(dead, -1)}]",
        f"no gradient {where} from the total in {seen.num} (shape {shape}, largest channel norm {peak**0.5:.3g})",
        "Give it a loss, or take it out of the network. If a loss should read it, look at the slice or key by "
        "which the criterion takes it, and at whether the total holds that loss.",
        {"channels": len(dead), "of": size, "batches": len(seen.batches)},
    )


def _same_support(own: Sequence[_Trained]) -> bool:
    supports = [each.energy > 0 for each in own if bool((each.energy > 0).any())]
    same = all(torch.equal(support, supports[0]) for support in supports)
    return same and not any(each.is_uneven for each in own)


def _is_muted(seen: Seen, path: str) -> bool:
    """Whether a loss whose weight is meant to be zero, by more than its graph, reads the output."""
    muted = [name for name in seen.names if seen.is_meant_zero(name)]
    return any(path in b.read.get(name, ()) and name not in b.silenced for b in seen.batches for name in muted)


CHECK = Check("untrained-output", _judge, _measure)
