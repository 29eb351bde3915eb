"""What sets weights from the books: once a step, on the device, without a further backward pass."""

from headwise.attribution.ledger.weighing.rule import Rule, StepGram
from headwise.balance.grad_norm import GradNorm
from headwise.balance.scalarizer import Scalarizer
from headwise.balance.shares import Shares
from headwise.balance.uncertainty import Uncertainty

__all__ = ["GradNorm", "Rule", "Scalarizer", "Shares", "StepGram", "Uncertainty"]
