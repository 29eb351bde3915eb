"""What a criterion returns: the total, and what it is the sum of."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree

from headwise.criterion.junctions.recording import Record
from headwise.ratio import Ratio
from headwise.tabular import Tabular


@dataclass(frozen=True, eq=False)
class Entry:
    """One term's part of the total.

    Args:
        value: The term's value, a 0-d tensor with its graph.
        weight: The weight of this step: a float, or the user's 0-d tensor.
        weighted: ``weight * value``, with its graph.
        ratio: The sums that the value is the quotient of; for a term over levels, one element a level.
        levels: The value of each level, its level weight included, or None for a term without levels.
        split_variant: Why the term's gradient depends on how the batch is split, totaled denominators or not; None if
            it does not.
    """

    value: Tensor
    weight: float | Tensor
    weighted: Tensor
    ratio: Ratio
    levels: Tensor | None = None
    split_variant: str | None = None


@dataclass(init=False, repr=False, eq=False)
class Breakdown(Mapping[str, Entry], Tabular):
    """An immutable mapping from the terms' names to their entries; `total` is the sum of their ``weighted``.

    The total of a criterion's call is one vector operation; the graph of an entry is made when the entry is asked for.
    A pytree: whatever moves, casts or rebuilds nested tensors does so with it. And a dataclass of its total, by which
    DistributedDataParallel and Fabric find what a module with a criterion inside returns.

    Args:
        entries: The entries, in the order of the terms.
        total: What ``backward`` is called on; by default the sum of the entries' ``weighted``.

    Attributes:
        record: The books of the call, if an open ledger keeps them.
    """

    __slots__ = ("_entries", "_make", "_names", "_vectors", "record", "total")

    total: Tensor

    def __init__(self, entries: Mapping[str, Entry], total: Tensor | None = None) -> None:
        self._names = tuple(entries)
        self._entries = dict(entries)
        self._make: Callable[[int], Entry] | None = None
        self._vectors: tuple[Tensor, Tensor] | None = None
        self.record: Record | None = None
        self.total = _sum(self._entries.values()) if total is None else total

    @classmethod
    def of_call(
        cls,
        names: tuple[str, ...],
        total: Tensor,
        vectors: tuple[Tensor, Tensor],
        make: Callable[[int], Entry],
        record: Record | None = None,
    ) -> Breakdown:
        """The breakdown of one call of a criterion.

        Args:
            names: The terms.
            total: Their total.
            vectors: Values and weighted values, (T,) each.
            make: Makes the entry of a term by its number, when it is asked for.
            record: The books of the call, if they are kept.

        Returns:
            The breakdown.
        """
        found = cls({}, total)
        found._names, found._vectors, found._make, found.record = names, vectors, make, record
        return found

    def backward(self, *_: object, **__: object) -> None:
        """Refuses: of a table of terms, the total is what a backward pass begins on.

        Raises:
            TypeError: Always; the message says what to call.
        """
        raise TypeError("a Breakdown is a table of terms. Call breakdown.total.backward()")

    def __getitem__(self, name: str) -> Entry:
        """One term's entry.

        Raises:
            KeyError: There is no such term; the message lists the terms.
        """
        if name in self._entries:
            return self._entries[name]
        if self._make is None or name not in self._names:
            raise KeyError(f"no term {name!r}. The terms are: {', '.join(self._names)}")
        entry = self._entries[name] = self._make(self._names.index(name))
        return entry

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def table_rows(self) -> list[dict[str, Any]]:
        """A row per term: value, weighted value, share of the absolute ones. Waits for the device."""
        logged = {key: float(number) for key, number in self.log().items()}
        names = ("value", "weighted", "share")
        return [{"term": name, **{each: logged[f"{name}/{each}"] for each in names}} for name in self]

    def table_title(self) -> str:
        """The total."""
        return f"Breakdown of the total {float(self.total.detach()):.5g}"

    def log(self, prefix: str = "") -> dict[str, Tensor]:
        """A flat dict for any logger.

        Args:
            prefix: Put before each key, with a slash between.

        Returns:
            Detached 0-d tensors under ``<prefix>/<term>/value``, ``.../weighted``, ``.../share`` (``weighted`` over the
            sum of all absolute ``weighted``; 0 where that is 0) and ``<prefix>/total``. Nothing is copied to the host.
        """
        head = f"{prefix.rstrip('/')}/" if prefix else ""
        values, weighted = self._detached()
        size = weighted.abs().sum()
        shares = torch.where(size == 0, torch.zeros_like(weighted), weighted / size)
        found = {}
        for name, value, each, share in zip(self._names, values, weighted, shares, strict=True):
            found[f"{head}{name}/value"] = value
            found[f"{head}{name}/weighted"] = each
            found[f"{head}{name}/share"] = share
        found[f"{head}total"] = self.total.detach()
        return found

    def _detached(self) -> tuple[Tensor, Tensor]:
        if self._vectors is not None:
            return self._vectors[0].detach(), self._vectors[1].detach()
        entries = list(self.values())
        weighted = torch.stack([entry.weighted.detach() for entry in entries])
        return torch.stack([entry.value.detach().to(weighted) for entry in entries]), weighted

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy or pickle holds the entries themselves."""
        return type(self), (dict(self), self.total)

    def __deepcopy__(self, memo: dict[int, Any]) -> Breakdown:
        """A copy; where the total stays as it is, so do the entries: Fabric sets the total of its copy anew."""
        if id(self.total) not in memo:
            return type(self)(*copy.deepcopy((dict(self), self.total), memo))
        twin = object.__new__(type(self))
        for name in type(self).__slots__:
            setattr(twin, name, getattr(self, name))
        return twin

    def __repr__(self) -> str:
        weighted = self._detached()[1].tolist()
        rows = ", ".join(f"{name}={each:.6g}" for name, each in zip(self._names, weighted, strict=True))
        return f"Breakdown(total={self.total.detach():.6g}: {rows})"


def _sum(entries: Iterable[Entry]) -> Tensor:
    total, *others = [entry.weighted for entry in entries]
    for each in others:
        total = total + each
    return total


_Rest = tuple[tuple[str, ...], tuple[tuple[Any, ...], ...]]


def _flatten(breakdown: Breakdown) -> tuple[list[Any], _Rest]:
    entries = list(breakdown.values())
    leaves: list[Any] = [breakdown.total]
    rest = []
    for entry in entries:
        leaves.append([entry.value, entry.weighted, entry.ratio.numerator, entry.ratio.denominator, entry.levels])
        rest.append((entry.weight, entry.ratio.smooth, entry.split_variant))
    return leaves, (tuple(breakdown), tuple(rest))


def _unflatten(leaves: Any, context: _Rest) -> Breakdown:
    total, *parts = leaves
    names, rest = context
    entries = {}
    for name, (value, weighted, numerator, denominator, levels), (weight, smooth, why) in zip(
        names, parts, rest, strict=True
    ):
        entries[name] = Entry(value, weight, weighted, Ratio(numerator, denominator, smooth), levels, why)
    return Breakdown(entries, total)


_pytree.register_pytree_node(
    Breakdown, _flatten, _unflatten, serialized_type_name="headwise.criterion.breakdown.Breakdown"
)
