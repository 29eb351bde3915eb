"""Every head its own loss, and one set of books.

Declare which loss reads which output, target and mask; call ``breakdown.total.backward()``; read the books::

    import headwise as hw

    criterion = hw.presets.textsnake()
    ledger = hw.Ledger(criterion)
    breakdown = criterion(network(images), targets)
    breakdown.total.backward()
    print(ledger.table())
"""

from headwise import attribution, backward, coders, losses, networks, normalizers, presets
from headwise.attribution import Ledger
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
from headwise.ratio import Ratio

__all__ = [
    "Breakdown",
    "Criterion",
    "Entry",
    "Junction",
    "Ledger",
    "Levels",
    "NonFiniteGradientError",
    "Ratio",
    "RatioTerm",
    "Term",
    "attribution",
    "backward",
    "coders",
    "losses",
    "networks",
    "normalizers",
    "pool_denominators",
    "pool_ratios",
    "presets",
    "schedules",
    "undo_averaging",
]
