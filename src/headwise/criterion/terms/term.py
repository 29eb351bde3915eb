"""One row of a criterion: which loss reads which output, target and mask, what divides it, what it weighs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from headwise import losses
from headwise.criterion.naming import told_function
from headwise.criterion.terms.counting import Count, as_count, make_count
from headwise.criterion.terms.levels import Levels
from headwise.criterion.terms.mask_expressions import Mask, parse_mask
from headwise.criterion.terms.paths import Path, parse
from headwise.criterion.terms.weights import Weight, check_weight
from headwise.declaration import declaration_of, why_split_variant
from headwise.losses.torch_modules import is_bare_sum
from headwise.structure import one_line

Paths = str | tuple[str, ...] | dict[str, str]
Normalizer = Callable[..., Tensor | float] | float


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
class _TermFields:
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
        if self.name == "unbooked":
            raise ValueError("a term is not called 'unbooked': in the books that is what belongs to no term. Rename it")
        if isinstance(self.loss, type):
            called = self.loss.__name__
            raise ValueError(f"term {self.name!r}: the loss is the class {called}. Give one of it: {called}()")
        if not callable(self.loss):
            raise ValueError(
                f"term {self.name!r}: the loss is a function (output, target, mask) -> sum; found {self.loss!r}"
            )
        try:
            # Now, for Dynamo cannot trace the first look at a cached property.
            _ = self.reads, self.targets, self.mask_expression, self.function, self.closed_form
        except Exception as error:
            raise ValueError(f"term {self.name!r}: {one_line(error)}") from None
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

    @cached_property
    def function(self) -> Callable[..., Any]:
        """What is called: the loss, or of one of torch's own that is divided by a count, its sum."""
        if not isinstance(self, Term) or _is_constant(self.normalizer) or not losses.is_torch_loss(self.loss):
            return self.loss
        counted = self.normalizer is not None and is_bare_sum(self.loss)
        return self.loss if counted else losses.from_torch(self.loss)[0]

    @cached_property
    def closed_form(self) -> bool:
        """Whether the loss shows what it reads to nobody."""
        return declaration_of(self.function).closed_form

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """The modules in loss and count, which hold class weights or what else is to move along."""
        called = [self.function, *([self.divisor.function] if isinstance(self, Term) else [])]
        return tuple(dict.fromkeys(module for each in called for module in _modules_in(each)))

    @property
    def num_wildcards(self) -> int:
        """How many ``[*]`` the outputs' paths hold (the most of any)."""
        return max(path.num_wildcards for path in self.reads.paths)

    @property
    def told(self) -> str:
        """What it reads and computes, in a line without its name and weight."""
        normalizer = self.normalizer if isinstance(self, Term) else None
        declared = {
            "output": self.output,
            "target": self.target,
            "mask": self.mask,
            "levels": self.levels,
        }
        parts = [f"loss={told_function(self.loss)}"]
        parts += [f"{key}={value!r}" for key, value in declared.items() if value is not None]
        if normalizer is not None:
            parts.append(f"normalizer={told_function(normalizer) if callable(normalizer) else f'{normalizer:g}'}")
        return ", ".join(parts)

    def call(self, outputs: list[Tensor], targets: list[Tensor], mask: Tensor | None, function: Any = None) -> Any:
        """Calls the loss, or what stands in for it: outputs, then targets, then the mask; by keyword if it has one."""
        loss = self.function if function is None else function
        positional, keywords = self.reads.bind(outputs)
        target_positional, target_keywords = self.targets.bind(targets)
        arguments = [*positional, *target_positional]
        keywords = {**keywords, **target_keywords}
        if mask is None:
            return loss(*arguments, **keywords)
        if keywords or not targets:
            return loss(*arguments, **keywords, mask=mask)
        return loss(*arguments, mask)


@dataclass(frozen=True, eq=False)
class Term(_TermFields):
    """A loss that is a sum over a count.

    ``value = loss(output, target, mask) / normalizer(target, mask)``, 0 where the count is 0. A loss brings what
    divides it (see `declared`): elements, kept pixels, positives, weights; a mask of True alone changes nothing.

    Args:
        name: What the books call it.
        loss: Function ``(output, target, mask) -> sum``, a 0-d tensor. It is called with the outputs, the targets and
            the mask in this order; without the mask where none is declared. Of torch's own losses the sum is taken,
            also where they say "mean", and divided by what torch's mean divides by, also where they say "sum"; a number
            as normalizer divides what they return.
        normalizer: Another count: a function ``(target, mask) -> count``, or a number. It is given all targets if it
            takes as many, else the first, and the options that it shares with the loss; by default the loss's own,
            and `normalizers.elements` for a loss that declares none.
        output: Path of what the loss reads; a tuple of paths becomes positional, a dict keyword arguments.
        target: The same for the targets, or None for a loss without.
        mask: Expression over targets, such as ``"valid & text_region"``; what is above 0 counts, and a fraction is no
            weight. None: everything counts.
        weight: A float, a function of the step (see `schedules`), a 0-d tensor that its owner changes, a parameter, or
            a function of no arguments that computes a 0-d tensor from parameters.
        levels: How levels combine if the paths hold ``[*]``; by default each counts 1.

    Raises:
        ValueError: A name, path, mask, weight or function is not of these forms.
    """

    normalizer: Normalizer | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.divisor, self.least

    @cached_property
    def divisor(self) -> Count:
        """What divides the loss."""
        try:
            return make_count(self.function, self.normalizer, self.targets.keywords, self.mask is not None)
        except ValueError as error:
            raise ValueError(f"term {self.name!r}: {error}") from None

    @property
    def split_variant(self) -> str | None:
        """Why the gradient depends on how a batch is split, denominators totaled or not; None if it does not."""
        return why_split_variant(self.function) or why_split_variant(self.divisor.function)

    @property
    def is_constant(self) -> bool:
        """Whether what divides is a constant, which does not add up over micro-batches."""
        return self.divisor.constant

    @cached_property
    def least(self) -> float:
        """The least that a total count is, once it has been pooled: 1 where a loss has more to learn than it counts."""
        return max(self.divisor.least, 0.0 if self.levels is None else self.levels.least)

    def count(self, targets: list[Tensor], mask: Tensor | None) -> Tensor | float:
        """Calls the count; nobody asks for its graph.

        Args:
            targets: What the term's target paths name.
            mask: The evaluated mask, or None.

        Returns:
            What divides the loss: a 0-d tensor, or a Python number where it is known without looking at any element.

        Raises:
            ValueError: It failed, or returned something else.
        """
        try:
            return as_count(self.divisor.of(targets, mask), self.divisor.trusted)
        except Exception as error:
            if torch.compiler.is_compiling():
                raise
            raise ValueError(f"term {self.name!r}: the normalizer: {one_line(error)}") from error


@dataclass(frozen=True, eq=False)
class RatioTerm(_TermFields):
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

    @property
    def split_variant(self) -> str | None:
        """As in `Term`."""
        return why_split_variant(self.loss)


AnyTerm = Term | RatioTerm


def _is_constant(normalizer: Normalizer | None) -> bool:
    return isinstance(normalizer, int | float) or declaration_of(normalizer).constant


def _modules_in(function: Any) -> Iterator[nn.Module]:
    if isinstance(function, nn.Module):
        yield function
    elif isinstance(function, partial):
        for each in (function.func, *function.args, *function.keywords.values()):
            yield from _modules_in(each)
