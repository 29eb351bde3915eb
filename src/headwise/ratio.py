"""A loss value kept as the two sums it is the quotient of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Ratio:
    """Two sums whose quotient is a loss value.

    ``value = numerator / denominator``, elementwise, and 0 with a zero gradient where the denominator is 0.
    Ratios pool by adding both sums, so that the pooled value is that of the pooled data; an average of values is not.

    Args:
        numerator: Sum of the elements' losses, any shape; carries the gradient.
        denominator: What divides it, a shape that broadcasts to the numerator's; carries a gradient only in a
            `RatioTerm`.
    """

    numerator: Tensor
    denominator: Tensor

    @property
    def value(self) -> Tensor:
        """The quotient, of the numerator's dtype; 0 where the denominator is 0."""
        denominator = self.denominator.to(self.numerator.dtype)
        empty = denominator == 0
        quotient = self.numerator / torch.where(empty, torch.ones_like(denominator), denominator)
        return torch.where(empty, torch.zeros_like(quotient), quotient)

    def __add__(self, other: Ratio) -> Ratio:
        """Pools two ratios: adds the numerators and the denominators."""
        return Ratio(self.numerator + other.numerator, self.denominator + other.denominator)

    def detach(self) -> Ratio:
        """The same sums without their graph."""
        return Ratio(self.numerator.detach(), self.denominator.detach())
