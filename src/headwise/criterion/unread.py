"""What nobody reads: an output, a channel or a target that no term uses is an error unless it is declared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from headwise.criterion.layout import Edge, Layout
from headwise.criterion.paths import Path, leaves, parse
from headwise.criterion.term import describe


def _matches(declared: Path, concrete: str) -> bool:
    """Whether a declared path names a concrete one, or something that holds it."""
    steps = parse(concrete).steps if concrete else ()
    if len(declared.steps) > len(steps):
        return False
    return all(want in ("*", have) or str(want) == str(have) for want, have in zip(declared.steps, steps, strict=False))


def check_outputs_read(outputs: Any, layout: Layout, declared: Sequence[Path]) -> None:
    """Refuses outputs and channels that no term reads and nobody declared unread.

    Args:
        outputs: The nested outputs.
        layout: Who reads what.
        declared: Paths declared unread.

    Raises:
        ValueError: Names the output, its channels and the remedy.
    """
    for path, tensor in leaves(outputs):
        whole = any(_matches(each, path) and each.channels is None for each in declared)
        edges = [edge for edge in layout.edges if layout.roots[edge.root] == path]
        if edges and whole:
            raise ValueError(
                f"output {path!r} is declared unread, but term {layout.terms[edges[0].term]!r} reads it. "
                "Take it out of unread"
            )
        if not edges and not whole:
            raise ValueError(
                f"output {path!r} ({describe(tensor)}) is read by no term, so nothing trains it. Give it a term, "
                f"or declare unread=[{path!r}]"
            )
        if edges and not any(edge.whole for edge in edges):
            _check_channels_read(path, tensor, edges, declared)


def _check_channels_read(path: str, tensor: Tensor, edges: Sequence[Edge], declared: Sequence[Path]) -> None:
    dim = edges[0].dim
    read = {channel for edge in edges if edge.dim == dim for channel in range(edge.start, edge.stop)}
    for each in declared:
        if each.channels is not None and _matches(each, path):
            read |= set(range(*each.channels.bounds(tensor)))
    missing = sorted(set(range(tensor.shape[dim])) - read)
    if missing:
        where = ":" if dim == 1 else "..."
        raise ValueError(
            f"output {path!r}: channels {_ranges(missing)} of {tensor.shape[dim]} are read by no term, so nothing "
            f"trains them. Give them a term, or declare unread=['{path}[{where}, {missing[0]}:{missing[-1] + 1}]']"
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
    for path, tensor in leaves(targets):
        if path not in used and not any(_matches(each, path) for each in declared):
            raise ValueError(
                f"target {path!r} ({describe(tensor)}) is used by no term. Give it to a term as target or mask, or "
                f"declare unread=[{path!r}]"
            )


def _ranges(numbers: list[int]) -> str:
    """[0, 1, 2, 5] as "0 to 2, 5"."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][-1] == number - 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]} to {part[-1]}" for part in parts)
