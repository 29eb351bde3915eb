"""How often a scalar adds a loss: paths through what adds, scales by a number, passes on, pools or stacks.

A derivative cannot tell a loss that is added twice from one that is multiplied by 2; paths can. No formula is run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache

from torch import Tensor
from torch.autograd.graph import Node

from headwise.attribution.apart.sums.linear import STACKING, Linearity, size_of
from headwise.attribution.apart.sums.walk import in_order
from headwise.graph import Edge, ordered, saved, signed

_ADDING = {"AddBackward0", "SubBackward0", "RsubBackward0", "RsubBackward1", "NegBackward0", "LerpBackward0"}
PASSING = (
    "Clone", "ToCopy", "Squeeze", "Unsqueeze", "View", "Reshape", "Alias", "UnsafeView", "Expand", "Where", "NanToNum",
    "Permute", "Transpose", "TBackward",
)  # fmt: skip
_PICKING = {"SelectBackward0", "UnbindBackward0"}
_POOLING = ("SumBackward", "NansumBackward", "MeanBackward")
_SCALING = {"MulBackward0", "DivBackward0"}
_WEIGHING = ("Dot", "Vdot", "Mv", "Mm", "Bmm", "Addmm", "Addcmul", "Addcdiv")


def added(edge: Edge | None) -> Mapping[Edge, int]:
    """By how many paths what stands at an edge adds each edge below it, its own among them; None: no graph."""
    return _walk(edge, deep=True)[0]


def summands(edge: Edge | None, is_whole: Callable[[Edge], bool] = lambda edge: False) -> Mapping[Edge, int]:
    """The edges at which the walk through scalars ends, what is no sum or is whole, and how often each is added."""
    return _walk(edge, deep=False, is_whole=is_whole)[1]


def held(edge: Edge | None, chains: Mapping[str, Sequence[Edge]]) -> list[str]:
    """The losses, told by their `links`, that what stands at an edge adds up without being a multiple of them."""
    below, own = added(edge), links(edge)
    return [name for name, chain in chains.items() if any(each in below and each not in own for each in chain)]


def linear_in(root: Edge | None) -> frozenset[Edge]:
    """The edges, of tensors of any size, in which a total is linear: also losses of samples that weights multiply."""
    if root is None:
        return frozenset()
    linear = Linearity(wide=True)

    def below(node: Node) -> list[Edge]:
        edges = [node.next_functions[number] for number in linear.through(node)]
        return [(child, port) for child, port in edges if child is not None]

    return frozenset({root}.union(*(below(node) for node in in_order([root], below))))


def most_added(chain: Sequence[Edge], counts: Mapping[Edge, int]) -> Edge | None:
    """Where a loss, told by its `links`, stands in a total: at the link that most paths lead to.

    What is added per sample inside of a sum, and averaged beside it, is one loss.
    """
    return max((edge for edge in chain if edge in counts), key=lambda edge: counts[edge], default=None)


def _walk(
    root: Edge | None, deep: bool, is_whole: Callable[[Edge], bool] = lambda edge: False
) -> tuple[dict[Edge, int], dict[Edge, int]]:
    if root is None:
        return {}, {}
    counts, ends = {root: 1}, {}

    @cache
    def parts(edge: Edge) -> tuple[Edge, ...]:
        return () if is_whole(edge) else parts_of(edge, deep)

    for edge in ordered([root], parts):
        if not parts(edge):
            ends[edge] = counts[edge]
        for part in parts(edge):
            counts[part] = counts.get(part, 0) + counts[edge]
    return counts, ends


def parts_of(edge: Edge, deep: bool) -> tuple[Edge, ...]:
    """What an edge adds, scales or passes on; nothing where it does something else.

    Deep: also inside of what is not a scalar (losses per sample), and through a product of two things that are trained.
    """
    node = edge[0]
    name = node.name()
    live = tuple((child, nr) for child, nr in node.next_functions if child is not None)
    if not live:
        return ()
    if name in _PICKING:
        return _picked(edge)
    if name.startswith(_WEIGHING):
        return _weighed(node)
    if not (deep or all(size_of(each) == 1 for each in live) or _is_stack(node)):
        return ()
    if name == "WhereBackward0":
        return _taken(node, live)
    if name in (*_ADDING, *STACKING) or name.startswith((*PASSING, *_POOLING)):
        return live
    if name not in _SCALING or (len(live) == 1 and name == "DivBackward0" and node.next_functions[1][0] is not None):
        return ()
    if len(live) == 2 and name == "MulBackward0" and size_of((node, 0)) == 1:
        return live if deep else ()
    if len(live) == 2:
        return _weighed(node)
    return live if size_of((node, 0)) == 1 or _is_stack(node) or _scales_alike(node) else ()


def _weighed(node: Node) -> tuple[Edge, ...]:
    """Of a stack of losses beside weights that may be learned: the losses."""
    return tuple(node.next_functions[number] for number in Linearity(wide=False).through(node))  # type: ignore[misc]


def _taken(node: Node, live: tuple[Edge, ...]) -> tuple[Edge, ...]:
    """The branch that one condition chose; both where it chose element by element, or is not to be had."""
    try:
        condition = saved(node, "_saved_condition")
    except (AttributeError, RuntimeError):
        return live
    if condition.numel() != 1:
        return live
    child, port = node.next_functions[0 if bool(condition) else 1]
    return () if child is None else ((child, port),)


def _picked(edge: Edge) -> tuple[Edge, ...]:
    """The loss that was taken out of a stack of losses by its number."""
    node, number = edge
    stack = node.next_functions[0][0]
    for _ in range(4):
        if stack is None or stack.name() in STACKING or stack.name() not in _SCALING:
            break
        live = [child for child, _ in stack.next_functions if child is not None]
        stack = live[0] if len(live) == 1 else None
    if stack is None or stack.name() not in STACKING or size_of(edge) != 1:
        return ()
    if node.name() == "SelectBackward0":
        number = signed(node, "_saved_index")
    parts = stack.next_functions
    if size_of((stack, 0)) != len(parts) or not -len(parts) <= number < len(parts):
        return ()
    child, port = parts[number]
    return () if child is None else ((child, port),)


def _is_stack(node: Node) -> bool:
    """Whether the node works on scalars that were stacked into a vector."""
    for _ in range(4):
        live = [child for child, _ in node.next_functions if child is not None]
        stacked = [child for child in live if child.name() in STACKING]
        if stacked:
            return all(size_of((child, port)) == 1 for child, port in stacked[0].next_functions if child is not None)
        if len(live) != 1 or not (live[0].name() in _SCALING or live[0].name().startswith(PASSING)):
            return False
        node = live[0]
    return False


def _scales_alike(node: Node) -> bool:
    """Whether all elements are scaled by one number, as far as that is known without running anything again."""
    known = factors_of(node)
    return bool(known) and all(value.numel() == 1 for value in known)


def factors_of(node: Node) -> list[Tensor]:
    """What a product or quotient keeps of its factors, but for what a hook holds."""
    found = []
    for name in ("_saved_other", "_saved_self"):
        try:
            value = saved(node, name)
        except (AttributeError, RuntimeError):
            continue
        found += [value] if isinstance(value, Tensor) else []
    return found


def links(edge: Edge | None) -> list[Edge]:
    """The edges from a loss's own down to which it is still a multiple of one thing (and a constant)."""
    found = [] if edge is None else [edge]
    while found and len(parts := parts_of(found[-1], deep=True)) == 1:
        found.append(parts[0])
    return found
