"""What holds hooks or files until it is closed, by hand or at the end of a ``with`` block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self


class Closing(ABC):
    """Used as a context, it closes at the end, whatever happened inside."""

    @abstractmethod
    def close(self) -> None:
        """Gives back what it holds; a second call does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
