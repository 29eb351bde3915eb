"""Weights that depend on the step: plain functions of the number of optimizer steps taken.

Any callable ``step -> float`` may be a term's weight; those below can also be written to a configuration.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from headwise.tabular import is_number


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

    def __post_init__(self) -> None:
        _check(self, steps=("every",))

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

    def __post_init__(self) -> None:
        _check(self, steps=("steps",))

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

    def __post_init__(self) -> None:
        _check(self, steps=("steps",))

    def __call__(self, step: int) -> float:
        """The weight at `step`."""
        done = min(step / self.steps, 1.0)
        return self.end + 0.5 * (self.start - self.end) * (1.0 + math.cos(math.pi * done))


@dataclass(frozen=True)
class Exponential:
    """``initial * gamma ** step``."""

    initial: float
    gamma: float

    def __post_init__(self) -> None:
        _check(self)

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
        for name in ("boundaries", "values"):
            given: Any = getattr(self, name)
            if not isinstance(given, list | tuple) or not all(_is_finite(each) for each in given):
                raise ValueError(f"the schedule Piecewise: {name} is a list of finite numbers; found {given!r}")
            object.__setattr__(self, name, tuple(given))
        if len(self.values) != len(self.boundaries) + 1 or list(self.boundaries) != sorted(set(self.boundaries)):
            raise ValueError(
                "Piecewise: one value more than boundaries, and boundaries that rise; "
                f"found {len(self.values)} values and boundaries {self.boundaries}"
            )

    def __call__(self, step: int) -> float:
        """The weight at `step`."""
        return self.values[sum(step >= boundary for boundary in self.boundaries)]


def _check(schedule: Any, steps: Iterable[str] = ()) -> None:
    """Refuses a schedule whose fields are no finite numbers, or that divides by less than a step."""
    for name, given in vars(schedule).items():
        least = 1 if name in steps else -math.inf
        if not _is_finite(given) or not given >= least:
            wanted = "a number of steps from 1" if name in steps else "a finite number"
            raise ValueError(f"the schedule {type(schedule).__name__}: {name} is {wanted}; found {given!r}")


def _is_finite(given: Any) -> bool:
    return is_number(given) and abs(given) < math.inf
