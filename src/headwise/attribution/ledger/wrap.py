"""Books for a criterion that Headwise did not write, without rewriting it."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from headwise.attribution.audit.losses import Entry, take_apart
from headwise.attribution.audit.structure import resolve
from headwise.attribution.gram import Gram, Where
from headwise.attribution.ledger.books import Books, OutputBooks, TermBooks
from headwise.criterion.paths import Channels as Slice
from headwise.structure import by_path

_PER_OUTPUT = 2  # a square, and a count of elements that are not finite


@dataclass(frozen=True)
class _Plan:
    """What the numbers of a row mean: a value and factor a loss, a square and a count an edge, products of pairs."""

    names: tuple[str, ...]
    edges: tuple[tuple[str, str], ...]
    pairs: tuple[tuple[str, str, str], ...]


@dataclass
class _Row:
    """One call: numbers on the device, and the factors that its backward pass brings."""

    step: int
    plan: _Plan
    numbers: Tensor
    factors: Tensor


class WrappedCriterion:
    """What `wrap` returns: called like the criterion, with a `ledger`.

    Args:
        criterion: The foreign criterion.
        names: Names for the losses of a tuple or list.
        reads: Per loss the paths of the outputs that are booked for it.
        capacity: How many steps the ledger holds.
    """

    def __init__(
        self,
        criterion: Callable[..., Any],
        names: Sequence[str] | None,
        reads: Mapping[str, str | Sequence[str]] | None,
        capacity: int,
    ) -> None:
        self.criterion = criterion
        self.ledger = ForeignLedger(names or tuple(reads or ()), reads or {}, capacity)

    def __call__(self, outputs: Any, *others: Any, **named: Any) -> Any:
        """Call the criterion, and book what it returns.

        Args:
            outputs: The network's outputs, the criterion's first argument.
            *others: Handed on.
            **named: Handed on.

        Returns:
            What the criterion returned, the same objects.
        """
        if not (torch.is_grad_enabled() and self.ledger.is_open):
            return self.criterion(outputs, *others, **named)
        # The edges before the call: an output that is overwritten in place stays what the network returned.
        tensors = {path: tensor for path, tensor in by_path(outputs).items() if tensor.requires_grad}
        edges = {path: get_gradient_edge(tensor) for path, tensor in tensors.items()}
        returned = self.criterion(outputs, *others, **named)
        self.ledger.book(returned, outputs, edges)
        return returned


class ForeignLedger:
    """Keeps the books of a wrapped criterion.

    Read it like a `Ledger`; see `wrap` for what its numbers mean and cost.

    Args:
        names: Names for the losses of a tuple or list.
        reads: Per loss the paths of the outputs that are booked for it; all for a loss that is not named.
        capacity: How many steps are kept.

    Raises:
        ValueError: The capacity is less than 1.
    """

    def __init__(self, names: Sequence[str], reads: Mapping[str, str | Sequence[str]], capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"capacity is at least 1; found {capacity}")
        self._names, self._reads = tuple(names), reads
        self._rows: deque[_Row] = deque(maxlen=capacity)
        self._count = itertools.count()
        self.is_open = True

    def book(self, returned: Any, outputs: Any, edges: Mapping[str, GradientEdge]) -> tuple[str, ...]:
        """Book one call; the factors follow when a backward pass comes by.

        Args:
            returned: What the criterion returned.
            outputs: What it was given.
            edges: Where each output's gradient enters the graph.

        Returns:
            The losses with a graph that were computed from none of the outputs booked for them.
        """
        terms = take_apart(returned, self._names).terms
        slices = {term.name: self._slices(term.name, outputs, edges) for term in terms}
        grads = {term.name: _gradients(term, edges, slices[term.name]) for term in terms}
        plan = _plan(terms, grads)
        device = next((term.value.device for term in terms if isinstance(term.value, Tensor)), torch.device("cpu"))
        numbers = torch.stack(_numbers(terms, plan, grads, device))
        row = _Row(next(self._count), plan, numbers, torch.zeros(len(terms), dtype=torch.float64, device=device))
        for index, term in enumerate(terms):
            if isinstance(term.value, Tensor) and term.value.requires_grad:
                term.value.register_hook(_Factor(row, index))  # type: ignore[no-untyped-call]
        self._rows.append(row)
        return tuple(term.name for term in terms if term.scalar is not None and not grads[term.name])

    def read(self) -> Books:
        """The books of the last step that a backward pass went through, by one transfer to the host.

        Returns:
            The books.

        Raises:
            RuntimeError: There is none yet.
        """
        books = self.history()
        if not books:
            raise RuntimeError(
                "the ledger is empty: no backward pass has gone through a loss of the wrapped criterion. "
                "Call backward on the sum of what it returned first"
            )
        return books[-1]

    def history(self) -> list[Books]:
        """The books of all steps that are still held, oldest first, by one transfer to the host."""
        rows = list(self._rows)
        if not rows:
            return []
        flat = torch.cat([torch.cat([row.factors, row.numbers.to(row.factors)]) for row in rows]).tolist()
        found, begin = [], 0
        for row in rows:
            end = begin + len(row.factors) + len(row.numbers)
            books = _read(row.step, row.plan, flat[begin:end])
            if any(each.trained for each in books.values()):
                found.append(books)
            begin = end
        return found

    def table(self) -> str:
        """The last step as a printable table."""
        return str(self.read())

    def close(self) -> None:
        """End the booking; what was booked stays readable."""
        self.is_open = False

    def _slices(self, name: str, outputs: Any, edges: Mapping[str, GradientEdge]) -> dict[str, list[Slice | None]]:
        """The outputs that are booked for a loss, and which channels of them."""
        paths = self._reads.get(name)
        if paths is None:
            return {path: [None] for path in edges}
        found: dict[str, list[Slice | None]] = {}
        for text in [paths] if isinstance(paths, str) else paths:
            for path, channels in resolve(text, outputs, f"reads[{name!r}]"):
                if path in edges:
                    found.setdefault(path, []).append(channels)
        return found


class _Factor:
    """A hook on a loss: adds up the factors with which backward passes come to it."""

    def __init__(self, row: _Row, index: int) -> None:
        self._row, self._index = row, index

    def __call__(self, grad: Tensor) -> None:
        self._row.factors[self._index] += grad.detach().double().sum()


def wrap(
    criterion: Callable[..., Any],
    names: Sequence[str] | None = None,
    reads: Mapping[str, str | Sequence[str]] | None = None,
    *,
    capacity: int = 1024,
) -> WrappedCriterion:
    """Keep the books of a criterion that returns a loss, or a tuple, list or dict of losses, without rewriting it.

    In an unchanged loop::

        wrapped = headwise.attribution.wrap(criterion)
        losses = wrapped(outputs, targets)
        sum(losses.values()).backward()
        print(wrapped.ledger.read())

    The backward pass stays the user's own, to the bit. The price is one extra pass per loss over that loss's own graph,
    from its value to the outputs and never through the network; and no host sync until the books are read. A loss's
    ``weight`` is the factor with which the backward pass came to it: it holds the loop's own factors too (loss scale,
    accumulation), which cannot be told from weights in code that is not ours; shares and cosines do not depend on them.
    Every pass through a loss counts, also one of `torch.autograd.grad`: two passes add up to twice the weight.
    A total among what the criterion returned is not booked as a term. Not for use inside `torch.compile`: wrap the
    criterion outside of the compiled part.

    Args:
        criterion: Called as ``criterion(outputs, ...)``.
        names: Names for the losses of a tuple or list, in order.
        reads: Per loss the path (or paths) of the outputs that are booked for it, such as ``maps[:, 4]``. For a tuple
            without `names`, the keys name its losses in order.
        capacity: How many steps the ledger holds.

    Returns:
        The criterion, with a `ledger`.
    """
    return WrappedCriterion(criterion, names, reads, capacity)


def _gradients(
    term: Entry, edges: Mapping[str, GradientEdge], slices: Mapping[str, Sequence[Slice | None]]
) -> dict[str, Tensor]:
    """A loss's gradient at the outputs it reads, zero outside of its channels."""
    scalar = term.scalar
    paths = list(slices)
    if scalar is None or not paths:
        return {}
    grads = torch.autograd.grad(scalar, [edges[path] for path in paths], retain_graph=True, allow_unused=True)
    return {
        path: _within(grad.detach(), slices[path]) for path, grad in zip(paths, grads, strict=True) if grad is not None
    }


