"""Every backward pass of a script is seen; every N-th of each place in the code is taken apart and booked."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import FrameType
from typing import Any, ParamSpec, TypeVar

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
from headwise.attribution.passes import BackwardWatch, Finish, inputs_of_pass, watch_backward
from headwise.attribution.run.branches import place_key
from headwise.attribution.run.notes import Notes
from headwise.attribution.run.optimizers import Stepped
from headwise.attribution.run.places import CallSite, Gradients, StepTable, leaves_below
from headwise.attribution.run.together import renamed

P = ParamSpec("P")
T = TypeVar("T")


class Enough(BaseException):
    """Ends a script after the steps that were asked for; code that catches every `Exception` lets it through."""


class ScriptBooks:
    """Keeps the books of a script while it is open.

    Args:
        every: Which step of each place is booked, with all that it calls backward on: the first, and every N-th after
            it. Where nothing steps but the script itself, a pass is a step.
        steps: After how many steps of optimizers the script is ended by `Enough`; None: never.
        on_booked: Is given what was booked, of all places together: the number of the step, from 1, and the books.
            Steps ascend; where a place called backward several times on a loss in a step, the last pass counts.
    """

    def __init__(self, every: int, steps: int | None, on_booked: Callable[[int, Books], None]) -> None:
        self.sites: dict[Hashable, CallSite] = {}
        self.steps = 0
        self.notes = Notes()
        self._stepped = Stepped()
        self._every, self._limit, self._on_booked = every, steps, on_booked
        self._round = StepTable(0)
        self._steps_of: dict[int, int] = {}
        self._last = StepTable(-1)
        self._gradients = Gradients()
        self._is_stepped: bool | None = None
        self._process = os.getpid()
        self._lock = threading.RLock()
        self._error: Exception | None = None
        self._recorder = _Recorder()
        self._models: dict[str, nn.Module] = {}
        self._watch: BackwardWatch | None = None
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> ScriptBooks:
        self._watch = watch_backward(self._locked(self._begin))
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

    def _locked(self, function: Callable[P, T]) -> Callable[P, T]:
        """The same, for one thread after another: several may train."""

        def locked(*args: P.args, **kwargs: P.kwargs) -> T:
            with self._lock:
                return function(*args, **kwargs)

        return locked

    def _begin(self, roots: tuple[Tensor, ...], seeds: tuple[Tensor | None, ...]) -> Finish | None:
        if os.getpid() != self._process:
            return None
        frames = callers(4)
        code = _place(frames)
        name = f"{code.f_code.co_name}, {code.f_code.co_filename.rpartition('/')[2]}:{code.f_lineno}"
        site = self.sites.setdefault(place_key(code), CallSite(name))
        name = site.name
        if site.is_called_again(self.steps) and not self._has_optimizer():
            self.steps += 1
        site.called(self.steps)
        self.notes.called(roots)
        if self._steps_of.get(id(site), self.steps) != self.steps:
            self._tell()
        if not site.is_booked(self._every) or not roots:
            self._next()
            return None
        self._recorder.pause()
        taking = self._taken(site, roots, seeds, frames)
        if taking is None:
            return None
        inputs = inputs_of_pass()
        if inputs is not None:
            self.notes.limited(site.name)
        leaves = leaves_below(root.grad_fn for root in roots) if inputs is None else [*inputs]
        return partial(self._locked(self._finish), site, taking, leaves, self._gradients.are_added_to(leaves))

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
        hidden = heads_below([*(each.loss.edge for each in anatomy.direct), *anatomy.rest], owners).opaque
        site.hidden = tuple(dict.fromkeys((*site.hidden, *hidden)))
        made = tuple(sorted(losses, key=lambda each: each.edge[0]._sequence_nr()))
        call = ForeignCall(self.steps + 1, made, partial(leaving, owners=owners), frozenset(), {}, names_rest=True)
        call.scale = loss_scale_in(frames, roots[0])
        return Taking(call, anatomy, number_of(begun), keeps_rest=True)

    def _finish(self, site: CallSite, taking: Taking, leaves: Sequence[Tensor], is_added: bool, done: bool) -> None:
        numbers = taking.over()
        if done:
            taking.call.passes.append(numbers)
            books = read_calls([taking.call])[0]
            taken = {name for other in self.sites.values() if other is not site for name in other.shown}
            books = renamed(books, site.names_of(books, taken))
            site.booked += 1
            self.notes.read(site.name, books)
            self._steps_of[id(site)] = self.steps
            self._round.put(site, books)
            if site.table is not None and site.table.step == self.steps:
                self._last = site.table
            elif self._last.step != self.steps or not is_added:
                self._last = StepTable(self.steps)
            site.table = self._last
            site.table.put(site, books)
            self._gradients.left_by(leaves)
        self._next()

    def _has_optimizer(self) -> bool:
        """Whether something steps that is seen as it does; looked for once, when a place calls backward again."""
        if self._is_stepped is None:
            self._is_stepped = any(issubclass(type(each), torch.optim.Optimizer) for each in gc.get_objects())
        return self._is_stepped

    def _tell(self) -> None:
        """Hands on what was booked, once a place that is in it goes on to its next step."""
        held, self._round, steps, self._steps_of = self._round, StepTable(0), self._steps_of, {}
        if held.parts and self._error is None:
            try:
                self._on_booked(1 + max(steps.values()), held.books)
            except Exception as error:  # training goes on, whatever becomes of its books
                self._error = error

    def _next(self) -> None:
        """Records where losses are made before a pass that will be booked, and only then."""
        if any(site.will_be_booked(self._every, self.steps) for site in self.sites.values()):
            self._recorder.open()
        else:
            self._recorder.pause()

    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self._stepped.before_step(optimizer, self._models)
        if not self._recorder.mode.is_recording:
            self._recorder.pause()

    def _after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self.steps += 1
        self._is_stepped = True
        if self._recorder.mode.is_recording:
            self._next()
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
    """The frame that calls backward: the innermost of the script's own files, or of any where all are of packages."""
    script = [*frames]
    starts = (number for number, frame in enumerate(frames, 1) if _is_start(frame))
    del script[next(starts, len(script)) :]  # what is beyond started us
    own = [frame for frame in script if "site-packages" not in frame.f_code.co_filename]
    return (own or script)[0]


def _is_start(frame: FrameType) -> bool:
    return frame.f_code.co_name == "<module>" and frame.f_globals.get("__name__") == "__main__"
