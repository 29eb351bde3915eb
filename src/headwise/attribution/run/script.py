"""Every backward pass of a script is seen; every N-th of each place in the code is taken apart and booked."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from headwise.attribution.apart.naming.frames import callers, loss_scale_in, modules_in, parameters_in
from headwise.attribution.apart.naming.places import PlaceRecorder, with_loss_functions
from headwise.attribution.apart.sums.heads import heads_below, leaving, names_of
from headwise.attribution.apart.take_apart import variables_of
from headwise.attribution.foreign.calls import ForeignCall, number_of
from headwise.attribution.foreign.ledger import own_names, started
from headwise.attribution.foreign.reading import read_calls
from headwise.attribution.foreign.taking import Taking
from headwise.attribution.ledger.books import Books
from headwise.attribution.passes import BackwardWatch, Finish, watch_backward
from headwise.attribution.run.branches import place_key
from headwise.attribution.run.notes import Notes
from headwise.attribution.run.optimizers import Stepped
from headwise.attribution.run.together import renamed, together


@dataclass
class CallSite:
    """A place in the code that calls backward.

    Args:
        name: Function, file and line.
        passes: How many passes began there.
        books: Those of the last pass that was booked; None before the first.
        booked: How many were booked.
        names: What its terms are called; with the place, where another place has a term of that name.
        hidden: Why outputs are not known, where a part of the graph cannot be seen into.
    """

    name: str
    passes: int = 0
    booked: int = 0
    books: Books | None = None
    names: dict[str, str] = field(default_factory=dict)
    hidden: tuple[str, ...] = ()


class Enough(BaseException):
    """Ends a script after the steps that were asked for; code that catches every `Exception` lets it through."""


class ScriptBooks:
    """Keeps the books of a script while it is open.

    Args:
        every: Which pass of each place is booked: the first, and every N-th after it.
        steps: After how many steps of optimizers the script is ended by `Enough`; None: never.
        on_booked: Is given what was booked, of all places together: the number of the step, from 1, and the books.
            Steps ascend; where a place called backward several times in a step, the last pass on a loss counts.
    """

    def __init__(self, every: int, steps: int | None, on_booked: Callable[[int, Books], None]) -> None:
        self.sites: dict[Hashable, CallSite] = {}
        self.steps = 0
        self.notes = Notes()
        self._stepped = Stepped()
        self._every, self._limit, self._on_booked = every, steps, on_booked
        self._round: list[tuple[str, int, Books]] = []
        self._process = os.getpid()
        self._error: Exception | None = None
        self._recorder = _Recorder()
        self._models: dict[str, nn.Module] = {}
        self._watch: BackwardWatch | None = None
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> ScriptBooks:
        self._watch = watch_backward(self._begin)
        self._handles = [
            register_optimizer_step_pre_hook(self._before_step),
            register_optimizer_step_post_hook(self._after_step),
        ]
        self._recorder.open()
        return self

    def __exit__(self, *error: Any) -> None:
        self._recorder.close()
        for handle in self._handles:
            handle.remove()
        if self._watch is not None:
            self._watch.close()
        self._tell()

    def told(self) -> list[str]:
        """What the first passes showed, in sentences."""
        error = self._watch.error if self._watch is not None else None
        failed = [] if error is None else [f"a pass could not be booked: {type(error).__name__}: {error}"]
        failed += [] if self._error is None else [f"the books could not be written from there on: {self._error}"]
        hidden = dict.fromkeys(f"{why} ({site.name})" for site in self.sites.values() for why in site.hidden)
        passes, booked = (sum(getattr(each, what) for each in self.sites.values()) for what in ("passes", "booked"))
        looked = "" if booked == passes else f" ({booked} of {passes} passes were booked)"
        return [*self.notes.lines(looked), *self._stepped.lines(self._models), *hidden, *failed]

    def _begin(self, roots: tuple[Tensor, ...], seeds: tuple[Tensor | None, ...]) -> Finish | None:
        if os.getpid() != self._process:
            return None
        frames = callers(3)
        code = _place(frames)
        name = f"{code.f_code.co_name}, {code.f_code.co_filename.rpartition('/')[2]}:{code.f_lineno}"
        site = self.sites.setdefault(place_key(code), CallSite(name))
        name = site.name
        site.passes += 1
        self.notes.called(roots)
        if any(step != self.steps for place, step, _ in self._round if place == name):
            self._tell()
        if (site.passes - 1) % self._every or not roots:
            self._next()
            return None
        self._recorder.pause()
        taking = self._taken(site, roots, seeds, frames)
        return None if taking is None else partial(self._finish, site, taking)

    def _taken(
        self, site: CallSite, roots: tuple[Tensor, ...], seeds: tuple[Tensor | None, ...], frames: Sequence[FrameType]
    ) -> Taking | None:
        begun = started(roots, seeds)
        if not begun:
            return None
        edges = [(edge, seed) for edge, seed, _ in begun]
        models = modules_in(frames)
        self._models |= models
        owners = parameters_in(frames) | names_of(models)
        losses = tuple(own_names(variables_of(edges, frames)))
        anatomy = with_loss_functions(edges, losses)
        self.notes.saw(anatomy, roots[0], self._stepped.is_early)
        site.hidden = heads_below([*(each.loss.edge for each in anatomy.direct), *anatomy.rest], owners).opaque
        made = tuple(sorted(losses, key=lambda each: each.edge[0]._sequence_nr()))
        call = ForeignCall(self.steps + 1, made, partial(leaving, owners=owners), frozenset(), {}, names_rest=True)
        call.scale = loss_scale_in(frames, roots[0])
        return Taking(call, anatomy, number_of(begun), keeps_rest=True)

    def _finish(self, site: CallSite, taking: Taking, done: bool) -> None:
        numbers = taking.over()
        if done:
            taking.call.passes.append(numbers)
            books = read_calls([taking.call])[0]
            site.books = renamed(books, self._names(site, books))
            site.booked += 1
            self.notes.read(site.name, site.books)
            # A place that calls backward on one loss after another has several books; of one loss the last count.
            others = [each for each in self._round if each[0] != site.name or each[2].keys().isdisjoint(site.books)]
            self._round = [*others, (site.name, self.steps, site.books)]
        self._next()

    def _names(self, site: CallSite, books: Books) -> dict[str, str]:
        taken = {name for other in self.sites.values() if other is not site for name in other.names.values()}
        for name in books:
            own = name if name not in taken else f"{name} ({site.name.rpartition(', ')[2]})"
            site.names.setdefault(name, own)
        return site.names

    def _tell(self) -> None:
        """Hands on what was booked, once a place that is in it goes on to its next step."""
        held, self._round = self._round, []
        if held and self._error is None:
            try:
                self._on_booked(1 + max(step for _, step, _ in held), together([books for *_, books in held]))
            except Exception as error:  # training goes on, whatever becomes of its books
                self._error = error

    def _next(self) -> None:
        """Records where losses are made before a pass that will be booked, and only then."""
        if any(site.passes % self._every == 0 for site in self.sites.values()):
            self._recorder.open()
        else:
            self._recorder.pause()

    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self._stepped.before_step(optimizer, self._models)
        if not self._recorder.mode.is_recording:
            self._recorder.pause()

    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self.steps += 1
        if self._limit is not None and self.steps >= self._limit:
            raise Enough


@dataclass
class _Recorder:
    """Enters and leaves `PlaceRecorder` in the thread that trains; not at all once something was compiled.

    A compiled function is compiled again under a mode, so that after the first call of `torch.compile` losses are told
    apart by variables and operations only.
    """

    mode: PlaceRecorder = field(default_factory=PlaceRecorder)
    entered: bool = False
    compiled: bool = False
    thread: int = field(default_factory=threading.get_ident)
    original: Callable[..., Any] | None = None

    def open(self) -> None:
        """Records from here on."""
        if self.original is None:
            self.original = torch.compile
            torch.compile = self._compile
        if self.compiled or threading.get_ident() != self.thread:
            return
        self.mode.is_recording = True
        if not self.entered:
            self.mode.enter()
            self.entered = True

    def pause(self) -> None:
        """Stops recording, and leaves the mode where that can be done.

        While a function runs under the mode, or code has entered a mode of its own since, it cannot: then it stays,
        does nothing, and is left at a later call.
        """
        self.mode.is_recording = False
        if self.entered and threading.get_ident() == self.thread:
            overrides: Any = torch.overrides
            stack = overrides._get_current_function_mode_stack()
            if stack and stack[-1] is self.mode:
                self.mode.leave()
                self.entered = False

    def close(self) -> None:
        """Stops, and puts `torch.compile` back."""
        self.pause()
        if self.original is not None and torch.compile == self._compile:
            torch.compile = self.original

    def _compile(self, *args: Any, **kwargs: Any) -> Any:
        self.compiled = True
        self.pause()
        assert self.original is not None
        return self.original(*args, **kwargs)


def _place(frames: Sequence[FrameType]) -> FrameType:
    """The frame that calls backward: the innermost of the user's own files, or of any."""
    own = [frame for frame in frames if "site-packages" not in frame.f_code.co_filename]
    return (own or list(frames))[0]
