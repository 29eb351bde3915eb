"""How far something is, on one line of a terminal."""

from __future__ import annotations

import sys
import time
from typing import Self


class Meter:
    """Counts on standard error where that is a terminal and standard output is none; silent elsewhere.

    Args:
        what: is counted.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._count, self._begun, self._shown = 0, time.monotonic(), 0.0
        self._seen = sys.stderr.isatty() and not sys.stdout.isatty()

    def advance(self, total: int) -> None:
        """Count one more.

        Args:
            total: how many there are.
        """
        self._count += 1
        now = time.monotonic()
        if self._seen and now - self._shown > 0.1:
            self._shown = now
            pace = self._count / max(now - self._begun, 1e-9)
            print(f"\r{self._count} of {total} {self._what}, {pace:.1f} a second", end="", file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._seen:
            print(file=sys.stderr)
