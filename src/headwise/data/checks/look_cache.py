"""What was seen of pictures whose files have not changed since, in the user's cache; deleting it costs only time."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from headwise.data.pictures import Look, Numbers, Size
from headwise.files import parse_json


class Inspectable(Protocol):
    """A data set of files."""

    @property
    def where(self) -> Path:
        """The file or folder that stands for all of it."""
        ...

    def __len__(self) -> int:
        """Return the number of pictures."""
        ...

    def files(self, index: int) -> tuple[Path, ...]:
        """Return the picture of a sample, and whatever else belongs to it."""
        ...

    def told_size(self, index: int) -> Size | None:
        """Return the (height, width) that a sample's annotation was made on, if it says so."""
        ...

    def look(self, index: int) -> Look:
        """Decode a sample; an OSError or ValueError says why it cannot be used."""
        ...


def cache_folder() -> Path:
    """Return the folder of the cache: ``$HEADWISE_CACHE``, or ``headwise`` in the system's for programs."""
    own, common = os.environ.get("HEADWISE_CACHE"), os.environ.get("XDG_CACHE_HOME")
    return Path(own) if own else Path(common or Path.home() / ".cache") / "headwise"


class LookCache:
    """The looks at one data set, in a file of its own.

    Args:
        data: the data set.
    """

    def __init__(self, data: Inspectable) -> None:
        self._data = data
        name = hashlib.blake2b(f"{type(data).__name__} {data.where.absolute()}".encode(), digest_size=16).hexdigest()
        self._file = cache_folder() / "pictures" / f"{name}.json"

    def read(self) -> dict[int, Look]:
        """Return the looks at samples whose files have the size and the times that they had."""
        try:
            stored = parse_json(self._file.read_text(encoding="utf-8"))
            return {
                index: _look(stored[key]) for index in range(len(self._data)) if (key := self._key(index)) in stored
            }
        except (OSError, ValueError, TypeError, KeyError):
            return {}

    def write(self, looks: Mapping[int, Look]) -> None:
        """Keep looks; a cache that cannot be written is no mistake of the user's."""
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            handle, aside = tempfile.mkstemp(dir=self._file.parent)
            with open(handle, "w", encoding="utf-8") as file:
                json.dump({self._key(index): look for index, look in looks.items()}, file)
            os.replace(aside, self._file)

    def _key(self, index: int) -> str:
        """The sample's files, what its look depends on, and everything that changes when a file does."""
        stats = [(str(path), path.stat()) for path in self._data.files(index)]
        told = [(path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for path, stat in stats]
        return hashlib.blake2b(repr((told, self._data.told_size(index))).encode(), digest_size=16).hexdigest()


def _look(fields: list[Any]) -> Look:
    (height, width), doubtful, digest, numbers = fields
    return Look((height, width), doubtful, digest, None if numbers is None else Numbers(*numbers))
