"""Which loss trains what: the ledger of every step, the static trace, the exact table, and the audit."""

from headwise.attribution.audit import AuditReport, Finding, Subject, audit
from headwise.attribution.books import Books, FeatureBooks, OutputBooks, TermBooks
from headwise.attribution.channels import Channels
from headwise.attribution.effect import Effect, ForwardModeWarning, effect
from headwise.attribution.jacobian import jacobian
from headwise.attribution.jacobian_table import JacobianRow, JacobianTable
from headwise.attribution.ledger import Ledger
from headwise.attribution.sampler import JacobianSampler, SampledRow
from headwise.attribution.sum_causes import Cause
from headwise.attribution.sum_check import PrecisionCheck, SumCheck, SumRow, check_sum
from headwise.attribution.trace import trace
from headwise.attribution.trace_table import LossRow, ModuleRow, OpaqueRow, OutputRow, ParameterRow, Trace
from headwise.attribution.update import LastUpdate
from headwise.attribution.wrap import ForeignLedger, WrappedCriterion, wrap

__all__ = ["Books", "FeatureBooks", "Ledger", "OutputBooks", "TermBooks"]
__all__ += ["Channels", "LossRow", "ModuleRow", "OpaqueRow", "OutputRow", "ParameterRow", "Trace", "trace"]
__all__ += ["JacobianRow", "JacobianSampler", "JacobianTable", "SampledRow", "jacobian"]
__all__ += ["Effect", "ForwardModeWarning", "LastUpdate", "effect"]
__all__ += ["Cause", "PrecisionCheck", "SumCheck", "SumRow", "check_sum"]
__all__ += ["AuditReport", "Finding", "Subject", "audit"]
__all__ += ["ForeignLedger", "WrappedCriterion", "wrap"]
