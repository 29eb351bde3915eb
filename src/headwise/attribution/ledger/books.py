"""The books of one step, on the host: plain numbers, ready to print."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Literal

from headwise.attribution.gram import Gram
from headwise.attribution.text import clipped
from headwise.tabular import Tabular

_ROUNDING = 1e-5
"""Sums of float32 numbers agree to this part; what differs by more is another number."""

_LEAST = 1e-30

UNBOOKED = "unbooked"
"""The row of what belongs to no term. Where code that is not ours has a total, it is a row like those of its losses."""


@dataclass(frozen=True)
class OutputBooks:
    """What one term sent to one output.

    Args:
        grad_norm: Euclidean norm of d(weight * value) / d(what the term reads there), of this process's samples.
        finite: Whether every element of that gradient is finite.
        channels: The norm of each channel read, if the ledger books channels.
    """

    grad_norm: float
    finite: bool
    channels: tuple[float, ...] | None = None


@dataclass(frozen=True)
class LevelBooks:
    """One level of a term over levels: one stack of hourglasses, one level of a pyramid, one auxiliary output.

    Args:
        value: The level's part of the term's value, its level weight included: the levels' values add up to the term's.
        weighted: The term's weight times that.
        share: The level's share, as `TermBooks.share`.
        grad_norm: Norm over what the term reads at this level, of d(weight * value) / d(outputs).
        finite: Whether value and gradient are finite.
    """

    value: float
    weighted: float
    share: float
    grad_norm: float
    finite: bool


@dataclass(frozen=True)
class TermBooks:
    """One term in one step.

    Args:
        value: The term's value.
        weight: What its value was multiplied by on the way to the number that backward was called on, whoever did it;
            what all terms have in common is divided out.
        weighted: ``weight * value``.
        share: ``weighted`` over the sum of all terms' absolute ``weighted``: with positive terms the part of their
            total; a negative term has a negative share, and no share is above 1. 0 where the sum is 0.
        grad_norm: Norm over all that the term reads, of d(weighted) / d(outputs), as the loop weighted it; what all
            terms have in common (loss scale, accumulation) is divided out. NaN where what it reads was not found, which
            only code of others may hide; so is a value that nobody held.
        finite: Whether value and gradient are finite, as far as they are known.
        trained: Whether a backward pass went through the term.
        outputs: The same per output path (with its channels).
        levels: The same per level, by its path (``stacks[0]``); empty for a term without levels.
        count: What its sum was divided by, over all levels; with totaled denominators that of the step. None where
            nobody declared it.
    """

    value: float
    weight: float
    weighted: float
    share: float
    grad_norm: float
    finite: bool
    trained: bool
    outputs: dict[str, OutputBooks]
    levels: dict[str, LevelBooks] = field(default_factory=dict)
    count: float | None = None


@dataclass(frozen=True)
class FeatureBooks(Tabular):
    """What each head sent back to a feature that they share.

    Args:
        gram: The table of the heads there.
    """

    gram: Gram

    def table_rows(self) -> list[dict[str, Any]]:
        """A row a head, with its cosines."""
        return self.gram.table_rows()

    @property
    def grad_norm(self) -> dict[str, float]:
        """Per head, the norm of its gradient at the feature."""
        return {head: self.gram.norm(head) for head in self.gram.terms}

    @property
    def finite(self) -> dict[str, bool]:
        """Per head, whether that gradient is finite."""
        return dict(zip(self.gram.terms, self.gram.finite.all(0).tolist(), strict=True))

    def cosine(self, left: str, right: str) -> float | None:
        """Cosine between two heads' gradients at the feature; None if one of them is 0."""
        return self.gram.cosine(left, right)


