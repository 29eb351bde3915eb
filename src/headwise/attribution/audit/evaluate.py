"""One call of the audited code, on copies, with what it did to its surroundings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from headwise.attribution.audit.guard import SubjectError, kept_buffers_of, user_code
from headwise.attribution.audit.losses import Returned, take_apart
from headwise.attribution.audit.structure import Snapshot, cloned, copied
from headwise.attribution.audit.subject import Subject
from headwise.attribution.jacobians.held import same_draw
from headwise.structure import by_path


@dataclass
class Evaluation:
    """What one step returned.

    Attributes:
        batch: The copy of the batch, as it was before the criterion.
        outputs: What the network returned; never handed to the criterion itself.
        tensors: The same by path.
        parts: The losses.
        total: What backward is called on, if it has a graph.
        default_total: Whether it is the audit's own sum.
        mutated: What the criterion wrote into.
        grad_mode: Who changed the grad mode, and how.
    """

    batch: Any
    outputs: Any
    tensors: dict[str, Tensor]
    parts: Returned
    total: Tensor | None
    default_total: bool
    mutated: dict[str, str] = field(default_factory=dict)
    grad_mode: dict[str, str] = field(default_factory=dict)


def evaluate(subject: Subject, batch: Any) -> Evaluation:
    """Run forward, criterion and total once; random state and buffers end as they began.

    Args:
        subject: The training code.
        batch: Its batch, which is copied.

    Returns:
        What came out.
    """
    torch.set_grad_enabled(True)
    with same_draw(subject.model), kept_buffers_of(subject.model, subject.criterion):
        own = copied(batch)
        changed: dict[str, str] = {}
        with user_code("forward"), _watched_mode("forward", changed):
            outputs = subject.forward(subject.model, own) if subject.forward else _default_forward(subject.model, own)
        return call_criterion(subject, outputs, own, changed)


def call_criterion(subject: Subject, outputs: Any, batch: Any, changed: dict[str, str] | None = None) -> Evaluation:
    """Run criterion and total on clones of outputs.

    Args:
        subject: The training code.
        outputs: The outputs, with their graph or as leaves.
        batch: The batch, which is copied.
        changed: What changed the grad mode so far.

    Returns:
        What came out.
    """
    changed = {} if changed is None else changed
    handed, own = cloned(outputs), copied(batch)
    before = Snapshot(handed, "outputs"), Snapshot(own, "batch")
    with user_code("criterion"), _watched_mode("criterion", changed):
        returned = subject.criterion(handed, own)
    mutated = before[0].written() | before[1].written()
    parts = take_apart(returned, tuple(subject.reads))
    with user_code("total"), _watched_mode("total", changed):
        total, default = _total(subject.total, returned, parts)
    return Evaluation(batch, outputs, by_path(outputs), parts, total, default, mutated, changed)


def _total(total: Callable[[Any], Any] | None, returned: Any, parts: Returned) -> tuple[Tensor | None, bool]:
    if total is None:
        # What the criterion itself calls the total, else the sum.
        if parts.total is not None:
            return parts.total.scalar, False
        live = [term.scalar for term in parts.terms if term.scalar is not None]
        return (sum(live[1:], live[0]) if live else None), True
    # Clones: `loss = losses[0]; loss += losses[1]` would write into the first.
    found = total(cloned(returned))
    if not isinstance(found, Tensor):
        return None, False
    if found.numel() != 1:
        raise SubjectError(f"audit: total must return a scalar, found shape {tuple(found.shape)}. Sum or average it.")
    return (found if found.requires_grad else None), False


def _default_forward(model: torch.nn.Module, batch: Any) -> Any:
    if isinstance(batch, dict) and "input" in batch:
        return model(batch["input"])
    raise SubjectError(
        f'audit: without forward, the network is called as model(batch["input"]), but the batch is '
        f"{'a dict with ' + ', '.join(map(str, batch)) if isinstance(batch, dict) else 'a ' + type(batch).__name__}. "
        "Give the subject forward=lambda model, batch: ..."
    )


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
