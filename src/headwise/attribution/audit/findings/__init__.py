"""What the audit looks for: one file a finding. To add one, write its file and name it here."""

from headwise.attribution.audit.findings.calls import (
    earlier_graph,
    grad_mode,
    host_sync,
    mutated_input,
    random_draw,
    split_variant,
)
from headwise.attribution.audit.findings.finding import Check, Finding, Open, Seen
from headwise.attribution.audit.findings.gradients import (
    conflict,
    dominance,
    nonfinite_gradient,
    outside_mask,
    rotated_names,
    uneven_graph,
    unreached_parameter,
    untrained_output,
)
from headwise.attribution.audit.findings.total import (
    dead_loss,
    declared_weight,
    detached_loss,
    detached_summand,
    logged_sum,
    nonlinear_backward,
    sum_mismatch,
)

CHECKS: tuple[Check, ...] = (
    nonfinite_gradient.CHECK, detached_loss.CHECK, detached_summand.CHECK, dead_loss.CHECK, sum_mismatch.CHECK,
    declared_weight.CHECK, logged_sum.CHECK, earlier_graph.CHECK, rotated_names.CHECK, outside_mask.CHECK,
    mutated_input.CHECK, grad_mode.CHECK, untrained_output.CHECK, unreached_parameter.CHECK, dominance.CHECK,
    conflict.CHECK, nonlinear_backward.CHECK, random_draw.CHECK, split_variant.CHECK, uneven_graph.CHECK,
    host_sync.CHECK,
)  # fmt: skip
"""In the order in which they are told; a later one sees what the earlier ones found."""

KINDS: tuple[str, ...] = tuple(dict.fromkeys(check.kind for check in CHECKS))
NOTES: frozenset[str] = frozenset(check.kind for check in CHECKS if check.is_note)

__all__ = ["CHECKS", "KINDS", "NOTES", "Check", "Finding", "Open", "Seen"]
