"""Which samples make a term: of each, the ones with the largest gradient and those with the largest value."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import torch

from headwise.criterion.pooling import is_distributed
from headwise.tabular import Tabular

By: TypeAlias = Literal["gradient", "value"]
RANKINGS: tuple[By, ...] = ("gradient", "value")


@dataclass(frozen=True)
class Sample:
    """One sample, as a term saw it when it came last.

    Args:
        id: What the batch called it; without ids (call, place in the batch).
        grad_norm: Norm of d(weight * value_i) / d(what the term reads of this sample), the loop's factor divided out.
            ``value_i`` is N times the sample's part of the term's value, so that batches of any size compare; with
            totaled denominators it is the part itself.
        value: ``value_i``, before the weight; None where it was not measured in that call.
        step: The ledger's step in which it came.
    """

    id: Any
    grad_norm: float
    value: float | None
    step: int


@dataclass(frozen=True)
class TermSamples(Tabular):
    """The samples with the largest gradient, and those with the largest value, of one term.

    Args:
        term: The term.
        by_gradient: Largest gradient norm first; a gradient that is not finite before all.
        by_value: Largest value first, among the calls in which values were measured.
        note: Why samples or their values are not known; empty if they are.
    """

    term: str
    by_gradient: tuple[Sample, ...]
    by_value: tuple[Sample, ...]
    note: str = ""

    def top(self, num: int = 5, by: By = "gradient") -> tuple[Sample, ...]:
        """The first of a ranking.

        Args:
            num: How many, at most.
            by: "gradient" or "value".

        Returns:
            The samples.

        Raises:
            ValueError: There is no such ranking.
        """
        if by not in RANKINGS:
            raise ValueError(f"samples are ranked by 'gradient' or by 'value'; found {by!r}")
        return (self.by_gradient if by == "gradient" else self.by_value)[:num]

    def as_dict(self, num: int = 5) -> dict[str, Any]:
        """The first of both rankings as nested plain data, for a log or a page.

        Args:
            num: How many of each, at most.

        Returns:
            ``{"gradient": [...], "value": [...], "note": ...}`` with a dict a sample; an id that is neither text nor a
            whole number becomes text.
        """
        found: dict[str, Any] = {by: [_plain(each) for each in self.top(num, by)] for by in RANKINGS}
        return {**found, "note": self.note} if self.note else found

    def table_rows(self) -> list[dict[str, Any]]:
        """A row a place in each ranking."""
        return [
            {"by": by, "place": place, **_plain(each)}
            for by, ranking in zip(RANKINGS, (self.by_gradient, self.by_value), strict=True)
            for place, each in enumerate(ranking, start=1)
        ]

    def table_title(self) -> str:
        """Whose they are, and why there are none."""
        return f"samples of {self.term!r}{': ' + self.note if self.note else ''}"

    def __str__(self) -> str:
        rows = [self.table_title()]
        for by in RANKINGS:
            for place, each in enumerate(self.top(5, by), start=1):
                value = "not measured" if each.value is None else f"{each.value:.5g}"
                rows.append(f"  by {by:<8} {place}. {each.id!s:<28} grad norm {each.grad_norm:<10.4g} value {value}")
        return "\n".join(rows)


def _plain(sample: Sample) -> dict[str, Any]:
    found = asdict(sample) | {"id": sample.id if isinstance(sample.id, int | str) else str(sample.id)}
    return {key: each for key, each in found.items() if each is not None}


def over_ranks(found: dict[str, TermSamples], keep: int, group: Any) -> dict[str, TermSamples]:
    """The rankings over all ranks, which all must ask for.

    Args:
        found: This rank's.
        keep: How many of each.
        group: The process group; None means the default one.

    Returns:
        The same on every rank; what was given where no process group was made.
    """
    if not is_distributed():
        return found
    held: list[Any] = [None] * torch.distributed.get_world_size(group)
    torch.distributed.all_gather_object(held, found, group=group)
    merged = {}
    for name in found:
        each = [of_rank[name] for of_rank in held]
        norms = sorted((s for one in each for s in one.by_gradient), key=lambda s: -_size(s.grad_norm))
        values = sorted((s for one in each for s in one.by_value), key=lambda s: -_size(s.value))
        notes = [one.note for one in each if one.note]
        merged[name] = TermSamples(name, tuple(norms[:keep]), tuple(values[:keep]), notes[0] if notes else "")
    return merged


def _size(number: float | None) -> float:
    return -math.inf if number is None else math.inf if math.isnan(number) else number
