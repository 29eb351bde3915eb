"""The public names of the package: what ``import headwise as hw`` gives."""

from headwise import attribution, backward, balance, coders, losses, networks, normalizers, presets
from headwise.attribution import Ledger, book
from headwise.criterion import (
    Breakdown,
    Criterion,
    Entry,
    Junction,
    Levels,
    NonFiniteGradientError,
    RatioTerm,
    Term,
    pool_denominators,
    pool_ratios,
    schedules,
    undo_averaging,
)
from headwise.declaration import declared
from headwise.ratio import Ratio
from headwise.runs import Run

__all__ = [
    "Breakdown",
    "Criterion",
    "Entry",
    "Junction",
    "Ledger",
    "Levels",
    "NonFiniteGradientError",
    "Ratio",
    "Run",
    "RatioTerm",
    "Term",
    "attribution",
    "backward",
    "balance",
    "book",
    "coders",
    "declared",
    "losses",
    "networks",
    "normalizers",
    "pool_denominators",
    "pool_ratios",
    "presets",
    "schedules",
    "undo_averaging",
]
