"""The level of a noisy series, and whether it has left it: medians of what came before, not a score of one value."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

_WINDOW = 40
_FEWEST = 10
_REFRESH = 5
_SHIFTED = 5
_LEAST_SPREAD = 0.05


@dataclass(frozen=True)
class Shift:
    """A series that has left its level.

    Args:
        since: The first step away from it.
        before: The level, as a median.
        now: The median since.
    """

    since: int
    before: float
    now: float


class Level:
    """Follows a series and tells when it has shifted.

    Values are compared on the scale ``asinh(10 v / m)`` with m the median size of the last ten at the level: a
    logarithm for what is far from 0, linear near it, of either sign. The level is the median of these ten there; the
    spread is 1.048 times the median distance from one value to the next over the last 40 (the standard deviation, where
    noise is normal; a trend is no part of it), at least 0.05. The level is left upwards by values more than six spreads
    and more than a factor above it, five logged steps in a row, or by one that is ten spreads and eight times the
    factor above; downwards by values below a thousandth of the median size.

    Args:
        factor: Above 1.
    """

    def __init__(self, factor: float) -> None:
        self._factor = factor
        self._held: deque[float] = deque(maxlen=_WINDOW)
        self._new = 0
        self._away: list[tuple[int, float]] = []
        self._told = False
        self._low: list[tuple[int, float]] = []
        self._scale = self._middle = self._spread = self.reference = 0.0

    def see(self, step: int, value: float) -> Shift | None:
        """Take the next value.

        Args:
            step: Of the value.
            value: Finite; a 0 says nothing.

        Returns:
            The shift upwards, once it is certain.
        """
        if value == 0:
            return None
        if len(self._held) < _FEWEST:
            self._keep(value)
            return None
        if self._new >= _REFRESH or not self._scale:
            self._measure()
        height = self._place(value) - self._middle
        step_up = self._place(self._factor * self._scale) - self._place(self._scale)
        if height <= max(6 * self._spread, step_up):
            self._back()
            self._keep(value)
            return None
        self._away.append((step, value))
        far = self._place(8 * self._factor * self._scale) - self._place(self._scale)
        lasted = len(self._away) >= _SHIFTED
        certain = not self._told and (lasted or height > max(10 * self._spread, far))
        shift = Shift(self._away[0][0], self.reference, median(value for _, value in self._away))
        self._told |= certain
        if lasted:  # this is its level from here on
            self._held = deque((value for _, value in self._away), _WINDOW)
            self._scale = 0.0
            self._back()
        return shift if certain else None

    def _back(self) -> None:
        self._away.clear()
        self._told = False

    def fallen(self, step: int, value: float) -> Shift | None:
        """Whether the series lies below a thousandth of its level, before `see` takes the value.

        Args:
            step: Of the value.
            value: Finite, not negative.

        Returns:
            The fall so far.
        """
        if len(self._held) < _FEWEST:
            return None
        if not self._scale:
            self._measure()
        if value >= self._scale / 1000:
            self._low.clear()
            return None
        self._low.append((step, value))
        return Shift(self._low[0][0], self.reference, value)

    def _keep(self, value: float) -> None:
        self._held.append(value)
        self._new += 1

    def _measure(self) -> None:
        self._new = 0
        last = list(self._held)[-_FEWEST:]
        self._scale = median(map(abs, last))
        self.reference = median(last)
        self._middle = self._place(self.reference)
        places = [self._place(value) for value in self._held]
        apart = (abs(one - other) for one, other in pairwise(places))
        self._spread = max(_LEAST_SPREAD, 1.048 * median(apart))

    def _place(self, value: float) -> float:
        return math.asinh(10 * value / self._scale)


class Streak:
    """How long something has lasted.

    Args:
        rows: Logged steps that it must last.
        steps: Steps that it must span.
    """

    def __init__(self, rows: int = 8, steps: int = 20) -> None:
        self._rows, self._steps = rows, steps
        self._count = 0
        self.since = 0
        self._told = False

    @property
    def running(self) -> bool:
        """Whether it is so at the last step."""
        return self._count > 0

    def see(self, step: int, holds: bool) -> bool:
        """Take the next step.

        Args:
            step: Which.
            holds: Whether it is so there.

        Returns:
            Whether it has lasted long enough, once for each time that it began.
        """
        if not holds:
            self._count, self._told = 0, False
            return False
        if not self._count:
            self.since = step
        self._count += 1
        lasted = self._count >= self._rows and step - self.since >= self._steps - 1
        if not lasted or self._told:
            return False
        self._told = True
        return True
