"""A loss in the middle of a network: added to the backward pass that comes by, and booked as a term."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from headwise.attribution.ledger.passes.claims import see_calls, wait
from headwise.attribution.ledger.passes.injected_loss import Injected, fork, inject
from headwise.attribution.ledger.passes.loop_factor import Scaler
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
        ValueError: The name, the tensor or the weight is not of this form, the loss is not one number, has no graph,
            or is a mean where denominators are totaled.
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
    if not isinstance(weight, Tensor) and not (isinstance(weight, int | float) and math.isfinite(weight)):
        raise ValueError(f"book {name!r}: its weight is a finite number or a tensor; found {weight!r}")
    if not torch.is_grad_enabled():
        return tensor
    if torch._C._are_functorch_transforms_active():
        raise RuntimeError(
            f"book {name!r}: inside of a transform of torch.func there is no backward pass that comes by. Add the loss "
            "to what the function returns"
        )
    see_calls()
    idle = not isinstance(weight, Tensor) and weight == 0
    injected = Injected(name, weight.detach() if isinstance(weight, Tensor) else float(weight), scaler)
    side = None
    if callable(loss):
        if idle:
            loss = loss(tensor.detach())
        else:
            tensor, side = fork(injected, tensor)
            loss = loss(side)
    value, injected.is_mean = _value(name, loss)
    injected.value, injected.measures = value.detach(), side is None
    if not idle and not value.requires_grad and (tensor.requires_grad or isinstance(weight, Tensor)):
        raise ValueError(
            f"book {name!r}: the loss has no graph, so that it would train nothing. Compute it from the tensor as it "
            "is: not detached, not a number"
        )
    weighted = None if idle else weight * value
    found = inject(injected, tensor, weighted)
    recomputed = torch._C._current_graph_task_id() != -1  # by a checkpoint
    if not recomputed and found.requires_grad:
        wait(injected)
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
