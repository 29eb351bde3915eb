"""Binding terms to targets: from paths to concrete places, every mismatch an error that says what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from headwise.criterion.terms.levels import shrink
from headwise.criterion.terms.mask_expressions import Mask
from headwise.criterion.terms.paths import Level, Path, Slice, expand
from headwise.criterion.terms.term import AnyTerm
from headwise.structure import Steps, describe, get, spell

ReadTarget = tuple[list[Tensor], Tensor | None]
"""What a term reads of the targets at one level: its targets and its evaluated mask."""

ReadTargets = Callable[[Sequence[Tensor]], ReadTarget]
"""From the leaves of the targets to what a term reads at one level."""


@dataclass(frozen=True)
class TargetPart:
    """A concrete place in the targets, with a slice and a stride to shrink by."""

    path: str
    channels: Slice | None = None
    stride: int = 1
    num_spatial: int = 2

    @property
    def is_plain(self) -> bool:
        """Whether the tensor is read as it stands."""
        return self.channels is None and self.stride == 1

    def of(self, tensor: Tensor) -> Tensor:
        """The part of the tensor there that is read."""
        if self.channels is not None:
            start, stop = self.channels.bounds(tensor)
            tensor = tensor.narrow(self.channels.dim, start, stop - start)
            tensor = tensor if self.channels.keep else tensor.squeeze(self.channels.dim)
        return shrink(tensor, self.stride, self.num_spatial)


@dataclass(frozen=True)
class Binding:
    """What one level of a term reads of the targets."""

    term: str
    targets: tuple[TargetPart, ...]
    mask: Mask | None
    mask_reads: tuple[tuple[Path, TargetPart], ...]

    @property
    def reads(self) -> tuple[TargetPart, ...]:
        """All places that are read, for the target and for the mask."""
        return (*self.targets, *(place for _, place in self.mask_reads))

    def reader(self, place: Mapping[str, int]) -> ReadTargets:
        """What it reads, from the leaves of the targets, whose places by path these are."""
        wanted = [(place[part.path], part) for part in self.targets]
        masked = {path: (place[part.path], part) for path, part in self.mask_reads}
        mask, term = self.mask, self.term
        if mask is None and all(part.is_plain for _, part in wanted):
            numbers = [number for number, _ in wanted]
            return lambda found: ([found[number] for number in numbers], None)

        def read(found: Sequence[Tensor]) -> ReadTarget:
            def of(each: tuple[int, TargetPart]) -> Tensor:
                return each[1].of(found[each[0]])

            given = [of(each) for each in wanted]
            return given, None if mask is None else mask.evaluate(lambda path: of(masked[path]), term)

        return read


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


def places_of(term: AnyTerm, role: str, path: Path, structure: Any) -> dict[Level, Steps]:
    """The tensors that a path names, by level.

    Args:
        term: Whose path it is.
        role: "output", "target" or "mask".
        path: As declared.
        structure: The nested outputs or targets.

    Returns:
        Level -> the steps to the tensor.

    Raises:
        ValueError: There is no such place, or no tensor.
    """
    try:
        places = expand(path, structure)
        for steps in places.values():
            found = get(structure, steps)
            if not isinstance(found, Tensor):
                raise KeyError(f"a path ends at a tensor; found {describe(found)} at {spell(steps)!r}.")
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


def inner_level(level: Level, num_wildcards: int) -> Level:
    """The part of a level that a path with so many wildcards tells apart; it shares what it names over the rest.

    Args:
        level: One key a wildcard of the widest path.
        num_wildcards: Of this path.

    Returns:
        The last keys.
    """
    return level[len(level) - num_wildcards :]


def check_same_levels(term: AnyTerm, role: str, path: Path, places: dict[Level, Any], levels: list[Level]) -> None:
    """Asks that a path names the same levels as the others of its term.

    Args:
        term: Whose path it is.
        role: "output", "target" or "mask".
        path: As declared.
        places: What it names.
        levels: Those of the widest path.

    Raises:
        ValueError: It does not.
    """
    wanted = {inner_level(level, path.num_wildcards) for level in levels}
    if set(places) != wanted:
        raise complain(
            term,
            role,
            path,
            f"levels correspond one to one; it has {tell_levels(places)}, the term's others have "
            f"{tell_levels(wanted)}. Name the same levels in outputs, targets and mask",
        )


def tell_levels(levels: Iterable[Level]) -> str:
    """How many levels there are, and their keys where they are no numbers."""
    several = sorted(levels, key=_order)
    if all(isinstance(key, int) for level in several for key in level):
        return str(len(several))
    return f"{len(several)} ({', '.join('.'.join(map(str, level)) for level in several[:20])})"


def _order(level: Level) -> list[tuple[bool, int, str]]:
    """Sorts numbers by size, before names."""
    return [(isinstance(key, str), 0, key) if isinstance(key, str) else (False, key, "") for key in level]


def widest_levels(found: Sequence[tuple[Path, dict[Level, Any]]]) -> list[Level]:
    """The levels of the path with the most wildcards; one empty level where there is no path.

    Args:
        found: Paths and what they name.

    Returns:
        The levels, in the order of the structure.
    """
    width = -1
    levels: list[Level] = [()]
    for path, places in found:
        if path.num_wildcards > width:
            width, levels = path.num_wildcards, list(places)
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
    found = [(role, path, places_of(term, role, path, targets)) for role, path in roles]
    # In one order whatever the order of the structure's keys: denominators are totaled over calls by position.
    levels = sorted(widest_levels([(path, places) for _, path, places in found]), key=_order)
    for role, path, places in found:
        check_same_levels(term, role, path, places, levels)
    strides = term.levels.strides if term.levels else None
    if strides is not None and levels == [()]:
        return [(number,) for number in range(len(strides))], tuple(
            _binding(term, found, (), stride) for stride in strides
        )
    return levels, tuple(_binding(term, found, level, 1) for level in levels)


def _binding(
    term: AnyTerm, found: Sequence[tuple[str, Path, dict[Level, Steps]]], level: Level, stride: int
) -> Binding:
    num_spatial = term.levels.num_spatial if term.levels else 2
    reads = []
    for role, path, places in found:
        steps = places[inner_level(level, path.num_wildcards)]
        reads.append((role, path, TargetPart(spell(steps), path.channels, stride, num_spatial)))
    return Binding(
        term.name,
        tuple(read for role, _, read in reads if role == "target"),
        term.mask_expression,
        tuple((path, read) for role, path, read in reads if role == "mask"),
    )
