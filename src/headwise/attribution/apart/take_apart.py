"""Takes a number apart: what it adds, with which factor, under which name, from which outputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from types import FrameType
from typing import Any, TypeAlias

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
from headwise.attribution.apart.words import numbered, says_total
from headwise.graph import Edge, gradient_edge
from headwise.reach import walk
from headwise.refusals import refuse_no_model
from headwise.structure import by_path

_Part: TypeAlias = tuple[Edge, Summand]
"""A summand, and where it lies in the graph."""


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
    edge = gradient_edge(total) if isinstance(total, Tensor) else None
    if edge is None:
        raise ValueError(
            "take_apart: the total has no graph. Give the tensor on which backward is called, as it is: not detached, "
            "not computed under no_grad, not a number"
        )
    if model is not None:
        refuse_no_model("take_apart", model)
    frames = callers(2)
    seed = torch.ones_like(total.detach()) if gradient is None else gradient.detach()
    returned = candidates(entries(losses, names)) if losses is not None else []
    parts, anatomy = _parts([(edge, seed)], returned, lambda: variables_of([(edge, seed)], frames))
    models = {"model": model} if model is not None else {} if outputs is not None else modules_in(frames)
    number = float((seed * total.detach()).sum())
    rounding = (len(parts) + 1) * torch.finfo(total.dtype).eps
    return replace(_table(number, parts, anatomy, _Reader(outputs, models)), rounding=rounding)


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


def _parts(
    roots: Sequence[tuple[Edge, Tensor]],
    returned: Sequence[Candidate],
    look_for_variables: Callable[[], Sequence[Candidate]],
) -> tuple[list[_Part], Anatomy]:
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
    return _distinct(parts), anatomy if returned else replace(anatomy, absent=())


def _holds(variable: Candidate, taken: Collection[Edge]) -> bool:
    """Whether a variable is, or adds up, what has a name already."""
    return bool(taken) and bool(walk_sum([(variable.edge, variable.seed)], ends=taken).points.keys() & set(taken))


def _direct(part: Direct) -> _Part:
    tensor, derivative = part.loss.tensor.detach(), part.derivative
    value, weighted = float(tensor.double().mean()), float((derivative.double() * tensor.double()).sum())
    factor = float(derivative.double().sum())
    if tensor.numel() != 1 and value and bool((derivative != derivative.flatten()[0]).any()):
        factor = weighted / value
    return part.loss.edge, Summand(part.loss.name, factor, value, weighted)


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
            found.append((loss.edge, Summand(loss.name, weight, value, weight * value)))
    return found


def _unnamed(edge: Edge, derivative: Tensor, held: Tensor | None) -> _Part:
    place = place_of(edge[0])
    tensor = held.detach() if held is not None else place.value if place is not None else kept_value(edge)
    value = None if tensor is None else float(tensor.double().mean())
    weighted = None if tensor is None else float((derivative.double() * tensor.double()).sum())
    return edge, Summand(made_by(edge[0]), float(derivative.double().sum()), value, weighted, named=False)


def _distinct(parts: Sequence[_Part]) -> list[_Part]:
    """Names that occur twice are numbered."""
    seen: Counter[str] = Counter()
    found = []
    for edge, part in parts:
        seen[part.name] += 1
        found.append((edge, replace(part, name=numbered(part.name, seen[part.name]))))
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

    def read(self, parts: Sequence[_Part]) -> tuple[list[Summand], list[str]]:
        """The summands with their heads and parameters, and what hides parameters.

        Args:
            parts: The summands.

        Returns:
            Both.
        """
        traced = walk([(edge, 1 << number) for number, (edge, _) in enumerate(parts)], len(parts), self._edges.values())
        leaves = traced.leaf_masks()
        found: list[Summand] = []
        opaque: list[str] = []
        for number, (edge, part) in enumerate(parts):
            bit, below = 1 << number, heads_below([edge], self._owners)
            heads = tuple(path for path, output in self._edges.items() if traced.edge_mask(output) & bit)
            heads = heads if self._edges else tuple(name or "(model)" for name in below.edges)
            reach = tuple(name for key, name in self._names.items() if leaves.get(key, 0) & bit)
            found.append(replace(part, heads=heads, reach=reach))
            opaque += below.opaque
        return found, opaque


def _table(number: float, parts: Sequence[_Part], anatomy: Anatomy, reader: _Reader) -> TakenApart:
    read, opaque = reader.read(parts)
    rest = number - sum(part.weighted for part in read if part.weighted is not None)
    blank = [part for part in read if part.weighted is None]
    if len(blank) == 1 and blank[0].factor:
        # What is left is the one whose value nobody holds, with the constants that were added, if any.
        known = replace(blank[0], value=rest / blank[0].factor, weighted=rest)
        read, rest = [known if part is blank[0] else part for part in read], 0.0
    absent = tuple(each.name for each in anatomy.absent if each.tensor.numel() == 1)
    summands = {part.name: part for part in read}
    unknown = tuple(dict.fromkeys(opaque))
    return TakenApart(number, summands, rest, dict(anatomy.groups), anatomy.whole, absent, unknown)
