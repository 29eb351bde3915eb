"""Declared terms, the criterion that computes them, and the junctions that keep their books."""

from headwise.criterion import schedules
from headwise.criterion.breakdown import Breakdown, Entry
from headwise.criterion.criterion import Criterion
from headwise.criterion.junctions.feature_junction import Junction
from headwise.criterion.junctions.junction import NonFiniteGradientError
from headwise.criterion.pooling import pool_denominators, pool_ratios, undo_averaging
from headwise.criterion.terms.levels import Levels
from headwise.criterion.terms.term import RatioTerm, Term

__all__ = [
    "Breakdown",
    "Criterion",
    "Entry",
    "Junction",
    "Levels",
    "NonFiniteGradientError",
    "RatioTerm",
    "Term",
    "pool_denominators",
    "pool_ratios",
    "schedules",
    "undo_averaging",
]
