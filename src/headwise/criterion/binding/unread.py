"""What nobody reads: an output, a channel or a target that no term uses is an error unless it is declared."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from headwise.criterion.binding.layout import Edge, Layout
from headwise.criterion.terms.paths import Path, Slice, expand
from headwise.structure import describe, get, leaves, spell


def _declared(path: Path, structure: Any) -> dict[str, Tensor]:
    """The tensors at or below the places that a path names."""
    return {
        name: tensor
        for steps in expand(path, structure, where_there=True).values()
        for name, tensor in leaves(get(structure, steps), spell(steps))
    }


def _check_outputs_read(outputs: Any, layout: Layout, declared: Sequence[Path]) -> None:
    """Refuses outputs and channels that no term reads and nobody declared unread."""
    whole: set[str] = set()
    sliced: dict[str, list[Slice]] = {}
    for each in declared:
        for name in _declared(each, outputs):
            if each.channels is None:
                whole.add(name)
            else:
                sliced.setdefault(name, []).append(each.channels)
    for path, tensor in leaves(outputs):
        edges = [edge for edge in layout.edges if layout.roots[edge.root] == path]
        if path in whole or any(edge.whole for edge in edges):
            continue
        if not edges and path not in sliced:
            raise ValueError(
                f"output {path!r} ({describe(tensor)}) is read by no term, so nothing trains it. Give it a term, "
                f"or declare unread=[{path!r}]"
            )
        _check_channels_read(path, tensor, edges, sliced.get(path, []))


def _check_channels_read(path: str, tensor: Tensor, edges: Sequence[Edge], declared: Sequence[Slice]) -> None:
    dim = edges[0].dim if edges else declared[0].dim % tensor.dim()
    read = {channel for edge in edges if edge.dim == dim for channel in range(edge.start, edge.stop)}
    for each in declared:
        if each.dim % tensor.dim() == dim:
            read |= set(range(*each.bounds(tensor)))
    missing = sorted(set(range(tensor.shape[dim])) - read)
    if missing:
        runs, where = _runs(missing), ":" if dim == 1 else "..."
        channels = ", ".join(str(first) if first == last else f"{first} to {last}" for first, last in runs)
        rest = [f"{path}[{where}, {first}:{last + 1}]" for first, last in runs]
        raise ValueError(
            f"output {path!r}: channels {channels} of {tensor.shape[dim]} are read by no term, so nothing trains them. "
            f"Give them a term, or declare unread={rest!r}"
        )


def check_targets_read(targets: Any, used: set[str], declared: Sequence[Path]) -> None:
    """Refuses targets that nothing uses and nobody declared unread.

    Args:
        targets: The nested targets.
        used: Concrete paths that terms read, as target or in a mask.
        declared: Paths declared unread.

    Raises:
        ValueError: Names the target and the remedy.
    """
    unread = {name for each in declared for name in _declared(each, targets)}
    for path, tensor in leaves(targets):
        if path not in used and path not in unread:
            raise ValueError(
                f"target {path!r} ({describe(tensor)}) is used by no term. Give it to a term as target or mask, or "
                f"declare unread=[{path!r}]"
            )


Reader = tuple[str, str, Slice | None]
"""Who reads, by what name; the path of the tensor; the slice."""


def check_read(declared: Sequence[Path], outputs: Any, targets: Any, layout: Layout, used: Sequence[Reader]) -> None:
    """Refuses what nobody reads and nobody declared unread, and what is declared so and is not there, or is read.

    Args:
        declared: Paths declared unread.
        outputs: The nested outputs.
        targets: The nested targets.
        layout: Who reads which output.
        used: What terms read of the targets.

    Raises:
        ValueError: Names the place, what was found and the remedy.
    """
    _check_declared(declared, outputs, targets, layout, used)
    _check_outputs_read(outputs, layout, declared)
    check_targets_read(targets, {path for _, path, _ in used}, declared)


def _check_declared(
    declared: Sequence[Path], outputs: Any, targets: Any, layout: Layout, used: Sequence[Reader]
) -> None:
    """Refuses a declaration that is wrong; of a path that names outputs and targets either may be unread."""
    readers = [(f"term {layout.terms[edge.term]!r}", layout.roots[edge.root], _slice_of(edge)) for edge in layout.edges]
    for path in declared:
        found = [
            _complaint(path, kind, tensors, read)
            for kind, structure, read in (("output", outputs, readers), ("target", targets, used))
            if (tensors := _declared(path, structure))
        ]
        if not found:
            _tell_absent(path, outputs, targets)
        elif all(found):
            raise ValueError(found[0])


def _tell_absent(path: Path, outputs: Any, targets: Any) -> None:
    """Says that nothing is there. No error: a misspelt path is one where the output is there, as one that is unread."""
    if not torch.compiler.is_compiling():
        warnings.warn(
            f"unread={path.text!r} names no output and no target of this call. Outputs: {_names(outputs)}; targets: "
            f"{_names(targets)}. Correct the path, or take it out of unread, unless other calls have it, such as those "
            "in training",
            stacklevel=2,
        )


def _slice_of(edge: Edge) -> Slice | None:
    return None if edge.whole else Slice(edge.dim, edge.start, edge.stop)


def _complaint(path: Path, kind: str, tensors: dict[str, Tensor], readers: Sequence[Reader]) -> str | None:
    """What is wrong with declaring these tensors, or channels of them, unread."""
    for name, tensor in tensors.items():
        try:
            own = None if path.channels is None else (path.channels.dim % tensor.dim(), *path.channels.bounds(tensor))
        except (IndexError, ZeroDivisionError) as error:
            return f"unread={path.text!r}: {kind} {name!r}: {error}. Correct the slice"
        for who, read, channels in readers:
            if read == name and (own is None or channels is None or _overlap(own, channels, tensor)):
                what = f"{kind} {name!r} is declared unread" + (f" by {path.text!r}" if path.text != name else "")
                return f"{what}, but {who} reads it. Take it out of unread"
    return None


def _overlap(own: tuple[int, int, int], channels: Slice, tensor: Tensor) -> bool:
    dim, start, stop = own
    first, last = channels.bounds(tensor)
    return channels.dim % tensor.dim() != dim or max(start, first) < min(stop, last)


def _names(structure: Any) -> str:
    return ", ".join([path for path, _ in leaves(structure)][:20]) or "none"


def _runs(numbers: list[int]) -> list[tuple[int, int]]:
    """[0, 1, 2, 5] as (0, 2), (5, 5): the first and the last of each."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        first = runs.pop()[0] if runs and runs[-1][1] == number - 1 else number
        runs.append((first, number))
    return runs
