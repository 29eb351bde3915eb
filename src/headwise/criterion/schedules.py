"""Weights that depend on the step: plain functions of the number of optimiser steps taken.

Any callable ``step -> float`` may be a term's weight; those below can also be written to a configuration.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class StepDecay:
    """``initial * factor ** (step // every)``, and exactly 0 once that falls below `negligible`.

    Args:
        initial: Weight at step 0.
        factor: Multiplies the weight every `every` steps, for instance 0.1.
        every: Steps between two changes.
        negligible: Below this the weight is 0 (DCAN's "until negligible").

    Reference:
        Chen et al., DCAN: deep contour-aware networks, CVPR 2016 (weights of the auxiliary classifiers).
    """

    initial: float = 1.0
    factor: float = 0.1
    every: int = 10_000
    negligible: float = 0.0

    def __call__(self, step: int) -> float:
        """The weight at `step`."""
        weight = self.initial * self.factor ** (step // self.every)
        return weight if weight >= self.negligible else 0.0


@dataclass(frozen=True)
class Linear:
    """From `start` to `end` in equal steps over `steps`, then `end`; `delay` steps at `start` come first."""

    start: float
    end: float
    steps: int
    delay: int = 0

    def __call__(self, step: int) -> float:
        """The weight at `step`."""
        done = min(max((step - self.delay) / self.steps, 0.0), 1.0)
        return self.end if done == 1.0 else self.start + done * (self.end - self.start)


@dataclass(frozen=True)
class Cosine:
    """From `start` to `end` along half a cosine over `steps`, then `end`."""

    start: float
    end: float
    steps: int

    def __call__(self, step: int) -> float:
        """The weight at `step`."""
        done = min(step / self.steps, 1.0)
        return self.end + 0.5 * (self.start - self.end) * (1.0 + math.cos(math.pi * done))


@dataclass(frozen=True)
class Exponential:
    """``initial * gamma ** step``."""

    initial: float
    gamma: float

    def __call__(self, step: int) -> float:
        """The weight at `step`."""
        return self.initial * self.gamma**step


@dataclass(frozen=True)
class Piecewise:
    """`values[i]` from step ``boundaries[i - 1]`` on; one value more than there are boundaries.

    Raises:
        ValueError: The numbers of values and boundaries do not fit, or the boundaries do not rise.
    """

    boundaries: tuple[int, ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "boundaries", tuple(self.boundaries))
        object.__setattr__(self, "values", tuple(self.values))
        if len(self.values) != len(self.boundaries) + 1 or list(self.boundaries) != sorted(set(self.boundaries)):
            raise ValueError(
                "Piecewise: one value more than boundaries, and boundaries that rise; "
                f"found {len(self.values)} values and boundaries {self.boundaries}"
            )

    def __call__(self, step: int) -> float:
        """The weight at `step`."""
        return self.values[sum(step >= boundary for boundary in self.boundaries)]
