"""The plan of a criterion call: every reading of every term laid out once for all calls of the same structure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from headwise.criterion.binding import (
    Binding,
    bind_targets,
    check_same_levels,
    complain,
    inner_level,
    places_of,
    tell_levels,
    widest_levels,
)
from headwise.criterion.layout import Edge, Layout, Part, make_layout, per_output
from headwise.criterion.paths import Channels, Level, Path, level_name, parse
from headwise.criterion.term import AnyTerm
from headwise.criterion.unread import check_outputs_read, check_targets_read, check_unread
from headwise.structure import Steps, describe, flatten, get, spell


@dataclass(frozen=True)
class Plan:
    """One criterion call, laid out.

    Args:
        layout: The readings of outputs.
        parts: The same, one output a part.
        root_steps: Where each output tensor is.
        calls: Per term and level: the edges in the order of the loss's arguments.
        bindings: Per term and level of the targets: what it reads there.
        level_of: Per term: for each level of the outputs, the level of the targets.
    """

    layout: Layout
    parts: tuple[Part, ...]
    root_steps: tuple[Steps, ...]
    calls: tuple[tuple[tuple[int, ...], ...], ...]
    bindings: tuple[tuple[Binding, ...], ...]
    level_of: tuple[tuple[int, ...], ...]


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
    calls, bindings, level_of = [], [], []
    for number, term in enumerate(terms):
        target_levels, term_bindings = bind_targets(term, targets)
        levels, term_calls = _bind_outputs(number, term, outputs, roots, edges)
        _check_level_weights(term, levels)
        level_of.append(_align(term, levels, target_levels))
        calls.append(term_calls)
        bindings.append(term_bindings)
    tensors = [get(outputs, steps) for steps in roots.values()]
    shapes = tuple([tuple(tensor.shape) or (1,) for tensor in tensors])
    names = tuple([term.name for term in terms])
    layout = make_layout(names, tuple(roots), tuple(_normalised(edges, tensors)), shapes)
    declared = [parse(path) for path in unread]
    reads = [
        (f"term {term.name!r}", read.path, read.channels)
        for term, levels in zip(terms, bindings, strict=True)
        for binding in levels
        for read in binding.reads
    ]
    check_unread(declared, outputs, targets, layout, reads)
    check_outputs_read(outputs, layout, declared)
    check_targets_read(targets, {path for _, path, _ in reads}, declared)
    parts = per_output(layout, shapes)
    return Plan(layout, parts, tuple(roots.values()), tuple(calls), tuple(bindings), tuple(level_of))


def _bind_outputs(
    number: int, term: AnyTerm, outputs: Any, roots: dict[str, Steps], edges: list[Edge]
) -> tuple[list[Level], tuple[tuple[int, ...], ...]]:
    """Appends a term's edges; returns its levels and, per level, the edges in the order of the arguments."""
    found = [(path, places_of(term, "output", path, outputs)) for path in term.reads.paths]
    levels = widest_levels(found)
    for path, places in found:
        check_same_levels(term, "output", path, places, levels)
    widest, named = max(found, key=lambda each: each[0].num_wildcards)
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
        raise complain(
            term,
            "output",
            path,
            f"a term reads floating point outputs; found {describe(tensor)}. Put it in the targets",
        )
    if path.channels is None:
        dim = min(1, max(tensor.dim() - 1, 0))
        return Edge(number, root, dim, 0, tensor.shape[dim] if tensor.dim() else 1, True, True, name)
    start, stop = path.channels.bounds(tensor)
    dim, keep = path.channels.dim % tensor.dim(), path.channels.keep
    text = name + str(Channels(1 if dim == 1 else -1, start, stop, keep))
    return Edge(number, root, dim, start, stop, keep, (start, stop) == (0, tensor.shape[dim]), text)


def _normalised(edges: list[Edge], tensors: list[Tensor]) -> Iterable[Edge]:
    """Counts the channels of a whole output along the dimension in which its other readers slice it."""
    for edge in edges:
        sliced = {other.dim for other in edges if other.root == edge.root and not other.whole}
        if edge.whole and edge.keep and len(sliced) == 1 and edge.dim not in sliced:
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


def signature(structure: Any) -> Any:
    """What a plan depends on: the structure, every tensor's shape and dtype."""
    spec, tensors = flatten(structure)
    return spec, tuple([(tensor.shape, tensor.dtype) for tensor in tensors])
