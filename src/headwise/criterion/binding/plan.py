"""The plan of a criterion call: every reading of every term laid out once for all calls of the same structure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from headwise.criterion.binding.binding import (
    ReadTargets,
    bind_targets,
    check_same_levels,
    complain,
    inner_level,
    places_of,
    tell_levels,
    widest_levels,
)
from headwise.criterion.binding.layout import Edge, Layout, Served, make_layout, per_output, whole
from headwise.criterion.binding.unread import check_read
from headwise.criterion.terms.paths import Level, Path, Slice, level_name, parse
from headwise.criterion.terms.term import AnyTerm
from headwise.structure import Steps, describe, get, leaves, spell

_MAX_PLANS = 256


@dataclass(frozen=True, eq=False)
class Plan:
    """One criterion call, laid out.

    Args:
        terms: The terms.
        layout: The readings of outputs.
        roots: Which leaves of the outputs these are.
        calls: Per term and level: the edges in the order of the loss's arguments.
        bindings: Per term and level of the targets: reads there.
        level_of: Per term: for each level of the outputs, the level of the targets.
        per_output: The junctions, one an output.
        whole: One junction for all outputs, where a policy must judge a term as a whole.
        sharded: An output that is a DTensor, or None.
    """

    terms: tuple[AnyTerm, ...]
    layout: Layout
    roots: tuple[int, ...]
    calls: tuple[tuple[tuple[int, ...], ...], ...]
    bindings: tuple[tuple[ReadTargets, ...], ...]
    level_of: tuple[tuple[int, ...], ...]
    per_output: tuple[Served, ...]
    whole: tuple[Served, ...]
    sharded: str | None


def make_plan(terms: Sequence[AnyTerm], outputs: Any, targets: Any, unread: Iterable[str]) -> Plan:
    """Binds all terms to the outputs and targets of one call.

    Args:
        terms: The terms.
        outputs: The nested outputs.
        targets: The nested targets.
        unread: Paths that are meant to be read by nobody.

    Returns:
        The plan.

    Raises:
        ValueError: Something named does not exist or does not fit, or something is read by nobody.
    """
    edges: list[Edge] = []
    roots: dict[str, Steps] = {}
    calls, bound, level_of = [], [], []
    for number, term in enumerate(terms):
        target_levels, bindings = bind_targets(term, targets)
        levels, term_calls = _bind_outputs(number, term, outputs, roots, edges)
        _check_level_weights(term, levels)
        level_of.append(_align(term, levels, target_levels))
        calls.append(term_calls)
        bound.append(bindings)
    tensors = [get(outputs, steps) for steps in roots.values()]
    shapes = tuple([tuple(tensor.shape) or (1,) for tensor in tensors])
    names = tuple([term.name for term in terms])
    layout = make_layout(names, tuple(roots), tuple(_normalized(edges, tensors)), shapes)
    declared = [parse(path) for path in unread]
    read = [
        (f"term {term.name!r}", each.path, each.channels)
        for term, bindings in zip(terms, bound, strict=True)
        for binding in bindings
        for each in binding.reads
    ]
    check_read(declared, outputs, targets, layout, read)
    place = {path: number for number, (path, _) in enumerate(leaves(outputs))}
    target_place = {path: number for number, (path, _) in enumerate(leaves(targets))}
    reads = tuple([tuple([each.reader(target_place) for each in term]) for term in bound])
    leaf = tuple([place[path] for path in roots])
    closed = {number for number, term in enumerate(terms) if term.closed_form}
    parts = per_output(layout, shapes, closed), whole(layout, closed)
    wanted = {path for _, path, _ in read}
    sharded = _sharded(roots, tensors, {path: each for path, each in leaves(targets) if path in wanted})
    return Plan(tuple(terms), layout, leaf, tuple(calls), reads, tuple(level_of), *parts, sharded)


def _sharded(roots: Iterable[str], outputs: Sequence[Tensor], targets: dict[str, Any]) -> str | None:
    """The first output that is a DTensor; with plain tensors beside it torch would stop somewhere inside of a loss."""
    found = {f"output {path!r}": each for path, each in zip(roots, outputs, strict=True)}
    found |= {f"target {path!r}": each for path, each in targets.items()}
    sharded = [name for name, each in found.items() if hasattr(each, "full_tensor")]
    if sharded and len(sharded) < len(found):
        plain = next(name for name in found if name not in sharded)
        raise ValueError(
            f"{sharded[0]} is a DTensor and {plain} is none: a criterion reads either. Distribute it over the same "
            "mesh (torch.distributed.tensor.distribute_tensor), or pass full_tensor() of the first"
        )
    return sharded[0] if sharded else None


def _bind_outputs(
    number: int, term: AnyTerm, outputs: Any, roots: dict[str, Steps], edges: list[Edge]
) -> tuple[list[Level], tuple[tuple[int, ...], ...]]:
    """Appends a term's edges; returns its levels and, per level, the edges in the order of the arguments."""
    found = [(path, places_of(term, "output", path, outputs)) for path in term.reads.paths]
    levels = widest_levels(found)
    for path, places in found:
        check_same_levels(term, "output", path, places, levels)
    num_wildcards = [path.num_wildcards for path, _ in found]
    widest, named = found[num_wildcards.index(max(num_wildcards))]  # Dynamo traces no `max` with a key
    calls = []
    for index, level in enumerate(levels):
        call = []
        where = (index, level_name(widest, named[level])) if level else (-1, "")
        for path, places in found:
            steps = places[inner_level(level, path.num_wildcards)]
            name = spell(steps)
            roots.setdefault(name, steps)
            call.append(len(edges))
            edge = _edge(number, term, path, name, list(roots).index(name), get(outputs, steps))
            edges.append(replace(edge, level=where[0], level_name=where[1]))
        calls.append(tuple(call))
    return levels, tuple(calls)


