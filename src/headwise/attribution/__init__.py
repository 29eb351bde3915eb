"""Which loss trains what: the ledger of every step, the static trace, the exact table, and the audit."""

from headwise.attribution.apart.table import Summand, TakenApart
from headwise.attribution.apart.take_apart import take_apart
from headwise.attribution.audit import AuditReport, Finding, Subject, audit
from headwise.attribution.audit.sum_check import Cause, PrecisionCheck, SumCheck, SumRow, check_sum
from headwise.attribution.foreign.ledger import ForeignLedger
from headwise.attribution.foreign.watch import watch
from headwise.attribution.foreign.wrap import wrap
from headwise.attribution.jacobians.effect import Effect, ForwardModeWarning, effect
from headwise.attribution.jacobians.jacobian import jacobian
from headwise.attribution.jacobians.jacobian_table import JacobianRow, JacobianTable
from headwise.attribution.jacobians.sampler import JacobianSampler, SampledRow
from headwise.attribution.jacobians.transfer import Transfer, transfer
from headwise.attribution.jacobians.update import LastUpdate
from headwise.attribution.ledger.books import Books, FeatureBooks, LevelBooks, OutputBooks, TermBooks
from headwise.attribution.ledger.ledger import Ledger
from headwise.attribution.ledger.passes.book import book
from headwise.attribution.ledger.samples.samples import Sample, TermSamples
from headwise.attribution.ledger.weighing.suggestion import SuggestedWeight, Suggestion
from headwise.attribution.tracing.channels import Channels
from headwise.attribution.tracing.trace import trace
from headwise.attribution.tracing.trace_table import LossRow, ModuleRow, OpaqueRow, OutputRow, ParameterRow, Trace

__all__ = ["Books", "FeatureBooks", "Ledger", "LevelBooks", "OutputBooks", "TermBooks"]
__all__ += ["Sample", "SuggestedWeight", "Suggestion", "TermSamples"]
__all__ += ["Channels", "LossRow", "ModuleRow", "OpaqueRow", "OutputRow", "ParameterRow", "Trace", "trace"]
__all__ += ["JacobianRow", "JacobianSampler", "JacobianTable", "SampledRow", "jacobian"]
__all__ += ["Effect", "ForwardModeWarning", "LastUpdate", "Transfer", "effect", "transfer"]
__all__ += ["Cause", "PrecisionCheck", "SumCheck", "SumRow", "check_sum"]
__all__ += ["AuditReport", "Finding", "Subject", "audit"]
__all__ += ["ForeignLedger", "book", "watch", "wrap"]
__all__ += ["Summand", "TakenApart", "take_apart"]
