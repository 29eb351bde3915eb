"""The one place where Headwise sees a backward pass begin: on which tensors it was called, and when it was over.

`torch.Tensor.backward` calls the public function `torch.autograd.backward`, and so does every trainer, scaler and loop;
while somebody watches, that one function is replaced, and otherwise nothing is. The pass that runs is the original,
with the arguments as they came.
"""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial, wraps
from typing import Any, TypeAlias

import torch
from torch import Tensor

from headwise.closing import Closing
from headwise.graph import is_captured

Finish: TypeAlias = Callable[[bool], None]
Observer: TypeAlias = Callable[[tuple[Tensor, ...], tuple[Tensor | None, ...]], Finish | None]

_CAPTURED = (
    "a backward pass that is captured as a CUDA graph is not booked, for a replay runs no Python: what is shown is of "
    "passes outside of the graph. Capture the forward pass alone, or look at a step before it is captured"
)


class BackwardWatch(Closing):
    """What `watch_backward` returns: ends the watch, by `close` or at the end of a ``with`` block.

    Args:
        observer: Who watches.

    Attributes:
        error: The first exception of the observer, which training did not see; None if there was none.
    """

    def __init__(self, observer: Observer) -> None:
        self.error: Exception | None = None
        self._observer = observer

    def close(self) -> None:
        """Ends the watch; a second call does nothing."""
        _WATCHES.remove(self)

    def begin(self, roots: tuple[Tensor, ...], gradients: tuple[Tensor | None, ...]) -> Finish | None:
        """Tells the observer of a pass.

        Args:
            roots: The tensors on which backward was called.
            gradients: What it was called with, per root.

        Returns:
            What to call when the pass is over.
        """
        try:
            return self._observer(roots, gradients)
        except Exception as error:
            return partial(self._failed, error)

    def finish(self, finish: Finish, done: bool) -> None:
        """Tells the observer that a pass is over.

        Args:
            finish: What the observer gave.
            done: Whether the pass ran to its end.
        """
        try:
            finish(done)
        except Exception as error:
            self._failed(error)

    def _failed(self, error: Exception, done: bool = True) -> None:
        # Where the pass fails too, the loop is told of that.
        if self.error is None and done:
            self.error = error
            warnings.warn(
                f"a backward pass could not be booked, and training went on without: {type(error).__name__}: {error}",
                RuntimeWarning,
                stacklevel=2,
            )


class _Watches:
    """Who watches, and what was in the place of `torch.autograd.backward` before."""

    def __init__(self) -> None:
        self.watches: tuple[BackwardWatch, ...] = ()
        self._lock = threading.Lock()
        self._replaced: Callable[..., Any] | None = None

    def add(self, watch: BackwardWatch) -> None:
        """Begins a watch."""
        with self._lock:
            self.watches = (*self.watches, watch)
            if self._replaced is None or torch.autograd.backward is self._replaced:
                self._replaced = torch.autograd.backward
                torch.autograd.backward = _seen(self._replaced)

    def remove(self, watch: BackwardWatch) -> None:
        """Ends a watch; with the last one the original is put back, unless somebody else has replaced ours."""
        with self._lock:
            self.watches = tuple(each for each in self.watches if each is not watch)
            ours = getattr(torch.autograd.backward, "__wrapped__", None) is self._replaced
            if not self.watches and self._replaced is not None and ours:
                torch.autograd.backward = self._replaced
                self._replaced = None


_WATCHES = _Watches()
_INSIDE = threading.local()


def inputs_of_pass() -> tuple[Any, ...] | None:
    """What the pass that begins, or runs, in this thread is limited to; None where it reaches all leaves."""
    found: tuple[Any, ...] | None = getattr(_INSIDE, "inputs", None)
    return found


def weakly(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method as what listens, that keeps its object from nothing.

    Args:
        method: Of an object.

    Returns:
        The same, and None once the object is no more.
    """
    reference = weakref.WeakMethod(method)

    def call(*arguments: Any) -> Any:
        alive = reference()
        return None if alive is None else alive(*arguments)

    return call


def watch_backward(observer: Observer) -> BackwardWatch:
    """Lets an observer see every backward pass of the process, in whatever loop it is called.

    Args:
        observer: Called as ``observer(roots, gradients)`` before a pass runs, in the thread that called it: `roots`
            are the tensors on which backward was called, and `gradients` what it was called with, or None. Returns
            None, or a function that is called as ``finish(done)`` after the pass, whether it ran to its end or raised.
            It must not call backward itself; `torch.autograd.grad` it may. An exception of it is told once as a
            warning, kept in `BackwardWatch.error`, and never reaches the loop. The passes that a reentrant checkpoint
            runs inside of a pass belong to that pass, and are not told; neither is `torch.autograd.grad`.

    Returns:
        The watch, to be closed.
    """
    watch = BackwardWatch(observer)
    _WATCHES.add(watch)
    return watch


def _seen(original: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, of which the observers are told."""

    @wraps(original)
    def backward(tensors: Any, grad_tensors: Any = None, *others: Any, **named: Any) -> Any:
        watches = _WATCHES.watches
        # Of a tensor of another class, or under a mode, the original calls itself once more.
        inside = getattr(_INSIDE, "now", False) or torch._C._current_graph_task_id() != -1
        if not watches or inside or torch.compiler.is_compiling():
            return original(tensors, grad_tensors, *others, **named)
        roots = _tensors(tensors)
        if any(isinstance(root, Tensor) and is_captured(root) for root in roots):
            warnings.warn(_CAPTURED, stacklevel=3)
            return original(tensors, grad_tensors, *others, **named)
        gradients = _tensors(grad_tensors if grad_tensors is not None else named.get("grad_variables"))
        gradients = (*gradients, *[None] * (len(roots) - len(gradients)))
        pending, _INSIDE.inputs = [], _inputs(others, named)
        if roots and all(isinstance(root, Tensor) for root in roots):
            pending = [(watch, finish) for watch in watches if (finish := watch.begin(roots, gradients)) is not None]
        done, _INSIDE.now = False, True
        try:
            original(tensors, grad_tensors, *others, **named)
            done = True
        finally:
            _INSIDE.now, _INSIDE.inputs = False, None
            for watch, finish in pending:
                watch.finish(finish, done)

    return backward


def _inputs(others: Sequence[Any], named: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """What was given as `inputs`, which is the fourth after the gradients."""
    given = others[3] if len(others) > 3 else named.get("inputs")
    if given is None:
        return None
    return tuple(given.values()) if isinstance(given, Mapping) else _tensors(given)


def _tensors(given: Any) -> tuple[Any, ...]:
    if given is None:
        return ()
    return tuple(given) if isinstance(given, Sequence) else (given,)
