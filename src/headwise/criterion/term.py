"""One row of a criterion: which loss reads which output, target and mask, what divides it, what it weighs."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from headwise import normalizers
from headwise.criterion.levels import Levels
from headwise.criterion.mask_expressions import Mask, parse_mask
from headwise.criterion.paths import Path, parse
from headwise.ratio import Ratio
from headwise.structure import describe

Paths = str | tuple[str, ...] | dict[str, str]
Weight = float | Callable[[int], float] | Tensor
Normalizer = Callable[..., Tensor] | float


@dataclass(frozen=True, eq=False)
class Reads:
    """What a term hands to its loss: paths in order, some under a keyword."""

    paths: tuple[Path, ...]
    keywords: tuple[str | None, ...]

    @classmethod
    def of(cls, declared: Paths | list[str] | None) -> Reads:
        """Parses one path, a tuple of paths (positional arguments) or a dict of paths (keyword arguments)."""
        if declared is None:
            return cls((), ())
        if isinstance(declared, Mapping):
            return cls(tuple(parse(path) for path in declared.values()), tuple(declared))
        if not isinstance(declared, str | tuple | list):
            raise ValueError(f"a path, a tuple of paths or a dict of paths is needed; found {declared!r}")
        several = (declared,) if isinstance(declared, str) else tuple(declared)
        return cls(tuple(parse(path) for path in several), (None,) * len(several))

    def bind(self, tensors: list[Tensor]) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Splits tensors, one a path, into positional and keyword arguments."""
        pairs = list(zip(self.keywords, tensors, strict=True))
        return [t for k, t in pairs if k is None], {k: t for k, t in pairs if k is not None}


@dataclass(frozen=True, eq=False)
class _Row:
    """What `Term` and `RatioTerm` share."""

    name: str
    loss: Callable[..., Any]
    _: KW_ONLY
    output: Paths
    target: Paths | None = None
    mask: str | None = None
    weight: Weight = 1.0
    levels: Levels | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(f"a term's name is a non-empty text; found {self.name!r}")
        if not callable(self.loss):
            raise ValueError(
                f"term {self.name!r}: the loss is a function (output, target, mask) -> sum; found {self.loss!r}"
            )
        try:
            _ = self.reads, self.targets, self.mask_expression
        except ValueError as error:
            raise ValueError(f"term {self.name!r}: {error}") from None
        if not self.reads.paths:
            raise ValueError(f"term {self.name!r}: a term reads at least one output; set output='...'")
        check_weight(self.name, self.weight)
        if self.levels is not None and not isinstance(self.levels, Levels):
            raise ValueError(f"term {self.name!r}: levels is a Levels; found {self.levels!r}")

    @cached_property
    def reads(self) -> Reads:
        """The outputs that the loss reads."""
        return Reads.of(self.output)

    @cached_property
    def targets(self) -> Reads:
        """The targets that the loss reads."""
        return Reads.of(self.target)

    @cached_property
    def mask_expression(self) -> Mask | None:
        """The parsed mask."""
        return None if self.mask is None else parse_mask(self.mask)

    @property
    def num_wildcards(self) -> int:
        """How many ``[*]`` the outputs' paths hold (the most of any)."""
        return max(path.num_wildcards for path in self.reads.paths)

    def call(self, outputs: list[Tensor], targets: list[Tensor], mask: Tensor | None) -> Any:
        """Calls the loss: outputs, then targets, then the mask; those under a keyword by keyword."""
        positional, keywords = self.reads.bind(outputs)
        target_positional, target_keywords = self.targets.bind(targets)
        arguments = [*positional, *target_positional]
        keywords = {**keywords, **target_keywords}
        if mask is None:
            return self.loss(*arguments, **keywords)
        if keywords or not targets:
            return self.loss(*arguments, **keywords, mask=mask)
        return self.loss(*arguments, mask)


