"""One logged step: its form in memory, on a line of the log, and as flat keys for every reader and tracker."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict
from functools import lru_cache
from itertools import combinations, groupby
from typing import Any

from headwise.attribution.ledger.books import Books, TermBooks, Unbooked

QUANTITIES = ("value", "weight", "weighted", "share", "grad_norm", "finite")
"""What is logged of a term."""

_MOST_TERMS = 1000
"""Beyond it a line was not written here, and its pairs would take for ever."""

DIGITS = 6
"""That a logged number has: float32 has seven."""


def step_entry(
    step: int,
    books: Books,
    *,
    time: float,
    images_per_second: float | None = None,
    learning_rate: float | None = None,
) -> dict[str, Any]:
    """Return the log line of a step.

    Args:
        step: optimizer steps done.
        books: of the last of them.
        time: seconds since the run began, without the time between a kill and its resume.
        images_per_second: since the last line; None where nobody counts.
        learning_rate: of the step; None where it is not known.

    Returns:
        A mapping of plain numbers, which `brief` writes and `full` reads.
    """
    names = books.names
    cosines = {key: books.cosine(*pair) for key, pair in zip(pairs_of(names), combinations(names, 2), strict=True)}
    told = {"time": time, "images_per_second": images_per_second, "learning_rate": learning_rate}
    return {
        "step": step,
        **{key: value for key, value in told.items() if value is not None},
        **_known({"total": books.total}, all(term.finite for term in books.values()) and books.unbooked.finite),
        **({} if books.unbooked.is_nothing else {"unbooked": _unbooked_entry(books.unbooked)}),
        "terms": {name: term_entry(books[name]) for name in names},
        "cosine": {pair: cosine for pair, cosine in cosines.items() if cosine is not None},
    }


def _unbooked_entry(rest: Unbooked) -> dict[str, float]:
    value = {"value": rest.value, "share": rest.share} if rest.known else {}
    return {**value, "grad_norm": rest.grad_norm}


def term_entry(term: TermBooks) -> dict[str, Any]:
    """Return a term's numbers as they stand in an entry.

    Args:
        term: its books.

    Returns:
        The quantities, and those of its outputs and levels; without those that nobody knows.
    """
    return {
        **_known({"value": term.value}, term.finite),
        "weight": term.weight,
        **_known({"weighted": term.weighted, "share": term.share}, term.finite),
        **_known({"grad_norm": term.grad_norm}, term.finite),
        "finite": term.finite,
        **({} if term.trained else {"trained": False}),
        **({} if term.count is None else {"count": term.count}),
        "outputs": {
            path: {"grad_norm": output.grad_norm, "finite": output.finite} for path, output in term.outputs.items()
        },
        "levels": {name: asdict(level) for name, level in term.levels.items()},
    }


def _known(numbers: Mapping[str, float], finite: bool) -> dict[str, float]:
    """Leave out what is NaN where all is finite: nobody saw that number, which is no fault of the term's."""
    return {key: number for key, number in numbers.items() if not (finite and math.isnan(number))}


def flat_terms(terms: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, float]]:
    """Return the numbers of terms under the keys that TensorBoard and all trackers get.

    Args:
        terms: of a step's entry.

    Yields:
        ``<term>/<quantity>`` and, of each level, ``<term>/<quantity>@<level>``, with its number; flags are 1 and 0.
    """
    for name, term in terms.items():
        for suffix, numbers in (("", term), *((f"@{level}", each) for level, each in term.get("levels", {}).items())):
            for quantity in QUANTITIES:
                if quantity in numbers:
                    yield f"{name}/{quantity}{suffix}", float(numbers[quantity])


def brief(entry: Mapping[str, Any]) -> bytes:
    """Return an entry as a line of JSON, without its end, in as few bytes as it takes.

    Numbers have `DIGITS` digits; what is not finite is text, since JSON has no word for it. Flags of outputs that say
    nothing unusual and levels that are not there are left out; cosines are a list, in thousandths, of all pairs of
    terms in their order, with texts for how many pairs without one are passed over.

    Args:
        entry: of a step, or of an evaluation.

    Returns:
        The line.
    """
    small = dict(entry)
    if isinstance(entry.get("terms"), Mapping):
        small["terms"] = {name: _brief_term(term) for name, term in entry["terms"].items()}
    if isinstance(entry.get("cosine"), Mapping):
        small["cosine"] = _brief_cosines(
            [entry["cosine"].get(pair) for pair in pairs_of(tuple(entry.get("terms", ())))]
        )
    return json.dumps(_strict(small), allow_nan=False, separators=(",", ":")).encode()


