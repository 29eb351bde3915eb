"""Binding terms to structures: from paths to concrete places, every mismatch an error that says what to do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from headwise.criterion.layout import Edge, Layout, Part, Steps, make_layout, per_output
from headwise.criterion.levels import shrink
from headwise.criterion.masks import Mask
from headwise.criterion.paths import Channels, Path, expand, get, leaves, level_name, parse
from headwise.criterion.term import AnyTerm, describe
from headwise.criterion.unread import check_outputs_read, check_targets_read

Level = tuple[int, ...]


@dataclass(frozen=True)
class Read:
    """A concrete place in the targets, with a slice and a stride to shrink by."""

    path: str
    steps: Steps
    channels: Channels | None = None
    stride: int = 1
    num_spatial: int = 2

    def of(self, targets: Any) -> Tensor:
        """Reads it."""
        tensor: Tensor = get(targets, self.steps)
        if self.channels is not None:
            start, stop = self.channels.bounds(tensor)
            tensor = tensor.narrow(self.channels.dim, start, stop - start)
            tensor = tensor if self.channels.keep else tensor.squeeze(self.channels.dim)
        return shrink(tensor, self.stride, self.num_spatial)


@dataclass(frozen=True)
class Binding:
    """What one level of a term reads of the targets."""

    targets: tuple[Read, ...]
    mask: Mask | None
    mask_reads: tuple[tuple[Path, Read], ...]

    @property
    def reads(self) -> tuple[Read, ...]:
        """All places that are read, for the target and for the mask."""
        return (*self.targets, *(place for _, place in self.mask_reads))

    def read(self, targets: Any) -> tuple[list[Tensor], Tensor | None]:
        """The target tensors and the evaluated mask."""
        mask = None
        if self.mask is not None:
            places = dict(self.mask_reads)
            mask = self.mask.evaluate(lambda path: places[path].of(targets))
        return [read.of(targets) for read in self.targets], mask


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


def complain(term: AnyTerm, role: str, path: object, why: str) -> ValueError:
    """An error about what a term names.

    Args:
        term: The term.
        role: "output", "target" or "mask".
        path: The path as declared.
        why: The rule, what was found and the remedy.

    Returns:
        The error to raise.
    """
    return ValueError(f"term {term.name!r}: {role} {str(path)!r}: {why}")


def _places(term: AnyTerm, role: str, path: Path, structure: Any) -> dict[Level, tuple[str, Steps]]:
    """The tensors that a path names, by level."""
    try:
        places = expand(path, structure)
        for name, steps in places.values():
            found = get(structure, steps)
            if not isinstance(found, Tensor):
                raise KeyError(f"a path ends at a tensor; found {describe(found)} at {name!r}.")
            if path.channels is not None:
                path.channels.bounds(found)
    except KeyError as error:
        holder = "outputs" if role == "output" else "targets"
        raise complain(term, role, path, f"{error.args[0]} Correct the path, or what the {holder} hold") from None
    except IndexError as error:
        raise complain(term, role, path, f"{error}. Correct the slice") from None
    if not places:
        raise complain(term, role, path, "[*] needs at least one level; found none. Hand over the levels")
    return places


def _inner(level: Level, num_wildcards: int) -> Level:
    """The part of a level that a path with so many wildcards tells apart; it shares what it names over the rest."""
    return level[len(level) - num_wildcards :]


def _check_same_levels(term: AnyTerm, role: str, path: Path, places: dict[Level, Any], levels: list[Level]) -> None:
    wanted = {_inner(level, path.num_wildcards) for level in levels}
    if set(places) != wanted:
        raise complain(
            term,
            role,
            path,
            f"levels correspond one to one; it has {len(places)}, the term's others have {len(wanted)}. "
            "Name the same levels in outputs, targets and mask",
        )


def _widest(found: Sequence[tuple[Path, dict[Level, Any]]]) -> list[Level]:
    """The levels of the path with the most wildcards; one empty level where there is no path."""
    width = -1
    levels: list[Level] = [()]
    for path, places in found:
        if path.num_wildcards > width:
            width, levels = path.num_wildcards, sorted(places)
    return levels


def bind_targets(term: AnyTerm, targets: Any) -> tuple[list[Level], tuple[Binding, ...]]:
    """Finds what a term reads of the targets.

    Args:
        term: The term.
        targets: The nested targets.

    Returns:
        The levels of the targets (one empty tuple if they have none of their own) and a binding for each.

    Raises:
        ValueError: A path names nothing, or the levels differ.
    """
    mask_paths = term.mask_expression.paths if term.mask_expression else ()
    roles = [("target", path) for path in term.targets.paths] + [("mask", path) for path in mask_paths]
    found = [(role, path, _places(term, role, path, targets)) for role, path in roles]
    levels = _widest([(path, places) for _, path, places in found])
    for role, path, places in found:
        _check_same_levels(term, role, path, places, levels)
    strides = term.levels.strides if term.levels else None
    if strides is not None and levels == [()]:
        return [(number,) for number in range(len(strides))], tuple(
            _binding(term, found, (), stride) for stride in strides
        )
    return levels, tuple(_binding(term, found, level, 1) for level in levels)


def _binding(term: AnyTerm, found: Sequence[tuple[str, Path, dict[Level, Any]]], level: Level, stride: int) -> Binding:
    num_spatial = term.levels.num_spatial if term.levels else 2
    reads = []
    for role, path, places in found:
        name, steps = places[_inner(level, path.num_wildcards)]
        reads.append((role, path, Read(name, steps, path.channels, stride, num_spatial)))
    return Binding(
        tuple(read for role, _, read in reads if role == "target"),
        term.mask_expression,
        tuple((path, read) for role, path, read in reads if role == "mask"),
    )


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
    check_outputs_read(outputs, layout, declared)
    used = {read.path for term in bindings for binding in term for read in binding.reads}
    check_targets_read(targets, used, declared)
    parts = per_output(layout, shapes)
    return Plan(layout, parts, tuple(roots.values()), tuple(calls), tuple(bindings), tuple(level_of))


def _bind_outputs(
    number: int, term: AnyTerm, outputs: Any, roots: dict[str, Steps], edges: list[Edge]
) -> tuple[list[Level], tuple[tuple[int, ...], ...]]:
    """Appends a term's edges; returns its levels and, per level, the edges in the order of the arguments."""
    found = [(path, _places(term, "output", path, outputs)) for path in term.reads.paths]
    levels = _widest(found)
    for path, places in found:
        _check_same_levels(term, "output", path, places, levels)
    widest, named = max(found, key=lambda each: each[0].num_wildcards)
    calls = []
    for index, level in enumerate(levels):
        call = []
        where = (index, level_name(widest, named[level][1])) if level else (-1, "")
        for path, places in found:
            name, steps = places[_inner(level, path.num_wildcards)]
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
    text = name + path.text[path.text.rindex("[") :] if path.channels else name
    if path.channels is None:
        dim = min(1, max(tensor.dim() - 1, 0))
        return Edge(number, root, dim, 0, tensor.shape[dim] if tensor.dim() else 1, True, True, text)
    start, stop = path.channels.bounds(tensor)
    dim = path.channels.dim % tensor.dim()
    return Edge(number, root, dim, start, stop, path.channels.keep, (start, stop) == (0, tensor.shape[dim]), text)


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
    keys = [_inner(level, len(target_levels[0])) for level in levels]
    if set(keys) != set(target_levels):
        what = "targets" if term.targets.paths else "mask"
        path = next(iter(term.targets.paths), term.mask)
        raise complain(
            term,
            "target",
            path,
            f"the {what} have {len(target_levels)} levels, the outputs ({term.reads.paths[0]}) have {len(set(keys))}. "
            "Levels correspond one to one",
        )
    return tuple(target_levels.index(key) for key in keys)


def signature(structure: Any) -> tuple[tuple[str, tuple[int, ...], torch.dtype], ...]:
    """What a plan depends on: every tensor's path, shape and dtype."""
    return tuple((path, tuple(tensor.shape), tensor.dtype) for path, tensor in leaves(structure))
