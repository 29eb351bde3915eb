"""Weights that depend on the step: plain functions of the number of optimizer steps taken.

Any callable ``step -> float`` may be a term's weight; those below can also be written to a configuration.
"""

from __future__ import annotations

import math
import sys
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
        negligible: Below this, by its size, the weight is 0 (DCAN's "until negligible").

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
        weight = self.initial * _power(self.factor, step // self.every)
        return weight if abs(weight) >= self.negligible else 0.0


@dataclass(frozen=True)
class Linear:
    """``start + done * (end - start)``, where ``done = (step - delay) / steps``, kept in [0, 1].

    Args:
        start: Weight at step 0, and until step `delay`.
        end: Weight from step ``delay + steps`` on.
        steps: Steps of the way, at least 1.
        delay: Steps before it.
    """

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
    """``end + (start - end) * (1 + cos(pi * step / steps)) / 2``, and `end` from step `steps` on.

    Args:
        start: Weight at step 0.
        end: Weight at the end.
        steps: Steps of the way, at least 1.

    Reference:
        Loshchilov and Hutter, SGDR, ICLR 2017, equation 5, without restarts.
    """

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
    """``initial * gamma ** step``.

    Args:
        initial: Weight at step 0.
        gamma: Multiplies the weight at every step; above 1 it ends in an error where the weight is no number any more.
    """

    initial: float
    gamma: float

    def __post_init__(self) -> None:
        _check(self)

    def __call__(self, step: int) -> float:
        """The weight at `step`."""
        return self.initial * _power(self.gamma, step)


@dataclass(frozen=True)
class Piecewise:
    """``values[i]`` from step ``boundaries[i - 1]`` on; ``values[0]`` before the first.

    Args:
        boundaries: Steps, rising.
        values: Weights, one more than there are boundaries.

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


def _power(base: float, exponent: int) -> float:
    """A power; infinite where Python would raise, so that the criterion says which term's weight it is."""
    try:
        return float(base**exponent)
    except OverflowError:
        return math.inf


def _check(schedule: Any, steps: Iterable[str] = ()) -> None:
    """Refuses a schedule whose fields are no finite numbers, or that divides by less than a step."""
    for name, given in vars(schedule).items():
        least = 1 if name in steps else -math.inf
        if not _is_finite(given) or not given >= least:
            wanted = "a number of steps from 1" if name in steps else "a finite number"
            raise ValueError(f"the schedule {type(schedule).__name__}: {name} is {wanted}; found {given!r}")


def _is_finite(given: Any) -> bool:
    return is_number(given) and abs(given) <= sys.float_info.max