@dataclass(frozen=True)
class LoopFactor:
    """What the loop multiplied all terms by (a loss scale, 1 / accumulation, the number of ranks); it is divided out.

    Args:
        value: The factor.
        known: "seen": the backward passes began at the criterion's own total, so that it is exact; "given": by the
            ledger's `scaler`; "unknown": the loop went on from single terms, and 1 stands in its place.
    """

    value: float = 1.0
    known: Literal["seen", "given", "unknown"] = "seen"

    def __str__(self) -> str:
        """The factor in the heading of a table; nothing where it is known to be 1, to rounding."""
        if self.known == "unknown":
            return ", loop's factor unknown"
        value = f"{self.value:.4g}"
        return "" if self.known == "seen" and value == "1" else f", loop's factor {value} divided out"


@dataclass(frozen=True)
class Unbooked:
    """What belongs to no term: the difference between what was booked and what came.

    Args:
        value: The number on which backward was called, less the sum of the terms' ``weighted``; the loop's factor is
            divided out. NaN where it is not known, and where what is added beside the terms is not finite.
        norms: Per output the norm of the gradient that arrived there, less what the terms sent.
        size: Sum of the terms' absolute ``weighted``, by which the value is judged.
        sent: Norm of what the terms sent to all outputs, by which the norms are judged.
        known: Whether the value is: not where the number was not seen (`torch.autograd.grad` instead of `backward`),
            nor where a term's own value is not finite.
    """

    value: float
    norms: dict[str, float]
    size: float
    sent: float = 0.0
    known: bool = True

    @property
    def grad_norm(self) -> float:
        """The norm over all outputs."""
        return math.hypot(*self.norms.values())

    @property
    def share(self) -> float:
        """Its value over the sum of all terms' absolute ``weighted``; NaN where the value is."""
        return self.value / self.size if self.size else math.copysign(math.inf, self.value) if self.value else 0.0

    @property
    def is_nothing(self) -> bool:
        """Whether both are zero but for rounding; a value that is not known is taken for nothing."""
        no_value = not self.known or abs(self.value) <= _ROUNDING * max(self.size, _LEAST)
        return no_value and self.grad_norm <= _ROUNDING * max(self.sent, _LEAST)

    @property
    def finite(self) -> bool:
        """Whether value and gradient are, as far as they are known."""
        return (math.isfinite(self.value) or not self.known) and math.isfinite(self.grad_norm)