def _within(grad: Tensor, slices: Sequence[Slice | None]) -> Tensor:
    if None in slices:
        return grad
    kept = torch.zeros_like(grad)
    for each in slices:
        assert each is not None
        begin, end = each.bounds(grad)
        kept.narrow(each.dim, begin, end - begin).copy_(grad.narrow(each.dim, begin, end - begin))
    return kept


def _plan(terms: Sequence[Entry], grads: Mapping[str, Mapping[str, Tensor]]) -> _Plan:
    names = tuple(term.name for term in terms)
    edges = tuple((name, path) for name in names for path in grads[name])
    pairs = tuple((a, b, path) for a, b in itertools.combinations(names, 2) for path in grads[a] if path in grads[b])
    return _Plan(names, edges, pairs)


def _numbers(
    terms: Sequence[Entry], plan: _Plan, grads: Mapping[str, Mapping[str, Tensor]], device: torch.device
) -> list[Tensor]:
    """Values, then per edge the square and the count of bad elements, then the products."""
    # MPS has no float64.
    wide = torch.float32 if device.type == "mps" else torch.float64
    found = [torch.as_tensor(term.value).detach().to(device, wide).mean() for term in terms]
    for name, path in plan.edges:
        grad = grads[name][path].to(wide)
        found += [grad.square().sum(), (~grad.isfinite()).sum().to(wide)]
    found += [(grads[left][path].to(wide) * grads[right][path].to(wide)).sum() for left, right, path in plan.pairs]
    return found


