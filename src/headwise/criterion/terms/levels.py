"""One loss over many levels: deep supervision, stacked hourglasses, feature pyramids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

import torch
from torch import Tensor

from headwise.whole import check_whole, is_whole

LevelWeight = float | Callable[[int], float]


@dataclass(frozen=True)
class Levels:
    """How a term's levels (the ``[*]`` of its paths) combine.

    ``value = sum_l w_l * numerator_l / denominator_l`` with ``pool="each"``, and
    ``value = sum_l w_l * numerator_l / sum_l denominator_l`` with ``pool="all"`` (a pyramid whose positives are
    counted over all levels). ``least`` keeps that pooled count from falling below a number, as the ``max(n, 1)`` of
    detectors does; it is applied once, after counts have been added over levels, micro-batches and ranks.

    Args:
        weights: One weight a level (a float, or a function of the step), or None for 1 each. Two wildcards count
            their combinations, the last one fastest.
        pool: Whether each level is divided by its own denominator or all by their sum.
        least: The pooled count of ``pool="all"`` is at least this; 0 leaves it as it is (and a count of 0 gives 0).
        normalize: Divide the weights by their sum.
        strides: Set it where the targets exist at the finest size only: level l then reads targets of
            ``ceil(size / strides[l])``, picked at the pixel nearest to each cell's center, so that labels stay labels.
        num_spatial: How many last dimensions of a target are spatial (3 for volumes); used with `strides`.

    Raises:
        ValueError: Weights or strides are no list, a weight is not finite, `pool` is unknown, `least` is negative, not
            finite or given without ``pool="all"``, or a stride is less than 1.
    """

    weights: Sequence[LevelWeight] | None = None
    pool: Literal["each", "all"] = "each"
    normalize: bool = False
    strides: Sequence[int] | None = None
    num_spatial: int = 2
    least: float = 0.0

    def __post_init__(self) -> None:
        for name in ("weights", "strides"):
            given = getattr(self, name)
            if given is not None and (not isinstance(given, Sequence) or isinstance(given, str)):
                raise ValueError(f"Levels: {name} is a list with one number a level; found {given!r}")
            if given is not None:
                object.__setattr__(self, name, tuple(given))
            numbers = [each for each in given or () if not (name == "weights" and callable(each))]
            if not all(isinstance(each, Real) and not isinstance(each, bool) for each in numbers):
                raise ValueError(f"Levels: {name} are numbers, one a level; found {given!r}")
        if not isinstance(self.normalize, bool):
            raise ValueError(f"Levels: normalize is True or False; found {self.normalize!r}")
        if self.pool not in ("each", "all"):
            raise ValueError(f"Levels: pool is 'each' or 'all'; found {self.pool!r}")
        least: Any = self.least
        finite = isinstance(least, int | float) and 0 <= least < float("inf")
        if not finite or (least and self.pool != "all"):
            raise ValueError(
                f"Levels: least is a finite number from 0, and needs pool='all'; found {self.least} with {self.pool!r}"
            )
        if not all(is_whole(stride, 1) for stride in self.strides or ()):
            raise ValueError(f"Levels: strides are whole numbers from 1; found {self.strides}")
        check_whole("Levels", num_spatial=self.num_spatial)
        self.at(len(self.weights or ()), 0)

    @classmethod
    def halving(cls, num_levels: int, *, normalize: bool = True, strides: Sequence[int] | None = None) -> Levels:
        """Weights 1, 1/2, 1/4, ... for levels given finest first.

        Args:
            num_levels: How many levels there are.
            normalize: Divide the weights by their sum, as nnU-Net does.
            strides: As in the class.

        Returns:
            The levels.
        """
        return cls([0.5**level for level in range(num_levels)], normalize=normalize, strides=strides)

    def at(self, num_levels: int, step: int) -> tuple[float, ...]:
        """The weights of `num_levels` levels at a step.

        Args:
            num_levels: How many levels the outputs have.
            step: Optimizer steps taken so far.

        Returns:
            One float a level.

        Raises:
            ValueError: The number of weights or strides differs from `num_levels`, or a weight is not finite.
        """
        for name, given in (("weights", self.weights), ("strides", self.strides)):
            if given is not None and len(given) != num_levels and num_levels:
                raise ValueError(f"Levels has {len(given)} {name}, the outputs have {num_levels} levels")
        raw = [1.0] * num_levels if self.weights is None else [_weight(weight, step) for weight in self.weights]
        if any(not -float("inf") < weight < float("inf") for weight in raw):
            raise ValueError(f"Levels: weights must be finite; found {raw} at step {step}")
        total = sum(raw) if self.normalize else 1.0
        return tuple(weight / total if total else 0.0 for weight in raw)


def _weight(weight: LevelWeight, step: int) -> float:
    return float(weight(step)) if callable(weight) else float(weight)


def shrink(target: Tensor, stride: int, num_spatial: int = 2) -> Tensor:
    """Picks the pixels nearest to the centers of a coarser grid: labels, masks and maps keep their values.

    Cell i of the coarse grid covers the fine pixels ``i * size / coarse`` to ``(i + 1) * size / coarse``; the pixel at
    the middle of that range is taken.

    Args:
        target: ``(..., H, W)``, any dtype.
        stride: Fine pixels a cell; the coarse size is ``ceil(size / stride)``.
        num_spatial: How many last dimensions are spatial.

    Returns:
        ``(..., ceil(H / stride), ceil(W / stride))``.
    """
    if stride == 1:
        return target
    for dim in range(target.dim() - num_spatial, target.dim()):
        size = target.shape[dim]
        coarse = -(-size // stride)
        centers = (torch.arange(coarse, device=target.device) * 2 + 1) * size // (2 * coarse)
        target = target.index_select(dim, centers)
    return target
