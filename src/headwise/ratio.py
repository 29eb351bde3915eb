"""A loss value kept as the two sums it is the quotient of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Ratio:
    """Two sums whose quotient is a loss value.

    ``value = numerator / (denominator + smooth)``, elementwise, and 0 with a zero gradient where that divides by 0.
    Ratios pool by adding both sums, so that the pooled value is that of the pooled data; an average of values is not.

    Args:
        numerator: Sum of the elements' losses, any shape; carries the gradient.
        denominator: What divides it, a shape that broadcasts to the numerator's; carries a gradient only in a
            `RatioTerm`.
        smooth: A constant that is added to the denominator once, after pooling.
    """

    numerator: Tensor
    denominator: Tensor
    smooth: float = 0.0

    @property
    def value(self) -> Tensor:
        """The quotient, of the numerator's dtype; 0 where the denominator is 0."""
        denominator = self.denominator.to(self.numerator.dtype) + self.smooth
        empty = denominator == 0
        quotient = self.numerator / torch.where(empty, torch.ones_like(denominator), denominator)
        return torch.where(empty, torch.zeros_like(quotient), quotient)

    def __add__(self, other: Ratio) -> Ratio:
        """Pools two ratios: adds the numerators and the denominators.

        Raises:
            ValueError: They are smoothed by different constants.
        """
        if self.smooth != other.smooth:
            raise ValueError(
                f"ratios of one loss have one smooth; found {self.smooth} and {other.smooth}. Pool ratios of one term"
            )
        return Ratio(self.numerator + other.numerator, self.denominator + other.denominator, self.smooth)

    def within(self, pooled: Ratio) -> Ratio:
        """This part's share of a pooled ratio N / D.

        With n / d of this part, the value is ``n / (D + smooth)``, so that the parts' values add up to the pooled one,
        and the gradient is ``(dn - pooled.value * dd) / (D + smooth)``, so that the parts' gradients add up to its own.

        Args:
            pooled: The sums over all parts, this one included.

        Returns:
            A ratio of this part's numerator and the pooled denominator.
        """
        own = self.denominator.to(self.numerator.dtype)
        slope = pooled.value.detach().to(self.numerator) * (own - own.detach())
        return Ratio(self.numerator - slope, pooled.denominator.detach().to(own.device), pooled.smooth)

    def detach(self) -> Ratio:
        """The same sums without their graph."""
        return Ratio(self.numerator.detach(), self.denominator.detach(), self.smooth)
