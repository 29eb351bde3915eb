"""Which backward pass is under way: every record of every ledger asks the one clock."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from headwise.attribution.passes import BackwardWatch, watch_backward


class Booking(Protocol):
    """A record that a pass went through."""

    @property
    def owner(self) -> object:
        """Whose it is."""
        ...

    def injected(self, injection: Any) -> None:
        """A loss that was booked in the middle of the network."""
        ...

    def booked(self, under: Under) -> Tensor:
        """What its terms add to the number on which a pass began."""
        ...

    def arrived(self, key: int, grad: Tensor) -> None:
        """What a pass hands on at the output of an identity, if it is one of its own."""
        ...

    def sent_to(self, under: Under, key: int) -> Tensor | None:
        """What its terms sent to the output of an identity in a pass under way."""
        ...

    def over(self, under: Under) -> None:
        """A pass is over: what was sent in it is kept no longer."""
        ...


class Under:
    """A pass under way.

    Args:
        task: Its number in torch's engine, where it was not seen to begin; such a pass is a look (`autograd.grad`).
        number: What backward was called on; None if that was not seen.
    """

    __slots__ = ("_parts", "_version", "number", "records", "task", "totals")

    def __init__(self, task: int | None, number: Tensor | None) -> None:
        self.task, self.number = task, number
        self.records: dict[int, Booking] = {}  # while it is under way, by identity
        self.totals: dict[object, Tensor] = {}  # while it is under way, the factor at the total of each call
        self._parts: dict[int, Tensor] = {}
        self._version = None if number is None else number._version

    @property
    def trains(self) -> bool:
        """Whether it fills ``.grad``."""
        return self.task is None

    def over(self) -> None:
        """Lets go of what lives only while the pass is under way."""
        if len(self.records) > 1:
            self._parts = {key: record.booked(self) for key, record in self.records.items()}
        for record in self.records.values():
            record.over(self)
        self.records, self.totals = {}, {}

    def number_of(self, record: Booking) -> Tensor | None:
        """The number on which the pass began, without what other calls of criteria added to it.

        Args:
            record: One of the calls.

        Returns:
            0-d; None if the number was not seen, or has been written over since.
        """
        number = self.number
        if number is None or number._version != self._version:
            return None
        for key, part in self._parts.items():
            number = number if key == id(record) else number.to(part) - part
        return number


class _LatestLook:
    """The look under way; nobody tells when it ends: another pass has begun."""

    def __init__(self) -> None:
        self._now: Under | None = None

    def of(self, task: int) -> Under:
        """The look that is a task of torch's engine."""
        if self._now is None or self._now.task != task:
            self.are_over()
            self._now = Under(task, None)
        return self._now

    def are_over(self) -> None:
        """The last one has ended."""
        look, self._now = self._now, None
        if look is not None:
            look.over()


class PassClock:
    """Sees backward passes begin and end, while a ledger is open.

    Of passes that run in several threads at once each is its own thread's, and so are looks; a device's thread, which
    works for one of them, is taken for that which began last.
    """

    def __init__(self) -> None:
        self._watch: BackwardWatch | None = None
        self._ends: list[Callable[[Under], None]] = []
        self._running: list[Under] = []
        self._own = threading.local()
        self._looks = _LatestLook()  # of devices' threads

    def start(self, at_end: Callable[[Under], None]) -> None:
        """Lets a ledger know of the end of every pass.

        Args:
            at_end: Called with the pass; held until `stop`.
        """
        self._ends.append(at_end)
        if self._watch is None:
            self._watch = watch_backward(self._begin)

    def stop(self, at_end: Callable[[Under], None]) -> None:
        """Ends what `start` began."""
        self._ends.remove(at_end)
        if not self._ends and self._watch is not None:
            self._watch.close()
            self._watch = None

    def under(self) -> Under:
        """The pass under way."""
        running: Under | None = getattr(self._own, "under", None)
        looks: _LatestLook | None = getattr(self._own, "looks", None)
        if running is None and looks is None:
            running = next(iter(self._running[-1:]), None)
        return running or (looks or self._looks).of(torch._C._current_graph_task_id())

    def called(self) -> None:
        """A criterion is called in no pass: the thread is no device's, and passes that it does not begin are looks."""
        if getattr(self._own, "looks", None) is None:
            self._own.looks = _LatestLook()

    def is_elsewhere(self, under: Under) -> bool:
        """Whether a pass is under way that another thread has begun.

        Args:
            under: The pass.

        Returns:
            Whether it is.
        """
        return under is not getattr(self._own, "under", None) and under in self._running

    def _begin(self, roots: tuple[Tensor, ...], gradients: tuple[Tensor | None, ...]) -> Callable[[bool], None]:
        for looks in (self._looks, getattr(self._own, "looks", None)):
            if looks is not None:
                looks.are_over()
        under = self._own.under = Under(None, _number(roots, gradients))
        self._running.append(under)
        return partial(self._finish, under)

    def _finish(self, under: Under, done: bool) -> None:
        self._own.under = None
        self._running.remove(under)
        for at_end in list(self._ends):
            at_end(under)
        under.over()


def _number(roots: tuple[Tensor, ...], gradients: tuple[Tensor | None, ...]) -> Tensor | None:
    """The number whose gradient a pass takes: the roots, times what backward was called with."""
    if len(roots) == 1 and gradients[0] is None:
        return roots[0].detach()
    total: Tensor | None = None
    with torch.no_grad():
        for root, gradient in zip(roots, gradients, strict=True):
            part = root.detach() if gradient is None else (root.detach() * gradient).sum()
            total = part if total is None else total + part
    return total


CLOCK = PassClock()
