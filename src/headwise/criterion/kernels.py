"""The arithmetic of a criterion as compiled kernels, or in eager mode where it cannot be compiled."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch._functorch.config as functorch_config
from torch import Tensor

from headwise.criterion.combine import Sums
from headwise.criterion.evaluate import Denominators, Job, evaluate


class Kernels:
    """Runs jobs, each compiled once.

    Args:
        enabled: Whether to compile.
    """

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled
        self._compiled: dict[Job, Callable[..., Any]] = {}
        self._refused: set[Job] = set()
        self._warned = False

    def evaluate(
        self,
        job: Job,
        views: Sequence[Tensor],
        targets: Sequence[Tensor],
        given: Denominators | None,
    ) -> list[Sums]:
        """As `evaluate.evaluate`, compiled; what cannot be compiled runs, or is refused, in eager mode."""
        if not self.enabled or job in self._refused:
            return evaluate(job, views, targets, given)
        if job not in self._compiled:
            # Dynamo looks whether its inputs have a gradient, and torch warns of that for each that is no leaf.
            warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf", module=r"torch\._")
            self._compiled[job] = torch.compile(partial(evaluate, job), fullgraph=True)
        try:
            # What the backward pass can compute from the inputs costs less time than memory to keep.
            with functorch_config.patch(aggressive_recomputation=True):
                found: list[Sums] = self._compiled[job](views, targets, given)
            return found
        except Exception as error:
            # Dynamo wraps what a loss raises in errors of its own; eager mode says it in plain words.
            found = evaluate(job, views, targets, given)
            self._refused.add(job)
            self._warn(error)
            return found

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
