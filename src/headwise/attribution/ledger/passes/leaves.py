"""What arrives at outputs that are leaves, which outlive the calls: one hook a leaf, however many calls read it."""

from __future__ import annotations

import weakref
from functools import partial

from torch import Tensor
from torch.utils.hooks import RemovableHandle, unserializable_hook

from headwise.attribution.ledger.passes.clock import CLOCK


class Leaves:
    """The leaves that the records of one ledger read.

    Args:
        owner: The ledger.
    """

    def __init__(self, owner: object) -> None:
        self._owner = weakref.ref(owner)
        self._leaves: dict[int, _Leaf] = {}

    def listen(self, leaf: Tensor) -> None:
        """Tells the ledger's records of a pass what arrives at a leaf.

        Args:
            leaf: The output.
        """
        known = self._leaves.get(id(leaf))
        if known is None or known.tensor() is not leaf:
            self._leaves[id(leaf)] = _Leaf(self, leaf)

    def heard(self, leaf: _Leaf, grad: Tensor) -> None:
        """What arrived at a leaf; called by its hook."""
        # A tensor may have lost its Python object, and come back with a new one and another hook.
        if self._leaves.get(leaf.key) is leaf:
            owner = self._owner()
            for record in list(CLOCK.under().records.values()):
                if record.owner is owner:
                    record.arrived(leaf.key, grad)

    def forget(self, key: int) -> None:
        """A leaf is no more."""
        self._leaves.pop(key, None)

    def close(self) -> None:
        """Ends the listening."""
        for leaf in self._leaves.values():
            leaf.handle.remove()
        self._leaves.clear()


class _Leaf:
    """A leaf that is listened to, as long as it lives."""

    def __init__(self, leaves: Leaves, leaf: Tensor) -> None:
        self.key = id(leaf)
        self.tensor = weakref.ref(leaf, lambda _, key=self.key: leaves.forget(key))  # type: ignore[misc]
        hook = unserializable_hook(partial(leaves.heard, self))  # type: ignore[no-untyped-call]
        self.handle: RemovableHandle = leaf.register_hook(hook)  # type: ignore[no-untyped-call]
