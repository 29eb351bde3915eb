"""Takes a number apart: what it adds, with which factor, under which name, from which outputs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from headwise.attribution.apart.naming.frames import callers, candidates_in, modules_in
from headwise.attribution.apart.naming.made import kept_value, made_by
from headwise.attribution.apart.naming.places import candidates_at, place_of
from headwise.attribution.apart.returned.entries import candidates, entries
from headwise.attribution.apart.sums.dissect import Anatomy, Candidate, Direct, dissect
from headwise.attribution.apart.sums.heads import heads_below, names_of
from headwise.attribution.apart.sums.solve import weights_of
from headwise.attribution.apart.sums.walk import walk_sum
from headwise.attribution.apart.table import Summand, TakenApart
from headwise.attribution.apart.words import says_total
from headwise.graph import Edge, gradient_edge
from headwise.reach import walk
from headwise.structure import by_path


def take_apart(
    total: Tensor,
    losses: Any = None,
    outputs: Any = None,
    model: nn.Module | None = None,
    *,
    names: Sequence[str] = (),
    gradient: Tensor | None = None,
) -> TakenApart:
    """Take a number apart into its summands, from its graph alone.

    The walk sees through sums and differences, clones, views, casts, stacked losses that are summed, averaged or
    picked, numbers that multiply or divide, learned weights (``exp(-s) * loss``), and `torch.where`. A loss that was
    computed from the same by other steps (divided for the log, say) is recognized by what it adds up. Nothing of the
    network is computed again, and the graph stays as it is; call this before `backward`, or keep the graph.

        loss = loss_cls + 0.5 * loss_box
        print(headwise.attribution.take_apart(loss, model=network))

    Args:
        total: The number on which backward is, or would be, called.
        losses: What the criterion or model returned, from which summands take their names first: a tensor, or a tuple,
            list, (nested) dict or dataclass of them.
        outputs: The network's outputs; where they are given, the heads are their paths.
        model: The network; names the parameters, and the modules where the graph leaves them. By default every module
            that the variables of the calling code hold.
        names: Names for the losses of a tuple or list.
        gradient: The derivative with which backward is called, for a `total` that is no scalar; 1 by default.

    Returns:
        The summands by name. What has no name in `losses` is named by the variables of the frames above, keys of
        dicts and attributes included; what has none there either, by the operation that computed it.

    Raises:
        ValueError: The total has no graph.
    """
    edge = gradient_edge(total)
    if edge is None:
        raise ValueError(
            "take_apart: the total has no graph. Give the tensor on which backward is called, as it is: not detached, "
            "not computed under no_grad, not a number"
        )
    frames = callers(2)
    seed = torch.ones_like(total.detach()) if gradient is None else gradient.detach()
    returned = candidates(entries(losses, names)) if losses is not None else []
    found = _parts([(edge, seed)], returned, lambda: variables_of([(edge, seed)], frames))
    models = {"model": model} if model is not None else {} if outputs is not None else modules_in(frames)
    reader = _Reader(outputs, models)
    number = float((seed * total.detach()).sum())
    return _table(number, found, reader)


def variables_of(roots: Sequence[tuple[Edge, Tensor]], frames: Sequence[FrameType]) -> list[Candidate]:
    """The losses that code names: in its variables, and where they were made, if that was seen.

    Args:
        roots: The edges of the total, each with its derivative.
        frames: The frames of the code.

    Returns:
        The losses, each edge and each name once.
    """
    found = candidates_in(frames)
    held = {each.edge for each in found}
    made = {each.name: each for each in candidates_at(edge for edge in walk_sum(roots).passed if edge not in held)}
    edges = held | {each.edge for each in made.values()}
    over = [each for each in found if each.name in made and _is_written_over(each, made[each.name], edges)]
    found = [replace(each, name=f"{each.name} (sum)") if each in over else each for each in found]
    taken = {each.name for each in found}
    return [*found, *(each for each in made.values() if each.name not in taken)]


def _is_written_over(variable: Candidate, made: Candidate, named: Collection[Edge]) -> bool:
    """Whether a variable has become a sum of losses, of which one was made under its name: ``a = ...; a += b``."""
    if says_total(variable.name):
        return False
    below = walk_sum([(variable.edge, variable.seed)], ends={*named} - {variable.edge}).points.keys()
    own = walk_sum([(made.edge, made.seed)], ends={*named} - {made.edge}).points.keys()
    return made.edge in below and len(below) > 1 and below <= {*named} and not own & {*named} - {made.edge}


@dataclass(frozen=True)
class _Part:
    """A summand: where it is, the derivative of the total there, and its loss, where it has a name."""

    name: str
    edges: tuple[Edge, ...]
    factor: float
    value: float | None
    weighted: float | None
    named: bool


@dataclass(frozen=True)
class _Parts:
    """All summands, and the names that are none."""

    parts: tuple[_Part, ...]
    anatomy: Anatomy


def _parts(
    roots: Sequence[tuple[Edge, Tensor]],
    returned: Sequence[Candidate],
    look_for_variables: Callable[[], Sequence[Candidate]],
) -> _Parts:
    """Names from what was returned first, then from variables for what is left, then from operations."""
    anatomy = dissect(roots, returned)
    parts = [_direct(each) for each in anatomy.direct]
    rest = dict(anatomy.rest)
    parts += _copied(anatomy, rest)
    variables = look_for_variables() if rest else ()
    if variables:
        taken = {each.loss.edge for each in anatomy.direct} | (anatomy.rest.keys() - rest.keys())
        below = dissect(roots, [each for each in variables if not _holds(each, taken)], outputs=taken)
        rest = {edge: derivative for edge, derivative in below.rest.items() if edge not in taken}
        parts += [_direct(each) for each in below.direct]
        parts += _copied(below, rest)
        if not returned:
            anatomy = below
    values = {each.edge: each.tensor for each in (*returned, *variables)}
    parts += [_unnamed(edge, derivative, values.get(edge)) for edge, derivative in rest.items()]
    if not returned:
        anatomy = replace(anatomy, absent=())
    return _Parts(tuple(_distinct(parts)), anatomy)


def _holds(variable: Candidate, taken: Collection[Edge]) -> bool:
    """Whether a variable is, or adds up, what has a name already."""
    return bool(taken) and bool(walk_sum([(variable.edge, variable.seed)], ends=taken).points.keys() & set(taken))


def _direct(part: Direct) -> _Part:
    tensor, derivative = part.loss.tensor.detach(), part.derivative
    value, weighted = float(tensor.double().mean()), float((derivative.double() * tensor.double()).sum())
    factor = float(derivative.double().sum())
    if tensor.numel() != 1 and value and bool((derivative != derivative.flatten()[0]).any()):
        factor = weighted / value
    return _Part(part.loss.name, (part.loss.edge,), factor, value, weighted, named=True)


def _copied(anatomy: Anatomy, rest: dict[Edge, Tensor]) -> list[_Part]:
    """The copies whose weights are known; their points are taken out of the rest."""
    found = []
    for each in anatomy.copies:
        weights = weights_of(each.products.tolist(), each.arriving.tolist(), float(each.square))
        if weights is None:
            continue
        for edge in each.points:
            rest.pop(edge, None)
        for loss, weight in zip(each.losses, weights, strict=True):
            value = float(loss.tensor.detach().double().mean())
            found.append(_Part(loss.name, (loss.edge,), weight, value, weight * value, named=True))
    return found


def _unnamed(edge: Edge, derivative: Tensor, held: Tensor | None) -> _Part:
    place = place_of(edge[0])
    tensor = held.detach() if held is not None else place.value if place is not None else kept_value(edge[0])
    factor = float(derivative.double().sum())
    if tensor is None:
        return _Part(made_by(edge[0]), (edge,), factor, None, None, named=False)
    weighted = float((derivative.double() * tensor.double()).sum())
    return _Part(made_by(edge[0]), (edge,), factor, float(tensor.double().mean()), weighted, named=False)


def _distinct(parts: Sequence[_Part]) -> list[_Part]:
    """Names that occur twice are numbered."""
    seen: dict[str, int] = {}
    found = []
    for part in parts:
        seen[part.name] = seen.get(part.name, 0) + 1
        name = part.name if seen[part.name] == 1 else f"{part.name} ({seen[part.name]})"
        found.append(_Part(name, part.edges, part.factor, part.value, part.weighted, part.named))
    return found


class _Reader:
    """Which outputs and parameters each summand reaches."""

    def __init__(self, outputs: Any, models: Mapping[str, nn.Module]) -> None:
        self._edges = {
            path: edge
            for path, tensor in (by_path(outputs) if outputs is not None else {}).items()
            if (edge := gradient_edge(tensor)) is not None
        }
        self._owners = names_of(models)
        self._names = {
            id(leaf): f"{prefix}.{name}" if len(models) > 1 else name
            for prefix, model in models.items()
            for name, leaf in model.named_parameters()
        }

    def read(self, parts: Sequence[_Part]) -> list[tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]]:
        """Heads, parameters, and what hides parameters, of each part.

        Args:
            parts: The parts.

        Returns:
            The three, per part.
        """
        roots = [(edge, 1 << number) for number, part in enumerate(parts) for edge in part.edges]
        traced = walk(roots, len(parts), self._edges.values())
        leaves = traced.leaf_masks()
        found = []
        for number, part in enumerate(parts):
            bit = 1 << number
            heads = tuple(path for path, edge in self._edges.items() if traced.edge_mask(edge) & bit)
            below = heads_below(part.edges, self._owners)
            reach = tuple(name for key, name in self._names.items() if leaves.get(key, 0) & bit)
            found.append(
                (heads if self._edges else tuple(name or "(model)" for name in below.edges), reach, below.opaque)
            )
        return found


def _table(number: float, found: _Parts, reader: _Reader) -> TakenApart:
    read = reader.read(found.parts)
    summands = {
        part.name: Summand(part.name, part.factor, part.value, part.weighted, part.named, heads, reach)
        for part, (heads, reach, _) in zip(found.parts, read, strict=True)
    }
    blank = [part for part in summands.values() if part.weighted is None]
    rest = number - sum(part.weighted for part in summands.values() if part.weighted is not None)
    if len(blank) == 1 and blank[0].factor:
        # What is left is the one whose value nobody holds, with the constants that were added, if any.
        one = blank[0]
        summands[one.name] = Summand(
            one.name, one.factor, rest / one.factor, rest, one.named, one.heads, one.reach, one.place
        )
        rest = 0.0
    unknown = dict.fromkeys(reason for _, _, opaque in read for reason in opaque)
    anatomy = found.anatomy
    absent = tuple(each.name for each in anatomy.absent if each.tensor.numel() == 1)
    return TakenApart(number, summands, rest, dict(anatomy.groups), anatomy.whole, absent, tuple(unknown))
