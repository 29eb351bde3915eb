"""The keys under which books are logged, the same in every loop."""

from __future__ import annotations

from headwise.attribution.ledger.books import Books


def log_entries(books: Books, prefix: str = "headwise") -> dict[str, float]:
    """The books of a step as a flat dict of plain numbers, for any logger.

    Args:
        books: Of the step.
        prefix: What every key begins with.

    Returns:
        ``<prefix>/<term>/value``, ``.../share``, ``.../grad_norm`` and ``.../finite`` (1 or 0) of every term, and
        ``<prefix>/total``. Value, share and norm of a term that is not finite are NaN or infinite, as they were.
    """
    entries: dict[str, float] = {}
    for name, term in books.items():
        entries[f"{prefix}/{name}/value"] = term.value
        entries[f"{prefix}/{name}/share"] = term.share
        entries[f"{prefix}/{name}/grad_norm"] = term.grad_norm
        entries[f"{prefix}/{name}/finite"] = float(term.finite)
    entries[f"{prefix}/total"] = books.total
    return entries
