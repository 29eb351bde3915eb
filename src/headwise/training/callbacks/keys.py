"""The keys under which books are logged, the same in every loop."""

from __future__ import annotations

from headwise.attribution.ledger.books import Books
from headwise.runs.entries import flat_terms, term_entry


def log_entries(books: Books, prefix: str = "headwise") -> dict[str, float]:
    """The books of a step as a flat dict of plain numbers, for any logger.

    Args:
        books: Of the step.
        prefix: What every key begins with.

    Returns:
        ``<prefix>/<term>/value``, ``weight``, ``weighted``, ``share``, ``grad_norm`` and ``finite`` (1 or 0) of every
        term, with ``@<level>`` behind those of its levels, and ``<prefix>/total``. Numbers of a term that is not
        finite are NaN or infinite, as they were.
    """
    terms = {name: term_entry(term) for name, term in books.items()}
    return {f"{prefix}/{key}": number for key, number in flat_terms(terms)} | {f"{prefix}/total": books.total}
