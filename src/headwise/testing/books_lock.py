"""A lock file for a criterion: what each term gave and sent on one batch, so that no change of it goes unseen."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headwise.criterion import Criterion
from headwise.criterion.criterion import check_criterion
from headwise.files import parse_json, write_atomically
from headwise.structure import leaves, mapped

FORMAT = 1

UPDATE = "HEADWISE_UPDATE_LOCKS"
"""The environment variable that, if it is 1, writes lock files anew."""

_RTOL = {torch.float64: 1e-9, torch.float32: 1e-4}
_LEAST = 1e-12

Books = dict[str, dict[str, Any]]


def assert_books(
    criterion: Criterion,
    outputs: Any,
    targets: Any,
    lock: str | Path,
    *,
    rtol: float | None = None,
    update: bool | None = None,
) -> None:
    """Asserts that every term's value, weight and count, and its gradient's norm at every output, are those of a file.

    A weight, mask, loss, count or slice that was changed, on purpose or not, fails with the term's name. Give a fixed
    batch: drawn from a seeded generator, or saved; not drawn anew on another version of torch, whose draws may differ.

    The file is JSON, to be committed. ``HEADWISE_UPDATE_LOCKS=1 pytest`` writes it anew, after which `git diff` shows
    what changed.

    Args:
        criterion: The criterion; its schedules at the step where it stands.
        outputs: Nested outputs; they are not written to.
        targets: Nested targets.
        lock: The file.
        rtol: Largest relative difference; by default 1e-9 for float64 outputs, 1e-4 for float32, 1e-2 below.
        update: Write the file anew; by default if the environment variable says so.

    Raises:
        AssertionError: Something differs, is not finite (of which nothing can be held), or there is no file; the
            message names each term, what it was and is, and how to accept it.
        ValueError: The file is no lock file of this format, it is no criterion, or rtol is not in [0, 1).
    """
    path = Path(lock)
    check_criterion("assert_books", criterion)
    if rtol is not None and not 0 <= rtol < 1:
        raise ValueError(f"assert_books: rtol is in [0, 1), found {rtol}")
    with torch.inference_mode(False), torch.enable_grad():  # without, no gradient would be held, in silence
        held = mapped(outputs, _own)
        found = _books(criterion, held, mapped(targets, _usable))
    if odd := list(_not_finite(found)):
        raise AssertionError("\n".join([_NOT_FINITE, *odd, _REMEDY]))
    if update if update is not None else os.environ.get(UPDATE) == "1":
        content = json.dumps({"format": FORMAT, "terms": found}, indent=2)
        write_atomically(path, content.encode() + b"\n")
        return
    accept = f"If that is meant, write the file anew: {UPDATE}=1, or assert_books(..., update=True)"
    if not path.exists():
        raise AssertionError(f"{path}: there is no such lock file, so nothing is held. {accept}")
    dtypes = [tensor.dtype for _, tensor in leaves(held) if tensor.requires_grad]
    tolerance = max((_RTOL.get(dtype, 1e-2) for dtype in dtypes), default=1e-9) if rtol is None else rtol
    differences = list(_differences(_read(path), found, tolerance))
    if differences:
        raise AssertionError("\n".join([f"the books are not those of {path}, to {tolerance:g}:", *differences, accept]))


def _own(tensor: Tensor) -> Tensor:
    """An output as a leaf, whose gradient is asked for."""
    return _usable(tensor).detach().requires_grad_(tensor.dtype.is_floating_point)


def _usable(tensor: Tensor) -> Tensor:
    """A tensor of inference mode takes part in no graph; a copy does."""
    return tensor.clone() if tensor.is_inference() else tensor


def _books(criterion: Criterion, held: Any, targets: Any) -> Books:
    """Per term its numbers, by autograd alone."""
    into = {path: tensor for path, tensor in leaves(held) if tensor.requires_grad}
    breakdown = criterion(held, targets)
    found: Books = {}
    for name, entry in breakdown.items():
        grads: tuple[Tensor | None, ...] = (None,) * len(into)
        if entry.value.requires_grad and into:
            grads = torch.autograd.grad(entry.value, list(into.values()), retain_graph=True, allow_unused=True)
        norms = {path: _norm(grad) for path, grad in zip(into, grads, strict=True) if grad is not None}
        found[name] = {
            "value": float(entry.value.detach()),
            "weight": float(entry.weight.detach() if isinstance(entry.weight, Tensor) else entry.weight),
            "count": entry.ratio.denominator.detach().double().flatten().tolist(),
            "grad_norm": {path: norm for path, norm in norms.items() if norm},
        }
    return found


def _not_finite(found: Books) -> Iterator[str]:
    for name, term in found.items():
        for what, number in _flat(term).items():
            if not math.isfinite(number):
                yield f"term {name!r}: {what} is {number:g}"


_NOT_FINITE = "the books are not finite, so nothing can be held to them:"
_REMEDY = "Mend the loss, or give a batch in which each term has something to measure."


def _norm(grad: Tensor) -> float:
    return float(torch.linalg.vector_norm(grad.detach(), dtype=torch.float64))


def _read(path: Path) -> Books:
    try:
        content = parse_json(path.read_bytes())
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']}")
        return {
            str(name): {what: _number(number, f"{what} of {name!r}") for what, number in _flat(term).items()}
            for name, term in content["terms"].items()
        }
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: no lock file of format {FORMAT} ({type(error).__name__}: {error}). Write it anew with {UPDATE}=1"
        ) from None


def _number(given: Any, what: str) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise TypeError(f"{what} is {given!r}, no number")
    try:
        return float(given)
    except OverflowError:
        raise TypeError(f"{what} is too large") from None


def _flat(term: Mapping[str, Any]) -> dict[str, Any]:
    """A term's numbers by what they are."""
    counts = {f"count of level {n}": each for n, each in enumerate(term["count"])} if len(term["count"]) > 1 else {}
    counts = counts or {"count": term["count"][0]}
    norms = {f"gradient norm at {path!r}": norm for path, norm in term["grad_norm"].items()}
    return {"value": term["value"], "weight": term["weight"], **counts, **norms}


def _differences(locked: Books, found: Books, rtol: float) -> Iterator[str]:
    for name in locked:
        if name not in found:
            yield f"term {name!r} is gone"
    for name, term in found.items():
        if name not in locked:
            yield f"term {name!r} is new"
            continue
        before, now = locked[name], _flat(term)
        for what in dict.fromkeys([*before, *now]):
            was, now_is = before.get(what, 0.0), now.get(what, 0.0)
            # A value or a norm of 0 may come out as rounding left it; a weight is as it was declared.
            if not math.isclose(was, now_is, rel_tol=rtol, abs_tol=0.0 if what == "weight" else _LEAST):
                digits = 6 if f"{was:.6g}" != f"{now_is:.6g}" else 17
                yield f"term {name!r}: {what} was {was:.{digits}g} and is {now_is:.{digits}g}"
