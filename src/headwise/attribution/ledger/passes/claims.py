"""Which call of a criterion a booked loss belongs to: the next one in its thread."""

from __future__ import annotations

import threading
import weakref

from torch import Tensor

from headwise.attribution.ledger.passes.clock import CLOCK, Under
from headwise.attribution.ledger.passes.injected_loss import CriterionCall, Injected, warn_once
from headwise.criterion.junctions.recording import CLAIMANTS, WAITING, Record

_LOCAL = threading.local()


def _pending() -> list[tuple[str | None, weakref.ref[Injected]]]:
    """Losses that no call of a criterion has claimed yet, in this thread; without a name where none need to."""
    if not hasattr(_LOCAL, "pending"):
        _LOCAL.pending = []
    found: list[tuple[str | None, weakref.ref[Injected]]] = _LOCAL.pending
    if len(found) > 256:  # a loop without a Criterion
        found[:] = [each for each in found if each[1]() is not None]
    return found


def see_calls() -> None:
    """From the first loss on, backward passes are seen to begin, and calls of criteria are told."""
    if _claim not in CLAIMANTS:
        CLAIMANTS.append(_claim)
        CLOCK.start(_over)


def wait(injected: Injected) -> None:
    """Lets a loss wait for the next call of a criterion in this thread; with a scaler it needs none."""
    _pending().append((injected.name if injected.scaler is None else None, weakref.ref(injected)))
    WAITING.add(threading.get_ident())


def _over(under: Under) -> None:
    """Nothing is left to do at the end of a pass."""


def _claim(total: Tensor, record: Record | None, pooled: bool) -> None:
    """A criterion was called: the losses that wait are its own."""
    waiting = _pending()
    call = CriterionCall(record)
    alive = [injected for _, ref in waiting if (injected := ref()) is not None]
    lost = {name for name, _ in waiting if name is not None} - {each.name for each in alive}
    waiting.clear()
    WAITING.discard(threading.get_ident())
    for name in lost:
        warn_once(
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
