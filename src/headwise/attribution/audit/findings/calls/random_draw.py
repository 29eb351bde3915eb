"""A loss to which two identical calls do not give the same value, or two backward passes not the same gradient."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from headwise.attribution.audit.code.step import call_criterion
from headwise.attribution.audit.code.subject import Subject
from headwise.attribution.audit.findings.finding import Check, Finding, Seen
from headwise.attribution.audit.measures.repeated import repeated, values_of
from headwise.attribution.audit.measures.rows import Measured
from headwise.attribution.jacobians.held import kept_buffers, same_draw

_SEED = 20_011


def _measure(measured: Measured, subject: Subject) -> dict[str, tuple[float, float, str]]:
    step = measured.step
    values = repeated(measured, subject).values
    same = _differing(values_of(step), values, "from the same state of the global generators")
    with same_draw(subject.model), kept_buffers(subject.model, subject.criterion):
        _seed(_SEED)
        again = values_of(call_criterion(subject, step.outputs, step.batch))
        _seed(_SEED + 1)
        other = values_of(call_criterion(subject, step.outputs, step.batch))
    return _differing(again, other, "on the same outputs, with other draws") | same


def _seed(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(seed)


def _differing(left: Mapping[str, float], right: Mapping[str, float], how: str) -> dict[str, tuple[float, float, str]]:
    """The losses to which two steps give other values."""
    return {n: (value, right[n], how) for n, value in left.items() if n in right and not _close(value, right[n])}


def _close(left: float, right: float) -> bool:
    if not (math.isfinite(left) and math.isfinite(right)):
        return True
    return abs(left - right) <= 1e-5 * max(abs(left), abs(right), 1e-12)


def _judge(seen: Seen) -> Iterator[Finding]:
    for name, ((first, second, how), *_) in seen.by_name.items():
        yield Finding(
            name,
            f"two identical calls give {name!r} {first:.6g} and {second:.6g} ({how})",
            "Draw with a generator of its own that is seeded and checkpointed, or select by a fixed rule, if runs "
            "are to be repeatable.",
            {"first": first, "second": second},
        )
    gaps = [batch.gap for batch in seen.batches if batch.gap is not None and batch.gap.repeated > batch.gap.limit]
    if gaps:
        worst = max(gaps, key=lambda gap: gap.repeated)
        yield Finding(
            "the backward pass",
            f"two backward passes of one graph differ by {worst.repeated:.1e} at {worst.parameter}, in {len(gaps)} of "
            f"{seen.num}",
            "A backward pass draws random numbers, or keeps something from one pass to the next. Draw in the forward "
            "pass and save what was drawn.",
            {"statistic": worst.repeated, "limit": worst.limit},
        )


CHECK = Check("random-draw", _judge, _measure, needs_code=True, calls_again=True, is_note=True)
