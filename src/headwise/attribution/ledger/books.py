"""The books of one step, on the host: plain numbers, ready to print."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field


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
        share: ``weighted / total``: the level's part of the total; 0 where the total is 0.
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
        weight: Its weight.
        weighted: ``weight * value``.
        share: ``weighted / total``; 0 where the total is 0.
        grad_norm: Norm over all that the term reads, of d(weighted) / d(outputs); the loop's own factors (loss scale,
            accumulation) are divided out.
        finite: Whether value and gradient are finite.
        trained: Whether a backward pass went through the term.
        outputs: The same per output path (with its channels).
        levels: The same per level, by its path (``stacks[0]``); empty for a term without levels.
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


@dataclass(frozen=True)
class FeatureBooks:
    """What each head sent back to a feature that they share.

    Args:
        grad_norm: Per head, the norm of its gradient at the feature.
        finite: Per head, whether that gradient is finite.
        cosines: Per pair of heads, the cosine between their gradients there.
    """

    grad_norm: dict[str, float]
    finite: dict[str, bool]
    cosines: dict[tuple[str, str], float | None]

    def cosine(self, left: str, right: str) -> float | None:
        """Cosine between two heads' gradients at the feature; None if one of them is 0."""
        return self.cosines[(left, right) if (left, right) in self.cosines else (right, left)]


@dataclass(frozen=True, repr=False)
class Books(Mapping[str, TermBooks]):
    """The books of one step: a mapping from the terms' names.

    All numbers are at the outputs (level "output"), exact, and of this process alone ("local") unless
    they were read with a process group.

    Args:
        step: Number of the step since the ledger was opened, from 0.
        terms: The terms' books.
        products: Per pair of terms, the inner product of their gradients over the outputs (and channels) that both
            read.
        cosines: The same, divided by the norms over what both read.
        features: The books of the network's `Junction` modules, by name.
        scope: "local", or "global" after a reduction over ranks.
    """

    step: int
    terms: dict[str, TermBooks]
    products: dict[tuple[str, str], float] = field(default_factory=dict)
    cosines: dict[tuple[str, str], float | None] = field(default_factory=dict)
    features: dict[str, FeatureBooks] = field(default_factory=dict)
    scope: str = "local"

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
        """Sum of the weighted values."""
        return math.fsum(each.weighted for each in self.terms.values()) if self.finite_values else math.nan

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
            The product; None where they share nothing.
        """
        _ = self[left], self[right]
        return self.products.get((left, right), self.products.get((right, left)))

    def cosine(self, left: str, right: str) -> float | None:
        """Cosine between two terms' gradients, over the outputs and channels that both read.

        Args:
            left: One term.
            right: Another.

        Returns:
            The cosine; None where they share nothing, or where one gradient is 0 or not finite.
        """
        _ = self[left], self[right]
        return self.cosines.get((left, right), self.cosines.get((right, left)))

    def __str__(self) -> str:
        """The books as a table of at most 100 columns."""
        width = min(max(4, *(len(name) for name in self)), 28)
        head = f"{'term':<{width}} {'value':>11} {'weight':>9} {'weighted':>11} {'share':>7} {'grad norm':>11}  finite"
        rows = [
            f"{name[:width]:<{width}} {b.value:>11.5g} {b.weight:>9.4g} {b.weighted:>11.5g} {b.share:>6.1%} "
            f"{b.grad_norm:>11.4g}  {'yes' if b.finite else 'NO'}{'' if b.trained else ' (no backward)'}"
            for name, b in self.items()
        ]
        end = f"{'total':<{width}} {'':>11} {'':>9} {self.total:>11.5g}"
        return "\n".join([f"step {self.step} ({self.scope}, at outputs)", head, *rows, end])

    __repr__ = __str__