def _edge(number: int, term: AnyTerm, path: Path, name: str, root: int, tensor: Tensor) -> Edge:
    if not tensor.dtype.is_floating_point:
        remedy = "Hand over torch.view_as_real of it, or its abs()" if tensor.is_complex() else "Put it in the targets"
        raise complain(term, "output", path, f"a term reads floating point outputs; found {describe(tensor)}. {remedy}")
    if remedy := _remedy(tensor):
        raise complain(term, "output", path, f"a term reads plain tensors of 16 bits and more; found {remedy}")
    if path.channels is None:
        dim = min(1, max(tensor.dim() - 1, 0))
        return Edge(number, root, dim, 0, tensor.shape[dim] if tensor.dim() else 1, True, True, name)
    start, stop = path.channels.bounds(tensor)
    dim, keep = path.channels.dim % tensor.dim(), path.channels.keep
    text = name + str(Slice(1 if dim == 1 else -1, start, stop, keep))
    return Edge(number, root, dim, start, stop, keep, (start, stop) == (0, tensor.shape[dim]), text)


def _remedy(tensor: Tensor) -> str:
    """What an output is that losses and books cannot compute with, and what to hand over; empty if it is none."""
    if tensor.is_nested:
        return "a nested tensor. Hand over its parts (unbind, as a list of levels), or its values() with their mask"
    if tensor.layout is not torch.strided:
        return f"layout {tensor.layout}. Hand over to_dense(), or the values()"
    if tensor.dtype.itemsize < 2:
        return f"{describe(tensor)}. Hand over float()"
    return ""


def _normalized(edges: list[Edge], tensors: list[Tensor]) -> Iterable[Edge]:
    """Counts the channels of a whole output along the dimension in which its other readers slice it."""
    for edge in edges:
        sliced = {other.dim for other in edges if other.root == edge.root and not other.whole}
        if edge.is_plain and len(sliced) == 1 and edge.dim not in sliced:
            (dim,) = sliced
            size = tensors[edge.root].shape[dim]
            yield replace(edge, dim=dim, start=0, stop=size)
        else:
            yield edge


def _check_level_weights(term: AnyTerm, levels: list[Level]) -> None:
    if levels == [()]:
        if term.levels is not None:
            raise complain(
                term,
                "output",
                term.reads.paths[0],
                "a term with levels names them by [*]; found none. Write stacks[*].x",
            )
        return
    if term.levels is not None:
        try:
            term.levels.at(len(levels), 0)
        except ValueError as error:
            raise complain(term, "output", term.reads.paths[0], f"{error}. Give one a level") from None


def _align(term: AnyTerm, levels: list[Level], target_levels: list[Level]) -> tuple[int, ...]:
    """For each level of the outputs, the level of the targets that it is compared with."""
    keys = [inner_level(level, len(target_levels[0])) for level in levels]
    if term.levels is not None and term.levels.strides is not None and not any(_wildcards(term)):
        # One target shrunk by each stride: the strides follow the order of the outputs, whatever their keys.
        order = list(dict.fromkeys(keys))
        keys = [(order.index(key),) for key in keys]
    if set(keys) != set(target_levels):
        what = "targets" if term.targets.paths else "mask"
        path = next(iter(term.targets.paths), term.mask)
        raise complain(
            term,
            "target",
            path,
            f"the {what} have {tell_levels(target_levels)} levels, the outputs ({term.reads.paths[0]}) have "
            f"{tell_levels(set(keys))}. Levels correspond one to one",
        )
    return tuple(target_levels.index(key) for key in keys)


def _wildcards(term: AnyTerm) -> list[int]:
    """How many [*] each path into the targets has."""
    masks = term.mask_expression.paths if term.mask_expression else ()
    return [path.num_wildcards for path in (*term.targets.paths, *masks)]


class Plans:
    """Plans by structure; sizes count only where a slice depends on them."""

    def __init__(self) -> None:
        self._plans: dict[Any, Plan] = {}
        self._sliced: dict[Any, tuple[tuple[int, int], ...]] = {}

    def of(self, key: Any, outputs: Sequence[Tensor], targets: Sequence[Tensor], make: Callable[[], Plan]) -> Plan:
        """The plan of a structure, made where it is new.

        Args:
            key: What outputs and targets are made of, but for their tensors.
            outputs: The tensors of the outputs.
            targets: The tensors of the targets.
            make: Makes the plan.

        Returns:
            The plan.
        """
        kinds = (key, *[_kind(each) for each in (*outputs, *targets)])
        sliced = self._sliced.get(kinds)
        if sliced is not None:
            plan = self._plans.get(_with_sizes(kinds, outputs, sliced))
            if plan is not None:
                return plan
        plan = make()
        if len(self._plans) >= _MAX_PLANS:
            self._plans.clear()
            self._sliced.clear()
        places = {(plan.roots[edge.root], edge.dim) for edge in plan.layout.edges if not edge.is_plain}
        self._sliced[kinds] = sliced = tuple(sorted(places))
        self._plans[_with_sizes(kinds, outputs, sliced)] = plan
        return plan


def _kind(tensor: Tensor) -> tuple[Any, ...]:
    return type(tensor), tensor.dtype, tensor.dim(), tensor.layout, tensor.is_nested


def _with_sizes(kinds: Any, outputs: Sequence[Tensor], sliced: Iterable[tuple[int, int]]) -> Any:
    return (kinds, *[outputs[number].shape[dim] for number, dim in sliced])
