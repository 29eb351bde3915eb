"""The tables of an audit: medians over the batches."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from headwise.attribution.audit.measures.rows import Rows

NO_LOSS = "in no loss"
_FAINT = 1e-3


@dataclass(frozen=True)
class Stands:
    """How a loss stands in the total.

    Attributes:
        value: Its value, not weighted.
        factor: Its factor in the total; None where it is not in it, or where it differs between samples.
        share: Factor times value, over the total.
        words: What is to be said besides: the losses that it is the sum of, or what injects its gradient.
    """

    value: float
    factor: float | None
    share: float | None
    words: str = ""

    def cells(self) -> list[str]:
        """The row as text."""
        share = "-" if self.share is None else f"{self.share:.1%}"
        return [f"{self.value:.4g}", "-" if self.factor is None else f"{self.factor:.4g}", share, self.words]

    def as_dict(self) -> dict[str, object]:
        """The row for JSON."""
        kept = {"value": self.value, "factor": self.factor, "share": self.share}
        return {k: v if v is not None and math.isfinite(v) else None for k, v in kept.items()} | {"words": self.words}


@dataclass(frozen=True)
class SummandRow:
    """A summand that is no loss by name: the line that makes it, its factor, and its gradient's norm."""

    line: str
    factor: float | None
    norm: float

    def cells(self) -> list[str]:
        """The row as text, but for the line."""
        return ["-" if self.factor is None else f"{self.factor:.4g}", f"{self.norm:.4g}"]

    def as_dict(self) -> dict[str, object]:
        """The row for JSON."""
        return {"line": self.line, "factor": self.factor, "gradient_norm": self.norm}


def standing_rows(batches: Sequence[Rows], losses: Iterable[str]) -> dict[str, Stands]:
    """Every loss's value, factor and share.

    Args:
        batches: The batches' numbers.
        losses: The losses.

    Returns:
        Name to row.
    """
    found = {}
    for name in losses:
        held = [batch for batch in batches if name in batch.names]
        factors = [
            factor * batch.weights.get(name, 1.0) for batch in held if (factor := batch.factor(name)) is not None
        ]
        shares = [
            factor * batch.values[name] / batch.total
            for batch in held
            if batch.total and (factor := batch.factor(name)) is not None
        ]
        value, factor = middle([batch.before_weight[name] for batch in held]) or 0.0, middle(factors)
        inside = any(batch.is_in(name) for batch in held)
        found[name] = Stands(value, factor if inside else 0.0, middle(shares), _words(held, name, inside))
    return found


def _words(held: Sequence[Rows], name: str, inside: bool) -> str:
    standings = [batch.standings[name] for batch in held if name in batch.standings]
    if not standings:
        return "no graph"
    parts = next((each.parts for each in standings if each.parts), ())
    injected = next((each.injected for each in standings if each.injected), ())
    words = [f"= {', '.join(parts)}"] if parts else []
    words += [f"injected by {', '.join(dict.fromkeys(injected))}"] if injected else []
    words += ["differs between samples"] if any(not each.is_even for each in standings) else []
    return "; ".join(words) if inside else "; ".join([*words, "not in the total"])


def summand_rows(batches: Sequence[Rows]) -> tuple[SummandRow, ...]:
    """What the totals add that is no loss by name, where it can be told by its line.

    Args:
        batches: The batches' numbers.

    Returns:
        One row a line.
    """
    several = any(len(batch.summands) > 1 for batch in batches)
    lines = dict.fromkeys(each.line for batch in batches for each in batch.summands if each.is_free and each.line)
    found = []
    for line in lines if several else ():
        each = [added for batch in batches for added in batch.summands if added.line == line]
        factors = [added.factor for added in each if added.factor is not None]
        found.append(SummandRow(line, middle(factors), middle([added.norm for added in each]) or 0.0))
    return tuple(found)


def norms_of(batches: Sequence[Rows], losses: Iterable[str], sites: Sequence[str]) -> dict[str, dict[str, float]]:
    """Every loss's gradient norm at sites, not weighted.

    Args:
        batches: The batches' numbers.
        losses: The losses.
        sites: Outputs, or groups of parameters.

    Returns:
        Loss to site to norm, where there is any.
    """
    table: dict[str, dict[str, float]] = {}
    for name in losses:
        for site in sites:
            held = [batch for batch in batches if name in batch.names and site in batch.gram]
            found = [batch.norm(name, [site]) / abs(batch.weights.get(name, 1.0) or 1.0) for batch in held]
            if found and max(found) > 0:
                table.setdefault(name, {})[site] = statistics.median(found)
    return table


def in_no_loss(batches: Sequence[Rows], outputs: Sequence[str]) -> dict[str, dict[str, float]]:
    """What the total sends to the outputs besides its losses: penalties, learned weights.

    Args:
        batches: The batches' numbers.
        outputs: The outputs.

    Returns:
        One row, or none where the losses explain the total.
    """
    row = {}
    for path in outputs:
        found = [left for batch in batches if path in batch.gram and (left := _left(batch, path)) is not None]
        if found and max(found) > 0:
            row[path] = statistics.median(found)
    return {NO_LOSS: row} if row else {}


def _left(batch: Rows, path: str) -> float | None:
    if batch.total is None or any(
        not each.is_even or (each.is_in and each.own is None) for each in batch.standings.values()
    ):
        return None
    gram = batch.gram[path]
    mix = torch.tensor([-batch.own(name) for name in batch.names] + [1.0], dtype=torch.float64)
    left = math.sqrt(max(float(mix @ gram @ mix), 0.0))
    scale = math.sqrt(float(gram[-1, -1]))
    return left if left > _FAINT * scale else 0.0


def middle(values: Sequence[float]) -> float | None:
    """The median of what is finite, or None."""
    known = [value for value in values if math.isfinite(value)]
    return statistics.median(known) if known else None
