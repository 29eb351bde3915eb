"""The losses that training code returned, by name, whatever structure they came in."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Protocol, TypeGuard

from torch import Tensor

from headwise.attribution.apart.sums.dissect import LAST, Candidate
from headwise.attribution.apart.words import says_total
from headwise.graph import Edge, gradient_edge


class Weighted(Protocol):
    """An entry of a `Breakdown`: anything that holds its weighted value as `weighted`."""

    @property
    def weighted(self) -> Tensor:
        """Weight * value."""
        ...


def is_weighted(node: Any) -> TypeGuard[Weighted]:
    """Whether something is such an entry; a dict is none, also where its keys can be asked for like attributes."""
    return not isinstance(node, Tensor | Mapping) and has(node, "weighted")


@dataclass(frozen=True, eq=False)
class LossEntry:
    """One thing that the criterion returned.

    Args:
        name: Its key, field or position.
        value: A tensor or a number.
        weight: Its weight, where the entry declares one that is in its value already.
        declared: The entry itself, where it is a term of a `Breakdown`: that is always a loss.
    """

    name: str
    value: Tensor | float
    weight: float | None = None
    declared: Weighted | None = None

    @property
    def tensor(self) -> Tensor | None:
        """The value as a scalar tensor (what is per sample is averaged), or None where it is a plain number."""
        if not isinstance(self.value, Tensor):
            return None
        return self.value if self.value.numel() == 1 else self.value.mean()

    @property
    def scalar(self) -> Tensor | None:
        """The same where it has a graph, else None."""
        return None if self.edge is None else self.tensor

    @property
    def edge(self) -> Edge | None:
        """Where the gradient of the value enters the graph, or None."""
        return gradient_edge(self.value) if isinstance(self.value, Tensor) else None

    @property
    def number(self) -> float:
        """The value on the host."""
        if not isinstance(self.value, Tensor):
            return float(self.value)
        value = self.value.detach()
        return float(value if value.numel() == 1 else value.double().mean())

    @property
    def before_weight(self) -> float:
        """The same without the weight that is in it."""
        value = getattr(self.declared, "value", None)
        return float(value.detach()) if isinstance(value, Tensor) and value.numel() == 1 else self.number

    @property
    def is_scalar(self) -> bool:
        """Whether it is one number."""
        return not isinstance(self.value, Tensor) or self.value.numel() == 1


def entries(returned: Any, names: Sequence[str] = ()) -> tuple[LossEntry, ...]:
    """Every tensor and number of what training code returned.

    Args:
        returned: A tensor, or a tuple, list, (nested) dict, dataclass or `Breakdown` of them; a number beside a
            collection, ``(total, losses)``, is called "total".
        names: Names for the elements of a tuple or list, if there are as many.

    Returns:
        The entries, each under a name of its own.
    """
    total, body = split_total(returned)
    found = renamed([each for each in entries_in(body) if each.is_scalar or each.edge is not None], body, names)
    for tensor in (total, declared_total(returned)):
        if tensor is not None:
            found.append(LossEntry("total", tensor))
    return tuple({entry.name: entry for entry in reversed(found)}.values())[::-1]


def candidates(found: Sequence[LossEntry]) -> list[Candidate]:
    """The entries that a total can add.

    Args:
        found: The entries.

    Returns:
        Scalars with a graph, then the losses of single samples.
    """
    live = [
        (each, each.value)
        for each in found
        if isinstance(each.value, Tensor) and each.edge is not None and each.value.is_floating_point()
    ]
    return [
        Candidate(each.name, value, LAST * says_total(each.name) + int(value.numel() != 1))
        for each, value in sorted(live, key=lambda pair: not pair[0].is_scalar)
    ]


def split_total(returned: Any) -> tuple[Tensor | None, Any]:
    """``(total, losses)`` in either order: one scalar with a graph beside one or more collections.

    Args:
        returned: What training code returned.

    Returns:
        The total, or None, and what is beside it.
    """
    if not isinstance(returned, tuple | list) or hasattr(returned, "_fields"):
        return None, returned
    scalars = [each for each in returned if isinstance(each, Tensor) and each.numel() == 1 and each.requires_grad]
    nested = [each for each in returned if isinstance(each, Mapping | tuple | list) or is_dataclass(each)]
    if len(scalars) == 1 and nested:
        return scalars[0], nested[0] if len(nested) == 1 else nested
    return None, returned


def declared_total(returned: Any) -> Tensor | None:
    """The total that a `Breakdown` says it has."""
    declared: Any = returned if isinstance(returned, Mapping) and has(returned, "total") else None
    declared = None if declared is None else declared.total
    return declared if isinstance(declared, Tensor) else None


def renamed(found: list[LossEntry], body: Any, names: Sequence[str]) -> list[LossEntry]:
    """The elements of a tuple or list under their names, where as many are given and none is a position.

    Args:
        found: The entries.
        body: What they were found in.
        names: The names.

    Returns:
        The entries.
    """
    plain = isinstance(body, tuple | list) and not hasattr(body, "_fields")
    if not plain or len(names) != len(found) or {entry.name for entry in found} & set(names):
        return found
    return [replace(entry, name=name) for name, entry in zip(names, found, strict=True)]


def entries_in(node: Any, name: str = "") -> Iterator[LossEntry]:
    """Every number and tensor of a structure.

    Args:
        node: The structure.
        name: What names begin with.

    Yields:
        The entries, in order.
    """
    if is_weighted(node):
        yield LossEntry(name, node.weighted, _number(getattr(node, "weight", None)), node)
    elif isinstance(node, Tensor):
        if node.numel() == 1 or (node.numel() and node.is_floating_point()):
            yield LossEntry(name or "loss", node)
    elif isinstance(node, float | int) and not isinstance(node, bool):
        yield LossEntry(name or "loss", node)
    else:
        for key, value in _parts(node):
            yield from entries_in(value, f"{name}.{key}" if name else str(key))


def is_array_scalar(node: Any) -> bool:
    """Whether something is a number of NumPy's, or of an array library like it."""
    return has(node, "item") and has(node, "ndim") and node.ndim == 0


def has(node: Any, name: str) -> bool:
    """Whether an object has an attribute, without its own ``__getattr__``, which may answer to any name, or raise.

    Args:
        node: The object.
        name: The attribute.

    Returns:
        Whether its class or its own dictionary holds it.
    """
    return inspect.getattr_static(node, name, None) is not None


def _number(weight: Any) -> float | None:
    if isinstance(weight, Tensor):
        return float(weight.detach()) if weight.numel() == 1 else None
    return float(weight) if isinstance(weight, int | float) else None


def _parts(node: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(node, Mapping):
        yield from node.items()
    elif isinstance(node, tuple) and hasattr(node, "_fields"):
        yield from zip(node._fields, node, strict=True)
    elif isinstance(node, list | tuple):
        yield from enumerate(node)
    elif is_dataclass(node) and not isinstance(node, type):
        yield from ((each.name, getattr(node, each.name)) for each in fields(node))
    elif is_array_scalar(node):
        yield "value", float(node.item())
