"""The time that a run takes, and its pace."""

from __future__ import annotations

import time


class Stopwatch:
    """The time a run has taken, over all its resumptions, and its pace since the last look.

    Args:
        seconds: that it took before.
    """

    def __init__(self, seconds: float) -> None:
        self._before = seconds
        self.restart()

    def restart(self) -> None:
        """Begin to count."""
        self._began = time.perf_counter()
        self.skip()

    def skip(self) -> None:
        """Leave what has just passed out of the pace."""
        self._mark = time.perf_counter()
        self._images = 0

    def count(self, images: int) -> None:
        """Note images that were trained on."""
        self._images += images

    def pace(self) -> float:
        """Return images per second since the last call, or since `skip`."""
        images, seconds = self._images, time.perf_counter() - self._mark
        self.skip()
        return images / max(seconds, 1e-9)

    @property
    def seconds(self) -> float:
        """Seconds that the run has taken."""
        return self._before + time.perf_counter() - self._began
