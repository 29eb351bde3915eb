"""The arithmetic of a criterion as compiled kernels, or in eager mode where it cannot be compiled."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from itertools import count
from types import FunctionType
from typing import Any

import torch
import torch._functorch.config as functorch_config
from torch import Tensor

from headwise.criterion.binding.plan import Plan
from headwise.criterion.sums.evaluate import Denominators, evaluate, evaluate_as_one
from headwise.criterion.sums.term_sums import Sums

_NUMBERS = count()


class Kernels:
    """Runs the plans of one criterion, each compiled once.

    Args:
        enabled: Whether to compile.
    """

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled
        self._compiled: dict[Plan, Callable[..., Any]] = {}
        self._refused: set[Plan] = set()
        self._warned = False

    def evaluate(
        self,
        plan: Plan,
        views: Sequence[Tensor],
        targets: Sequence[Tensor],
        given: Denominators | None,
    ) -> tuple[Tensor | None, Sequence[Sums]]:
        """As `evaluate.evaluate_as_one`, compiled; what cannot be compiled runs, or is refused, in eager mode."""
        if not self.enabled or plan in self._refused:
            return None, evaluate(plan, views, targets, given)
        if plan not in self._compiled:
            # Dynamo looks whether its inputs have a gradient, and torch warns of that for each that is no leaf.
            warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf", module=r"torch\._")
            self._compiled[plan] = torch.compile(
                _alone(plan),
                fullgraph=True,
                backend=recomputing,
                options={"guard_filter_fn": _may_change},
            )
        try:
            compiled: tuple[Tensor | None, Sequence[Sums]] = self._compiled[plan](views, targets, given)
            return compiled
        except Exception as error:
            # Dynamo wraps what a loss raises in errors of its own; eager mode says it in plain words.
            found = evaluate(plan, views, targets, given)
            self._refused.add(plan)
            self._warn(error)
            return None, found

    def _warn(self, error: Exception) -> None:
        if self._warned:
            return
        self._warned = True
        reason = " ".join(str(error).split())[:200]
        warnings.warn(
            f"Criterion(compile=True) goes on in eager mode for these shapes, which cannot be compiled: "
            f"{type(error).__name__}: {reason}. Values are the same; pad to fewer shapes, or set compile=False",
            stacklevel=6,
        )


def _alone(plan: Plan) -> Callable[..., Any]:
    """`evaluate_as_one` of one plan, as a function with code of its own.

    Dynamo keeps what it compiled, and which sizes it saw vary, by the code. Of shared code, a criterion would run what
    was compiled for another one of the same shapes, and be compiled for any size where the other had other shapes.
    """

    def run(views: Sequence[Tensor], targets: Sequence[Tensor], given: Denominators | None) -> Any:
        return evaluate_as_one(plan, views, targets, given)

    code = run.__code__.replace(co_name=f"evaluate_{next(_NUMBERS)}")
    return FunctionType(code, run.__globals__, code.co_name, None, run.__closure__)


def recomputing(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
    """Torch's own compiler; what the backward pass can compute from the inputs costs less time than memory to keep.

    Args:
        graph: What Dynamo traced.
        inputs: Examples of its inputs.

    Returns:
        What runs in its place.
    """
    import torch._inductor  # not before something is compiled

    with functorch_config.patch(aggressive_recomputation=True):
        return torch._inductor.compile(graph, inputs)


def _may_change(guards: Sequence[Any]) -> list[bool]:
    """Which guards are to be asked in every call: those of the plan hold for ever, but for what is called."""
    return [not guard.name.startswith("plan.") or ".function" in guard.name for guard in guards]
