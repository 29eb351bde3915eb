"""Where losses were made: the name, function, file and line of each, kept in the graph while code runs.

Where the frame that held the names of losses has returned when backward is called (a model that computes its losses
itself), only what was seen as they were made can tell them apart.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.overrides import TorchFunctionMode

from headwise.attribution.apart.dissect import LAST, Candidate
from headwise.attribution.apart.frames import is_ours
from headwise.attribution.apart.linear import IN_PLACE
from headwise.attribution.apart.spelled import RETURNED, name_of_result
from headwise.attribution.apart.walk import walk_sum
from headwise.attribution.apart.words import says_total
from headwise.graph import Edge

_KEY = "headwise"
_RANK = 50
_PIECES = ("Select", "AsStrided")


@dataclass(frozen=True)
class Place:
    """Where a scalar was made.

    Args:
        name: What it was assigned to, or its key in a dict; None where it was used at once.
        function: The function that made it.
        line: The file and line.
        value: The scalar, without its graph.
    """

    name: str | None
    function: str
    line: str
    value: Tensor

    def __str__(self) -> str:
        return f"{self.function}, {self.line}"


class Places(TorchFunctionMode):
    """While it is entered, every scalar that has a graph gets its place.

    Attributes:
        is_recording: False: it does nothing, for where it cannot be left.
    """

    is_recording = True

    def enter(self) -> None:
        """Enters the mode, outside of a ``with`` block."""
        mode: Any = super()
        mode.__enter__()

    def leave(self) -> None:
        """Leaves the mode, which must be the innermost."""
        mode: Any = super()
        mode.__exit__(None, None, None)

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs the function, and notes where it was called if a scalar came of it."""
        result = func(*args, **(kwargs or {}))
        if self.is_recording and isinstance(result, Tensor) and result.requires_grad and result.numel() == 1:
            # Views that were written in place refuse to tell their node: such a scalar stays without a place.
            with suppress(RuntimeError):
                _mark(result, sys._getframe(1))
        return result


def place_of(node: Node) -> Place | None:
    """Where the scalar of a node was made, if that was seen.

    Args:
        node: The node that computed it.

    Returns:
        The place.
    """
    found = _notes(node).get(_KEY)
    return found if isinstance(found, Place) else None


def candidates_at(edges: Iterable[Edge]) -> list[Candidate]:
    """The losses on the way of a sum that got a name as they were made.

    Args:
        edges: The edges of the sum.

    Returns:
        The losses.
    """
    found: list[Candidate] = []
    named: dict[str, list[Edge]] = {}
    for node, port in edges:
        place = place_of(node)
        if place is None or place.name is None or port != 0:
            continue
        same = named.setdefault(place.name, [])
        # Where the same name is above, this is a part of that sum: what `sum` or a loop had added up so far.
        if any((node, port) in walk_sum([(edge, torch.ones_like(place.value))]).passed for edge in same):
            continue
        same.append((node, port))
        name = place.name if len(same) == 1 else f"{place.name} ({len(same)})"
        found.append(Candidate(name, place.value, LAST * says_total(place.name) + _RANK, (node, port)))
    return found


def _notes(node: Node) -> dict[str, Any]:
    """What code may keep with a node: a dict, though its type says a method."""
    notes: Any = node.metadata
    return notes if isinstance(notes, dict) else {}


def _is_piece(node: Node) -> bool:
    """Whether a scalar is a piece of a tensor that was written there: its node leads to all other pieces too."""
    below = [child for child, _ in node.next_functions if child is not None]
    return node.name().startswith(_PIECES) and any(child.name() == IN_PLACE for child in below)


def _mark(result: Tensor, frame: FrameType | None) -> None:
    """Keeps a place with the node: it lives as long as the graph does."""
    while frame is not None and is_ours(frame):
        frame = frame.f_back
    if frame is None or result.grad_fn is None or _KEY in _notes(result.grad_fn) or _is_piece(result.grad_fn):
        return
    code = frame.f_code
    line = f"{code.co_filename.rpartition('/')[2]}:{frame.f_lineno}"
    name, caller = name_of_result(frame), frame.f_back
    while name == RETURNED and caller is not None:
        while caller is not None and is_ours(caller):
            caller = caller.f_back
        name = None if caller is None else name_of_result(caller)
        caller = None if caller is None else caller.f_back
    value = result.detach().clone()
    _notes(result.grad_fn)[_KEY] = Place(None if name == RETURNED else name, code.co_name, line, value)
