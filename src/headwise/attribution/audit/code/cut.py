"""What a step adds to its total although it left the graph on the way: seen while the step runs, as no graph has it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from headwise.attribution.apart.naming.frames import own_line
from headwise.attribution.apart.sums.counts import added
from headwise.graph import Edge, gradient_edge, topological
from headwise.structure import leaves

_ADDING = {"add", "sub", "subtract"}
_JOINING = {"stack", "cat", "concat", "hstack"}
_READING = {"item", "float", "tolist", "numpy", "array"}
_NEW = ("new_", "_like")


@dataclass(eq=False, frozen=True)
class Cut:
    """Where something with a graph became something without.

    Attributes:
        line: The line of code.
        edges: What it was made of.
    """

    line: str
    edges: frozenset[Edge]


@dataclass(frozen=True)
class CutSummand:
    """A number without a graph that was added to one with a graph.

    Attributes:
        line: The line that adds.
        held: The number, as it was then.
        result: What the sum is in the graph.
        others: What it was added to.
        cuts: Where what it was computed of left the graph.
        reads: The lines that read plain numbers before, where it may be one of these.
        names: The losses and logs that were computed of the same.
    """

    line: str
    held: Tensor | float
    result: Edge
    others: tuple[Edge, ...]
    cuts: frozenset[Cut]
    reads: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    @property
    def value(self) -> float:
        """The number, of samples their sum; nothing waits for it before it is asked for."""
        return float(self.held.double().sum()) if isinstance(self.held, Tensor) else float(self.held)

    @property
    def is_swapped(self) -> bool:
        """Whether it takes away what it is added to: `a + (b - a).detach()` has one's value and the other's slope."""
        below = set().union(*(added(edge) for edge in self.others))
        return any(edge in below or not below.isdisjoint(added(edge)) for cut in self.cuts for edge in cut.edges)


class CutWatch(TorchFunctionMode):
    """Follows, within a `with`, what has left the graph of what is trained.

    Attributes:
        summands: What was added to something with a graph, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.summands: list[CutSummand] = []
        self._carried: dict[int, tuple[Tensor, frozenset[Cut]]] = {}
        self._met: set[Cut] = set()
        self._reads: dict[str, None] = {}

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "").strip("_")
        operands = _tensors((args, kwargs))
        # What is written into is the result.
        results = _tensors(args[:1] if name == "setitem" else found)
        live = [each for each in operands if each.requires_grad]
        if not results:
            if name in _READING and (live or self._cuts_of(operands)):
                self._reads[own_line()] = None
        elif not any(each.requires_grad for each in results):
            self._carry(name, results, operands, live)
        elif len(results) == 1 and live:
            self._meet(name, results[0], args, operands, live)
        return found

    def cut_from(self, total: Tensor | None, losses: dict[str, Tensor]) -> dict[int, CutSummand]:
        """What a total adds without a graph.

        Args:
            total: What backward is called on.
            losses: The losses and logs that were returned.

        Returns:
            By the number in `summands`, those that nothing else with a graph was computed of; none where one takes
            away what it is added to, and so swaps the values on purpose.
        """
        root = gradient_edge(total) if total is not None else None
        top, below = added(root), set(topological([root[0]])) if root is not None else set()
        # What is taken out of an exponential and added to its logarithm is no part of its own.
        inside = [each for each in self.summands if each.result not in top and each.result[0] in below]
        met = self._met.union(*(each.cuts for each in inside))
        numbers = {abs(each.held) for each in inside if isinstance(each.held, float)}
        chosen = {number: each for number, each in enumerate(self.summands) if each.result in top}
        if any(each.is_swapped for each in chosen.values()):
            return {}
        found = {}
        for number, each in chosen.items():
            again = isinstance(each.held, float) and abs(each.held) in numbers
            if met.isdisjoint(each.cuts) and not again:
                same = (name for name, loss in losses.items() if not each.cuts.isdisjoint(self._cuts_of([loss])))
                found[number] = replace(each, names=tuple(same))
        return found

    def _cuts_of(self, tensors: list[Tensor]) -> frozenset[Cut]:
        found = (self._carried.get(id(each)) for each in tensors if not each.requires_grad)
        return frozenset().union(*(each[1] for each in found if each is not None))

    def _carry(self, name: str, results: list[Tensor], operands: list[Tensor], live: list[Tensor]) -> None:
        if name.startswith(_NEW[0]) or name.endswith(_NEW[1]):
            return
        cuts = self._cuts_of(operands)
        if live:
            edges = (gradient_edge(each) for each in live)
            cuts |= {Cut(own_line(), frozenset(edge for edge in edges if edge is not None))}
        for each in results if cuts else ():
            self._carried[id(each)] = each, cuts

    def _meet(self, name: str, result: Tensor, args: Any, operands: list[Tensor], live: list[Tensor]) -> None:
        others = tuple(edge for each in live if (edge := gradient_edge(each)) is not None)
        root = gradient_edge(result)
        kind = name.removesuffix("_").removeprefix("r").removeprefix("i")
        for each in (each for each in operands if not each.requires_grad):
            cuts = self._cuts_of([each])
            is_added = _is_summand(kind, each, result)
            if is_added and root is not None and (cuts or self._reads):
                reads = () if cuts else tuple(self._reads)
                self.summands.append(CutSummand(own_line(), each.detach().clone(), root, others, cuts, reads))
            elif not is_added:
                self._met |= cuts
        if kind in _ADDING and self._reads and root is not None and result.ndim <= 1:
            for number in (each for each in args if isinstance(each, float)):
                self.summands.append(CutSummand(own_line(), number, root, others, frozenset(), tuple(self._reads)))


def _is_summand(kind: str, part: Tensor, result: Tensor) -> bool:
    """Of losses, or of losses per sample."""
    if kind in _JOINING:
        return part.numel() == 1
    return kind in _ADDING and result.ndim <= 1 and part.numel() == result.numel()


def _tensors(structure: Any) -> list[Tensor]:
    return [tensor for _, tensor in leaves(structure)]
