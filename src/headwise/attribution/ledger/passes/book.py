"""A loss in the middle of a network: added to the backward pass that comes by, and booked as a term."""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from headwise.attribution.ledger.passes.clock import CLOCK, Under
from headwise.attribution.ledger.passes.injected import LISTENERS, Injection
from headwise.attribution.ledger.passes.loop_factor import Scaler, given_factor
from headwise.criterion.junctions.recording import CLAIMANTS, WAITING, Record
from headwise.graph import is_batched
from headwise.ratio import Ratio

Loss = Tensor | Ratio | tuple[Tensor, Tensor | float]


def book(
    tensor: Tensor,
    *,
    name: str,
    loss: Loss | Callable[[Tensor], Loss],
    weight: float | Tensor = 1.0,
    scaler: Scaler = None,
) -> Tensor:
    """Passes a tensor on unchanged, and adds a loss to the backward pass that comes back by it.

    For losses that are known inside of a network alone, such as the balance loss of a mixture of experts::

        def forward(self, tokens):
            chances = self.router(tokens).softmax(-1)
            chances = hw.book(chances, name="balance", loss=balance_loss, weight=0.01)
            ...

    The gradient is that of ``breakdown.total + sum(weight * value)``: what the loop multiplies the total of its
    `Criterion` by (a loss scale, 1 / accumulation, the number of ranks) is read off the backward pass at that total,
    and multiplies the booked loss too. The value of `total` stays what the criterion declares. An open `Ledger` of that
    criterion has a row under the name: value, weight, share, and the norm of ``d(weight * value) / d(tensor)``; several
    losses of one name, in a step's layers, are one row with their sum.

    It belongs to the next call of a criterion in this thread. A pass that goes through its total adds it, once, and so
    does `torch.autograd.grad` of the total; `torch.autograd.grad` of a single entry is a look at that entry, and adds
    nothing. Under `torch.no_grad` nothing is computed, added or booked. Checkpoints (reentrant or not), DDP, FSDP2 and
    accumulation need nothing more; inside `torch.compile` it is a graph break.

    Args:
        tensor: What is passed on, floating point, any shape.
        name: What the books call the loss.
        loss: A function of the tensor that returns the loss; or the loss itself, of which the gradient norm costs one
            more pass over its own graph, while books are kept. The loss is a tensor of one element, which is the mean
            of this call's samples; or a `Ratio` or pair ``(sum, count)``. Where the criterion is given denominators
            that are totaled over micro-batches and ranks, the loss is a pair, and its count is that of the whole step.
        weight: What the loss is multiplied by; a `Parameter` is learned.
        scaler: The loop's factor (a GradScaler, a number, or a function that returns one), for loops without a
            `Criterion`: every `backward` that comes by adds the loss.

    Returns:
        The tensor, to be used in place of the one that was given: what does not come from it adds nothing.

    Raises:
        ValueError: The name or the tensor is not of this form, the loss is not one number, has no graph, or is a mean
            where denominators are totaled.
        RuntimeError: In the backward pass: the loop's factor is not known. Or in the call: it is inside of a transform
            of `torch.func`.
    """
    if torch.compiler.is_compiling():
        outside = torch.compiler.disable(  # type: ignore[no-untyped-call]
            _booked, reason="hw.book adds its loss in Python, outside of compiled graphs"
        )
        found: Tensor = outside(tensor, name, loss, weight, scaler)
        return found
    return _booked(tensor, name, loss, weight, scaler)


