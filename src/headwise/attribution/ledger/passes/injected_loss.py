"""A booked loss on its way: what the backward pass that comes by multiplies it by, and what it sends."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from headwise.attribution.ledger.passes.clock import CLOCK, Under
from headwise.attribution.ledger.passes.injected import LISTENERS, Injection
from headwise.attribution.ledger.passes.loop_factor import Scaler, given_factor
from headwise.criterion.junctions.recording import Record
from headwise.graph import is_batched


@dataclass(frozen=True, eq=False)
class CriterionCall:
    """A call of a criterion, to which losses belong."""

    record: Record | None


class Injected:
    """One loss that was booked.

    Args:
        name: Its name.
        weight: What it is multiplied by.
        scaler: The loop's factor as its caller gives it.

    Attributes:
        value: The loss, without graph.
        is_mean: Whether it is a mean of its call.
        measures: Whether its gradient at the tensor is to be found by a pass of its own.
    """

    def __init__(self, name: str, weight: float | Tensor, scaler: Scaler) -> None:
        self.name, self.weight, self.scaler = name, weight, scaler
        self.value: Tensor
        self.is_mean, self.measures = True, False
        self.call: CriterionCall | None = None
        self._now: tuple[Under, Injection] | None = None

    def came(self, like: Tensor) -> tuple[Tensor | None, Injection | None]:
        """A backward pass comes by.

        Args:
            like: What the loss is multiplied by is of its dtype and device.

        Returns:
            What the weighted loss is multiplied by, None where it is not added; and what is booked, where books are
            kept.
        """
        under = CLOCK.under()
        factor = self._factor(under, like)
        self._now = None
        if factor is None or is_batched(factor):
            return factor, None
        injection = Injection(self.name, self.value, self.weight, factor.detach())
        listeners = self._listeners(under)
        for each in listeners:
            each(injection)
        if listeners:
            self._now = under, injection
        return factor, injection if listeners else None

    def sent(self, grad: Tensor | None) -> None:
        """What the loss sends to what it was booked at, in the pass that came by.

        Args:
            grad: Its gradient.
        """
        if self._now is not None and self._now[0] is CLOCK.under():
            self._now[1].sent(grad)
        self._now = None

    def look(self, record: Record, edges: Any) -> None:
        """Books the loss in a step whose gradients are taken one by one.

        Args:
            record: The books.
            edges: Those of the node that would add it.
        """
        injection = Injection(self.name, self.value, self.weight, torch.ones_like(self.value))
        (tensor, number), (loss, loss_number) = edges
        if loss is not None:
            # A function of the tensor reads the second of the views that a fork gives.
            _measure(((tensor, number if self.measures else 1), (loss, loss_number)), injection)
        else:
            injection.sent(None)
        record.injected(injection)

    def _factor(self, under: Under, like: Tensor) -> Tensor | None:
        totals = under.totals
        if self.call is not None and self.call in totals:
            return totals[self.call].to(like)
        if len(totals) == 1:
            return next(iter(totals.values())).to(like)
        if not under.trains and self.call is not None:
            return None
        given = given_factor(self.scaler, like.device)
        if given is not None:
            return torch.as_tensor(given).to(like)
        found = f"{len(totals)} totals, none of them its own," if totals else "no total of a Criterion"
        raise RuntimeError(
            f"book {self.name!r}: on the way of this backward pass lies {found} so that nobody knows what the loop "
            "multiplies its losses by, and this one with them. Call backward on breakdown.total, or on a number that "
            "is computed from it; without a Criterion, give hw.book(..., scaler=) what the loop multiplies its loss "
            "by: a GradScaler, or a number such as 1.0"
        )

    def _listeners(self, under: Under) -> list[Callable[[Injection], None]]:
        if self.call is not None and self.call in under.totals:
            return [*([] if self.call.record is None else [self.call.record.injected]), *LISTENERS]
        first = {id(each.owner): each for each in reversed(under.records.values())}
        return [*(each.injected for each in first.values()), *LISTENERS]


class _Fork(torch.autograd.Function):
    """``forward(injected, tensor)``: two views, the second for the loss; backward books what the loss sends."""

    @staticmethod
    def forward(injected: Injected, tensor: Tensor) -> tuple[Tensor, Tensor]:
        return tensor.view_as(tensor), tensor.view_as(tensor)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.set_materialize_grads(False)
        ctx.injected = inputs[0]
        ctx.headwise_routes = ((0, 0, None, None, None), (1, 0, None, None, None))

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, own: Tensor | None) -> Any:
        ctx.injected.sent(own)
        return None, own if grad is None else grad if own is None else grad + own

    @staticmethod
    def jvp(ctx: Any, _injected: None, tangent: Tensor) -> Any:
        return tangent.view_as(tangent), tangent.view_as(tangent)


class _Inject(torch.autograd.Function):
    """``forward(injected, tensor, weighted)``: the tensor; backward sends the loss the factor that the loop has."""

    @staticmethod
    def forward(injected: Injected, tensor: Tensor, weighted: Tensor | None) -> Tensor:
        return tensor.view_as(tensor)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.set_materialize_grads(False)
        ctx.injected, _, weighted = inputs
        ctx.headwise_booked = ctx.injected
        ctx.headwise_routes = ((0, 0, None, None, None),)
        ctx.like = ctx.injected.value if weighted is None else weighted.detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Any:
        factor, injection = ctx.injected.came(ctx.like)
        if injection is not None and not ctx.needs_input_grad[2]:
            injection.sent(None)
        elif injection is not None and ctx.injected.measures:
            _measure(ctx.next_functions, injection)
        return None, grad, factor if ctx.needs_input_grad[2] else None

    @staticmethod
    def jvp(ctx: Any, _injected: None, tangent: Tensor | None, _weighted: Tensor | None) -> Any:
        return None if tangent is None else tangent.view_as(tangent)


def fork(injected: Injected, tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Two views of a tensor, one to be passed on and one for the loss, whose gradient there is booked."""
    passed, own = _Fork.apply(injected, tensor)
    return passed, own


def inject(injected: Injected, tensor: Tensor, weighted: Tensor | None) -> Tensor:
    """The tensor, by which a backward pass comes to the weighted loss; None where it is not added."""
    found: Tensor = _Inject.apply(injected, tensor, weighted)
    return found


def _measure(edges: Any, injection: Injection) -> None:
    """The gradient of a loss at what it was booked at, by a pass over its own graph."""
    (tensor, number), (loss, loss_number) = edges
    if tensor is None:
        return
    found: Sequence[Tensor | None] = torch.autograd.grad(
        [GradientEdge(loss, loss_number)],
        [GradientEdge(tensor, number)],
        [injection.factor],
        retain_graph=True,
        allow_unused=True,
    )
    if found[0] is not None:
        injection.sent(found[0])
    else:
        warn_once(
            injection.name,
            "is not computed from the tensor that it is booked at, so that its gradient norm there is not known. "
            "Book it at what it reads, or give a function of that",
        )


_WARNED: set[tuple[str, str]] = set()


def warn_once(name: str, text: str) -> None:
    """Warns of a booked loss.

    Args:
        name: Its name.
        text: What is wrong with it.
    """
    if (name, text) not in _WARNED:
        _WARNED.add((name, text))
        warnings.warn(f"book {name!r}: the loss {text}", RuntimeWarning, stacklevel=3)
