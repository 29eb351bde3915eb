"""Where losses were made: the name, function, file and line of each, kept in the graph while code runs.

Where the frame that held the names of losses has returned when backward is called (a model that computes its losses
itself), only what was seen as they were made can tell them apart.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.overrides import TorchFunctionMode

from headwise.attribution.apart.naming.frames import is_ours
from headwise.attribution.apart.naming.spelled import RETURNED, name_of_result, text_of_result
from headwise.attribution.apart.sums.dissect import LAST, Anatomy, Candidate, dissect
from headwise.attribution.apart.sums.linear import IN_PLACE
from headwise.attribution.apart.sums.walk import walk_sum
from headwise.attribution.apart.words import numbered, says_total
from headwise.graph import Edge

_KEY = "headwise"
_RANK = 50
_LOSSES = ("_loss", "cross_entropy", "kl_div", "_with_logits")
_PIECES = ("Select", "AsStrided")
_is_tracing: Callable[[], bool] = torch.jit.is_tracing  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Place:
    """Where a scalar was made.

    Args:
        name: What it was assigned to, or its key in a dict; None where it was used at once.
        made: The loss function of torch that returned it; None where it was another operation.
        text: The expression that made it, as it is written; empty where it is long.
        function: The function that made it.
        line: The file and line.
        value: The scalar, without its graph.
    """

    name: str | None
    made: str | None
    text: str
    function: str
    line: str
    value: Tensor

    def __str__(self) -> str:
        return f"{self.function}, {self.line}"


class PlaceRecorder(TorchFunctionMode):
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
        # A trace calls what it sees as the variables of the frames are called that hold it.
        if not self.is_recording or _is_tracing():
            return func(*args, **(kwargs or {}))
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.requires_grad and result.numel() == 1:
            # Views that were written in place refuse to tell their node: such a scalar stays without a place.
            with suppress(RuntimeError):
                _mark(result, sys._getframe(1), _loss_function(func))
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


def with_loss_functions(
    roots: Sequence[tuple[Edge, Tensor]], losses: Sequence[Candidate], *, outputs: Collection[Edge] = ()
) -> Anatomy:
    """Takes a total apart, and what has no name in it down to what loss functions of torch returned.

    Args:
        roots: The edges of the total, each with its derivative.
        losses: The losses that have names.
        outputs: Edges below which nothing is a loss.

    Returns:
        The parts.
    """
    anatomy = dissect(roots, losses, outputs=outputs)
    rest = anatomy.rest.keys() - {edge for each in anatomy.copies for edge in each.points}
    if not rest:
        return anatomy
    held, names = {each.edge for each in losses}, {each.name for each in losses}
    made = [
        replace(each, name=f"{each.name}'") if each.name in names else each
        for each in candidates_at(walk_sum(roots).passed, made=True)
        if each.edge not in held and walk_sum([(each.edge, each.seed)], ends=outputs).points.keys() <= rest
    ]
    return dissect(roots, [*losses, *made], outputs=outputs) if made else anatomy


def candidates_at(edges: Iterable[Edge], *, made: bool = False) -> list[Candidate]:
    """The losses on the way of a sum that got a name as they were made.

    Args:
        edges: The edges of the sum.
        made: Those instead that got none, but are what a loss function returned, under the name of the function.

    Returns:
        The losses.
    """
    found: list[Candidate] = []
    named: dict[str, list[Candidate]] = {}

    @cache
    def passed(above: Candidate) -> Collection[Edge]:
        return walk_sum([(above.edge, above.seed)]).passed.keys()

    for node, port in edges:
        place = place_of(node)
        if place is None or port != 0 or (name := _name_at(place, made)) is None:
            continue
        same = named.setdefault(name, [])
        # Where the same name is above, this is a part of that sum: what `sum` or a loop had added up so far.
        if any((node, port) in passed(each) for each in same):
            continue
        rank = LAST * says_total(name) + _RANK
        found.append(Candidate(numbered(name, len(same) + 1), place.value, rank, (node, port)))
        same.append(found[-1])
    return found


def _name_at(place: Place, made: bool) -> str | None:
    return (place.made if place.name is None else None) if made else place.name


def _notes(node: Node) -> dict[str, Any]:
    """What code may keep with a node: a dict, though its type says a method."""
    notes: Any = node.metadata
    return notes if isinstance(notes, dict) else {}


def _is_piece(node: Node) -> bool:
    """Whether a scalar is a piece of a tensor that was written there: its node leads to all other pieces too."""
    below = [child for child, _ in node.next_functions if child is not None]
    return node.name().startswith(_PIECES) and any(child.name() == IN_PLACE for child in below)


def _loss_function(function: Any) -> str | None:
    """The name of a loss function of torch, which is a loss whatever it is made of."""
    name = getattr(function, "__name__", "")
    is_loss = name.endswith(_LOSSES) and getattr(function, "__module__", "") == torch.nn.functional.__name__
    return name if is_loss else None


def _mark(result: Tensor, frame: FrameType | None, made: str | None) -> None:
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
    _notes(result.grad_fn)[_KEY] = Place(
        None if name == RETURNED else name, made, text_of_result(frame), code.co_name, line, value
    )
