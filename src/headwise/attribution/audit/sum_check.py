"""Is the gradient of the sum the sum of the gradients? The audit's question to a closure, in two precisions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from headwise.attribution.audit.code.guard import SubjectError
from headwise.attribution.audit.code.precision import in_float64, widened_state
from headwise.attribution.audit.code.step import Step, run_step
from headwise.attribution.audit.code.structure import Snapshot
from headwise.attribution.audit.code.subject import Subject
from headwise.attribution.audit.code.suspects import ForwardWatch, Suspects, captured_tensors
from headwise.attribution.audit.findings import Finding
from headwise.attribution.audit.findings.calls import grad_mode, mutated_input, random_draw
from headwise.attribution.audit.findings.total import detached_loss, nonlinear_backward
from headwise.attribution.audit.measures.declared import Declared
from headwise.attribution.audit.measures.gap import LIMITS
from headwise.attribution.audit.measures.rows import Measured, Rows, measure
from headwise.attribution.audit.run import Evidence
from headwise.attribution.gram import Gram, Where
from headwise.attribution.jacobians.grouping import chosen_parameters
from headwise.attribution.jacobians.held import call_with, kept_buffers, refuse_no_closure, same_draw, without_reducer
from headwise.attribution.text import first_line, wrapped
from headwise.attribution.text import names as listed
from headwise.attribution.tracing.named import Losses, named_losses
from headwise.refusals import refuse_no_model, refuse_sharded
from headwise.tabular import Tabular

Kind = Literal["in-place", "detach", "random-draw", "grad-mode", "nonlinear-backward", "total"]
Precision = Literal["given", "float64"]


_KINDS: Mapping[str, Kind] = {
    "grad-mode": "grad-mode", "detached-loss": "detach", "mutated-input": "in-place", "random-draw": "random-draw",
    "nonlinear-backward": "nonlinear-backward",
}  # fmt: skip
_CHECKS = (grad_mode.CHECK, detached_loss.CHECK, mutated_input.CHECK, random_draw.CHECK, nonlinear_backward.CHECK)


@dataclass(frozen=True)
class Cause:
    """One thing that breaks the sum.

    Attributes:
        kind: "in-place": an edit changes what a later pass reads, or what the backward pass needs. "detach": a loss
            reaches no parameter. "random-draw": a draw that the global generators do not govern. "grad-mode": gradients
            are left switched off. "nonlinear-backward": a backward pass that is not linear in what it gets. "total":
            what is trained on is not the sum.
        subject: The loss, tensor, node or parameter.
        evidence: Numbers, and the lines of code where known.
    """

    kind: Kind
    subject: str
    evidence: str


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
class SumCheck(Tabular):
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

    def table_rows(self) -> list[dict[str, Any]]:
        """A row per precision and parameter, the worst first."""
        return [
            {"precision": check.precision, "limit": check.limit, "parameter": row.parameter, "statistic": row.statistic}
            for check in self.checks
            for row in check.rows
        ]

    def table_title(self) -> str:
        """Whether the sum holds."""
        return f"sum of the gradients of {listed(self.losses)}: {'holds' if self.passed else 'BROKEN'}"

    def __str__(self) -> str:
        lines = [self.table_title()]
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
    total: Callable[[Any], Tensor] | None = None,
    names: Sequence[str] | None = None,
    float64: bool = True,
) -> SumCheck:
    """Compare the gradient of the sum with the sum of the losses' gradients, per parameter.

    All gradients come from one forward pass, in which compiled parts run as they are written; a second one, in which
    dropout draws the same and BatchNorm starts from the same statistics, shows whether the losses are repeatable.
    `.grad`, buffers and random state stay as they are. The statistic |sum_k g_k - g| / sum_k |g_k|, with a tenth of the
    norm over all parameters as the least that it is divided by, may reach 1e-5 where the narrowest type in the graph is
    float32 (so that what is below 1e-6 of the whole counts as rounding), 3e-2 with float16 or bfloat16, and 1e-10 in
    float64. Takes K + 2 backward passes a precision.

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
        ValueError: If the closure returns no losses, parameters are sharded (FSDP2), or the graph allows one backward
            pass only: a reentrant checkpoint, a static graph of DDP.
    """
    refuse_no_closure("check_sum", closure)
    refuse_no_model("check_sum", model)
    refuse_sharded("check_sum", dict(model.named_parameters()))
    reads = dict.fromkeys(names or (), ())
    watch, before = ForwardWatch(), Snapshot(captured_tensors(closure, model), "")
    plan = Subject(model, [None], lambda sealed, _: sealed(), lambda *_: _sealed(watch.seen(closure)), total, reads)
    try:
        with same_draw(model), kept_buffers(model), without_reducer(model), torch.enable_grad():
            return _checked(plan, names, float64, before, watch.suspects)
    except SubjectError as error:
        raise (error.__cause__ or error) from None


def _sealed(losses: Losses) -> Callable[[], Losses]:
    """What the forward pass returned, so that no loss is taken for an output."""
    return lambda: losses


def _checked(
    plan: Subject, names: Sequence[str] | None, float64: bool, before: Snapshot, suspects: Suspects
) -> SumCheck:
    step = run_step(plan, None)
    losses = named_losses(step.outputs(), names)
    coefficients: dict[str, float | None] = {loss.name: 1.0 if loss.edge is not None else None for loss in losses}
    step.mutated = before.written()
    given = _given(plan, step, suspects)
    passes = [given, _wide(plan)] if float64 and not given.check.error else [given]
    causes = next((each.causes for each in passes if each.causes), ())
    broken = next((each for each in passes if each.rows is not None and not each.check.passed), None)
    if broken is not None and broken.rows is not None and not _are_of_the_sum(causes):
        coefficients = dict(zip(coefficients, _multiples(broken.rows), strict=True))
        causes = (*causes, _total_cause(coefficients))
    return SumCheck(tuple(each.check for each in passes), causes, coefficients, tuple(coefficients))


@dataclass(frozen=True)
class _Compared:
    """The comparison in one precision, what the audit finds in it, and its numbers where it could be run."""

    check: PrecisionCheck
    causes: tuple[Cause, ...] = ()
    rows: Rows | None = None


def _given(plan: Subject, step: Step, suspects: Suspects) -> _Compared:
    parameters = chosen_parameters("check_sum", plan.model, None)
    try:
        found = measure(step, parameters, plan.model, "check_sum")
    except SubjectError as error:
        if "modified by an inplace operation" not in str(error):
            raise
        check = PrecisionCheck("given", LIMITS[torch.float32], (), _reason(error))
        return _Compared(check, (Cause("in-place", "the backward pass", f"{check.error}{_see(suspects.in_place)}"),))
    evidence = Evidence(plan, Declared({name: each.numel() for name, each in parameters.items()}), _CHECKS)
    evidence.add(found)
    causes = [_cause(finding, found.rows, suspects) for finding in evidence.judged()[0]]
    # An edit that each pass repeats changes the losses, as a draw would.
    edited = any(cause.kind == "in-place" for cause in causes)
    causes = [cause for cause in causes if not (edited and cause.kind == "random-draw")]
    return _Compared(_table("given", found.rows, plan), tuple(causes), found.rows)


def _wide(plan: Subject) -> _Compared:
    """The comparison in float64, which not all code allows; a checkpoint runs again under the same replacements."""
    state = widened_state(plan.model)
    leaves = {name: state[name] for name in chosen_parameters("check_sum", plan.model, None)}

    def measured() -> Measured:
        return measure(run_step(plan, None), leaves, plan.model, "check_sum")

    try:
        with in_float64():
            found = call_with(plan.model, measured, state)
    except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
        return _Compared(PrecisionCheck("float64", LIMITS[torch.float64], (), _reason(error)))
    evidence = Evidence(None, Declared({}), (random_draw.CHECK, nonlinear_backward.CHECK))
    evidence.add(found)
    causes = tuple(_cause(finding, found.rows, Suspects()) for finding in evidence.judged()[0])
    return _Compared(_table("float64", found.rows, plan), causes, found.rows)


def _table(precision: Precision, rows: Rows, plan: Subject) -> PrecisionCheck:
    gap = rows.gap
    if gap is None:
        return PrecisionCheck(precision, LIMITS[torch.float32], ())
    found = gap.of_sum if plan.total is None else gap.of_total
    ordered = sorted(found.items(), key=lambda item: -item[1])
    return PrecisionCheck(precision, gap.limit, tuple(SumRow(name, value) for name, value in ordered))


def _cause(finding: Finding, rows: Rows, suspects: Suspects) -> Cause:
    """A finding of the audit, with the lines that were seen to do such a thing."""
    kind = _KINDS[finding.kind]
    if kind == "grad-mode":
        return Cause(kind, "the closure", f"{finding.evidence}{_see(suspects.grad_mode)}")
    if kind == "detach" and finding.subject not in rows.live and suspects.grad_mode:
        kind = "grad-mode"
    own = [place for place in suspects.drawing if "generator" in place]
    places = {
        "in-place": suspects.in_place, "random-draw": own or suspects.drawing, "grad-mode": suspects.grad_mode,
        "detach": suspects.detaching + suspects.grad_mode, "nonlinear-backward": None,
    }[kind]  # fmt: skip
    subject = f"loss {finding.subject!r}" if finding.subject in rows.names else finding.subject
    return Cause(kind, subject, finding.evidence + ("" if places is None else _see(places)))


def _see(places: Sequence[str]) -> str:
    return f"; see {listed(places)}" if places else "; no such call was seen in the losses"


def _are_of_the_sum(causes: Sequence[Cause]) -> bool:
    """Whether they explain that gradients of losses that have any do not add up."""
    return any(cause.kind in ("in-place", "random-draw", "nonlinear-backward") for cause in causes)


def _multiples(rows: Rows) -> list[float | None]:
    """How often each loss's gradient is in that of the total; None where it has none."""
    products = torch.stack([rows.gram[group] for group in rows.groups])
    unknown = torch.full((len(rows.names),), math.nan, dtype=torch.float64)
    finite = products.diagonal(dim1=1, dim2=2)[:, :-1].isfinite()
    found = Gram(rows.names, rows.groups, products, finite, unknown, unknown, Where("parameter")).multiples()
    return [found[name] if name in rows.live else None for name in rows.names]


def _total_cause(coefficients: Mapping[str, float | None]) -> Cause:
    known = {name: value for name, value in coefficients.items() if value is not None}
    odd = [f"{name!r} x {value:.3g}" for name, value in known.items() if abs(value - 1) > 1e-3]
    return Cause("total", "the total", f"its gradient holds {listed(odd) if odd else 'something that is no loss'}")


def _reason(error: BaseException) -> str:
    return first_line(error.__cause__ or error if isinstance(error, SubjectError) else error)
