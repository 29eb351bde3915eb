"""The summands of code that named what it liked: what each is called, and which of them are one loss, step by step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from headwise.attribution.apart.naming.made import kept_value, made_by
from headwise.attribution.apart.naming.places import Place, place_of
from headwise.attribution.apart.sums.dissect import Direct
from headwise.attribution.apart.sums.heads import short
from headwise.attribution.apart.words import numbered, says_total, without_number
from headwise.attribution.foreign.calls import OutputEdges
from headwise.graph import Edge, ordered

_NO_LOSS = ("addmm", "mm", "bmm", "convolution", "linear", "sub", "add", "unknown")
"""Operations of which a loss may end, but that say nothing of what it is."""
_FEW = 16
"""Losses of one line that read one output, a task each perhaps, are told apart up to here."""


class Piece(NamedTuple):
    """A summand where it lies in the graph: the derivative of the number there, and its value, where that is known."""

    edge: Edge
    derivative: Tensor
    value: Tensor | None


@dataclass(frozen=True)
class NamedSummand:
    """A loss, of one piece; or of several, one a step of a sequence, say, that one line made for one output."""

    name: str
    pieces: tuple[Piece, ...]


def summands(
    direct: Sequence[Direct],
    rest: Mapping[Edge, Tensor],
    outputs: Callable[[Sequence[Edge]], OutputEdges],
    taken: Collection[str] = (),
) -> list[NamedSummand]:
    """Puts the pieces of a number together.

    Args:
        direct: Those that have names.
        rest: The others, each edge with the derivative of the number with respect to it.
        outputs: Tells which outputs a loss reads.
        taken: Names that are not given again, of losses that are no direct ones.

    Returns:
        The summands, each name once.
    """
    found: dict[Hashable, list[_NamedPiece]] = {}

    def read(losses: Sequence[Edge]) -> OutputEdges:
        return _nearest(losses, outputs(losses))

    for each in direct:
        piece = Piece(each.loss.edge, each.derivative, each.loss.tensor.detach())
        _put(found, _named(each.loss.name, piece, read))
    for edge, derivative in rest.items():
        place = place_of(edge[0])
        value = place.value if place is not None else kept_value(edge)
        _put(found, _unnamed(Piece(edge, derivative, value if derivative.numel() == 1 else None), place, read))
    groups = [part for same in found.values() for part in _parted(same)]
    names = _distinct(groups, {*taken} - {each.loss.name for each in direct})
    return [NamedSummand(name, tuple(each.piece for each in same)) for name, same in zip(names, groups, strict=True)]


def _nearest(losses: Sequence[Edge], places: OutputEdges) -> OutputEdges:
    """Of outputs those that the losses read themselves: who knows all outputs may not know which."""
    ends = set(places.values())

    def below(edge: Edge) -> list[Edge]:
        return [] if edge in ends else [(child, port) for child, port in edge[0].next_functions if child is not None]

    read: list[Edge] = ordered(losses, below)
    inside = ends.intersection(read)
    return {path: edge for path, edge in places.items() if edge in inside}


def _parted(same: list[_NamedPiece]) -> list[list[_NamedPiece]]:
    """Steps of a sequence read an output each, of one module that was called again and again."""
    read = [edge for each in same for edge in each.reads]
    if len(same) > _FEW or len(read) == len(set(read)):
        return [same]
    return [[each] for each in same]


class _NamedPiece(NamedTuple):
    """A piece, its name by itself, what it is called together with others, which those are, and what it reads."""

    piece: Piece
    name: str
    together: str
    text: str
    key: Hashable
    reads: Collection[Edge] = ()


def _put(found: dict[Hashable, list[_NamedPiece]], one: _NamedPiece) -> None:
    found.setdefault(one.key, []).append(one)


def _named(name: str, piece: Piece, outputs: Callable[[Sequence[Edge]], OutputEdges]) -> _NamedPiece:
    place = place_of(piece.edge[0])
    if place is None or piece.derivative.numel() != 1:
        return _NamedPiece(piece, name, name, "", piece.edge)
    read, base = outputs([piece.edge]), without_number(name)
    heads = _heads(read)
    if place.name is None and place.made == base:
        own = _of(base, heads)
        return _NamedPiece(piece, own, own, place.text, (place.line, place.text, own), read.values())
    return _NamedPiece(piece, name, base, "", (place.line, base, heads), read.values())


def _unnamed(piece: Piece, place: Place | None, outputs: Callable[[Sequence[Edge]], OutputEdges]) -> _NamedPiece:
    read, made = outputs([piece.edge]), made_by(piece.edge[0])
    heads = _heads(read)
    if place is None:
        own = _of(made, heads)
        return _NamedPiece(piece, own, own, "", piece.edge)
    if place.name is not None and not says_total(place.name):
        return _NamedPiece(piece, place.name, place.name, "", (place.line, place.name, heads), read.values())
    name = place.text if place.text and made in _NO_LOSS else _of(place.made or made, heads)
    return _NamedPiece(piece, name, name, place.text, (place.line, place.text, name, heads), read.values())


def _heads(read: OutputEdges) -> tuple[str, ...]:
    return tuple(dict.fromkeys(without_number(short(path)) for path in read))


def _of(made: str, heads: Sequence[str]) -> str:
    return f"{made}({', '.join(heads)})" if heads else made


def _distinct(groups: Sequence[Sequence[_NamedPiece]], taken: set[str]) -> list[str]:
    """One name a summand: where two would have the same, the expressions that made them tell them apart, or numbers."""
    names = [same[0].together if len(same) > 1 else same[0].name for same in groups]
    often, texts = Counter(names), Counter(same[0].text for same in groups)
    found: list[str] = []
    for name, same in zip(names, groups, strict=True):
        text = same[0].text
        plain = text if often[name] > 1 and text and texts[text] == 1 else name
        number = 1
        while numbered(plain, number) in taken:
            number += 1
        found.append(numbered(plain, number))
        taken.add(found[-1])
    return found
