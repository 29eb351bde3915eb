"""The columns of a row of the books: one description writes and reads them.

A row holds sums that add up over the calls, micro-batches and ranks of a step; `fold` makes books of them.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

from headwise.attribution.ledger.passes.injected import BOOKED
from headwise.criterion.binding.layout import Layout
from headwise.criterion.junctions.recording import Counted
from headwise.criterion.sums.vectors import vector


@dataclass(frozen=True)
class BookedReading:
    """One reading, as the books know it: sizes are no part of it.

    Args:
        term: Number of the term.
        path: The concrete path, channels included.
        level: Number of its level; -1 without levels.
        num_channels: How many channels are booked one by one; 0 for none.
    """

    term: int
    path: str
    level: int
    num_channels: int


@dataclass(frozen=True)
class Feature:
    """A feature inside the network that several heads read."""

    name: str
    readers: tuple[str, ...]

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """The pairs of heads, in the order in which they are booked."""
        return tuple(combinations(self.readers, 2))


class Brief(NamedTuple):
    """What of a brief row is known on the host; see `Schema.expand`.

    Args:
        weights: The terms' weights, as declared.
        covered: (site, reading) of the squares; those of large gradients last.
        num_probed: How many gradients were large.
        compared: (site, reading, reading) of the products.
        counted: Per term how many divisors it has, and whether each is that of all of them.
        balanced: Whether the weights were balanced; then what they were multiplied by comes last.
    """

    weights: tuple[float, ...]
    covered: tuple[tuple[int, int], ...]
    num_probed: int
    compared: tuple[tuple[int, int, int], ...]
    counted: tuple[tuple[int, bool], ...]
    balanced: bool

    def sizes(self, schema: Schema) -> dict[str, int]:
        """What the columns of a brief row hold, in order, and how many there are of each."""
        num, large = len(schema.terms), self.num_probed
        return {
            "values": num,
            "divisors": sum(levels for levels, _ in self.counted),
            "common": 1,  # the factor at the total
            "number": 1,  # on which backward was called
            "levels": sum(map(len, schema.levels)),
            "small": len(self.covered) - large,  # squares of small gradients
            "large": large,
            "finite": large,
            "products": len(self.compared),
            "balance": num if self.balanced else 0,
        }


@dataclass(frozen=True)
class Schema:
    """What the columns of a row mean.

    What a criterion declares is known when it is called, and alike in all its calls: the core. What backward passes
    bring besides is known when they are over.

    Args:
        terms: Names of the terms.
        levels: Per term the names of its levels.
        roots: Paths of the outputs.
        readings: The readings.
        sites: Per site the number of its output, and the numbers of the readings that cover it.
        features: The features that are booked.
        booked: The losses that were booked in the middle of the network.
        aggregated: The rows of a Jacobian that was aggregated in place of a backward pass; none where there was none.
    """

    terms: tuple[str, ...]
    levels: tuple[tuple[str, ...], ...]
    roots: tuple[str, ...]
    readings: tuple[BookedReading, ...]
    sites: tuple[tuple[int, tuple[int, ...]], ...]
    features: tuple[Feature, ...]
    booked: tuple[str, ...] = ()
    aggregated: tuple[str, ...] = ()

    @classmethod
    def of(cls, layout: Layout, channels: Sequence[int], features: Sequence[Feature]) -> Schema:
        """The schema of the calls of one layout.

        Args:
            layout: Who reads what.
            channels: Per reading how many channels it has, if every channel's norm is booked; else nothing.
            features: The features that are booked.

        Returns:
            The schema.
        """
        readings = tuple(
            BookedReading(edge.term, edge.path, edge.level, num)
            for edge, num in zip(layout.edges, channels or (0,) * len(layout.edges), strict=True)
        )
        sites = tuple((site.root, site.edges) for site in layout.sites)
        return cls(layout.terms, layout.levels, layout.roots, readings, sites, tuple(features))

    @cached_property
    def _hash(self) -> int:
        core = (self.terms, self.levels, self.roots, self.readings, self.sites, self.features)
        return hash((*core, self.booked, self.aggregated))

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def core(self) -> Schema:
        """What the criterion declares alone."""
        return replace(self, booked=(), aggregated=()) if self.booked or self.aggregated else self

    @cached_property
    def _wider(self) -> dict[tuple[tuple[str, ...], tuple[str, ...]], Schema]:
        return {}

    def wider(self, booked: Iterable[str], aggregated: Iterable[str] = ()) -> Schema:
        """The same with what backward passes brought besides.

        Args:
            booked: See the class.
            aggregated: See the class.

        Returns:
            The schema; the same object each time.
        """
        key = tuple(booked), tuple(aggregated)
        if key == (self.booked, self.aggregated):
            return self
        core = self.core
        if key not in core._wider:
            core._wider[key] = replace(core, booked=key[0], aggregated=key[1])
        return core._wider[key]

    def joined(self, others: Iterable[Schema]) -> Schema:
        """The schema of rows of one core together.

        Args:
            others: Of the other rows.

        Returns:
            One with the columns of all.
        """
        every = (self, *others)
        booked = dict.fromkeys(name for each in every for name in each.booked)
        return self.core.wider(booked, next((each.aggregated for each in every if each.aggregated), ()))

    @cached_property
    def covered(self) -> tuple[tuple[int, int], ...]:
        """(site, reading), in the order of the columns ``squares`` and ``finite``."""
        return tuple((site, reading) for site, (_, readings) in enumerate(self.sites) for reading in readings)

    @cached_property
    def compared(self) -> tuple[tuple[int, int, int], ...]:
        """(site, reading, reading), in the order of the columns ``products`` and ``known``."""
        return tuple(
            (site, left, right)
            for site, (_, readings) in enumerate(self.sites)
            for left, right in combinations(readings, 2)
        )

    @cached_property
    def has_channels(self) -> bool:
        """Whether channels are booked one by one."""
        return any(each.num_channels for each in self.readings)

    @cached_property
    def sizes(self) -> Mapping[str, int]:
        """The fields of a row, in order, and how many columns each has."""
        num = len(self.terms)
        return {
            "weight": num,  # as declared
            "value": num,
            "count": num,  # what the sum was divided by
            "factor": num,  # what the loop multiplied the value by, the weight included
            "factored": num,  # factor * value
            "trained": num,  # how many calls a backward pass went through
            "common": 1,  # what the loop multiplied the total by
            "exact": 1,  # calls of which every pass began at the total, so that `common` is the loop's whole factor
            "calls": 1,
            "given": 1,  # the loop's factor as its caller gave it
            "givens": 1,  # passes for which it was
            "number": 1,  # what backward was called on, as far as it is this criterion's
            "numbers": 1,  # calls of which that is known
            "levels": sum(map(len, self.levels)),  # factor of the term * value of the level
            "level values": sum(map(len, self.levels)),
            "squares": len(self.covered),
            "finite": len(self.covered),  # 1 where a gradient is finite although its square is not
            "products": len(self.compared),
            "known": len(self.compared),
            "unbooked": len(self.roots),  # square of what arrived beyond what was sent
            "channels": sum(reading.num_channels for reading in self.readings),
            **{f"feature {each.name}": len(each.readers) + len(each.pairs) for each in self.features},
            **{f"booked {name}": len(BOOKED) for name in self.booked},
            **({"jacobian": (len(self.aggregated) + 1) ** 2 + len(self.aggregated) + 1} if self.aggregated else {}),
        }

    @cached_property
    def width(self) -> int:
        """Columns of a row."""
        return sum(self.sizes.values())

    def write(self, fields: Mapping[str, Tensor]) -> Tensor:
        """Puts the fields of a row together; a field that is not given is zeros.

        Args:
            fields: By name, (size,) each.

        Returns:
            (width,).
        """
        like = fields["value"]
        parts = []
        for name, size in self.sizes.items():
            if size:
                parts.append(fields[name] if name in fields else vector((0.0,) * size, like.dtype, like.device))
        return torch.cat(parts)

    def expand(self, columns: Tensor, brief: Brief) -> Tensor:
        """The row of the common case, of which the rest follows: one pass from the total, and numbers as weights.

        Args:
            columns: As `Brief.sizes` lists them, on the host. What follows is of no meaning.
            brief: What belongs to them.

        Returns:
            (width,).
        """
        sizes = brief.sizes(self)
        parts = torch.split(columns[: sum(sizes.values())], list(sizes.values()))
        known = dict(zip(sizes, parts, strict=True))
        value, common, levels, products = (known[name] for name in ("values", "common", "levels", "products"))
        weight, one = torch.tensor(brief.weights, dtype=columns.dtype), torch.ones(1, dtype=columns.dtype)
        weight = weight * known["balance"] if brief.balanced else weight
        factor = weight * common
        of_level = factor.repeat_interleave(torch.tensor([len(each) for each in self.levels]))
        fields = {"weight": weight, "value": value, "factor": factor, "factored": factor * value, "common": common}
        fields["count"] = Counted(known["divisors"], brief.counted).by_term()
        fields |= {
            "trained": torch.ones_like(value),
            "exact": one,
            "calls": one,
            "number": known["number"],
            "numbers": one,
        }
        fields |= {"levels": levels * of_level, "level values": levels}
        fields["squares"] = _placed(self.covered, brief.covered, torch.cat([known["small"], known["large"]]))
        fields["finite"] = _placed(self.covered, brief.covered[sizes["small"] :], known["finite"])
        fields["products"] = _placed(self.compared, brief.compared, products)
        fields["known"] = _placed(self.compared, brief.compared, torch.ones_like(products))
        return self.write(fields)

    def widen(self, row: Tensor, schema: Schema) -> Tensor:
        """A row of another schema of the same core, with all columns of this one.

        Args:
            row: The row.
            schema: What its columns mean; none that this schema does not have.

        Returns:
            (width,); zeros where the row has no column.
        """
        return row if schema == self else self.write(schema.read(row))

    def read(self, row: Tensor) -> dict[str, Tensor]:
        """Takes a row apart.

        Args:
            row: (width,).

        Returns:
            The fields by name, (size,) each.
        """
        return dict(zip(self.sizes, torch.split(row, list(self.sizes.values())), strict=True))


def num_channels(layout: Layout, roots: Sequence[Tensor]) -> tuple[int, ...]:
    """How many channels each reading of a call has; a layout serves calls whose whole outputs differ in them.

    Args:
        layout: Who reads what.
        roots: The outputs.

    Returns:
        One number a reading.
    """
    return tuple([
        roots[edge.root].shape[edge.dim] if edge.whole and roots[edge.root].dim() > 1 else edge.stop - edge.start
        for edge in layout.edges
    ])  # fmt: skip


def _placed(keys: Sequence[Hashable], known: Sequence[Hashable], numbers: Tensor) -> Tensor:
    """Numbers in the order of all keys; 0 for a key without."""
    found = numbers.new_zeros(len(keys))
    place = {key: number for number, key in enumerate(keys)}
    found[[place[key] for key in known]] = numbers
    return found
