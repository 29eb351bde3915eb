"""The backward passes behind one table: one for the sum, one per loss at what it shares.

The row of one loss is taken, where that is as good, as the gradient of the sum less the other rows: at the parameters
deepest in the graph, which a pass of its own would reach last and at the highest price, as many of them as a fraction
of the parameters' memory allows. As good means: its norm is not small beside the others', so that no digits cancel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from headwise.attribution.jacobians.streaming import inner_product, on_cpu, square_norm, stream
from headwise.reach import Walk

# The difference holds as much memory again as the parameters it is taken at: at most this part of all.
MEMORY_OF_DIFFERENCE = 0.3
# A row below this part of the largest row beside it would lose digits in the difference.
SMALLEST_DIFFERENCE = 0.1


@dataclass
class RowPasses:
    """What the passes of one table measure: 0-d tensors on the parameters' devices.

    Attributes:
        values: The losses.
        parameters: The parameters of the table, by name.
        bits: Which losses reach each of them.
        order: Their names, deepest in the graph first.
        keep_gradient: Keep the gradient of the sum.
        with_gramian: Also measure the inner products between losses.
        by_difference: Take one row as a difference where that is as good.
    """

    values: Sequence[Tensor]
    parameters: Mapping[str, Tensor]
    bits: Mapping[str, int]
    order: Sequence[str]
    keep_gradient: bool
    with_gramian: bool
    by_difference: bool
    total: dict[str, Tensor] = field(default_factory=dict)
    total_square: dict[str, Tensor] = field(default_factory=dict)
    square: dict[tuple[int, str], Tensor] = field(default_factory=dict)
    inner: dict[tuple[int, str], Tensor] = field(default_factory=dict)
    pairs: dict[tuple[int, int, str], Tensor] = field(default_factory=dict)
    _earlier: dict[str, list[tuple[int, Tensor]]] = field(default_factory=dict)
    _rest: dict[str, Tensor] = field(default_factory=dict)

    def run_rows(self) -> None:
        """Every loss at all it reaches; their sum is the gradient of the sum."""
        for k, value in enumerate(self.values):
            names = [name for name, bits in self.bits.items() if bits >> k & 1]
            stream([value], [self.parameters[name] for name in names], partial(self._add, k, names))
        self._rest.clear()

    def _add(self, k: int, names: list[str], index: int, gradient: Tensor) -> None:
        name = names[index]
        self.square[k, name] = square_norm(gradient)
        if self.keep_gradient:
            known = self.total.get(name)
            if name in self._rest:
                self._rest[name].add_(gradient)
            elif known is None:
                self.total[name] = gradient
            else:
                # What autograd hands over may be used elsewhere; from here on the sum is a tensor of our own.
                self.total[name] = self._rest[name] = known + gradient

    def run(self) -> None:
        """The sum first, then every loss at what it shares, the one taken by difference last."""
        reached = [name for name, bits in self.bits.items() if bits]
        stream(self.values, [self.parameters[name] for name in reached], lambda i, g: self._see_total(reached[i], g))
        last = self._largest()
        self._rest = {name: self.total[name].clone() for name in self._differences(last)}
        for k in range(len(self.values)):
            if k != last:
                self._row(k, self._shared(k))
        solved = self._solved(last)
        for name in solved:
            self._see(last, name, self._rest[name])
        self._rest.clear()
        self._row(last, [name for name in self._shared(last) if name not in solved])
        self._earlier.clear()
        if not self.keep_gradient:
            self.total.clear()

    def _shared(self, k: int) -> list[str]:
        return [name for name, bits in self.bits.items() if bits >> k & 1 and bits.bit_count() > 1]

    def _row(self, k: int, names: list[str]) -> None:
        stream([self.values[k]], [self.parameters[name] for name in names], lambda i, g: self._see(k, names[i], g))

    def _see_total(self, name: str, gradient: Tensor) -> None:
        bits = self.bits[name]
        square = self.total_square[name] = square_norm(gradient)
        if bits.bit_count() == 1:
            self.square[bits.bit_length() - 1, name] = self.inner[bits.bit_length() - 1, name] = square
        if self.keep_gradient or bits.bit_count() > 1:
            self.total[name] = gradient

    def _see(self, k: int, name: str, gradient: Tensor) -> None:
        self.square[k, name] = square_norm(gradient)
        self.inner[k, name] = inner_product(gradient, self.total[name])
        rest = self._rest.get(name)
        if rest is not None and rest is not gradient:
            rest.sub_(gradient)
        if self.with_gramian:
            for j, other in self._earlier.setdefault(name, []):
                self.pairs[j, k, name] = inner_product(other, gradient)
            self._earlier[name].append((k, gradient))

    def _largest(self) -> int:
        """The loss of the largest gradient at parameters of its own, as a guess at the largest everywhere."""
        own: dict[int, float] = dict.fromkeys(range(len(self.values)), 0.0)
        for (k, _), square in zip(self.square, on_cpu(list(self.square.values())).tolist(), strict=True):
            own[k] += square
        return max(own, key=lambda k: (own[k], k))

    def _differences(self, k: int) -> list[str]:
        """The parameters at which the row of one loss may be a difference."""
        # A hook may change a gradient in any way, and then the rows need not add up.
        hooked = any(parameter._backward_hooks for parameter in self.parameters.values())
        if not self.by_difference or self.with_gramian or hooked:
            return []
        left = MEMORY_OF_DIFFERENCE * sum(p.numel() * p.element_size() for p in self.parameters.values())
        shared, found = set(self._shared(k)), []
        for name in self.order:
            parameter = self.parameters[name]
            left -= parameter.numel() * parameter.element_size() if name in shared else 0
            if left < 0:
                break
            if name in shared and name in self.total and parameter.dtype in (torch.float32, torch.float64):
                found.append(name)
        return found

    def _solved(self, last: int) -> set[str]:
        """The parameters at which the difference lost no digits."""
        if not self._rest:
            return set()
        largest = {name: self.total_square[name] for name in self._rest}
        for (_, name), square in self.square.items():
            if name in largest:
                largest[name] = torch.maximum(largest[name], square)
        good = [square_norm(rest) >= SMALLEST_DIFFERENCE**2 * largest[name] for name, rest in self._rest.items()]
        return {name for name, each in zip(self._rest, on_cpu(good).tolist(), strict=True) if each}


def deepest_first(parameters: Mapping[str, Tensor], traced: Walk) -> list[str]:
    """The names of parameters, by where their leaves are in the graph, farthest from the losses first.

    Args:
        parameters: The parameters, by name.
        traced: The graph.

    Returns:
        The names of those in the graph.
    """
    place = {id(getattr(node, "variable", None)): index for index, node in enumerate(traced.nodes)}
    found = [name for name, parameter in parameters.items() if id(parameter) in place]
    return sorted(found, key=lambda name: -place[id(parameters[name])])