@dataclass(frozen=True, repr=False)
class Books(Mapping[str, TermBooks], Tabular):
    """The books of one step: a mapping from the terms' names.

    All numbers are at the outputs (level "output"), exact, and of this process alone ("local") unless
    they were read with a process group.

    Args:
        step: Number of the step since the ledger was opened, from 0.
        terms: The terms' books.
        gram: The inner products of the terms' gradients at the outputs.
        unbooked: What belongs to no term.
        factor: What the loop multiplied all terms by.
        features: The books of the network's `Junction` modules, by name.
        scope: "local", or "global" after a reduction over ranks.
        aggregated: Of a step of `backward.aggregate`, the inner products of the rows of its Jacobian at the shared
            parameters, over all ranks; the "total" is what the aggregator made of them, and the weights are those that
            it gave to the rows (NaN where it made no combination of rows). None of other steps.
        number: On which backward was called, where the parts of several terms are not known; NaN elsewhere.
    """

    step: int
    terms: dict[str, TermBooks]
    gram: Gram
    unbooked: Unbooked = field(default_factory=lambda: Unbooked(0.0, {}, 0.0))
    factor: LoopFactor = LoopFactor()
    features: dict[str, FeatureBooks] = field(default_factory=dict)
    scope: str = "local"
    aggregated: Gram | None = None
    number: float = math.nan

    def __getitem__(self, name: str) -> TermBooks:
        """One term's books.

        Raises:
            KeyError: There is no such term; the message lists the terms.
        """
        try:
            return self.terms[name]
        except KeyError:
            raise KeyError(f"no term {name!r} in the books. The terms are: {', '.join(self.terms)}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self.terms)

    def __len__(self) -> int:
        return len(self.terms)

    @property
    def names(self) -> tuple[str, ...]:
        """The terms' names, in order."""
        return tuple(self.terms)

    @property
    def total(self) -> float:
        """Sum of the weighted values, and of what is unbooked: the number on which backward was called.

        The loop's factor is divided out. NaN where a value is not finite.
        """
        if not self.finite_values:
            return self.number
        rest = 0.0 if not self.unbooked.known or self.unbooked.is_nothing else self.unbooked.value
        return math.fsum([*(each.weighted for each in self.terms.values()), rest])

    @property
    def balanced(self) -> bool:
        """Whether the terms are all that trains: nothing is unbooked at any output, nor in the total."""
        return self.unbooked.is_nothing and UNBOOKED not in self.terms

    @property
    def finite_values(self) -> bool:
        """Whether every term's value is finite."""
        return all(math.isfinite(each.weighted) for each in self.terms.values())

    def inner(self, left: str, right: str) -> float | None:
        """Inner product of two terms' gradients, over the outputs and channels that both read.

        Args:
            left: One term.
            right: Another.

        Returns:
            The product; None where they share nothing, or no backward pass went through both.
        """
        _ = self[left], self[right]
        return self.gram.inner(left, right)

    def cosine(self, left: str, right: str) -> float | None:
        """Cosine between two terms' gradients, over the outputs and channels that both read.

        Args:
            left: One term.
            right: Another.

        Returns:
            The cosine; None where they share nothing, where no backward pass went through both, or where one gradient
            is 0 or not finite.
        """
        _ = self[left], self[right]
        return self.gram.cosine(left, right)

    @property
    def cosines(self) -> dict[tuple[str, str], float | None]:
        """The cosine of every pair of terms that share an output or channels."""
        pairs = combinations(self.names, 2)
        return {pair: self.gram.cosine(*pair) for pair in pairs if self.gram.share_a_site(*pair)}

    def table_rows(self) -> list[dict[str, Any]]:
        """A row per term, and one of what is unbooked where something is."""
        names = ("value", "weight", "weighted", "share", "grad_norm", "finite")
        rows = [{"term": name, **{each: getattr(term, each) for each in names}} for name, term in self.items()]
        rest = self.unbooked
        if not rest.is_nothing:
            rows.append({"term": UNBOOKED, "weighted": rest.value, "share": rest.share, "grad_norm": rest.grad_norm})
        return rows

    def table_title(self) -> str:
        """Step, scope and total."""
        return f"Books of step {self.step} ({self.scope}, at outputs), total {self.total:.5g}"

    def __str__(self) -> str:
        """The books as a table of at most 100 columns."""
        width = min(max(8, *(len(name) for name in self)), 28)
        head = f"{'term':<{width}} {'value':>11} {'weight':>9} {'weighted':>11} {'share':>7} {'grad norm':>11}  finite"
        rows = [
            f"{clipped(name, width):<{width}} {_said(b.value, '>11.5g', b)} {b.weight:>9.4g} "
            f"{_said(b.weighted, '>11.5g', b)} {_said(b.share, '>6.1%', b)} {_said(b.grad_norm, '>11.4g', b)}  "
            f"{'yes' if b.finite else 'NO'}{'' if b.trained else ' (no backward)'}"
            for name, b in self.items()
        ]
        rest = self.unbooked
        if not rest.is_nothing:
            rows.append(
                f"{UNBOOKED:<{width}} {'':>11} {'':>9} {rest.value:>11.5g} {rest.share:>6.1%} {rest.grad_norm:>11.4g}"
                f"{'' if rest.finite else '  NO'}"
            )
        end = f"{'total':<{width}} {'':>11} {'':>9} {self.total:>11.5g}"
        return "\n".join([f"step {self.step} ({self.scope}, at outputs{self.factor})", head, *rows, end])

    __repr__ = __str__


def _said(number: float, form: str, term: TermBooks) -> str:
    """A number of a term as the table has it, or that it is not known."""
    unknown = math.isnan(number) and term.finite
    return f"{'unknown':>{form[1:].partition('.')[0]}}" if unknown else format(number, form)