def _booked(tensor: Tensor, name: str, loss: Any, weight: float | Tensor, scaler: Scaler) -> Tensor:
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
        raise ValueError(f"book {name!r}: passes on a tensor of floating point; found {kind}")
    if not isinstance(name, str) or not name:
        raise ValueError(f"book: a loss has a name that is a text; found {name!r}")
    if not torch.is_grad_enabled():
        return tensor
    if torch._C._are_functorch_transforms_active():
        raise RuntimeError(
            f"book {name!r}: inside of a transform of torch.func there is no backward pass that comes by. Add the loss "
            "to what the function returns"
        )
    _begin()
    idle = not isinstance(weight, Tensor) and weight == 0
    injected = Injected(name, weight.detach() if isinstance(weight, Tensor) else float(weight), scaler)
    side = None
    if callable(loss):
        if idle:
            loss = loss(tensor.detach())
        else:
            tensor, side = _Fork.apply(injected, tensor)
            loss = loss(side)
    value, injected.is_mean = _value(name, loss)
    injected.value, injected.measures = value.detach(), side is None
    if not idle and not value.requires_grad and (tensor.requires_grad or isinstance(weight, Tensor)):
        raise ValueError(
            f"book {name!r}: the loss has no graph, so that it would train nothing. Compute it from the tensor as it "
            "is: not detached, not a number"
        )
    weighted = None if idle else weight * value
    found: Tensor = _Inject.apply(injected, tensor, weighted)
    recomputed = torch._C._current_graph_task_id() != -1  # by a checkpoint
    if not recomputed and found.requires_grad:
        _pending().append((name if scaler is None else None, weakref.ref(injected)))
        WAITING.add(threading.get_ident())
    return found


def _value(name: str, loss: Any) -> tuple[Tensor, bool]:
    """The loss as a number of at least float32, and whether it is a mean of its call."""
    if isinstance(loss, tuple) and len(loss) == 2 and isinstance(loss[0], Tensor):
        loss = Ratio(loss[0], torch.as_tensor(loss[1], device=loss[0].device).detach())
    is_mean = isinstance(loss, Tensor)
    found = loss.value if isinstance(loss, Ratio) else loss
    if not isinstance(found, Tensor) or found.numel() != 1 or not found.is_floating_point():
        what = f"a tensor {tuple(found.shape)}, {found.dtype}" if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(
            f"book {name!r}: the loss is a tensor of one element, a Ratio, or a pair (sum, count); found {what}"
        )
    return (found.float() if found.dtype.itemsize < 4 else found).reshape(()), is_mean


@dataclass(frozen=True, eq=False)
class _CriterionCall:
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
        self.call: _CriterionCall | None = None
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
        _warn(
            injection.name,
            "is not computed from the tensor that it is booked at, so that its gradient norm there is not known. "
            "Book it at what it reads, or give a function of that",
        )


_LOCAL = threading.local()
_WARNED: set[tuple[str, str]] = set()


def _pending() -> list[tuple[str | None, weakref.ref[Injected]]]:
    """Losses that no call of a criterion has claimed yet, in this thread; without a name where none need to."""
    if not hasattr(_LOCAL, "pending"):
        _LOCAL.pending = []
    found: list[tuple[str | None, weakref.ref[Injected]]] = _LOCAL.pending
    if len(found) > 256:  # a loop without a Criterion
        found[:] = [each for each in found if each[1]() is not None]
    return found


def _begin() -> None:
    """From the first loss on, backward passes are seen to begin, and calls of criteria are told."""
    if _claim not in CLAIMANTS:
        CLAIMANTS.append(_claim)
        CLOCK.start(_over)


def _over(under: Under) -> None:
    """Nothing is left to do at the end of a pass."""


def _claim(total: Tensor, record: Record | None, pooled: bool) -> None:
    """A criterion was called: the losses that wait are its own."""
    pending = _pending()
    call = _CriterionCall(record)
    alive = [injected for _, ref in pending if (injected := ref()) is not None]
    lost = {name for name, _ in pending if name is not None} - {each.name for each in alive}
    pending.clear()
    WAITING.discard(threading.get_ident())
    for name in lost:
        _warn(
            name,
            "is in no graph when the criterion is called, and adds nothing. Use the tensor that hw.book returns, and "
            "run networks under torch.no_grad() where nothing is trained",
        )
    for injected in alive:
        if pooled and injected.is_mean:
            raise ValueError(
                f"book {injected.name!r}: the loss is a mean of its own call, and this criterion was given "
                "denominators that are totaled over the step. Give a pair (sum, count) with the count of the whole "
                "step; (mean, number of micro-batches times ranks) is the mean over these"
            )
        injected.call = call

    def at_total(factor: Tensor) -> None:
        CLOCK.under().totals[call] = factor

    total.register_hook(at_total)  # type: ignore[no-untyped-call]


def _warn(name: str, text: str) -> None:
    if (name, text) not in _WARNED:
        _WARNED.add((name, text))
        warnings.warn(f"book {name!r}: the loss {text}", RuntimeWarning, stacklevel=3)
