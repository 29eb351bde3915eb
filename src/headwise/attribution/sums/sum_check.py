"""Is the gradient of the sum the sum of the gradients, in this code, and if not, what breaks it?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from headwise.attribution.sums.sum_causes import Cause, backward_cause, cut_off, drifted, in_place_error, total_cause
from headwise.attribution.sums.sum_measure import LIMITS, FirstPass, Passes, Total, gram_of, statistics
from headwise.attribution.tracing.named import Losses
from headwise.attribution.tracing.text import names as listed
from headwise.attribution.tracing.text import wrapped
from headwise.refusals import refuse_sharded

Precision = Literal["given", "float64"]


@dataclass(frozen=True)
class SumRow:
    """One parameter: |sum_k g_k - g| / sum_k |g_k|, with the floor described at `check_sum`."""

    parameter: str
    statistic: float


@dataclass(frozen=True)
class PrecisionCheck:
    """The comparison in one precision.

    Attributes:
        precision: "given" (as the code computes) or "float64".
        limit: What the statistic may reach.
        rows: One per parameter that a loss reaches, worst first.
        error: Why it could not run, or "".
    """

    precision: Precision
    limit: float
    rows: tuple[SumRow, ...]
    error: str = ""

    @property
    def worst(self) -> float:
        """The largest statistic."""
        return max((row.statistic for row in self.rows), default=0.0)

    @property
    def passed(self) -> bool:
        """Whether it ran and every parameter is within the limit."""
        return not self.error and all(row.statistic <= self.limit for row in self.rows)


@dataclass(frozen=True)
class SumCheck:
    """What `check_sum` found.

    Attributes:
        checks: One comparison per precision.
        causes: What breaks the sum; empty if nothing does.
        coefficients: How often each loss's gradient is in the gradient of the total, by least squares; 1 where all is
            well, 0 for a dropped loss. None for a loss without a gradient.
        losses: The names of the losses.
    """

    checks: tuple[PrecisionCheck, ...]
    causes: tuple[Cause, ...]
    coefficients: Mapping[str, float | None]
    losses: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether the sum holds in every precision that could be run, and nothing breaks it."""
        ran = [check for check in self.checks if not check.error]
        return bool(ran) and all(check.passed for check in ran) and not self.causes

    def __str__(self) -> str:
        lines = [f"sum of the gradients of {listed(self.losses)}: {'holds' if self.passed else 'BROKEN'}"]
        for check in self.checks:
            if check.error:
                lines.append(f"{check.precision}: not run ({check.error})")
                continue
            bad = [row.parameter for row in check.rows if row.statistic > check.limit]
            where = f" at {listed(bad, 3)}" if bad else ""
            lines.append(f"{check.precision}: worst {check.worst:.1e}, limit {check.limit:.0e}{where}")
        lines += [f"{cause.kind}: {cause.subject}: {cause.evidence}" for cause in self.causes]
        return "\n".join(wrapped(line) for line in lines)


def check_sum(
    closure: Callable[[], Losses],
    model: nn.Module,
    *,
    total: Total | None = None,
    names: Sequence[str] | None = None,
    float64: bool = True,
) -> SumCheck:
    """Compare the gradient of the sum with the sum of the losses' gradients, per parameter.

    Every gradient comes from a fresh forward pass in which dropout draws the same and BatchNorm starts from the same
    statistics; `.grad`, buffers and random state stay as they are. The statistic |sum_k g_k - g| / sum_k |g_k|, with a
    tenth of the norm over all parameters as the least that it is divided by, may reach 1e-5 in float32 (so that what is
    below 1e-6 of the whole counts as rounding), 3e-2 where anything was computed in float16 or bfloat16, and 1e-10 in
    float64. Takes K + 3 passes a precision.

    Args:
        closure: Makes a fresh forward pass with `model` and returns the losses.
        model: The network that the closure calls.
        total: From what the closure returned to the scalar that the training code calls `backward` on. None: the sum.
        names: Names of the losses of a tuple or list.
        float64: Also run in float64. Where the code does not allow that (an operation without it), `error` says so.

    Returns:
        The comparison and, where it fails, what breaks it: an edit in place, a loss cut off by `detach`, a random draw
        that cannot be held, a loss that leaves gradients switched off, a backward pass that is not linear, a total that
        is not the sum.

    Raises:
        ValueError: If the closure returns no losses, or parameters are sharded (FSDP2).
    """
    refuse_sharded("check_sum", dict(model.named_parameters()))
    passes = Passes(closure, model, total, names)
    first = passes.first()
    causes = cut_off(passes, first)
    limit = LIMITS["narrow"] if first.suspects.narrow or _is_narrow(model) else LIMITS["float32"]
    check, found, known = _compare(passes, first, limit)
    checks = [check]
    if float64 and not check.error:
        wide = Passes(closure, model, total, names, wide=True)
        check, found_wide, known_wide = _attempt(wide, first)
        checks.append(check)
        found, known = found or found_wide, known or known_wide
    for loss in first.losses:
        known.setdefault(loss.name, 1.0 if loss.has_graph else None)
    return SumCheck(tuple(checks), (*causes, *found), known, tuple(loss.name for loss in first.losses))


def _is_narrow(model: nn.Module) -> bool:
    return any(parameter.dtype in (torch.float16, torch.bfloat16) for parameter in model.parameters())


def _attempt(wide: Passes, first: FirstPass) -> tuple[PrecisionCheck, list[Cause], dict[str, float | None]]:
    """The comparison in float64, which not all code allows."""
    try:
        return _compare(wide, first, LIMITS["float64"])
    except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
        return PrecisionCheck("float64", LIMITS["float64"], (), _first_line(error)), [], {}


def _compare(
    passes: Passes, first: FirstPass, limit: float
) -> tuple[PrecisionCheck, list[Cause], dict[str, float | None]]:
    """All gradients, their difference and, if it is too large, why."""
    precision: Precision = "float64" if passes.wide else "given"
    names = [loss.name for loss in first.losses if loss.has_graph]
    try:
        total, of_sum = passes.of_total(), passes.of_sum()
        rows = {name: passes.of_loss(name) for name in names}
    except RuntimeError as error:
        if "modified by an inplace operation" not in str(error):
            raise
        return PrecisionCheck(precision, limit, (), _first_line(error)), [in_place_error(first, _first_line(error))], {}
    linear = statistics(of_sum, list(rows.values()))
    found = statistics(total, list(rows.values())) if passes.total is not None else linear
    ordered = sorted(found.items(), key=lambda item: -item[1])
    check = PrecisionCheck(precision, limit, tuple(SumRow(name, value) for name, value in ordered))
    causes = drifted(first, passes.drift())
    known: dict[str, float | None] = {}
    if not causes and max(linear.values(), default=0.0) > limit:
        worst = max(linear, key=lambda name: linear[name])
        repeated = max(statistics(of_sum, [passes.of_sum()]).values(), default=0.0)
        causes = [backward_cause(first, passes, repeated, linear[worst], worst, limit)]
    elif not causes and not check.passed:
        solved = gram_of(total, rows).multiples() if rows else {}
        known, causes = {**solved}, [total_cause(solved)]
    return check, causes, known


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
