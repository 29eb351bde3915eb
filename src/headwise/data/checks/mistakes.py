"""What is wrong with a data set: the first mistake word for word, the others by their number."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

_NAMED = 3  # of the further places that a message names


class Mistakes:
    """Collects mistakes, and raises all of them as one error of the first one's kind."""

    def __init__(self) -> None:
        self._first: Exception | None = None
        self._places: list[str] = []
        self.count = 0

    def add(self, place: str, error: Exception) -> None:
        """Keep a mistake.

        Args:
            place: of it, in a word or two, for the list behind the first.
            error: says all of it: what, where, the rule, what was found and the remedy.
        """
        self.count += 1
        if self._first is None:
            self._first = error
        elif len(self._places) < _NAMED:
            self._places.append(place)

    @contextmanager
    def gathered(self, place: str) -> Iterator[None]:
        """Keep what goes wrong inside, and go on behind it.

        Args:
            place: as in `add`.

        Yields:
            Nothing.
        """
        try:
            yield
        except (OSError, ValueError) as error:
            self.add(place, error)

    def refuse(self, where: str = "") -> None:
        """Raise what was found; do nothing if nothing was.

        Args:
            where: the file, if the mistakes do not name it themselves.

        Raises:
            FileNotFoundError: the first mistake is a missing file.
            OSError: it is a file that cannot be read.
            ValueError: it is of another kind.
        """
        if self._first is None:
            return
        kinds = (kind for kind in (FileNotFoundError, OSError) if isinstance(self._first, kind))
        raise next(kinds, ValueError)(f"{where and f'{where}: '}{self._first}{self._rest()}") from None

    def _rest(self) -> str:
        more = self.count - 1
        if not more:
            return ""
        named = ", ".join(self._places) + (", ..." if more > len(self._places) else "")
        return f" And {more} more: {named}."
