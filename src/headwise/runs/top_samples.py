"""The samples that make each term, as a file of a run: names, numbers and a small picture of each.

``top_samples.json`` is one JSON object, written as a whole: ``step``; ``terms``, by name ``{"gradient": [...], "value":
[...], "note": ...}`` with ``id``, ``name``, ``grad_norm``, ``value`` and ``step`` of each sample; and ``pictures``, by
``id`` as text, a JPEG in base64.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from headwise.attribution.ledger.samples.samples import RANKINGS, By, TermSamples
from headwise.files import parse_json, write_atomically
from headwise.runs.alerts.alert import Alert

FILE = "top_samples.json"
SHOWN = 6
"""Of each ranking of a term."""
MOST_PICTURES = 48
SIDE = 112
"""Pixels of the longer side of a picture."""


@dataclass(frozen=True)
class Shown:
    """What a sample is.

    Args:
        name: What to call it.
        image: (H, W, 3) uint8 RGB; None where there is no picture.
    """

    name: str
    image: Any = None


Show = Callable[[Any], "Shown | None"]
"""From an id to what it is; None where it is not known."""


class KeepsSamples(Protocol):
    """A ledger that may rank samples."""

    keeps_samples: bool

    def samples(self, *, last_step: bool = False) -> dict[str, TermSamples]:
        """The rankings, by term."""
        ...


class TopSamples:
    """Writes the file.

    Args:
        folder: Of the run.
        show: What an id is, asked once for each that is shown; by default, an id that is the path of a picture.
    """

    def __init__(self, folder: Path, show: Show | None = None) -> None:
        self._path = folder / FILE
        self._show = show or _from_file
        self._known: dict[Any, tuple[str, str | None]] = {}

    def write(self, step: int, samples: Mapping[str, TermSamples]) -> None:
        """Write the first samples of each term.

        Args:
            step: Optimizer steps done.
            samples: By term.

        Raises:
            OSError: The file cannot be written.
        """
        told = {term: each.as_dict(SHOWN) for term, each in samples.items()}
        ids = dict.fromkeys(_in_turn(samples.values()))
        self._known = {each: self._known.get(each) or self._look(each) for each in ids}
        for term, each in told.items():
            for by in RANKINGS:
                for row, sample in zip(each[by], samples[term].top(SHOWN, by), strict=True):
                    row["name"] = self._known[sample.id][0]
                    row |= {key: str(number) for key, number in row.items() if _is_odd(number)}
        pictures = {str(each): picture for each in list(ids)[:MOST_PICTURES] if (picture := self._known[each][1])}
        content = json.dumps({"step": step, "terms": told, "pictures": pictures}, separators=(",", ":"))
        write_atomically(self._path, content.encode() + b"\n")

    def name(self, sample: Any) -> str:
        """What a sample is called.

        Args:
            sample: Its id.

        Returns:
            The name.
        """
        if sample not in self._known:
            self._known[sample] = self._look(sample)
        return self._known[sample][0]

    def _look(self, sample: Any) -> tuple[str, str | None]:
        shown = None
        try:
            shown = self._show(sample)
            return shown.name if shown else str(sample), _small(shown.image) if shown else None
        except (OSError, ValueError, LookupError, ImportError):  # a picture that is gone takes nothing else with it
            return shown.name if shown else str(sample), None


@dataclass(frozen=True)
class TopSample:
    """A sample as a run wrote it down.

    Args:
        id: As text.
        name: What it is called.
        grad_norm: Of the term's gradient there.
        value: Of the term there; None where it was not measured.
        step: The ledger's step in which it came last.
    """

    id: str
    name: str
    grad_norm: float
    value: float | None
    step: int


@dataclass(frozen=True)
class ReadSamples:
    """What the file holds.

    Args:
        step: At which it was written.
        terms: By term its samples, those with the largest gradient and those with the largest value.
        notes: By term why samples, or their values, are not known.
        pictures: By id, a JPEG.
    """

    step: int
    terms: Mapping[str, Mapping[By, Sequence[TopSample]]]
    notes: Mapping[str, str]
    pictures: Mapping[str, bytes]


def read_top_samples(folder: Path) -> ReadSamples | None:
    """Read the samples that make each term.

    Args:
        folder: Of a run.

    Returns:
        What is there; None where there is no such file, or none that can be read.
    """
    try:
        content = parse_json((folder / FILE).read_bytes())
        terms = {
            str(term): {by: [_sample(each) for each in found[by]] for by in RANKINGS}
            for term, found in content["terms"].items()
        }
        notes = {str(term): str(found["note"]) for term, found in content["terms"].items() if "note" in found}
        pictures = {str(key): base64.b64decode(each, validate=True) for key, each in content["pictures"].items()}
        return ReadSamples(int(content["step"]), terms, notes, pictures)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def _sample(row: Mapping[str, Any]) -> TopSample:
    value = row.get("value")
    known = None if value is None else float(value)
    return TopSample(str(row["id"]), str(row["name"]), float(row["grad_norm"]), known, int(row["step"]))


def _in_turn(samples: Iterable[TermSamples]) -> Iterator[Any]:
    """The first of all rankings, then the second of all, and so on."""
    rankings = [ranking for each in samples for ranking in (each.by_gradient, each.by_value)]
    for place in range(SHOWN):
        yield from (ranking[place].id for ranking in rankings if len(ranking) > place)


def _is_odd(number: Any) -> bool:
    return isinstance(number, float) and not math.isfinite(number)


def _from_file(sample: Any) -> Shown | None:
    """The picture of an id that is its file."""
    if not isinstance(sample, str | Path) or not Path(sample).is_file():
        return None
    from PIL import Image

    with Image.open(sample) as picture:
        picture.draft("RGB", (2 * SIDE, 2 * SIDE))
        return Shown(Path(sample).name, picture.convert("RGB"))


def _small(image: Any) -> str | None:
    """A picture as a small JPEG, in base64."""
    if image is None:
        return None
    from PIL import Image

    picture = (image if isinstance(image, Image.Image) else Image.fromarray(image)).convert("RGB")
    picture.thumbnail((SIDE, SIDE))
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=80)
    return base64.b64encode(content.getvalue()).decode()


class Ranking:
    """The samples of a ledger, written now and then.

    Args:
        ledger: Keeps samples.
        file: Where they go.
    """

    def __init__(self, ledger: KeepsSamples, file: TopSamples) -> None:
        self._ledger, self._file = ledger, file
        self._num_logged = self._step = self._written = 0

    def logged(self, step: int) -> None:
        """A step was logged."""
        self._step = step
        if self._num_logged % _EVERY == 0:
            self.write()
        self._num_logged += 1

    def write(self) -> None:
        """Write them as they are, if anything was logged since."""
        if self._step > self._written:
            self._written = self._step
            self._file.write(self._step, self._ledger.samples())

    def blamed(self, alert: Alert) -> Alert:
        """The alert with the samples of the last step."""
        return alert.blaming(self._ledger.samples(last_step=True), self._file.name)


_EVERY = 10
"""Logged steps from one writing of samples to the next."""