@dataclass(frozen=True, eq=False)
class Term(_Row):
    """A loss that is a sum over a count.

    ``value = loss(output, target, mask) / normalizer(target, mask)``, 0 where the count is 0.

    Args:
        name: What the books call it.
        loss: Function ``(output, target, mask) -> sum``, a 0-d tensor. It is called with the outputs, the targets and
            the mask in this order; without the mask where none is declared.
        normalizer: Function ``(target, mask) -> count``, or a number. It is given all targets if it takes as many,
            else the first.
        output: Path of what the loss reads; a tuple of paths becomes positional, a dict keyword arguments.
        target: The same for the targets, or None for a loss without.
        mask: Expression over targets, such as ``"valid & text_region"``; None: everything counts.
        weight: A float, a function of the step (see `schedules`), or a 0-d tensor that its owner changes.
        levels: How levels combine if the paths hold ``[*]``; by default each counts 1.

    Raises:
        ValueError: A name, path, mask, weight or function is not of these forms.
    """

    normalizer: Normalizer = normalizers.count

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self._takes_all_targets  # now, for Dynamo cannot trace the first look at a cached property
        number = isinstance(self.normalizer, int | float)
        if not number and not callable(self.normalizer):
            raise ValueError(
                f"term {self.name!r}: the normalizer is a function (target, mask) -> count or a number; "
                f"found {self.normalizer!r}"
            )
        if isinstance(self.normalizer, int | float) and not 0 < self.normalizer < math.inf:
            raise ValueError(f"term {self.name!r}: a constant normalizer is positive; found {self.normalizer}")

    @cached_property
    def _takes_all_targets(self) -> bool:
        """Whether the normalizer has a parameter for each of several targets, by number or by keyword."""
        try:
            parameters = inspect.signature(self.normalizer).parameters  # type: ignore[arg-type]
        except (TypeError, ValueError):
            return False
        names = [name for name in self.targets.keywords if name is not None]
        if names:
            return set(names) <= set(parameters)
        kinds = [each.kind for each in parameters.values()]
        positional = sum(kind.name.startswith("POSITIONAL") for kind in kinds)
        return len(self.targets.paths) > 1 and (
            inspect.Parameter.VAR_POSITIONAL in kinds or positional > len(self.targets.paths)
        )

    @property
    def is_constant(self) -> bool:
        """Whether what divides is a constant, which does not add up over micro-batches."""
        return isinstance(self.normalizer, int | float) or self.normalizer is normalizers.one

    def count(self, targets: list[Tensor], mask: Tensor | None) -> Tensor:
        """Calls the normalizer, without a graph.

        Args:
            targets: What the term's target paths name.
            mask: The evaluated mask, or None.

        Returns:
            The denominator, a 0-d tensor.

        Raises:
            ValueError: The normalizer returned something else.
        """
        if isinstance(self.normalizer, int | float):
            return torch.tensor(float(self.normalizer), device=targets[0].device if targets else None)
        with torch.no_grad():
            if self._takes_all_targets:
                positional, keywords = self.targets.bind(targets)
                found: Any = self.normalizer(**keywords, mask=mask) if keywords else self.normalizer(*positional, mask)
            else:
                found = self.normalizer(targets[0] if targets else None, mask)
        return self._as_count(found, targets)

    def _as_count(self, found: Any, targets: list[Tensor]) -> Tensor:
        if isinstance(found, Tensor) and found.dim() == 0:
            return found
        if isinstance(found, int | float):
            return torch.tensor(float(found), device=targets[0].device if targets else None)
        raise ValueError(
            f"term {self.name!r}: a normalizer returns one number as a 0-d tensor; found {describe(found)}. "
            "Sum it over the batch"
        )


@dataclass(frozen=True, eq=False)
class RatioTerm(_Row):
    """A loss whose denominator depends on the prediction, such as Dice.

    The loss returns a `Ratio`; its value is the quotient. Its denominator cannot be known before the forward pass,
    so it takes two passes to pool it over micro-batches and ranks: see `pool_ratios`.

    Args:
        name: What the books call it.
        loss: Function ``(output, target, mask) -> Ratio``.
        output: As in `Term`.
        target: As in `Term`.
        mask: As in `Term`.
        weight: As in `Term`.
        levels: As in `Term`.
    """


AnyTerm = Term | RatioTerm


def check_weight(name: str, weight: Any) -> None:
    """Refuses a weight that is not a finite number, a schedule or a scalar tensor.

    Args:
        name: The term's name, for the message.
        weight: The weight.

    Raises:
        ValueError: It is none of these.
    """
    if isinstance(weight, Tensor):
        if weight.dim() != 0 or not weight.dtype.is_floating_point:
            raise ValueError(f"term {name!r}: a tensor weight is a 0-d float tensor; found {describe(weight)}")
        number: Any = float(weight.detach())
    else:
        number = weight(0) if callable(weight) else weight
    if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
        raise ValueError(
            f"term {name!r}: a weight is a finite number, a function of the step, or a 0-d tensor; found {number!r}. "
            "Correct the weight or its schedule"
        )


def sums_of(term: AnyTerm, result: Any) -> tuple[Tensor, Tensor | None, float]:
    """Checks what a loss returned.

    Args:
        term: The term whose loss it is.
        result: What the loss returned.

    Returns:
        The sum, and for a `RatioTerm` its own denominator and what smooths it.

    Raises:
        ValueError: It is not a 0-d floating point sum (`Term`) or a `Ratio` of such (`RatioTerm`).
    """
    if isinstance(term, RatioTerm) and not isinstance(result, Ratio):
        raise ValueError(f"the loss of a RatioTerm returns a Ratio; found {describe(result)}. Use Term for a sum")
    if isinstance(term, Term) and isinstance(result, Ratio):
        raise ValueError("the loss returned a Ratio; declare it as RatioTerm")
    numerator: Any = result.numerator if isinstance(result, Ratio) else result
    if isinstance(numerator, int | float):
        numerator = torch.tensor(float(numerator))
    if not isinstance(numerator, Tensor) or numerator.dim() != 0 or not numerator.dtype.is_floating_point:
        raise ValueError(
            f"a loss returns one floating point sum, a 0-d tensor; found {describe(numerator)}. "
            "Sum the elements (.sum()) and let the normalizer divide"
        )
    return (numerator, result.denominator, result.smooth) if isinstance(result, Ratio) else (numerator, None, 0.0)
