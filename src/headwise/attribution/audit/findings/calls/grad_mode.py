"""A call after which gradients are on or off where they were not."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from headwise.attribution.audit.code.step import call_criterion
from headwise.attribution.audit.code.subject import Subject
from headwise.attribution.audit.findings.finding import Check, Finding, Seen
from headwise.attribution.audit.measures.rows import Measured
from headwise.attribution.jacobians.held import kept_buffers, same_draw
from headwise.structure import mapped


def _measure(measured: Measured, subject: Subject) -> dict[str, str]:
    """As in training; and under no_grad, as in validation, where nothing may switch gradients on for what follows."""
    quiet = mapped(measured.step.outputs, lambda tensor: tensor.detach())
    changed: dict[str, str] = {}
    with same_draw(subject.model), kept_buffers(subject.model, subject.criterion), torch.no_grad():
        call_criterion(subject, quiet, measured.step.batch, changed)
    return changed | measured.step.grad_mode


def _judge(seen: Seen) -> Iterator[Finding]:
    for who, each in seen.by_name.items():
        yield Finding(
            who,
            f"{each[0]}, in {len(each)} of {seen.num}",
            "Use `with torch.no_grad():` or `with torch.enable_grad():` around the lines that need it instead of "
            "torch.set_grad_enabled(...), which stays: left off, later losses train nothing; left on, validation keeps "
            "graphs.",
            {"batches": len(each)},
        )


CHECK = Check("grad-mode", _judge, _measure, needs_code=True, calls_again=True)
