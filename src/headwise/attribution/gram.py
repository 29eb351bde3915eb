"""The one table of attribution: inner products of the terms' gradients at places."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from headwise.attribution.text import columns
from headwise.tabular import Tabular


class _Marker(str):
    """A text that is no other of the same letters."""

    __slots__ = ()


TOTAL = _Marker("total")
"""The last row and column: what arrived. "total" is it too, unless a term has that name."""


@dataclass(frozen=True)
class Where:
    """What a table is about.

    Args:
        level: Where gradients were taken: "output", "feature", or "parameter".
        scope: "local": of this process's samples; "global": of those of all ranks.
        step: Number of the step; None outside of steps.
        exact: Whether every block is exact; else it was sampled.
    """

    level: Literal["output", "feature", "parameter"] = "output"
    scope: Literal["local", "global"] = "local"
    step: int | None = None
    exact: bool = True


@dataclass(frozen=True, eq=False)
class Gram(Tabular):
    """Inner products of the gradients of terms, per place.

    ``products[s, a, b]`` is the inner product of what terms a and b send to place s; the diagonal holds squared norms.
    The last row and column are the total: what arrived there. What was not asked for, or is not known, is NaN. Terms
    that do not read a place are NaN there: they have no gradient to compare. At parameters, where all terms are
    compared, a term that does not reach one has the gradient 0.

    Args:
        terms: T names.
        sites: S names of places.
        products: (S, T + 1, T + 1), float64.
        finite: (S, T), bool: whether the gradient is finite; True where a term does not read.
        values: (T,), float64.
        weights: (T,), float64: what each value was multiplied by.
        where: What the table is about.
    """

    terms: tuple[str, ...]
    sites: tuple[str, ...]
    products: Tensor
    finite: Tensor
    values: Tensor
    weights: Tensor
    where: Where = Where()

    def table_rows(self) -> list[dict[str, Any]]:
        """A row per term: value, weight, share, norm, and the cosine with each term over the places both read."""
        return [
            {
                "term": term,
                "value": float(self.values[number]),
                "weight": float(self.weights[number]),
                "share": self.share(term),
                "norm": self.norm(term),
                **{f"cosine with {other}": None if other == term else self.cosine(term, other) for other in self.terms},
            }
            for number, term in enumerate(self.terms)
        ]

    def __str__(self) -> str:
        """The table as text, at most 100 columns wide."""
        where = self.where
        step = "" if where.step is None else f"step {where.step}, "
        head = f"{step}{where.scope}, at {where.level}s, {'exact' if where.exact else 'sampled'}"
        rows = self.table_rows()
        cells = [[_told(name, value) for name, value in row.items()] for row in rows]
        return "\n".join([head, columns([name.removeprefix("cosine ") for name in rows[0]], cells)]) if rows else head

    __repr__ = __str__

    def __post_init__(self) -> None:
        wanted = (len(self.sites), len(self.terms) + 1, len(self.terms) + 1)
        if tuple(self.products.shape) != wanted:
            raise ValueError(
                f"a Gram of these sites and terms has products {wanted}; found {tuple(self.products.shape)}"
            )

    @classmethod
    def of_pairs(
        cls,
        squares: Mapping[tuple[str, str], float],
        products: Mapping[tuple[str, str, str], float],
        values: Mapping[str, float],
        weights: Mapping[str, float],
        where: Where = Where(),
    ) -> Gram:
        """A table from numbers by name.

        Args:
            squares: By (term, place) the squared norm of what the term sends there.
            products: By (term, term, place) their inner product there.
            values: By term.
            weights: By term.
            where: What the table is about.

        Returns:
            The table; a gradient is finite where its square is.
        """
        terms, sites = tuple(values), tuple(dict.fromkeys(site for _, site in squares))
        found = torch.full((len(sites), len(terms) + 1, len(terms) + 1), math.nan, dtype=torch.float64)
        finite = torch.ones(len(sites), len(terms), dtype=torch.bool)
        for (term, site), square in squares.items():
            place, number = sites.index(site), terms.index(term)
            found[place, number, number] = square
            finite[place, number] = math.isfinite(square)
        for (left, right, site), product in products.items():
            place, a, b = sites.index(site), terms.index(left), terms.index(right)
            found[place, a, b] = found[place, b, a] = product
        add_total(found)
        value, weight = (torch.tensor(list(each.values()), dtype=torch.float64) for each in (values, weights))
        return cls(terms, sites, found, finite, value, weight, where)

    @property
    def knows_pairs(self) -> bool:
        """Whether it holds products of different terms."""
        last = len(self.terms)
        pairs = ~torch.eye(last, dtype=torch.bool)
        return last < 2 or bool((~self.products[:, :last, :last].isnan() & pairs).any())

    @property
    def knows_total(self) -> bool:
        """Whether it holds products of terms with what arrived."""
        last = len(self.terms)
        return bool((~self.products[:, :last, last].isnan()).any())

    def _rows(self, sites: Sequence[str] | None) -> Tensor:
        if sites is None:
            return self.products
        return self.products[[self.sites.index(each) for each in sites]]

    def _number(self, term: str) -> int:
        if term is TOTAL or (term == TOTAL and term not in self.terms):
            return len(self.terms)
        if term not in self.terms:
            raise KeyError(f"no term {term!r}. The terms are: {', '.join(self.terms)}")
        return self.terms.index(term)

    def reads(self, term: str) -> tuple[str, ...]:
        """The places that a term reads."""
        number = self._number(term)
        known = ~self.products[:, number, number].isnan() | ~self.finite[:, min(number, len(self.terms) - 1)]
        return tuple(site for site, read in zip(self.sites, known.tolist(), strict=True) if read)

    def norm(self, term: str, sites: Sequence[str] | None = None) -> float:
        """The norm of a term's gradient over places.

        Args:
            term: The term, or "total" for what arrived (`TOTAL` where a term is called so).
            sites: The places; None: all.

        Returns:
            The norm; NaN where one is not finite, 0 where the term reads none of them.
        """
        number = self._number(term)
        found = self._rows(sites)[:, number, number]
        bad = number < len(self.terms) and not bool(self._finite(number, sites).all())
        return math.nan if bad and not bool(torch.isinf(found).any()) else math.sqrt(max(0.0, float(found.nansum())))

    def _finite(self, number: int, sites: Sequence[str] | None) -> Tensor:
        found = self.finite[:, number]
        return found if sites is None else found[[self.sites.index(each) for each in sites]]

    def inner(self, left: str, right: str, sites: Sequence[str] | None = None) -> float | None:
        """The inner product of two terms' gradients over the places that both read.

        Args:
            left: One term.
            right: Another.
            sites: The places; None: all.

        Returns:
            The product; None where they share no place, or it is not known.
        """
        found = self._rows(sites)[:, self._number(left), self._number(right)]
        known = ~found.isnan()
        return float(found[known].sum()) if bool(known.any()) else None

    def share_a_site(self, left: str, right: str) -> bool:
        """Whether two terms read a place in common."""
        return bool(set(self.reads(left)) & set(self.reads(right)))

    def cosine(self, left: str, right: str, sites: Sequence[str] | None = None) -> float | None:
        """The cosine between two terms' gradients over the places that both read.

        Args:
            left: One term.
            right: Another.
            sites: The places; None: all.

        Returns:
            The cosine, -1 to 1; None where they share no place, or where one gradient is 0 or not finite.
        """
        a, b = self._number(left), self._number(right)
        rows = self._rows(sites)
        known = ~rows[:, a, b].isnan()
        if not bool(known.any()):
            return None
        product, one, other = (float(rows[known][:, i, j].sum()) for i, j in ((a, b), (a, a), (b, b)))
        scale = math.sqrt(one) * math.sqrt(other) if one >= 0 and other >= 0 else math.nan
        return _within_one(product / scale) if scale > 0 and math.isfinite(product / scale) else None

    def norm_share(self, term: str, sites: Sequence[str] | None = None) -> float:
        """A term's part of the sum of all terms' norms.

        Args:
            term: The term.
            sites: The places; None: all.

        Returns:
            0 to 1; 0 where that sum is 0 or not a number.
        """
        norms = [self.norm(each, sites) for each in self.terms]
        size = sum(norms)
        return norms[self._number(term)] / size if size > 0 else 0.0

    def share(self, term: str) -> float:
        """A term's part of the loss: ``weight * value`` over the sum of the absolute parts."""
        parts = self.weights * self.values
        size = float(parts.abs().sum())
        return float(parts[self._number(term)]) / size if size else 0.0

    def coefficients(self, term: str) -> float | None:
        """How much of what arrived lies along a term's gradient: ``<g_term, g_total> / |g_total|^2``; all add up to 1.

        Args:
            term: The term.

        Returns:
            The coefficient; None where it is not known.
        """
        number, last = self._number(term), len(self.terms)
        whole = float(self.products[:, last, last].nansum())
        along = self.products[:, number, last]
        known = ~along.isnan()
        return float(along[known].sum()) / whole if whole > 0 and bool(known.any()) else None

    def multiples(self) -> dict[str, float]:
        """How often each term's gradient is in what arrived, by least squares over all places.

        Returns:
            By term; 1 each where what arrived is their sum.
        """
        last = len(self.terms)
        whole = self.products.nansum(0)
        inner, along = whole[:last, :last], whole[:last, last]
        # Gradients of very different size are brought to one scale before solving, or small ones would be rounded away.
        scale = inner.diagonal().sqrt().clamp_min(1e-300)
        unit = torch.linalg.pinv(inner / scale[:, None] / scale, rtol=1e-10, hermitian=True)
        return dict(zip(self.terms, (unit @ (along / scale) / scale).tolist(), strict=True))


def _told(name: str, value: str | float | None) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return f"{value:.1%}" if name == "share" else f"{value:+.2f}" if name.startswith("cosine") else f"{value:.4g}"


def _within_one(cosine: float) -> float:
    """Without the overshoot of rounding."""
    return max(-1.0, min(1.0, cosine))


def add_total(products: Tensor) -> None:
    """Fills the last row and column of a table: the sum of what the terms send, where all of it is known.

    Args:
        products: (S, T + 1, T + 1), in place.
    """
    last = products.shape[1] - 1
    for block in products:
        readers = (~block.diagonal()[:last].isnan()).nonzero().flatten()
        inner = block[readers][:, readers]
        block[last, readers] = block[readers, last] = inner.sum(0)
        block[last, last] = inner.sum() if len(readers) else math.nan
