"""Books of several places in one script, which call backward on numbers of their own, as one table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from headwise.attribution.gram import Gram
from headwise.attribution.ledger.books import Books, Unbooked


def together(each: Sequence[Books]) -> Books:
    """One table of books whose terms have different names.

    The total is the sum of the numbers, and shares are those of it; gradients of different numbers are not compared.

    Args:
        each: The books, at least one.

    Returns:
        The table; of one, itself.
    """
    if len(each) == 1:
        return each[0]
    norms: dict[str, float] = {}
    for books in each:
        for path, norm in books.unbooked.norms.items():
            norms[path] = math.hypot(norms.get(path, 0.0), norm)
    rest = Unbooked(
        math.fsum(books.unbooked.value for books in each),
        norms,
        math.fsum(books.unbooked.size for books in each),
        math.hypot(*(books.unbooked.sent for books in each)),
        all(books.unbooked.known for books in each),
    )
    terms = {name: term for books in each for name, term in books.items()}
    size = math.fsum(abs(term.weighted) for term in terms.values())
    terms = {name: replace(term, share=term.weighted / size if size else 0.0) for name, term in terms.items()}
    return replace(each[-1], terms=terms, gram=_beside([books.gram for books in each]), unbooked=rest)


def renamed(books: Books, names: dict[str, str]) -> Books:
    """The same books with other names of terms.

    Args:
        books: The books.
        names: The new name of each term.

    Returns:
        The books.
    """
    gram = replace(books.gram, terms=tuple(names[name] for name in books.gram.terms))
    return replace(books, terms={names[name]: term for name, term in books.items()}, gram=gram)


def _beside(grams: Sequence[Gram]) -> Gram:
    """Tables side by side: between terms of different ones, and of what arrived from all of them, nothing is known."""
    terms = [name for gram in grams for name in gram.terms]
    sites = list(dict.fromkeys(site for gram in grams for site in gram.sites))
    products = torch.full((len(sites), len(terms) + 1, len(terms) + 1), math.nan, dtype=torch.float64)
    finite = torch.ones(len(sites), len(terms), dtype=torch.bool)
    begin = 0
    for gram in grams:
        end = begin + len(gram.terms)
        for number, site in enumerate(gram.sites):
            products[sites.index(site), begin:end, begin:end] = gram.products[number, :-1, :-1]
            finite[sites.index(site), begin:end] = gram.finite[number]
        begin = end
    values, weights = (torch.cat(parts) for parts in ([g.values for g in grams], [g.weights for g in grams]))
    return Gram(tuple(terms), tuple(sites), products, finite, values, weights, grams[-1].where)
