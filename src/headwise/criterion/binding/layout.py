"""The plan of one call: which slice of which output goes to which term, made once per structure, without data."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from itertools import pairwise


@dataclass(frozen=True)
class Edge:
    """One reading of an output by a term (at one level).

    Args:
        term: Index of the term.
        root: Index of the output tensor.
        dim: Dimension that is sliced.
        start: First channel read.
        stop: One past the last channel read.
        keep: Whether the dimension stays (False: one channel, dropped).
        whole: Whether all channels are read.
        path: The concrete path, channels included.
        level: Number of the level that it belongs to, among the term's; -1 for a term without levels.
        level_name: The path up to the level, such as ``stacks[0]``.
    """

    term: int
    root: int
    dim: int
    start: int
    stop: int
    keep: bool
    whole: bool
    path: str
    level: int = -1
    level_name: str = ""

    @property
    def is_plain(self) -> bool:
        """Whether it is the output as it stands."""
        return self.whole and self.keep


@dataclass(frozen=True)
class Group:
    """The readings of one slice of one output, whose gradients are summed first."""

    dim: int
    start: int
    stop: int
    edges: tuple[int, ...]


@dataclass(frozen=True)
class Site:
    """A place at which gradients are compared: channels of one output that the same readings read.

    Args:
        root: Index of the output.
        dim: Dimension of the channels; None: the whole output, of which readings slice several dimensions.
        start: First channel.
        stop: One past the last.
        edges: The readings that cover it.
    """

    root: int
    dim: int | None
    start: int
    stop: int
    edges: tuple[int, ...]


Route = tuple[int, int, int | None, int | None, int | None]


@dataclass(frozen=True)
class Layout:
    """All readings of one criterion call.

    Args:
        terms: Names of the terms.
        roots: Concrete paths of the output tensors.
        edges: The readings, in the terms' order.
        groups: Per output, its readings grouped by slice, in the order of the channels.
        tiles: Per output, whether the slices read cover it without overlap.
        sites: Where gradients are booked: every reading is covered by those that name it.
        routes: (view, output, dim, start, stop) of each reading, for whoever walks the graph; None where all is read.
        levels: Per term, the names of its levels; none for a term without.
    """

    terms: tuple[str, ...]
    roots: tuple[str, ...]
    edges: tuple[Edge, ...]
    groups: tuple[tuple[Group, ...], ...]
    tiles: tuple[bool, ...]
    sites: tuple[Site, ...]
    routes: tuple[Route, ...]
    levels: tuple[tuple[str, ...], ...]


def make_layout(
    terms: tuple[str, ...],
    roots: tuple[str, ...],
    edges: tuple[Edge, ...],
    shapes: tuple[tuple[int, ...], ...],
    levels: tuple[tuple[str, ...], ...] | None = None,
) -> Layout:
    """Works out what follows from the readings.

    Args:
        terms: Names of the terms.
        roots: Concrete paths of the output tensors.
        edges: The readings.
        shapes: Shapes of the output tensors; (1,) for a 0-d one.
        levels: Per term, the names of its levels; by default those of the edges.

    Returns:
        The layout.
    """
    groups = tuple(_groups(root, edges) for root in range(len(roots)))
    tiles = tuple(_tiles(each, shape) for each, shape in zip(groups, shapes, strict=True))
    sites = tuple(site for root in range(len(roots)) for site in _sites(root, edges))
    routes = tuple(
        (number, edge.root, None, None, None) if edge.whole else (number, edge.root, edge.dim, edge.start, edge.stop)
        for number, edge in enumerate(edges)
    )
    levels = _levels(len(terms), edges) if levels is None else levels
    return Layout(terms, roots, edges, groups, tiles, sites, routes, levels)


@dataclass(frozen=True)
class Served:
    """The readings that one autograd node serves.

    Args:
        layout: Those readings, their outputs counted from 0.
        roots: Which outputs of the whole call they are.
        edges: Which readings of the whole call they are.
        first_site: Which site of the whole call is the first of these.
        closed: Which of its readings only a loss of this library sees.
        readers: The terms that read here.
        is_alone: Whether one loss of this library reads one output, whole.
    """

    layout: Layout
    roots: tuple[int, ...]
    edges: tuple[int, ...]
    first_site: int
    closed: tuple[int, ...]
    readers: frozenset[int]
    is_alone: bool


def _part(
    layout: Layout, roots: tuple[int, ...], edges: tuple[int, ...], first_site: int, closed: Collection[int]
) -> Served:
    unseen = tuple(number for number, edge in enumerate(layout.edges) if edge.term in closed)
    alone = len(edges) == 1 and unseen == (0,) and layout.edges[0].is_plain
    return Served(layout, roots, edges, first_site, unseen, frozenset(edge.term for edge in layout.edges), alone)


def whole(layout: Layout, closed: Collection[int]) -> tuple[Served, ...]:
    """One node for all outputs: it can judge a term by its gradients at all of them.

    Args:
        layout: The call's readings.
        closed: The terms whose losses show what they read to nobody.

    Returns:
        The one part.
    """
    return (_part(layout, tuple(range(len(layout.roots))), tuple(range(len(layout.edges))), 0, closed),)


def per_output(layout: Layout, shapes: tuple[tuple[int, ...], ...], closed: Collection[int]) -> tuple[Served, ...]:
    """One node an output: terms on different outputs stay apart in the graph.

    Args:
        layout: The call's readings.
        shapes: Shapes of the outputs.
        closed: The terms whose losses show what they read to nobody.

    Returns:
        The parts.
    """
    parts, num_sites = [], 0
    for root, name in enumerate(layout.roots):
        numbers = tuple([number for number, edge in enumerate(layout.edges) if edge.root == root])
        edges = tuple([replace(layout.edges[number], root=0) for number in numbers])
        part = make_layout(layout.terms, (name,), edges, (shapes[root],), layout.levels)
        parts.append(_part(part, (root,), numbers, num_sites, closed))
        num_sites += len(part.sites)
    return tuple(parts)


def _groups(root: int, edges: tuple[Edge, ...]) -> tuple[Group, ...]:
    slices: dict[int, tuple[int, int, int, list[int]]] = {}
    for number, edge in enumerate(edges):
        if edge.root == root:
            # In the order of (dim, start, stop); one number, since Dynamo of torch 2.11 sorts no tuples.
            place = edge.dim << 80 | edge.start << 40 | edge.stop
            slices.setdefault(place, (edge.dim, edge.start, edge.stop, []))[3].append(number)
    found = [slices[place] for place in sorted(slices)]
    return tuple([Group(dim, start, stop, tuple(numbers)) for dim, start, stop, numbers in found])


def _tiles(groups: tuple[Group, ...], shape: tuple[int, ...]) -> bool:
    end = 0
    for group in groups:
        if group.start != end or group.dim != groups[0].dim:
            return False
        end = group.stop
    return end == shape[groups[0].dim]


def _sites(root: int, edges: tuple[Edge, ...]) -> Iterable[Site]:
    """Cuts an output at the ends of its readings."""
    here = [(number, edge) for number, edge in enumerate(edges) if edge.root == root]
    dims = {edge.dim for _, edge in here}
    if len(dims) != 1:
        yield Site(root, None, 0, 0, tuple([number for number, _ in here]))
        return
    (dim,) = dims
    ends = sorted({end for _, edge in here for end in (edge.start, edge.stop)})
    for start, stop in pairwise(ends):
        readers = tuple([number for number, edge in here if edge.start <= start and stop <= edge.stop])
        if readers:
            yield Site(root, dim, start, stop, readers)


def _levels(num_terms: int, edges: tuple[Edge, ...]) -> tuple[tuple[str, ...], ...]:
    names: list[dict[int, str]] = [{} for _ in range(num_terms)]
    for edge in edges:
        if edge.level >= 0:
            names[edge.term].setdefault(edge.level, edge.level_name)
    return tuple([tuple([each[level] for level in sorted(each)]) for each in names])
