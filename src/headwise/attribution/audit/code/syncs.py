"""Where the audited code waits for the device: values copied to the host, and shapes that depend on data."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from headwise.attribution.apart.naming.frames import own_line

_SYNCING = {
    "aten._local_scalar_dense": "a value copied to the host",
    "aten.nonzero": "nonzero",
    "aten.masked_select": "masked_select",
    "aten._unique2": "unique",
    "aten.unique_dim": "unique",
    "aten.unique_consecutive": "unique",
    "aten.repeat_interleave.Tensor": "repeat_interleave",
    "aten.equal": "torch.equal",
    "aten.is_nonzero": "a truth value",
}
_HOST = {"numpy", "tolist", "cpu", "__array__"}


class SyncCounter:
    """Counts, within a `with`, what would wait for a GPU; on a CPU it costs nothing, so nothing else shows it.

    Attributes:
        places: "file:line what" to count.
    """

    def __init__(self) -> None:
        self.places: Counter[str] = Counter()
        self._stack = ExitStack()

    def __enter__(self) -> SyncCounter:
        self._stack.enter_context(_Calls(self))
        kind = _GuardedOperations if "torch._dynamo" in sys.modules else _Operations
        self._stack.enter_context(kind(self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def note(self, what: str) -> None:
        """Count one at the innermost line of the audited code."""
        line = own_line()
        if line:
            self.places[f"{line} {what}"] += 1


class _Seeing:
    """Sees every operation below autograd.

    PyTorch keeps the compiler away from what a mode defines itself, for which it imports the compiler: that takes
    longer than most audits. What a mode inherits is left alone, which is as good where nothing was compiled.
    """

    _counter: SyncCounter

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).removesuffix(".default")
        what = _SYNCING.get(name) or _SYNCING.get(name.rpartition(".")[0])
        if name.startswith(("aten.index.", "aten.index_put")) and _selects(name, args):
            what = "indexing by a mask"
        if what is not None:
            self._counter.note(what)
        return func(*args, **(kwargs or {}))


class _Operations(_Seeing, TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves its hook untyped
    """The mode, where the compiler was not imported."""

    def __init__(self, counter: SyncCounter) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._counter = counter


class _GuardedOperations(_Operations):  # type: ignore[no-untyped-call]
    """The mode beside compiled code."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return super().__torch_dispatch__(func, types, args, kwargs)


def _selects(name: str, args: Any) -> bool:
    masks = any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    # Writing one number under a mask is a masked_fill, which waits for nothing.
    return masks and not ("put" in name and isinstance(args[2], Tensor) and args[2].numel() == 1)


class _Calls(TorchFunctionMode):
    """Sees the methods that copy whole tensors to the host, which on a CPU are no operations."""

    def __init__(self, counter: SyncCounter) -> None:
        super().__init__()
        self._counter = counter

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in _HOST:
            self._counter.note(f".{name.strip('_')}()")
        return func(*args, **(kwargs or {}))
