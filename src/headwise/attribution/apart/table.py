"""A total taken apart, as a frozen table that prints."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from headwise.tabular import Tabular


@dataclass(frozen=True)
class Summand:
    """One thing that a total adds.

    Args:
        name: What the code calls it; where it has no name, what computed it.
        factor: What it is multiplied by on its way to the total; of losses of single samples, what their mean is
            multiplied by, on average.
        value: Its value; None where nobody holds it.
        weighted: What it adds to the total, ``factor * value``; None where that is not known.
        named: Whether the code names it.
        heads: The outputs, or modules, whose outputs it reads.
        reach: The parameters that it reaches, by name.
    """

    name: str
    factor: float
    value: float | None
    weighted: float | None
    named: bool = True
    heads: tuple[str, ...] = ()
    reach: tuple[str, ...] = ()


@dataclass(frozen=True, repr=False)
class TakenApart(Mapping[str, Summand], Tabular):
    """The summands of a number, by name; `print` shows the table.

    Args:
        total: The number.
        summands: What it adds.
        rest: What the summands whose value is known do not explain: constants and losses without a graph, if every
            value is known, else also the summands whose value is not.
        groups: Losses with a name that are sums of others, with the names of those.
        whole: Names of the total itself.
        absent: Losses with a name that the total does not add.
        unknown: What could not be told, in sentences.
        rounding: The part of the numbers that rounding may leave over, by the dtype of the total: large in half
            precision.
    """

    total: float
    summands: dict[str, Summand]
    rest: float
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)
    whole: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    rounding: float = 0.0

    def __getitem__(self, name: str) -> Summand:
        """One summand.

        Raises:
            KeyError: There is none of this name; the message lists the names.
        """
        try:
            return self.summands[name]
        except KeyError:
            raise KeyError(f"no summand {name!r} in the total. Its summands are: {', '.join(self)}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.summands)

    def __len__(self) -> int:
        return len(self.summands)

    @property
    def factors(self) -> dict[str, float]:
        """The factor of each summand."""
        return {name: each.factor for name, each in self.summands.items()}

    @property
    def complete(self) -> bool:
        """Whether every value is known, and the summands add up to the total."""
        known = all(each.weighted is not None for each in self.summands.values())
        return known and not self.has_rest

    @property
    def has_rest(self) -> bool:
        """Whether the rest is more than the rounding of float32."""
        return not abs(self.rest) <= 1e-5 * self._scale

    @property
    def _scale(self) -> float:
        known = math.fsum(abs(each.weighted) for each in self.summands.values() if each.weighted is not None)
        return max(abs(self.total), known)

    def table_rows(self) -> list[dict[str, Any]]:
        """A row a summand, and one for a rest that is more than rounding."""
        rows = [
            {
                "summand": each.name,
                "factor": each.factor,
                "value": each.value,
                "weighted": each.weighted,
                "share": each.weighted / self.total if each.weighted is not None and self.total else None,
                "heads": ", ".join(each.heads),
                "parameters": len(each.reach),
            }
            for each in self.summands.values()
        ]
        rest = {"summand": "(rest)", "weighted": self.rest, "share": self.rest / self.total if self.total else None}
        return [*rows, rest] if self.has_rest else rows

    def table_title(self) -> str:
        """The number."""
        return f"total {self.total:.5g}"

    def __str__(self) -> str:
        """The table, in lines of at most 120 columns where names are short."""
        width = min(max(8, *(len(name) for name in self), 8), 32)
        head = f"{'summand':<{width}} {'factor':>10} {'value':>11} {'in total':>11} {'share':>7}  heads, parameters"
        lines = [self.table_title(), head]
        lines += [self._row(each, width) for each in self.summands.values()]
        if self.has_rest:
            lines.append(
                f"{'(rest)':<{width}} {'':>10} {'':>11} {self.rest:>11.5g} {self._share(self.rest)}  {self._reason}"
            )
        lines += [f"{name} is the sum of {', '.join(parts)}" for name, parts in self.groups.items()]
        if self.absent:
            lines.append(f"not in the total: {', '.join(self.absent)}")
        return "\n".join([*lines, *self.unknown])

    __repr__ = __str__

    @property
    def _known(self) -> bool:
        return all(each.weighted is not None for each in self.summands.values())

    @property
    def _reason(self) -> str:
        if not self._known:
            return "no gradient, or not known"
        if abs(self.rest) <= self.rounding * self._scale:
            return "rounding of the total's dtype, or no gradient"
        return "no gradient: a constant, or a detached loss"

    def _row(self, each: Summand, width: int) -> str:
        value = "" if each.value is None else f"{each.value:.5g}"
        weighted = "unknown" if each.weighted is None else f"{each.weighted:.5g}"
        share = self._share(each.weighted)
        reach = f"{len(each.reach)} parameters" if each.reach else ""
        where = "; ".join(filter(None, [", ".join(each.heads), reach]))
        return f"{each.name:<{width}} {each.factor:>10.4g} {value:>11} {weighted:>11} {share}  {where}".rstrip()

    def _share(self, weighted: float | None) -> str:
        return f"{'':>7}" if weighted is None or not self.total else f"{weighted / self.total:>7.1%}"
