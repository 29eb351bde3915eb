"""Which loss trains what: the ledger of every step, the static trace, the exact table, and the audit."""

from headwise.attribution.books import Books, FeatureBooks, OutputBooks, TermBooks
from headwise.attribution.ledger import Ledger

__all__ = ["Books", "FeatureBooks", "Ledger", "OutputBooks", "TermBooks"]
