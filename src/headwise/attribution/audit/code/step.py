"""One call of the audited code, on copies, with what it did to its surroundings."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from headwise.attribution.apart.returned.losses import Returned, read_losses
from headwise.attribution.audit.code.guard import SubjectError, user_code
from headwise.attribution.audit.code.structure import Snapshot, cloned, copied, handed
from headwise.attribution.audit.code.subject import GraphSubject, Subject
from headwise.attribution.jacobians.held import kept_buffers, same_draw
from headwise.structure import by_path, mapped


@dataclass
class Step:
    """What one step returned, with its graphs.

    Attributes:
        batch: The copy of the batch, as it was before the criterion.
        outputs: What the network returned; never handed to the criterion itself.
        tensors: The outputs by path, but for losses that the network itself returned.
        parts: The losses.
        total: What backward is called on, if it has a graph.
        total_told: What was taken for it, in words.
        is_sum: Whether it is the audit's own sum.
        mutated: What the criterion wrote into.
        grad_mode: Who changed the grad mode, and how.
    """

    batch: Any
    outputs: Any
    tensors: dict[str, Tensor]
    parts: Returned
    total: Tensor | None
    total_told: str
    is_sum: bool = False
    mutated: dict[str, str] = field(default_factory=dict)
    grad_mode: dict[str, str] = field(default_factory=dict)

    @property
    def trainable(self) -> dict[str, Tensor]:
        """The outputs that a gradient can come back to."""
        return {path: tensor for path, tensor in self.tensors.items() if tensor.requires_grad}


def first_step(subject: Subject, batch: Any) -> Step:
    """As `run_step`, where every node of the losses' graph remembers the line that made it.

    Args:
        subject: The training code.
        batch: Its batch, which is copied.

    Returns:
        What came out.
    """
    step = run_step(subject, batch, lines=("criterion", "total"))
    made = {id(tensor) for tensor in by_path(step.outputs).values()}
    entries = (*step.parts.terms, *((step.parts.total,) if step.parts.total is not None else ()))
    # Where the network itself made the losses it is its lines that count; they cost time in a large network.
    by_network = any(id(entry.value) in made for entry in entries)
    return run_step(subject, batch, lines=("forward", "criterion", "total")) if by_network else step


def run_step(subject: Subject, batch: Any, lines: Collection[str] = ()) -> Step:
    """Run forward, criterion and total once; random state and buffers end as they began.

    Compiled parts run as they are written: many of them allow one backward pass only, and a step is judged by many.

    Args:
        subject: The training code.
        batch: Its batch, which is copied.
        lines: In which of them nodes remember the line that made them.

    Returns:
        What came out.
    """
    torch.set_grad_enabled(True)
    as_written = torch.compiler.set_stance("force_eager")
    with as_written, same_draw(subject.model), kept_buffers(subject.model, subject.criterion):
        own = copied(batch)
        changed: dict[str, str] = {}
        with user_code("forward"), _watched_mode("forward", changed), _with_lines("forward" in lines):
            outputs = (subject.forward or called_on_input)(subject.model, own)
        return call_criterion(subject, outputs, own, changed, lines)


def call_criterion(
    subject: Subject, outputs: Any, batch: Any, changed: dict[str, str] | None = None, lines: Collection[str] = ()
) -> Step:
    """Run criterion and total on clones of outputs.

    Args:
        subject: The training code.
        outputs: The outputs, with their graph or as leaves.
        batch: The batch, which is copied.
        changed: What changed the grad mode so far.
        lines: As in `run_step`.

    Returns:
        What came out.
    """
    changed = {} if changed is None else changed
    returned, total, mutated = _called(subject, outputs, batch, changed, lines)
    step = _read(returned, outputs, tuple(subject.reads), total, subject.total is not None)
    step.batch, step.mutated, step.grad_mode = batch, mutated, changed
    return step


def total_of(subject: Subject, outputs: Any, batch: Any) -> Tensor | None:
    """What backward would be called on, without reading the losses where the subject itself tells.

    Args:
        subject: The training code.
        outputs: The outputs.
        batch: The batch, which is copied.

    Returns:
        The total, if it has a graph.
    """
    returned, total, _ = _called(subject, outputs, batch, {}, ())
    return total if subject.total is not None else _read(returned, outputs, tuple(subject.reads), None, False).total


def _called(
    subject: Subject, outputs: Any, batch: Any, changed: dict[str, str], lines: Collection[str]
) -> tuple[Any, Tensor | None, dict[str, str]]:
    """What criterion and total returned, and what the criterion wrote into."""
    given, own = handed(outputs), handed(batch)
    before = Snapshot(given, "outputs"), Snapshot(own, "batch")
    with user_code("criterion"), _watched_mode("criterion", changed), _with_lines("criterion" in lines):
        returned = subject.criterion(given, own)
    mutated = before[0].written() | before[1].written()
    if not mutated:
        # What the criterion only handed on is the network's own tensor again, so that graphs stay in one piece.
        returned = _own_again(returned, given, outputs)
    if subject.total is None:
        return returned, None, mutated
    with user_code("total"), _watched_mode("total", changed), _with_lines("total" in lines):
        # Clones: `loss = losses[0]; loss += losses[1]` would write into the first.
        return returned, _checked(subject.total(cloned(returned))), mutated


def _own_again(returned: Any, given: Any, outputs: Any) -> Any:
    originals = by_path(outputs)
    twins = {id(tensor): originals[path] for path, tensor in by_path(given).items()}
    if not any(id(tensor) in twins for tensor in by_path(returned).values()):
        return returned
    return mapped(returned, lambda tensor: twins.get(id(tensor), tensor))


def computed_step(subject: GraphSubject) -> Step:
    """The step that a caller has computed already."""
    return _read(subject.losses, subject.outputs, (), None, False)


def _read(returned: Any, outputs: Any, names: tuple[str, ...], total: Tensor | None, given: bool) -> Step:
    tensors = by_path(outputs)
    inputs = [tensor for tensor in tensors.values() if tensor.requires_grad and tensor.numel() > 1]
    parts = read_losses(returned, names, total=total, outputs={id(t) for t in tensors.values()}, inputs=inputs)
    own = {id(entry.value) for entry in (*parts.terms, *parts.logs, *([parts.total] if parts.total else []))}
    handed_on = {id(tensor) for tensor in by_path(returned).values()}
    tensors = {
        path: tensor
        for path, tensor in tensors.items()
        if id(tensor) not in own and not (tensor.numel() == 1 and id(tensor) in handed_on)
    }
    step = Step(None, outputs, tensors, parts, total, "what `total` returns")
    if not given:
        step.total, step.total_told = _own_total(parts)
        step.is_sum = parts.total is None and len(parts.terms) > 1
    return step


def _own_total(parts: Returned) -> tuple[Tensor | None, str]:
    """What the criterion itself calls the total, else the sum."""
    if parts.total is not None:
        return parts.total.scalar, f"{parts.total.name!r} of what the criterion returned"
    live = [term.scalar for term in parts.terms if term.scalar is not None]
    if len(parts.terms) == 1:
        return (live[0] if live else None), "the one loss that the criterion returned"
    return (sum(live[1:], live[0]) if live else None), "the sum of the losses (no total was given or found)"


def _checked(found: Any) -> Tensor | None:
    if not isinstance(found, Tensor):
        return None
    if found.numel() != 1:
        raise SubjectError(f"audit: total must return a scalar, found shape {tuple(found.shape)}. Sum or average it.")
    return found if found.requires_grad else None


def called_on_input(model: torch.nn.Module, batch: Any) -> Any:
    """The forward pass of code that gives none."""
    if isinstance(batch, dict) and "input" in batch:
        return model(batch["input"])
    raise SubjectError(
        f'audit: without forward, the network is called as model(batch["input"]), but the batch is '
        f"{'a dict with ' + ', '.join(map(str, batch)) if isinstance(batch, dict) else 'a ' + type(batch).__name__}. "
        "Give the subject forward=lambda model, batch: ..."
    )


@contextmanager
def _with_lines(wanted: bool) -> Iterator[None]:
    """Let every node of the graph remember the line that made it."""
    if not wanted:
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Anomaly Detection has been enabled")
        mode = torch.autograd.set_detect_anomaly(True, check_nan=False)
    try:
        yield
    finally:
        mode.__exit__()


class _watched_mode:  # noqa: N801  # used like a function
    """Notes a change of the grad mode, and undoes it."""

    def __init__(self, who: str, changed: dict[str, str]) -> None:
        self._who, self._changed = who, changed
        self._before = torch.is_grad_enabled()

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        after = torch.is_grad_enabled()
        if after != self._before:
            self._changed[self._who] = f"gradients were {_on(self._before)} before and {_on(after)} after the call"
            torch.set_grad_enabled(self._before)


def _on(enabled: bool) -> str:
    return "on" if enabled else "off"
