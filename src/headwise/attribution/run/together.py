"""Books of several places in one script, which call backward on numbers of their own, as one table."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace

import torch

from headwise.attribution.gram import Gram
from headwise.attribution.ledger.books import UNBOOKED, Books, OutputBooks, TermBooks, Unbooked


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
    left = [books[UNBOOKED] for books in each if UNBOOKED in books]
    if left:
        terms[UNBOOKED] = _added(left)
    size = math.fsum(abs(term.weighted) for term in terms.values())
    terms = {name: replace(term, share=term.weighted / size if size else 0.0) for name, term in terms.items()}
    return replace(each[-1], terms=terms, gram=_beside([books.gram for books in each]), unbooked=rest)


def less(books: Books, names: Collection[str]) -> Books | None:
    """The same books without some of their terms, where a later pass has those.

    Args:
        books: The books.
        names: The terms that are left out.

    Returns:
        The books; None where no loss is left.
    """
    if books.keys().isdisjoint(names):
        return books
    kept = {name: term for name, term in books.items() if name not in names}
    if not kept.keys() - {UNBOOKED}:
        return None
    size = math.fsum(abs(term.weighted) for term in kept.values())
    return replace(books, terms=kept, gram=_of(books.gram, list(kept)), unbooked=Unbooked(0.0, {}, size))


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


def _added(left: Sequence[TermBooks]) -> TermBooks:
    """What belongs to no loss, of several numbers: it is all one row."""
    norms: dict[str, float] = {}
    for term in left:
        for path, output in term.outputs.items():
            norms[path] = math.hypot(norms.get(path, 0.0), output.grad_norm)
    value = math.fsum(term.value for term in left)
    return replace(
        left[-1],
        value=value,
        weighted=value,
        grad_norm=math.hypot(*(term.grad_norm for term in left)),
        finite=all(term.finite for term in left),
        trained=any(term.trained for term in left),
        outputs={path: OutputBooks(norm, math.isfinite(norm)) for path, norm in norms.items()},
    )


def _of(gram: Gram, names: Sequence[str]) -> Gram:
    """The part of a table that some terms have; what arrived of all of them is not known."""
    numbers = torch.tensor([gram.terms.index(name) for name in names])
    products = torch.full((len(gram.sites), len(names) + 1, len(names) + 1), math.nan, dtype=torch.float64)
    products[:, :-1, :-1] = gram.products[:, numbers][:, :, numbers]
    values, weights = gram.values[numbers], gram.weights[numbers]
    return Gram(tuple(names), gram.sites, products, gram.finite[:, numbers], values, weights, gram.where)


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