def full(entry: dict[str, Any]) -> dict[str, Any]:
    """Return what was written by `brief` in the form in which it was given.

    Args:
        entry: a line of the log, parsed.

    Returns:
        The same with all that was left out; an entry that was written in full stays as it is.
    """
    terms = entry.get("terms")
    if not isinstance(terms, dict):
        return entry
    for term in terms.values():
        outputs = term.get("outputs") if isinstance(term, dict) else None
        if isinstance(outputs, dict):
            for output in outputs.values():
                if isinstance(output, dict):
                    output.setdefault("finite", True)
    return with_cosines(entry)


def with_cosines(entry: dict[str, Any]) -> dict[str, Any]:
    """Return what was written by `brief` with its cosines by the names of their pairs.

    Args:
        entry: a line of the log, parsed; it is changed.

    Returns:
        The entry. An output without a flag is finite.
    """
    terms = entry.get("terms")
    if isinstance(entry.get("cosine"), list) and isinstance(terms, dict) and len(terms) <= _MOST_TERMS:
        entry["cosine"] = full_cosines(entry["cosine"], pairs_of(tuple(terms)))
    return entry


def _brief_term(term: Mapping[str, Any]) -> dict[str, Any]:
    small = {key: value for key, value in term.items() if key not in ("outputs", "levels")}
    outputs = {path: dict(output) for path, output in term.get("outputs", {}).items()}
    for output in outputs.values():
        if output.get("finite") is True:
            del output["finite"]
    return small | {key: value for key, value in (("outputs", outputs), ("levels", term.get("levels"))) if value}


def _brief_cosines(cosines: list[float | None]) -> list[int | str]:
    small: list[int | str] = []
    for there, run in groupby(cosines, lambda each: each is not None and math.isfinite(each)):
        held = list(run)
        small += [round(1000 * each) for each in held if each is not None] if there else [str(len(held))]
    return small


def full_cosines(small: list[Any], pairs: list[str]) -> dict[str, float]:
    """Return the cosines of a line by the names of their pairs.

    Args:
        small: as `brief` writes them.
        pairs: all, in their order.

    Returns:
        Those that have one.
    """
    found, place = {}, 0
    for each in small:
        if isinstance(each, int) and place < len(pairs):
            found[pairs[place]] = each / 1000
        place += int(each[:9]) if isinstance(each, str) and each.isdecimal() else 1
    return found


@lru_cache(maxsize=16)
def pairs_of(names: tuple[str, ...]) -> list[str]:
    """Return the names of all pairs of terms, in the order in which `brief` writes their cosines.

    Args:
        names: of the terms.

    Returns:
        As `pair_key` writes each.
    """
    return [pair_key(one, other) for one, other in combinations(names, 2)]


def pair_key(one: str, other: str) -> str:
    """Return the key of a pair of terms.

    Args:
        one: of the terms.
        other: of them.

    Returns:
        ``one|other``; a bar or a backslash of a name has a backslash before it, so that no two pairs have one key.
    """
    return "|".join(_SPECIAL.sub(r"\\\g<0>", name) for name in (one, other))


_SPECIAL = re.compile(r"[\\|]")
_PAIR = re.compile(r"((?:[^\\|]|\\.)*)\|((?:[^\\|]|\\.)*)", re.DOTALL)


def split_pair(key: str, names: Collection[str]) -> tuple[str, str] | None:
    """Return the two terms of a cosine's key, as `pair_key` writes it.

    Args:
        key: of a cosine.
        names: of the terms.

    Returns:
        The two; None where they are none of these.
    """
    found = _PAIR.fullmatch(key)
    if found is None:
        return None
    first, second = (re.sub(r"\\(.)", r"\1", each, flags=re.DOTALL) for each in found.groups())
    return (first, second) if first in names and second in names else None


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _strict(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_strict(entry) for entry in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else str(value)
    return value