def _read(step: int, plan: _Plan, numbers: Sequence[float]) -> Books:
    count = len(plan.names)
    factors, values, rest = numbers[:count], numbers[count : 2 * count], numbers[2 * count :]
    factor = dict(zip(plan.names, factors, strict=True))
    outputs: dict[str, dict[str, OutputBooks]] = {name: {} for name in plan.names}
    for index, (name, path) in enumerate(plan.edges):
        square, bad = rest[_PER_OUTPUT * index : _PER_OUTPUT * (index + 1)]
        outputs[name][path] = OutputBooks(abs(factor[name]) * math.sqrt(square), bad == 0)
    terms = {name: _term(value, factor[name], outputs[name]) for name, value in zip(plan.names, values, strict=True)}
    size = math.fsum(abs(term.weighted) for term in terms.values() if math.isfinite(term.weighted))
    terms = {name: replace(term, share=term.weighted / size if size else 0.0) for name, term in terms.items()}
    begin = _PER_OUTPUT * len(plan.edges)
    squares = {edge: outputs[edge[0]][edge[1]].grad_norm ** 2 for edge in plan.edges}
    products = {
        (left, right, path): factor[left] * factor[right] * number
        for (left, right, path), number in zip(plan.pairs, rest[begin:], strict=True)
    }
    value = {name: term.value for name, term in terms.items()}
    return Books(step, terms, Gram.of_pairs(squares, products, value, factor, Where(step=step)))


def _term(value: float, factor: float, outputs: dict[str, OutputBooks]) -> TermBooks:
    norm = math.hypot(*(each.grad_norm for each in outputs.values()))
    finite = math.isfinite(value) and all(each.finite for each in outputs.values())
    return TermBooks(value, factor, value * factor if factor else 0.0, math.nan, norm, finite, factor != 0, outputs)
